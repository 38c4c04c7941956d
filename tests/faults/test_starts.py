"""Starts: many at once on an empty store, again and again, on copies of directories, on a file that was replaced."""

import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from databases import Server
from faults.conftest import Note
from faults.ground import BRISK, HASTY, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes, snowflakes
from faults.nodes import Cluster, start_all, wait_for
from faults.witness import Witness
from goloves.core.layout import Layout
from stores.backends import Served, Sqlite

AT_ONCE = 16

SOCKETS = shutil.ignore_patterns("control")
"""What a copy of a directory lacks: the supervisor's socket, on which it takes orders."""

ROUTES = all_routes(TAGS)


@pytest.mark.full
@pytest.mark.supervised("sqlite")
@pytest.mark.parametrize("kind", ["sqlite", "mariadb", "postgresql"])
def test_sixteen_nodes_started_at_once_on_an_empty_store_share_it(
    kind: str, supervised: int, request: pytest.FixtureRequest, tmp_path: Path, note: Note
) -> None:
    backend: Sqlite | Served
    if kind == "sqlite":
        backend = Sqlite(tmp_path)
    else:
        server: Server = request.getfixturevalue(kind)
        backend = Served(server)
    ledger = Ledger()
    with Cluster(backend.url, settings=BRISK) as cluster:
        if kind != "sqlite":
            # A file is made by whichever node comes first, a database's tables by whoever says so; here four at once.
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _: cluster.goloves("migrate"), range(4)))
        begun = time.monotonic()
        nodes = [cluster.add() for _ in range(AT_ONCE // (supervised or 1))]
        start_all(nodes)
        ready = time.monotonic() - begun
        witness = Witness(backend)
        witness.install()
        with Load(nodes, ledger, routes=all_routes(), clients=1) as load:
            for node in nodes:
                load.wait_served(20, "segment", node.name)
                load.wait_served(20, "snowflake", node.name)
        Ground(backend, witness).check(ledger, cluster)
        owners = {window.worker for window in witness.gather().windows["default"].values()}
        assert len(owners) == AT_ONCE, "each node has a worker id of its own"
    note(nodes=AT_ONCE, ready_after=ready, received=ledger.received)


FEW = (
    HASTY
    + """
[spaces.few]
worker_bits = 2
window = 2
"""
)

LAYOUTS = {"few": Layout(worker_bits=2)}


@pytest.mark.full
@pytest.mark.supervised("postgresql", nodes=1)
def test_a_node_in_a_crash_loop_uses_up_no_worker_ids_for_good_and_leaves_the_others_theirs(
    ground: Ground, note: Note
) -> None:
    ledger = Ledger()
    routes = [snowflakes("few", 1), snowflakes("few", 20), *all_routes(["order"], [])]
    waits: list[float] = []
    with Cluster(ground.url, settings=FEW) as cluster:
        steady = cluster.start(2)
        looping = cluster.add()
        with Load([*steady, looping], ledger, routes=routes) as load:
            begun = time.monotonic()
            for _ in range(8):
                looping.start(ready=False)
                up = time.monotonic()
                load.wait_served(5, "snowflake", looping.name, since=up)
                waits.append(time.monotonic() - up)
                looping.kill()
            silences = [load.longest_silence(begun, time.monotonic(), "snowflake", node.name) for node in steady]
        ground.check(ledger, cluster, layouts=LAYOUTS, at_least=5000)
    note(crashes=8, waited=waits, silence=silences, received=ledger.received)
    # Two of the four ids are left to it, and each rests for two seconds after a crash.
    assert max(waits) < 20
    assert max(silences) < 10, "nodes that hold a window don't notice"


@pytest.mark.full
@pytest.mark.supervised("mariadb")
def test_r5_a_copy_of_a_node_s_directory_beside_its_original_repeats_nothing(ground: Ground, note: Note) -> None:
    ledger = Ledger()
    with Cluster(ground.url, settings=BRISK) as cluster:
        original = cluster.start(1)[0]
        copy = cluster.add()
        with Load([original, copy], ledger, routes=ROUTES) as load:
            load.wait_served(500)
            shutil.copytree(original.data, copy.data, ignore=SOCKETS)
            copy.start()
            for node in (original, copy):
                load.wait_served(500, "segment", node.name)
                load.wait_served(100, "snowflake", node.name)
            # The copy of an older day: its marks are lower than the store's, and nothing follows from that.
            copy.kill()
            shutil.rmtree(copy.data)
            shutil.copytree(original.data, copy.data, ignore=SOCKETS)
            load.wait_served(500, "segment", original.name)
            copy.start()
            load.wait_served(200, "segment", copy.name)
        ground.check(ledger, cluster)
    note(received=ledger.received)


@pytest.mark.supervised()
def test_r8_a_copy_of_a_file_on_another_machine_does_not_start_beside_its_original(
    embedded: Ground, tmp_path: Path, note: Note
) -> None:
    ledger = Ledger()
    with Cluster(embedded.url, settings=BRISK) as cluster:
        original = cluster.add(environment={"FAULT_MACHINE": "one"})
        original.start()
        with Load([original], ledger, routes=ROUTES) as load:
            load.wait_served(300)
            original.kill()
            copied = tmp_path / "copy"
            copied.mkdir()
            for file in tmp_path.glob("goloves.db*"):
                shutil.copy(file, copied)
            copy = cluster.add(store=f"sqlite:///{copied / 'goloves.db'}", environment={"FAULT_MACHINE": "two"})
            copy.begin()
            wait_for(lambda: copy.has_ended, "the copy gives up")
            assert copy.ended() != 0
            assert "belongs to another machine" in copy.said()
            original.start()
            load.wait_served(300)
        embedded.check(ledger, cluster, at_least=5000)
    note(received=ledger.received)


@pytest.mark.supervised(nodes=1)
def test_r8_a_file_that_is_replaced_under_running_nodes_stops_them_at_once(
    embedded: Ground, tmp_path: Path, note: Note
) -> None:
    ledger = Ledger()
    aside = tmp_path / "aside"
    with Cluster(embedded.url, settings=BRISK) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=ROUTES) as load:
            load.wait_served(300)
            backup = tmp_path / "backup"
            with closing(sqlite3.connect(embedded.file)) as source, closing(sqlite3.connect(backup)) as target:
                source.backup(target)
            for node in nodes:
                load.wait_served(300, "segment", node.name)
            embedded.file.rename(aside)
            shutil.copy(backup, embedded.file)
            replaced = time.monotonic()
            for node in nodes:
                for mode in ("segment", "snowflake"):
                    wait_for(
                        lambda node=node, mode=mode: any(  # type: ignore[misc]
                            each.code == "store_went_backwards"
                            for each in load.refused(mode, node.name, since=replaced)
                        ),
                        f"{node.name} refuses its {mode} ids",
                    )
                assert "was replaced or removed" in node.readiness()[1]
                node.kill()
            aside.rename(embedded.file)
            start_all(nodes)
            for node in nodes:
                load.wait_served(200, "segment", node.name)
        embedded.check(ledger, cluster)
    note(received=ledger.received)
