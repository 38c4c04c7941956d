"""The clock that Snowflake ids are made with: the system's time, carried by the monotonic clock.

Rules (SAFETY W8). Times are nanoseconds.
1. The present is the monotonic clock plus an offset. A step of the system's clock moves the offset, never the reading
   alone, so it reaches no id before it was examined.
2. Small differences (slewing, drift) are followed at once.
3. A jump is followed when the store's clock confirms it, dropped when the store's clock contradicts it, and followed
   after `HOLD_NS` if nothing is known; it is forgotten when the system's clock comes back by itself before that. A
   present with which nothing may be claimed, as the store's clock is too far behind it, gives way to one with which
   something may: else a node whose system's clock stays behind would never claim again.
Uniqueness rests on none of this: windows bound what any clock can do.
"""

SLEW_NS = 25_000_000
"""Largest difference, per observation, that counts as slewing: a tenth of the 250 ms between observations, which is far
more than NTP's 0.05 % and far less than a step that anybody would notice in an id."""

HOLD_NS = 10_000_000_000
"""How long an unconfirmed jump is held off: longer than a blip, shorter than the patience of an operator."""


class SteadyClock:
    """The present, ns since 1970; see the module's rules."""

    __slots__ = ("_pending_since", "offset")

    def __init__(self, wall_ns: int, monotonic_ns: int) -> None:
        self.offset = wall_ns - monotonic_ns
        """Add it to a reading of the monotonic clock."""
        self._pending_since: int | None = None

    def drift(self, wall_ns: int, monotonic_ns: int) -> int:
        """Say how far the system's clock is ahead of this one (negative: behind), ns."""
        return wall_ns - monotonic_ns - self.offset

    def observe(self, wall_ns: int, monotonic_ns: int) -> int:
        """Look at the system's clock, every quarter of a second or so; gives a jump that is held off (ns), or 0."""
        drift = self.drift(wall_ns, monotonic_ns)
        if -SLEW_NS <= drift <= SLEW_NS:
            self.offset += drift
            self._pending_since = None
            return 0
        if self._pending_since is None:
            self._pending_since = monotonic_ns
        elif monotonic_ns - self._pending_since >= HOLD_NS:
            self.follow(wall_ns, monotonic_ns)
            return 0
        return drift

    def follow(self, wall_ns: int, monotonic_ns: int) -> None:
        """Take the system's clock as it is now."""
        self.offset = wall_ns - monotonic_ns
        self._pending_since = None

    def judge(self, store_ns: int, wall_ns: int, monotonic_ns: int, max_ahead_ns: int) -> bool:
        """Let the store's clock decide about a jump; True if the system's clock was followed.

        It is followed if the store's clock is nearer to it than to this clock, or if this clock is ahead of the store's
        by more than `max_ahead_ns` and the system's is not; else the jump is held off anew.
        """
        drift = self.drift(wall_ns, monotonic_ns)
        steady_ns = monotonic_ns + self.offset
        stuck = wall_ns - store_ns <= max_ahead_ns < steady_ns - store_ns
        if stuck or abs(store_ns - wall_ns) < abs(store_ns - steady_ns):
            self.follow(wall_ns, monotonic_ns)
            return drift != 0
        self._pending_since = monotonic_ns
        return False
