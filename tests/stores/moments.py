"""A transaction that stands still at a well-defined point, right before one of its statements, while others act.

What a lock or a comparison is for shows only there. To meet that moment by many tries would be luck.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.util import await_only

from goloves.stores.sql import SqlStore
from stores.backends import Served

PATIENCE = 30.0
"""Seconds after which a test gives up waiting for another transaction to get through or to meet a lock."""

WAITING = {
    "mariadb": "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'",
}
"""Transactions that wait for somebody else's lock."""

LOOKED_AT = 0.15
"""Seconds between two looks at that: InnoDB shows the same again to whoever has looked within 0.1 s."""


@contextmanager
def right_before(store: SqlStore, statement: str, happens: Callable[[Connection], Any]) -> Iterator[None]:
    """Let something happen once, right before an open store sends a statement that begins so.

    `happens` gets the connection of that transaction; what it gives is awaited, if it can be. Fails if the moment never
    came.
    """
    engine = store._database._engine
    assert engine is not None, "the store has connected"
    came = False

    def look(connection: Connection, cursor: object, sql: str, *_: object) -> None:
        nonlocal came
        if not came and sql.startswith(statement):
            came = True
            answer = happens(connection)
            if asyncio.iscoroutine(answer):
                await_only(answer)

    event.listen(engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", look)
    assert came, f"no statement began with {statement!r}"


class Rival:
    """Another node's call at such a moment: it comes to its end, or to a lock that it waits for."""

    def __init__(self, served: Served, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._served = served
        self._call = call
        self._task: asyncio.Task[Any] | None = None

    async def __call__(self) -> None:
        self._task = task = asyncio.create_task(self._call())
        async with asyncio.timeout(PATIENCE):
            while not (await asyncio.wait([task], timeout=LOOKED_AT))[0]:
                if self._served.admin(WAITING[self._served.name]) != "0":
                    return

    async def outcome(self) -> Any:
        """Give what came of it: what it returned, or its error."""
        assert self._task is not None, "its moment never came"
        await asyncio.wait([self._task])
        return self._task.exception() or self._task.result()
