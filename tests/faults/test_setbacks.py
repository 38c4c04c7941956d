"""Stores that are set back under running nodes: a dump restored, a backup copied over the file that they have open, a
failover to a replica that lost commits.

What holds: every node had grants that the store has forgotten, so none of them issues anything that the store grants
again; all stop and say so; after `goloves repair` ids go on by themselves, above whatever was ever issued. With
`failover = "skip"` a node that meets another server goes on above a gap instead.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.conftest import Note
from faults.ground import HASTY, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, Node, wait_for
from faults.proxy import Proxy
from faults.setbacks import Backup, Dump, Replica, copied_data, second_server

ROUTES = all_routes(TAGS)

ALLOWED = frozenset({404, 429, 503})
"""A tag whose row is being replaced may be unknown for a moment."""

BACKWARDS = "store_went_backwards"


def all_halted(load: Load, nodes: list[Node], since: float) -> list[float]:
    """Wait until each node refuses both modes because the store went backwards; gives the seconds since then."""

    def halted(node: Node, mode: str) -> float:
        return min(
            (each.received - since for each in load.refused(mode, node.name, since=since) if each.code == BACKWARDS),  # type: ignore[arg-type]
            default=0.0,
        )

    for node in nodes:
        for mode in ("segment", "snowflake"):
            wait_for(lambda node=node, mode=mode: halted(node, mode), f"{node.name} halts its {mode} ids")  # type: ignore[misc]
        node.wait_none_ready()
    return [halted(node, mode) for node in nodes for mode in ("segment", "snowflake")]


def nothing_is_served(load: Load, nodes: list[Node]) -> None:
    """Hold that no id comes while the store is halted, for as long as it takes to be refused many times."""
    begun = time.monotonic()
    for node in nodes:
        wait_for(lambda node=node: len(load.refused(node=node.name, since=begun)) >= 50, "refusals")  # type: ignore[misc]
        ready, why = node.readiness()
        assert not ready
        assert "repair" in why
    # An answer on its way when the last node halted may still come; nothing that was asked for since then.
    assert not load.served(since=begun + 1.0)


def highest(ledger: Ledger) -> dict[str, int]:
    return {tag: max(stop for _, stop, _, _ in spans) for tag, spans in ledger.numbers.items()}


def beyond(ledger: Ledger, before: dict[str, int], cluster: Cluster) -> None:
    """Hold that ids went on above all numbers from before, for each tag."""
    for tag, number in before.items():
        assert max(start for start, _, _, _ in ledger.numbers[tag]) > number, f"the tag {tag!r} did not go on"


@pytest.mark.quick("postgresql")
@pytest.mark.supervised("postgresql")
def test_r6_a_dump_restored_under_running_nodes_halts_them_until_it_is_repaired(ground: Ground, note: Note) -> None:
    ledger = Ledger()
    with Cluster(ground.url, settings=HASTY) as cluster:
        nodes = cluster.start(3)
        with Load(nodes, ledger, routes=ROUTES, clients=3, allowed=ALLOWED) as load:
            load.wait_served(300)
            dump = Dump(ground)
            taken = time.monotonic()
            for node in nodes:
                # Enough that each node's own mark of each tag lies above the dump's number.
                load.wait_served(700, "segment", node.name, since=taken)
                load.wait_served(50, "snowflake", node.name, since=taken)
            dump.restore()
            restored = time.monotonic()
            noticed = all_halted(load, nodes, restored)
            nothing_is_served(load, nodes)
            before = highest(ledger)
            assert "halted" in cluster.goloves("repair", "--yes")
            repaired = time.monotonic()
            segments = [load.wait_served(100, "segment", node.name, since=repaired) for node in nodes]
            windows = [load.wait_served(50, "snowflake", node.name, since=repaired) for node in nodes]
        beyond(ledger, before, cluster)
        ground.check(ledger, cluster, set_back=True)
        assert all(len(node.lives) == 1 for node in nodes), "nodes go on by themselves"
    note(received=ledger.received, noticed=noticed, segments_after=segments, windows_after=windows)
    assert max(segments) < 20


@pytest.mark.quick("left")
@pytest.mark.supervised("emptied")
@pytest.mark.parametrize("emptied", [True, False], ids=["emptied", "left"])
def test_r5_a_backup_that_is_copied_over_the_file_under_running_nodes_repeats_nothing(
    embedded: Ground, tmp_path: Path, emptied: bool, note: Note
) -> None:
    """`emptied`: its log is, before; else what stands in the log still counts over what was copied, page by page."""
    ledger = Ledger()
    with Cluster(embedded.url, settings=HASTY) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=ROUTES, clients=3, allowed=ALLOWED) as load:
            load.wait_served(300)
            backup = Backup(embedded, tmp_path / "backup")
            for node in nodes:
                load.wait_served(700, "segment", node.name)
                load.wait_served(50, "snowflake", node.name)
            wait_for(lambda: all_frozen(nodes, backup.empty_log if emptied else None), "nobody is at work")
            embedded.witness.gather()
            backup.copy_over()
            copied = time.monotonic()
            for node in nodes:
                node.thaw()
            if emptied:
                noticed = all_halted(load, nodes, copied)
                nothing_is_served(load, nodes)
                before = highest(ledger)
                cluster.goloves("repair", "--yes")
                repaired = time.monotonic()
                for node in nodes:
                    load.wait_served(100, "segment", node.name, since=repaired)
                    load.wait_served(50, "snowflake", node.name, since=repaired)
                beyond(ledger, before, cluster)
                note(noticed=noticed)
            else:
                # Whether they go on, halt, or can't read what is left there: they answer.
                for node in nodes:
                    wait_for(
                        lambda node=node: (  # type: ignore[misc]
                            load.served(node=node.name, since=copied) + len(load.refused(node=node.name, since=copied))
                            > 500
                        ),
                        f"{node.name} answers",
                    )
        if emptied:
            embedded.check(ledger, cluster, set_back=True)
        else:
            assert ledger.received > 10_000
            ledger.check_distinct(cluster.lives)
        assert all(len(node.lives) == 1 and not node.has_ended for node in nodes), "nodes go on by themselves"
    note(received=ledger.received)


def all_frozen(nodes: list[Node], at_rest: Callable[[], bool] | None) -> bool:
    """Freeze nodes; if what they work on is not at rest then, let them go on."""
    for node in nodes:
        node.freeze()
    if at_rest is None or at_rest():
        return True
    for node in nodes:
        node.thaw()
    return False


@pytest.mark.supervised("mariadb", "promoted")
@pytest.mark.full
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("policy", "promoted"), [("halt", False), ("halt", True), ("skip", True)], ids=["older", "promoted", "skip"]
)
def test_r7_a_failover_to_a_replica_that_lost_commits_is_noticed(
    served: Ground, policy: str, promoted: bool, note: Note
) -> None:
    ledger = Ledger()
    postgres = served.server.name == "postgresql"
    settings = HASTY + f'\n[stores]\nfailover = "{policy}"\n'
    with (
        copied_data(served) as older,
        Proxy(served.server.port, connecting_commits=postgres) as proxy,
        ExitStack() as stack,
    ):
        through = served.through(proxy.port)
        with Cluster(through, settings=settings) as cluster:
            nodes = cluster.start(3)
            with Load(nodes, ledger, routes=ROUTES, clients=3, allowed=ALLOWED) as load:
                for node in nodes:
                    load.wait_served(1000, "segment", node.name)
                proxy.refusing = True
                proxy.cut()
                for node in nodes:
                    load.wait_refused("segment", node.name)
                # The last word of the first server; whoever may still ask it must not.
                served.witness.gather()
                served.server.stop()
                second = stack.enter_context(second_server(served.server, older, promoted=promoted))
                served.backend = replica = Replica(served.backend, second)  # type: ignore[arg-type]
                served.witness.follow(replica)
                before = highest(ledger)
                proxy.target = second.port
                proxy.refusing = False
                back = time.monotonic()
                noticed: list[float] = []
                if policy == "halt":
                    noticed = all_halted(load, nodes, back)
                    nothing_is_served(load, nodes)
                    cluster.goloves("repair", "--yes")
                    back = time.monotonic()
                segments = [load.wait_served(100, "segment", node.name, since=back) for node in nodes]
                windows = [load.wait_served(50, "snowflake", node.name, since=back) for node in nodes]
            beyond(ledger, before, cluster)
            served.check(ledger, cluster, set_back=True)
            said = "".join(node.said() for node in nodes)
            # Of an older one the marks tell, or the place in PostgreSQL's log, whichever is looked at first.
            assert "became another" in said if promoted else "went backwards" in said or "was set back" in said
    note(received=ledger.received, noticed=noticed, segments_after=segments, windows_after=windows)
