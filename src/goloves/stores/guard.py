"""The guard: compares each grant with the node's marks, so that a store that went backwards is refused (rule 3).

Rules (SAFETY R5, R6):
1. A grant is compared with the mark that was held before its request was sent: two answers may cross.
2. A mark rises with each grant, and with each reading of a tag. A tag in use that is gone has left a tombstone, at or
   above its mark, or the store was set back.
3. All marks are compared when the store is opened, so that one that was set back while this node was away is noticed
   before anything is granted here; those of a space at each claim as well. A store that lost a space of which there are
   marks was set back, too.
4. A mark of the node above the store's halts the whole store, for every tag and window of it moved back. A halt that
   could not be written because the store was away is written before anything else is granted here, be it asked for by
   this guard or by that of the other kind of grants; unless the store was repaired since it was found.
5. After a repair all marks of this node are compared once more, whether it met the halt or not: the repair may not have
   known them.
6. Where only Leaf's table exists, there is no place for a halt: it is the node's own, and stands until the node ends.
   The store is not asked meanwhile, and a number is read before it is moved: each allocation there would move it on, up
   to the mark and past it.
7. A halt is raised at once, for everything that is held to be dropped; marks, which may be many, are written for the
   repair by the call after it, and `check_halt` is a call.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Generic, Literal, TypeVar

from goloves.core.grants import Range, Window
from goloves.errors import GolovesError, StoreWentBackwards, UnknownSpace, UnknownTag, WindowLost
from goloves.logger import get_logger
from goloves.stores.base import MAX_READ, Claim, Mark, NewTag, SegmentStore, Space, Store, Tag, TagChange, WorkerStore
from goloves.stores.marks import Marks, Standing

REPORT_EVERY = 60.0
"""Seconds after which a node that is still refused writes its marks once more: a repair that somebody broke off, or a
second restore, may have lost them, and what is written twice changes nothing."""

REPORTED = 100
"""Marks that are written in one transaction: two statements each, which have to be through within the time of a call
also where the database is some milliseconds away."""

ALL_KINDS = frozenset({"tag", "worker"})
"""Kinds of marks, as `Mark.kind` names them."""

log = get_logger("goloves.guard")

Watched = TypeVar("Watched", bound=Store)


class _Guard(ABC, Generic[Watched]):
    """What both guards have in common, and what they hand on unchanged."""

    _kind: Literal["tag", "worker"]
    """Of the marks that it compares."""

    def __init__(self, store: Watched, marks: Marks, node: str) -> None:
        """`node` names the node whose marks these are, in the store, for `goloves repair`."""
        self._store = store
        self._marks = marks
        self._node = node
        self._comparing = asyncio.Lock()

    @property
    def identity(self) -> str:
        """As the store's."""
        return self._store.identity

    @property
    def has_marks(self) -> bool:
        """As the store's."""
        return self._store.has_marks

    @property
    def address(self) -> str:
        """As the store's."""
        return self._store.address

    @property
    def _standing(self) -> Standing:
        return self._marks.standing(self._store.identity)

    async def open(self) -> None:
        """Open the store, and compare all marks of it.

        Raises StoreWentBackwards if it is behind them: it is open then, and halted.
        """
        await self._store.open()
        self._marks.carry(self._store.address, self._store.identity)
        standing = self._standing
        if standing.repairs is None:  # else the other guard read it before: what that one was granted may be older
            standing.repairs = await self._read_repairs()
        standing.uncompared = standing.uncompared | {self._kind}
        await self._compare()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def check_halt(self) -> int:
        """As the store's; where it is halted, this node's marks are written for the repair."""
        await self._check_halt()
        return await self._check_repairs()

    async def clock(self) -> int | None:
        """As the store's."""
        return await self._store.clock()

    async def halt(self, reason: str) -> None:
        """As the store's."""
        await self._store.halt(reason)

    async def write_marks(self, node: str, marks: Iterable[Mark]) -> None:
        """As the store's."""
        await self._store.write_marks(node, marks)

    async def _halted(self, reason: str) -> StoreWentBackwards:
        """Halt the whole store, and give the error to raise; where that fails, this node refuses all the same."""
        standing = self._standing
        if standing.halt != reason:
            log.critical("the store went backwards", reason=reason)
        standing.halt = reason
        standing.found_at = None
        return await self._write_halt()

    async def _write_halt(self) -> StoreWentBackwards:
        """Write the halt that this node owes, unless the store was repaired since; gives the error to raise.

        Several requests may be at it at once: what one of them settled is not written by another.
        """
        standing = self._standing
        reason, standing.repairs = standing.halt, None
        if not self._store.has_marks:
            return StoreWentBackwards(
                f"the store went backwards: {reason}. Only Leaf's table exists, so this node halts by itself until it"
                " is restarted: stop all nodes, run `goloves repair`, then start them",
                whole_store=True,
            )
        also = ""
        try:
            repairs = await self._read_repairs()
            if standing.halt != reason:
                return StoreWentBackwards(f"the store went backwards: {reason}; try again", whole_store=True)
            # Only a number that was read after the loss was found tells that a repair came later still, and only a
            # higher one: it may be a restore that set it back.
            if repairs is not None and standing.found_at is not None and repairs > standing.found_at:
                return self._missed_repair(repairs)
            if repairs is not None:
                standing.found_at = repairs
                standing.reported_at = float("-inf")  # a halt of its own, for which nothing was written yet
                await self._store.halt(reason)
            if standing.halt == reason:
                standing.halt = ""
        except GolovesError as failed:
            also = f" (the halt could not be written into the store: {failed.message})"
        return StoreWentBackwards(
            f"the store went backwards: {reason}. Nothing is issued until an operator runs `goloves repair`{also}",
            whole_store=True,
        )

    async def _read_repairs(self) -> int | None:
        """Read the number that repairs raise; None if the store is halted."""
        try:
            return await self._store.check_halt()
        except StoreWentBackwards:
            return None

    def _missed_repair(self, repairs: int) -> StoreWentBackwards:
        """Take in a repair that this node did not meet; gives the error to raise, once.

        What it holds may have been granted once more before that repair, which may not have known its marks.
        """
        standing = self._standing
        standing.halt, standing.found_at, standing.repairs = "", None, repairs
        standing.uncompared = ALL_KINDS
        return StoreWentBackwards(
            "the store was halted and repaired while this node did not look: what it holds is dropped; try again",
            whole_store=True,
        )

    async def _check_halt(self) -> None:
        """Refuse to grant before a halt that is owed is written: other tags and windows moved back too.

        After a halt that this node met, where repairs stand is read before anything is granted: one that comes later is
        noticed by that.
        """
        if self._standing.halt:
            raise await self._write_halt()
        if self._standing.repairs is None and self._store.has_marks:
            await self._check_repairs()

    async def _check_repairs(self) -> int:
        """Notice a halt though nothing is asked for, and one that was ended while this node slept; gives the number."""
        standing = self._standing
        try:
            repairs = await self._store.check_halt()
        except StoreWentBackwards as error:
            if standing.repairs is None:  # it was told of this halt before, and holds nothing any more
                await self._report(error)
            self._met(error)
            raise
        before, standing.repairs = standing.repairs, repairs
        if before is None:
            # It met the halt that was ended; but the repair may not have got all its marks.
            standing.uncompared = ALL_KINDS
            standing.reported_at = float("-inf")
        elif repairs != before:  # a restore sets it back, too
            raise self._missed_repair(repairs)
        return repairs

    async def _compare(self) -> None:
        """Compare all marks of this kind, if that is due; a store that is behind them is halted."""
        if self._kind not in self._standing.uncompared:
            return
        async with self._comparing:
            standing = self._standing
            if self._kind not in standing.uncompared:
                return
            behind = await self._find_behind()
            standing.uncompared = standing.uncompared - {self._kind}
        if behind:
            raise await self._halted(behind)

    @abstractmethod
    async def _find_behind(self) -> str:
        """Say which mark of this kind the store is behind; empty if none."""

    def _met(self, error: StoreWentBackwards) -> None:
        """Take in that the store says it is halted; the next call writes the marks (rule 7)."""
        if error.whole_store:
            self._standing.repairs = None

    async def _report(self, error: StoreWentBackwards) -> None:
        """Write this node's marks into a store that is halted as a whole, for the repair; now and then anew."""
        standing, now = self._standing, asyncio.get_running_loop().time()
        if not error.whole_store or not self._store.has_marks or now - standing.reported_at < REPORT_EVERY:
            return
        marks = self._marks.all(self._store.identity)
        standing.reported_at = now  # before it is done: every tag that is refused meanwhile would do it too
        try:
            for at in range(0, len(marks), REPORTED):
                await self._store.write_marks(self._node, marks[at : at + REPORTED])
        except GolovesError as failed:
            standing.reported_at = float("-inf")
            log.error("this node's marks could not be written into the store", reason=failed.message)

    def _granted(self, mark: Mark) -> None:
        self._marks.rise(self._store.identity, mark)
        self._standing.reported_at = float("-inf")


class SegmentGuard(_Guard[SegmentStore]):
    """A segment store, watched; see the module's rules."""

    _kind = "tag"

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        """Allocate, and refuse a range below the mark."""
        await self._check_halt()
        await self._compare()
        before = self._marks.tag(self._store.identity, tag)
        if not self._store.has_marks:
            # The store can't refuse: an allocation below the mark would move the number on, perhaps past it, and after
            # a restart nothing would show any more that it was set back.
            await self._check_behind({tag: before})
        try:
            granted = await self._store.allocate(tag, size, exact=exact)
        except StoreWentBackwards as error:
            self._met(error)
            raise
        except UnknownTag:
            await self._check_behind({tag: before})
            raise
        if granted.start < before:
            raise await self._halted(
                f"the range [{granted.start}, {granted.end}) of the tag {tag!r} lies below {before}"
            )
        self._granted(Mark("tag", tag, granted.end))
        await self._check_halt()  # found by another request while this one was under way
        return granted

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        """Read tags, and raise their marks; a store that remembers less than this node halts.

        A mark is raised to what the store granted, not to `max_id`, which a person may have set and set back: such a
        number is the tag's own matter (R4). A store whose `max_id` alone has passed a mark remembers all the same: Leaf
        moves it without the store's mark, and so does a node that began before `goloves migrate`. Nothing below it is
        granted.
        """
        await self._check_halt()
        await self._check_repairs()
        await self._compare()
        identity = self._store.identity
        before = {name: self._marks.tag(identity, name) for name in names}
        found = await self._store.read_tags(before)
        for name, tag in found.items():
            granted = tag.max_id if tag.mark is None else tag.mark
            stands = max(granted, tag.max_id)
            if stands < before[name]:
                raise await self._halted(_known_below(name, stands, before[name]))
            if before[name] >= 0:
                self._marks.rise(identity, Mark("tag", name, granted))
        await self._check_behind({name: mark for name, mark in before.items() if name not in found})
        return found

    async def _find_behind(self) -> str:
        marks = {mark.name: mark.value for mark in self._marks.all(self._store.identity) if mark.kind == "tag"}
        names = list(marks)
        for at in range(0, len(names), MAX_READ):
            if behind := await self._behind({name: marks[name] for name in names[at : at + MAX_READ]}):
                return behind
        return ""

    async def _check_behind(self, before: Mapping[str, int]) -> None:
        """Halt if the store remembers less of tags than these marks, be they listed or gone."""
        behind = await self._behind({name: mark for name, mark in before.items() if mark >= 0})
        if behind:
            raise await self._halted(behind)

    async def _behind(self, marks: Mapping[str, int]) -> str:
        """Say of which tag the store remembers less than these marks, at most 1,000; empty if of none.

        Where only Leaf's table exists, a tag that is gone leaves no trace: it is compared when it is there again.
        """
        if not marks:
            return ""
        stands = await self._store.read_remembered(marks)
        for name, mark in marks.items():
            if stands.get(name, -1) < mark and (name in stands or self._store.has_marks):
                return _known_below(name, stands.get(name), mark)
        return ""

    async def read_remembered(self, names: Iterable[str]) -> dict[str, int]:
        """As the store's."""
        return await self._store.read_remembered(names)

    async def list_tags(self, *, prefix: str = "", after: str = "", most: int = 100) -> list[Tag]:
        """As the store's."""
        return await self._store.list_tags(prefix=prefix, after=after, most=most)

    async def create_tag(self, new: NewTag) -> Tag:
        """As the store's."""
        return await self._store.create_tag(new)

    async def ensure_tag(self, new: NewTag) -> Tag:
        """As the store's."""
        return await self._store.ensure_tag(new)

    async def change_tag(self, name: str, change: TagChange) -> Tag:
        """As the store's."""
        return await self._store.change_tag(name, change)

    async def delete_tag(self, name: str) -> None:
        """As the store's."""
        await self._store.delete_tag(name)


def _known_below(tag: str, stands: int | None, mark: int) -> str:
    known = "never" if stands is None else f"up to {stands}"
    return f"the store granted numbers of the tag {tag!r} {known}, below {mark}"


def _space_lost(space: str) -> str:
    return f"the store no longer knows the space {space!r}, of which this node claimed worker ids"


class WorkerGuard(_Guard[WorkerStore]):
    """A worker store, watched; see the module's rules."""

    _kind = "worker"

    async def open_space(self, space: Space) -> None:
        """Register the space, unless it is one that the store has forgotten: made anew it would begin anew."""
        await self._check_halt()
        behind = await self._behind(space.name, self._marks.fences(self._store.identity, space.name))
        if behind:
            raise await self._halted(behind)
        try:
            await self._store.open_space(space)
        except StoreWentBackwards as error:
            self._met(error)
            raise

    async def claim(self, claim: Claim) -> Window:
        """Claim, and refuse a fence that is not above the mark of its worker id.

        The marks of all worker ids of the space are compared before: any of them that is behind shows that the store
        went backwards, and the next claim may not meet it.
        """
        await self._check_halt()
        await self._compare()
        before = self._marks.fences(self._store.identity, claim.space.name)
        behind = await self._behind(claim.space.name, before)
        if behind:
            raise await self._halted(behind)
        try:
            window = await self._store.claim(claim)
        except StoreWentBackwards as error:
            self._met(error)
            raise
        except UnknownSpace as error:
            if not before:
                raise
            raise await self._halted(_space_lost(claim.space.name)) from error
        return await self._seen(window, before)

    async def count_windows(self, space: str, now: int, workers: range | None = None) -> int:
        """As the store's."""
        return await self._store.count_windows(space, now, workers)

    async def last_seen(self) -> int | None:
        """As the store's."""
        return await self._store.last_seen()

    async def find_window(self, space: str, nonce: str) -> Window | None:
        """Read a claim back, and refuse a fence that is not above the mark of its worker id."""
        before = self._marks.fences(self._store.identity, space)
        window = await self._store.find_window(space, nonce)
        return None if window is None else await self._seen(window, before)

    async def extend(self, window: Window, end: int) -> Window:
        """Extend; a fence below ours, or ours under another nonce, means that the store went backwards (W3)."""
        await self._check_halt()
        await self._compare()
        try:
            extended = await self._store.extend(window, end)
        except StoreWentBackwards as error:
            if error.whole_store:
                self._met(error)
                raise
            raise await self._halted(error.message) from error
        except WindowLost:
            await self._check_repairs()  # a repair that was missed may have rested for less than this window lasts
            raise
        await self._check_halt()
        return extended

    async def _find_behind(self) -> str:
        identity = self._store.identity
        for space in dict.fromkeys(mark.name for mark in self._marks.all(identity) if mark.kind == "worker"):
            if behind := await self._behind(space, self._marks.fences(identity, space)):
                return behind
        return ""

    async def release(self, window: Window, floor: int) -> None:
        """As the store's."""
        await self._store.release(window, floor)

    async def read_fences(self, space: str, workers: Iterable[int]) -> dict[int, int] | None:
        """As the store's."""
        return await self._store.read_fences(space, workers)

    async def _behind(self, space: str, marks: Mapping[int, int]) -> str:
        """Say which of these fences the store has not reached, or that it lost the space; empty if all is well."""
        if not self._store.has_marks:
            return ""  # no windows there, and no ids of them
        workers = list(marks)
        for at in range(0, len(workers), MAX_READ):
            fences = await self._store.read_fences(space, workers[at : at + MAX_READ])
            if fences is None:
                return _space_lost(space)
            for worker, fence in fences.items():
                if fence < marks[worker]:
                    return f"worker {worker} of the space {space!r} has fence {fence}, below {marks[worker]}"
        return ""

    async def _seen(self, window: Window, before: dict[int, int]) -> Window:
        mark = before.get(window.worker, -1)
        if window.fence <= mark:
            raise await self._halted(
                f"fence {window.fence} of worker {window.worker} in the space {window.space!r} is not above {mark}"
            )
        self._granted(Mark("worker", window.space, window.fence, window.worker))
        await self._check_halt()  # found by another request while this one was under way
        return window
