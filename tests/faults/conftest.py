"""The stores that faults are provoked on, and the figures that tests note: what was provoked, served and lost."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from databases import Server, mariadb, postgresql
from faults.ground import Ground, prepared
from stores.backends import Served, Sqlite

__all__ = ["mariadb", "postgresql"]

FIGURE = "faults: "
"""Begins the name of each figure among a test's properties."""

Note = Callable[..., None]


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
