"""Others at the same rows: Leaf's own SQL, transactions that deadlock with ours, locks and connections used up."""

import time
from collections.abc import Iterator

import pytest

from databases import Server
from faults.conftest import Note
from faults.ground import BRISK, TAGS, Ground, leaf_only
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, start_all, wait_for
from faults.proxy import Proxy
from faults.rivals import Rivals

SEGMENTS = all_routes(TAGS, [])


@pytest.fixture(params=["mariadb", "postgresql"])
def leafs_table(request: pytest.FixtureRequest) -> Ground:
    """A database with Leaf's table and nothing of ours."""
    server: Server = request.getfixturevalue(request.param)
    return leaf_only(server)


@pytest.mark.quick("mariadb")
@pytest.mark.supervised("mariadb")
def test_leaf_s_own_nodes_and_ours_share_one_table_without_sharing_a_number(ground: Ground, note: Note) -> None:
    ledger = Ledger()
    with Cluster(ground.url, settings=BRISK) as cluster, Rivals(ground) as rivals:
        nodes = cluster.start(2)
        for tag in (*TAGS, *TAGS):
            rivals.allocate_as_leaf(ledger, tag)
        with Load(nodes, ledger, routes=all_routes(TAGS)) as load:
            wait_for(lambda: rivals.done >= 400 and load.served("segment") >= 2000, "both draw from the table")
        rivals.leave()
        ground.check(ledger, cluster)
    note(received=ledger.received, by_leaf=rivals.done)


@pytest.mark.full
@pytest.mark.supervised("postgresql")
def test_where_only_leaf_s_table_exists_leaf_s_nodes_and_ours_share_no_number_either(
    leafs_table: Ground, note: Note
) -> None:
    ledger = Ledger()
    with Cluster(leafs_table.url, settings=BRISK) as cluster, Rivals(leafs_table) as rivals:
        nodes = [cluster.add(), cluster.add()]
        start_all(nodes, ready=False)  # without our tables there is no window, and so no readiness
        for tag in (*TAGS, *TAGS):
            rivals.allocate_as_leaf(ledger, tag)
        with Load(nodes, ledger, routes=SEGMENTS) as load:
            wait_for(lambda: rivals.done >= 400 and load.served("segment") >= 2000, "both draw from the table")
            for node in nodes:
                node.kill()
            start_all(nodes, ready=False)
            load.wait_served(500)
        rivals.leave()
        leafs_table.check(ledger, cluster)
    note(received=ledger.received, by_leaf=rivals.done)


@pytest.fixture
def quick_to_see_deadlocks(served: Ground) -> Iterator[Ground]:
    """PostgreSQL looks for deadlocks after a second by default, which would make few of them."""
    if served.server.name == "postgresql":
        database = served.url.rpartition("/")[2]
        served.server.sql(f"ALTER DATABASE {database} SET deadlock_timeout = '50ms'")
    yield served


def deadlocks(ground: Ground) -> int:
    """How many deadlocks the database has seen."""
    if ground.server.name == "mariadb":
        return int(ground.sql("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'").split("\t")[1])
    return int(ground.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))


@pytest.mark.supervised("postgresql")
def test_deadlocks_with_other_transactions_are_ridden_out(quick_to_see_deadlocks: Ground, note: Note) -> None:
    ground = quick_to_see_deadlocks
    ledger = Ledger()
    before = deadlocks(ground)
    with Cluster(ground.url, settings=BRISK) as cluster, Rivals(ground) as rivals:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=SEGMENTS) as load:
            load.wait_served(500)
            begun = time.monotonic()
            for _ in range(3):
                rivals.deadlock("order")
            wait_for(lambda: deadlocks(ground) - before >= 20, "twenty deadlocks happen")
            load.wait_served(200)
            ended = time.monotonic()
            silences = [load.longest_silence(begun, ended, "segment", node.name) for node in nodes]
            rivals.leave()
            load.wait_served(500)
        ground.check(ledger, cluster)
    note(deadlocks=deadlocks(ground) - before, received=ledger.received, silence=silences)
    assert max(silences) < 10, "ids stopped for long while transactions deadlocked"


@pytest.mark.full
@pytest.mark.supervised("postgresql")
def test_while_a_database_has_no_connection_left_nodes_wait_and_go_on_when_there_is_one(
    served: Ground, note: Note
) -> None:
    ledger = Ledger()
    mariadb = served.server.name == "mariadb"
    if mariadb:
        served.server.sql("SET GLOBAL max_connections = 20")
    try:
        with (
            Proxy(served.server.port, connecting_commits=not mariadb) as proxy,
            Cluster(served.through(proxy.port), settings=BRISK) as cluster,
            Rivals(served) as rivals,
        ):
            nodes = cluster.start(2)
            with Load(nodes, ledger, routes=SEGMENTS) as load:
                load.wait_served(500)
                proxy.refusing = True
                proxy.cut()
                taken = rivals.take_connections()
                proxy.refusing = False
                for node in nodes:
                    load.wait_refused("segment", node.name, count=50)
                rivals.leave()
                back = time.monotonic()
                recoveries = [load.wait_served(1, "segment", node.name, since=back) for node in nodes]
                load.wait_served(500)
            served.check(ledger, cluster)
    finally:
        if mariadb:
            served.server.sql("SET GLOBAL max_connections = 151")
    note(taken=taken, received=ledger.received, back_after=recoveries)
    assert taken >= 10
    assert max(recoveries) < 20


@pytest.mark.full
@pytest.mark.supervised("mariadb")
def test_tags_whose_rows_others_have_locked_hold_up_the_rest_for_moments_only(served: Ground, note: Note) -> None:
    ledger = Ledger()
    locked = [f"locked-{number}" for number in range(8)]
    for tag in locked:
        served.backend.insert(tag, 1, 100)
    with Cluster(served.url, settings=BRISK) as cluster, Rivals(served) as rivals:
        node = cluster.start(1)[0]
        with Load([node], ledger, routes=all_routes([*locked, *TAGS], []), clients=12) as load:
            load.wait_served(1000)
            wait_for(lambda: {*ledger.numbers} >= {*locked, *TAGS}, "all tags are in use")
            for tag in locked:
                rivals.hold(f"SELECT * FROM goloves_tag WHERE name = '{tag}' FOR UPDATE")
            begun = time.monotonic()
            load.wait_refused("segment", count=100)
            before = {tag: len(ledger.numbers[tag]) for tag in TAGS}
            # Most of a client's time goes into waiting for the locked tags, so that few answers are much.
            waited = wait_for(
                lambda: all(len(ledger.numbers[tag]) >= before[tag] + 50 for tag in TAGS), "other tags go on"
            )
            rivals.leave()
            free = time.monotonic()
            back = load.wait_served(500, "segment", since=free)
            silence = load.longest_silence(begun, time.monotonic(), "segment")
        served.check(ledger, cluster)
    note(received=ledger.received, others_50_times_after=waited, silence=silence, back_after=back)
    assert silence < 10


@pytest.mark.supervised()
def test_while_somebody_else_writes_to_a_file_for_long_nodes_serve_what_they_have_then_refuse_then_go_on(
    embedded: Ground, note: Note
) -> None:
    ledger = Ledger()
    recoveries: list[float] = []
    with Cluster(embedded.url, settings=BRISK) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=all_routes(TAGS)) as load:
            for _ in range(2):
                load.wait_served(500)
                with Rivals(embedded) as rivals:
                    rivals.hold("BEGIN IMMEDIATE")
                    held = time.monotonic()
                    for node in nodes:
                        load.wait_refused("segment", node.name, count=10)
                    assert load.served("segment", since=held)
                    load.wait_served(50, "snowflake")
                back = time.monotonic()
                recoveries += [load.wait_served(1, "segment", node.name, since=back) for node in nodes]
        embedded.check(ledger, cluster)
    note(received=ledger.received, back_after=recoveries)
    assert max(recoveries) < 20
