"""The two contracts that a store keeps, and what is read from it.

Every store keeps these promises; `tests/stores/contract.py` holds each of them to it:

1. **Atomic and linearizable.** Each method is one transaction; a grant, once returned, is durable, and no other call,
   from whatever process, returns an overlapping one, ever.
2. **Outcomes are honest.** A method returns (it is committed), raises `StoreUnavailable` (nothing happened, for
   certain; it may be repeated) or raises `UnknownOutcome` (it may have happened, and may still happen later). A known
   abort (deadlock, serialization failure) is repeated inside the store a few times, then `StoreUnavailable`. A
   cancelled call is an unknown outcome; the connection that it used is thrown away, never reused (SAFETY R3).
3. **Bounded.** Each method ends within the store's own timeout (configured, seconds), whatever the network does.
4. **Halts are looked at inside the transaction** that grants, so that no grant follows a halt (R4, R6).
5. **Nobody else's clock.** A store compares what it is given; its own clock is read with `clock()` and decides nothing
   here.
"""

import hashlib
import random
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

from goloves.core.grants import MAX_NUMBER, Range, Window
from goloves.core.layout import Layout

DEFAULT_STEP = 1000
"""Step of a tag that is created without one, as in Leaf's table."""

MAX_STEP = 2**31 - 1
"""Highest step of a tag: Leaf's column is a signed 32-bit integer."""

MAX_DESCRIPTION = 256
"""Longest description of a tag in characters: Leaf's column is varchar(256)."""

MAX_READ = 1000
"""Most tags or marks in one call: their names (128 kB) fit one packet of every database with room to spare, and one
call holds its locks for a few milliseconds."""


FENCES_SKIPPED = 1_000_000
"""How far a repair raises each fence: claims that a backup may have forgotten of one worker id. A node that claims one
each second needs eleven days for as many."""

MOST_REPAIR = 2**40
"""By how much a repair raises `repairs` at most: two draws agree once in a million million, and millions of repairs fit
the column."""


def draw_repair() -> int:
    """Draw by how much a repair raises `repairs`; at least 1.

    Counted by ones, two repairs of one backup that was restored twice would leave the same number, and a node that
    slept through the second restore would notice nothing (R6).
    """
    return 1 + secrets.randbelow(MOST_REPAIR)


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag as read from the store."""

    name: str
    max_id: int
    """First number that can be handed out: numbers that a repair left out lie below it."""
    step: int
    """The tag's own step: the least that a refill asks for."""
    description: str = ""
    updated: datetime | None = None
    mark: int | None = None
    """Below it nothing will be granted: the highest `max_id` ever granted, and what a repair left out above that. None
    where the store has no marks (only Leaf's table exists)."""
    limit: int = MAX_NUMBER
    """`max_id` never exceeds it."""
    halted: str = ""
    """Why the tag was halted (R4); empty if it was not."""

    @property
    def nearly_used_up(self) -> bool:
        """Whether less than a tenth of the numbers below its limit is left."""
        return nearly_used_up(self.max_id, self.limit)


def nearly_used_up(number: int, limit: int) -> bool:
    """Say whether less than a tenth of the numbers below a limit is left from `number` on.

    Counted from 0, for nothing tells where a tag began: one that began high up is told of early.
    """
    return limit - number < limit // 10


@dataclass(frozen=True, slots=True)
class NewTag:
    """A tag to create."""

    name: str
    step: int = DEFAULT_STEP
    start: int | None = None
    """First number; 0 or above. A tombstone's mark beats it.

    None: 1, or above all that failovers and repairs left out, since a tag that the store has never seen may be one that
    it forgot (R7). A number that is given is taken at its word.
    """
    description: str = ""
    limit: int = MAX_NUMBER


@dataclass(frozen=True, slots=True)
class TagChange:
    """What to change of a tag; None leaves it as it is."""

    step: int | None = None
    description: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest grant that somebody has seen of a tag or of a worker id (R4, R5)."""

    kind: Literal["tag", "worker"]
    name: str
    """The tag, or the space."""
    value: int
    """A tag's highest `max_id`, a worker id's highest fence."""
    worker: int = -1
    """The worker id; -1 for a tag."""


@dataclass(frozen=True, slots=True)
class SeenOwner:
    """Who held a worker id last, for people and for `goloves repair` (R6)."""

    space: str
    worker: int
    fence: int
    floor: int
    """First unit of time not handed out."""
    owner: str
    seen: datetime
    """When it claimed or extended last, by the store's clock (SQLite: the clock of the node that wrote)."""


@dataclass(frozen=True, slots=True)
class RegisteredSpace:
    """A space as the store has it."""

    name: str
    layout: str
    """The layout in words, as `Layout.describe` says it."""
    fingerprint: str
    epoch_ms: int
    unit_ms: int
    floor: int
    """First unit at which a window can begin, for all worker ids."""
    fence: int = 0
    """Fence of the worker ids that were never used, or that the store forgot before a repair or a skip."""
    longest: int = 0
    """Units that the longest window was long that anybody claimed: windows may be under way that long (W6)."""

    def units(self, unix_ms: int) -> int:
        """Give the unit in which `unix_ms` lies, rounded up; 0 before the epoch."""
        return max(0, -((self.epoch_ms - unix_ms) // self.unit_ms))


@dataclass(frozen=True, slots=True)
class Place:
    """Which server and machine a store is on, and on which it was known to be (R7, R8). Empty: not known, or none."""

    server: str = ""
    known_server: str = ""
    machine: str = ""
    known_machine: str = ""

    @property
    def other_server(self) -> bool:
        """Whether the server became another."""
        return bool(self.server and self.known_server) and self.server != self.known_server

    @property
    def other_machine(self) -> bool:
        """Whether an embedded store was moved to another machine."""
        return bool(self.machine and self.known_machine) and self.machine != self.known_machine


class Store(Protocol):
    """What the stores of ranges and of windows have in common: a life, a clock and a halt."""

    @property
    def identity(self) -> str:
        """Key under which marks of this store are kept: its uuid, or its address if it has none. Known after `open`."""

    @property
    def address(self) -> str:
        """Where the store is, without user and password: its identity, as long as it has no uuid."""

    @property
    def has_marks(self) -> bool:
        """False where only Leaf's table exists: no mark, flag or uuid is in the store (R4). Known after `open`."""

    async def open(self) -> None:
        """Connect and check that this store can be trusted (R2, R7, P4).

        Raises StoreRefused, saying what to do, or StoreUnavailable if it is away; may be called again after either, and
        does nothing on a store that is open.
        """

    async def close(self) -> None:
        """Let go of all connections; calls under way end in UnknownOutcome. May be called twice."""

    async def clock(self) -> int | None:
        """Read the store's clock, ms since 1970; None where it has none of its own (SQLite)."""

    async def halt(self, reason: str) -> None:
        """Halt the whole store: from now on no call grants anything, until `lift_halt` (R6).

        May be repeated; the first reason stays. Raises NeedsMigration where only Leaf's table exists: the halt is then
        the node's own.
        """

    async def check_halt(self) -> int:
        """Give a number that each repair raises by a random amount; raises StoreWentBackwards if halted (R6).

        Two readings that agree lie in one life of the store: no repair came between them, nor a restore and a repair. 0
        where only Leaf's table exists.
        """

    async def write_marks(self, node: str, marks: Iterable[Mark]) -> None:
        """Write at most 1,000 marks that a node holds, after a halt, for `goloves repair`; none is ever lowered.

        Raises NeedsMigration where only Leaf's table exists.
        """


class RepairStore(Store, Protocol):
    """What `goloves repair` needs of a store beyond what nodes do."""

    async def read_halt(self) -> str:
        """Read why the whole store is halted; empty if it is not."""

    async def read_marks(self) -> dict[str, list[Mark]]:
        """Read the marks that nodes wrote, by node."""

    async def read_place(self) -> Place:
        """Read which server and machine the store is on, and on which it was known to be."""

    async def read_spaces(self) -> list[RegisteredSpace]:
        """Read the spaces that were registered, in the order of their names; none where only Leaf's table exists."""

    async def forget_marks(self, used: Mapping[str, Iterable[Mark]]) -> None:
        """Forget these marks, by node, which a repair has used; one that was raised since it was read stays."""

    async def recent_owners(self, *, most: int = 100) -> list[SeenOwner]:
        """Read who held worker ids, of all spaces, the latest first (R6: which nodes' marks are missing)."""

    async def raise_tags(self, numbers: Mapping[str, int]) -> None:
        """Raise `max_id` and mark of these tags (at most 1,000) to at least these numbers, and lift the tags' halts.

        A deleted tag's tombstone is raised likewise, and a tag that the store does not know gets a tombstone, so that
        it begins above its number when it is made. May be repeated. Raises InvalidCount if a number lies past the limit
        of a tag that exists. Where only Leaf's table exists, `max_id` of the tags that it has is raised. Part of a
        repair: the numbers in between are never issued.
        """

    async def skip_tags(self, gap: int) -> None:
        """Let every tag, deleted ones too, leave out `gap` numbers before its next grant, cut at its limit (R7).

        Each call skips once more. Takes no longer for a million tags than for one, unless only Leaf's table exists:
        there each row is raised at once.
        """

    async def raise_floor(self, space: str, floor: int) -> None:
        """Raise the space's floor to at least `floor` (units): no later claim begins below it. May be repeated."""

    async def raise_fences(self, marks: Iterable[Mark]) -> None:
        """Raise the fences of these worker ids (at most 1,000) to at least the marks' values, ending their windows.

        The floors stay; raise the space's floor before. May be repeated.
        """

    async def end_windows(self, space: str) -> None:
        """End every window of a space, by raising each fence that the store knows by `FENCES_SKIPPED`.

        So does the fence of worker ids that it does not know, or not any more. Fences that nodes saw and the store
        forgot are then below, as far as nobody claimed more often. The floors stay; raise the space's floor before.
        Each call raises once more.
        """

    async def lift_halt(self) -> None:
        """End the whole store's halt and take its server for the known one from now on (R7). The end of a repair."""


class SegmentStore(Store, Protocol):
    """Where ranges come from."""

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        """Grant the next `size` numbers of a tag: `max_id` moves up by that and the range is what it moved over (R1).

        Unless `exact`, a tag with a limit gets less as it nears its end: at most a thousandth of what remains, at
        least 1 (R12). Raises UnknownTag, TagUsedUp, StoreWentBackwards (R4), StoreUnavailable, UnknownOutcome. `size`
        >= 1.
        """

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        """Read those of these tags (at most 1,000) that exist; a name that is missing in the answer does not."""

    async def read_remembered(self, names: Iterable[str]) -> dict[str, int]:
        """Read, of at most 1,000 tags, below which number the store will grant nothing; deleted tags are known too."""

    async def list_tags(self, *, prefix: str = "", after: str = "", most: int = 100) -> list[Tag]:
        """Read tags in the order of their names' UTF-8 bytes: those after `after` that begin with `prefix`."""

    async def create_tag(self, new: NewTag) -> Tag:
        """Create a tag, above its tombstone's numbers if it had been deleted.

        Raises TagExists; NeedsMigration where only Leaf's table exists.
        """

    async def ensure_tag(self, new: NewTag) -> Tag:
        """Create a tag unless it exists (for `auto_create`); a tombstone is left alone: UnknownTag."""

    async def change_tag(self, name: str, change: TagChange) -> Tag:
        """Change a tag; raises UnknownTag, and InvalidCount if the limit lies below `max_id`."""

    async def delete_tag(self, name: str) -> None:
        """Delete a tag, leaving its tombstone. Raises UnknownTag; NeedsMigration where only Leaf's table exists."""


@dataclass(frozen=True, slots=True)
class Space:
    """A space as a node has it in its configuration."""

    name: str
    layout: Layout
    static: bool = False
    """Whether its nodes name their worker ids themselves; else the store chooses. All nodes alike (W6)."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits that two nodes share only if layout and way of worker ids agree."""
        if not self.static:
            return self.layout.fingerprint
        return hashlib.sha256(f"static worker ids: {self.layout.fingerprint}".encode()).hexdigest()

    def describe(self) -> str:
        """Say layout and way in one line, for messages."""
        return f"{self.layout.describe()}{', static worker ids' if self.static else ''}"

    def other_way(self) -> "Space":
        """Give the same space with static worker ids if they are pooled here, and the other way round."""
        return replace(self, static=not self.static)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a node asks for when it claims a worker id. Times are units since the space's epoch."""

    space: Space
    now: int
    """The claimer's present."""
    length: int
    """How long the window shall be: it ends at `start + length`, cut at the layout's end."""
    nonce: str
    """32 hex digits, drawn anew for each claim, from a cryptographic source."""
    owner: str
    """Who claims, for people: host, process, node. At most 255 characters."""
    rng: random.Random
    """Chooses among the worker ids that could be had."""
    workers: range | None = None
    """The worker ids that may be claimed, step 1 (W10); None: all that the layout has."""


class WorkerStore(Store, Protocol):
    """Where windows come from."""

    async def open_space(self, space: Space) -> None:
        """Register the space, or compare its layout with the registered one: StoreRefused if it differs (W9).

        A space of which no worker id was ever claimed takes the new layout. Static or pooled is left to `claim`. Raises
        StoreWentBackwards if halted, unless the store was opened for a repair; NeedsMigration where only Leaf's table
        exists.
        """

    async def claim(self, claim: Claim) -> Window:
        """Claim a worker id in one compare-and-swap on its fence (W1).

        Which: a random one of the ids never used; when they are gone (over 4,096 ids: nearly gone), a random one of
        the 64 whose floor lies longest in the past (W6). The window is `[max(floor, space's floor, now), start +
        length)`, and `floor` becomes its end. A claim for static worker ids of a space that was pooled, or the other
        way round, changes the space over if none of its windows is under way at `now`, and is refused else (W6).

        Raises NoWorkerFree if each floor lies above `now`; TimeUsedUp outside the layout's time; UnknownSpace before
        `open_space`; StoreRefused if the space has another layout by now, or goes the other way;
        StoreWentBackwards if halted; NeedsMigration; StoreUnavailable; UnknownOutcome, after which `find_window` with
        the nonce tells (W4): it must not be repeated blindly.
        """

    async def count_windows(self, space: str, now: int, workers: range | None = None) -> int:
        """Count the worker ids of a space whose windows are not past at `now` (units): of `workers`, if given (W6)."""

    async def last_seen(self) -> int | None:
        """Read the latest moment, ms since 1970, at which the store's own clock noted a claim or an extension (W8).

        None if there was none, or where the store has no clock of its own.
        """

    async def read_fences(self, space: str, workers: Iterable[int]) -> dict[int, int] | None:
        """Read the fences of at most 1,000 worker ids of a space, used or not; None if there is no such space."""

    async def find_window(self, space: str, nonce: str) -> Window | None:
        """Read back the window claimed under this nonce; None if there is none, or it was released unused (W4)."""

    async def extend(self, window: Window, end: int) -> Window:
        """Move the floor of the window's worker id to `end` if that is later, comparing fence and nonce (W3).

        Idempotent: may be repeated after any outcome. Raises WindowLost if the fence has moved on; StoreWentBackwards
        if it is lower, or the same under another nonce, or the row is gone, or the floor lies below the window's end,
        or the store is halted; TimeUsedUp if `end` lies past the layout's end.
        """

    async def release(self, window: Window, floor: int) -> None:
        """Set the floor to `floor` (at or above the window's start), comparing fence and nonce (W5).

        Call it only when no id will be issued from this window again. Nothing happens if the fence has moved on.
        """
