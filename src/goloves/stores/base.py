"""The two contracts that a store keeps, and what is read from it.

Every store keeps these promises; `tests/stores/contract.py` holds each of them to it:

1. **Atomic and linearizable.** Each method is one transaction; a grant, once returned, is durable, and no other call,
   from whatever process, returns an overlapping one, ever.
2. **Outcomes are honest.** A method returns (it is committed), raises `StoreUnavailable` (nothing happened, for certain;
   it may be repeated) or raises `UnknownOutcome` (it may have happened, and may still happen later). A known abort
   (deadlock, serialization failure) is repeated inside the store a few times, then `StoreUnavailable`. A cancelled call is
   an unknown outcome; the connection that it used is thrown away, never reused (SAFETY R3).
3. **Bounded.** Each method ends within the store's own timeout (configured, seconds), whatever the network does.
4. **Halts are looked at inside the transaction** that grants, so that no grant follows a halt (R4, R6).
5. **Nobody else's clock.** A store compares what it is given; its own clock is read with `clock()` and decides nothing here.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from goloves.core.grants import MAX_NUMBER, Range, Window
from goloves.core.layout import Layout

MAX_NAME_BYTES = 128
"""Longest name of a tag or space: Leaf's column is varchar(128)."""

DEFAULT_STEP = 1000
"""Step of a tag that is created without one, as in Leaf's table."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag as read from the store."""

    name: str
    max_id: int
    """First number not handed out."""
    step: int
    """The tag's own step: the least that a refill asks for."""
    description: str = ""
    updated: datetime | None = None
    mark: int | None = None
    """Highest `max_id` ever granted; None where the store has no marks (only Leaf's table exists)."""
    limit: int = MAX_NUMBER
    """`max_id` never exceeds it."""
    halted: str = ""
    """Why the tag was halted (R4); empty if it was not."""


@dataclass(frozen=True, slots=True)
class NewTag:
    """A tag to create."""

    name: str
    step: int = DEFAULT_STEP
    start: int = 1
    """First number; 0 or above. A tombstone's mark beats it."""
    description: str = ""
    limit: int = MAX_NUMBER


@dataclass(frozen=True, slots=True)
class TagChange:
    """What to change of a tag; None leaves it as it is."""

    step: int | None = None
    description: str | None = None
    limit: int | None = None


class SegmentStore(Protocol):
    """Where ranges come from."""

    @property
    def identity(self) -> str:
        """Key under which marks of this store are kept: its uuid, or its address where it has none. Known after `open`."""

    async def open(self) -> None:
        """Connect and check that this store can be trusted (R2, R7, P4).

        Raises StoreRefused, saying what to do, or StoreUnavailable if it is away; may be called again after the latter.
        """

    async def close(self) -> None:
        """Let go of all connections; calls under way end in UnknownOutcome."""

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        """Grant the next `size` numbers of a tag: `max_id` moves up by that and the range is what it moved over (R1).

        Unless `exact`, a tag with a limit gets less as it nears its end: at most a thousandth of what remains, at least 1
        (R12). Raises UnknownTag, TagUsedUp, StoreWentBackwards (R4), StoreUnavailable, UnknownOutcome. `size` >= 1.
        """

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        """Read those of these tags (at most 1,000) that exist; a name that is missing in the answer does not."""

    async def list_tags(self, *, prefix: str = "", after: str = "", most: int = 100) -> list[Tag]:
        """Read tags in the order of their names' UTF-8 bytes, beginning with `prefix`, after `after`, at most `most`."""

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


class WorkerStore(Protocol):
    """Where windows come from."""

    @property
    def identity(self) -> str:
        """As `SegmentStore.identity`."""

    async def open(self) -> None:
        """As `SegmentStore.open`."""

    async def close(self) -> None:
        """As `SegmentStore.close`."""

    async def open_space(self, space: Space) -> None:
        """Register the space, or compare its layout with the registered one: StoreRefused if it differs (W9).

        Raises NeedsMigration where only Leaf's table exists.
        """

    async def claim(self, claim: Claim) -> Window:
        """Claim a worker id in one compare-and-swap on its fence (W1).

        Which: a random one of those whose floor lies longest in the past, worker ids never used first (W6). The window is
        `[max(floor, space's floor, now), start + length)`, and `floor` becomes its end. Raises NoWorkerFree if each floor
        lies above `now`; TimeUsedUp at the layout's end; StoreWentBackwards if halted; StoreUnavailable; UnknownOutcome,
        after which `find_window` with the nonce tells (W4): it must not be repeated blindly.
        """

    async def find_window(self, space: str, nonce: str) -> Window | None:
        """Read back the window that was claimed under this nonce; None if there is none (W4)."""

    async def extend(self, window: Window, end: int) -> Window:
        """Move the floor of the window's worker id to `end` if that is later, comparing fence and nonce (W3).

        Idempotent: may be repeated after any outcome. Raises WindowLost if the fence has moved on; StoreWentBackwards if it
        is lower, or the same under another nonce, or the row is gone; TimeUsedUp if `end` lies past the layout's end.
        """

    async def release(self, window: Window, floor: int) -> None:
        """Set the floor to `floor` (at or above the window's start), comparing fence and nonce (W5).

        Call it only when no id will be issued from this window again. Nothing happens if the fence has moved on.
        """

    async def clock(self) -> int | None:
        """Read the store's clock, ms since 1970; None where it has none of its own (SQLite)."""
