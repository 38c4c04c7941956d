"""The stores that faults are provoked on, and the figures that tests note: what was provoked, served and lost.

A test that is marked `supervised` runs a second time with supervisors in the place of its nodes, two nodes under each:
of its variants those whose name has the words that the mark names, for the time that all of them would take. `nodes=1`
stands where a test counts windows or worker ids, asks a node why it stops, uses up what one process has, or has six
supervisors. Which of its nodes gave an id can't be told, so that a grant is held to be its supervisor's. `ALONE` names
what has no such mark.

Of the variants of a test that is marked `quick`, each run of the suite has those that the mark names; `make faults` has
all of them.
"""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from databases import Server, mariadb, postgresql
from faults.ground import Ground, prepared
from faults.nodes import Cluster
from stores.backends import Served, Sqlite

__all__ = ["mariadb", "postgresql"]

NODES = 2
"""Nodes under a supervisor, unless the mark says otherwise."""

ALONE = {
    "test_crowds.py": "a crowd of claims asks the store itself, without any node",
    "test_forks.py": "what forks is a program that issues ids by itself",
    "test_ledger.py": "it tests the checker",
    "test_supervised.py": "it tests what only a supervisor has, with two nodes under it",
    "test_nodes_killed_at_the_moments_that_matter_never_repeat_an_id": "here they are to stay away, and a supervisor"
    " replaces them: test_supervised.py has nodes that kill themselves again and again",
    "test_nodes_killed_at_each_kind_of_transaction_never_repeat_an_id": "the same",
}
"""Tests, and files of tests, that do not run under a supervisor, and why."""

FIGURE = "faults: "
"""Begins the name of each figure among a test's properties."""

Note = Callable[..., None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let marked tests run twice; the second time only where there is time for it."""
    mark = metafunc.definition.get_closest_marker("supervised")
    if mark is None:
        names = {metafunc.definition.originalname, metafunc.definition.path.name}
        assert names & set(ALONE), "this test is to run under supervisors as well, or conftest.py says why it does not"
    else:
        second = pytest.param(mark.kwargs.get("nodes", NODES), id="supervised", marks=pytest.mark.full)
        metafunc.parametrize("supervised", [pytest.param(0, id="alone"), second], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the variants under a supervisor that the mark does not name, and some from each run of the suite."""
    for item in items:
        quick = item.get_closest_marker("quick")
        if quick is not None and _words(item) - {"alone"} not in [set(variant.split("-")) for variant in quick.args]:
            item.add_marker(pytest.mark.full)
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("supervised")
    words = _words(item)
    return mark is not None and "supervised" in words and not set(mark.args) <= words


def _words(item: pytest.Item) -> set[str]:
    """Words of a variant's name, in no order: the one in which pytest puts them changes."""
    return set(item.name.rpartition("[")[2].rstrip("]").split("-"))


@pytest.fixture(autouse=True)
def supervised(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Nodes under a supervisor that each node of a cluster stands for; 0: it is its own process."""
    count = int(getattr(request, "param", 0))
    monkeypatch.setattr(Cluster, "supervised", count)
    return count


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Note:
    """Note figures by name, for the summary of the run; a list is shown as median and highest."""

    def note(**figures: float | list[float]) -> None:
        for name, value in figures.items():
            shown = f"{value:g}" if not isinstance(value, list) else _spread(value)
            record_property(FIGURE + name, shown)

    return note


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} (most {max(values):.2f}, of {len(values)})" if values else "none"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures of this run."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: " + ", ".join(figures)
        for report in terminalreporter.getreports("passed")
        if (
            figures := [
                f"{name.removeprefix(FIGURE)} {value}"
                for name, value in report.user_properties
                if name.startswith(FIGURE)
            ]
        )
    ]
    if lines:
        terminalreporter.section("what was provoked, served and measured (s)")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """A store of each kind."""
    yield from _ground(request, tmp_path)


@pytest.fixture(params=["mariadb", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """A store on a server, of each kind."""
    yield from _ground(request, tmp_path)


@pytest.fixture
def embedded(tmp_path: Path) -> Ground:
    """A store in a file."""
    return prepared(Sqlite(tmp_path))


def _ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    if request.param == "sqlite":
        yield prepared(Sqlite(tmp_path))
        return
    server: Server = request.getfixturevalue(request.param)
    yield prepared(Served(server))
    _recover(server)


def _recover(server: Server) -> None:
    """Leave a server that is shared by all tests running, whatever a test did to it."""
    if server.process is not None and server.process.poll() is None:
        server.thaw()
        if server.name == "mariadb":
            server.sql("SET GLOBAL read_only = 0; SET GLOBAL max_connections = 151")
        return
    if server.process is not None:
        server.kill()
    server.start()
