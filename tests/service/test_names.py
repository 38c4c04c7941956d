"""How names become sources: picking up, not knowing, creating."""

import asyncio
import sys
from collections.abc import Callable
from sys import getsizeof

import pytest

from goloves.config import SegmentConfig
from goloves.errors import (
    GolovesError,
    InvalidCount,
    InvalidId,
    InvalidName,
    NeedsMigration,
    NoRange,
    StoreUnavailable,
    StoreWentBackwards,
    TooManyWaiting,
    UnknownSpace,
    UnknownTag,
)
from goloves.service.names import (
    LOOKUPS_WAITING,
    NAMES_PER_QUERY,
    SUGGESTIONS_PER_SECOND,
    UNKNOWN_KEPT,
    UNKNOWN_LASTS,
)
from goloves.stores.base import NewTag
from goloves.stores.memory import MemoryData
from service.world import SPACE, World, on_virtual_time, raising, refused, slow, times, until

AUTO = SegmentConfig(auto_create=True, default_step=7)


def answers(results: "list[list[int] | BaseException]", kind: type[BaseException]) -> int:
    """Count the answers that are errors of just this kind."""
    return sum(type(result) is kind for result in results)


async def ask_all(world: World, names: list[str]) -> "list[list[int] | BaseException]":
    return await asyncio.gather(*(world.ids(name) for name in names), return_exceptions=True)


# --- picking up ---


@on_virtual_time
async def test_requests_for_one_new_name_are_one_query_and_one_buffer() -> None:
    async with World() as world:
        world.store.before["read_tags"] = slow(0.01)
        ids = await asyncio.gather(*(world.ids() for _ in range(100)))
        assert sorted(id_ for each in ids for id_ in each) == list(range(1, 101))
        assert world.store.calls["read_tags"] == 1
        assert len(world.service.tags) == 1


@on_virtual_time
async def test_names_that_come_while_a_query_is_under_way_are_looked_up_together_by_the_next() -> None:
    names = [f"tag {number}" for number in range(300)]
    async with World(tags=[NewTag(name) for name in names]) as world:
        world.store.before["read_tags"] = slow(0.01)
        results = await ask_all(world, names)
        assert answers(results, list) == 300  # type: ignore[arg-type]
        assert world.store.calls["read_tags"] <= 2


@on_virtual_time
async def test_a_name_that_can_be_none_is_refused_without_asking_the_store() -> None:
    async with World() as world:
        for name in ("", "a\n", "x" * 129, " a"):
            with pytest.raises(InvalidName):
                await world.ids(name)
            with pytest.raises(InvalidName):
                await world.service.segment_range(name, 5)
            with pytest.raises(InvalidName, match="of a space"):
                await world.snowflakes(space=name)
        assert world.store.calls["read_tags"] == 0


@on_virtual_time
async def test_a_look_up_that_takes_too_long_ends_at_the_deadline_and_its_answer_serves_the_next() -> None:
    async with World() as world:
        world.store.before["read_tags"] = times(1, slow(1))
        begun = world.loop.now
        with pytest.raises(NoRange, match=r"could not be looked up: the store did not answer in time; try again"):
            await world.ids()
        assert world.loop.now - begun == pytest.approx(0.2)
        assert world.counters.deadlines_missed == 1
        await asyncio.sleep(1)
        assert await world.ids() == [1]


@on_virtual_time
async def test_a_request_that_is_cancelled_does_not_cancel_the_look_up_of_others() -> None:
    async with World() as world:
        hold = asyncio.Event()
        world.store.before["read_tags"] = until(hold)
        first, second = world.ask(), world.ask()
        await world.settle()
        first.cancel()
        await world.settle()
        hold.set()
        assert await second == [1]


@on_virtual_time
async def test_a_store_that_is_away_is_named_and_not_asked_again_by_each_request() -> None:
    async with World() as world:
        world.store.before["read_tags"] = refused
        for _ in range(200):
            with pytest.raises(StoreUnavailable, match="connection refused"):
                await world.ids()
            await asyncio.sleep(0.01)
        assert world.store.calls["read_tags"] <= 10


@on_virtual_time
async def test_a_look_up_that_closes_the_gate_meanwhile_says_that_the_store_is_away() -> None:
    async with World() as world:
        await world.ids("dry")
        world.store.before["read_tags"] = slow(1)
        world.store.before["allocate"] = refused
        task = world.ask()
        await world.settle()
        with pytest.raises(NoRange):
            await world.ids("dry")
        with pytest.raises(NoRange, match=r"could not be looked up: the store is away \(connection refused\)"):
            await task


# --- names that don't exist ---


@on_virtual_time
async def test_an_unknown_tag_is_answered_with_one_that_is_much_like_it() -> None:
    async with World(tags=[NewTag("order"), NewTag("message")]) as world:
        for name, says in (
            ("ordr", "there is no tag 'ordr'; did you mean 'order'? Or create it with `goloves tag create`"),
            ("xyz", "there is no tag 'xyz'; create it with `goloves tag create`"),
        ):
            with pytest.raises(UnknownTag) as caught:
                await world.ids(name)
            assert caught.value.message == says


@on_virtual_time
async def test_an_unknown_tag_among_a_thousand_is_answered_with_one_that_begins_as_it_does() -> None:
    tags = [NewTag(f"{first}{second}-{number}") for first in "abcdefghij" for second in "klmno" for number in range(20)]
    async with World(tags=[*tags, NewTag("order"), NewTag("zebra")]) as world:
        for name, meant in (("ordr", "order"), ("zebro", "zebra"), ("orrder", "order"), ("jm-6x", "jm-6")):
            with pytest.raises(UnknownTag, match=f"did you mean '{meant}'"):
                await world.ids(name)
            await asyncio.sleep(1)


@on_virtual_time
async def test_a_look_up_that_fails_in_a_way_nobody_foresaw_is_answered_and_the_next_is_made() -> None:
    async with World() as world:
        world.store.before["read_tags"] = times(1, raising(KeyError("a bug")))
        with pytest.raises(StoreUnavailable, match="nobody foresaw"):
            await world.ids("dry")
        assert await world.ids("dry")


@on_virtual_time
async def test_reading_the_tags_again_goes_on_after_a_failure_that_nobody_foresaw(
    said: Callable[[], str],
) -> None:
    async with World() as world:
        await world.ids("order")
        world.store.before["read_tags"] = times(1, raising(KeyError("a bug")))
        await asyncio.sleep(130)
        await world.operator.delete_tag("order")
        await asyncio.sleep(130)
        assert "order" not in world.service.tags
    assert "a background task failed" in said()


@on_virtual_time
async def test_an_unknown_tag_is_answered_without_a_suggestion_where_none_can_be_found() -> None:
    async with World() as world:
        world.store.before["list_tags"] = refused
        with pytest.raises(UnknownTag, match="there is no tag 'ordr'; create it"):
            await world.ids("ordr")
        world.store.before["list_tags"] = slow(5)
        await asyncio.sleep(2)
        begun = world.loop.now
        with pytest.raises(UnknownTag, match="there is no tag 'odrer'; create it"):
            await world.ids("odrer")
        assert world.loop.now - begun == pytest.approx(0.2)


@on_virtual_time
async def test_an_unknown_tag_is_answered_where_what_finds_suggestions_can_not_be_loaded() -> None:
    async with World() as world:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "difflib", None)
            with pytest.raises(UnknownTag, match="there is no tag 'ordr'; create it"):
                await world.ids("ordr")
        await asyncio.sleep(UNKNOWN_LASTS)
        with pytest.raises(UnknownTag, match="did you mean 'order'"):
            await world.ids("ordr")


@on_virtual_time
async def test_an_unknown_tag_is_remembered_for_a_while_and_a_new_one_is_seen_afterwards() -> None:
    async with World() as world:
        for _ in range(20):
            with pytest.raises(UnknownTag, match="'new'"):
                await world.ids("new")
        assert world.store.calls["read_tags"] == 1
        await world.operator.create_tag(NewTag("new"))
        with pytest.raises(UnknownTag):
            await world.ids("new")
        await asyncio.sleep(UNKNOWN_LASTS)
        assert await world.ids("new") == [1]


@on_virtual_time
async def test_a_flood_of_made_up_names_costs_few_queries_and_bounded_memory() -> None:
    rounds, at_once = UNKNOWN_KEPT // 1000 + 2, 1000
    async with World() as world:
        await world.ids()
        world.store.calls.clear()
        world.store.before["read_tags"] = slow(0.001)
        for number in range(rounds):
            results = await ask_all(world, [f"made up {number} {each}".ljust(128, "x") for each in range(at_once)])
            assert answers(results, UnknownTag) == at_once
        assert world.store.calls["read_tags"] <= 2 * rounds
        assert world.store.calls["list_tags"] <= 3 * SUGGESTIONS_PER_SECOND * 2
        known = world.service._names._unknown
        assert len(known) == UNKNOWN_KEPT
        assert sum(map(getsizeof, [*known, *known.values(), *(message for _, message in known.values())])) < 6_000_000
        assert not world.service._names._lookups
        assert await world.ids() == [2]


@on_virtual_time
async def test_more_names_than_two_queries_take_are_told_to_come_again() -> None:
    async with World() as world:
        hold = asyncio.Event()
        world.store.before["read_tags"] = until(hold)
        names = [f"made up {number}" for number in range(LOOKUPS_WAITING + 500)]
        tasks = [world.ask(name) for name in names]
        await world.settle()
        hold.set()
        done, _ = await asyncio.wait(tasks)
        kinds = [type(task.exception()) for task in done]
        assert kinds.count(TooManyWaiting) == 500
        assert kinds.count(UnknownTag) == LOOKUPS_WAITING
        assert world.store.calls["read_tags"] <= LOOKUPS_WAITING // NAMES_PER_QUERY + 1


@on_virtual_time
async def test_an_unknown_space_is_answered_with_one_that_is_much_like_it() -> None:
    async with World() as world:
        with pytest.raises(UnknownSpace, match="there is no space 'defualt'; did you mean 'default'"):
            await world.snowflakes(space="defualt")
        with pytest.raises(UnknownSpace):
            world.service.decode("other", 5)


@on_virtual_time
async def test_a_count_of_snowflakes_below_1_is_refused() -> None:
    async with World() as world:
        with pytest.raises(InvalidCount):
            await world.service.snowflake_ids("default", 0)


@on_virtual_time
async def test_an_id_is_decoded_with_its_space_s_layout() -> None:
    async with World() as world:
        assert world.service.decode("default", SPACE.layout.compose(5, 3, 7)).worker == 3
        with pytest.raises(InvalidId):
            world.service.decode("default", -1)


# --- creating at first use ---


@on_virtual_time
async def test_with_auto_create_a_tag_is_made_at_its_first_use() -> None:
    async with World(segment=AUTO) as world:
        assert await world.ids("new") == [1]
        assert world.data.leaf["new"].step == 7
        assert world.counters.unknown_names == 0


@on_virtual_time
async def test_with_auto_create_a_deleted_tag_stays_deleted() -> None:
    async with World(segment=AUTO) as world:
        await world.operator.delete_tag("order")
        with pytest.raises(UnknownTag):
            await world.ids()
        assert "order" not in world.data.leaf


@on_virtual_time
async def test_with_auto_create_two_nodes_make_one_tag() -> None:
    data = MemoryData(uuid="a store")
    async with World(segment=AUTO, data=data) as one, World(segment=AUTO, data=data, tags=()) as other:
        both = await asyncio.gather(one.ids("new", 5), other.ids("new", 5))
        assert len({*both[0], *both[1]}) == 10


@on_virtual_time
async def test_a_tag_that_cannot_be_made_is_refused_and_those_looked_up_beside_it_are_served() -> None:
    data = MemoryData(only_leaf=True)
    async with World(segment=AUTO, data=data, tags=()) as world:
        template = MemoryData()
        async with World(data=template, started=False):
            data.leaf.update(template.leaf)
        results = await ask_all(world, ["order", "made up", "dry"])
        assert [type(result) for result in results] == [list, NeedsMigration, list]


@pytest.mark.parametrize("error", [StoreUnavailable("connection refused"), NeedsMigration("run goloves migrate")])
@on_virtual_time
async def test_a_store_that_fails_while_a_tag_is_made_is_named(error: GolovesError) -> None:
    async with World(segment=AUTO) as world:
        world.store.before["ensure_tag"] = times(1, raising(error))
        results = await ask_all(world, ["new", "order"])
        assert [type(result) for result in results] == [type(error), list]
        await asyncio.sleep(1)
        assert await world.ids("new") == [1]


# --- a store that went backwards ---


@on_virtual_time
async def test_r6_a_look_up_that_finds_the_store_set_back_drops_all_grants() -> None:
    async with World(guarded=True, tags=[NewTag("order", step=1000), NewTag("old", step=10)]) as world:
        await world.ids("old", 5)
        backup = world.data.snapshot()
        await world.service.segment_range("old", 1000)
        await world.ids()
        world.service._drop(world.service.tags["old"])
        world.data.restore(backup)
        with pytest.raises(StoreWentBackwards):
            await world.ids("old")
        assert not world.service.tags["order"].left
        assert world.service.spaces["default"].take() is None
        assert world.data.halt


@on_virtual_time
async def test_r6_reading_the_tags_again_finds_a_store_set_back_and_drops_all_grants() -> None:
    async with World(guarded=True, tags=[NewTag("order", step=1000)]) as world:
        backup = world.data.snapshot()
        await world.ids()
        world.data.restore(backup)
        source = world.service.tags["order"]
        assert source.take() == 2
        await world.wait_for(lambda: world.data.halt, within=61)
        await world.settle()
        assert source.take() is None
        assert world.service.spaces["default"].take() is None
        assert world.counters.store_went_backwards >= 1
