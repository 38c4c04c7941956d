"""The clocks of a simulated machine."""

from simulation.loop import START, VirtualLoop

EPOCH_MS = 1_700_000_000_000
"""Wall time, ms since 1970, at which a simulation starts."""


class SimClock:
    """A machine's clocks: the wall clock steps, drifts and stands still; the monotonic one drifts, and may be held up.

    Both count one oscillator. While a virtual machine is suspended its monotonic clock stands, and its wall clock is
    set right when it goes on.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._ticks = (loop.now - START) * 1e9
        """Nanoseconds that the oscillator counted up to `_since`."""
        self._since = loop.now
        self._rate = 1.0
        self._step_ns = 0.0
        self._slew = 0.0
        """How much faster the wall clock runs than the oscillator."""
        self._suspended_ns = 0
        self._frozen_at: int | None = None

    def _oscillator(self) -> float:
        return self._ticks + (self._loop.now - self._since) * 1e9 * self._rate

    def monotonic_ns(self) -> int:
        return round(START * 1e9 + self._oscillator()) - self._suspended_ns

    def wall_ns(self) -> int:
        if self._frozen_at is not None:
            return self._frozen_at
        slewed = (self._loop.now - self._since) * 1e9 * self._slew
        return EPOCH_MS * 1_000_000 + round(self._oscillator() + self._step_ns + slewed)

    @property
    def ahead(self) -> float:
        """How far the wall clock is ahead of the true time, seconds."""
        return (self.wall_ns() - EPOCH_MS * 1_000_000) / 1e9 - (self._loop.now - START)

    def step(self, seconds: float) -> None:
        self._step_ns += round(seconds * 1e9)

    def drift(self, *, slew: float = 0.0, rate: float = 1.0) -> None:
        """`rate`: of both clocks; `slew`: how much faster the wall clock runs besides."""
        self._step_ns += (self._loop.now - self._since) * 1e9 * self._slew
        self._ticks, self._since = self._oscillator(), self._loop.now
        self._rate, self._slew = rate, slew

    def freeze(self) -> None:
        self._frozen_at = self.wall_ns()

    def thaw(self) -> None:
        self._frozen_at = None

    def suspend(self, seconds: float) -> None:
        """Take so many seconds off the monotonic clock: it stood while the machine was suspended."""
        self._suspended_ns += round(seconds * 1e9)

    def set_right(self) -> None:
        """Do what an operator does to a clock that is wrong."""
        self.thaw()
        self.drift()
        self.step(-self.ahead)
