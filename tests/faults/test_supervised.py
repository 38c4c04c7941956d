"""The same checker over nodes under a supervisor, several of which answer at one address: which one is never known."""

import contextlib
import os
import random
import signal
import time

import pytest

from faults.conftest import Note
from faults.ground import BRISK, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, wait_for

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]

HASTY = BRISK + "\n[server]\nunresponsive = 5\n"
"""A node that says nothing for five seconds is replaced: sooner, and one would be that is merely kept from its turn by
the tests beside this one."""


def test_supervised_nodes_killed_again_and_again_under_load_never_repeat_an_id(ground: Ground, note: Note) -> None:
    ledger = Ledger()
    rng = random.Random(7)
    kills = 0
    with Cluster(ground.url, settings=HASTY) as cluster:
        service = cluster.add(supervised=2)
        service.start()
        with Load([service], ledger, routes=all_routes(TAGS), clients=8) as load:
            for _ in range(10):
                load.wait_served(200)
                victims = rng.sample(service.wait_inner(), rng.choice([1, 1, 2]))
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
                service.wait_inner(without=victims)
            for _ in range(5):
                load.wait_served(200)
                # Its nodes find out by themselves, and drain while those of the next life start.
                service.kill_process()
                kills += 1
                service.start()
            load.wait_served(400)
        assert service.stop() == 0
        ground.check(ledger, cluster, at_least=5_000)
    note(kills=kills, received=ledger.received, cut=load.met.cut)
    assert kills >= 15


def test_supervised_nodes_that_kill_themselves_at_the_moments_that_matter_never_repeat_an_id(
    ground: Ground, note: Note
) -> None:
    """Every node, as long as this lasts, kills itself at its seventh transaction: a crash loop under load."""
    ledger = Ledger()
    with Cluster(ground.url, settings=BRISK) as cluster:
        for point in ("before-commit", "after-commit", "before-answer"):
            service = cluster.add(supervised=2, environment={"FAULT_KILL": f"{point}:7"})
            service.start(ready=False)
            # Over HTTP alone: a client over gRPC rarely gets through to a node that lives for half a second.
            with Load([service], ledger, routes=all_routes(TAGS), clients=8, calls=0) as load:
                wait_for(
                    lambda service=service: service.said().count("a node died and is replaced") >= 4,  # type: ignore[misc]
                    f"four deaths {point}",
                )
                load.wait_served(20)
            assert service.stop() == 0
        ground.check(ledger, cluster, at_least=1_000)
    note(received=ledger.received)


def test_supervised_nodes_that_hang_and_are_replaced_never_repeat_an_id(ground: Ground, note: Note) -> None:
    ledger = Ledger()
    rng = random.Random(20)
    with Cluster(ground.url, settings=HASTY) as cluster:
        service = cluster.add(supervised=2)
        service.start()
        with Load([service], ledger, routes=all_routes(TAGS), clients=8) as load:
            for _ in range(20):
                load.wait_served(50)
                node = rng.choice(service.wait_inner())
                os.kill(node, signal.SIGSTOP)
                until = time.monotonic() + rng.choice([0.01, 0.1, 0.5])
                wait_for(lambda until=until: time.monotonic() >= until, "the pause ends")  # type: ignore[misc]
                with contextlib.suppress(ProcessLookupError):  # this machine was so busy that it was replaced
                    os.kill(node, signal.SIGCONT)
            for _ in range(3):
                load.wait_served(50)
                # One that has not said its first word yet is given more time.
                wait_for(
                    lambda: service.said().count("window claimed") >= 2 + service.said().count("a node died"),
                    "both nodes serve",
                )
                node = rng.choice(service.wait_inner())
                os.kill(node, signal.SIGSTOP)
                service.wait_inner(without=[node])
            load.wait_served(200)
        assert service.stop() == 0
        assert service.said().count("it said nothing for") >= 3
        ground.check(ledger, cluster, at_least=2_000)
    note(received=ledger.received)
