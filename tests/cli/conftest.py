"""Commands are run in this process, in a directory and an environment of their own."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from databases import mariadb, postgresql
from goloves.cli import main

__all__ = ["mariadb", "postgresql"]

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory that a command runs in; logging and signals are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("GOLOVES_")]:
        monkeypatch.delenv(variable)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    at_sigterm = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, at_sigterm)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def invoke() -> Invoke:
    """Run a command line; gives its output, its errors and its exit code."""

    def run(*words: str, answer: str | None = None) -> Result:
        result = CliRunner().invoke(main, words, input=answer)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    return run
