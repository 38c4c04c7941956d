"""Rows that somebody else has locked: the matter of one tag, or one space, and not of the store."""

import asyncio

import pytest

from goloves.config import SegmentConfig
from goloves.errors import Locked, NoRange
from goloves.service.tags import FIRST_REST, LONGEST_REST
from service.world import ObedientStore, World, on_virtual_time, raising, refused

LOCKED = raising(Locked("lock wait timeout"))

WAITS = 0.5
"""Seconds for which a call waits for a lock before it is given up, as in a database."""


def lock(store: ObedientStore, name: str) -> None:
    """Let calls for this tag meet a lock; others go through."""

    async def meet() -> None:
        if store.asked[-1][0] == name:
            await asyncio.sleep(WAITS)
            raise Locked("lock wait timeout")

    store.before["allocate"] = meet


def calls_for(store: ObedientStore, name: str) -> int:
    return sum(tag == name for tag, _ in store.asked)


@on_virtual_time
async def test_a_locked_tag_leaves_the_gate_open_and_the_other_tags_and_the_readiness_alone() -> None:
    async with World(segment=SegmentConfig(deadline=5)) as world:
        lock(world.store, "order")
        with pytest.raises(NoRange, match=r"somebody else holds its lock in the store \(lock wait timeout\)"):
            await world.ids("order")
        begun = world.loop.now
        assert await world.ids("dry", count=50)
        assert world.loop.now == begun
        assert world.service.readiness() == []


@on_virtual_time
async def test_a_locked_tag_is_tried_more_and_more_rarely_and_never_more_rarely_than_every_few_seconds() -> None:
    async with World(segment=SegmentConfig(deadline=30)) as world:
        lock(world.store, "order")
        asked = world.ask("order")
        await asyncio.sleep(3)
        early = calls_for(world.store, "order")
        assert 3 <= early <= 5
        await asyncio.sleep(30)
        later = calls_for(world.store, "order") - early
        assert 30 / (LONGEST_REST + WAITS) - 1 <= later <= 30 / (LONGEST_REST / 2 + WAITS) + 1
        await asyncio.wait([asked])
        assert isinstance(asked.exception(), NoRange)


@on_virtual_time
async def test_who_waits_for_a_locked_tag_is_served_when_the_lock_is_let_go() -> None:
    async with World(segment=SegmentConfig(deadline=60)) as world:
        lock(world.store, "order")
        asked = world.ask("order")
        await asyncio.sleep(20)
        world.store.before.clear()
        freed = world.loop.now
        assert await asked == [1]
        assert world.loop.now - freed <= LONGEST_REST + WAITS


@on_virtual_time
async def test_after_a_lock_was_let_go_the_next_one_is_met_with_the_shortest_rest_again() -> None:
    async with World(segment=SegmentConfig(deadline=60)) as world:
        for _ in range(2):
            lock(world.store, "order")
            asked = world.ask("order", count=1000)
            await asyncio.sleep(WAITS / 2)
            world.store.before["allocate"] = LOCKED
            await asyncio.sleep(WAITS / 2 + FIRST_REST)
            world.store.before.clear()
            freed = world.loop.now
            await asked
            assert world.loop.now - freed <= 3 * FIRST_REST


@on_virtual_time
async def test_ranges_of_a_locked_tag_are_refused_at_once_but_for_one_that_tries_now_and_then() -> None:
    async with World(segment=SegmentConfig(deadline=30)) as world:
        lock(world.store, "order")
        for _ in range(40):
            with pytest.raises(Locked):
                await world.service.segment_range("order", 1000)
            await asyncio.sleep(0.05)
        assert 2 <= calls_for(world.store, "order") <= 5
        world.store.before.clear()
        await asyncio.sleep(LONGEST_REST)
        granted = await world.service.segment_range("order", 1000)
        assert (granted.start, granted.end) == (1, 1001)
        assert (await world.service.segment_range("order", 1000)).start == 1001


@on_virtual_time
async def test_r3_a_lock_burns_nothing_for_nothing_was_granted() -> None:
    async with World(segment=SegmentConfig(deadline=30)) as world:
        world.store.before["allocate"] = LOCKED
        asked = world.ask("order")
        await asyncio.sleep(2)
        world.store.before.clear()
        assert await asked == [1]
        assert world.counters.ranges_burned == 0
        assert world.counters.refills_failed >= 2


@on_virtual_time
async def test_a_store_that_goes_away_behind_a_lock_is_what_the_error_names() -> None:
    async with World() as world:
        world.store.before["allocate"] = LOCKED
        with pytest.raises(NoRange, match="lock"):
            await world.ids("order", timeout=0.2)
        world.store.before["all"] = refused
        world.store.before["allocate"] = refused
        await world.wait_for(lambda: world.service._segment_gate.error)
        with pytest.raises(NoRange, match="the store is away"):
            await world.ids("order", timeout=0.2)


@on_virtual_time
async def test_a_space_whose_row_is_locked_is_tried_about_once_a_second_and_keeps_its_window() -> None:
    async with World() as world:
        held = world.service.spaces["default"].window
        assert held is not None
        world.store.before["extend"] = LOCKED
        await asyncio.sleep(100)
        before = world.store.calls["extend"]
        await asyncio.sleep(30)
        assert 20 <= world.store.calls["extend"] - before <= 45
        assert await world.snowflakes(5)
        world.store.before.clear()
        await asyncio.sleep(2)
        now = world.service.spaces["default"].window
        assert now is not None
        assert (now.fence, now.nonce) == (held.fence, held.nonce)
        assert now.end > held.end


@on_virtual_time
async def test_a_space_that_is_locked_at_the_start_is_registered_when_it_is_free() -> None:
    async with World(started=False) as world:
        world.store.before["open_space"] = LOCKED
        await world.service.start()
        await asyncio.sleep(30)
        assert 20 <= world.store.calls["open_space"] <= 45
        assert world.service.readiness()
        world.store.before.clear()
        await asyncio.sleep(2)
        assert await world.snowflakes()
