"""Databases that go away and come back, and ways to them that fail: ids go on, or are refused honestly, never repeated.

What holds in each case: a node serves from its buffers while the database is away; then it says 503, with Retry-After,
within the deadline; and once the database is back ids flow again by themselves, within two seconds at the median.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from faults.conftest import Note
from faults.ground import BRISK, HASTY, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, Refusal, all_routes
from faults.nodes import Cluster, Node, start_all, wait_for
from faults.proxy import Proxy

BACK = 2.0
"""Seconds after a database's return within which ids flow again, at the median."""

BACK_AT_MOST = 15.0
"""Seconds within which they flow again in each single case: a probe's pause, a timeout of the store's own, and a busy
machine."""

CONNECTIONS = 12
"""Attempts of one node to connect as a database returns: two probes, the five connections of its pool, and as many that
end statements which ran out of time."""

HONEST = 2.0
"""Seconds within which a request is refused: ten times the deadline that nodes have by default."""

ROUTES = all_routes(TAGS)

Break = Callable[[Ground], None]


def read_only(ground: Ground, on: bool) -> None:
    """Let the database accept no writes, as it does when it becomes a replica, or when its disk runs full."""
    if ground.server.name == "mariadb":
        ground.server.sql(f"SET GLOBAL read_only = {int(on)}")
        return
    database = ground.url.rpartition("/")[2]
    ground.server.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = {'on' if on else 'off'}")
    # Sessions take the database's setting over when they begin.
    ground.server.sql(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}'")


WAYS_TO_GO: dict[str, tuple[Break, Break]] = {
    "killed": (lambda ground: ground.server.kill(), lambda ground: ground.server.start()),
    "stopped": (lambda ground: ground.server.stop(), lambda ground: ground.server.start()),
    "read-only": (lambda ground: read_only(ground, True), lambda ground: read_only(ground, False)),
    "frozen": (lambda ground: ground.server.freeze(), lambda ground: ground.server.thaw()),
}


@pytest.fixture
def proxy(served: Ground) -> Iterator[Proxy]:
    with Proxy(served.server.port, connecting_commits=served.server.name == "postgresql") as proxy:
        yield proxy


def check_in_time(refused: list[Refusal]) -> None:
    """Hold that refusals came in time."""
    assert max(refusal.received - refusal.sent for refusal in refused) < HONEST


def check_refusals(load: Load, since: float) -> None:
    """Hold that whoever was refused was told so in time, and that Snowflake ids never stopped."""
    refused = load.refused(since=since)
    check_in_time(refused)
    assert {refusal.mode for refusal in refused} <= {"segment", "range"}


def all_refused(load: Load, nodes: list[Node]) -> None:
    """Wait until each node has used up what it had."""
    begun = time.monotonic()
    for node in nodes:
        wait_for(lambda node=node: load.refused("segment", node.name, since=begun), f"{node.name} runs dry")  # type: ignore[misc]


@pytest.mark.quick("mariadb-killed", "mariadb-read-only", "postgresql-frozen", "postgresql-stopped")
@pytest.mark.supervised("killed", "mariadb")
@pytest.mark.parametrize("how", WAYS_TO_GO)
def test_while_a_database_is_away_nodes_serve_from_their_buffers_then_refuse_in_time_then_go_on_by_themselves(
    served: Ground, how: str, note: Note
) -> None:
    leave, come_back = WAYS_TO_GO[how]
    ledger = Ledger()
    recoveries: list[float] = []
    from_buffers: Counter[str] = Counter()
    with Cluster(served.url, settings=BRISK) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=ROUTES) as load:
            for _ in range(3):
                load.wait_served(500)
                leaving = time.monotonic()
                leave(served)
                # One that is stopped hangs up at once, and may take longer to end than buffers last.
                gone = leaving if how == "stopped" else time.monotonic()
                all_refused(load, nodes)
                for node in nodes:
                    from_buffers[node.name] += load.served("segment", node.name, since=gone)
                load.wait_served(100, "snowflake")
                come_back(served)
                back = time.monotonic()
                recoveries += [load.wait_served(1, "segment", node.name, since=back) for node in nodes]
                check_refusals(load, gone)
        served.check(ledger, cluster)
        assert [node.stop() for node in nodes] == [0, 0]
        assert all(len(node.lives) == 1 for node in nodes)
    assert len(recoveries) == 6
    note(received=ledger.received, from_buffers=from_buffers.total(), back_after=recoveries)
    # A node whose buffers happen to be empty at that moment serves nothing; it does not happen in each of three rounds.
    assert all(from_buffers[node.name] for node in nodes), "no buffer served"
    assert statistics.median(recoveries) < BACK, recoveries
    assert max(recoveries) < BACK_AT_MOST, recoveries


@pytest.mark.supervised("postgresql")
def test_nodes_don_t_storm_a_database_that_is_away(served: Ground, proxy: Proxy, supervised: int, note: Note) -> None:
    ledger = Ledger()
    recoveries: list[float] = []
    all_attempts, all_seconds, herds = 0, 0.0, []
    with Cluster(served.through(proxy.port), settings=BRISK) as cluster:
        nodes = cluster.start(3)
        count = len(nodes) * (supervised or 1)
        with Load(nodes, ledger, routes=ROUTES) as load:
            for _ in range(2):
                load.wait_served(1000)
                proxy.refusing = True
                proxy.cut()
                all_refused(load, nodes)
                begun, before = time.monotonic(), len(proxy.attempts)
                load.wait_refused(count=500)
                seconds, attempts = time.monotonic() - begun, len(proxy.attempts) - before
                proxy.refusing = False
                back, before = time.monotonic(), len(proxy.attempts)
                recoveries += [load.wait_served(1, "segment", node.name, since=back) for node in nodes]
                load.wait_served(300)
                herd = len(proxy.attempts) - before
                # Every node opens what connections it may have, once; calls that found none don't come on top.
                assert herd <= count * CONNECTIONS, f"{herd} attempts at its return"
                # Ranges and windows ask each for themselves, once in half a second or more on the long run.
                assert 1 <= attempts <= count * (4 * seconds + 6), f"{attempts} attempts in {seconds:.1f} s"
                all_attempts, all_seconds = all_attempts + attempts, all_seconds + seconds
                herds.append(herd)
        served.check(ledger, cluster)
    note(attempts=all_attempts, within=all_seconds, at_its_return=max(herds), back_after=recoveries)
    assert statistics.median(recoveries) < BACK, recoveries
    assert max(recoveries) < BACK_AT_MOST, recoveries


@pytest.mark.full
@pytest.mark.supervised("mariadb")
def test_after_an_outage_that_outlasts_their_windows_nodes_issue_snowflake_ids_again_by_themselves(
    served: Ground, note: Note
) -> None:
    ledger = Ledger()
    recoveries: list[float] = []
    with Cluster(served.url, settings=HASTY) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=ROUTES) as load:
            for _ in range(2):
                load.wait_served(300)
                served.server.kill()
                gone = time.monotonic()
                for node in nodes:
                    load.wait_refused("snowflake", node.name, count=5)
                assert time.monotonic() - gone > 1, "windows of two seconds did not even last one"
                served.server.start()
                back = time.monotonic()
                recoveries += [load.wait_served(1, "snowflake", node.name, since=back) for node in nodes]
                check_in_time(load.refused(since=gone))
        served.check(ledger, cluster)
    note(received=ledger.received, back_after=recoveries)
    assert statistics.median(recoveries) < BACK, recoveries
    assert max(recoveries) < BACK_AT_MOST, recoveries


@pytest.mark.full
@pytest.mark.supervised("postgresql")
def test_answers_that_are_five_seconds_late_cost_ranges_and_repeat_nothing(
    served: Ground, proxy: Proxy, note: Note
) -> None:
    ledger = Ledger()
    with Cluster(served.through(proxy.port), settings=BRISK) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=ROUTES) as load:
            load.wait_served(1000)
            proxy.delay["down"] = 5.0
            slow = time.monotonic()
            all_refused(load, nodes)
            # Longer than the delay, so that late answers meet nodes that gave them up.
            wait_for(lambda: time.monotonic() - slow > 8, "late answers arrive")
            load.wait_served(100, "snowflake")
            check_refusals(load, slow)
            proxy.delay["down"] = 0.0
            back = time.monotonic()
            recoveries = [load.wait_served(1, "segment", node.name, since=back) for node in nodes]
            load.wait_served(1000)
        served.check(ledger, cluster)
    note(received=ledger.received, back_after=recoveries)
    assert statistics.median(recoveries) < 10 * BACK, recoveries


@pytest.mark.full
@pytest.mark.supervised("mariadb", "down")
@pytest.mark.parametrize("way", ["up", "down"])
def test_what_a_network_held_back_one_way_and_delivers_late_repeats_nothing(
    served: Ground, proxy: Proxy, way: str, note: Note
) -> None:
    ledger = Ledger()
    with Cluster(served.through(proxy.port), settings=BRISK) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=ROUTES) as load:
            recoveries: list[float] = []
            for _ in range(2):
                load.wait_served(1000)
                proxy.hold("up" if way == "up" else "down")
                held = time.monotonic()
                all_refused(load, nodes)
                # Past the store's own timeout, so that nodes give up what is still under way.
                wait_for(lambda held=held: time.monotonic() - held > 4, "nodes give up")  # type: ignore[misc]
                check_refusals(load, held)
                proxy.release("up" if way == "up" else "down")
                back = time.monotonic()
                recoveries += [load.wait_served(1, "segment", node.name, since=back) for node in nodes]
            load.wait_served(1000)
        served.check(ledger, cluster)
    note(received=ledger.received, back_after=recoveries)
    assert statistics.median(recoveries) < 2 * BACK, recoveries


@pytest.mark.quick("mariadb-lose the answer", "postgresql-lose the request")
@pytest.mark.supervised("lose the answer", "postgresql")
@pytest.mark.parametrize("loss", ["lose the answer", "lose the request"])
def test_commits_whose_outcome_is_never_known_burn_ranges_and_repeat_nothing(
    served: Ground, proxy: Proxy, loss: str, note: Note
) -> None:
    ledger = Ledger()
    with Cluster(served.through(proxy.port), settings=BRISK) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=ROUTES) as load:
            load.wait_served(500)
            proxy.every = 3
            proxy.at_commit = "lose the answer" if loss == "lose the answer" else "lose the request"
            struck = time.monotonic()
            wait_for(lambda: proxy.struck >= 30, "thirty commits are lost")
            assert load.served(since=struck) >= 100, "ids did not go on while every third commit was lost"
            proxy.at_commit = "pass"
            back = time.monotonic()
            recoveries = [load.wait_served(100, "segment", node.name, since=back) for node in nodes]
        granted = served.witness.gather()
        served.check(ledger, cluster)
        unused = sum(ledger.unused(granted, tag) for tag in TAGS)
    note(received=ledger.received, lost=proxy.struck, burned=unused, back_after=recoveries)
    if loss == "lose the answer":
        assert unused >= 5, "commits whose answer was lost must burn what they granted"
    assert statistics.median(recoveries) < 10 * BACK, recoveries


@pytest.mark.quick("mariadb")
@pytest.mark.supervised("mariadb")
def test_a_node_cut_off_in_the_middle_of_a_transaction_does_not_block_the_others_for_long(
    served: Ground, proxy: Proxy, note: Note
) -> None:
    ledger = Ledger()
    with Cluster(served.url, settings=BRISK) as cluster:
        cut_off, other = cluster.add(store=served.through(proxy.port)), cluster.add()
        start_all([cut_off, other])
        with Load([cut_off, other], ledger, routes=all_routes(["order"], [])) as load:
            load.wait_served(500)
            proxy.at_commit = "hold"
            wait_for(lambda: proxy.struck, "a transaction is held open")
            cut_off.freeze()
            locked = time.monotonic()
            load.wait_refused("segment", other.name)
            blocked = load.wait_served(1, "segment", other.name, since=time.monotonic())
            load.wait_served(500, "segment", other.name)
            proxy.at_commit = "pass"
            proxy.release("up")
            cut_off.thaw()
            load.wait_served(500, "segment", cut_off.name)
            silence = load.longest_silence(locked, time.monotonic(), "segment", other.name)
        served.check(ledger, cluster)
    note(received=ledger.received, blocked=blocked, silence=silence)
    assert silence < 30
