"""The way from Leaf that docs/migration-from-leaf.md tells, walked there and back, with Leaf at work all the time.

Leaf's Segment mode is its own SQL, sent by rivals; its Snowflake mode is a thread that numbers ids as Leaf does.
"""

import re
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from databases import Server
from faults.ground import BRISK, TAGS, Ground, leaf_only
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, start_all, wait_for
from faults.rivals import Rivals
from goloves.core.layout import Layout

GUIDE = Path(__file__).parents[2] / "docs" / "migration-from-leaf.md"

LEAF_WORKERS = range(3)
"""What ZooKeeper gives the first three nodes of a Leaf: their places in a sequence."""

SETTLED = 200
"""Answers that show that somebody serves."""


class LeafSnowflakes:
    """Three Leaf nodes in Snowflake mode: 41 bits of time since Leaf's epoch, 10 of worker, 12 of sequence."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._layout = Layout()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop all three."""
        self._ending.set()
        self._thread.join(30)

    def _run(self) -> None:
        before = 0
        while not self._ending.wait(0.02):
            units = self._layout.units(time.time_ns() // 1_000_000)
            if units <= before:
                continue
            before = units
            # A Leaf starts each millisecond at a random place below 100; all of them are as good as any.
            self.ids |= {
                self._layout.compose(units, worker, number) for worker in LEAF_WORKERS for number in range(100)
            }


def beside_leaf() -> str:
    """Give the setting that the guide asks for while Leaf's own Snowflake runs."""
    found = re.search(r'^\[spaces\.default\]\n(workers = "[0-9]+-[0-9]+")$', GUIDE.read_text(), re.MULTILINE)
    assert found is not None, "the guide no longer restricts the worker ids"
    return found[1]


def guided(*words: str) -> tuple[str, ...]:
    """Give a command, having made sure that the guide names it."""
    assert f"goloves {' '.join(words)}" in GUIDE.read_text(), words
    return words


@pytest.mark.timeout(300)  # nine starts of nodes
def test_w10_r4_there_and_back_beside_a_leaf_at_work_no_id_comes_twice(mariadb: Server) -> None:
    ground, ledger = leaf_only(mariadb), Ledger()
    settings = f"{BRISK}{beside_leaf()}\n"
    with Cluster(ground.url, settings=settings) as cluster, Rivals(ground) as rivals, LeafSnowflakes() as leaf:
        first, second, added = cluster.add(), cluster.add(), cluster.add()
        load = Load([first, second, added], ledger, routes=all_routes(TAGS))

        def leaf_goes_on() -> None:
            done = rivals.done
            wait_for(lambda: rivals.done >= done + 50, "Leaf allocates")

        for tag in TAGS:
            rivals.allocate_as_leaf(ledger, tag)
        with load:
            # A look: nothing is changed, and one node serves from Leaf's table as it stands.
            before = ground.sql("SHOW CREATE TABLE leaf_alloc")
            assert "only Leaf's table exists" in cluster.goloves(*guided("check"))
            start_all([first], ready=False)
            load.wait_served(SETTLED, "segment", first.name)
            assert {refusal.status for refusal in load.refused("snowflake")} == {503}
            assert "goloves migrate" in first.readiness()[1]
            assert ground.sql("SHOW TABLES LIKE 'goloves%'") == ""

            # The tables, beside a node and a Leaf that go on.
            assert "beside leaf_alloc" in cluster.goloves(*guided("migrate"))
            assert ground.sql("SHOW CREATE TABLE leaf_alloc") == before
            ground.witness.install_windows()
            load.wait_served(SETTLED, "segment", first.name)
            leaf_goes_on()
            first.stop()
            first.start()

            # Side by side, and a node more.
            second.start()
            added.start()
            for node in (first, second, added):
                load.wait_served(SETTLED, "segment", node.name)
                load.wait_served(SETTLED, "snowflake", node.name)
            leaf_goes_on()

            # Back: Leaf alone, as if nothing had been. And there again.
            for node in (first, second, added):
                assert node.stop() == 0
            leaf_goes_on()
            start_all([first, second, added])
            load.wait_served(SETTLED, "snowflake")

            # Leaf goes; what it left is not given again. And comes back.
            rivals.leave()
            load.wait_served(SETTLED, "segment")
            load.wait_served(SETTLED, "snowflake")
            for tag in TAGS:
                rivals.allocate_as_leaf(ledger, tag)
            leaf_goes_on()
            load.wait_served(SETTLED, "segment")
        rivals.leave()
        leaf.leave()
        ground.check(ledger, cluster, at_least=5_000)
        assert not rivals.failed
        check_snowflakes(ledger, leaf, ground)


def check_snowflakes(ledger: Ledger, leaf: LeafSnowflakes, ground: Ground) -> None:
    """Hold the ids of both, which share a layout and an epoch, against each other."""
    ours = {id_ for id_, _ in ledger.ids["default"]}
    assert len(ours) > 1_000
    assert len(leaf.ids) > 1_000
    assert not ours & leaf.ids
    used = {Layout().decode(id_).worker for id_ in ours}
    assert min(used) >= 512
    assert ground.sql("SELECT count(*) FROM goloves_worker WHERE worker < 512") == "0"
