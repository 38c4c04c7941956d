"""Grants: the pieces of the id space that a store hands out, each to one owner, once.

Rules:
1. Everything is half-open: `[start, end)`.
2. A grant never changes. Extending a window gives a new value with the same fence and nonce and a later end.
3. Numbers are those of a signed 64-bit integer; a range starts at 0 or above and ends at `MAX_NUMBER` or below.
"""

from dataclasses import dataclass, replace

MAX_NUMBER = 2**63 - 1
"""The highest `max_id` that a signed 64-bit column holds; as ranges are half-open, the highest id is one below."""


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers `[start, end)` of one tag."""

    tag: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= MAX_NUMBER:
            raise ValueError(f"not a range: [{self.start}, {self.end})")

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Window:
    """The units of time `[start, end)` of one worker id of one space, held under a fence (W1, W2)."""

    space: str
    worker: int
    fence: int
    """Grows by one with each claim of this worker id."""
    nonce: str
    """32 hex digits drawn anew for each claim; tells two claims with the same fence apart (W3)."""
    start: int
    """First unit since the space's epoch that may be used."""
    end: int
    """First unit since the space's epoch that may not be used."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"not a window: [{self.start}, {self.end})")

    def extended(self, end: int) -> "Window":
        """Give the same window with a later end (units)."""
        return replace(self, end=max(self.end, end))
