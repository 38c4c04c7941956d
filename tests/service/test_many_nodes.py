"""Worker ids that run short: a hundred nodes that restart at once, more nodes than ids, a node in a crash loop."""

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest

from goloves.core.layout import Layout
from goloves.service import IdService, ServedSpace
from goloves.stores.base import Space
from goloves.stores.memory import MemoryData
from service.world import ObedientStore, flat, on_virtual_time
from simulation.clocks import EPOCH_MS, SimClock
from simulation.loop import START, VirtualLoop

WIDE = Space("default", Layout(41, 7, 12, epoch_ms=EPOCH_MS - 3_600_000))
"""128 worker ids: an eighth of the usual space, and so are the nodes, for 800 on virtual time take a minute."""

NARROW = Space("default", Layout(41, 5, 12, epoch_ms=EPOCH_MS - 3_600_000))
"""32 worker ids."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hundreds of nodes log to nobody, and look at clocks that are right anyway only now and then."""
    monkeypatch.setattr("goloves.service.service.OBSERVE_EVERY", 20.0)
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record)


class Fleet:
    """Nodes on one store, of one space."""

    def __init__(self, space: Space, window: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.data = MemoryData(uuid="a store")
        self.nodes: list[IdService] = []
        self.stores: list[ObedientStore] = []
        self.issued: set[int] = set()
        self._space = space
        self._window = window

    async def start(self, count: int) -> list[IdService]:
        """Start nodes at once."""
        started = []
        for _ in range(count):
            store = ObedientStore(self.data, clock=lambda: EPOCH_MS + round((self.loop.now - START) * 1000))
            service = IdService(
                store,
                store,
                spaces=[ServedSpace(self._space, self._window)],
                clock=SimClock(self.loop),
                rng=random.Random(len(self.stores)),
                owner=f"node {len(self.stores)}",
            )
            self.stores.append(store)
            self.nodes.append(service)
            started.append(service)
            await service.start()
        for _ in range(100):
            await asyncio.sleep(0)
        return started

    async def crash(self, service: IdService) -> None:
        """End a node without a word to the store."""
        for task in list(service._tasks):
            task.cancel()
        await asyncio.gather(*service._tasks, return_exceptions=True)
        self.nodes.remove(service)

    async def draw(self, services: list[IdService]) -> None:
        """Draw from each node that can serve; an id that came before fails."""
        for service in services:
            if not service.readiness():
                for id_ in flat(await service.snowflake_ids("default", 3)):
                    assert id_ not in self.issued
                    self.issued.add(id_)

    async def close(self) -> None:
        for service in self.nodes:
            await service.close()


def ready(services: list[IdService]) -> int:
    return sum(not service.readiness() for service in services)


@on_virtual_time
async def test_w6_of_100_nodes_that_are_killed_and_restarted_at_once_some_wait_until_windows_end_and_say_so() -> None:
    fleet = Fleet(WIDE, 600.0)
    first = await fleet.start(100)
    assert ready(first) == 100
    await fleet.draw(first)
    for service in first:
        await fleet.crash(service)
    begun = fleet.loop.now
    second = await fleet.start(100)
    # The ids that were never used are given at once; the others rest until the windows of the dead end.
    assert ready(second) == 128 - 100
    waiting = [service for service in second if service.readiness()]
    why = waiting[0].readiness()[0]
    assert "all 128 worker ids of space 'default' are taken; the first becomes free in" in why
    assert "stop nodes, or give the space a layout with more worker bits" in why
    await fleet.draw(second)
    claims = sum(store.calls["claim"] for store in fleet.stores)
    await asyncio.sleep(300)
    asked = sum(store.calls["claim"] for store in fleet.stores) - claims
    assert 300 / 15 * len(waiting) * 0.9 <= asked <= 300 / 5 * len(waiting), "who waits for minutes asks now and then"
    while ready(second) < 100:
        assert fleet.loop.now - begun < 600 + 15, "the windows of the dead are past, and yet nodes wait"
        await asyncio.sleep(1)
    assert fleet.loop.now - begun > 500
    await fleet.draw(second)
    assert len(fleet.issued) == 3 * (100 + 28 + 100)
    await fleet.close()


@on_virtual_time
async def test_w6_of_40_nodes_in_a_space_of_32_ids_8_wait_and_take_over_when_others_stop() -> None:
    fleet = Fleet(NARROW, 60.0)
    nodes = await fleet.start(40)
    assert ready(nodes) == 32
    await asyncio.sleep(600)
    assert ready(nodes) == 32, "who holds a window keeps it"
    await fleet.draw(nodes)
    for service in [each for each in nodes if not each.readiness()][:8]:
        await service.close()
        nodes.remove(service)
        fleet.nodes.remove(service)
    await asyncio.sleep(10)
    assert ready(nodes) == 32, "a window that was given back is found within seconds"
    await fleet.draw(nodes)
    assert len(fleet.issued) == 3 * 64
    await fleet.close()


@on_virtual_time
async def test_w6_a_crash_loop_in_a_small_space_waits_for_its_own_windows_and_takes_nobody_else_s() -> None:
    fleet = Fleet(NARROW, 60.0)
    steady = await fleet.start(20)
    held = [service.spaces["default"].window for service in steady]
    served = 0
    begun = fleet.loop.now
    for _ in range(100):
        (looping,) = await fleet.start(1)
        while looping.readiness():
            await asyncio.sleep(1)
            assert fleet.loop.now - begun < 100 * 70
        await fleet.draw([looping])
        served += 1
        await asyncio.sleep(2)
        await fleet.crash(looping)
    assert served == 100
    for before, service in zip(held, steady, strict=True):
        window = service.spaces["default"].window
        assert before is not None
        assert window is not None
        assert (window.worker, window.fence) == (before.worker, before.fence)
    # Twelve ids are left to it, and each rests for a minute: one crash in five seconds on the long run.
    assert 100 * 2 < fleet.loop.now - begun < 100 * 12
    await fleet.close()


@on_virtual_time
async def test_w6_a_space_that_runs_short_is_warned_of_before_it_is_used_up() -> None:
    fleet = Fleet(NARROW, 60.0)
    logging.disable(logging.NOTSET)
    kept = Kept()
    logging.getLogger("goloves").addHandler(kept)
    try:
        await fleet.start(16)
        assert not [line for line in kept.lines if "run short" in line.getMessage()]
        await fleet.start(1)
    finally:
        logging.getLogger("goloves").removeHandler(kept)
    events: list[Any] = [line.msg for line in kept.lines if "run short" in line.getMessage()]
    assert [(event["taken"], event["of"]) for event in events] == [(17, 32)]
    await fleet.close()
