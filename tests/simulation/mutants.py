"""Mutants: each breaks one rule of uniqueness on purpose. The simulation has to notice every one of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pytest import MonkeyPatch

from goloves.core.grants import Range, Window
from goloves.core.segment import SegmentBuffer
from goloves.core.snowflake import SnowflakeGenerator, Why
from goloves.errors import GolovesError, StoreUnavailable, UnknownOutcome, UnknownTag, WindowLost
from goloves.service.spaces import SpaceSource
from goloves.service.tags import TagSource
from goloves.stores import rules
from goloves.stores.base import Claim, Mark
from goloves.stores.guard import SegmentGuard
from goloves.stores.marks import Marks
from goloves.stores.memory import MemoryStore, TagRow

Mutant = Callable[[MonkeyPatch], None]

MUTANTS: dict[str, Mutant] = {}


def mutant(break_it: Mutant) -> Mutant:
    """Enter a mutant into the list, under its name."""
    MUTANTS[break_it.__name__] = break_it
    return break_it


# --- windows ---


@mutant
def w1_window_starts_at_now_whatever_the_floor(patch: MonkeyPatch) -> None:
    whole = rules.window
    patch.setattr(rules, "window", lambda claim, worker, fence, floor: whole(claim, worker, fence, 0))
    patch.setattr(MemoryStore, "_choose", lambda self, claim, rows: claim.rng.choice(rules.candidates(claim)))


@mutant
def w1_claim_does_not_move_the_floor(patch: MonkeyPatch) -> None:
    whole = MemoryStore.claim

    async def claim(self: MemoryStore, asked: Claim) -> Window:
        window = await whole(self, asked)
        self.data.workers[window.space][window.worker].floor = window.start
        return window

    patch.setattr(MemoryStore, "claim", claim)
    patch.setattr(rules, "check_extension", _extension_without_floor)


def _extension_without_floor(held: Window, fence: int | None, nonce: str, floor: int) -> None:
    if fence is not None and (fence, nonce) != (held.fence, held.nonce):
        raise WindowLost("claimed by another node")


@mutant
def w1_generator_issues_past_the_end_of_its_window(patch: MonkeyPatch) -> None:
    whole = SnowflakeGenerator.adopt

    def adopt(self: SnowflakeGenerator, window: Window) -> None:
        whole(self, window)
        self._end = self.layout.end_units

    patch.setattr(SnowflakeGenerator, "adopt", adopt)
    patch.setattr(SnowflakeGenerator, "extend", lambda self, window: None)


@mutant
def w2_window_in_the_wrong_unit(patch: MonkeyPatch) -> None:
    whole = SnowflakeGenerator.adopt

    def adopt(self: SnowflakeGenerator, window: Window) -> None:
        whole(self, replace(window, end=window.end * self.layout.unit_ms))

    patch.setattr(SnowflakeGenerator, "adopt", adopt)


@mutant
def w2_time_follows_the_clock_backwards(patch: MonkeyPatch) -> None:
    def advance(self: SnowflakeGenerator, now: int) -> bool:
        if self.window is None or not self.window.start <= now < self._end:
            self.why = Why.NO_WINDOW
            return False
        base = now << self.layout.time_shift | self._worker
        self._t, self._low, self._highest = now, 0, now
        self._next, self._limit = base, base + self.layout.sequences * self._stride
        return True

    def take(self: SnowflakeGenerator, now: int) -> int | None:
        if now != self._t or self._next >= self._limit:
            return self._take_next() if advance(self, now) else None
        return self._take_next()

    patch.setattr(SnowflakeGenerator, "_advance", advance)
    patch.setattr(SnowflakeGenerator, "next", take)


@mutant
def w2_sequence_runs_over_its_width(patch: MonkeyPatch) -> None:
    whole = SnowflakeGenerator._advance

    def advance(self: SnowflakeGenerator, now: int) -> bool:
        moved = whole(self, now)
        if moved and self._next & (self.layout.sequences - 1) == 0:
            self._limit += 8
        return moved

    patch.setattr(SnowflakeGenerator, "_advance", advance)


@mutant
def w3_extension_does_not_compare_the_fence(patch: MonkeyPatch) -> None:
    patch.setattr(rules, "check_extension", lambda held, fence, nonce, floor: None)


@mutant
def w3_late_extension_lowers_the_floor(patch: MonkeyPatch) -> None:
    async def extend(self: MemoryStore, window: Window, end: int) -> Window:
        row = self.data.workers.get(window.space, {}).get(window.worker)
        if row is None or (row.fence, row.nonce) != (window.fence, window.nonce):
            raise WindowLost("claimed by another node")
        row.floor = end
        return window.extended(end)

    patch.setattr(MemoryStore, "extend", extend)
    patch.setattr(MemoryStore, "release", _release_nothing)


async def _release_nothing(self: MemoryStore, window: Window, floor: int) -> None:
    pass


@mutant
def w3_lost_window_goes_on(patch: MonkeyPatch) -> None:
    whole = MemoryStore.extend

    async def extend(self: MemoryStore, window: Window, end: int) -> Window:
        try:
            return await whole(self, window, end)
        except WindowLost:
            return window.extended(end)

    patch.setattr(MemoryStore, "extend", extend)


@mutant
def w4_unknown_claim_is_adopted_whoever_holds_it(patch: MonkeyPatch) -> None:
    async def find(self: MemoryStore, space: str, nonce: str) -> Window | None:
        for worker, row in self.data.workers.get(space, {}).items():
            if row.floor > row.start:
                return Window(space, worker, row.fence, row.nonce, row.start, row.floor)
        return None

    patch.setattr(MemoryStore, "find_window", find)
    patch.setattr(Marks, "fences", lambda self, identity, space: {})


@mutant
def w4_nonce_is_always_the_same(patch: MonkeyPatch) -> None:
    whole = MemoryStore.claim

    async def claim(self: MemoryStore, asked: Claim) -> Window:
        return await whole(self, replace(asked, nonce="0" * 32))

    async def find(self: MemoryStore, space: str, nonce: str) -> Window | None:
        rows = sorted(self.data.workers.get(space, {}).items(), key=lambda item: -item[1].floor)
        return next((Window(space, worker, row.fence, row.nonce, row.start, row.floor) for worker, row in rows), None)

    patch.setattr(MemoryStore, "claim", claim)
    patch.setattr(MemoryStore, "find_window", find)
    patch.setattr(Marks, "fences", lambda self, identity, space: {})


@mutant
def w5_released_before_it_stops_issuing(patch: MonkeyPatch) -> None:
    async def release(self: SpaceSource) -> None:
        window = self.window
        if window is not None:
            await self._shared.store.release(window, max(window.start, self._generator._t + 1))

    patch.setattr(SpaceSource, "_release", release)


@mutant
def w5_floor_of_a_release_is_the_last_unit_used(patch: MonkeyPatch) -> None:
    whole = SnowflakeGenerator.retire

    def retire(self: SnowflakeGenerator) -> tuple[Window, int] | None:
        retired = whole(self)
        return None if retired is None else (retired[0], max(retired[0].start, retired[1] - 60))

    patch.setattr(SnowflakeGenerator, "retire", retire)


@mutant
def w5_late_release_reopens_a_window_claimed_since(patch: MonkeyPatch) -> None:
    async def release(self: MemoryStore, window: Window, floor: int) -> None:
        row = self.data.workers.get(window.space, {}).get(window.worker)
        if row is not None:
            row.floor = floor

    patch.setattr(MemoryStore, "release", release)
    patch.setattr(rules, "check_extension", _extension_without_floor)


@mutant
def w6_windows_under_way_may_be_claimed(patch: MonkeyPatch) -> None:
    whole = rules.window
    patch.setattr(MemoryStore, "_choose", lambda self, claim, rows: claim.rng.choice(rules.candidates(claim)))
    patch.setattr(rules, "window", lambda claim, worker, fence, floor: whole(claim, worker, fence, 0))
    patch.setattr(rules, "check_extension", lambda held, fence, nonce, floor: None)


@mutant
def w6_static_number_counts_as_its_window(patch: MonkeyPatch) -> None:
    """A node that is started with a number takes up the window that stands there under it."""
    whole = MemoryStore.claim

    async def claim(self: MemoryStore, asked: Claim) -> Window:
        row = self.data.workers.get(asked.space.name, {}).get(asked.workers[0]) if asked.workers else None
        if not asked.space.static or asked.workers is None or row is None or row.floor <= asked.now or not row.nonce:
            return await whole(self, asked)
        return Window(asked.space.name, asked.workers[0], row.fence, row.nonce, row.start, row.floor)

    patch.setattr(MemoryStore, "claim", claim)


# --- ranges ---


@mutant
def r1_number_is_read_and_written_in_two_steps(patch: MonkeyPatch) -> None:
    whole = MemoryStore.allocate

    async def allocate(self: MemoryStore, tag: str, size: int, *, exact: bool = False) -> Range:
        granted = await whole(self, tag, size, exact=exact)
        if size % 3 == 0:
            self.data.leaf[tag].max_id = self.data.tags[tag].mark = granted.start + 1
        return granted

    patch.setattr(MemoryStore, "allocate", allocate)


@mutant
def r3_unknown_range_is_guessed(patch: MonkeyPatch) -> None:
    whole = TagSource._allocate
    ends: dict[str, int] = {}

    async def allocate(self: TagSource, size: int) -> Range | None:
        try:
            granted = await self._shared.store.allocate(self.name, size)
        except UnknownOutcome:
            end = ends.get(self.name)
            return await whole(self, size) if end is None else Range(self.name, end, end + size)
        except (StoreUnavailable, UnknownTag, GolovesError):
            return await whole(self, size)
        ends[self.name] = granted.end
        return granted

    patch.setattr(TagSource, "_allocate", allocate)


@mutant
def r3_doubled_answer_is_put_twice(patch: MonkeyPatch) -> None:
    whole = SegmentBuffer.put

    def put(self: SegmentBuffer, granted: Range) -> None:
        whole(self, granted)
        if len(granted) % 2 == 0:
            whole(self, granted)

    patch.setattr(SegmentBuffer, "put", put)


@mutant
def buffer_hands_the_last_number_out_twice(patch: MonkeyPatch) -> None:
    whole = SegmentBuffer.take_many

    def take_many(self: SegmentBuffer, count: int) -> list[range]:
        spans = whole(self, count)
        if spans and len(spans[-1]) > 3:
            self._next -= 1
        return spans

    patch.setattr(SegmentBuffer, "take_many", take_many)


@mutant
def buffer_leaves_a_range_in_place(patch: MonkeyPatch) -> None:
    def take_range(self: SegmentBuffer, size: int) -> range | None:
        return range(self._next, self._next + size) if self._end - self._next >= size else None

    patch.setattr(SegmentBuffer, "take_range", take_range)


@mutant
def r4_store_has_no_mark(patch: MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_marked", lambda self, tag: TagRow(-1))


@mutant
def r4_tombstone_is_forgotten(patch: MonkeyPatch) -> None:
    whole = MemoryStore.delete_tag

    async def delete(self: MemoryStore, name: str) -> None:
        await whole(self, name)
        del self.data.tags[name]

    patch.setattr(MemoryStore, "delete_tag", delete)
    patch.setattr(Marks, "tag", lambda self, identity, tag: -1)


@mutant
def r5_guard_compares_with_the_mark_after_the_answer(patch: MonkeyPatch) -> None:
    async def allocate(self: SegmentGuard, tag: str, size: int, *, exact: bool = False) -> Range:
        granted = await self._store.allocate(tag, size, exact=exact)
        identity = self._store.identity
        if granted.start < self._marks.tag(identity, tag):
            raise await self._halted("a false alarm")
        self._marks.rise(identity, Mark("tag", tag, granted.end))
        return granted

    patch.setattr(SegmentGuard, "allocate", allocate)


@mutant
def r5_node_keeps_no_marks(patch: MonkeyPatch) -> None:
    patch.setattr(Marks, "tag", lambda self, identity, tag: -1)
    patch.setattr(Marks, "fences", lambda self, identity, space: {})
    patch.setattr(rules, "check_extension", _extension_without_floor)


@mutant
def r6_halt_is_not_looked_at(patch: MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_check_granting", MemoryStore._check_open)


@mutant
def r6_repair_does_not_raise_the_numbers(patch: MonkeyPatch) -> None:
    async def nothing(self: MemoryStore, numbers: Mapping[str, int]) -> None:
        for name in numbers:
            self.data.tags[name].halted = ""

    async def skip(self: MemoryStore, gap: int) -> None:
        pass

    patch.setattr(MemoryStore, "raise_tags", nothing)
    patch.setattr(MemoryStore, "skip_tags", skip)
    patch.setattr(Marks, "tag", lambda self, identity, tag: -1)


@mutant
def r6_repair_does_not_raise_the_floor(patch: MonkeyPatch) -> None:
    async def nothing(self: MemoryStore, space: str, floor: int) -> None:
        pass

    async def fences(self: MemoryStore, marks: Any) -> None:
        pass

    patch.setattr(MemoryStore, "raise_floor", nothing)
    patch.setattr(MemoryStore, "raise_fences", fences)
