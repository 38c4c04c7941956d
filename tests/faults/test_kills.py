"""kill -9: whatever a node does at that moment, no id is ever issued twice, and ids go on after a restart."""

import random
import signal
import statistics
from collections import Counter

import pytest

from faults.conftest import Note
from faults.ground import BRISK, HASTY, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, start_all, wait_for

START = 20.0
"""Seconds from a start to ids, at the median: ten times and more what it takes on two busy cores."""


@pytest.mark.quick("postgresql")
@pytest.mark.supervised("mariadb")
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


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", ["before-commit", "after-commit", "before-answer"])
def test_nodes_killed_at_the_moments_that_matter_never_repeat_an_id(ground: Ground, point: str, note: Note) -> None:
    """Seven rounds of three nodes, each of which kills itself at one of its first transactions under load."""
    ledger = Ledger()
    rng = random.Random(point)
    kills = 0
    rounds = 7
    recoveries: list[float] = []
    with Cluster(ground.url, settings=BRISK) as cluster:
        steady = cluster.start(1)[0]
        doomed = [cluster.add() for _ in range(3)]
        with Load([steady, *doomed], ledger, routes=all_routes(TAGS), clients=3) as load:
            for _ in range(rounds):
                for node in doomed:
                    # The first two belong to the space and its window, those after them to the tags.
                    node.environment["FAULT_KILL"] = f"{point}:{rng.randint(2, 9)}"
                    node.begin()
                for node in doomed:
                    node.wait_listening(mortal=True)
                for node in doomed:
                    wait_for(lambda node=node: node.has_ended, f"{node.name} dies {point}")  # type: ignore[misc]
                    assert node.ended() == -9
                    kills += 1
                recoveries.append(load.wait_served(20, node=steady.name))
            for node in doomed:
                del node.environment["FAULT_KILL"]
            start_all(doomed)
            for node in doomed:
                load.wait_served(50, node=node.name)
        granted = ground.witness.gather()
        ground.check(ledger, cluster, at_least=5_000)
        unused = sum(ledger.unused(granted, tag) for tag in TAGS)
    note(kills=kills, received=ledger.received, grants_nobody_saw=unused, others_waited=recoveries)
    assert kills == rounds * len(doomed)
    if point != "before-commit":
        assert unused >= 1, "a grant of which the node never heard, or which it never used, must be a gap"


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", ["before-commit", "after-commit", "before-answer"])
def test_nodes_killed_at_each_kind_of_transaction_never_repeat_an_id(ground: Ground, point: str, note: Note) -> None:
    """A node kills itself at its first claim, extension, allocation, and at the release of its window."""
    ledger = Ledger()
    hit: Counter[str] = Counter()
    with Cluster(ground.url, settings=HASTY) as cluster:
        steady = cluster.start(1)[0]
        doomed = cluster.add()
        with Load([steady, doomed], ledger, routes=all_routes(TAGS), clients=3) as load:
            for kind in ("claim", "extend", "release", "allocate"):
                doomed.environment["FAULT_KILL"] = f"{point}:{kind}:1"
                doomed.begin()
                if kind == "release":
                    doomed.wait_listening()
                    load.wait_served(5, "snowflake", doomed.name)
                    doomed.signal(signal.SIGTERM)
                else:
                    doomed.wait_listening(mortal=True)
                wait_for(lambda: doomed.has_ended, f"it dies {point} of {kind}")
                assert doomed.ended() == -9, f"it ended, and not {point} of {kind}"
                hit[kind] += 1
                load.wait_served(20, node=steady.name)
            del doomed.environment["FAULT_KILL"]
            doomed.start()
            load.wait_served(20, "snowflake", doomed.name)
            load.wait_served(20, "segment", doomed.name)
        ground.check(ledger, cluster, at_least=1_000)
    note(kills=hit.total(), received=ledger.received)
    assert set(hit) == {"claim", "extend", "release", "allocate"}
