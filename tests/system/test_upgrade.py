"""The release before and this one share a store and state directories: forward, side by side, and back, no id twice.

The release before is built from the history: `FORMER` has no supervisor yet, `SUPERVISED` has one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from databases import Server
from faults.ground import BRISK, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import PATIENCE, Cluster, Node, start_all
from faults.witness import Witness
from stores.backends import Served, Sql, Sqlite
from supervisor.service import Service, Start, start
from system.releases import release

__all__ = ["start"]

FORMER = "18c21fac53bfa993f3ff06fc932c3eaddbbb923d"
SUPERVISED = "a69b42474296d9c267dd2f01a5bac2e5878fe81b"

SETTLED = 150
"""Answers that show that a node serves."""


def goloves(place: Path | None, store: str, *words: str) -> str:
    """Run a command of an earlier version, or of this one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}
    if place is not None:
        environment["PYTHONPATH"] = str(place)
    done = subprocess.run(
        [sys.executable, "-m", "goloves", *words, "--store", store],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def become(node: Node, place: Path | None) -> None:
    """Let a node's next life be of an earlier version, or of this one."""
    # Empty counts as not set: the version before the supervisor knows none of these.
    unknown = dict.fromkeys(("GOLOVES_ADMIN__LISTEN", "GOLOVES_SERVER__NODES", "GOLOVES_SERVER__UNRESPONSIVE"), "")
    node.environment = {} if place is None else {**unknown, "PYTHONPATH": str(place)}


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Sql:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return Sqlite(tmp_path)
    server: Server = request.getfixturevalue(request.param)
    return Served(server)


@pytest.mark.timeout(600)  # it may have to build the release before
def test_nodes_of_the_release_before_and_of_this_one_share_a_store_forward_and_back(backend: Sql) -> None:
    former = release(FORMER)
    goloves(former, backend.url, "migrate")
    backend.insert("order", 1, 100)
    ground, ledger = Ground(backend, Witness(backend)), Ledger()
    ground.witness.install()
    with Cluster(ground.url, settings=BRISK) as cluster:
        first, second = nodes = [cluster.add(), cluster.add()]

        def both_serve(load: Load) -> None:
            for node in nodes:
                for mode in ("segment", "snowflake"):
                    load.wait_served(SETTLED, mode, node.name)

        for node in nodes:
            become(node, former)
        with Load(nodes, ledger, routes=all_routes(TAGS)) as load:
            start_all(nodes)
            both_serve(load)
            goloves(None, ground.url, "migrate")  # while nodes of the release before are at work
            both_serve(load)
            for place in (None, former):  # forward, one after the other, and back
                for node in (first, second):
                    assert node.stop() == 0
                    become(node, place)
                    node.start()
                    both_serve(load)
        ground.check(ledger, cluster, at_least=3_000)
    goloves(None, ground.url, "check")


@pytest.mark.timeout(600)
def test_a_service_of_the_release_before_is_taken_over_by_this_one_and_back(start: Start, tmp_path: Path) -> None:
    place = str(release(SUPERVISED))
    store = Sqlite(tmp_path)
    ids: list[int] = []
    snowflakes: list[int] = []

    def draw(service: Service) -> None:
        ids.extend(service.ids(300))
        snowflakes.extend(int(service.get("/api/snowflake/get/x").text) for _ in range(30))

    services = [start("--store", store.url, "--nodes", "2", PYTHONPATH=place)]
    services[0].all_ready(2)
    draw(services[0])
    goloves(None, store.url, "migrate")
    draw(services[0])
    for paths in ({}, {"PYTHONPATH": place}):
        taking = start("--store", store.url, "--nodes", "2", "--takeover", **paths)
        taking.says("took over")
        assert services[-1].ended() == 0
        taking.all_ready(2)
        services.append(taking)
        draw(taking)
        assert taking.urls == services[0].urls
    assert len(ids) == len(set(ids)) == 1200
    assert len(snowflakes) == len(set(snowflakes)) == 120
