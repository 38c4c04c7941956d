"""kill -9: whatever a node does at that moment, no id is ever issued twice, and ids go on after a restart."""

import statistics

from faults.conftest import Note
from faults.ground import BRISK, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, start_all

START = 20.0
"""Seconds from a start to ids, at the median: ten times and more what it takes on two busy cores."""


def test_nodes_killed_twenty_times_under_load_never_repeat_an_id(ground: Ground, note: Note) -> None:
    ledger = Ledger()
    kills = 0
    recoveries: list[float] = []
    with Cluster(ground.url, settings=BRISK) as cluster:
        nodes = cluster.start(2)
        with Load(nodes, ledger, routes=all_routes(TAGS)) as load:
            for _ in range(10):
                load.wait_served(250)
                for node in nodes:
                    node.kill()
                    kills += 1
                start_all(nodes, ready=False)
                recoveries += [load.wait_served(3, node=node.name) for node in nodes]
            load.wait_served(250)
        assert [node.stop() for node in nodes] == [0, 0]
        ground.check(ledger, cluster)
    assert kills == 20
    note(kills=kills, received=ledger.received, cut=load.met.cut, back_after=recoveries)
    assert load.met.cut >= kills, "hardly any request was in flight when a node was killed"
    assert statistics.median(recoveries) < START
