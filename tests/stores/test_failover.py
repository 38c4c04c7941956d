"""A store whose server became another, or was set back while a node looked on (SAFETY R7)."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from databases import MariaDb, PostgreSql, Server
from goloves.errors import NoWorkerFree, StoreUnavailable, StoreWentBackwards
from goloves.stores import make_store
from goloves.stores.base import Claim, NewTag
from goloves.stores.failover import Policy, Skip
from goloves.stores.sql import Options, SqlStore
from stores.backends import Served
from stores.contract import LEAF, a_claim
from stores.test_leaf_table import LEAFS_SCRIPT, PORTED

SKIP = Skip(numbers=5000, time_ms=60_000)


@pytest.fixture(params=["mariadb", "postgresql"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    served = Served(request.getfixturevalue(request.param))
    await served.migrate()
    yield served
    await served.close()


def watching(served: Served, policy: Policy = "halt") -> SqlStore:
    return make_store(served.url, Options(timeout=20, failover=policy, skip=SKIP))


def become_another(served: Served) -> None:
    """Let the store remember another server than the one that it is on."""
    served.sql("UPDATE goloves_meta SET server = 'the old one'")


async def test_r7_a_store_remembers_its_server(served: Served) -> None:
    store = watching(served)
    await store.open()
    assert served.sql("SELECT server FROM goloves_meta") != ""
    for _ in range(2):
        store._database._cut_idle()
        await store.allocate("default", 1)
    assert await store.read_halt() == ""
    await store.close()


async def test_r7_another_server_halts_the_store_until_it_is_repaired(served: Served) -> None:
    first = watching(served)
    await first.open()
    await first.allocate("default", 10)
    become_another(served)
    second = watching(served)
    await second.open()
    for store in (first, second):
        with pytest.raises(StoreWentBackwards, match=r"it was the old one; commits may have been lost.*goloves repair"):
            await store.allocate("default", 1)
    repairing = make_store(served.url, Options(timeout=20, repairing=True))
    await repairing.open()
    await repairing.lift_halt()
    await repairing.close()
    for store in (first, second):
        store._database._cut_idle()
        assert await store.allocate("default", 1)
        await store.close()


async def test_r7_a_failover_is_noticed_by_the_first_new_connection(served: Served) -> None:
    store = watching(served)
    await store.open()
    await store.allocate("default", 10)
    become_another(served)
    assert await store.allocate("default", 1)
    store._database._cut_idle()
    with pytest.raises(StoreWentBackwards):
        await store.allocate("default", 1)
    await store.close()


async def test_r7_skip_goes_on_above_a_gap_once_in_every_tag_and_space(served: Served) -> None:
    store = watching(served, "skip")
    await store.open()
    await store.create_tag(NewTag("order", start=100))
    await store.open_space(LEAF)
    now = LEAF.layout.units(time.time_ns() // 1_000_000)
    become_another(served)
    store._database._cut_idle()
    assert (await store.allocate("default", 1)).start == 5001
    store._database._cut_idle()
    assert (await store.allocate("default", 1)).start == 5002
    assert (await store.allocate("order", 1)).start == 5100
    with pytest.raises(NoWorkerFree) as caught:
        await store.claim(a_claim(LEAF, now))
    floor = caught.value.lowest_floor
    assert now + 50_000 < floor < now + 120_000
    assert (await store.claim(a_claim(LEAF, floor))).start == floor
    await store.close()


async def test_r4_a_number_lowered_while_a_skip_is_due_halts_its_tag_alone(served: Served) -> None:
    """Nodes have read the mark with what is due: once that is left out, the mark may not stand below it."""
    store = watching(served, "skip")
    await store.open()
    await store.allocate("default", 100)
    become_another(served)
    store._database._cut_idle()
    read = (await store.read_tags(["default"]))["default"].mark
    assert read == 5101
    served.set_number("default", 50)
    for _ in range(2):
        with pytest.raises(StoreWentBackwards) as caught:
            await store.allocate("default", 1)
        assert not caught.value.whole_store
        assert (await store.read_tags(["default"]))["default"].mark == read
    await store.close()


async def test_r7_a_skip_rests_for_the_longest_window_that_was_claimed_by_anybody(served: Served) -> None:
    store = watching(served, "skip")
    await store.open()
    await store.open_space(LEAF)
    now = LEAF.layout.units(time.time_ns() // 1_000_000)
    lost = await store.claim(a_claim(LEAF, now, 500_000))
    become_another(served)
    served.forget_worker("default", lost.worker)
    store._database._cut_idle()
    with pytest.raises(NoWorkerFree) as caught:
        await store.claim(a_claim(LEAF, now))
    floor = caught.value.lowest_floor
    assert lost.end + SKIP.forward_ms <= floor < now + 600_000
    # Its fence is above the forgotten one, or its owner's mark would halt the store at the next claim.
    again = await store.claim(a_claim(LEAF, floor, workers=range(lost.worker, lost.worker + 1)))
    assert again.fence > lost.fence
    await store.close()


async def test_r6_a_claim_that_waits_while_the_store_is_halted_is_not_granted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = watching(served)
    await store.open()
    await store.open_space(LEAF)
    whole = store._choose_and_lock

    def halted_meanwhile(connection: Connection, claim: Claim) -> Any:
        chosen = whole(connection, claim)
        served.sql("UPDATE goloves_meta SET halt = 'while it waited for this lock'")
        return chosen

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(store, "_choose_and_lock", halted_meanwhile)
            with pytest.raises(StoreWentBackwards, match="while it waited"):
                await store.claim(a_claim(LEAF, 1000, workers=range(1)))
        await store.lift_halt()
        await store.claim(a_claim(LEAF, 1000, workers=range(1)))
        served.set_worker("default", 0, floor=0)
    assert served.sql("SELECT fence FROM goloves_worker") == "2"
    await store.close()


async def test_r7_a_copy_from_before_the_first_look_at_the_server_is_another_too(served: Served) -> None:
    store = watching(served)
    await store.open()
    seen = store._failover._seen
    assert seen is not None
    served.sql("UPDATE goloves_meta SET server = ''")
    store._database._cut_idle()
    await store.allocate("default", 1)
    served.sql("UPDATE goloves_meta SET server = ''")
    store._failover._seen = type(seen)("another", seen.position)
    store._database._cut_idle()
    with pytest.raises(StoreWentBackwards, match="it was another"):
        await store.allocate("default", 1)
    await store.close()


async def test_r7_ignore_goes_on_as_if_nothing_had_happened(served: Served) -> None:
    store = watching(served, "ignore")
    await store.open()
    await store.allocate("default", 10)
    become_another(served)
    store._database._cut_idle()
    assert (await store.allocate("default", 1)).start == 11
    await store.close()


async def test_r7_a_node_that_ignores_another_server_does_not_hide_it_from_those_that_do_not(served: Served) -> None:
    watching_one = watching(served)
    await watching_one.open()
    become_another(served)
    store = watching(served, "ignore")
    await store.open()
    await store.allocate("default", 10)
    assert served.sql("SELECT server, halt FROM goloves_meta").strip() == "the old one"
    watching_one._database._cut_idle()
    with pytest.raises(StoreWentBackwards, match="it was the old one"):
        await watching_one.allocate("default", 1)
    for each in (watching_one, store):
        await each.close()


async def test_r7_a_log_that_was_set_back_halts_the_store(served: Served) -> None:
    store = watching(served)
    await store.open()
    seen = store._failover._seen
    assert seen is not None
    assert seen.position > 0
    store._failover._seen = type(seen)(seen.name, seen.position + 10**12)
    store._database._cut_idle()
    with pytest.raises(StoreWentBackwards, match="it was set back"):
        await store.allocate("default", 1)
    await store.close()


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
async def test_r7_where_only_leafs_table_exists_the_node_halts_itself(
    kind: str, request: pytest.FixtureRequest
) -> None:
    served = Served(request.getfixturevalue(kind))
    served.sql(LEAFS_SCRIPT if kind == "mariadb" else PORTED)
    served.insert("order", 1)
    stores: dict[Policy, SqlStore] = {policy: watching(served, policy) for policy in ("halt", "ignore")}
    for store in stores.values():
        await store.open()
        await store.allocate("order", 1)
        seen = store._failover._seen
        assert seen is not None
        store._failover._seen = type(seen)("the old one", 0)
        store._database._cut_idle()
    # The first call meets the other server on its new connection; from then on nothing is granted.
    for _ in range(3):
        with pytest.raises(StoreWentBackwards, match="it was the old one"):
            await stores["halt"].allocate("order", 1)
    assert (await stores["ignore"].allocate("order", 1)).start >= 3
    for store in stores.values():
        await store.close()


async def test_r7_a_server_that_hides_what_it_is_is_used_all_the_same(postgresql: Server) -> None:
    served = Served(postgresql)
    await served.migrate()
    served.admin("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    store = watching(served)
    await store.open()
    assert await store.allocate("default", 1)
    assert served.sql("SELECT server FROM goloves_meta") == ""
    await store.close()


async def test_r7_a_connection_that_is_lost_while_it_is_looked_at_is_unavailable(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = watching(served)
    await store.open()
    store._database._cut_idle()

    def lost(*_: object) -> None:
        raise DBAPIError("SELECT", {}, OSError("gone"), connection_invalidated=True)

    with monkeypatch.context() as patch:
        patch.setattr(store._dialect, "server", lost)
        with pytest.raises(StoreUnavailable, match="gone"):
            await store.allocate("default", 1)
    assert await store.allocate("default", 1)
    await store.close()


@pytest.fixture(params=[MariaDb, PostgreSql])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may set back."""
    missing = request.param.missing()
    if missing:
        pytest.skip(missing)
    server: Server = request.param()
    try:
        server.create()
        yield server
    finally:
        server.remove()


async def test_r7_a_server_restored_from_its_own_backup_while_a_node_looks_on_is_noticed(own_server: Server) -> None:
    served = await Served(own_server).migrate()
    assert isinstance(served, Served)
    store = watching(served)
    await store.open()
    backup = Path(f"{own_server.data}.backup")

    def back_up() -> None:
        own_server.stop()
        shutil.copytree(own_server.data, backup, copy_function=shutil.copy2)
        _like(own_server.data, backup)
        own_server.start()

    def restore() -> None:
        own_server.stop()
        shutil.rmtree(own_server.data)
        backup.rename(own_server.data)
        own_server.start()

    await asyncio.to_thread(back_up)
    await store.allocate("default", 100)
    for number in range(50):
        await store.create_tag(NewTag(f"tag{number}", description="x" * 200))
    # The position is read when a connection is made.
    store._database._cut_idle()
    last = await store.allocate("default", 100)
    await asyncio.to_thread(restore)
    with pytest.raises(StoreWentBackwards):
        granted = await store.allocate("default", 1)
        pytest.fail(f"{granted} was granted after {last}")
    await store.close()


def _like(original: Path, copy: Path) -> None:
    """Give a copied tree the owners of its original."""
    for path in [original, *original.rglob("*")]:
        status = path.lstat()
        target = copy / path.relative_to(original)
        if target.exists():
            shutil.chown(target, status.st_uid, status.st_gid)
