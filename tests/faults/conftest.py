"""The stores that faults are provoked on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import Server, mariadb, postgresql
from faults.ground import Ground, prepared
from stores.backends import Served, Sqlite

__all__ = ["mariadb", "postgresql"]


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
        return
    if server.process is not None:
        server.kill()
    server.start()
