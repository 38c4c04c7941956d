"""A node's life: start, readiness, stop, fork."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import goloves
from goloves.config import SegmentConfig
from goloves.errors import (
    NoRange,
    ShuttingDown,
    StoreRefused,
    StoreUnavailable,
    StoreWentBackwards,
    Unavailable,
    UnknownOutcome,
)
from goloves.service import IdService, ServedSpace, SystemClock
from goloves.stores.base import Mark, NewTag
from goloves.stores.memory import MemoryData, new_memory_store
from service.world import SPACE, World, lost, on_virtual_time, raising, refused, slow, times, until

# --- start ---


async def test_a_node_with_all_its_defaults_serves_on_the_real_clock() -> None:
    store = new_memory_store()
    service = IdService(store, store, spaces=[ServedSpace(SPACE)])
    await service.start()
    assert [list(span) for span in await service.segment_ids("default", 3)] == [[1, 2, 3]]
    (span,) = await service.snowflake_ids("default", 1, timeout=5.0)
    assert abs(service.decode("default", span[0]).unix_ms - SystemClock.wall_ns() // 1_000_000) < 60_000
    await service.close()


@on_virtual_time
async def test_a_store_that_must_not_be_used_stops_the_start() -> None:
    async with World(started=False) as world:
        world.store.before["open"] = raising(StoreRefused("it is a replica"))
        with pytest.raises(StoreRefused, match="it is a replica"):
            await world.service.start()
        assert not world.service._tasks


@pytest.mark.parametrize("hook", [refused, lost])
@on_virtual_time
async def test_a_store_that_is_away_at_start_is_waited_for_and_named(hook: "object") -> None:
    async with World(started=False) as world:
        world.store.before["all"] = hook  # type: ignore[assignment]
        begun = world.loop.now
        await world.service.start()
        assert world.loop.now == begun
        reasons = world.service.readiness()
        assert reasons[0].startswith("the store can't be used: ")
        assert reasons[1].startswith("no window of the space 'default'")
        with pytest.raises(StoreUnavailable, match="the store can't be used"):
            await world.ids()
        await asyncio.sleep(60)
        world.store.before.clear()
        await world.wait_for(lambda: not world.service.readiness(), within=2)
        assert await world.ids() == [1]
        assert await world.snowflakes()


@on_virtual_time
async def test_requests_do_not_keep_a_store_that_is_back_from_being_opened() -> None:
    async with World(started=False) as world:
        world.store.before["all"] = refused
        await world.service.start()

        async def client(name: str) -> None:
            while world.service.readiness():
                with pytest.raises(Unavailable):
                    await world.ids(name)
                await asyncio.sleep(0.001)

        clients = [world.loop.create_task(client(name)) for name in ("order", "dry", "made up")]
        await asyncio.sleep(10)
        world.store.before.clear()
        back = world.loop.now
        await asyncio.wait(clients)
        assert world.loop.now - back < 2


@on_virtual_time
async def test_a_store_that_comes_back_and_must_not_be_used_is_said_once_a_minute_and_looked_at_again(
    said: Callable[[], str],
) -> None:
    async with World(started=False) as world:
        world.store.before["open"] = refused
        await world.service.start()
        world.store.before["open"] = raising(StoreRefused("it is a replica"))
        await asyncio.sleep(90)
        assert world.service.readiness()[0] == "the store can't be used: it is a replica"
        assert said().count("the store can't be used") == 2
        world.store.before.clear()
        await world.wait_for(lambda: not world.service.readiness(), within=2)


@on_virtual_time
async def test_windows_are_served_from_their_store_while_the_other_one_is_away_at_start() -> None:
    async with World(started=False, windows=MemoryData(uuid="another store")) as world:
        world.store.before["all"] = refused
        await world.service.start()
        await world.settle()
        assert await world.snowflakes()
        assert world.windows.calls["open"] == 1
        world.store.before.clear()
        await world.wait_for(lambda: not world.service.readiness(), within=2)
        assert await world.ids() == [1]
        assert world.windows.calls["open"] == 1


@on_virtual_time
async def test_ranges_are_served_from_their_store_while_the_other_one_is_away_at_start() -> None:
    async with World(started=False, windows=MemoryData(uuid="another store")) as world:
        world.windows.before["all"] = refused
        world.clock.step(60)
        await world.service.start()
        assert await world.ids() == [1]
        await asyncio.sleep(5)
        assert world.windows.calls["clock"] == 0
        assert world.store.calls["open"] == 1
        world.windows.before.clear()
        await world.wait_for(lambda: not world.service.readiness(), within=2)


# --- readiness ---


@on_virtual_time
async def test_a_node_is_ready_when_it_has_its_windows_and_stays_so_while_its_buffers_last() -> None:
    async with World(tags=[NewTag("order", step=1000), NewTag("dry", step=1)]) as world:
        assert world.service.readiness() == []
        await world.ids()
        await world.ids("dry")
        world.store.before["all"] = refused
        await asyncio.sleep(30)
        assert world.service.readiness() == []
        with pytest.raises(NoRange):
            await world.ids("dry")
        assert world.service.readiness() == ["the tag 'dry' has no number left: connection refused"]
        await world.service.close()
        assert world.service.readiness() == ["this node is stopping; ask another one"]


# --- stop ---


@on_virtual_time
async def test_after_a_stop_nothing_is_issued_by_whatever_way() -> None:
    async with World(tags=[NewTag("order", step=1000)]) as world:
        await world.ids()
        take, take_snowflake = world.service.tags["order"].take, world.service.spaces["default"].take
        await world.service.close()
        await world.service.close()
        assert take() is None
        assert take_snowflake() is None
        for ask in (world.ids(), world.snowflakes(), world.service.segment_range("order", 5)):
            with pytest.raises(ShuttingDown):
                await ask


@on_virtual_time
async def test_every_request_that_a_stop_meets_is_told_so_and_none_is_left_hanging() -> None:
    async with World(segment=SegmentConfig(deadline=60.0)) as world:
        await world.ids("dry")
        hold = asyncio.Event()
        world.store.before["allocate"] = until(hold)
        world.store.before["read_tags"] = until(hold)
        create = world.loop.create_task
        tasks: list[asyncio.Task[object]] = [
            create(world.ids("dry")),
            create(world.ids("order")),
            create(world.service.segment_range("dry", 1000)),
            create(world.service.segment_range("order", 1000)),
        ]
        await world.settle()
        assert world.store.under_way["allocate"] == 2
        begun = world.loop.now
        await world.service.close()
        await asyncio.wait(tasks)
        assert [type(task.exception()) for task in tasks] == [ShuttingDown] * 4
        assert world.loop.now == begun
        assert not world.service._tasks


@on_virtual_time
async def test_a_look_up_that_a_stop_overtakes_starts_nothing_anew() -> None:
    async with World() as world:
        world.store.before["read_tags"] = times(1, slow(0.05))
        task = world.ask()
        await asyncio.sleep(0.04)
        future = world.service._names._lookups["order"]
        found = (await world.operator.read_tags(["order"]))["order"]
        future.set_result(found)
        world.service._names._lookups.clear()
        await world.service.close()
        with pytest.raises(ShuttingDown):
            await task
        assert not world.service._tasks


# --- what a halt of the store finds out about itself ---


@contextlib.asynccontextmanager
async def set_back() -> AsyncIterator[World]:
    """A node that holds ranges of two tags and a window, and whose store was set back since; it asks when `dry` is."""
    async with World(guarded=True, tags=[NewTag("order", step=1000), NewTag("dry", step=1)]) as world:
        await world.ids("dry")
        backup = world.data.snapshot()
        await world.ids()
        await world.ids("dry")
        await asyncio.sleep(1)
        world.data.restore(backup)
        yield world


async def nothing_is_issued_once_it_asks(world: World) -> None:
    with pytest.raises(StoreWentBackwards, match="goloves repair"):
        await world.ids("dry", 100)
    assert world.service.tags["order"].take() is None
    assert world.service.spaces["default"].take() is None


@on_virtual_time
async def test_r5_a_store_set_back_is_noticed_by_the_node_s_own_mark_and_nothing_more_is_issued() -> None:
    async with set_back() as world:
        await nothing_is_issued_once_it_asks(world)
        assert world.data.halt
        await world.settle()
        assert world.data.marks["a node"]


@on_virtual_time
async def test_r6_all_is_dropped_before_the_marks_are_written_for_the_repair() -> None:
    """Marks may be many and the store slow: what is held meanwhile may have been granted once more."""
    async with set_back() as world:
        world.store.before["write_marks"] = slow(30)
        await nothing_is_issued_once_it_asks(world)
        await asyncio.sleep(1)
        assert world.data.halt
        assert world.store.under_way["write_marks"] == 1
        assert not world.data.marks
        await asyncio.sleep(30)
        assert world.data.marks["a node"]


@on_virtual_time
async def test_r6_ranges_are_dropped_when_a_store_is_found_set_back_as_its_windows_are_opened() -> None:
    """However soon it is repaired: others may have been granted the same ranges before."""
    async with World(guarded=True, started=False, tags=[NewTag("order", step=1000)]) as world:
        await world.operator.open_space(SPACE)
        world.marks.rise("a store", Mark("worker", "default", 5, 0))
        openings = [slow(0), refused]  # the ranges are open at once, the windows later

        async def one_after_the_other() -> None:
            if openings:
                await openings.pop(0)()

        async def repaired() -> None:
            await world.operator.raise_fences([Mark("worker", "default", 5, 0)])
            await world.operator.lift_halt()

        world.store.before["open"] = one_after_the_other
        world.store.after["halt"] = repaired
        await world.service.start()
        assert await world.ids() == [1]
        await asyncio.sleep(10)
        assert not world.data.halt
        assert world.counters.store_went_backwards == 1
        assert (await world.ids())[0] > 1000


# --- forks ---

FORK = """
import asyncio, json, os, sys
from goloves.core.layout import Layout
from goloves.errors import GolovesError
from goloves.service import IdService, ServedSpace
from goloves.stores.base import Space
from goloves.stores.memory import new_memory_store

def tell(what):
    os.write(int(sys.argv[1]), (json.dumps(what) + "\\n").encode())

def child(service, take, take_snowflake):
    said = {"take": take(), "snowflake": take_snowflake(), "tags": len(service.tags)}
    for name, ask in (
        ("ids", lambda: service.segment_ids("default", 1)),
        ("range", lambda: service.segment_range("default", 1)),
        ("snowflakes", lambda: service.snowflake_ids("default", 1)),
    ):
        try:
            said[name] = str(asyncio.run(ask()))
        except GolovesError as error:
            said[name] = error.message
    asyncio.run(service.close())
    tell({"child": said})
    os._exit(0)

async def main():
    store = new_memory_store()
    service = IdService(store, store, spaces=[ServedSpace(Space("default", Layout()))])
    await service.start()
    first = (await service.segment_ids("default", 1))[0][0]
    await service.snowflake_ids("default", 1, timeout=5.0)
    source, space = service.tags["default"], service.spaces["default"]
    pid = os.fork()
    if pid == 0:
        asyncio._set_running_loop(None)
        child(service, source.take, space.take)
    os.waitpid(pid, 0)
    parent = {"first": first, "next": source.take(), "snowflake": space.take() is not None}
    worker = space.window.worker
    await service.close()
    tell({"parent": parent, "released": store.data.workers["default"][worker].floor})

asyncio.run(main())
"""


def test_p2_the_child_of_a_fork_issues_nothing_and_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(FORK)
    reading, writing = os.pipe()
    source = str(Path(goloves.__file__).parents[1])
    with os.fdopen(reading) as said:
        ended = subprocess.run(
            [sys.executable, str(script), str(writing)],
            env={**os.environ, "PYTHONPATH": source},
            pass_fds=[writing],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(writing)
        lines = said.read().splitlines()
    assert ended.returncode == 0, ended.stderr
    assert len(lines) == 2, ended.stderr
    assert '"take": null, "snowflake": null, "tags": 0' in lines[0]
    assert lines[0].count("ids belong to the process that started the service") == 3
    assert '"parent": {"first": 1, "next": 2, "snowflake": true}' in lines[1]


@on_virtual_time
async def test_p2_in_the_child_a_claim_under_way_is_neither_adopted_nor_released() -> None:
    async with World(started=False) as world:
        hold = asyncio.Event()
        world.store.after["claim"] = until(hold)
        await world.service.start()
        await world.settle()
        world.service._forked()
        hold.set()
        await asyncio.sleep(10)
        assert world.service.spaces["default"].window is None
        assert world.store.calls["claim"] == 1
        assert world.store.calls["release"] == 0
        with pytest.raises(Unavailable, match="not to its forked child"):
            await world.snowflakes()


@on_virtual_time
async def test_p2_in_the_child_a_claim_of_unknown_outcome_is_not_looked_for() -> None:
    async with World(started=False) as world:
        hold = asyncio.Event()

        async def lost_later() -> None:
            await hold.wait()
            raise UnknownOutcome("no answer")

        world.store.after["claim"] = lost_later
        await world.service.start()
        await world.settle()
        world.service._forked()
        hold.set()
        await asyncio.sleep(10)
        assert world.store.calls["find_window"] == 0


@on_virtual_time
async def test_p2_in_the_child_registering_and_waiting_end() -> None:
    async with World(started=False) as world:
        world.store.before["open_space"] = refused
        await world.service.start()
        await world.settle()
        world.service._forked()
        calls = world.store.calls["open_space"]
        await asyncio.sleep(10)
        assert world.store.calls["open_space"] <= calls + 1
        assert world.store.calls["claim"] == 0


@on_virtual_time
async def test_p2_a_refill_under_way_at_a_fork_fills_no_buffer_of_the_child_and_serves_nobody_there() -> None:
    async with World() as world:
        await world.ids("dry")
        hold = asyncio.Event()
        world.store.after["allocate"] = until(hold)
        task = world.ask("dry")
        await world.settle()
        source = world.service.tags["dry"]
        world.service._forked()
        hold.set()
        with pytest.raises(NoRange):
            await task
        assert source.take() is None
        assert not world.service.tags


@on_virtual_time
async def test_p2_an_answer_that_both_sides_of_a_fork_hold_in_memory_is_the_parent_s() -> None:
    async with World() as world:
        await world.ids("dry")
        hold = asyncio.Event()
        world.store.before["allocate"] = until(hold)
        task = world.ask("dry")
        await world.settle()
        source = world.service.tags["dry"]
        assert source._line is not None
        source._line[0].done.set_result([range(5, 6)])
        world.service._forked()
        with pytest.raises(Unavailable, match="not to its forked child"):
            await task
