"""The kinds of store that the contract is held against, and ways to do to them what people do behind a store's back."""

import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from databases import USER, Server
from goloves.stores import make_store
from goloves.stores.memory import LeafRow, MemoryData, MemoryStore, WorkerRow, new_memory_store
from goloves.stores.sql import Options, SqlStore

Node = MemoryStore | SqlStore

THEN = datetime(2026, 1, 1, tzinfo=UTC)

PATIENT = Options(timeout=20.0)
"""A timeout that no test meets by accident on a busy machine."""


class Backend:
    """One database, on which a test has as many nodes as it likes."""

    name: str
    url: str = ""

    def __init__(self) -> None:
        self._nodes: list[Node] = []

    async def node(self, *, repairing: bool = False) -> Node:
        """Give one more node's store, open; `repairing`: as `goloves repair` opens it."""
        node = self.make(repairing=repairing)
        self._nodes.append(node)
        await node.open()
        return node

    async def nodes(self, count: int) -> list[Node]:
        """Give more nodes' stores."""
        return [await self.node() for _ in range(count)]

    async def close(self) -> None:
        """Close all nodes."""
        for node in self._nodes:
            await node.close()

    def make(self, *, repairing: bool = False) -> Node:
        """Make a store that is not open."""
        raise NotImplementedError

    def set_number(self, tag: str, max_id: int) -> None:
        """Set a tag's `max_id`, as an operator does, or Leaf."""
        raise NotImplementedError

    def insert(self, tag: str, max_id: int, step: int = 1000) -> None:
        """Insert a row into `leaf_alloc`."""
        raise NotImplementedError

    def remove(self, tag: str) -> None:
        """Delete a row of `leaf_alloc`."""
        raise NotImplementedError

    def forget_worker(self, space: str, worker: int) -> None:
        """Delete a worker id's row, as a restored backup would."""
        raise NotImplementedError

    def set_worker(self, space: str, worker: int, **values: object) -> None:
        """Set columns of a worker id's row: fence, start, floor, nonce."""
        raise NotImplementedError

    def fill_workers(self, space: str, workers: range, floor: Callable[[int], int]) -> None:
        """Insert rows for worker ids, with these floors and fence 1."""
        raise NotImplementedError


class Memory(Backend):
    """The store in memory."""

    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.data: MemoryData = new_memory_store().data

    def make(self, *, repairing: bool = False) -> MemoryStore:
        return MemoryStore(self.data, repairing=repairing)

    def set_number(self, tag: str, max_id: int) -> None:
        self.data.leaf[tag].max_id = max_id

    def insert(self, tag: str, max_id: int, step: int = 1000) -> None:
        self.data.leaf[tag] = LeafRow(max_id, step, "", THEN)

    def remove(self, tag: str) -> None:
        del self.data.leaf[tag]

    def forget_worker(self, space: str, worker: int) -> None:
        del self.data.workers[space][worker]

    def set_worker(self, space: str, worker: int, **values: object) -> None:
        for name, value in values.items():
            setattr(self.data.workers[space][worker], name, value)

    def fill_workers(self, space: str, workers: range, floor: Callable[[int], int]) -> None:
        rows = self.data.workers.setdefault(space, {})
        for worker in workers:
            rows[worker] = WorkerRow(1, 0, floor(worker), "", "", THEN)


class Sql(Backend):
    """A SQL database."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def make(self, *, repairing: bool = False) -> SqlStore:
        return make_store(self.url, replace(PATIENT, repairing=repairing))

    async def migrate(self) -> "Sql":
        """Make the tables."""
        await self.make().migrate()
        return self

    def sql(self, statement: str) -> str:
        """Run SQL beside the stores; the answer is tab-separated."""
        raise NotImplementedError

    def set_number(self, tag: str, max_id: int) -> None:
        self.sql(f"UPDATE leaf_alloc SET max_id = {max_id} WHERE biz_tag = '{tag}'")

    def insert(self, tag: str, max_id: int, step: int = 1000) -> None:
        self.sql(f"INSERT INTO leaf_alloc (biz_tag, max_id, step) VALUES ('{tag}', {max_id}, {step})")

    def remove(self, tag: str) -> None:
        self.sql(f"DELETE FROM leaf_alloc WHERE biz_tag = '{tag}'")

    def forget_worker(self, space: str, worker: int) -> None:
        self.sql(f"DELETE FROM goloves_worker WHERE space = '{space}' AND worker = {worker}")

    def set_worker(self, space: str, worker: int, **values: object) -> None:
        changes = ", ".join(f"{name} = '{value}'" for name, value in values.items())
        self.sql(f"UPDATE goloves_worker SET {changes} WHERE space = '{space}' AND worker = {worker}")

    def fill_workers(self, space: str, workers: range, floor: Callable[[int], int]) -> None:
        for first in range(0, len(workers), 1000):
            some = workers[first : first + 1000]
            rows = ", ".join(f"('{space}', {worker}, 1, 0, {floor(worker)}, '', '', 0)" for worker in some)
            self.sql(
                f"INSERT INTO goloves_worker (space, worker, fence, start, floor, nonce, owner, seen_ms) VALUES {rows}"
            )


_templates: dict[Server, "Served"] = {}
"""By server: a database that was migrated once. Copying it takes a tenth of the time of a migration."""

_files: list[bytes] = []
"""A file that was migrated once, likewise."""


class Sqlite(Sql):
    """A SQLite file."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self.file = directory / "goloves.db"
        super().__init__(f"sqlite:///{self.file}")

    @classmethod
    async def prepared(cls, directory: Path) -> "Sqlite":
        """Give a file as that of a new store, with a uuid of its own."""
        backend = cls(directory)
        if not _files:
            await backend.migrate()
            _files.append(backend.file.read_bytes())
        backend.file.write_bytes(_files[0])
        backend.sql(f"UPDATE goloves_meta SET uuid = '{uuid.uuid4()}'")
        return backend

    def sql(self, statement: str) -> str:
        connection = sqlite3.connect(self.file, timeout=20, isolation_level=None)
        try:
            rows = connection.execute(statement).fetchall()
        finally:
            connection.close()
        return "\n".join("\t".join(str(value) for value in row) for row in rows)


class Served(Sql):
    """A database on a server."""

    def __init__(self, server: Server, template: str = "") -> None:
        self.server = server
        self.name = server.name
        super().__init__(server.fresh(template))

    @classmethod
    async def prepared(cls, server: Server) -> "Served":
        """Give a database with the tables of a new store, and a uuid of its own."""
        template = _templates.get(server)
        if template is None:
            template = _templates[server] = cls(server)
            await template.migrate()
        served = cls(server, template.database)
        served.sql(f"UPDATE goloves_meta SET uuid = '{uuid.uuid4()}'")
        return served

    @property
    def database(self) -> str:
        return self.url.rsplit("/", 1)[1]

    def sql(self, statement: str) -> str:
        if self.name == "postgresql":
            statement = f"SET ROLE {USER}; {statement}"
        return self.server.sql(statement, self.database)

    def admin(self, statement: str) -> str:
        """Run SQL as the server's administrator."""
        return self.server.sql(statement, self.database)
