"""Snowflake mode: the generator that numbers units of time inside a fenced window.

Rules (SAFETY W1, W2, W5, W7, W8). Times are whole units since the space's epoch.
1. An id's time `t` lies inside the window: `start <= t < end`, for whatever the clock says.
2. `(t, sequence)` only grows while a window is held, so no id comes twice. A window that replaces another has another
   worker id or a later start, by the store's promise.
3. `t = max(now, t)`. The sequence counts up within one `t`. A new `t` starts it at a small random number (below 1/32
   of its width), which keeps sharding by the low bits even; a `t` entered because the last was full starts it at 0.
4. A full sequence moves `t` forward by one, ahead of the highest reading of the clock by at most `lead`.
5. A reading of the clock more than `max_backward` below the highest one gives nothing: `ClockBackwards`. The highest
   reading is a reading, not `t`: running ahead (rule 4) is no step back of the clock. It is noted when a unit is
   entered, so while the generator runs ahead, a step back may be larger by the lead before it is noticed.
6. `retire` gives the window back with its floor: the first unit not used. Nothing is issued from it afterwards.
"""

from collections.abc import Callable
from enum import Enum

from goloves.core.grants import Window
from goloves.core.layout import Layout

LEAD_MS = 1000
"""How far a full sequence may run ahead of the clock: a second evens out bursts and is small beside any window."""


class Why(Enum):
    """Why the generator gave nothing."""

    NO_WINDOW = "no window"
    WINDOW_ENDED = "window ended"
    CLOCK_BACKWARDS = "clock stepped back"
    OVER_RATE = "over the rate of the layout"
    NOT_YET = "window has not begun"


class SnowflakeGenerator:
    """Ids of one space from the window that this node holds. Not thread-safe."""

    __slots__ = (
        "_end",
        "_getrandbits",
        "_highest",
        "_jitter_bits",
        "_lead",
        "_limit",
        "_low",
        "_max_backward",
        "_next",
        "_stride",
        "_t",
        "_worker",
        "layout",
        "why",
        "window",
    )

    def __init__(self, layout: Layout, *, max_backward: int, getrandbits: Callable[[int], int]) -> None:
        """`max_backward` in units; `getrandbits(k)` gives k random bits."""
        self.layout = layout
        self.window: Window | None = None
        self.why = Why.NO_WINDOW
        """Why the last call gave nothing; means nothing after one that gave ids."""
        self._max_backward = max_backward
        self._getrandbits = getrandbits
        self._jitter_bits = max(0, layout.sequence_bits - 5)
        self._lead = layout.span_units(LEAD_MS)
        self._stride = 1 << layout.sequence_shift
        self._worker = 0
        self._end = 0
        self._forget()

    def _forget(self) -> None:
        self._t = -1
        """Unit of the last id."""
        self._highest = -1
        """Highest reading of the clock."""
        self._low = 0
        """Lowest reading that rule 5 allows."""
        self._next = self._limit = 0
        """Next id of unit `_t`, and the first beyond its sequence."""

    def adopt(self, window: Window) -> None:
        """Begin a window that was just claimed; what was held before is dropped."""
        self._forget()
        self.window = window
        self._end = min(window.end, self.layout.end_units)
        self._worker = window.worker << self.layout.worker_shift
        self._t = window.start - 1

    def extend(self, window: Window) -> None:
        """Take over the later end of the window that is held; ValueError if it is another one."""
        held = self.window
        if held is None or (held.worker, held.fence, held.nonce) != (window.worker, window.fence, window.nonce):
            raise ValueError("only the window that is held can be extended")
        self.window = held.extended(window.end)
        self._end = min(self.window.end, self.layout.end_units)

    def retire(self) -> tuple[Window, int] | None:
        """Stop issuing and give the window with the floor to release it at; None if none is held (rule 6)."""
        window = self.window
        if window is None:
            return None
        floor = max(window.start, self._t + 1)
        self.window = None
        self._end = 0
        self._forget()
        return window, floor

    def next(self, now: int) -> int | None:
        """Give the next id at the clock's reading `now` (units), or None; `why` then says why."""
        if self._low <= now <= self._t:
            number = self._next
            if number < self._limit:
                self._next = number + self._stride
                return number
        return self._take_next() if self._advance(now) else None

    def more(self) -> int | None:
        """Give what `next` would at a reading of the same unit as that of the last `next`, which gave an id.

        None if the unit's ids are used up, or the window was given back: then only `next` knows how to go on.
        """
        number = self._next
        if number < self._limit:
            self._next = number + self._stride
            return number
        return None

    def take_many(self, now: int, count: int) -> list[range]:
        """Give `count` ids at the reading `now`, or as many as rules allow, as spans in order; then `why` says why."""
        spans: list[range] = []
        stride = self._stride
        while count > 0:
            if (not self._low <= now <= self._t or self._next >= self._limit) and not self._advance(now):
                break
            start = self._next
            end = min(start + count * stride, self._limit)
            self._next = end
            span = range(start, end, stride)
            count -= len(span)
            spans.append(span)
        return spans

    def room(self, now: int, until: int) -> int:
        """Give how many ids there can be at most at readings from `now` to `until` (units), draws nothing.

        Rule 4's lead counts in; the end of the window, which may be extended, does not.
        """
        left = (self._limit - self._next) // self._stride if now <= self._t else 0
        units = max(until, self._highest) + self._lead - max(self._t, now - 1)
        return left + max(0, units) * self.layout.sequences

    def _take_next(self) -> int:
        number = self._next
        self._next = number + self._stride
        return number

    def _advance(self, now: int) -> bool:
        """Enter the unit that the next id belongs to; False if there is none (`why`)."""
        if self.window is None:
            self.why = Why.NO_WINDOW
            return False
        if now > self._highest:
            self._highest = now
            self._low = now - self._max_backward
        elif now < self._low:
            self.why = Why.CLOCK_BACKWARDS
            return False
        t = self._t
        full = now <= t
        t = t + 1 if full else now
        if t - self._highest > self._lead:
            self.why = Why.NOT_YET if t == self.window.start else Why.OVER_RATE
            return False
        if t >= self._end:
            self.why = Why.WINDOW_ENDED
            return False
        layout = self.layout
        bits = self._jitter_bits
        sequence = 0 if full or not bits else self._getrandbits(bits)
        base = t << layout.time_shift | self._worker
        self._t = t
        self._next = base + sequence * self._stride
        self._limit = base + layout.sequences * self._stride
        return True
