"""Clocks that step back and forth, stand still, or are wrong at the start: no id is repeated, and ids go on.

Where the store has a clock of its own, it contradicts a step, and nothing of it is felt. Where it has none (SQLite),
nodes follow a step after ten seconds; that the ids of one node then go back in time is no repetition, for they are of
another worker id.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.clocks import Clock, no_traces
from faults.conftest import Note
from faults.ground import BRISK, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, Node, start_all, wait_for

HOUR = 3600.0

FOLLOWED = 12.0
"""Seconds after which a step that nobody contradicts was followed, the second until it is seen included."""


@pytest.fixture(autouse=True)
def leave_no_traces() -> Iterator[None]:
    with no_traces():
        yield


def ahead(node: Node) -> float:
    """Say how far a node's clock is ahead of ours, by the date of its answers (whole seconds)."""
    return node.date().timestamp() - time.time()


def stepped(node: Node, seconds: float) -> None:
    """Wait until the node itself shows the step: else nothing was provoked."""
    wait_for(lambda: abs(ahead(node) - seconds) < 3, f"{node.name} is off by {seconds:g} s")


@pytest.mark.supervised("postgresql", nodes=1)
@pytest.mark.full
@pytest.mark.timeout(300)
def test_clocks_that_step_or_stand_still_under_load_repeat_nothing_and_stop_nobody(
    ground: Ground, tmp_path: Path, note: Note
) -> None:
    ledger = Ledger()
    steps = {"a millisecond back": -0.001, "five seconds back": -5.0, "an hour back": -HOUR, "an hour ahead": HOUR}
    clocks = {name: Clock(tmp_path / name.replace(" ", "-")) for name in [*steps, "standing still"]}
    with Cluster(ground.url, settings=BRISK) as cluster:
        nodes = {name: cluster.add(environment=clock.environment) for name, clock in clocks.items()}
        true = cluster.add()
        start_all([*nodes.values(), true])
        everybody = [*nodes.values(), true]
        with Load(everybody, ledger, routes=all_routes(TAGS), clients=1, pause=0.01) as load:
            load.wait_served(500)
            begun = time.monotonic()
            for name, step in steps.items():
                clocks[name].step(step)
            clocks["standing still"].freeze()
            for name, step in steps.items():
                stepped(nodes[name], step)
            moment = time.monotonic()
            wait_for(lambda: time.monotonic() - moment > FOLLOWED, "steps are followed")
            assert ahead(nodes["standing still"]) < -5
            for clock in clocks.values():
                clock.step(0)
            for node in everybody:
                stepped(node, 0)
            back = time.monotonic()
            wait_for(lambda: time.monotonic() - back > FOLLOWED, "steps are followed")
            for node in everybody:
                load.wait_served(20, "snowflake", node.name)
                load.wait_served(20, "segment", node.name)
            ended = time.monotonic()
            slightly = {each.code for each in load.refused(node=nodes["a millisecond back"].name)}
            assert not slightly & {"clock_backwards", "clock_ahead"}, "a step that small is waited out"
            silences = [load.longest_silence(begun, ended, "snowflake", node.name) for node in everybody]
        ground.check(ledger, cluster)
    note(received=ledger.received, silence=silences)
    if not ground.embedded:
        assert max(silences) < 5, "the store's clock contradicts each of these steps: nothing of them is felt"


@pytest.mark.quick("sqlite-quick")
@pytest.mark.supervised("mariadb", "quick")
@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((-5.0, 0.0), id="quick"),
        pytest.param((-HOUR, 0.0, -5.0, -0.001, HOUR, 0.0), id="all", marks=pytest.mark.full),
    ],
)
@pytest.mark.timeout(300)
def test_a_clock_that_steps_or_stands_while_its_node_is_stopped_repeats_nothing(
    steps: tuple[float, ...], ground: Ground, tmp_path: Path, note: Note
) -> None:
    ledger = Ledger()
    clock = Clock(tmp_path / "clock")
    with Cluster(ground.url, settings=BRISK) as cluster:
        node, other = cluster.add(environment=clock.environment), cluster.add()
        start_all([node, other])
        with Load([node, other], ledger, routes=all_routes(TAGS), clients=2) as load:
            for step in steps:
                load.wait_served(200, node=node.name)
                node.kill()
                clock.step(step)
                node.start(ready=False)
                stepped(node, step)
                shown = time.monotonic()
                if step > 60 and not ground.embedded:
                    # It must not claim with a clock that the store's contradicts, and says so.
                    wait_for(lambda: "ahead of the store's" in node.readiness()[1], "it says that its clock is wrong")
                    load.wait_refused("snowflake", node.name)
                    assert not load.served("snowflake", node.name, since=shown)
                else:
                    load.wait_served(50, "snowflake", node.name)
                load.wait_served(50, "segment", node.name)
            node.kill()
            clock.freeze()
            node.start(ready=False)
            load.wait_served(50, "snowflake", node.name)
            load.wait_served(50, "segment", node.name)
        ground.check(ledger, cluster)
    note(steps=len(steps) + 1, received=ledger.received)
