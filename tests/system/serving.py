"""`goloves serve` as a process of its own, as a person starts it."""

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds: ten times and more what anything here takes on two busy cores."""

CERTIFICATES = ssl.create_default_context()
"""Those of the system, read once: each request would read them anew, which takes ten times as long as all the rest of
it, and who waits for something asks again and again."""

FREE_PORTS = {"GOLOVES_GRPC__LISTEN": "127.0.0.1:0", "GOLOVES_ADMIN__LISTEN": "127.0.0.1:0"}


def socket_address(url: str) -> tuple[str, int]:
    """Give what a socket connects to, of a URL over TCP or of `host:port`."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


class Serving:
    """A running `goloves serve`; what it says is gathered as it comes."""

    def __init__(self, directory: Path, words: tuple[str, ...], environment: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "goloves", "serve", *words],
            cwd=directory,
            env=inherited | FREE_PORTS | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def said(self) -> str:
        """Everything said so far."""
        return "".join(self.lines)

    @property
    def urls(self) -> list[str]:
        """Where it says that it listens."""
        listening = re.search(r"^Goloves \S+ listens on (.+)$", self.said, re.MULTILINE)
        assert listening is not None, self.said
        return listening[1].split(", ")

    @property
    def address(self) -> tuple[str, int]:
        """Where a socket reaches its first address."""
        return socket_address(self.urls[0])

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it says this."""
        return self.wait(lambda: re.search(pattern, self.said, re.MULTILINE), pattern)

    def wait(self, look: Callable[[], T | None], what: str) -> T:
        """Wait until `look` finds something."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None and not self._reader.is_alive()
            found = look()
            if found:
                return found
            assert not ended, f"it ended before {what}:\n{self.said}"
            time.sleep(0.01)
        raise AssertionError(f"no {what}:\n{self.said}")

    def get(self, path: str) -> httpx2.Response:
        """Send a GET to the first address."""
        return httpx2.get(f"{self.urls[0]}{path}", timeout=PATIENCE, verify=CERTIFICATES)

    def ids(self, count: int, tag: str = "default") -> list[int]:
        """Draw ids of a tag."""
        url = f"{self.urls[0]}/v1/segments/{tag}/ids"
        answer = httpx2.post(url, params={"count": count}, timeout=PATIENCE, verify=CERTIFICATES)
        assert answer.status_code == 200, answer.text
        return [int(id_) for id_ in answer.json()["ids"]]

    def ready(self) -> None:
        """Wait until it says where it listens and is ready."""
        self.says(r"^Goloves .* listens on ")
        self.wait(lambda: self.get("/readyz").status_code == 200, "readiness")

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(how)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert "Traceback" not in self.said, self.said
        return code

    def remove(self) -> None:
        """Make sure that nothing is left of it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)


Start = Callable[..., Serving]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `goloves serve` with these words, in a directory of the test's own; on a free port unless they name one."""
    running: list[Serving] = []

    def begin(*words: str, **environment: str) -> Serving:
        chosen = () if "--http" in words else ("--http", "127.0.0.1:0")
        # The default deadline of 0.2 s is for machines that do nothing else.
        patient = {"GOLOVES_SEGMENT__DEADLINE": "5"} | environment
        running.append(Serving(tmp_path, (*words, *chosen), patient))
        return running[-1]

    yield begin
    for each in running:
        each.remove()
