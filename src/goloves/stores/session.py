"""What the halves of a SQL store share: the database, and what was found out about it when it was opened."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, exists, select

from goloves.errors import StoreUnavailable
from goloves.stores import rules, schema
from goloves.stores.checks import Facts
from goloves.stores.database import Database
from goloves.stores.dialects import Dialect
from goloves.stores.failover import Failover

T = TypeVar("T")

NOT_HALTED = ~exists().where(schema.meta.c.id == schema.META_ID, schema.meta.c.halt != "")
"""Condition of a statement that grants: the store is not halted (R6)."""


class Session:
    """The base of each half."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._dialect: Dialect = database.dialect
        self._facts = Facts(migrated=False)
        self._opened = False
        self._repairing = False
        self._failover: Failover

    @property
    def identity(self) -> str:
        """Key under which marks of this store are kept."""
        return self._facts.uuid or self._database.address

    @property
    def address(self) -> str:
        """Where the store is, without user and password."""
        return self._database.address

    @property
    def has_marks(self) -> bool:
        """Whether Goloves' own tables exist."""
        return self._facts.migrated

    async def _run(self, work: Callable[[Connection], T], *, write: bool = True, timeout: float | None = None) -> T:
        if not self._opened:
            raise StoreUnavailable(f"{self._database.address} is not open")
        return await self._database.run(work, write=write, timeout=timeout)

    def _check_migrated(self, what: str) -> None:
        if not self.has_marks and self._opened:
            raise rules.needs_migration(what)

    def _store_halt(self, connection: Connection) -> str:
        return connection.execute(select(schema.meta.c.halt).where(schema.meta.c.id == schema.META_ID)).scalar() or ""
