"""Clocks of real processes, which a test steps and freezes while they run: libfaketime, read from a file.

The monotonic clock stays true, else event loops hang. A change is seen within a second, for the file is looked at that
often.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

MISSING = "libfaketime can't be had: install the package libfaketime"


def library() -> Path | None:
    """Give the library that fakes clocks; None if it is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


class Clock:
    """The clock of one node, as its environment has to name it."""

    def __init__(self, file: Path) -> None:
        preload = library()
        if preload is None:
            pytest.skip(MISSING)
        self._file = file
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(preload),
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            # Else threads that wait for one another (SQLite's with the event loop's) spin, and nothing goes on.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "TZ": "UTC",
        }

    def step(self, seconds: float) -> None:
        """Let it be ahead of the true time by so many seconds, or behind if negative."""
        self._write(f"{seconds:+.3f}")

    def freeze(self) -> None:
        """Let it stand still from now on."""
        self._write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}")

    def _write(self, text: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(text + "\n")
        new.replace(self._file)


@contextmanager
def no_traces() -> Iterator[None]:
    """Remove the shared memory that libfaketime leaves behind when its process is killed."""
    memory = Path("/dev/shm")
    before = set(memory.iterdir())
    try:
        yield
    finally:
        for trace in set(memory.iterdir()) - before:
            pid = trace.name.rpartition("_")[2]
            if "faketime_" in trace.name and pid.isdigit() and not Path(f"/proc/{pid}").exists():
                trace.unlink(missing_ok=True)
