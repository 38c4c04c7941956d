"""Going on after a store went backwards: what `goloves repair` finds out, and what it then does (SAFETY R6, R7, R8).

Rules:
1. A repair only raises: numbers, marks, fences, floors. Each step may be repeated, and broken off anywhere; the halt is
   lifted last.
2. Every tag goes on above the highest number that the store or any node remembers, and a margin above that, for
   grants that nobody remembers any more.
3. Every space goes on above whatever window can be under way anywhere: `now + window + max_forward`, by a floor that
   holds for worker ids without a row too. Until then no Snowflake id of that space is issued.
4. Nodes whose marks are missing are named. Their grants are covered by the margin only.
5. A tag that is halted by itself says nothing about the others: it alone is raised, to what is remembered of it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import Protocol, TypeVar

from goloves.core.grants import MAX_NUMBER
from goloves.errors import InvalidCount, StoreUnavailable, UnknownSpace
from goloves.stores.base import (
    MAX_READ,
    Mark,
    Place,
    RegisteredSpace,
    RepairStore,
    SeenOwner,
    SegmentStore,
    Tag,
    WorkerStore,
)

Thing = TypeVar("Thing")

MARGIN = 10_000_000
"""Numbers that every tag skips beyond the highest that anybody remembers: ten ranges of the largest step. It has to
cover what nodes were granted whose marks are missing, and what an earlier repair skipped if the backup is older than
that."""

RECENT = timedelta(hours=24)
"""How long before the latest sign of life a node still counts as recently seen."""

OWNERS_READ = 10_000
"""Worker ids among which nodes are looked for, the latest used first: more than any cluster has nodes."""

ROUNDS = 100
"""How often marks are used that nodes wrote during the repair; each node writes its own about once a minute."""

_PROCESS = re.compile(r" pid \d+$")
"""What an owner of a window has beyond the name of its node."""


class Repairable(SegmentStore, WorkerStore, RepairStore, Protocol):
    """A store that holds both kinds of grants and can be repaired."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A tag that stands below what is remembered of it."""

    name: str
    stands: int | None
    """Its next number; None if the store does not know the tag: it was made later, or somebody removed each trace."""
    remembered: int


@dataclass(slots=True)
class Findings:
    """What was found, for a person to look at before anything is done."""

    halt: str
    """Why the whole store is halted; empty if it is not."""
    marks: dict[str, list[Mark]]
    """What nodes remember, by node."""
    silent: list[SeenOwner] = field(default_factory=list)
    """Nodes recently seen whose marks are missing, each once."""
    behind: list[Behind] = field(default_factory=list)
    """Tags that stand below what a node remembers."""
    fences_behind: list[Mark] = field(default_factory=list)
    """Fences that nodes saw and the store does not reach."""
    halted: list[Tag] = field(default_factory=list)
    """Tags that are halted by themselves, or will be at their next grant, for their number was lowered."""
    limited: list[Tag] = field(default_factory=list)
    """Tags with a limit of their own."""
    spaces: list[RegisteredSpace] = field(default_factory=list)
    place: Place = field(default_factory=Place)
    has_marks: bool = True
    """False where only Leaf's table exists."""

    @property
    def went_backwards(self) -> bool:
        """Whether the store as a whole shows that it was set back, or that it became another."""
        return self.set_back or self.place.other_machine

    @property
    def set_back(self) -> bool:
        """Whether more shows than that an embedded store was moved to another machine."""
        return bool(self.halt or self.behind or self.fences_behind or self.place.other_server)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a repair does, in numbers."""

    numbers: dict[str, int]
    """The least number at which a tag goes on."""
    whole: bool = False
    """Whether the store as a whole is repaired, and not only tags."""
    margin: int = 0
    """Numbers that every tag leaves out beyond that."""
    floors: dict[str, int] = field(default_factory=dict)
    """By space: ms since 1970 before which no id of it is issued."""
    used_up: tuple[str, ...] = ()
    """Tags that will have reached their limit."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.whole and not self.numbers


async def look(store: Repairable, remembered: Mapping[str, list[Mark]] | None = None) -> Findings:
    """Find out what is wrong; changes nothing. Raises StoreUnavailable.

    `remembered`: marks by node that were read elsewhere, in the state directories of nodes that don't run.
    """
    marks = _merged(await store.read_marks(), remembered or {})
    owners = await store.recent_owners(most=OWNERS_READ)
    findings = Findings(
        halt=await store.read_halt(),
        marks=marks,
        silent=_silent(owners, marks),
        spaces=await store.read_spaces(),
        place=await store.read_place(),
        has_marks=store.has_marks,
    )
    highest = _highest_numbers(marks)
    for names in _parts(sorted(highest)):
        stands = await store.read_remembered(names)
        # Where only Leaf's table exists, a tag that is gone leaves no tombstone to raise.
        known = [name for name in names if name in stands or store.has_marks]
        findings.behind += [
            Behind(name, stands.get(name), highest[name]) for name in known if highest[name] > stands.get(name, -1)
        ]
    findings.fences_behind = _fences_behind(owners, marks, findings.spaces)
    after = ""
    while tags := await store.list_tags(after=after, most=MAX_READ):
        after = tags[-1].name
        findings.halted += [tag for tag in tags if tag.halted or (tag.mark is not None and tag.max_id < tag.mark)]
        findings.limited += [tag for tag in tags if tag.limit < MAX_NUMBER]
    return findings


def plan_repair(
    findings: Findings,
    *,
    now_ms: int,
    windows: Mapping[str, float],
    longest_window: float,
    max_forward: float,
    margin: int = MARGIN,
    whole: bool | None = None,
) -> Plan:
    """Say what a repair has to do.

    `now_ms`: ms since 1970, the later of the store's clock and ours. `windows`: seconds that the longest window of each
    space is long, `longest_window` that of spaces not named there. `max_forward`: seconds. `whole`: repair the store as
    a whole, or tags only; None leaves it to the findings. A `margin` of 0 for a store that was only moved says that its
    nodes were stopped before: nothing is missing then, and nothing pauses. Raises InvalidCount if a tag's limit is too
    low for what is remembered of it, UnknownSpace if a space is remembered that neither the store nor `findings` has.
    """
    whole = findings.went_backwards if whole is None else whole
    numbers = {tag.name: max(tag.max_id, tag.mark or 0) for tag in findings.halted}
    for behind in findings.behind:
        numbers[behind.name] = max(behind.remembered, numbers.get(behind.name, 0))
    _check_limits(findings.limited, numbers)
    if not whole:
        return Plan(numbers)
    if findings.has_marks:
        _check_spaces(findings)
    floors = {}
    moved_whole = findings.place.other_machine and not findings.set_back and not margin
    if findings.has_marks and not moved_whole:
        for space in findings.spaces:
            # Somebody may hold a longer window than this configuration has: the store knows of each claim.
            window = max(windows.get(space.name, longest_window), space.longest * space.unit_ms / 1000)
            floors[space.name] = now_ms + round((window + max_forward) * 1000)
    used_up = tuple(
        tag.name for tag in findings.limited if max(tag.max_id, numbers.get(tag.name, 0)) + margin >= tag.limit
    )
    return Plan(numbers, whole, margin, floors, used_up)


async def repair(store: Repairable, findings: Findings, plan: Plan) -> None:
    """Raise everything above what anybody remembers, and lift the halts. Safe to repeat, and to break off.

    Marks that nodes write meanwhile are honoured as well: none is forgotten that was not used, and the halt is lifted
    when none is left that says more. Raises StoreUnavailable, UnknownOutcome.
    """
    await _raise_tags(store, plan.numbers)
    if not plan.whole:
        return
    if plan.margin:
        await store.skip_tags(plan.margin)
    if not store.has_marks:
        return
    for space in (space for space in findings.spaces if space.name in plan.floors):
        await store.raise_floor(space.name, space.units(plan.floors[space.name]))
        await store.end_windows(space.name)
    marks, done = findings.marks, {**_highest_numbers(findings.marks), **plan.numbers}
    fences = _highest_fences(marks)
    await _raise_fences(store, marks)
    for _ in range(ROUNDS):
        await store.forget_marks(marks)
        marks = await store.read_marks()
        late = {name: number for name, number in _highest_numbers(marks).items() if number > done.get(name, -1)}
        late_fences = {at: fence for at, fence in _highest_fences(marks).items() if fence > fences.get(at, -1)}
        if not late and not late_fences:
            await store.forget_marks(marks)
            break
        await _raise_tags(store, late)
        await _raise_fences(store, marks)
        done |= late
        fences |= late_fences
    else:
        raise StoreUnavailable("nodes write marks faster than this repair can use them; run it again")
    await store.lift_halt()


async def _raise_tags(store: Repairable, numbers: Mapping[str, int]) -> None:
    for part in _parts(sorted(numbers)):
        await store.raise_tags({name: min(numbers[name], MAX_NUMBER) for name in part})


async def _raise_fences(store: Repairable, marks: Mapping[str, list[Mark]]) -> None:
    fences = [mark for mark in chain.from_iterable(marks.values()) if mark.kind == "worker"]
    for part in _parts(fences):
        await store.raise_fences(part)


def _check_limits(limited: Iterable[Tag], numbers: Mapping[str, int]) -> None:
    low = [tag for tag in limited if numbers.get(tag.name, 0) > tag.limit]
    if low:
        named = "; ".join(f"goloves tag set {tag.name!r} --limit {numbers[tag.name]}" for tag in low[:10])
        more = f" and {len(low) - 10} more" if len(low) > 10 else ""
        raise InvalidCount(
            f"the limits of {len(low)} tags lie below numbers that nodes were granted; raise those first: {named}{more}"
        )


def _check_spaces(findings: Findings) -> None:
    lost = {mark.name for mark in chain.from_iterable(findings.marks.values()) if mark.kind == "worker"}
    lost -= {space.name for space in findings.spaces}
    if lost:
        named = ", ".join(f"[spaces.{name}]" for name in sorted(lost))
        raise UnknownSpace(
            f"nodes remember spaces that the store lost and this configuration does not have: put {named} into it, with"
            " the layout that they had, and run this again; else the store would be halted again at once"
        )


def _highest_numbers(marks: Mapping[str, list[Mark]]) -> dict[str, int]:
    highest: dict[str, int] = {}
    for mark in chain.from_iterable(marks.values()):
        if mark.kind == "tag":
            highest[mark.name] = max(mark.value, highest.get(mark.name, 0))
    return highest


def _highest_fences(marks: Mapping[str, list[Mark]]) -> dict[tuple[str, int], int]:
    highest: dict[tuple[str, int], int] = {}
    for mark in chain.from_iterable(marks.values()):
        if mark.kind == "worker":
            at = (mark.name, mark.worker)
            highest[at] = max(mark.value, highest.get(at, 0))
    return highest


def _merged(*several: Mapping[str, list[Mark]]) -> dict[str, list[Mark]]:
    merged: dict[str, list[Mark]] = {}
    for marks in several:
        for node, some in marks.items():
            merged.setdefault(node, []).extend(some)
    return merged


def _fences_behind(
    owners: list[SeenOwner], marks: Mapping[str, list[Mark]], spaces: Iterable[RegisteredSpace]
) -> list[Mark]:
    fences = {(owner.space, owner.worker): owner.fence for owner in owners}
    unused = {space.name: space.fence for space in spaces}
    # Among more worker ids than were read, one that is missing says nothing.
    every = len(owners) < OWNERS_READ
    return [
        mark
        for mark in chain.from_iterable(marks.values())
        if mark.kind == "worker"
        and mark.value > fences.get((mark.name, mark.worker), unused.get(mark.name, 0) if every else MAX_NUMBER)
    ]


def _silent(owners: list[SeenOwner], marks: Mapping[str, list[Mark]]) -> list[SeenOwner]:
    """Give the nodes that held a window lately and of which no mark is known.

    Lately counts back from the last sign of life, not from now: after a restore that lies as far back as the backup.
    """
    latest = max((owner.seen for owner in owners), default=datetime.min)
    found: dict[str, SeenOwner] = {}
    for owner in owners:
        node = node_of(owner)
        if node and latest - owner.seen <= RECENT and node not in marks:
            found.setdefault(node, owner)
    return list(found.values())


def node_of(owner: SeenOwner) -> str:
    """Give the name of the node that held a window."""
    return _PROCESS.sub("", owner.owner)


def _parts(things: list[Thing]) -> Iterator[list[Thing]]:
    return (things[at : at + MAX_READ] for at in range(0, len(things), MAX_READ))
