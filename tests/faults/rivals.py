"""Others who use the same database: Leaf's own nodes, operators with long transactions, programs that take connections.

Each runs beside the test on a background loop, over SQLAlchemy, so that one code speaks to all databases.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from faults.background import Background
from faults.ground import Ground
from faults.ledger import LEAF, Ledger
from goloves.stores.dialects import DIALECTS
from goloves.stores.urls import parse_store_url

Work = Callable[[AsyncConnection], Awaitable[None]]

PAUSE = 0.01
"""Seconds between two transactions of a rival."""


class Rivals:
    """Rivals of one store's nodes; they all leave at the end of `with`."""

    def __init__(self, ground: Ground) -> None:
        url = parse_store_url(ground.url)
        dialect = DIALECTS[url.dialect](url, 20.0)
        self._embedded = ground.embedded
        self._engine = create_async_engine(
            dialect.engine_url(),
            poolclass=NullPool,
            connect_args=dialect.connect_arguments(),
            **dialect.engine_arguments(),
        )
        self._background = Background()
        self._tasks: list[asyncio.Task[None]] = []
        self._free = asyncio.Event()
        self.done = 0
        """Transactions that were committed."""
        self.failed: list[str] = []
        """What the others ended with: what the database said, or rather its code."""
        self.held = 0
        """Connections and transactions that are held open."""

    def __enter__(self) -> Self:
        self._background.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        self._background.__exit__(kind, error, trace)

    def leave(self) -> None:
        """End all rivals, and let go of what they hold."""
        self._background.run(self._leave())

    def allocate_as_leaf(self, ledger: Ledger, tag: str) -> None:
        """Allocate ranges of a tag as a Leaf node does, again and again, and use them whole."""

        async def allocate(connection: AsyncConnection) -> None:
            if self._embedded:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver begins none by itself
            await connection.execute(
                text("UPDATE leaf_alloc SET max_id = max_id + step WHERE biz_tag = :tag"), {"tag": tag}
            )
            row = (
                await connection.execute(text("SELECT max_id, step FROM leaf_alloc WHERE biz_tag = :tag"), {"tag": tag})
            ).one()
            await connection.commit()
            ledger.numbers[tag].append((row.max_id - row.step, row.max_id, LEAF, True))

        self._again_and_again(allocate)

    def deadlock(self, tag: str) -> None:
        """Lock a tag's rows in the order that is opposite to ours, again and again."""

        async def lock(connection: AsyncConnection) -> None:
            for table, key in (("leaf_alloc", "biz_tag"), ("goloves_tag", "name")):
                # Changing a value to itself may lock nothing on MySQL; a reading lock always does.
                await connection.execute(text(f"SELECT * FROM {table} WHERE {key} = :tag FOR UPDATE"), {"tag": tag})
                await asyncio.sleep(PAUSE)
            await connection.commit()

        self._again_and_again(lock)

    def hold(self, statement: str) -> None:
        """Begin a transaction with this statement, and hold it open until `leave`."""
        before = self.held
        self._background.run(self._spawn(self._hold(statement)))
        self._background.run(self._until(lambda: self.held > before))

    def take_connections(self) -> int:
        """Take connections until the database refuses one; gives how many. They are held until `leave`."""
        return self._background.run(self._take_all())

    def _again_and_again(self, work: Work) -> None:
        self._background.run(self._spawn(self._repeat(work)))

    async def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        self._free.clear()
        self._tasks.append(asyncio.create_task(run()))

    async def _repeat(self, work: Work) -> None:
        while not self._free.is_set():
            try:
                async with self._connection() as connection:
                    while not self._free.is_set():
                        await work(connection)
                        self.done += 1
                        await asyncio.sleep(PAUSE)
            except DBAPIError as error:
                self.failed.append(str(error.orig))
                await asyncio.sleep(PAUSE)

    async def _hold(self, statement: str) -> None:
        async with self._connection() as connection:
            await connection.exec_driver_sql(statement)
            self.held += 1
            await self._free.wait()
            self.held -= 1

    async def _take_all(self) -> int:
        begun = self.held
        while True:
            try:
                connection = await self._engine.connect()
            except DBAPIError as error:
                self.failed.append(str(error.orig))
                return self.held - begun
            await self._spawn(self._keep(connection))
            self.held += 1

    async def _keep(self, connection: AsyncConnection) -> None:
        await self._free.wait()
        await connection.close()
        self.held -= 1

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            if self._embedded:
                await connection.exec_driver_sql("PRAGMA busy_timeout = 20000")
            yield connection

    async def _until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not what():
                if any(task.done() for task in self._tasks):
                    await asyncio.gather(*self._tasks)
                await asyncio.sleep(0.01)

    async def _leave(self) -> None:
        self._free.set()
        tasks, self._tasks = self._tasks, []
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
        await self._engine.dispose()
