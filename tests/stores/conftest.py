"""The stores under test: memory, SQLite, MariaDB and PostgreSQL, the servers started here."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from databases import Server, mariadb, postgresql
from stores.backends import Backend, Memory, Served, Sql, Sqlite

__all__ = ["mariadb", "postgresql"]

SQL = ["sqlite", "mariadb", "postgresql"]


async def _made(kind: str, request: pytest.FixtureRequest, directory: Path) -> Backend:
    if kind == "memory":
        return Memory()
    if kind == "sqlite":
        return await Sqlite.prepared(directory)
    return await Served.prepared(request.getfixturevalue(kind))


@pytest.fixture(params=["memory", *SQL])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """Each kind of store, as Goloves makes it."""
    backend = await _made(request.param, request, tmp_path)
    yield backend
    await backend.close()


@pytest.fixture(params=SQL)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sql]:
    """Each kind of SQL store, as Goloves makes it."""
    backend = await _made(request.param, request, tmp_path)
    assert isinstance(backend, Sql)
    yield backend
    await backend.close()


@pytest.fixture(params=["mariadb", "postgresql"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind of database server."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
async def served(server: Server) -> AsyncIterator[Served]:
    """A database on it, as Goloves makes it."""
    served = await Served.prepared(server)
    yield served
    await served.close()
