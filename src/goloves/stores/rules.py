"""What every store decides alike, whatever it keeps its rows in: sizes, windows, refusals and their words. Pure.

Rules:
1. A store reads its rows inside its transaction, asks here what follows, and writes that; it never decides by itself.
2. The messages that people meet stand here once, so that every store says the same.
"""

import random
from collections.abc import Iterable
from typing import TypeVar

from goloves.core.grants import MAX_NUMBER, Window
from goloves.core.layout import Layout
from goloves.errors import (
    InvalidCount,
    NeedsMigration,
    NoWorkerFree,
    StoreRefused,
    StoreWentBackwards,
    TagExists,
    TagUsedUp,
    TimeUsedUp,
    UnknownSpace,
    UnknownTag,
    WindowLost,
)
from goloves.stores.base import MAX_DESCRIPTION, MAX_READ, MAX_STEP, Claim, NewTag, Space, TagChange

Thing = TypeVar("Thing")

SHARE_NEAR_LIMIT = 1000
"""A tag with a limit gives at most this part of what remains, so that the last nodes to ask get something too (R12)."""

POOLED = 64
"""Among how many worker ids a claim chooses: enough that nodes that start together, or that work on a store that lost
claims, rarely meet at one id, and few enough to read at once (W6)."""


# --- ranges ---


def check_size(size: int) -> None:
    """Refuse a size that is no size; InvalidCount."""
    if not 1 <= size <= MAX_NUMBER:
        raise InvalidCount(f"the size of a range is {size}; it must be 1 or above")


def size_near_limit(size: int, max_id: int, limit: int) -> int:
    """Give what a refill that asks for `size` gets (R12): at most a thousandth of what remains, at least 1."""
    return min(size, max(1, (limit - max_id) // SHARE_NEAR_LIMIT))


def unknown_tag(tag: str) -> UnknownTag:
    """Say that there is no such tag."""
    return UnknownTag(f"there is no tag {tag!r}; make it with: goloves tag create {_shell(tag)}")


def tag_exists(tag: str) -> TagExists:
    """Say that there is such a tag already."""
    return TagExists(f"there is a tag {tag!r} already; change it with: goloves tag set {_shell(tag)}")


def tag_alike(tag: str, other: str) -> TagExists:
    """Say that a table whose collation is not binary can't hold both names."""
    return TagExists(
        f"the table leaf_alloc can't tell {tag!r} from {other!r}, which exists; use another name, or give its column"
        " biz_tag a binary collation (docs/migration-from-leaf.md)"
    )


def used_up(tag: str, max_id: int, limit: int, size: int, due: int = 0) -> TagUsedUp:
    """Say that a tag's numbers do not suffice. `due`: numbers beyond the limit that a repair or a skip left out too."""
    left = max(0, limit - max_id)
    if due:
        return TagUsedUp(
            f"the tag {tag!r} has reached its limit {limit}, and a repair or a failover left out all numbers up to"
            f" {max_id + due}; raise the limit above that, or use a new tag"
        )
    if left:
        return TagUsedUp(f"the tag {tag!r} has {left} numbers left below its limit {limit}; {size} were asked for")
    return TagUsedUp(f"the tag {tag!r} has reached its limit {limit}; raise that limit, or use a new tag")


def below_mark(tag: str, start: int, mark: int) -> str:
    """Give the reason for which a tag is halted when the store would grant numbers below its mark (R4)."""
    return f"its next number was {start}, below {mark}, up to which numbers were granted before"


def tag_halted(tag: str, reason: str) -> StoreWentBackwards:
    """Say that a tag is halted."""
    return StoreWentBackwards(
        f"the tag {tag!r} is halted: {reason}; find out who lowered or restored it, then run: goloves repair"
    )


def store_halted(reason: str) -> StoreWentBackwards:
    """Say that the whole store is halted."""
    return StoreWentBackwards(
        f"the store is halted: {reason}; look into it, then run: goloves repair", whole_store=True
    )


def absurd_number(tag: str, max_id: int) -> StoreRefused:
    """Say that a row of Leaf's table holds a number that no id can be."""
    return StoreRefused(
        f"max_id of the tag {tag!r} is {max_id}, and ids are not negative; set it above every id issued"
    )


def needs_migration(what: str) -> NeedsMigration:
    """Say that only Leaf's table exists, and `what` needs Goloves' own."""
    return NeedsMigration(
        f"{what} needs Goloves' own tables, and this database has only leaf_alloc; run: goloves migrate,"
        " then restart the nodes"
    )


def check_new_tag(new: NewTag) -> None:
    """Refuse a new tag that can't be; InvalidCount."""
    _check_step(new.step)
    _check_limit(new.limit)
    _check_description(new.description)
    if new.start is not None and not 0 <= new.start <= new.limit:
        raise InvalidCount(f"the first number is {new.start}; it lies between 0 and the tag's limit {new.limit}")


def first_number(new: NewTag, mark: int | None, left_out: int) -> int:
    """Give `max_id` for a new tag; InvalidCount past its limit.

    `mark`: numbers were granted up to it before; None for a name that the store has never seen. `left_out`: how many
    numbers failovers and repairs let every tag leave out, all in all.
    """
    if mark is None:
        first = 1 + left_out if new.start is None else new.start
        if first > new.limit:
            raise InvalidCount(
                f"a new tag begins at {first}, above what failovers and repairs of this store left out, and its limit"
                f" is {new.limit}; if no number of {new.name!r} was ever issued, say where it begins: --start 1"
            )
        return first
    if mark > new.limit:
        raise InvalidCount(
            f"numbers of a deleted tag {new.name!r} were granted up to {mark}; the new limit {new.limit} lies below"
        )
    return max(1 if new.start is None else new.start, mark)


def check_change(change: TagChange) -> None:
    """Refuse a change that can't be; InvalidCount."""
    if change.step is not None:
        _check_step(change.step)
    if change.limit is not None:
        _check_limit(change.limit)
    if change.description is not None:
        _check_description(change.description)


def check_lower_limit(tag: str, limit: int, granted: int) -> None:
    """Refuse a limit that lies below what was granted; InvalidCount."""
    if limit < granted:
        raise InvalidCount(f"the limit {limit} lies below {granted}, up to which numbers of {tag!r} were granted")


def check_raise(tag: str, number: int, limit: int) -> None:
    """Refuse to raise a tag to a number that it can't reach; InvalidCount."""
    if not 0 <= number <= limit:
        raise InvalidCount(f"{tag!r} can't be raised to {number}: its limit is {limit}; raise that first")


def at_most(things: Iterable[Thing], what: str) -> list[Thing]:
    """Give the things as a list; ValueError if there are more than one call takes."""
    listed = list(things)
    if len(listed) > MAX_READ:
        raise ValueError(f"{len(listed)} {what} in one call; at most {MAX_READ} are possible")
    return listed


def after_all_with(prefix: str) -> str | None:
    """Give the least text above every text that begins with `prefix`, by UTF-8 bytes; None if there is none."""
    for place in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[place])
        if point < 0x10FFFF:
            return prefix[:place] + chr(0xE000 if point == 0xD7FF else point + 1)
    return None


def _check_step(step: int) -> None:
    if not 1 <= step <= MAX_STEP:
        raise InvalidCount(f"the step is {step}; it lies between 1 and {MAX_STEP}")


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_NUMBER:
        raise InvalidCount(f"the limit is {limit}; it lies between 1 and {MAX_NUMBER}")


def _check_description(description: str) -> None:
    if len(description) > MAX_DESCRIPTION:
        raise InvalidCount(f"the description has {len(description)} characters; at most {MAX_DESCRIPTION} are possible")


def _shell(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").replace(".", "").isalnum() else repr(name)


# --- windows ---


def candidates(claim: Claim) -> range:
    """Give the worker ids that a claim may get (W10); ValueError if the layout has not all of them."""
    layout = claim.space.layout
    if claim.workers is None:
        return range(layout.workers)
    if claim.workers.step != 1 or not claim.workers or claim.workers[0] < 0 or claim.workers[-1] >= layout.workers:
        raise ValueError(f"the workers {claim.workers} are not all among the layout's 0 to {layout.workers - 1}")
    return claim.workers


def draw(workers: range, rng: random.Random) -> list[int]:
    """Draw the worker ids to try first, in random order."""
    return rng.sample(workers, min(POOLED, len(workers)))


def window(claim: Claim, worker: int, fence: int, floor: int) -> Window:
    """Give the window that a claim gets (W1), `floor` being the worker id's or the space's, whichever is higher.

    TimeUsedUp outside the layout's time (W2). NoWorkerFree while the floor, which can only be the space's then, lies
    ahead: a window that begins later would end later than R6 counts on if the store were set back once more.
    """
    layout = claim.space.layout
    if claim.length < 1:
        raise ValueError(f"a window of {claim.length} units is none")
    _check_inside(layout, claim.now)
    start = max(floor, claim.now)
    _check_inside(layout, start)
    if floor > claim.now:
        wait = (floor - claim.now) * layout.unit_ms / 1000
        raise NoWorkerFree(
            f"the space {claim.space.name!r} rests for {wait:.1f} s, since the store was set back: windows that it"
            " forgot may last so long",
            lowest_floor=floor,
        )
    end = min(start + claim.length, layout.end_units)
    return Window(claim.space.name, worker, fence, claim.nonce, start, end)


def check_end(space_layout: Layout, end: int) -> None:
    """Refuse to move a window's end past the layout's (W2); TimeUsedUp."""
    if end > space_layout.end_units:
        raise _past_end(space_layout)


def check_extension(held: Window, fence: int | None, nonce: str, floor: int) -> None:
    """Compare a window with the row of its worker id (W3); WindowLost, or StoreWentBackwards (R6).

    `fence` is None where the row is gone; then `floor` is the space's. One that covers the window was raised by a
    repair or a skip since: whatever is claimed afterwards begins behind the window, so nothing is left to find out.
    """
    who = f"worker id {held.worker} of space {held.space!r}"
    if fence is None and floor >= held.end:
        raise WindowLost(f"a repair or a failover of the store ended the window of {who}")
    if fence is None:
        raise _went_backwards(f"the store no longer knows {who}, which it had granted under fence {held.fence}")
    if not nonce and fence >= held.fence:
        raise WindowLost(f"a repair of the store ended the window of {who}")
    if fence > held.fence:
        raise WindowLost(f"{who} was claimed by another node (fence {fence}, ours was {held.fence})")
    if fence < held.fence:
        raise _went_backwards(f"the store has fence {fence} for {who}, which it had granted under fence {held.fence}")
    if nonce != held.nonce:
        raise _went_backwards(f"the store granted fence {fence} of {who} twice")
    if floor < held.end:
        raise _went_backwards(f"the store has floor {floor} for {who}, which it had granted up to {held.end}")


def no_worker_free(claim: Claim, lowest_floor: int, holder: str) -> NoWorkerFree:
    """Say that every worker id has a window that is not past yet (W6); `holder` had the one that becomes free first."""
    layout = claim.space.layout
    wait = max(0, lowest_floor - claim.now) * layout.unit_ms / 1000
    if claim.space.static:
        return NoWorkerFree(
            f"the worker id {candidates(claim)[0]} of space {claim.space.name!r} is held by {holder or 'a repair'} for"
            f" {wait:.1f} s more; if that is this node before it crashed, it waits so long; if it is another one that"
            " runs, give each its own number",
            lowest_floor=lowest_floor,
        )
    return NoWorkerFree(
        f"all {len(candidates(claim))} worker ids of space {claim.space.name!r} are taken; the first becomes free in"
        f" {wait:.1f} s; stop nodes, or give the space a layout with more worker bits",
        lowest_floor=lowest_floor,
    )


def unknown_space(name: str) -> UnknownSpace:
    """Say that a space was not registered."""
    return UnknownSpace(f"there is no space {name!r} in the store; name it in the configuration as [spaces.{name}]")


def check_way(claim: Claim, fingerprint: str, registered: str, under_way: int) -> None:
    """Compare a space with the registered one under a claim: its layout (W9), and static or pooled (W6); StoreRefused.

    `under_way`: windows of the space that are not past at the claim's moment. Without any, the way may change.
    """
    space = claim.space
    if fingerprint == space.fingerprint:
        return
    if fingerprint != space.other_way().fingerprint:
        raise other_layout(space.name, registered, space.describe())
    if under_way:
        raise other_way(space, under_way)


def other_way(space: Space, under_way: int) -> StoreRefused:
    """Say that a space's nodes name their worker ids and this one does not, or the other way round (W6)."""
    mine, theirs = ("static", "pooled") if space.static else ("pooled", "static")
    return StoreRefused(
        f"the worker ids of space {space.name!r} are {theirs}, with {under_way} windows under way, and this node is"
        f" configured for {mine} ones (spaces.{space.name}.worker); configure all nodes alike, or stop those: once"
        " their windows are past, this node goes on by itself"
    )


def other_layout(name: str, registered: str, mine: str) -> StoreRefused:
    """Say that a space has another layout than the node's (W9)."""
    return StoreRefused(
        f"the space {name!r} was registered with the layout {registered}; this node is configured with {mine}. A space"
        " never changes: configure the registered layout, or use a space of another name"
    )


def check_floor(held: Window, floor: int) -> None:
    """Refuse a floor below the window's start; ValueError."""
    if floor < held.start:
        raise ValueError(f"the floor {floor} lies below the window's start {held.start}")


def _check_inside(layout: Layout, units: int) -> None:
    if units < 0:
        raise TimeUsedUp(f"the present lies before the layout's epoch {layout.epoch_ms} ms; set the clock right")
    if units >= layout.end_units:
        raise _past_end(layout)


def _past_end(layout: Layout) -> TimeUsedUp:
    return TimeUsedUp(f"the layout's time runs out at {layout.end_unix_ms} ms since 1970; make a new space")


def _went_backwards(what: str) -> StoreWentBackwards:
    """Say that a window shows it: the whole store was set back, and the guard will halt it (R6)."""
    return StoreWentBackwards(f"{what}: the store was set back")
