"""Drivers that fail in ways of their own: whatever they raise, the outcome that is told is the honest one."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from goloves.core.grants import Range
from goloves.errors import StoreUnavailable, UnknownOutcome
from goloves.stores.sql import SqlStore
from stores.backends import Sql, Sqlite

ODD: list[Callable[[], Exception]] = [
    lambda: AttributeError("'NoneType' object has no attribute 'readexactly'"),
    lambda: struct.error("unpack requires a buffer of 4 bytes"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    lambda: ValueError("not a packet"),
]


async def opened(database: Sql) -> SqlStore:
    store = await database.node()
    assert isinstance(store, SqlStore)
    return store


@pytest.mark.parametrize("odd", ODD)
async def test_r3_whatever_a_driver_raises_from_a_commit_it_is_an_unknown_outcome(
    database: Sql, odd: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(database, Sqlite) or odd is ODD[0]:  # one of them on each database will do
        store = await opened(database)
        whole = Connection.commit

        def commit(connection: Connection) -> None:
            whole(connection)
            raise odd()

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "commit", commit)
            with pytest.raises(UnknownOutcome, match="lost while it committed"):
                await store.allocate("default", 10)
        assert await store.allocate("default", 10) == Range("default", 11, 21)


@pytest.mark.parametrize("odd", ODD[:3])
async def test_r3_whatever_a_driver_raises_before_a_commit_the_store_is_unavailable(
    database: Sql, odd: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(database, Sqlite) or odd is ODD[0]:
        store = await opened(database)

        def fail(*_: Any) -> None:
            raise odd()

        for name in ("raise_number", "prepare"):
            with monkeypatch.context() as patch:
                patch.setattr(store._dialect, name, fail)
                store._database._cut_idle()
                with pytest.raises(StoreUnavailable):
                    await store.allocate("default", 10)
        assert await store.allocate("default", 10) == Range("default", 1, 11)


async def test_a_mistake_of_the_caller_is_no_failure_of_the_database(
    database: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(database)

    def wrong(connection: Connection) -> None:
        raise ValueError("a window of 0 units is none")

    with pytest.raises(ValueError, match="a window of 0 units is none"):
        await store._run(wrong)
    assert await store.allocate("default", 10) == Range("default", 1, 11)


async def test_r7_a_server_whose_name_can_not_be_read_at_this_moment_grants_nothing(
    database: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(database, Sqlite):
        return
    store = await opened(database)

    def fail(*_: object) -> None:
        raise DBAPIError("SELECT", {}, OSError("out of memory"))

    with monkeypatch.context() as patch:
        patch.setattr(store._dialect, "server", fail)
        store._database._cut_idle()
        with pytest.raises(StoreUnavailable, match="out of memory"):
            await store.allocate("default", 10)
    assert await store.allocate("default", 10) == Range("default", 1, 11)
