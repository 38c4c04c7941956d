"""Mutants of windows and of the generator that works in them."""

from dataclasses import replace

from pytest import MonkeyPatch

from goloves.core.grants import Window
from goloves.core.layout import Layout
from goloves.core.snowflake import SnowflakeGenerator, Why
from goloves.errors import NoWorkerFree, UnknownOutcome, WindowLost
from goloves.service.spaces import SpaceSource
from goloves.stores import rules
from goloves.stores.base import Claim, Space
from goloves.stores.memory import MemoryStore, SpaceRow
from simulation.mutants.listed import meanwhile, mutant


@mutant("static", "pooled")
def w1_window_starts_at_now_whatever_the_floor(patch: MonkeyPatch) -> None:
    whole = rules.window
    patch.setattr(rules, "window", lambda claim, worker, fence, floor: whole(claim, worker, fence, 0))
    patch.setattr(MemoryStore, "_choose", lambda self, claim, rows: claim.rng.choice(rules.candidates(claim)))


@mutant()
def w1_claim_does_not_move_the_floor(patch: MonkeyPatch) -> None:
    whole = MemoryStore.claim

    async def claim(self: MemoryStore, asked: Claim) -> Window:
        window = await whole(self, asked)
        self.data.workers[window.space][window.worker].floor = window.start
        return window

    patch.setattr(MemoryStore, "claim", claim)


@mutant("static", "pooled")
def w1_claim_does_not_compare_the_floor_that_it_read(patch: MonkeyPatch) -> None:
    """It compares the fence alone, which an extension in the same moment leaves as it is."""
    whole = MemoryStore.claim

    async def claim(self: MemoryStore, asked: Claim) -> Window:
        read = {worker: (row.fence, row.floor) for worker, row in self.data.workers.get(asked.space.name, {}).items()}
        for _ in range(300):
            await meanwhile()
        for worker, row in self.data.workers.get(asked.space.name, {}).items():
            if worker in read and read[worker][0] == row.fence:
                row.floor = read[worker][1]
        return await whole(self, asked)

    patch.setattr(MemoryStore, "claim", claim)


@mutant()
def w1_generator_issues_past_the_end_of_its_window(patch: MonkeyPatch) -> None:
    whole = SnowflakeGenerator.adopt

    def adopt(self: SnowflakeGenerator, window: Window) -> None:
        whole(self, window)
        self._end = self.layout.end_units

    patch.setattr(SnowflakeGenerator, "adopt", adopt)
    patch.setattr(SnowflakeGenerator, "extend", lambda self, window: None)


@mutant()
def w1_window_is_used_before_the_store_acknowledged_it(patch: MonkeyPatch) -> None:
    """Used while the claim is under way, and persisted afterwards."""
    whole = SpaceSource._extend

    async def extend(self: SpaceSource) -> None:
        window = self.window
        if window is not None:
            self._generator.extend(window.extended(window.end + self._length))
        await whole(self)

    patch.setattr(SpaceSource, "_extend", extend)


@mutant()
def w2_window_ends_in_the_wrong_unit(patch: MonkeyPatch) -> None:
    whole = SnowflakeGenerator.adopt

    def adopt(self: SnowflakeGenerator, window: Window) -> None:
        whole(self, replace(window, end=window.end * self.layout.unit_ms))

    patch.setattr(SnowflakeGenerator, "adopt", adopt)


@mutant()
def w2_window_starts_in_the_wrong_unit(patch: MonkeyPatch) -> None:
    whole = MemoryStore.claim

    async def claim(self: MemoryStore, asked: Claim) -> Window:
        return await whole(self, replace(asked, now=asked.now // asked.space.layout.unit_ms))

    patch.setattr(MemoryStore, "claim", claim)


@mutant("edge of time")
def w2_windows_go_past_the_end_of_the_layout(patch: MonkeyPatch) -> None:
    def window(claim: Claim, worker: int, fence: int, floor: int) -> Window:
        if floor > claim.now:
            raise NoWorkerFree("not yet", lowest_floor=floor)
        return Window(claim.space.name, worker, fence, claim.nonce, claim.now, claim.now + claim.length)

    patch.setattr(rules, "window", window)


@mutant("edge of time")
def w2_present_wraps_at_the_edges_of_the_layout(patch: MonkeyPatch) -> None:
    def units(self: Layout, unix_ms: int) -> int:
        return (unix_ms - self.epoch_ms) // self.unit_ms % self.end_units

    patch.setattr(Layout, "units", units)


@mutant()
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


@mutant()
def w2_sequence_runs_over_its_width(patch: MonkeyPatch) -> None:
    whole = SnowflakeGenerator._advance

    def advance(self: SnowflakeGenerator, now: int) -> bool:
        moved = whole(self, now)
        if moved and self._next & (self.layout.sequences - 1) == 0:
            self._limit += 8
        return moved

    patch.setattr(SnowflakeGenerator, "_advance", advance)


@mutant("static", "pooled")
def w3_extension_does_not_compare_the_fence(patch: MonkeyPatch) -> None:
    patch.setattr(rules, "check_extension", lambda held, fence, nonce, floor: None)


@mutant()
def w3_late_extension_lowers_the_floor(patch: MonkeyPatch) -> None:
    whole = MemoryStore.extend

    async def extend(self: MemoryStore, window: Window, end: int) -> Window:
        extended = await whole(self, window, end)
        self.data.workers[window.space][window.worker].floor = end
        return extended

    patch.setattr(MemoryStore, "extend", extend)


@mutant("pooled", "two configurations")
def w3_lost_window_goes_on(patch: MonkeyPatch) -> None:
    whole = MemoryStore.extend

    async def extend(self: MemoryStore, window: Window, end: int) -> Window:
        try:
            return await whole(self, window, end)
        except WindowLost:
            return window.extended(end)

    patch.setattr(MemoryStore, "extend", extend)


@mutant()
def w4_unknown_claim_is_adopted_whoever_holds_it(patch: MonkeyPatch) -> None:
    async def find(self: MemoryStore, space: str, nonce: str) -> Window | None:
        for worker, row in self.data.workers.get(space, {}).items():
            if row.floor > row.start:
                return Window(space, worker, row.fence, row.nonce, row.start, row.floor)
        return None

    patch.setattr(MemoryStore, "find_window", find)


@mutant()
def w4_nonce_is_always_the_same(patch: MonkeyPatch) -> None:
    whole = MemoryStore.claim

    async def claim(self: MemoryStore, asked: Claim) -> Window:
        return await whole(self, replace(asked, nonce="0" * 32))

    patch.setattr(MemoryStore, "claim", claim)


@mutant()
def w4_unknown_claim_is_repeated(patch: MonkeyPatch) -> None:
    whole = SpaceSource._find

    async def find(self: SpaceSource, nonce: str) -> Window | None:
        shared = self._shared
        now = self.layout.units(self.layout.unix_ms(self._now()))
        claim = Claim(self._space, now, self._length, nonce, shared.owner, shared.rng, self._workers)
        try:
            return await shared.gate.call(lambda: shared.store.claim(claim))
        except UnknownOutcome:
            return await whole(self, nonce)

    patch.setattr(SpaceSource, "_find", find)


@mutant()
def w5_released_before_it_stops_issuing(patch: MonkeyPatch) -> None:
    async def release(self: SpaceSource) -> None:
        window = self.window
        if window is not None:
            await self._shared.store.release(window, max(window.start, self._generator._t + 1))

    patch.setattr(SpaceSource, "_release", release)


@mutant()
def w5_floor_of_a_release_is_the_last_unit_used(patch: MonkeyPatch) -> None:
    whole = SnowflakeGenerator.retire

    def retire(self: SnowflakeGenerator) -> tuple[Window, int] | None:
        retired = whole(self)
        return None if retired is None else (retired[0], max(retired[0].start, retired[1] - 1))

    patch.setattr(SnowflakeGenerator, "retire", retire)


@mutant()
def w5_late_release_reopens_a_window_claimed_since(patch: MonkeyPatch) -> None:
    async def release(self: MemoryStore, window: Window, floor: int) -> None:
        row = self.data.workers.get(window.space, {}).get(window.worker)
        if row is not None:
            row.floor = floor

    patch.setattr(MemoryStore, "release", release)


@mutant("pooled")
def w6_windows_under_way_may_be_claimed(patch: MonkeyPatch) -> None:
    whole = rules.window
    patch.setattr(MemoryStore, "_choose", lambda self, claim, rows: claim.rng.choice(rules.candidates(claim)))
    patch.setattr(
        rules, "window", lambda claim, worker, fence, floor: whole(claim, worker, fence, min(floor, claim.now))
    )


@mutant("static")
def w6_static_number_counts_as_its_window(patch: MonkeyPatch) -> None:
    """A node that is started with a number takes up the window that stands there under it."""
    whole = MemoryStore.claim

    async def claim(self: MemoryStore, asked: Claim) -> Window:
        row = self.data.workers.get(asked.space.name, {}).get(asked.workers[0]) if asked.workers else None
        if not asked.space.static or asked.workers is None or row is None or row.floor <= asked.now or not row.nonce:
            return await whole(self, asked)
        return Window(asked.space.name, asked.workers[0], row.fence, row.nonce, row.start, row.floor)

    patch.setattr(MemoryStore, "claim", claim)


@mutant("pooled", "restored in peace")
def w8_window_is_claimed_with_a_clock_that_is_ahead(patch: MonkeyPatch) -> None:
    async def nothing(self: SpaceSource) -> None:
        pass

    patch.setattr(SpaceSource, "_check_clock", nothing)


@mutant("two configurations")
def w9_another_layout_is_taken_for_the_same(patch: MonkeyPatch) -> None:
    async def open_space(self: MemoryStore, space: Space) -> None:
        self.data.spaces.setdefault(space.name, SpaceRow(space.layout, static=space.static))
        self._layouts[space.name] = space.layout

    patch.setattr(MemoryStore, "open_space", open_space)
    patch.setattr(rules, "check_way", lambda claim, fingerprint, registered, under_way: None)


@mutant("two configurations")
def w10_restricted_worker_ids_are_not_looked_at(patch: MonkeyPatch) -> None:
    patch.setattr(rules, "candidates", lambda claim: range(claim.space.layout.workers))


@mutant()
def keeper_ends_with_an_error_that_nobody_expects(patch: MonkeyPatch) -> None:
    async def extend(self: SpaceSource) -> None:
        raise ValueError("not one of ours")

    async def unforeseen(self: SpaceSource, error: Exception) -> None:
        raise error

    patch.setattr(SpaceSource, "_extend", extend)
    patch.setattr(SpaceSource, "_unforeseen", unforeseen)


@mutant()
def keeper_claims_nothing(patch: MonkeyPatch) -> None:
    async def claim(self: SpaceSource) -> None:
        raise NoWorkerFree("never", lowest_floor=0)

    patch.setattr(SpaceSource, "_claim", claim)
