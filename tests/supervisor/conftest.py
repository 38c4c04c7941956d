import signal
from collections.abc import Iterator

import pytest

from supervisor.service import notified, start

__all__ = ["notified", "start"]


@pytest.fixture(autouse=True, scope="session")
def hang_ups_are_heard() -> Iterator[None]:
    """Let what is started here hear SIGHUP, also where the tests themselves run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
