"""What every database has to answer for: the questions, and what most of them answer alike."""

import abc
import enum
import importlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    String,
    Table,
    and_,
    bindparam,
    func,
    literal,
    update,
)
from sqlalchemy.exc import DBAPIError

from goloves.errors import ConfigError
from goloves.stores import schema
from goloves.stores.urls import StoreUrl


@dataclass(frozen=True)
class Server:
    """Which server a connection leads to (R7)."""

    name: str
    position: int
    """How far its log is on disk; 0 where it doesn't tell. Grows for as long as nobody sets the server back."""


TAG = bindparam("tag", type_=String)
"""The tag's name, in statements that are made once: to make one takes SQLAlchemy longer than the database to run it."""

SIZE = bindparam("size", type_=BigInteger)
"""How far `raise_number` goes."""

_HIGHEST = bindparam("highest", type_=BigInteger)

LOCK_SHARE = 0.25
"""Part of a call's time for which it waits for somebody else's lock: a connection that waits serves nobody, and a lock
of ours is held for milliseconds. MySQL counts in whole seconds, so it is one there by default."""


class Verdict(enum.Enum):
    """What an error means for the transaction that met it."""

    ABORTED = enum.auto()
    """The database undid it by itself; it may be repeated."""
    LOST = enum.auto()
    """The connection is gone, and so is whatever was not committed."""
    FAILED = enum.auto()
    """The statement was refused."""


class Dialect(abc.ABC):
    """What the dialects share; see the package."""

    name: ClassVar[str]
    driver: ClassVar[str]
    extra: ClassVar[str]
    embedded: ClassVar[bool] = False
    binary_collations: ClassVar[frozenset[str]]
    """Collations, in lower case, that order by bytes."""

    def __init__(self, url: StoreUrl, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        self.patience = math.ceil(timeout) + 1
        """Seconds after which the database ends a transaction at rest: longer than a live node leaves one. A node that
        froze or was cut off in the middle of one would else block its tag for all others until it came back."""
        try:
            importlib.import_module(self.driver)
        except ImportError as error:
            raise ConfigError(
                f"a {self.name} store needs its driver, {self.driver}: pip install 'goloves[{self.extra}]' ({error})"
            ) from error

    # --- connections ---

    def engine_url(self) -> URL:
        """Give SQLAlchemy's URL."""
        url = self.url
        return URL.create(
            f"{self.name}+{self.driver}",
            username=url.user or None,
            password=url.password or None,
            host=url.host or None,
            port=url.port or None if url.host else None,
            database=url.database,
        )

    @abc.abstractmethod
    def connect_arguments(self) -> dict[str, Any]:
        """Give what the driver's `connect` gets beside the URL."""

    def engine_arguments(self) -> dict[str, Any]:
        """Give what SQLAlchemy's `create_engine` gets beside the URL."""
        return {"isolation_level": "READ COMMITTED"}

    @abc.abstractmethod
    def prepare(self, connection: Connection, *, allow_lost_commits: bool) -> None:
        """Set up a new connection; StoreRefused if it can lose commits and that is not allowed (P4)."""

    @abc.abstractmethod
    def kill(self, driver_connection: Any) -> object:
        """Cut a connection at once, without a word to the server; may be called where nothing can be awaited."""

    def begin(self, connection: Connection, *, write: bool) -> None:
        """Begin a transaction, where the driver does not by itself."""
        return

    # --- errors ---

    def verdict(self, error: BaseException, *, committing: bool) -> Verdict:
        """Say what an error means."""
        code = self.code(error)
        if code in (self.commit_aborts if committing else self.aborts):
            return Verdict.ABORTED
        if committing or not isinstance(error, DBAPIError) or error.connection_invalidated or code in self.stale:
            return Verdict.LOST
        return Verdict.FAILED

    aborts: ClassVar[frozenset[str]]
    """Codes of errors of a statement after which the transaction may be rolled back and repeated."""
    locked: ClassVar[frozenset[str]] = frozenset()
    """Codes of those of them that say that somebody else holds a lock, and held it for long."""
    commit_aborts: ClassVar[frozenset[str]]
    """Codes of errors of COMMIT that mean that the database has rolled back, for certain."""
    stale: ClassVar[frozenset[str]] = frozenset()
    """Codes of errors after which another connection may do better: this server became a replica, or shuts down."""
    hides: ClassVar[frozenset[str]] = frozenset()
    """Codes with which a server refuses to say what it is, as some managed databases do (R7)."""
    refusals: ClassVar[dict[str, str]]
    """Codes of errors that a person must mend before a connection can be had, and how."""

    @abc.abstractmethod
    def code(self, error: BaseException) -> str:
        """Give the driver's code of an error, or an empty text."""

    def words(self, error: BaseException) -> str:
        """Say an error in one line, without the statement and its values."""
        original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        if original.__cause__ is not None and isinstance(error, DBAPIError):
            original = original.__cause__
        said = str(original.args[-1] if original.args else original).strip().splitlines()
        return said[0][:300] if said else type(original).__name__

    def refusal(self, error: BaseException) -> str:
        """Say what a person must mend before a connection can be had; empty if waiting may help."""
        mend = self.refusals.get(self.code(error))
        return f"{self.url.address} refuses us ({self.words(error)}): {mend}" if mend else ""

    # --- statements ---

    @abc.abstractmethod
    def order_key(self, column: ColumnElement[str], *, binary: bool) -> ColumnElement[Any]:
        """Give what sorts and compares names by their UTF-8 bytes; `binary`: the column does so by itself."""

    def order_value(self, value: ColumnElement[str], *, binary: bool) -> ColumnElement[Any]:
        """Give a name to compare with `order_key`."""
        return value

    def same_name(self, column: ColumnElement[str], value: str | ColumnElement[str]) -> ColumnElement[bool]:
        """Compare a name byte for byte, whatever the column's collation is; uses the column's index (R1)."""
        name = literal(value) if isinstance(value, str) else value
        return and_(column == name, self.order_key(column, binary=False) == self.order_value(name, binary=False))

    def raise_number(self, connection: Connection, tag: str, size: int, limit: int, seen: int) -> int | None:
        """Move `max_id` up by `size` in one statement and give its new value; None if no row let it (R1, R2).

        `seen`: what it was when it was read last, in this transaction; Leaf may have moved it since.
        """
        number: int | None = connection.execute(self._raise, self._values(tag, size, limit)).scalar()
        return number

    @cached_property
    def _raise(self) -> Any:
        number = schema.leaf.c.max_id
        return self._raising(number + SIZE).returning(number)

    def _raising(self, raised: ColumnElement[int]) -> Any:
        table = schema.leaf
        return (
            update(table)
            .where(self.same_name(table.c.biz_tag, TAG), table.c.max_id >= 0, table.c.max_id <= _HIGHEST)
            .values(max_id=raised, update_time=func.current_timestamp())
        )

    @staticmethod
    def _values(tag: str, size: int, limit: int) -> dict[str, Any]:
        return {TAG.key: tag, SIZE.key: size, _HIGHEST.key: limit - size}

    @abc.abstractmethod
    def insert_missing(self, table: Table) -> Any:
        """Give an insert that leaves a row alone which has the same key."""

    def greatest(self, *values: Any) -> ColumnElement[int]:
        """Give the greatest of some numbers."""
        return func.greatest(*values)

    def least(self, *values: Any) -> ColumnElement[int]:
        """Give the least of some numbers."""
        return func.least(*values)

    @abc.abstractmethod
    def clock_ms(self) -> ColumnElement[int]:
        """Give the clock, ms since 1970, and not the transaction's start (W8)."""

    def server(self, connection: Connection) -> Server | None:
        """Say which server this is; None where there is none (R7)."""
        return None

    own_clock: ClassVar[bool] = True
    """Whether that clock is another than the node's."""

    def lock_migration(self, connection: Connection) -> None:
        """Keep other migrations of this database out, until `unlock_migration`."""
        return

    def unlock_migration(self, connection: Connection) -> None:
        """Let other migrations in."""
        return
