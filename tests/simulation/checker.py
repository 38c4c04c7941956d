"""The checker knows every grant that the store committed, what of it a node was told, and every id that it issued.

It holds, at the moment at which each thing happens:

1. Grants are disjoint: ranges of a tag; windows of a worker id, with what was added and given back. Fences grow.
2. A halt is a halt: nothing is granted after one.
3. One life of a node issues only what its store acknowledged to this very life, each id once: nothing of an earlier
   life, nothing burned, nothing given back, and nothing that it held when it was told of a halt.
4. A node refuses what lies below the marks in its state directory: ranges by number, windows by fence.

One bound, as the guarantees state it: a store that was set back has forgotten what it committed between two moments
(`lost`). Until it is repaired a new grant may overlap such a forgotten one, and no other. So an id may come twice.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from goloves.core.grants import Range, Window
from goloves.core.layout import Decoded, Layout
from goloves.errors import InvalidId


class Duplicate(AssertionError):
    """What must never happen happened.

    It is told at once, and not only raised: a node's keepers outlive whatever they meet, and would outlive this too.
    """

    told: ClassVar[Callable[[BaseException], None] | None] = None
    """Who is told, while a story is played."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        if Duplicate.told is not None:
            Duplicate.told(self)


@dataclass(slots=True, eq=False)
class Held:
    """A grant as one life of a node has it: `[start, end)` of numbers, or of units of time."""

    start: int
    end: int
    suspect: bool
    """It was granted by a store that was set back: what it holds may come twice."""
    window: Window | None = None
    void_since: int | None = None
    """When the life had to let go of it (`Checker.moment`)."""
    released: int | None = None
    """First unit that was given back."""
    highest: int = -1
    """Highest unit that was issued from it."""
    spans: list[range] = field(default_factory=list)
    """What was issued from it."""


@dataclass(slots=True, eq=False)
class Granted:
    """A grant as the store committed it."""

    life: str
    start: int
    end: int
    at: float
    suspect: bool
    fence: int = 0
    nonce: str = ""
    forgotten: bool = False
    """The store forgot it at some time."""
    ends: list[tuple[float, int]] = field(default_factory=list)
    """When its end was moved, and to where."""

    def move(self, end: int, at: float) -> None:
        self.end = end
        self.ends.append((at, end))


@dataclass
class Marks:
    """What a state directory must know at least."""

    numbers: dict[str, int] = field(default_factory=dict)
    """By tag: the highest end of a range."""
    fences: dict[int, int] = field(default_factory=dict)
    """By worker id: the highest fence."""

    def copy(self) -> "Marks":
        return Marks(dict(self.numbers), dict(self.fences))


@dataclass
class Checker:
    """Collects while the simulation runs; `check` at its end. Each life of a node has a name of its own."""

    layout: Layout
    """Of the one space."""
    lost: list[tuple[float, float]] = field(default_factory=list)
    """Between which moments the store has forgotten what it committed; nothing while it knows everything."""
    ranges: dict[str, list[Granted]] = field(default_factory=lambda: defaultdict(list))
    """By tag."""
    highest: dict[str, int] = field(default_factory=dict)
    """By tag: the highest end of its ranges; what starts there or later overlaps none of them."""
    windows: dict[int, list[Granted]] = field(default_factory=lambda: defaultdict(list))
    """By worker id, in the order of their claims."""
    nonces: set[str] = field(default_factory=set)
    held_ranges: dict[tuple[str, str], list[Held]] = field(default_factory=lambda: defaultdict(list))
    """By life and tag."""
    held_windows: dict[str, list[Held]] = field(default_factory=lambda: defaultdict(list))
    """By life."""
    halts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """By life and tag ("" for the windows): how often it was told of a halt."""
    marks: dict[str, Marks] = field(default_factory=lambda: defaultdict(Marks))
    """By node."""
    moment: int = 0
    """Counts what lives had to let go of: a request that was begun before may still give it."""
    issued: int = 0
    repeated: int = 0
    """Ids that came twice within the bound."""

    # --- what the store does ---

    def store_forgot(self, lost: list[tuple[float, float]]) -> None:
        """Take in that the store was set back, and what it does not know now."""
        self.lost = list(lost)
        for grants in self.windows.values():
            for granted in grants:
                granted.forgotten |= self._is_lost(granted)

    @property
    def forgetful(self) -> bool:
        """Whether the store has forgotten something, and was not repaired since."""
        return bool(self.lost)

    def committed_range(self, life: str, granted: Range, at: float) -> None:
        """Hold a range that was committed against all before."""
        suspect = self.forgetful
        grants = self.ranges[granted.tag]
        if granted.start < self.highest.get(granted.tag, granted.end):
            for other in reversed(grants):
                if other.start < granted.end and granted.start < other.end and not self._is_lost(other):
                    raise Duplicate(f"the store granted {granted} to {life}, and {other} before")
        self.highest[granted.tag] = max(granted.end, self.highest.get(granted.tag, granted.end))
        grants.append(Granted(life, granted.start, granted.end, at, suspect))

    def committed_claim(self, life: str, window: Window, at: float) -> None:
        """Hold a window that was claimed against all before."""
        if not 0 <= window.start < window.end <= self.layout.end_units:
            raise Duplicate(f"{window} does not lie in the layout's time")
        if window.nonce in self.nonces:
            raise Duplicate(f"{life} claimed twice under one nonce: {window}")
        self.nonces.add(window.nonce)
        grants = self.windows[window.worker]
        for other in grants:
            # Fences that a store forgot may come again: what a repair leaves out is in time.
            again = other.fence >= window.fence and not other.forgotten
            if not self._is_lost(other) and (self._known_end(other) > window.start or again):
                raise Duplicate(f"the store granted {window} to {life}, and {other} before")
        suspect = self.forgetful
        granted = Granted(life, window.start, window.end, at, suspect, window.fence, window.nonce)
        granted.move(window.end, at)
        grants.append(granted)

    def committed_extension(self, window: Window, at: float) -> None:
        """Hold an extension against what was claimed since."""
        if window.end > self.layout.end_units:
            raise Duplicate(f"{window} was extended past the layout's time")
        grants = self.windows[window.worker]
        place = next((place for place, each in enumerate(grants) if each.nonce == window.nonce), None)
        if place is None:
            raise Duplicate(f"{window} was extended, and never granted")
        for later in grants[place + 1 :]:
            if not self._is_lost(later):
                raise Duplicate(f"{window} was extended, though {later} was granted since")
        if window.end > grants[place].end:
            grants[place].move(window.end, at)

    def committed_release(self, life: str, window: Window, floor: int, at: float) -> None:
        """Note that a window was given back from `floor` on."""
        for granted in self.windows[window.worker]:
            if granted.nonce == window.nonce:
                granted.move(floor, at)
        for held in self.held_windows[life]:
            if held.window is not None and held.window.nonce == window.nonce:
                held.released = floor if held.released is None else min(held.released, floor)
                if held.highest >= floor:
                    raise Duplicate(f"{life} gave {window} back from {floor} on, and had issued of unit {held.highest}")

    def _forgot(self, at: float) -> bool:
        return any(begun <= at < ended for begun, ended in self.lost)

    def _is_lost(self, granted: Granted) -> bool:
        return bool(self.lost) and self._forgot(granted.at)

    def _known_end(self, granted: Granted) -> int:
        """Give the end of a window as the store knows it."""
        if not self.lost:
            return granted.end
        return next((end for at, end in reversed(granted.ends) if not self._forgot(at)), -1)

    # --- what a life is told ---

    def acknowledged_range(self, life: str, node: str, granted: Range, mark: int, *, burned: bool) -> None:
        """Take in what `allocate` returned. `mark`: the node's when it asked. `burned`: a halt came in between."""
        if granted.start < mark:
            raise Duplicate(f"{life} took {granted}, below its mark {mark}")
        committed = next((each for each in reversed(self.ranges[granted.tag]) if each.start == granted.start), None)
        if committed is None or (committed.end, committed.life) != (granted.end, life):
            raise Duplicate(f"{life} was told of {granted}, which was not granted to it: {committed}")
        numbers = self.marks[node].numbers
        numbers[granted.tag] = max(granted.end, numbers.get(granted.tag, -1))
        if not burned:
            self.held_ranges[life, granted.tag].append(Held(granted.start, granted.end, committed.suspect))

    def acknowledged_window(self, life: str, node: str, window: Window, fence: int, *, burned: bool) -> None:
        """Take in a window that was claimed, or found. `fence`: the node's mark of it when it asked."""
        if window.fence <= fence:
            raise Duplicate(f"{life} took {window}, whose fence is not above its mark {fence}")
        committed = next((each for each in self.windows[window.worker] if each.nonce == window.nonce), None)
        if committed is None or committed.life != life:
            raise Duplicate(f"{life} was told of {window}, which was not granted to it: {committed}")
        fences = self.marks[node].fences
        fences[window.worker] = max(window.fence, fences.get(window.worker, -1))
        if not burned:
            self._let_go(self.held_windows[life])
            self.held_windows[life].append(Held(window.start, window.end, committed.suspect, window))

    def acknowledged_extension(self, life: str, window: Window) -> None:
        """Take in the later end of a window."""
        for held in self.held_windows[life]:
            if held.window is not None and held.window.nonce == window.nonce:
                held.end = max(held.end, window.end)

    def told_of_halt(self, life: str, tag: str | None = None) -> None:
        """Hold the life to letting go of all that it has: of one tag, of the windows (""), or of everything."""
        keys = {key for key in self.held_ranges if key[0] == life and tag in (None, key[1])}
        for key in keys:
            self._let_go(self.held_ranges[key])
        if tag in (None, ""):
            self._let_go(self.held_windows[life])
        self.halts[life, tag if tag is not None else "*"] += 1

    def halts_of(self, life: str, tag: str) -> int:
        """Count the halts that a life was told of and that concern a tag, or the windows ("")."""
        return self.halts[life, tag] + self.halts[life, "*"]

    def _let_go(self, held: list[Held]) -> None:
        self.moment += 1
        for each in held:
            if each.void_since is None:
                each.void_since = self.moment

    # --- what a life issues ---

    def issued_numbers(self, life: str, tag: str, spans: list[range], asked: int) -> None:
        """Take in numbers that a life issued; `asked`: the moment at which the request began."""
        held = self.held_ranges[life, tag]
        for span in spans:
            self.issued += len(span)
            at = span.start
            while at < span.stop:
                grant = next(
                    (
                        each
                        for each in reversed(held)
                        if each.start <= at < each.end and (each.void_since is None or each.void_since > asked)
                    ),
                    None,
                )
                if grant is None:
                    raise Duplicate(f"{life} issued {at} of the tag {tag}, which it does not hold")
                end = min(span.stop, grant.end)
                grant.spans.append(range(at, end))
                at = end

    def issued_by_leaf(self, granted: Range, at: float) -> None:
        """Take in a range that a node of Leaf took and used."""
        self.committed_range("leaf", granted, at)
        self.held_ranges["leaf", granted.tag].append(Held(granted.start, granted.end, suspect=False))
        self.issued_numbers("leaf", granted.tag, [range(granted.start, granted.end)], self.moment)

    def issued_ids(self, life: str, spans: list[range], asked: int) -> None:
        """Take in ids of the space that a life issued."""
        others = ~(self.layout.sequences - 1 << self.layout.sequence_shift)
        for span in spans:
            self.issued += len(span)
            first = self._decoded(life, span[0])
            if (span[0] ^ span[-1]) & others:
                raise Duplicate(f"{life} issued {span}, which leaves its unit of time or its worker")
            held = next(
                (
                    each
                    for each in reversed(self.held_windows[life])
                    if each.window is not None
                    and each.window.worker == first.worker
                    and each.start <= first.units < each.end
                    and (each.void_since is None or each.void_since > asked)
                ),
                None,
            )
            if held is None:
                raise Duplicate(f"{life} issued {first}, and holds no such window: {self.held_windows[life][-2:]}")
            if held.released is not None and first.units >= held.released:
                raise Duplicate(f"{life} issued {first} of a window that it gave back from {held.released} on")
            held.highest = max(held.highest, first.units)
            held.spans.append(span)

    def _decoded(self, life: str, id_: int) -> Decoded:
        try:
            return self.layout.decode(id_)
        except InvalidId as error:
            raise Duplicate(f"{life} issued {id_}: {error.message}") from None

    # --- at the end ---

    def check(self) -> None:
        """Hold that each id was issued once, but for what the bound allows."""
        for tag in {tag for _, tag in self.held_ranges}:
            self._check_once(tag, [held for key, some in self.held_ranges.items() if key[1] == tag for held in some])
        self._check_once("the space", [held for some in self.held_windows.values() for held in some])

    def _check_once(self, what: str, grants: list[Held]) -> None:
        everything = sorted(((span, grant) for grant in grants for span in grant.spans), key=lambda each: each[0].start)
        last_end, last = -1, None
        for span, grant in everything:
            if span.start < last_end:
                if grant is last or not (grant.suspect or (last is not None and last.suspect)):
                    raise Duplicate(f"{span.start} of {what} was issued twice, from {grant} and {last}")
                self.repeated += min(span.stop, last_end) - span.start
                if last_end >= span.stop:
                    continue
            last_end, last = span.stop, grant
