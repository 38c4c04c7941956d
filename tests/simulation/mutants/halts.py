"""Mutants of the guard, of halts and of repairs."""

from collections.abc import Mapping
from typing import Any

from pytest import MonkeyPatch

from goloves.core.grants import Range, Window
from goloves.errors import GolovesError
from goloves.service.spaces import SpaceSource
from goloves.service.tags import TagSource
from goloves.stores.base import Mark
from goloves.stores.guard import SegmentGuard, WorkerGuard
from goloves.stores.marks import Marks
from goloves.stores.memory import MemoryStore
from simulation.cluster import Cluster
from simulation.mutants.listed import mutant

RESTORED = ("restored in peace", "restored", "static, restored")

ALONE = "static, restored"
"""Has stories in which nobody draws numbers: else those of tags show first that a store was set back."""


@mutant(*RESTORED)
def r5_guard_compares_no_range(patch: MonkeyPatch) -> None:
    patch.setattr(Marks, "tag", lambda self, identity, tag: -1)


@mutant()
def r5_guard_compares_with_the_mark_after_the_answer(patch: MonkeyPatch) -> None:
    async def allocate(self: SegmentGuard, tag: str, size: int, *, exact: bool = False) -> Range:
        granted = await self._store.allocate(tag, size, exact=exact)
        identity = self._store.identity
        if granted.start < self._marks.tag(identity, tag):
            raise await self._halted("a false alarm")
        self._marks.rise(identity, Mark("tag", tag, granted.end))
        return granted

    patch.setattr(SegmentGuard, "allocate", allocate)


@mutant(*RESTORED)
def r5_guard_compares_no_tag_when_it_opens_the_store(patch: MonkeyPatch) -> None:
    async def nothing(self: SegmentGuard) -> str:
        return ""

    patch.setattr(SegmentGuard, "_find_behind", nothing)


@mutant(ALONE)
def r5_guard_compares_no_fence(patch: MonkeyPatch) -> None:
    """Neither those of the space before a claim nor that of the answer; each of them alone is held by `test_guard.py`.

    One of them is enough in nearly every story, for a node meets its own worker ids again.
    """

    async def seen(self: WorkerGuard, window: Window, before: dict[int, int]) -> Window:
        self._granted(Mark("worker", window.space, window.fence, window.worker))
        return window

    async def nothing(self: WorkerGuard, space: str, marks: Mapping[int, int]) -> str:
        return ""

    patch.setattr(WorkerGuard, "_seen", seen)
    patch.setattr(WorkerGuard, "_behind", nothing)


@mutant(*RESTORED)
def r6_halt_is_not_looked_at(patch: MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_check_granting", MemoryStore._check_open)


@mutant(*RESTORED)
def r6_window_is_kept_in_a_halt(patch: MonkeyPatch) -> None:
    patch.setattr(SpaceSource, "drop", lambda self: None)


@mutant(*RESTORED)
def r6_ranges_are_kept_in_a_halt(patch: MonkeyPatch) -> None:
    def refuse(self: TagSource, error: GolovesError) -> None:
        self._halts += 1
        self._refuse_when_empty(error)

    patch.setattr(TagSource, "refuse", refuse)


@mutant(*RESTORED)
def r6_range_that_was_asked_for_before_a_halt_is_used(patch: MonkeyPatch) -> None:
    def refuse(self: TagSource, error: GolovesError) -> None:
        self._buffer.clear()
        self._refuse_when_empty(error)

    patch.setattr(TagSource, "refuse", refuse)


@mutant("operators")
def r6_repair_does_not_raise_the_numbers(patch: MonkeyPatch) -> None:
    async def nothing(self: MemoryStore, numbers: Mapping[str, int]) -> None:
        for name in numbers:
            self._marked(name).halted = ""
            self._marked(name).mark = -1

    patch.setattr(MemoryStore, "raise_tags", nothing)


@mutant(*RESTORED)
def r6_repair_does_not_raise_the_floor(patch: MonkeyPatch) -> None:
    async def nothing(self: MemoryStore, space: str, floor: int) -> None:
        pass

    patch.setattr(MemoryStore, "raise_floor", nothing)


@mutant(*RESTORED)
def r6_repair_leaves_windows_that_are_under_way(patch: MonkeyPatch) -> None:
    async def nothing(self: MemoryStore, *_: Any) -> None:
        pass

    patch.setattr(MemoryStore, "end_windows", nothing)
    patch.setattr(MemoryStore, "raise_fences", nothing)


@mutant("failover")
def r7_another_server_is_not_noticed(patch: MonkeyPatch) -> None:
    def meet(self: Cluster) -> None:
        if self.failover == "skip":
            self.data.known_server = self.server
            self._know_everything()

    patch.setattr(Cluster, "meet_server", meet)
