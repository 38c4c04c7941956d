"""The checker: every id that a client received, against every grant that the store made.

It holds, for each tag and space, over all nodes and all their lives:

1. no id was received twice;
2. each lies inside a grant that the store committed: a number in a range, an id in a window of its worker id;
3. a grant served one life of one node only; what `ranges` gave lies in a single grant;
4. grants don't overlap.

After the store was set back on purpose the grants of both its histories may overlap (3 and 4 can't hold then): 1 and 2
hold all the same wherever the promise does, and that is what is checked.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from faults.nodes import Life
from goloves.core.layout import Layout

LEAF = -1
"""Stands for a life where Leaf's own SQL moved a number."""


class Duplicate(AssertionError):
    """What must never happen happened."""


@dataclass(frozen=True, slots=True)
class NumberGrant:
    """A range that the store granted."""

    low: int
    high: int
    base: bool = False
    """It was granted before the witness came, to whomever."""


@dataclass(slots=True)
class WindowGrant:
    """A window that the store granted, as far as it was ever extended."""

    worker: int
    fence: int
    start: int
    end: int
    owner: str
    last: int = 0
    """Its end as the store knew it last: a release draws it back."""


@dataclass
class Granted:
    """All that a store granted, as its witness saw it."""

    numbers: dict[str, set[NumberGrant]] = field(default_factory=lambda: defaultdict(set))
    """By tag."""
    windows: dict[str, dict[tuple[int, int, str], WindowGrant]] = field(default_factory=lambda: defaultdict(dict))
    """By space, then by worker, fence and nonce."""


@dataclass
class Ledger:
    """Collects what clients receive; `check` holds it against what was granted."""

    numbers: dict[str, list[tuple[int, int, int, bool]]] = field(default_factory=lambda: defaultdict(list))
    """By tag: start, stop, life, and whether it is a range of the caller's own."""
    ids: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """By space: id, life."""

    @property
    def received(self) -> int:
        """How many ids were received."""
        return sum(stop - start for spans in self.numbers.values() for start, stop, _, _ in spans) + sum(
            map(len, self.ids.values())
        )

    def unused(self, granted: Granted, tag: str) -> int:
        """Count the grants of a tag of which no client received anything."""
        starts = sorted(start for start, _, _, _ in self.numbers[tag])
        return sum(
            bisect_left(starts, grant.low) == bisect_left(starts, grant.high)
            for grant in granted.numbers[tag]
            if not grant.base
        )

    def check(
        self,
        granted: Granted,
        lives: Mapping[int, Life],
        layouts: Mapping[str, Layout] | None = None,
        *,
        at_least: int,
        set_back: bool = False,
    ) -> None:
        """Raise Duplicate if anything was broken; fail if fewer than `at_least` ids were received.

        `set_back`: the store was set back on purpose (see the module).
        """
        assert self.received >= at_least, f"only {self.received} ids were received: this check would hold nothing"
        self.check_distinct(lives)
        for tag, spans in self.numbers.items():
            _check_numbers(tag, spans, granted.numbers[tag], lives, set_back=set_back)
        for space, ids in self.ids.items():
            layout = (layouts or {}).get(space, Layout())
            _check_ids(space, ids, granted.windows[space].values(), layout, lives, set_back=set_back)

    def check_distinct(self, lives: Mapping[int, Life]) -> None:
        """Raise Duplicate if an id was received twice: all that can be held where no account of grants is left."""
        for tag, spans in self.numbers.items():
            last_stop, last_life = -1, LEAF
            for start, stop, life, _ in sorted(spans):
                if start < last_stop:
                    raise Duplicate(
                        f"{start} of the tag {tag!r} was received from {_who(life, lives)},"
                        f" and from {_who(last_life, lives)}"
                    )
                last_stop, last_life = stop, life
        for space, ids in self.ids.items():
            for (before, first), (after, second) in pairwise(sorted(ids)):
                if before == after:
                    raise Duplicate(
                        f"{after} of the space {space!r} was received from {_who(second, lives)}"
                        f" and {_who(first, lives)}"
                    )


def _check_numbers(
    tag: str,
    spans: list[tuple[int, int, int, bool]],
    granted: set[NumberGrant],
    lives: Mapping[int, Life],
    *,
    set_back: bool,
) -> None:
    ordered = sorted(spans)
    grants = sorted(granted, key=lambda grant: (grant.low, grant.high))
    if set_back:
        _check_covered(tag, ordered, grants)
        return
    for before, after in pairwise(grants):
        if after.low < before.high:
            raise Duplicate(f"the store granted {before} and {after} of the tag {tag!r}")
    lows = [grant.low for grant in grants]
    owners: dict[NumberGrant, int] = {}
    for start, stop, life, exact in ordered:
        at = start
        parts = 0
        while at < stop:
            place = bisect_right(lows, at) - 1
            grant = grants[place] if place >= 0 else None
            if grant is None or at >= grant.high:
                raise Duplicate(f"{at} of the tag {tag!r}, from {_who(life, lives)}, lies in no range that was granted")
            owner = owners.setdefault(grant, life)
            if owner != life and not grant.base:
                raise Duplicate(f"{grant} of {tag!r} served {_who(owner, lives)} and {_who(life, lives)}")
            at = grant.high
            parts += 1
        if exact and parts > 1:
            raise Duplicate(f"the range [{start}, {stop}) of the tag {tag!r} was put together from {parts} grants")


def _check_covered(tag: str, spans: list[tuple[int, int, int, bool]], grants: list[NumberGrant]) -> None:
    joined: list[tuple[int, int]] = []
    for grant in grants:
        if joined and grant.low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], grant.high))
        else:
            joined.append((grant.low, grant.high))
    lows = [low for low, _ in joined]
    for start, stop, _, _ in spans:
        place = bisect_right(lows, start) - 1
        if place < 0 or stop > joined[place][1]:
            raise Duplicate(f"[{start}, {stop}) of the tag {tag!r} was never granted")


def _check_ids(
    space: str,
    ids: list[tuple[int, int]],
    granted: Iterable[WindowGrant],
    layout: Layout,
    lives: Mapping[int, Life],
    *,
    set_back: bool,
) -> None:
    by_worker: dict[int, list[WindowGrant]] = defaultdict(list)
    for window in sorted(granted, key=lambda window: (window.start, window.fence)):
        by_worker[window.worker].append(window)
    starts = {worker: [window.start for window in windows] for worker, windows in by_worker.items()}
    owners = {number: life.owner for number, life in lives.items()}
    last = None
    for id_, life in sorted(ids):
        batch = id_ >> layout.time_shift, id_ >> layout.worker_shift & layout.workers - 1, life
        if batch == last:
            continue  # of the same unit, worker id and life as the one before: so is what holds of its window
        last = batch
        decoded = layout.decode(id_)
        windows = by_worker.get(decoded.worker, [])
        place = bisect_right(starts.get(decoded.worker, []), decoded.units) - 1
        mine = [
            window
            for window in (windows[: place + 1] if set_back else windows[max(0, place) : place + 1])
            if decoded.units < window.end and window.owner.endswith(owners[life])
        ]
        if not mine:
            raise Duplicate(
                f"{decoded} of the space {space!r} lies in no window of {_who(life, lives)}; those about it are"
                f" {windows[max(0, place - 1) : place + 2]}"
            )
    if set_back:
        return
    for windows in by_worker.values():
        for before, after in pairwise(windows):
            if after.fence <= before.fence or after.start < before.last:
                raise Duplicate(f"the store granted {before} and {after} of the space {space!r}")


def _who(life: int, lives: Mapping[int, Life]) -> str:
    return "Leaf" if life == LEAF else str(lives[life])
