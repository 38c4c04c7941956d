import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import cast

import pytest

from goloves.config import SegmentConfig
from goloves.core.grants import Range
from goloves.errors import (
    GolovesError,
    InvalidCount,
    NoRange,
    StoreUnavailable,
    StoreWentBackwards,
    TagUsedUp,
    TooManyWaiting,
    UnknownOutcome,
    UnknownTag,
)
from goloves.service.tags import REFUSAL_LASTS
from goloves.stores.base import NewTag, TagChange
from goloves.stores.memory import LeafRow, MemoryData
from service.world import World, lost, on_virtual_time, raising, refused, slow, times, until

PATIENT = SegmentConfig(deadline=30.0)


async def error_of(task: "asyncio.Task[list[int]]") -> GolovesError:
    await asyncio.wait([task])
    error = task.exception()
    assert isinstance(error, GolovesError)
    return error


# --- ids ---


@on_virtual_time
async def test_ids_begin_at_the_tag_s_first_number_and_follow_one_another() -> None:
    async with World() as world:
        assert await world.ids() == [1]
        assert await world.ids(count=25) == list(range(2, 27))
        assert world.service.tags["order"].take() == 27


@on_virtual_time
async def test_the_hot_path_gives_ids_until_the_buffer_is_empty_and_then_none() -> None:
    async with World() as world:
        assert await world.ids() == [1]
        source = world.service.tags["order"]
        world.store.before["allocate"] = refused
        taken = [source.take() for _ in range(12)]
        assert taken[:9] == list(range(2, 11))
        assert taken[9:] == [None] * 3
        assert source.left == 0


@on_virtual_time
async def test_the_next_range_is_fetched_before_the_current_one_is_used_up() -> None:
    async with World(tags=[NewTag("order", step=100)]) as world:
        await world.ids()
        world.store.before["allocate"] = slow(0.05)
        source = world.service.tags["order"]
        assert [source.take() for _ in range(10)] == list(range(2, 12))
        await asyncio.sleep(0.06)
        assert source.left == 89 + 200
        assert world.counters.refills_late == 1
        assert [source.take() for _ in range(100)] == list(range(12, 112))


@on_virtual_time
async def test_one_refill_at_a_time() -> None:
    async with World(segment=PATIENT) as world:
        world.store.before["allocate"] = slow(0.05)
        tasks = [world.ask(count=7) for _ in range(50)]
        await asyncio.wait(tasks)
        assert world.store.most["allocate"] == 1
        ids = [id_ for task in tasks for id_ in task.result()]
        assert len(set(ids)) == 350


@on_virtual_time
async def test_who_waits_is_served_in_the_order_in_which_it_came() -> None:
    async with World(segment=PATIENT) as world:
        hold = asyncio.Event()
        world.store.before["allocate"] = until(hold)
        tasks = [world.ask(count=count) for count in (3, 8, 1, 5)]
        await world.settle()
        hold.set()
        await asyncio.wait(tasks)
        served = [task.result() for task in tasks]
        assert [len(ids) for ids in served] == [3, 8, 1, 5]
        assert all(before[-1] < after[0] for before, after in pairwise(served))


@on_virtual_time
async def test_who_comes_later_does_not_overtake_the_line() -> None:
    async with World(segment=PATIENT) as world:
        hold = asyncio.Event()
        world.store.before["allocate"] = until(hold)
        first = world.ask(count=1000)
        await world.settle()
        hold.set()
        late = world.ask(count=1)
        assert await late > await first


@on_virtual_time
async def test_a_request_may_ask_for_more_than_a_range_and_gets_several() -> None:
    async with World(segment=SegmentConfig(max_step=20)) as world:
        other = await world.operator.allocate("order", 5)
        assert other == Range("order", 1, 6)
        ids = await world.ids(count=105)
        assert ids == list(range(6, 111))


@on_virtual_time
async def test_a_count_below_1_is_refused() -> None:
    async with World() as world:
        for count in (0, -1):
            with pytest.raises(InvalidCount, match="ask for at least 1"):
                await world.service.segment_ids("order", count)


@on_virtual_time
async def test_a_tag_of_step_10_under_64_waiting_requests_answers_no_error_and_grows() -> None:
    async with World() as world:
        world.store.before["allocate"] = slow(0.004)
        served = 0

        async def client() -> None:
            nonlocal served
            for _ in range(300):
                source = world.service.tags.get("order")
                number = source.take() if source else None
                if number is None:
                    await world.ids()
                served += 1
                await asyncio.sleep(0.001)

        begun = world.loop.now
        await asyncio.gather(*(client() for _ in range(64)))
        assert served == 64 * 300
        assert world.service.tags["order"].step >= 5000
        assert world.store.calls["allocate"] <= 20
        assert world.loop.now - begun < 1.0


# --- deadlines ---


@on_virtual_time
async def test_waiting_ends_at_the_deadline_with_an_error_that_says_try_again() -> None:
    async with World() as world:
        await world.ids()
        world.store.before["allocate"] = slow(5)
        await world.ids(count=9)
        begun = world.loop.now
        with pytest.raises(NoRange, match=r"'order' has no number left and no refill came within 0\.2 s; try again"):
            await world.ids()
        assert world.loop.now - begun == pytest.approx(0.2)
        assert world.counters.deadlines_missed == 1


@on_virtual_time
async def test_a_caller_s_own_timeout_shortens_the_deadline_and_never_lengthens_it() -> None:
    async with World() as world:
        await world.ids()
        world.store.before["allocate"] = slow(5)
        for timeout, waits in ((0.05, 0.05), (60.0, 0.2), (-1.0, 0.0)):
            begun = world.loop.now
            with pytest.raises(NoRange):
                await world.ids(count=20, timeout=timeout)
            assert world.loop.now - begun == pytest.approx(waits)


@on_virtual_time
async def test_no_refill_can_come_in_time_from_a_store_that_is_known_away_so_nobody_waits_for_it() -> None:
    async with World() as world:
        await world.ids("dry")
        world.store.before["allocate"] = refused
        with pytest.raises(NoRange):
            await world.ids("dry")
        await asyncio.sleep(20)
        gate = world.service._segment_gate
        await world.wait_for(lambda: gate.retry_at - world.loop.now > 0.3)
        begun = world.loop.now
        with pytest.raises(NoRange, match=r"the store is away \(connection refused\)"):
            await world.ids("dry")
        assert world.loop.now == begun


@on_virtual_time
async def test_ids_come_within_two_seconds_of_the_store_s_return_without_a_restart() -> None:
    async with World() as world:
        await world.ids("dry")
        world.store.before["all"] = refused
        for _ in range(300):
            with pytest.raises(NoRange):
                await world.ids("dry")
            await asyncio.sleep(0.1)
        world.store.before.clear()
        back = world.loop.now
        answer: list[int] = []
        while not answer:
            try:
                answer = await world.ids("dry")
            except NoRange:
                await asyncio.sleep(0.01)
        assert world.loop.now - back < 2.0
        assert world.service.readiness() == []


@on_virtual_time
async def test_an_away_store_is_not_stormed_by_the_tags_that_run_dry() -> None:
    names = [f"tag {number}" for number in range(200)]
    async with World(tags=[NewTag(name, step=1) for name in names]) as world:
        for name in names:
            await world.ids(name)
        world.store.before["all"] = refused
        world.store.calls.clear()
        tasks = [world.ask(name) for name in names]
        await asyncio.wait(tasks)
        await asyncio.sleep(60)
        assert world.store.calls["allocate"] < 200 / 10 + 60 * 2
        world.store.before.clear()
        await asyncio.sleep(2)
        assert all(world.service.tags[name].left for name in names)


# --- cancellation and unknown outcomes ---


@on_virtual_time
async def test_a_refill_goes_on_when_the_request_that_began_it_is_cancelled() -> None:
    async with World() as world:
        hold = asyncio.Event()
        await world.ids("dry")
        world.store.before["allocate"] = until(hold)
        task = world.ask("dry")
        await world.settle()
        task.cancel()
        await world.settle()
        assert task.cancelled()
        assert world.store.under_way["allocate"] == 1
        hold.set()
        await world.settle()
        assert world.service.tags["dry"].left > 0


@on_virtual_time
async def test_the_line_goes_on_without_those_who_left_it() -> None:
    async with World(segment=PATIENT) as world:
        hold = asyncio.Event()
        world.store.before["allocate"] = until(hold)
        tasks = [world.ask(count=10) for _ in range(5)]
        await world.settle()
        for number in (0, 2):
            tasks[number].cancel()
        await world.settle()
        hold.set()
        await asyncio.wait(tasks)
        served = [id_ for task in tasks if not task.cancelled() for id_ in task.result()]
        assert served == list(range(1, 31))


@on_virtual_time
async def test_a_line_that_everybody_left_asks_for_no_further_refill() -> None:
    async with World(segment=PATIENT) as world:
        await world.ids()
        hold = asyncio.Event()
        world.store.before["allocate"] = until(hold)
        tasks = [world.ask(count=10_000) for _ in range(3)]
        await world.settle()
        for task in tasks:
            task.cancel()
        await world.settle()
        world.store.calls.clear()
        hold.set()
        await asyncio.sleep(60)
        assert world.store.calls["allocate"] == 0


@on_virtual_time
async def test_r3_a_range_whose_outcome_is_unknown_is_burned() -> None:
    async with World(segment=PATIENT) as world:
        await world.ids("dry")
        world.store.after["allocate"] = times(1, lost)
        ids = await world.ids("dry")
        assert world.counters.ranges_burned == 1
        assert world.store.asked[-2:] == [("dry", 4), ("dry", 4)]
        assert ids == [6]


@on_virtual_time
async def test_r3_an_answer_after_the_deadline_goes_into_the_buffer_and_to_nobody_twice() -> None:
    async with World() as world:
        await world.ids("dry")
        world.store.after["allocate"] = slow(1)
        with pytest.raises(NoRange):
            await world.ids("dry")
        await asyncio.sleep(1)
        assert await world.ids("dry", count=3) == [2, 3, 4]


@on_virtual_time
async def test_a_failure_that_nobody_foresaw_is_logged_and_the_next_request_tries_again(
    said: Callable[[], str],
) -> None:
    async with World() as world:
        await world.ids("dry")
        world.store.before["allocate"] = times(1, raising(RuntimeError("a bug")))
        with pytest.raises(NoRange):
            await world.ids("dry")
        assert await world.ids("dry")
    assert "a background task failed" in said()


# --- refusals ---


@on_virtual_time
async def test_a_used_up_tag_gives_its_last_numbers_and_then_says_so_without_storming_the_store() -> None:
    async with World(tags=[NewTag("order", step=10, limit=20)]) as world:
        ids = []
        with pytest.raises(TagUsedUp, match="reached its limit 20"):
            while True:
                ids += await world.ids()
        assert ids == list(range(1, 20))
        world.store.calls.clear()
        for _ in range(1000):
            with pytest.raises(TagUsedUp):
                await world.ids()
            assert world.service.tags["order"].take() is None
            await asyncio.sleep(0.01)
        assert world.store.calls["allocate"] <= 10 / REFUSAL_LASTS + 1
        assert not world.service.tags["order"].left


@on_virtual_time
async def test_a_tag_of_which_nine_tenths_are_used_is_warned_of_and_rarely(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goloves.service.tags.WARN_EVERY", 600.0)
    async with World(tags=[NewTag("order", step=1, start=8990, limit=10_000)]) as world:
        await world.ids()
        assert "numbers run out" not in said()
        await world.ids(count=30)
        words = said()
        assert words.count("the tag's numbers run out: raise its limit, or use a new tag") == 1
        assert "limit=10000" in words
        await world.ids(count=20)
        await asyncio.sleep(500)
        assert "numbers run out" not in said()
        await asyncio.sleep(200)
        assert said().count("numbers run out") == 1, "at a reading of the tag"
        await world.operator.change_tag("order", TagChange(limit=1_000_000))
        await asyncio.sleep(120)  # a reading later the new limit is known
        said()
        await asyncio.sleep(1200)
        assert "numbers run out" not in said()


@on_virtual_time
async def test_a_used_up_tag_goes_on_when_its_limit_is_raised() -> None:
    async with World(tags=[NewTag("order", step=10, limit=5)]) as world:
        assert await world.ids(count=4) == [1, 2, 3, 4]
        with pytest.raises(TagUsedUp):
            await world.ids()
        await world.operator.change_tag("order", TagChange(limit=1000))
        await asyncio.sleep(REFUSAL_LASTS)
        assert await world.ids() == [5]


@on_virtual_time
async def test_a_prefetch_that_is_refused_leaves_the_numbers_that_are_held() -> None:
    async with World(tags=[NewTag("order", step=100)]) as world:
        await world.ids()
        world.store.before["allocate"] = raising(TagUsedUp("no more"))
        assert await world.ids(count=98) == list(range(2, 100))
        await world.settle()
        assert world.service.tags["order"].take() == 100
        with pytest.raises(TagUsedUp):
            await world.ids()


@on_virtual_time
async def test_who_waits_when_a_refill_is_refused_gets_the_refusal() -> None:
    async with World(segment=PATIENT) as world:
        await world.ids("dry")
        world.store.before["allocate"] = raising(TagUsedUp("no more"))
        tasks = [world.ask("dry") for _ in range(3)]
        for task in tasks:
            assert (await error_of(task)).code == "tag_used_up"


@on_virtual_time
async def test_more_waiting_requests_than_the_maximum_are_refused() -> None:
    async with World(segment=SegmentConfig(max_waiting=5)) as world:
        await world.ids("dry")
        world.store.before["allocate"] = slow(5)
        tasks = [world.ask("dry") for _ in range(6)]
        assert isinstance(await error_of(tasks[5]), TooManyWaiting)
        for task in tasks[:5]:
            assert isinstance(await error_of(task), NoRange)


# --- halts ---


@on_virtual_time
async def test_r4_a_tag_halted_by_its_mark_drops_what_is_held_and_says_how_to_mend_it() -> None:
    async with World() as world:
        await world.ids(count=3)
        world.data.leaf["order"].max_id = 1
        source = world.service.tags["order"]
        with pytest.raises(StoreWentBackwards, match="goloves repair"):
            await world.service.segment_range("order", 1000)
        assert source.take() is None
        with pytest.raises(StoreWentBackwards, match="goloves repair"):
            await world.ids()
        assert world.counters.store_went_backwards == 1


@on_virtual_time
async def test_r4_a_halted_tag_leaves_the_others_alone_and_asks_the_store_once_a_second() -> None:
    async with World(tags=[NewTag("order", step=10), NewTag("other", step=10)]) as world:
        await world.ids()
        await world.ids("other")
        world.data.leaf["order"].max_id = 1
        for _ in range(500):
            with pytest.raises(StoreWentBackwards):
                await world.ids(count=10)
            await asyncio.sleep(0.01)
        assert world.service.tags["other"].left
        assert world.service.spaces["default"].take() is not None
        assert world.store.calls["allocate"] <= 8


@on_virtual_time
async def test_r4_a_halt_that_is_read_drops_the_tag_s_ranges() -> None:
    async with World(tags=[NewTag("order", step=1000)]) as world:
        await world.ids()
        world.data.tags["order"].halted = "lowered"
        await world.wait_for(lambda: not world.service.tags["order"].left, within=61)
        with pytest.raises(StoreWentBackwards, match=r"'order' is halted .*\(lowered\)"):
            await world.ids()


@on_virtual_time
async def test_r6_a_halt_of_the_whole_store_drops_all_grants() -> None:
    async with World(tags=[NewTag("dry", step=1), NewTag("other", step=1000)]) as world:
        await world.ids("dry")
        await world.ids("other")
        source, space = world.service.tags["other"], world.service.spaces["default"]
        assert source.left
        await world.operator.halt("a backup was restored")
        with pytest.raises(StoreWentBackwards, match="a backup was restored"):
            await world.ids("dry")
        assert source.take() is None
        assert space.take() is None
        with pytest.raises(StoreWentBackwards):
            await world.ids("other")
        with pytest.raises(StoreWentBackwards):
            await world.snowflakes()


@on_virtual_time
async def test_r6_a_range_asked_for_before_a_halt_and_answered_after_it_is_burned() -> None:
    async with World(tags=[NewTag("dry", step=1), NewTag("other", step=1)]) as world:
        await world.ids("dry")
        await world.ids("other")
        hold = asyncio.Event()
        world.store.after["allocate"] = times(1, until(hold))
        late = world.ask("dry")
        await world.settle()
        assert world.data.leaf["dry"].max_id == 6
        await world.operator.halt("a backup was restored")
        assert isinstance(await error_of(world.ask("other")), StoreWentBackwards)
        assert isinstance(await error_of(late), StoreWentBackwards)
        hold.set()
        await world.settle()
        assert not world.service.tags["dry"].left
        assert world.counters.ranges_burned == 1


@on_virtual_time
async def test_r6_who_waits_when_a_range_is_burned_by_a_halt_is_served_by_the_next() -> None:
    async with World(segment=PATIENT) as world:
        await world.ids("dry")
        hold = asyncio.Event()
        world.store.after["allocate"] = times(1, until(hold))
        world.ask("dry").add_done_callback(lambda task: task.exception())
        await world.settle()
        world.service.tags["dry"].refuse(StoreWentBackwards("halted, and repaired soon after"))
        await asyncio.sleep(REFUSAL_LASTS)
        waiting = world.ask("dry")
        await world.settle()
        hold.set()
        assert await waiting == [6]


@on_virtual_time
async def test_r6_ids_go_on_after_a_halt_was_lifted() -> None:
    async with World() as world:
        await world.ids("dry")
        await world.operator.halt("a backup was restored")
        with pytest.raises(StoreWentBackwards):
            await world.ids("dry")
        await world.operator.raise_tags({"dry": 5000})
        await world.operator.lift_halt()
        await asyncio.sleep(REFUSAL_LASTS)
        assert await world.ids("dry") == [5000]
        await world.wait_for(lambda: world.service.spaces["default"].usable, within=5)


# --- what is read again ---


@on_virtual_time
async def test_a_changed_step_is_taken_over_within_a_minute() -> None:
    async with World(tags=[NewTag("order", step=10)]) as world:
        await world.ids()
        await world.operator.change_tag("order", TagChange(step=5000))
        await asyncio.sleep(61)
        await world.ids(count=10)
        await world.settle()
        assert world.store.asked[-1] == ("order", 5000)


@on_virtual_time
async def test_a_deleted_tag_is_dropped_within_a_minute_and_listeners_are_told() -> None:
    async with World(tags=[NewTag("order", step=1000), NewTag("other")]) as world:
        dropped: list[int] = []
        world.service.on_drop(lambda: dropped.append(1))
        await world.ids()
        await world.ids("other")
        take = world.service.tags["order"].take
        assert take() == 2
        await world.operator.delete_tag("order")
        await world.wait_for(lambda: dropped, within=61)
        assert take() is None
        assert list(world.service.tags) == ["other"]
        assert dropped == [1]
        with pytest.raises(UnknownTag):
            await world.ids()
        assert world.counters.tags_dropped == 1


@on_virtual_time
async def test_a_deleted_tag_that_a_refill_finds_gone_is_dropped_and_its_line_is_told() -> None:
    async with World(segment=PATIENT) as world:
        await world.ids("dry")
        await world.operator.delete_tag("dry")
        tasks = [world.ask("dry") for _ in range(3)]
        for task in tasks:
            error = await error_of(task)
            assert isinstance(error, UnknownTag)
            assert "does not exist any more" in error.message
        assert world.service.tags == {}
        assert world.store.calls["allocate"] == 2


@on_virtual_time
async def test_a_tag_deleted_and_made_again_goes_on_above_its_old_numbers() -> None:
    async with World(tags=[NewTag("order", step=1000)]) as world:
        await world.ids(count=4)
        await world.operator.delete_tag("order")
        with pytest.raises(UnknownTag):
            await world.ids(count=1000)
        await world.operator.create_tag(NewTag("order", step=10))
        await asyncio.sleep(6)
        assert await world.ids() == [1001]


@on_virtual_time
async def test_a_range_that_comes_for_a_dropped_tag_is_not_used() -> None:
    async with World() as world:
        await world.ids("dry")
        hold = asyncio.Event()
        world.store.after["allocate"] = until(hold)
        task = world.ask("dry")
        await world.settle()
        source = world.service.tags["dry"]
        world.service._drop(source)
        assert isinstance(await error_of(task), UnknownTag)
        hold.set()
        await world.settle()
        assert source.take() is None
        assert not source.left
        with pytest.raises(UnknownTag):
            await source.ids(1, 0.1)


@on_virtual_time
async def test_reading_the_tags_again_waits_for_a_store_that_is_away_and_drops_nothing() -> None:
    async with World(tags=[NewTag("order", step=1000)]) as world:
        await world.ids()
        world.store.before["read_tags"] = refused
        await asyncio.sleep(300)
        assert world.service.tags["order"].take() == 2
        world.store.before.clear()
        await world.operator.delete_tag("order")
        await world.wait_for(lambda: not world.service.tags, within=62)


@on_virtual_time
async def test_all_tags_in_use_are_read_in_queries_of_a_thousand() -> None:
    names = [f"tag {number}" for number in range(2500)]
    async with World(tags=[NewTag(name) for name in names], segment=SegmentConfig(deadline=5.0)) as world:
        for at in range(0, len(names), 500):
            await asyncio.gather(*(world.ids(name) for name in names[at : at + 500]))
        world.store.calls.clear()
        await asyncio.sleep(61)
        assert world.store.calls["read_tags"] == 3


# --- ranges ---


@on_virtual_time
async def test_a_range_is_cut_out_of_the_buffer_if_it_holds_so_many() -> None:
    async with World(tags=[NewTag("order", step=1000)]) as world:
        await world.ids()
        world.store.calls.clear()
        assert await world.service.segment_range("order", 50) == Range("order", 2, 52)
        assert world.store.calls["allocate"] == 0
        assert await world.ids() == [52]


@on_virtual_time
async def test_a_larger_range_is_one_allocation_of_just_its_size() -> None:
    async with World() as world:
        await world.ids()
        assert await world.service.segment_range("order", 100_000) == Range("order", 11, 100_011)
        assert await world.ids(count=9) == list(range(2, 11))
        assert await world.ids() == [100_011]


@pytest.mark.parametrize("size", [0, -1, 2**63])
@on_virtual_time
async def test_a_size_that_is_none_is_refused(size: int) -> None:
    async with World() as world:
        with pytest.raises(InvalidCount):
            await world.service.segment_range("order", size)


@on_virtual_time
async def test_r3_a_range_that_does_not_come_in_time_is_burned() -> None:
    async with World() as world:
        world.store.after["allocate"] = slow(1)
        with pytest.raises(NoRange, match="no range of the tag 'order' came in time"):
            await world.service.segment_range("order", 100)
        assert world.counters.ranges_burned == 1
        await asyncio.sleep(2)
        world.store.after.clear()
        assert await world.service.segment_range("order", 100) == Range("order", 101, 201)


@on_virtual_time
async def test_r3_a_range_whose_request_is_cancelled_is_burned() -> None:
    async with World() as world:
        hold = asyncio.Event()
        world.store.after["allocate"] = times(1, until(hold))
        task = world.loop.create_task(world.service.segment_range("order", 100))
        await world.settle()
        task.cancel()
        await world.settle()
        hold.set()
        await world.settle()
        assert await world.service.segment_range("order", 100) == Range("order", 101, 201)


@pytest.mark.parametrize("error", [StoreUnavailable("connection refused"), UnknownOutcome("no answer")])
@on_virtual_time
async def test_a_range_that_the_store_does_not_give_raises_why(error: GolovesError) -> None:
    async with World() as world:
        await world.ids()
        world.store.before["allocate"] = times(1, raising(error))
        with pytest.raises(type(error)):
            await world.service.segment_range("order", 100)
        assert world.counters.ranges_burned == isinstance(error, UnknownOutcome)
        with pytest.raises(StoreUnavailable, match="the store is away"):
            await world.service.segment_range("order", 100)


@on_virtual_time
async def test_a_range_of_a_tag_that_is_gone_or_used_up_says_so() -> None:
    async with World(tags=[NewTag("order", step=10), NewTag("small", step=1, limit=100)]) as world:
        await world.ids()
        await world.ids("small")
        with pytest.raises(TagUsedUp, match="has 98 numbers left below its limit 100; 99 were asked for"):
            await world.service.segment_range("small", 99)
        assert await world.ids("small")
        await world.operator.delete_tag("order")
        with pytest.raises(UnknownTag):
            await world.service.segment_range("order", 100)
        assert "order" not in world.service.tags


@on_virtual_time
async def test_r6_a_range_that_meets_a_halt_of_the_whole_store_drops_all_grants() -> None:
    async with World(tags=[NewTag("order", step=10), NewTag("other", step=1000)]) as world:
        await world.ids()
        await world.ids("other")
        await world.operator.halt("a backup was restored")
        with pytest.raises(StoreWentBackwards):
            await world.service.segment_range("order", 100)
        assert not world.service.tags["other"].left
        assert not world.service.spaces["default"].usable


@on_virtual_time
async def test_r6_a_range_allocated_before_a_halt_and_answered_after_it_is_burned() -> None:
    async with World() as world:
        await world.ids()
        hold = asyncio.Event()
        world.store.after["allocate"] = times(1, until(hold))
        task = world.loop.create_task(world.service.segment_range("order", 100))
        await world.settle()
        world.service.tags["order"].refuse(StoreWentBackwards("halted"))
        hold.set()
        with pytest.raises(NoRange, match="halted while a range was allocated"):
            await task
        assert world.counters.ranges_burned == 1


@on_virtual_time
async def test_no_more_than_64_ranges_are_under_way_even_if_all_are_asked_for_at_once() -> None:
    async with World() as world:
        await world.ids()
        world.store.before["allocate"] = slow(0.01)
        tasks = [world.loop.create_task(world.service.segment_range("order", 100)) for _ in range(100)]
        await asyncio.wait(tasks)
        failed = [task.exception() for task in tasks if task.exception() is not None]
        assert len(failed) == 36
        assert all(isinstance(error, TooManyWaiting) for error in failed)
        ranges = sorted((cast("Range", task.result()) for task in tasks if not task.exception()), key=lambda r: r.start)
        assert all(before.end <= after.start for before, after in pairwise(ranges))
        assert await world.service.segment_range("order", 100)


@on_virtual_time
async def test_r5_on_leaf_s_table_alone_a_node_that_finds_it_set_back_moves_no_number_however_often_it_is_asked() -> (
    None
):
    data = MemoryData(only_leaf=True)
    data.leaf["order"] = LeafRow(1, 10, "", datetime(2026, 1, 1, tzinfo=UTC))
    async with World(tags=(), spaces=(), data=data, guarded=True) as world:
        assert await world.ids(count=500)
        data.leaf["order"].max_id = 1
        numbers: list[int] = []
        for _ in range(100):
            with contextlib.suppress(NoRange, StoreWentBackwards):
                last = await world.ids(count=100)
                assert last[0] > 500, "granted before the table was set back"
                continue
            numbers.append(data.leaf["order"].max_id)
            await asyncio.sleep(2)
        assert len(numbers) >= 80
        assert set(numbers) == {1}
