import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from goloves.config import SnowflakeConfig
from goloves.core.layout import Layout, preset
from goloves.core.snowflake import SnowflakeGenerator
from goloves.errors import (
    ClockBackwards,
    NoWindow,
    NoWorkerFree,
    OverLayoutRate,
    ShuttingDown,
    StoreRefused,
    StoreWentBackwards,
    TimeUsedUp,
    TooManyWaiting,
)
from goloves.service import ServedSpace
from goloves.service.service import OBSERVE_EVERY
from goloves.service.spaces import EXTENSIONS_PER_WINDOW, LONGEST_RETRY, MAX_WAITING, RETRY, SpaceSource
from goloves.stores.base import Claim, Space
from goloves.stores.memory import MemoryData
from service.world import (
    SPACE,
    WINDOW,
    World,
    lost,
    on_virtual_time,
    raising,
    refused,
    slow,
    times,
    until,
)
from simulation.clocks import EPOCH_MS

LAYOUT = SPACE.layout


def space_of(world: World, name: str = "default") -> SpaceSource:
    return world.service.spaces[name]


def floor_of(world: World, worker: int) -> int:
    return world.data.workers["default"][worker].floor


def fence_of(world: World, worker: int) -> int:
    return world.data.workers["default"][worker].fence


def worker_of(world: World) -> int:
    window = space_of(world).window
    assert window is not None
    return window.worker


async def somebody_claims(world: World, worker: int, *, now: int | None = None) -> None:
    """Let another node take this worker id, as if its window were past."""
    await world.operator.open_space(SPACE)
    when = floor_of(world, worker) if now is None else now
    claim = Claim(SPACE, when, 1000, "f" * 32, "another node", world.service._rng, range(worker, worker + 1))
    await world.operator.claim(claim)


# --- claiming ---


@on_virtual_time
async def test_w1_a_node_claims_a_window_that_begins_now_and_issues_from_it() -> None:
    async with World() as world:
        window = space_of(world).window
        assert window is not None
        assert (window.start, window.end) == (world.now, world.now + WINDOW * 1000)
        decoded = world.service.decode("default", (await world.snowflakes())[0])
        assert (decoded.worker, decoded.units) == (window.worker, world.now)
        assert decoded.unix_ms == EPOCH_MS
        id_ = space_of(world).take()
        assert id_ is not None
        assert world.service.decode("default", id_).sequence == 1
        assert world.counters.windows_claimed == 1


@on_virtual_time
async def test_w1_a_window_begins_at_or_above_the_floor_that_the_one_before_left() -> None:
    async with World(snowflake=SnowflakeConfig(max_backward=60.0)) as world:
        window = space_of(world).window
        assert window is not None
        await asyncio.sleep(5)
        await world.snowflakes()
    data = world.data
    only = range(window.worker, window.worker + 1)
    async with World(data=data, tags=(), spaces=[ServedSpace(SPACE, WINDOW, only)]) as world:
        await world.wait_for(lambda: space_of(world).usable, within=3)
        assert fence_of(world, window.worker) == 2
        assert data.workers["default"][window.worker].start >= window.start + 5001


@on_virtual_time
async def test_two_nodes_never_issue_the_same_id() -> None:
    data = MemoryData(uuid="a store")
    async with World(data=data) as one, World(data=data, tags=()) as other:
        ids: list[int] = []
        for _ in range(200):
            ids += await one.snowflakes(7)
            ids += await other.snowflakes(9)
            await asyncio.sleep(0.001)
        assert len(ids) == len(set(ids)) == 200 * 16
        assert worker_of(one) != worker_of(other)


@on_virtual_time
async def test_w10_a_node_claims_only_the_worker_ids_that_it_may() -> None:
    async with World(spaces=[ServedSpace(SPACE, WINDOW, range(2, 3))]) as world:
        assert worker_of(world) == 2


@on_virtual_time
async def test_w6_where_no_worker_id_is_free_a_request_is_told_how_long_it_takes() -> None:
    data = MemoryData(uuid="a store")
    worlds = [World(data=data, tags=()) for _ in range(5)]
    for world in worlds:
        await world.operator.open()
        await world.service.start()
        await world.settle()
    last = worlds[4]
    await asyncio.sleep(60)
    with pytest.raises(NoWindow, match=r"all 4 worker ids of space 'default' are taken.*becomes free in") as caught:
        await last.snowflakes()
    assert caught.value.retry_after is not None
    assert 500 < caught.value.retry_after <= 600
    assert "no window of the space 'default'" in last.service.readiness()[0]
    await worlds[0].service.close()
    await last.wait_for(lambda: space_of(last).usable, within=LONGEST_RETRY * 1.5)
    assert await last.snowflakes()
    for world in worlds[1:]:
        await world.service.close()


@on_virtual_time
async def test_w6_a_worker_id_is_claimed_once_and_not_again_while_requests_wait() -> None:
    async with World(started=False) as world:
        world.store.before["claim"] = slow(0.1)
        await world.service.start()
        tasks = [world.loop.create_task(world.snowflakes()) for _ in range(50)]
        await asyncio.wait(tasks)
        assert len({task.result()[0] for task in tasks}) == 50
        assert world.store.calls["claim"] == 1


# --- unknown outcomes of a claim ---


@on_virtual_time
async def test_w4_a_claim_whose_answer_was_lost_is_read_back_and_adopted_if_it_is_ours() -> None:
    async with World(started=False) as world:
        world.store.after["claim"] = times(1, lost)
        await world.service.start()
        await world.wait_for(lambda: space_of(world).usable, within=2)
        assert world.store.calls["claim"] == 1
        assert world.counters.windows_adopted == 1
        assert list(world.data.workers["default"]) == [worker_of(world)]
        assert await world.snowflakes(5)


@on_virtual_time
async def test_w4_a_claim_that_never_arrived_is_looked_for_and_made_anew_with_another_nonce() -> None:
    async with World(started=False) as world:
        world.store.before["claim"] = times(1, lost)
        await world.service.start()
        await world.wait_for(lambda: space_of(world).usable, within=2)
        first, second = world.store.claims
        assert first.nonce != second.nonce
        assert world.store.calls["find_window"] == 1
        assert world.counters.windows_adopted == 0


@on_virtual_time
async def test_w4_an_unknown_claim_is_not_repeated_while_the_store_is_away_but_looked_for() -> None:
    async with World(started=False) as world:
        world.store.after["claim"] = times(1, lost)
        world.store.before["find_window"] = refused
        await world.service.start()
        await asyncio.sleep(60)
        assert world.store.calls["claim"] == 1
        assert world.store.calls["find_window"] > 10
        with pytest.raises(NoWindow, match="connection refused"):
            await world.snowflakes()
        world.store.before.clear()
        await world.wait_for(lambda: space_of(world).usable, within=2)
        assert world.store.calls["claim"] == 1
        assert len(world.data.workers["default"]) == 1


@on_virtual_time
async def test_w4_a_claim_that_somebody_else_took_over_meanwhile_is_not_adopted() -> None:
    async with World(started=False) as world:
        world.store.after["claim"] = times(1, lost)
        world.store.before["find_window"] = refused
        await world.service.start()
        await world.settle()
        (worker,) = world.data.workers["default"]
        await somebody_claims(world, worker)
        world.store.before.clear()
        await world.wait_for(lambda: space_of(world).usable, within=2)
        assert world.store.calls["claim"] == 2
        window = space_of(world).window
        assert window is not None
        assert window.nonce == world.store.claims[1].nonce


# --- extending ---


@on_virtual_time
async def test_w3_a_window_is_extended_every_tenth_of_its_length() -> None:
    async with World() as world:
        for _ in range(60):
            await asyncio.sleep(WINDOW / EXTENSIONS_PER_WINDOW)
            window = space_of(world).window
            assert window is not None
            assert window.end - world.now >= WINDOW * 1000 * 0.89
            assert floor_of(world, window.worker) == window.end
        assert world.store.calls["claim"] == 1
        assert 60 <= world.counters.windows_extended <= 80


@on_virtual_time
async def test_w3_an_extension_whose_answer_was_lost_is_simply_made_again() -> None:
    async with World() as world:
        world.store.after["extend"] = times(3, lost)
        await asyncio.sleep(WINDOW / 5)
        assert world.counters.windows_extended >= 1
        assert world.store.calls["claim"] == 1


@on_virtual_time
async def test_ids_flow_for_nine_tenths_of_a_window_while_the_store_is_away_and_then_stop() -> None:
    async with World() as world:
        await asyncio.sleep(WINDOW * 2)
        world.store.before["all"] = refused
        went = world.loop.now
        while space_of(world).take() is not None:
            assert world.service.readiness() == []
            await asyncio.sleep(1)
        assert WINDOW * 0.89 <= world.loop.now - went <= WINDOW + 1
        with pytest.raises(NoWindow, match="connection refused"):
            await world.snowflakes()
        assert "connection refused" in world.service.readiness()[0]
        world.store.before.clear()
        await world.wait_for(lambda: space_of(world).usable, within=2)
        assert await world.snowflakes()


@on_virtual_time
async def test_w1_after_its_end_a_window_issues_nothing_though_nobody_said_that_it_is_lost() -> None:
    async with World() as world:
        window = space_of(world).window
        assert window is not None
        world.store.before["extend"] = slow(3000)
        await asyncio.sleep(WINDOW + 100)
        assert world.now > window.end
        assert space_of(world).take() is None
        assert not space_of(world).usable


@on_virtual_time
async def test_a_lost_window_goes_on_until_its_end_while_another_worker_id_is_claimed() -> None:
    async with World() as world:
        before = worker_of(world)
        world.store.before["claim"] = refused
        await somebody_claims(world, before)
        await world.wait_for(lambda: world.counters.windows_lost, within=WINDOW / EXTENSIONS_PER_WINDOW + 1)
        lost_window = space_of(world).window
        assert lost_window is not None
        for _ in range(10):
            id_ = space_of(world).take()
            assert id_ is not None
            assert world.service.decode("default", id_).worker == before
            await asyncio.sleep(10)
        world.store.before.clear()
        await world.wait_for(lambda: worker_of(world) != before, within=2)
        assert await world.snowflakes()


@on_virtual_time
async def test_a_lost_window_is_not_used_past_its_end() -> None:
    async with World() as world:
        before = worker_of(world)
        world.store.before["claim"] = refused
        await somebody_claims(world, before)
        await asyncio.sleep(WINDOW + 5)
        assert space_of(world).take() is None


@on_virtual_time
async def test_r6_an_extension_that_comes_after_the_window_was_dropped_brings_nothing_back() -> None:
    async with World() as world:
        hold = asyncio.Event()
        world.store.after["extend"] = until(hold)
        await world.wait_for(lambda: world.store.under_way["extend"])
        world.store.before["claim"] = refused
        space_of(world).drop()
        hold.set()
        await world.settle()
        assert space_of(world).window is None
        assert space_of(world).take() is None
        assert world.counters.windows_extended == 0


# --- giving back ---


@on_virtual_time
async def test_w5_closing_releases_the_window_just_after_the_last_unit_that_was_used() -> None:
    async with World() as world:
        window = space_of(world).window
        assert window is not None
        await asyncio.sleep(1)
        id_ = (await world.snowflakes())[0]
        take = space_of(world).take
    assert floor_of(world, window.worker) == world.service.decode("default", id_).units + 1
    assert world.counters.windows_released == 1
    assert take() is None


@on_virtual_time
async def test_w5_a_window_that_was_not_used_is_released_at_its_start() -> None:
    async with World() as world:
        window = space_of(world).window
        assert window is not None
        await asyncio.sleep(1)
    assert floor_of(world, window.worker) == window.start


@on_virtual_time
async def test_w5_a_release_that_fails_leaves_the_worker_id_resting_and_nothing_is_issued() -> None:
    async with World() as world:
        window = space_of(world).window
        assert window is not None
        world.store.before["release"] = lost
        await world.service.close()
        assert floor_of(world, window.worker) == window.end
        assert space_of(world).take() is None


@on_virtual_time
async def test_w5_closing_does_not_wait_for_a_store_that_keeps_silent() -> None:
    async with World() as world:
        world.store.before["release"] = slow(1000)
        begun = world.loop.now
        await world.service.close(timeout=1.5)
        assert world.loop.now - begun == pytest.approx(1.5)
        assert space_of(world).take() is None


@on_virtual_time
async def test_closing_with_a_store_that_is_known_away_does_not_ask_it() -> None:
    async with World() as world:
        world.store.before["all"] = refused
        await asyncio.sleep(300)
        world.store.calls.clear()
        begun = world.loop.now
        await world.service.close()
        assert world.loop.now - begun < 1
        assert world.store.calls["release"] <= 1


@on_virtual_time
async def test_requests_that_wait_when_the_node_stops_are_told_so() -> None:
    async with World(started=False) as world:
        world.store.before["claim"] = slow(1000)
        await world.service.start()
        task = world.loop.create_task(world.snowflakes())
        await world.settle()
        await world.service.close()
        with pytest.raises(ShuttingDown, match="ask another one"):
            await task
        with pytest.raises(ShuttingDown):
            await world.snowflakes()
        with pytest.raises(ShuttingDown):
            await space_of(world).ids(1, 0.1)


# --- the rate ---


@on_virtual_time
async def test_w7_a_batch_may_run_ahead_of_the_clock_by_a_second_and_then_waits_for_it() -> None:
    async with World(snowflake=SnowflakeConfig(deadline=5.0)) as world:
        begun = world.loop.now
        ids = await world.snowflakes(16 * 3000)
        assert len(set(ids)) == 48_000
        assert world.loop.now - begun == pytest.approx(2.0, abs=0.1)
        assert max(world.service.decode("default", id_).units for id_ in ids) <= world.now + 1000


@on_virtual_time
async def test_w7_what_can_not_be_had_before_the_deadline_is_refused_at_once_and_draws_nothing() -> None:
    async with World() as world:
        begun = world.loop.now
        with pytest.raises(OverLayoutRate, match="gives 16000 ids a second on each node at most; try again"):
            await world.snowflakes(16 * 3000)
        assert world.loop.now == begun
        # What is left without it comes at once: the unit under way, and the second's worth of lead.
        assert len(await world.snowflakes(16 * 1000)) == 16_000
        assert world.loop.now == begun


@on_virtual_time
async def test_w7_batches_at_once_are_served_in_turn_at_the_full_rate() -> None:
    js53 = Space("js53", Layout(38, 7, 8, unit_ms=10, epoch_ms=EPOCH_MS - 3_600_000))
    served: list[float] = []
    async with World(spaces=[ServedSpace(js53, WINDOW)], snowflake=SnowflakeConfig(deadline=2.0)) as world:
        begun = world.loop.now
        seen: set[int] = set()

        async def caller() -> None:
            while world.loop.now < begun + 3:
                try:
                    ids = await world.snowflakes(10_000, "js53")
                except OverLayoutRate:
                    await asyncio.sleep(0.05)
                    continue
                assert seen.isdisjoint(ids)
                seen.update(ids)
                served.append(world.loop.now - begun)

        await asyncio.gather(*(caller() for _ in range(4)))
    # 25,600 ids a second, for three seconds and the one of lead.
    assert len(served) >= 9
    assert len([moment for moment in served if moment <= 3]) >= 8


@on_virtual_time
async def test_w7_a_line_is_served_in_order_and_who_comes_later_does_not_overtake_it() -> None:
    async with World(snowflake=SnowflakeConfig(deadline=2.0)) as world:
        await world.snowflakes(16 * 1000)
        order: list[int] = []

        async def ask(number: int, count: int) -> None:
            await world.snowflakes(count)
            order.append(number)

        asked = [world.loop.create_task(ask(number, count)) for number, count in enumerate((8000, 1, 4000, 1))]
        await asyncio.sleep(0.1)
        assert space_of(world).take() is None
        await asyncio.gather(*asked)
        assert order == [0, 1, 2, 3]
        await asyncio.sleep(0.01)
        assert space_of(world).take() is not None


@on_virtual_time
async def test_w7_who_leaves_the_line_lets_the_others_and_the_hot_path_go_on() -> None:
    async with World(snowflake=SnowflakeConfig(deadline=2.0)) as world:
        await world.snowflakes(16 * 1000)
        first, second = (world.loop.create_task(world.snowflakes(count)) for count in (16_000, 16))
        await asyncio.sleep(0.01)
        first.cancel()
        begun = world.loop.now
        assert len(await second) == 16
        assert world.loop.now - begun < 0.1
        last = world.loop.create_task(world.snowflakes(16_000))
        await asyncio.sleep(0.01)
        last.cancel()
        await asyncio.sleep(0.1)
        assert space_of(world).take() is not None


@on_virtual_time
async def test_w7_over_the_rate_of_the_layout_a_request_is_told_so_at_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SnowflakeGenerator, "room", lambda self, now, until: 10**9)
    async with World() as world:
        begun = world.loop.now
        with pytest.raises(OverLayoutRate, match="gives 16000 ids a second on each node at most; try again"):
            await world.snowflakes(16 * 3000)
        assert world.loop.now - begun == pytest.approx(0.2, abs=0.01)
        assert space_of(world).take() is None
        await asyncio.sleep(0.01)
        assert space_of(world).take() is not None


@on_virtual_time
async def test_more_waiting_requests_than_the_maximum_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_WAITING == 10_000
    monkeypatch.setattr("goloves.service.spaces.MAX_WAITING", 3)
    async with World(started=False) as world:
        world.store.before["claim"] = slow(0.1)
        await world.service.start()
        tasks = [world.loop.create_task(world.snowflakes()) for _ in range(4)]
        await asyncio.wait(tasks)
        assert isinstance(tasks[3].exception(), TooManyWaiting)
        assert not any(task.exception() for task in tasks[:3])


# --- clocks ---


@on_virtual_time
async def test_w8_a_node_whose_clock_is_ahead_of_the_store_s_claims_nothing() -> None:
    async with World(started=False) as world:
        world.store_ahead_ms = -10_500
        await world.service.start()
        await world.settle()
        with pytest.raises(
            NoWindow, match=r"10\.5 s ahead of the store's; set the wrong one right.* \(max_forward is 10 s\)"
        ):
            await world.snowflakes()
        assert world.store.calls["claim"] == 0
        assert world.counters.clock_ahead == 1
        world.store_ahead_ms = 0
        await world.wait_for(lambda: space_of(world).usable, within=RETRY * 2)


@on_virtual_time
async def test_w8_a_node_whose_clock_is_ahead_of_the_store_s_extends_nothing_and_uses_what_it_has() -> None:
    async with World() as world:
        window = space_of(world).window
        assert window is not None
        world.store_ahead_ms = -11_000
        await asyncio.sleep(WINDOW - 1)
        assert space_of(world).take() is not None
        assert space_of(world).window == window
        await asyncio.sleep(2)
        assert space_of(world).take() is None
        assert world.store.calls["extend"] == 0


@on_virtual_time
async def test_w8_a_store_whose_clock_stepped_back_is_named_as_the_culprit() -> None:
    async with World() as world:
        assert await world.snowflakes()
        world.store_ahead_ms = -3_600_000
        await world.wait_for(lambda: space_of(world).trouble is not None, within=61)
        trouble = space_of(world).trouble
        assert trouble is not None
        assert trouble.message.startswith("the clock of the store stepped back: it is 3")
        assert "set the store's clock right" in trouble.message
        assert await world.snowflakes(), "the window that is held stays good"


@on_virtual_time
async def test_w8_a_clock_within_max_forward_or_behind_the_store_s_is_good_enough() -> None:
    for ahead in (-9_500, 60_000):
        async with World(started=False) as world:
            world.store_ahead_ms = ahead
            await world.service.start()
            await world.wait_for(lambda: space_of(world).usable, within=1)


@on_virtual_time
async def test_w8_a_store_without_a_clock_is_not_asked_to_judge() -> None:
    async with World(store_clock=False) as world:
        assert space_of(world).usable
        world.clock.step(3600)
        await asyncio.sleep(9)
        assert world.service.decode("default", (await world.snowflakes())[0]).units < world.now - 3_500_000
        await asyncio.sleep(2)
        assert world.service.decode("default", (await world.snowflakes())[0]).units == world.now


@on_virtual_time
async def test_a_jump_over_the_end_of_the_window_claims_another_at_the_next_request() -> None:
    async with World() as world:
        world.store_ahead_ms = 3_600_000
        world.clock.step(3600)
        await asyncio.sleep(2)
        assert world.service.decode("default", (await world.snowflakes())[0]).units == world.now
        assert world.store.calls["claim"] == 2


@on_virtual_time
async def test_w8_a_jump_of_the_clock_is_held_off_while_the_store_s_clock_contradicts_it() -> None:
    async with World(tags=()) as world:
        right = world.now
        world.clock.step(30)
        await asyncio.sleep(20)
        decoded = world.service.decode("default", (await world.snowflakes())[0])
        assert decoded.units == right + 20_000
        assert world.counters.clock_jumps == 1
        assert 15 <= world.store.calls["clock"] <= 25


@on_virtual_time
async def test_w8_a_jump_that_the_store_s_clock_confirms_is_followed_within_a_second_or_so() -> None:
    async with World() as world:
        world.clock.step(5)
        world.store_ahead_ms = 5000
        await asyncio.sleep(OBSERVE_EVERY * 2)
        assert world.service.decode("default", (await world.snowflakes())[0]).units == world.now


@on_virtual_time
async def test_w8_a_jump_is_held_off_while_the_store_that_could_judge_it_is_away() -> None:
    async with World() as world:
        world.store.before["all"] = refused
        world.clock.step(-5)
        await asyncio.sleep(9)
        assert world.service.decode("default", (await world.snowflakes())[0]).units == world.now + 5000
        await asyncio.sleep(3)
        assert world.service._steady.drift(world.clock.wall_ns(), world.clock.monotonic_ns()) == 0


@on_virtual_time
async def test_w8_a_step_back_within_max_backward_is_ridden_out_without_a_gap_or_another_worker_id() -> None:
    async with World() as world:
        before = await world.snowflakes(10)
        world.clock.step(-8)
        world.store_ahead_ms = -8000
        await asyncio.sleep(1)
        after = await world.snowflakes(10)
        assert min(after) > max(before)
        assert world.counters.workers_abandoned == 0
        assert world.store.calls["claim"] == 1


@on_virtual_time
async def test_w8_a_clock_that_stepped_back_further_takes_another_worker_id_and_leaves_the_used_times_behind() -> None:
    async with World() as world:
        before = worker_of(world)
        last = (await world.snowflakes(100))[-1]
        world.clock.step(-60)
        world.store_ahead_ms = -60_000
        await asyncio.sleep(1)
        ids = await world.snowflakes(10)
        assert world.counters.workers_abandoned == 1
        assert worker_of(world) != before
        assert floor_of(world, before) == world.service.decode("default", last).units + 1
        assert {world.service.decode("default", id_).units for id_ in ids} == {world.now}


@on_virtual_time
async def test_w8_a_step_back_is_noticed_in_the_middle_of_a_long_unit() -> None:
    space = Space("default", preset("uid", EPOCH_MS - 3_600_000))  # its unit is a second
    async with World(spaces=[ServedSpace(space, WINDOW)]) as world:
        source = space_of(world)
        await asyncio.sleep(1.0 - world.clock.wall_ns() % 10**9 / 1e9)
        ids = [source.take() for _ in range(3)]
        world.clock.step(-600)
        world.store_ahead_ms = -600_000
        await asyncio.sleep(OBSERVE_EVERY * 2)
        assert None not in ids
        assert source.take() is None


@on_virtual_time
async def test_w8_where_there_is_no_other_worker_id_a_stepped_back_clock_is_named_until_it_has_caught_up() -> None:
    async with World(spaces=[ServedSpace(SPACE, WINDOW, range(1))]) as world:
        last = (await world.snowflakes())[0]
        world.clock.step(-30)
        world.store_ahead_ms = -30_000
        await asyncio.sleep(1)
        with pytest.raises((ClockBackwards, NoWindow), match="all 1 worker ids"):
            await world.snowflakes()
        await asyncio.sleep(31)
        assert (await world.snowflakes())[0] > last


@on_virtual_time
async def test_w8_a_step_back_is_named_while_the_store_is_away() -> None:
    async with World() as world:
        await world.snowflakes()
        world.store.before["all"] = refused
        await asyncio.sleep(120)
        id_ = (await world.snowflakes())[0]
        world.clock.step(-60)
        await asyncio.sleep(11)
        hold = asyncio.Event()
        world.store.before["all"] = until(hold)
        with pytest.raises(ClockBackwards, match="stepped back by more than 10 s"):
            await world.snowflakes()
        world.store_ahead_ms = -60_000
        hold.set()
        await asyncio.sleep(2)
        assert (await world.snowflakes())[0] != id_


@on_virtual_time
async def test_w8_a_worker_id_given_up_while_an_extension_was_under_way_is_given_up_all_the_same() -> None:
    async with World() as world:
        before = worker_of(world)
        await world.snowflakes()
        hold = asyncio.Event()
        world.store.after["extend"] = until(hold)
        await world.wait_for(lambda: world.store.under_way["extend"])
        await world.snowflakes()
        world.store_ahead_ms = -60_000
        world.clock.step(-60)
        await asyncio.sleep(1)
        with pytest.raises(ClockBackwards):
            await world.snowflakes()
        hold.set()
        await world.wait_for(lambda: space_of(world).window is not None and worker_of(world) != before, within=2)
        assert world.counters.workers_abandoned == 1


# --- the layout's time ---


@on_virtual_time
async def test_w2_past_the_layout_s_end_the_space_is_used_up() -> None:
    layout = Layout(24, 2, 4, epoch_ms=EPOCH_MS - 2**24 + 60_000)
    async with World(spaces=[ServedSpace(Space("default", layout), WINDOW)]) as world:
        window = space_of(world).window
        assert window is not None
        assert window.end == layout.end_units
        await asyncio.sleep(59)
        assert space_of(world).take() is not None
        await asyncio.sleep(3)
        assert space_of(world).take() is None
        with pytest.raises(TimeUsedUp, match="make a new space"):
            await world.snowflakes()
        assert "make a new space" in world.service.readiness()[0]


@on_virtual_time
async def test_w2_a_clock_before_the_layout_s_epoch_claims_nothing() -> None:
    layout = Layout(41, 2, 4, epoch_ms=EPOCH_MS + 1_000_000)
    async with World(spaces=[ServedSpace(Space("default", layout), WINDOW)]) as world:
        with pytest.raises(TimeUsedUp, match="set the clock right"):
            await world.snowflakes()
        assert world.store.calls["claim"] == 0


@pytest.mark.parametrize(
    "layout",
    [
        Layout(36, 2, 4),
        Layout(32, 2, 4, unit_ms=10),
        Layout(31, 4, 2, worker_first=False, unit_ms=10),
        preset("uid", epoch_ms=0),
    ],
)
@pytest.mark.parametrize(("days", "warns"), [(59, 1), (61, 0)])
def test_the_end_of_every_layout_is_warned_of(layout: Layout, days: int, warns: int, said: Callable[[], str]) -> None:
    epoch_ms = EPOCH_MS + days * 86_400_000 - layout.end_units * layout.unit_ms
    ending = replace(layout, epoch_ms=epoch_ms)

    @on_virtual_time
    async def story() -> None:
        async with World(spaces=[ServedSpace(Space("default", ending), WINDOW)]) as world:
            assert await world.snowflakes()

    story()
    assert said().count("the layout's time runs out: make a new space") == warns


@on_virtual_time
async def test_w6_too_few_worker_ids_for_the_nodes_are_warned_of_and_rarely(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goloves.service.spaces.WARN_EVERY", 1200.0)
    data = MemoryData(uuid="a store")
    async with World(data=data):
        assert "run short" not in said(), "one of four"
        async with World(data=data, tags=()):
            assert "run short" not in said(), "two of four"
            async with World(data=data, tags=()) as third:
                await third.settle()
                words = said()
                assert words.count("worker ids of the space run short") == 1
                assert "of=4" in words
                assert "taken=3" in words
                space_of(third).drop()
                await third.wait_for(lambda: space_of(third).window is not None, within=700)
                assert "run short" not in said()
                await asyncio.sleep(1200)
                space_of(third).drop()
                await third.wait_for(lambda: space_of(third).window is not None, within=700)
                await third.settle()
                assert "run short" in said()


@on_virtual_time
async def test_w6_counting_worker_ids_keeps_no_window_from_being_used(said: Callable[[], str]) -> None:
    served = ServedSpace(SPACE, WINDOW, range(1, 2))
    async with World(spaces=[served], started=False) as world:
        world.store.before["count_windows"] = times(1, refused)
        await world.service.start()
        await world.settle()
        assert await world.snowflakes()
        assert "run short" not in said()
        space_of(world).drop()
        await world.wait_for(lambda: "run short" in said(), within=700)


# --- static worker ids ---


def static(number: int) -> list[ServedSpace]:
    return [ServedSpace(SPACE.other_way(), 60.0, range(number, number + 1))]


@on_virtual_time
async def test_w6_two_nodes_with_one_number_never_issue_the_same_id(said: Callable[[], str]) -> None:
    data = MemoryData(uuid="a store")
    async with World(data=data, spaces=static(2)) as one, World(data=data, tags=(), spaces=static(2)) as other:
        assert await one.snowflakes()
        for _ in range(5):
            await asyncio.sleep(60)
            assert not space_of(other).usable
            (reason,) = other.service.readiness()
            assert "worker id 2 of space 'default' is held by a node for" in reason
            assert "give each its own number" in reason
            assert await one.snowflakes()
        ids = await one.snowflakes(20)
        await one.service.close()
        await other.wait_for(lambda: space_of(other).usable, within=LONGEST_RETRY * 2)
        more = await other.snowflakes(20)
        assert worker_of(other) == 2
        assert min(more) > max(ids)
    assert "run short" not in said()


@on_virtual_time
async def test_w6_a_static_node_that_was_killed_waits_not_ready_until_its_own_window_is_past() -> None:
    data = MemoryData(uuid="a store")
    async with World(data=data, spaces=static(1), started=False) as killed:
        await killed.service.start()
        await killed.settle()
        ids = await killed.snowflakes(20)
        for source in killed.service.spaces.values():
            source.forget(ShuttingDown("killed"))
        async with World(data=data, tags=(), spaces=static(1)) as again:
            assert again.service.readiness()
            await asyncio.sleep(55)
            assert again.service.readiness()
            await again.wait_for(lambda: not again.service.readiness(), within=5 + RETRY * 2)
            assert min(await again.snowflakes(20)) > max(ids)


@on_virtual_time
async def test_w6_a_static_node_whose_clock_stepped_back_waits_until_it_has_caught_up() -> None:
    async with World(spaces=static(3), snowflake=SnowflakeConfig(max_backward=1.0), store_clock=False) as world:
        before = await world.snowflakes(5)
        world.clock.step(-30)
        await asyncio.sleep(15)
        with pytest.raises((ClockBackwards, NoWindow)):
            await world.snowflakes()
        await world.wait_for(lambda: space_of(world).usable, within=40)
        assert worker_of(world) == 3
        assert min(await world.snowflakes()) > max(before)


@on_virtual_time
async def test_a_layout_whose_time_runs_out_within_60_days_is_warned_of_once_an_hour(
    said: Callable[[], str],
) -> None:
    layout = Layout(33, 2, 4, epoch_ms=EPOCH_MS - 2**33 + 59 * 86_400_000)
    async with World(spaces=[ServedSpace(Space("default", layout), WINDOW)]):
        await asyncio.sleep(3000)
    words = said()
    assert words.count("the layout's time runs out: make a new space") == 1
    assert "days_left=59.0" in words


# --- registration and halts ---


@on_virtual_time
async def test_w9_a_space_registered_with_another_layout_is_refused_and_the_other_spaces_serve() -> None:
    data = MemoryData(uuid="a store")
    async with World(data=data):
        pass
    other = Space("default", Layout(41, 3, 4, epoch_ms=EPOCH_MS - 3_600_000))
    async with World(data=data, tags=(), spaces=[ServedSpace(other), ServedSpace(Space("new", LAYOUT))]) as world:
        assert await world.snowflakes(space="new")
        with pytest.raises(NoWindow, match="was registered with the layout"):
            await world.snowflakes()
        assert "was registered with the layout" in world.service.readiness()[0]
        await asyncio.sleep(30)
        assert world.store.calls["open_space"] <= 2 + 30 / (RETRY * 0.67) + 1
        with pytest.raises(NoWindow):
            await world.snowflakes()


@on_virtual_time
async def test_registering_waits_for_a_store_that_is_away() -> None:
    async with World(started=False) as world:
        world.store.before["open_space"] = times(5, refused)
        await world.service.start()
        await world.wait_for(lambda: space_of(world).usable, within=5)


@on_virtual_time
async def test_r6_a_halt_drops_the_windows_of_all_spaces_and_their_keepers_do_not_storm_the_store() -> None:
    spaces = [ServedSpace(Space(name, LAYOUT), WINDOW) for name in ("default", "two", "three")]
    async with World(spaces=spaces) as world:
        await world.operator.halt("a backup was restored")
        await world.wait_for(lambda: space_of(world).window is None, within=61)
        assert all(space.take() is None for space in world.service.spaces.values())
        world.store.calls.clear()
        await asyncio.sleep(20)
        assert world.store.calls["claim"] <= 3 * 20 / (RETRY * 0.67) + 3
        with pytest.raises(StoreWentBackwards, match="a backup was restored") as caught:
            await world.snowflakes()
        assert caught.value.retry_after == 60
        await world.operator.lift_halt()
        await world.wait_for(lambda: all(space.usable for space in world.service.spaces.values()), within=3)


@on_virtual_time
async def test_r6_a_window_claimed_before_a_halt_and_answered_after_it_is_not_adopted() -> None:
    async with World(started=False) as world:
        hold = asyncio.Event()
        world.store.after["claim"] = times(1, until(hold))
        await world.service.start()
        await world.settle()
        await world.ids("dry")
        await world.operator.halt("a backup was restored")
        with pytest.raises(StoreWentBackwards):
            await world.ids("dry")
        hold.set()
        await asyncio.sleep(5)
        assert space_of(world).take() is None
        assert world.counters.windows_claimed == 0
        await world.operator.lift_halt()
        await world.wait_for(lambda: space_of(world).usable, within=3)
        assert len(world.data.workers["default"]) == 2


@on_virtual_time
async def test_r6_a_space_halted_alone_leaves_the_tags_alone() -> None:
    async with World() as world:
        await world.ids()
        world.store.before["extend"] = raising(StoreWentBackwards("a window went backwards"))
        world.store.before["claim"] = raising(StoreWentBackwards("a window went backwards"))
        await asyncio.sleep(61)
        assert space_of(world).take() is None
        assert world.service.tags["order"].take() == 2


@on_virtual_time
async def test_r6_a_halt_of_the_segments_store_leaves_the_windows_of_another_store_alone() -> None:
    async with World(windows=MemoryData(uuid="another store")) as world:
        await world.ids("dry")
        await world.operator.halt("a backup was restored")
        for _ in range(10):
            with pytest.raises(StoreWentBackwards):
                await world.ids("dry")
            await asyncio.sleep(1)
        assert space_of(world).take() is not None
        assert world.windows.calls["claim"] == 1


@on_virtual_time
async def test_r6_a_halt_of_the_windows_store_leaves_the_ranges_of_another_store_alone() -> None:
    windows = MemoryData(uuid="another store")
    async with World(windows=windows) as world:
        await world.ids()
        windows.halt = "a backup was restored"
        await asyncio.sleep(61)
        assert space_of(world).take() is None
        assert world.service.tags["order"].take() == 2


@on_virtual_time
async def test_a_window_that_begins_later_after_a_repair_is_named_with_the_time_and_then_used() -> None:
    async with World(started=False) as world:
        await world.operator.open_space(SPACE)
        await world.operator.raise_floor("default", world.now + 100_000)
        await world.service.start()
        await world.settle()
        with pytest.raises(NoWindow, match=r"rests for 100\.0 s") as caught:
            await world.snowflakes()
        assert caught.value.retry_after == pytest.approx(100)
        assert "no window of the space 'default'" in world.service.readiness()[0]
        await asyncio.sleep(105)
        assert await world.snowflakes()
        assert world.service.readiness() == []


@on_virtual_time
async def test_a_refusal_of_another_kind_is_tried_again_every_second_or_so() -> None:
    async with World(started=False) as world:
        world.store.before["claim"] = raising(StoreRefused("the table is read-only"))
        await world.service.start()
        await asyncio.sleep(30)
        assert 20 <= world.store.calls["claim"] <= 50
        with pytest.raises(NoWindow, match="the table is read-only"):
            await world.snowflakes()


@on_virtual_time
async def test_the_keeper_goes_on_after_a_failure_that_nobody_foresaw(said: Callable[[], str]) -> None:
    async with World(started=False) as world:
        for what in ("open_space", "claim"):
            world.store.before[what] = times(3, raising(KeyError("a bug")))
        await world.service.start()
        await asyncio.sleep(0.1)
        with pytest.raises(NoWindow, match="a failure that nobody foresaw"):
            await world.snowflakes()
        await world.wait_for(lambda: space_of(world).usable, within=20 * RETRY)
        assert await world.snowflakes()
        world.store.before["extend"] = times(1, raising(KeyError("a bug")))
        await asyncio.sleep(3 * WINDOW)
        assert await world.snowflakes()
    assert 1 <= said().count("a background task failed") <= 3


@on_virtual_time
async def test_a_space_that_was_removed_before_its_first_claim_is_registered_again() -> None:
    async with World(started=False, guarded=True) as world:
        world.store.before["claim"] = times(1, raising(NoWorkerFree("all are taken", lowest_floor=world.now)))
        await world.service.start()
        await world.settle()
        del world.data.spaces["default"]
        await world.wait_for(lambda: space_of(world).usable, within=20 * RETRY)
        assert world.store.calls["open_space"] == 2
        assert not world.data.halt
