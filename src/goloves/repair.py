"""Going on after a store went backwards: what `goloves repair` finds out, and what it then does (SAFETY R6).

Rules:
1. A repair only raises: numbers, marks, fences, floors. Each step may be repeated, and broken off anywhere; the halt is
   lifted last.
2. Every tag goes on above the highest number that the store or any node remembers, and a margin above that, for grants
   that nobody remembers any more.
3. Every space goes on above whatever window can be under way anywhere: `now + window + max_forward`, by a floor that holds
   for worker ids without a row too. Until then no Snowflake id of that space is issued.
4. Nodes whose marks are missing are named. Their grants are covered by the margin only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import Protocol, TypeVar

from goloves.core.grants import MAX_NUMBER
from goloves.core.layout import Layout
from goloves.stores.base import MAX_READ, Mark, RepairStore, SeenOwner, SegmentStore, Tag, WorkerStore

Thing = TypeVar("Thing")

MARGIN = 10_000_000
"""Numbers that every tag skips beyond the highest that anybody remembers: ten ranges of the largest step. It has to cover
what nodes were granted whose marks are missing, and what an earlier repair skipped if the backup is older than that."""

RECENT = timedelta(hours=24)
"""How far back a node counts as recently seen."""


class Repairable(SegmentStore, WorkerStore, RepairStore, Protocol):
    """A store that holds both kinds of grants and can be repaired."""


@dataclass(frozen=True, slots=True)
class SpaceToRaise:
    """A space whose floor rises."""

    name: str
    layout: Layout
    window: float
    """Seconds that the longest window of any node is long."""


@dataclass(slots=True)
class Findings:
    """What was found, for a person to look at before anything is done."""

    halt: str
    """Why the whole store is halted; empty if it is not."""
    marks: dict[str, list[Mark]]
    """What nodes wrote, by node."""
    silent: list[SeenOwner]
    """Nodes seen within the last day whose marks are missing."""
    behind: list[tuple[Tag, int]] = field(default_factory=list)
    """Tags that stand below what a node remembers, and that number."""
    halted: list[Tag] = field(default_factory=list)
    """Tags that are halted by themselves."""


async def look(store: Repairable, now: datetime) -> Findings:
    """Find out what is wrong; changes nothing. Raises StoreUnavailable."""
    marks = await store.read_marks()
    owners = await store.recent_owners(most=MAX_READ)
    findings = Findings(
        halt=await store.read_halt(),
        marks=marks,
        silent=[owner for owner in owners if now - owner.seen <= RECENT and not _has_reported(owner, marks)],
    )
    highest = _highest_numbers(marks)
    after = ""
    while tags := await store.list_tags(after=after, most=MAX_READ):
        after = tags[-1].name
        findings.halted += [tag for tag in tags if tag.halted]
        findings.behind += [(tag, highest[tag.name]) for tag in tags if highest.get(tag.name, -1) > tag.max_id]
    return findings


async def repair(
    store: Repairable,
    findings: Findings,
    spaces: Iterable[SpaceToRaise],
    *,
    now_ms: int,
    max_forward: float,
    margin: int = MARGIN,
) -> None:
    """Raise everything above what anybody remembers, and lift the halts. Safe to repeat, and to break off.

    `now_ms`: ms since 1970, the later of the store's clock and ours. `max_forward`: seconds.
    """
    numbers = _highest_numbers(findings.marks)
    for tag in findings.halted:
        numbers[tag.name] = max(numbers.get(tag.name, 0), tag.max_id, tag.mark or 0)
    for part in _parts(sorted(numbers)):
        await store.raise_tags({name: min(numbers[name], MAX_NUMBER) for name in part})
    if findings.halt:
        await store.skip_tags(margin)
        for space in spaces:
            above = now_ms + round((space.window + max_forward) * 1000)
            await store.raise_floor(space.name, space.layout.units(above))
        fences = [mark for marks in findings.marks.values() for mark in marks if mark.kind == "worker"]
        for some in _parts(fences):
            await store.raise_fences(some)
        await store.forget_marks()
        await store.lift_halt()


def _highest_numbers(marks: Mapping[str, list[Mark]]) -> dict[str, int]:
    highest: dict[str, int] = {}
    for mark in chain.from_iterable(marks.values()):
        if mark.kind == "tag":
            highest[mark.name] = max(mark.value, highest.get(mark.name, 0))
    return highest


def _has_reported(owner: SeenOwner, marks: Mapping[str, list[Mark]]) -> bool:
    return any(owner.owner == node or owner.owner.startswith(f"{node} ") for node in marks)


def _parts(things: list[Thing]) -> Iterable[list[Thing]]:
    return (things[at : at + MAX_READ] for at in range(0, len(things), MAX_READ))
