"""Segment mode: the buffer of ranges of one tag, and how its step adapts.

Rules:
1. The buffer gives each number of the ranges that it was given once, in their order, and no other number.
2. `take` awaits nothing and asks nobody. It gives a number, or None when nothing is left.
3. A refill is due when a tenth of the current range is used and no other lies ahead of it; the buffer says so once, by
   calling `on_due`, and again only after a refill came or `take` found nothing.
4. The step doubles when a refill becomes due sooner than `target` seconds after the one before, grows fourfold, and at
   least to what is wanted, when requests already wait for it, and halves when it lasted over twice the target. It never
   falls below the tag's own step (at least 1, whatever somebody wrote into its row) and never grows beyond the larger
   of that and `max_step`. (Leaf's policy; growth under want is ours: it takes a tag of step 10 to 50,000 ids a second
   within a few refills.)
5. `clear` forgets all ranges; what was left of them is never issued.
"""

from collections.abc import Callable

from goloves.core.grants import Range

PREFETCH_PART = 10
"""The next range is due when 1/10 of the current one is used: nine tenths are left to bridge the refill."""


class SegmentBuffer:
    """The ranges of one tag that this node holds. Not thread-safe: one event loop, or a caller's lock."""

    __slots__ = ("_ahead", "_due", "_end", "_next", "_on_due", "_stop")

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due = on_due
        self._next = 0
        self._stop = 0
        """Where `take` looks up: the prefetch point of the current range, then its end."""
        self._end = 0
        self._ahead: list[Range] = []
        """Seldom more than one; a list, because an empty deque takes 700 bytes and there may be 10,000 idle tags."""
        self._due = False

    @property
    def left(self) -> int:
        """How many numbers are left."""
        return self._end - self._next + sum(len(ahead) for ahead in self._ahead)

    @property
    def due(self) -> bool:
        """Whether a refill is due."""
        return self._due

    def take(self) -> int | None:
        """Give the next number, or None if nothing is left."""
        number = self._next
        if number < self._stop:
            self._next = number + 1
            return number
        return self.take() if self._turn() else None

    def take_many(self, count: int) -> list[range]:
        """Give the next `count` numbers, or as many as are left, as spans in order."""
        spans: list[range] = []
        while count > 0:
            start = self._next
            end = min(start + count, self._stop)
            if end > start:
                self._next = end
                count -= end - start
                if spans and spans[-1].stop == start:
                    spans[-1] = range(spans[-1].start, end)
                else:
                    spans.append(range(start, end))
            elif not self._turn():
                break
        return spans

    def take_range(self, size: int) -> range | None:
        """Give `size` consecutive numbers out of the current range, or None if it has not that many left."""
        if self._next == self._end and self._ahead:
            self._turn()
        start = self._next
        if self._end - start < size:
            return None
        self._next = start + size
        if self._next >= self._stop:
            self._stop = self._end
            if not self._ahead:
                self._say_due()
        return range(start, start + size)

    def put(self, granted: Range) -> None:
        """Add a range that the store granted; it comes after all that are held."""
        self._due = False
        if self._next == self._end and not self._ahead:
            self._begin(granted)
        else:
            self._ahead.append(granted)

    def clear(self) -> None:
        """Forget all ranges (rule 5)."""
        self._ahead.clear()
        self._next = self._stop = self._end = 0
        self._due = False

    def _begin(self, granted: Range) -> None:
        self._next = granted.start
        self._end = granted.end
        self._stop = granted.end if self._ahead else granted.start - (granted.start - granted.end) // PREFETCH_PART

    def _turn(self) -> bool:
        """Move on at a stop; False if nothing is left."""
        if self._next < self._end:
            self._stop = self._end
            if not self._ahead:
                self._say_due()
            return True
        if self._ahead:
            self._begin(self._ahead.pop(0))
            return True
        self._due = False
        self._say_due()
        return self._next < self._stop

    def _say_due(self) -> None:
        if not self._due:
            self._due = True
            self._on_due()


class StepPolicy:
    """How many numbers the next refill asks for (rule 4). Times are seconds on a monotonic clock."""

    __slots__ = ("_last", "_max_step", "_target", "own", "step")

    def __init__(self, own: int, *, target: float, max_step: int) -> None:
        self.own = own
        """The tag's own step; may be changed at any time."""
        self.step = own
        """What the last refill asked for."""
        self._target = target
        self._max_step = max_step
        self._last: float | None = None

    def next(self, now: float, *, wanted: int) -> int:
        """Say how much to ask for at `now`; `wanted` numbers are waited for because the buffer was empty."""
        step = self.step
        if self._last is not None:
            lasted = now - self._last
            if lasted < self._target:
                step *= 4 if wanted else 2
            elif lasted >= 2 * self._target:
                step //= 2
        self._last = now
        own = max(1, self.own)
        self.step = max(own, min(max(step, wanted), max(own, self._max_step)))
        return self.step
