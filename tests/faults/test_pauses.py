"""Nodes that are stopped in the middle of whatever they do, for moments or for longer than their windows."""

import random
import sqlite3
import time
from contextlib import closing

import pytest

from faults.conftest import Note
from faults.ground import BRISK, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes, snowflakes
from faults.nodes import Cluster, Node, start_all, wait_for
from goloves.core.layout import Layout
from stores.backends import Sqlite

TIGHT = (
    BRISK
    + """
[snowflake]
max_backward = 0.5
max_forward = 0.5

[spaces.tight]
worker_bits = 1
window = 2
"""
)
"""A space of two worker ids whose windows last for two seconds: a third node gets one only if another lets go of it."""

LAYOUTS = {"tight": Layout(worker_bits=1)}


def freeze_at_rest(node: Node, ground: Ground) -> None:
    """Freeze a node at a moment at which it does not hold the lock of the file, which it would keep from all others."""
    for _ in range(100):
        node.freeze()
        if not isinstance(ground.backend, Sqlite):
            return
        with closing(sqlite3.connect(ground.backend.file, timeout=1, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                node.thaw()
            else:
                connection.execute("ROLLBACK")
                return
    raise AssertionError("whenever the node is frozen, it holds the lock")


@pytest.mark.quick("mariadb")
@pytest.mark.supervised("postgresql", nodes=1)
def test_a_node_frozen_past_its_window_wakes_without_it_and_whoever_took_over_goes_on(
    ground: Ground, note: Note
) -> None:
    ledger = Ledger()
    takeovers: list[float] = []
    routes = [snowflakes("tight", 1), snowflakes("tight", 50), *all_routes(["order"], [])]
    with Cluster(ground.url, settings=TIGHT) as cluster:
        holder, other = cluster.start(2)
        waiting = cluster.add()
        waiting.start(ready=False)
        with Load([holder, other, waiting], ledger, routes=routes) as load:
            load.wait_served(50, "snowflake", other.name)
            for _ in range(2):
                load.wait_served(50, "snowflake", holder.name)
                load.wait_refused("snowflake", waiting.name)
                ready, why = waiting.readiness()
                assert not ready
                assert "no window of the space 'tight'" in why
                freeze_at_rest(holder, ground)
                takeovers.append(load.wait_served(50, "snowflake", waiting.name))
                holder.thaw()
                awake = time.monotonic()
                load.wait_served(20, "segment", holder.name)
                settled = time.monotonic()  # what was just to be written when it froze has come by now
                # Longer than a window: whoever holds none now must not find one in its memory.
                wait_for(lambda awake=awake: time.monotonic() - awake > 3, "three seconds pass")  # type: ignore[misc]
                assert load.refused("snowflake", holder.name, since=awake)
                assert not load.served("snowflake", holder.name, since=settled)
                assert load.served("snowflake", waiting.name, since=awake)
                holder, waiting = waiting, holder
            other.stop()
            load.wait_served(50, "snowflake", waiting.name)
        ground.check(ledger, cluster, layouts=LAYOUTS)
    note(received=ledger.received, takeover_after=takeovers)
    assert len(takeovers) == 2


@pytest.mark.supervised("sqlite")
@pytest.mark.full
def test_pauses_at_any_moment_repeat_nothing(ground: Ground, note: Note) -> None:
    ledger = Ledger()
    rng = random.Random(20)
    pauses = 60
    with Cluster(ground.url, settings=BRISK) as cluster:
        nodes = cluster.start(3)
        with Load(nodes, ledger, routes=all_routes(TAGS)) as load:
            for _ in range(pauses):
                load.wait_served(rng.randint(1, 60))
                node = rng.choice(nodes)
                node.freeze()
                until = time.monotonic() + rng.choice([0.001, 0.02, 0.1, 0.3])
                wait_for(lambda until=until: time.monotonic() >= until, "the pause ends")  # type: ignore[misc]
                node.thaw()
            for node in nodes:
                load.wait_served(200, node=node.name)
        ground.check(ledger, cluster)
    note(pauses=pauses, received=ledger.received)


@pytest.mark.supervised("mariadb", nodes=1)
@pytest.mark.full
def test_a_cluster_that_is_frozen_whole_goes_on_when_it_wakes(ground: Ground, note: Note) -> None:
    ledger = Ledger()
    with Cluster(ground.url, settings=TIGHT) as cluster:
        nodes = [cluster.add(), cluster.add()]
        start_all(nodes)
        with Load(nodes, ledger, routes=[snowflakes("tight", 7), *all_routes(TAGS)]) as load:
            load.wait_served(500)
            for node in nodes:
                node.freeze()
            frozen = time.monotonic()
            wait_for(lambda: time.monotonic() - frozen > 6, "all windows of the tight space are past")
            for node in nodes:
                node.thaw()
            awake = time.monotonic()
            back = [load.wait_served(200, "snowflake", node.name, since=awake) for node in nodes]
        ground.check(ledger, cluster, layouts=LAYOUTS)
    note(received=ledger.received, back_after=back)
