"""SQLite."""

from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from sqlalchemy import URL, BigInteger, ColumnElement, Connection, Table, func, literal_column
from sqlalchemy.exc import DBAPIError

from goloves.errors import StoreRefused
from goloves.stores.dialects.dialect import Dialect


class Sqlite(Dialect):
    """SQLite in a file: WAL, each commit on disk before it counts, one writer at a time."""

    name = "sqlite"
    driver = "aiosqlite"
    extra = "server"
    embedded = True
    own_clock = False
    binary_collations = frozenset({"binary", ""})
    aborts = frozenset({"5", "6"})  # BUSY, LOCKED
    commit_aborts = frozenset()
    refusals: ClassVar[dict[str, str]] = {
        "8": "the file can't be written; give the user of this process the file and its directory, on a writable disk",
        "14": "the file can't be opened; look at the permissions of the file and its directory",
        "26": "the file is no SQLite database; name another one",
        "11": "the file is damaged; restore it from a backup, then run: goloves repair",
        "23": "permission denied; give the user of this process the file and its directory",
    }

    def engine_url(self) -> URL:
        """Give SQLAlchemy's URL of a file that must exist: no statement of ours makes one by accident (R8)."""
        path = quote(str(Path(self.url.database).absolute()))
        return URL.create("sqlite+aiosqlite", database=f"file:{path}", query={"mode": "rw", "uri": "true"})

    def connect_arguments(self) -> dict[str, Any]:
        """Wait for another writer nearly as long as a call may take; transactions are begun by us."""
        return {"timeout": self.timeout * 0.8, "isolation_level": None}

    def engine_arguments(self) -> dict[str, Any]:
        """Give none: SQLite's transactions are serializable."""
        return {}

    def prepare(self, connection: Connection, *, allow_lost_commits: bool) -> None:
        """Switch to WAL with a flush for each commit."""
        mode = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar()
        if mode != "wal":
            raise StoreRefused(
                f"{self.url.address} can't use a write-ahead log (it is in mode {mode}); put the file on a local disk"
            )
        connection.exec_driver_sql("PRAGMA synchronous=FULL")
        connection.exec_driver_sql("PRAGMA trusted_schema=OFF")
        if connection.exec_driver_sql("PRAGMA synchronous").scalar() != 2 and not allow_lost_commits:
            raise StoreRefused(f"{self.url.address} does not flush its commits (synchronous is not FULL)")

    def kill(self, driver_connection: Any) -> object:
        """Close it in its thread, after what runs there."""
        return driver_connection.stop()

    def begin(self, connection: Connection, *, write: bool) -> None:
        """Take the write lock at once, so that what is read stays true until the commit."""
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    def code(self, error: BaseException) -> str:
        """Give SQLite's primary result code."""
        original = error.orig if isinstance(error, DBAPIError) else error
        number = getattr(original, "sqlite_errorcode", None)
        return "" if number is None else str(number & 0xFF)

    def order_key(self, column: ColumnElement[str], *, binary: bool) -> ColumnElement[Any]:
        """Give the column under its binary collation."""
        return column if binary else column.collate("BINARY")

    def insert_missing(self, table: Table) -> Any:
        """Give INSERT … ON CONFLICT DO NOTHING."""
        from sqlalchemy.dialects.sqlite import insert

        return insert(table).on_conflict_do_nothing()

    def greatest(self, *values: Any) -> ColumnElement[int]:
        """SQLite's `max` of several values."""
        return func.max(*values)

    def least(self, *values: Any) -> ColumnElement[int]:
        """SQLite's `min` of several values."""
        return func.min(*values)

    def clock_ms(self) -> ColumnElement[int]:
        """Give the machine's clock."""
        return literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", BigInteger)
