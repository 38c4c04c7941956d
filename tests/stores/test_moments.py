"""What others do in the very moment in which a transaction has read and has not written yet.

Each of these fails without a lock, or without a comparison in the statement that writes: see `mutants.py`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from goloves.core.grants import Window
from goloves.core.layout import Layout
from goloves.errors import (
    GolovesError,
    NoWorkerFree,
    StoreRefused,
    StoreUnavailable,
    StoreWentBackwards,
    UnknownOutcome,
    WindowLost,
)
from goloves.stores import make_store
from goloves.stores.base import Space
from goloves.stores.sql import SqlStore
from stores.backends import PATIENT, Served, Sql
from stores.contract import LEAF, a_claim, assert_disjoint
from stores.moments import Rival, right_before
from stores.proxy import Proxy

ONLY = range(7, 8)

HALTED = "UPDATE goloves_meta SET halt = 'in the last moment'"


async def two(database: Sql) -> tuple[SqlStore, SqlStore]:
    """Give the stores of two nodes, with a space."""
    first, second = await database.nodes(2)
    assert isinstance(first, SqlStore)
    assert isinstance(second, SqlStore)
    for store in (first, second):
        await store.open_space(LEAF)
    return first, second


async def one(database: Sql) -> SqlStore:
    return (await two(database))[0]


# --- ranges ---


async def test_r4_a_range_is_compared_with_the_mark_that_nobody_can_raise_meanwhile(served: Served) -> None:
    store, other = await two(served)
    rival = Rival(served, lambda: other.allocate("default", 10))

    async def granted_and_set_back() -> None:
        await rival()
        served.set_number("default", 1)  # by hand: changes nothing as long as the rival waits

    with right_before(store, "UPDATE leaf_alloc", lambda _: granted_and_set_back()):
        granted = await store.allocate("default", 10)
    theirs = await rival.outcome()
    assert_disjoint([granted, theirs])


async def test_r4_a_range_of_unknown_outcome_has_raised_the_mark_if_it_has_moved_the_number(served: Served) -> None:
    async with Proxy(served.server.port) as proxy:
        store = make_store(served.url.replace(f":{served.server.port}/", f":{proxy.port}/"), PATIENT)
        await store.open()
        try:
            proxy.at_commit = "lose the answer"
            with pytest.raises(UnknownOutcome):
                await store.allocate("default", 10)
            proxy.at_commit = "pass"
            served.set_number("default", 1)
            with pytest.raises(StoreWentBackwards, match="below 11"):
                await store.allocate("default", 10)
        finally:
            await store.close()


async def test_r6_a_range_is_not_granted_if_the_store_was_halted_in_the_last_moment(served: Served) -> None:
    store = await one(served)
    with (
        right_before(store, "UPDATE goloves_tag", lambda _: served.sql(HALTED)),
        pytest.raises(StoreWentBackwards, match="in the last moment"),
    ):
        await store.allocate("default", 10)


# --- windows ---


async def test_w1_a_claim_that_has_chosen_keeps_the_owner_from_extending(served: Served) -> None:
    owner, other = await two(served)
    held = await owner.claim(a_claim(LEAF, 1000, 600, workers=ONLY))
    rival = Rival(served, lambda: owner.extend(held, held.end + 600))
    with right_before(other, "UPDATE goloves_worker", lambda _: rival()):
        try:
            taken = await other.claim(a_claim(LEAF, held.end, 600, workers=ONLY))
        except GolovesError as error:
            raise AssertionError("it had chosen, and nobody could come between") from error
    assert (taken.fence, taken.start) == (2, held.end)
    assert isinstance(await rival.outcome(), WindowLost)


async def test_w3_an_extension_under_way_keeps_others_from_claiming(served: Served) -> None:
    owner, other = await two(served)
    held = await owner.claim(a_claim(LEAF, 1000, 600, workers=ONLY))
    rival = Rival(served, lambda: other.claim(a_claim(LEAF, held.end, 600, workers=ONLY)))
    with right_before(owner, "UPDATE goloves_worker", lambda _: rival()):
        try:
            extended = await owner.extend(held, held.end + 600)
        except GolovesError as error:
            raise AssertionError("it had compared, and nobody could come between") from error
    theirs = await rival.outcome()
    assert not isinstance(theirs, Window) or theirs.start >= extended.end, (extended, theirs)
    assert isinstance(theirs, NoWorkerFree)


@pytest.mark.parametrize("changed", ["fence = fence + 1", "floor = floor + 600"])
async def test_w1_a_claim_writes_over_nothing_but_the_row_that_it_read(database: Sql, changed: str) -> None:
    """Were the lock to hold nobody back, as between the servers of a Galera cluster."""
    store = await one(database)
    held = await store.claim(a_claim(LEAF, 1000, 600, workers=ONLY))
    change = f"UPDATE goloves_worker SET {changed}"
    with (
        right_before(store, "UPDATE goloves_worker", lambda connection: connection.exec_driver_sql(change)),
        pytest.raises(StoreUnavailable, match="changed under its lock"),
    ):
        await store.claim(a_claim(LEAF, held.end, 600, workers=ONLY))


@pytest.mark.parametrize("changed", ["fence = fence + 1", "nonce = 'of another claim'"])
async def test_w3_an_extension_writes_over_nothing_but_its_own_window(database: Sql, changed: str) -> None:
    store = await one(database)
    held = await store.claim(a_claim(LEAF, 1000, 600, workers=ONLY))
    change = f"UPDATE goloves_worker SET {changed}"
    with (
        right_before(store, "UPDATE goloves_worker", lambda connection: connection.exec_driver_sql(change)),
        pytest.raises(StoreWentBackwards),
    ):
        await store.extend(held, held.end + 600)


async def test_r6_no_window_is_granted_or_extended_if_the_store_was_halted_in_the_last_moment(served: Served) -> None:
    store = await one(served)
    held = await store.claim(a_claim(LEAF, 1000, 600, workers=ONLY))
    calls: list[Callable[[], Awaitable[Window]]] = [
        lambda: store.claim(a_claim(LEAF, held.end, 600, workers=ONLY)),
        lambda: store.extend(held, held.end + 600),
    ]
    for call in calls:
        with (
            right_before(store, "UPDATE goloves_worker", lambda _: served.sql(HALTED)),
            pytest.raises(StoreWentBackwards, match="in the last moment"),
        ):
            await call()
        await store.lift_halt()
    assert (await store.find_window("default", held.nonce)) == held


async def test_w9_a_space_takes_no_other_layout_while_a_claim_is_under_way(served: Served) -> None:
    store, other = await two(served)
    rival = Rival(served, lambda: other.open_space(Space("default", Layout(unit_ms=10))))
    with right_before(store, "UPDATE goloves_space", lambda _: rival()):
        window = await store.claim(a_claim(LEAF, 1000))
    assert isinstance(await rival.outcome(), StoreRefused)
    assert (await store.extend(window, window.end + 1)) == replace(window, end=window.end + 1)


async def test_r6_a_repair_ends_the_window_of_a_claim_too_that_was_under_way(served: Served) -> None:
    store, other = await two(served)
    rival = Rival(served, lambda: other.end_windows("default"))
    with right_before(store, "INSERT INTO goloves_worker", lambda _: rival()):
        window = await store.claim(a_claim(LEAF, 1000))
    assert await rival.outcome() is None
    with pytest.raises(WindowLost, match="repair"):
        await store.extend(window, window.end + 1)
