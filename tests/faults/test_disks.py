"""Disks that are full or can't be written: nodes refuse honestly, and go on by themselves when there is room again."""

import statistics

import pytest

from databases import MariaDb, PostgreSql, Server
from faults.conftest import Note
from faults.disks import Disk, mounted, server_on
from faults.ground import BRISK, TAGS, Ground, prepared
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, Node, start_all, wait_for
from stores.backends import Served, Sqlite

ROUTES = all_routes(TAGS)


def fill_and_make_room(ground: Ground, disk: Disk, nodes: list[Node], load: Load) -> list[float]:
    """Fill the disk until nobody gives numbers, then make room; gives the seconds until each node goes on."""
    for node in nodes:
        load.wait_served(200, "segment", node.name)
    assert disk.fill() > 0
    for node in nodes:
        load.wait_refused("segment", node.name, count=20)
    assert not any(refusal.mode == "snowflake" for refusal in load.met.refusals), "windows outlast a full disk"
    disk.make_room()
    if not ground.embedded and ground.server.process is not None and ground.server.process.poll() is not None:
        # PostgreSQL gives up where its log can't be written: somebody has to start it again.
        ground.server.kill()
        ground.server.start()
    return [load.wait_served(50, "segment", node.name) for node in nodes]


@pytest.mark.supervised()
def test_a_full_disk_under_a_file_stops_numbers_until_there_is_room(note: Note) -> None:
    ledger = Ledger()
    with mounted(4) as disk:
        ground = prepared(Sqlite(disk.place))
        with Cluster(ground.url, settings=BRISK) as cluster:
            nodes = [cluster.add(), cluster.add()]
            # This one's marks are on the full disk as well.
            nodes[1].data = disk.place / "state"
            start_all(nodes)
            with Load(nodes, ledger, routes=ROUTES) as load:
                recoveries = fill_and_make_room(ground, disk, nodes, load)
            assert all("disk is full" in node.said() for node in nodes)
            nodes[1].kill()
            nodes[1].start()
            with Load(nodes, ledger, routes=ROUTES) as load:
                load.wait_served(200, "segment", nodes[1].name)
            ground.check(ledger, cluster)
    note(received=ledger.received, back_after=recoveries)
    assert statistics.median(recoveries) < 10


@pytest.mark.full
@pytest.mark.supervised("mariadb")
@pytest.mark.parametrize("kind", [MariaDb, PostgreSql], ids=["mariadb", "postgresql"])
def test_a_full_disk_under_a_database_stops_numbers_until_there_is_room(kind: type[Server], note: Note) -> None:
    ledger = Ledger()
    with mounted(320) as disk, server_on(disk, kind) as server:
        ground = prepared(Served(server))
        with Cluster(ground.url, settings=BRISK) as cluster:
            nodes = cluster.start(2)
            with Load(nodes, ledger, routes=ROUTES) as load:
                recoveries = fill_and_make_room(ground, disk, nodes, load)
            ground.check(ledger, cluster)
    note(received=ledger.received, back_after=recoveries)
    assert max(recoveries) < 20


@pytest.mark.supervised()
def test_a_node_whose_file_can_t_be_written_does_not_start_and_says_why(note: Note) -> None:
    ledger = Ledger()
    with mounted(8) as disk:
        ground = prepared(Sqlite(disk.place))
        with Cluster(ground.url, settings=BRISK) as cluster:
            node = cluster.start(1)[0]
            with Load([node], ledger) as load:
                load.wait_served(500)
            assert node.stop() == 0
            disk.read_only(True)
            node.begin()
            wait_for(lambda: node.has_ended, "it gives up")
            assert node.ended() != 0
            assert "can't be written" in node.said() or "can't be opened" in node.said()
            disk.read_only(False)
            node.start()
            with Load([node], ledger) as load:
                load.wait_served(500)
            ground.check(ledger, cluster, at_least=5000)
    note(received=ledger.received)
