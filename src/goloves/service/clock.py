"""The clocks that the service reads: the seam through which a simulation gives it others."""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """A machine's clocks; both are read often and must be quick."""

    @property
    def wall_ns(self) -> Callable[[], int]:
        """Read the system's clock, ns since 1970. It may step."""

    @property
    def monotonic_ns(self) -> Callable[[], int]:
        """Read a clock that never steps, ns since some moment."""


class SystemClock:
    """The clocks of the machine that the process runs on."""

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)
