"""The release before and this one share a store and state directories: forward, side by side, and back, no id twice.

The release before is built from the history: `FORMER` has no supervisor yet, `SUPERVISED` has one.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from databases import Server
from faults.ground import BRISK, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import PATIENCE, SOURCE, Cluster, Node, start_all, wait_for
from faults.witness import Witness
from goloves import __version__
from goloves.cli.failures import Exit
from stores.backends import Served, Sql, Sqlite
from supervisor.load import Load as ServiceLoad
from supervisor.service import Service, Start, gone, start
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
            begun = time.monotonic()
            for node in nodes:
                for mode in ("segment", "snowflake"):
                    load.wait_served(SETTLED, mode, node.name, since=begun)

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


class Code:
    """Where a service finds its code: a link that is switched under it, as deployments do."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.link = directory / "current"

    def copy(self, code: Path, version: str) -> Path:
        """Copy code under a version of its own, which tells what a process has loaded."""
        place = self._directory / f"code-{version}"
        # Compiled code is left behind: it is matched by its source's size and second, and what is written below has the
        # size, and in a fresh clone the second, of what it replaces.
        shutil.copytree(code / "goloves", place / "goloves", ignore=shutil.ignore_patterns("__pycache__"))
        init = place / "goloves" / "__init__.py"
        text, changed = re.subn(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text())
        assert changed == 1
        init.write_text(text)
        return place

    def switch(self, place: Path) -> None:
        """Let whatever starts from now on load this."""
        fresh = self._directory / "next"
        fresh.symlink_to(place)
        fresh.replace(self.link)


BEFORE, AFTER = "0.0.9", "9.0.0"
"""Versions that copies say they are."""


class Drawn:
    """What a service gave while its code was switched: to clients all the time, and whenever it is asked here."""

    def __init__(self, service: Service) -> None:
        self.load = ServiceLoad(service.urls[0], service.grpc, http_clients=6, grpc_clients=2)
        self._service = service
        self._numbers: list[int] = []
        self._snowflakes: list[int] = []

    def more(self) -> None:
        """Draw ids of both modes, and see to it that every client gets some."""
        self._numbers += self._service.ids(300)
        self._snowflakes += [int(self._service.get("/api/snowflake/get/x").text) for _ in range(30)]
        self.load.wait_all_served(2)

    def check(self, *, times: int) -> None:
        """Hold that no client failed, and that no id came twice."""
        self.load.check()
        numbers = self.load.numbers + self._numbers
        assert len(numbers) == len(set(numbers)) >= times * 300
        assert len(self._snowflakes) == len(set(self._snowflakes)) == times * 30


def replaced(service: Service, version: str, old: set[int]) -> set[int]:
    """Wait until both nodes are others than those, and hold that they are of this version; gives their processes."""
    pids = service.all_ready(2, without=old)
    assert [node["version"] for node in service.nodes()] == [version] * 2
    return pids


@pytest.mark.timeout(600)
def test_a_service_of_the_release_before_becomes_this_one_node_by_node_and_by_a_takeover_and_goes_back(
    start: Start, tmp_path: Path
) -> None:
    """Nodes of each version serve under a supervisor of the other meanwhile."""
    code = Code(tmp_path)
    former = code.copy(release(SUPERVISED), BEFORE)
    store = Sqlite(tmp_path)
    words = ("--store", store.url, "--nodes", "2")
    code.switch(former)
    first = service = start(*words, PYTHONPATH=str(code.link))
    pids = replaced(service, BEFORE, set())
    drawn = Drawn(first)
    with drawn.load:
        drawn.more()
        goloves(None, store.url, "migrate")
        drawn.more()
        for place, version in ((SOURCE, __version__), (former, BEFORE)):
            code.switch(place)
            done = service.reload("--rolling")
            assert done.returncode == Exit.DONE, done.stderr
            pids = replaced(service, version, pids)
            assert service.state()["version"] != version
            drawn.more()
            taking = start(*words, "--takeover", PYTHONPATH=str(code.link))
            taking.says("took over")
            assert service.ended() == Exit.DONE
            service = taking
            pids = replaced(service, version, pids)
            assert service.state()["version"] == version
            assert service.urls == first.urls
            drawn.more()
    drawn.check(times=6)
    assert service.stop() == Exit.DONE


def test_a_service_starts_its_successor_with_the_code_that_is_there_by_then_and_goes_back(
    start: Start, tmp_path: Path
) -> None:
    code = Code(tmp_path)
    after = code.copy(SOURCE, AFTER)
    code.switch(SOURCE)
    service = start("--store", Sqlite(tmp_path).url, "--nodes", "2", PYTHONPATH=str(code.link))
    pids = replaced(service, __version__, set())
    drawn = Drawn(service)
    successor = 0
    try:
        with drawn.load:
            drawn.more()
            for place, version in ((after, AFTER), (SOURCE, __version__)):
                code.switch(place)
                done = service.reload("--upgrade")
                assert done.returncode == Exit.DONE, done.stderr
                successor = successor_of(done.stdout)
                pids = replaced(service, version, pids)
                assert service.state()["version"] == version
                drawn.more()
        drawn.check(times=3)
    finally:
        if successor:
            os.kill(successor, signal.SIGTERM)
            wait_for(lambda: gone(successor), "the successor ends")


def successor_of(said: str) -> int:
    found = re.search(r"^the successor \(pid (\d+)\) has taken over$", said, re.MULTILINE)
    assert found, said
    return int(found[1])
