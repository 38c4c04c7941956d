import asyncio
import random

import pytest

from goloves.errors import GolovesError, StoreUnavailable, UnknownOutcome, UnknownTag
from goloves.service.gate import FIRST_DELAY, LONGEST_DELAY, Gate
from service.world import on_virtual_time
from simulation.loop import START


class Store:
    """Answers, fails or waits, as it is set, and counts."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.called_at: list[float] = []
        self.under_way = 0
        self.most = 0

    async def call(self) -> int:
        self.called_at.append(asyncio.get_running_loop().time())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.flowing.wait()
            if self.error is not None:
                raise self.error
            return len(self.called_at)
        finally:
            self.under_way -= 1


def a_gate(limit: int = 16) -> Gate:
    return Gate("segments", limit=limit, rng=random.Random(1))


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def spawn(gate: Gate, store: Store) -> "asyncio.Task[int]":
    return asyncio.get_running_loop().create_task(gate.call(store.call))


async def closed(gate: Gate, store: Store, error: GolovesError | None = None) -> None:
    """Close the gate by a call that fails."""
    store.error = error or StoreUnavailable("connection refused")
    with pytest.raises(type(store.error)):
        await gate.call(store.call)


@on_virtual_time
async def test_no_more_calls_than_the_limit_are_under_way_and_the_rest_waits_in_line() -> None:
    gate, store = a_gate(limit=3), Store()
    store.flowing.clear()
    tasks = [spawn(gate, store) for _ in range(10)]
    await settled()
    assert store.under_way == 3
    store.flowing.set()
    await asyncio.gather(*tasks)
    assert (store.most, len(store.called_at)) == (3, 10)


@pytest.mark.parametrize("error", [StoreUnavailable("connection refused"), UnknownOutcome("no answer")])
@on_virtual_time
async def test_a_call_that_fails_closes_the_gate_and_is_told_why(error: GolovesError) -> None:
    gate, store = a_gate(), Store()
    await closed(gate, store, error)
    assert gate.error is error
    assert START + FIRST_DELAY / 2 <= gate.retry_at <= START + FIRST_DELAY


@on_virtual_time
async def test_while_the_gate_is_closed_one_call_at_a_time_goes_through_as_a_probe() -> None:
    gate, store = a_gate(), Store()
    await closed(gate, store)
    store.flowing.clear()
    tasks = [spawn(gate, store) for _ in range(100)]
    await asyncio.sleep(60)
    assert store.under_way == 1
    assert len(store.called_at) == 2
    store.flowing.set()
    await settled()
    assert sum(task.done() for task in tasks) == 1
    store.error = None
    done, _ = await asyncio.wait(tasks)
    assert store.most <= 16
    assert sum(task.exception() is None for task in done) == 99


@on_virtual_time
async def test_the_delay_between_probes_doubles_up_to_a_second() -> None:
    gate, store = a_gate(), Store()
    store.error = StoreUnavailable("connection refused")
    for _ in range(12):
        with pytest.raises(StoreUnavailable):
            await gate.call(store.call)
    delays = [after - before for before, after in zip(store.called_at, store.called_at[1:], strict=False)]
    for number, delay in enumerate(delays):
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2**number)
        assert longest / 2 - 1e-6 <= delay <= longest + 1e-6
    assert len(set(delays)) > 5, "delays are to be drawn, so that nodes don't probe in step"


@on_virtual_time
async def test_the_first_success_opens_the_gate_for_all_and_the_delays_begin_anew() -> None:
    gate, store = a_gate(), Store()
    for _ in range(6):
        await closed(gate, store)
    store.error = None
    tasks = [spawn(gate, store) for _ in range(30)]
    begun = asyncio.get_running_loop().time()
    await asyncio.gather(*tasks)
    assert gate.error is None
    assert asyncio.get_running_loop().time() - begun <= LONGEST_DELAY
    assert len(set(store.called_at[-29:])) == 1
    await closed(gate, store)
    assert gate.retry_at - asyncio.get_running_loop().time() <= FIRST_DELAY


@on_virtual_time
async def test_a_store_that_answers_with_a_refusal_is_not_away() -> None:
    gate, store = a_gate(), Store()
    await closed(gate, store)
    store.error = UnknownTag("there is no tag 'x'")
    with pytest.raises(UnknownTag):
        await gate.call(store.call)
    assert gate.error is None


@on_virtual_time
async def test_calls_that_stood_in_line_when_the_gate_closed_do_not_storm_the_store() -> None:
    gate, store = a_gate(limit=2), Store()
    store.flowing.clear()
    store.error = UnknownOutcome("no answer")
    tasks = [spawn(gate, store) for _ in range(50)]
    await settled()
    assert store.under_way == 2
    store.flowing.set()
    await settled()
    assert len(store.called_at) == 2
    store.error = None
    await asyncio.wait(tasks)
    assert len(store.called_at) == 50


@on_virtual_time
async def test_who_cannot_wait_is_told_at_once_that_the_store_is_away() -> None:
    gate, store = a_gate(), Store()
    assert await gate.call_now(store.call) == 1
    await closed(gate, store)
    with pytest.raises(StoreUnavailable, match="the store is away: connection refused"):
        await gate.call_now(store.call)
    assert len(store.called_at) == 2


@on_virtual_time
async def test_who_cannot_wait_becomes_the_probe_when_one_is_due_and_not_while_another_is_under_way() -> None:
    gate, store = a_gate(), Store()
    await closed(gate, store)
    store.flowing.clear()
    await asyncio.sleep(LONGEST_DELAY)
    probe = asyncio.get_running_loop().create_task(gate.call_now(store.call))
    await settled()
    with pytest.raises(StoreUnavailable):
        await gate.call_now(store.call)
    store.error = None
    store.flowing.set()
    assert await probe == 2
    assert gate.error is None


@on_virtual_time
async def test_a_probe_that_is_cancelled_makes_way_for_the_next() -> None:
    gate, store = a_gate(), Store()
    await closed(gate, store)
    store.flowing.clear()
    probe = spawn(gate, store)
    await asyncio.sleep(LONGEST_DELAY)
    waiting = spawn(gate, store)
    await settled()
    probe.cancel()
    store.error = None
    store.flowing.set()
    assert await waiting == 3
    assert probe.cancelled()


@on_virtual_time
async def test_a_call_under_way_that_succeeds_after_another_failed_opens_the_gate() -> None:
    gate, store = a_gate(), Store()
    store.flowing.clear()
    good = spawn(gate, store)
    await settled()
    failing = Store()
    await closed(gate, failing)
    assert gate.error is not None
    store.flowing.set()
    assert await good == 1
    error: GolovesError | None = gate.error
    assert error is None
