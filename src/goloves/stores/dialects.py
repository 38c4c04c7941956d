"""What differs between SQLite, MySQL with MariaDB, and PostgreSQL: all of it, and nothing else.

Each dialect knows how to connect and prepare a connection so that it can be trusted (P4), how a transaction begins,
the few statements that are written differently, and what its errors mean for the outcome of a transaction:

- `ABORTED`: the database undid the transaction by itself; it may be repeated.
- `LOST`: the connection is gone, and so is whatever was not committed.
- `FAILED`: the statement was refused.

Once COMMIT was sent, only the few codes of `commit_aborts` say that nothing happened; anything else is unknown (R3).
"""

import abc
import enum
import importlib
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    String,
    Table,
    and_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from goloves.errors import ConfigError, StoreRefused
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

_SIZE = bindparam("size", type_=BigInteger)
_HIGHEST = bindparam("highest", type_=BigInteger)
_LAST_INSERT_ID = select(func.last_insert_id())


def _of(tag: str, size: int, limit: int) -> dict[str, Any]:
    return {TAG.key: tag, _SIZE.key: size, _HIGHEST.key: limit - size}


LOCK_SHARE = 0.25
"""Part of a call's time for which it waits for somebody else's lock: a connection that waits serves nobody, and a lock
of ours is held for milliseconds. MySQL counts in whole seconds, so it is one there by default."""

MYSQL_REST = 60
"""Seconds after which MySQL ends a connection at rest, and with it the locks of a node that froze. Nodes try one that
rested for half of that before they use it (`STALE_AFTER` in database.py)."""


class Verdict(enum.Enum):
    """What an error means for the transaction that met it."""

    ABORTED = enum.auto()
    LOST = enum.auto()
    FAILED = enum.auto()


class Dialect(abc.ABC):
    """What the dialects share; see the module."""

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
        number: int | None = connection.execute(self._raise, _of(tag, size, limit)).scalar()
        return number

    @cached_property
    def _raise(self) -> Any:
        number = schema.leaf.c.max_id
        return self._raising(number + _SIZE).returning(number)

    def _raising(self, raised: ColumnElement[int]) -> Any:
        table = schema.leaf
        return (
            update(table)
            .where(self.same_name(table.c.biz_tag, TAG), table.c.max_id >= 0, table.c.max_id <= _HIGHEST)
            .values(max_id=raised, update_time=func.current_timestamp())
        )

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


class MySql(Dialect):
    """MySQL 8 and MariaDB: InnoDB, READ COMMITTED, strict mode."""

    name = "mysql"
    driver = "asyncmy"
    extra = "mysql"
    binary_collations = frozenset(
        {
            "utf8mb4_bin",
            "utf8mb3_bin",
            "utf8_bin",
            "ascii_bin",
            "utf8mb4_0900_bin",
            "utf8mb4_nopad_bin",
            "utf8mb3_nopad_bin",
        }
    )
    aborts = frozenset({"1213", "1205", "3101", "3572", "1020"})
    # deadlock (also Galera's failed certification), lock wait, group replication's rollback, NOWAIT, changed row
    locked = frozenset({"1205"})
    commit_aborts = frozenset({"1213", "3101"})
    stale = frozenset({"1290", "1836", "1792", "1053", "1047", "1927", "3024"})
    # read-only server, read-only mode, read-only transaction, shutdown, no quorum (Galera), killed, time limit
    hides = frozenset({"1227", "1142", "1143"})  # access denied, to all of it or to a table or column
    refusals: ClassVar[dict[str, str]] = {
        "1045": "check user and password in the store URL",
        "1698": "check user and password in the store URL; this account wants another way to log in",
        "1044": "grant this user its database: GRANT ALL ON database.* TO user",
        "1049": "create the database, or name another one in the store URL",
        "1130": "let this host in: the user's host part does not match it",
        "1142": "grant this user SELECT, INSERT, UPDATE, DELETE on its tables (to migrate also CREATE, ALTER, INDEX)",
        "1251": "upgrade the account's authentication plugin",
    }

    def __init__(self, url: StoreUrl, timeout: float) -> None:
        super().__init__(url, timeout)
        # The driver repeats each of the server's notes on the standard error.
        logging.getLogger("asyncmy").setLevel(logging.ERROR)

    def connect_arguments(self) -> dict[str, Any]:
        """utf8mb4, so that names travel as they are."""
        # As bytes, for the driver would encode a text as Latin-1, and the server's own clients don't.
        password = self.url.password.encode()
        arguments: dict[str, Any] = {"connect_timeout": self.timeout, "charset": "utf8mb4", "password": password}
        if self.url.socket:
            arguments["unix_socket"] = self.url.socket
        context = self.url.ssl_context()
        if context is not None:
            arguments["ssl"] = context
        return arguments

    def prepare(self, connection: Connection, *, allow_lost_commits: bool) -> None:
        """Set strict mode and UTC; look at what InnoDB does at a commit."""
        wait = max(1, round(self.timeout * LOCK_SHARE))
        connection.exec_driver_sql(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00',"
            f" innodb_lock_wait_timeout = {wait}"
            # MySQL has no limit of its own for transactions at rest: it ends connections at rest instead.
            f" /*M!100300 , idle_transaction_timeout = {self.patience} */ /*!80000 , wait_timeout = {MYSQL_REST} */"
        )
        flush, binlog, sync = connection.exec_driver_sql(
            "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit, @@GLOBAL.log_bin, @@GLOBAL.sync_binlog"
        ).one()
        wrong = ""
        if flush not in (1, 3):
            wrong = f"innodb_flush_log_at_trx_commit is {flush}"
        elif binlog and sync != 1 and flush != 3:
            # InnoDB leaves the commit to a binary log then: what that lost, it rolls back when it recovers.
            wrong = f"the binary log is on and sync_binlog is {sync}"
        if wrong and not allow_lost_commits:
            raise StoreRefused(
                f"{self.url.address} can lose commits: {wrong}. Set it to 1, or"
                " accept that ids may repeat after a crash with allow_lost_commits = true under [stores]"
            )

    def kill(self, driver_connection: Any) -> object:
        """Close the transport."""
        return driver_connection.close()

    def code(self, error: BaseException) -> str:
        """Give MySQL's error number."""
        original = error.orig if isinstance(error, DBAPIError) else error
        arguments = getattr(original, "args", ())
        return str(arguments[0]) if arguments and isinstance(arguments[0], int) else ""

    def order_key(self, column: ColumnElement[str], *, binary: bool) -> ColumnElement[Any]:
        """Give the bytes in UTF-8: the default collations take 'oRDer  ' for 'order', and utf8mb4_bin pads too."""
        if binary:
            return column
        return cast(func.convert(column.op("USING")(literal_column("utf8mb4"))), LargeBinary)

    def order_value(self, value: ColumnElement[str], *, binary: bool) -> ColumnElement[Any]:
        """Give the name's bytes."""
        return value if binary else cast(value, LargeBinary)

    def raise_number(self, connection: Connection, tag: str, size: int, limit: int, seen: int) -> int | None:
        """Neither MySQL nor MariaDB returns from an UPDATE: the number comes back as the last insert id."""
        result = connection.execute(self._raise, _of(tag, size, limit))
        if result.rowcount != 1:
            return None
        # It comes with the answer, unless the table has a trigger. What is not as expected is asked for once more.
        if result.lastrowid == seen + size:
            return seen + size
        return int(connection.execute(_LAST_INSERT_ID).scalar_one())

    @cached_property
    def _raise(self) -> Any:
        return self._raising(func.last_insert_id(schema.leaf.c.max_id + _SIZE))

    def insert_missing(self, table: Table) -> Any:
        """Give an insert that sets the key to itself where it exists: INSERT IGNORE would hide other faults too."""
        from sqlalchemy.dialects.mysql import insert

        key = next(iter(table.primary_key))
        return insert(table).on_duplicate_key_update({key.name: key})

    def clock_ms(self) -> ColumnElement[int]:
        """Give the server's clock; beyond 2038 too, where UNIX_TIMESTAMP ends."""
        return literal_column(
            "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000", BigInteger
        )

    def server(self, connection: Connection) -> Server | None:
        """Give the server's uuid, or MariaDB's server id: its server_uid changes with the network card."""
        names = "('server_uuid', 'server_id')"
        rows = connection.exec_driver_sql(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN {names}")
        variables = {row[0]: row[1] for row in rows}
        # On disk, not written: what was only written may be gone after a crash without anything being set back.
        names = "('Innodb_lsn_flushed', 'Innodb_redo_log_flushed_to_disk_lsn')"
        positions = connection.exec_driver_sql(f"SHOW GLOBAL STATUS WHERE Variable_name IN {names}").all()
        name = variables.get("server_uuid") or variables.get("server_id")
        if not name:
            return None  # a proxy that answers for itself
        return Server(str(name), max((int(row[1]) for row in positions), default=0))

    def lock_migration(self, connection: Connection) -> None:
        """Take a lock of the session: each DDL statement commits."""
        if connection.execute(text("SELECT GET_LOCK(CONCAT('goloves ', DATABASE()), 60)")).scalar() != 1:
            raise StoreRefused("another migration of this database is under way; try again when it is done")

    def unlock_migration(self, connection: Connection) -> None:
        """Give the session's lock back."""
        connection.execute(text("SELECT RELEASE_LOCK(CONCAT('goloves ', DATABASE()))"))


class Postgres(Dialect):
    """PostgreSQL: READ COMMITTED, synchronous commits."""

    name = "postgresql"
    driver = "asyncpg"
    extra = "postgres"
    binary_collations = frozenset({"c", "posix", "ucs_basic", "c.utf-8", "pg_c_utf8"})
    aborts = frozenset({"40001", "40P01", "55P03"})  # serialization failure, deadlock, lock not available
    locked = frozenset({"55P03"})
    commit_aborts = frozenset({"40001", "40P01"})
    stale = frozenset(
        {"25006", "57P01", "57P02", "57P03", "57P05"}
    )  # read-only transaction; shutting down, starting up
    hides = frozenset({"42501", "42883", "0A000"})  # not permitted, no such function, not supported
    refusals: ClassVar[dict[str, str]] = {
        "28P01": "check user and password in the store URL",
        "28000": "check the user in the store URL, and pg_hba.conf on the server",
        "3D000": "create the database, or name another one in the store URL",
        "42501": "grant this user its tables (to migrate: CREATE on the schema)",
    }

    def connect_arguments(self) -> dict[str, Any]:
        """UTC and isolation from the start."""
        arguments: dict[str, Any] = {
            "timeout": self.timeout,
            "ssl": self.url.ssl_context() or False,
            "server_settings": {"application_name": "goloves", "timezone": "UTC"},
        }
        if self.url.socket:
            arguments["host"] = self.url.socket
            arguments["port"] = self.url.port
        return arguments

    def prepare(self, connection: Connection, *, allow_lost_commits: bool) -> None:
        """Make commits wait for the disk, and for a synchronous standby if there is one; look at fsync."""
        usual = "current_setting('synchronous_commit')" if allow_lost_commits else "'on'"
        # A waiting call that its node gave up would else stand in line for a lock, unnoticed, and take its turn.
        wait = max(1, round(self.timeout * LOCK_SHARE * 1000))
        commit, fsync, _, _ = connection.exec_driver_sql(
            "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
            f" WHEN 'remote_apply' THEN 'remote_apply' ELSE {usual} END, false), current_setting('fsync'),"
            f" set_config('idle_in_transaction_session_timeout', '{self.patience}s', false),"
            f" set_config('lock_timeout', '{wait}ms', false)"
        ).one()
        connection.commit()
        if allow_lost_commits:
            return
        if commit not in ("on", "remote_apply") or fsync != "on":
            raise StoreRefused(
                f"{self.url.address} can lose commits: fsync is {fsync}, synchronous_commit is {commit}. Switch both"
                " on, or accept that ids may repeat after a crash with allow_lost_commits = true under [stores]"
            )

    def kill(self, driver_connection: Any) -> object:
        """Close the transport."""
        return driver_connection.terminate()

    def code(self, error: BaseException) -> str:
        """Give the SQLSTATE."""
        original = error.orig if isinstance(error, DBAPIError) else error
        return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or ""

    def order_key(self, column: ColumnElement[str], *, binary: bool) -> ColumnElement[Any]:
        """Give the column under the collation of bytes."""
        return column if binary else column.collate("C")

    def insert_missing(self, table: Table) -> Any:
        """Give INSERT … ON CONFLICT DO NOTHING."""
        from sqlalchemy.dialects.postgresql import insert

        return insert(table).on_conflict_do_nothing()

    def clock_ms(self) -> ColumnElement[int]:
        """Give the server's clock."""
        return literal_column("CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)", BigInteger)

    def server(self, connection: Connection) -> Server | None:
        """Give system identifier and timeline, which a promotion changes, and the end of the log on disk.

        Raises StoreRefused on a standby: a connection made there survives its promotion, and would never be looked at.
        """
        if connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar():
            where = self.url.address
            raise StoreRefused(f"{where} is a replica and can only be read; name the primary in the store URL")
        row = connection.exec_driver_sql(
            "SELECT system_identifier, substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8),"
            " CAST(pg_current_wal_flush_lsn() - '0/0' AS BIGINT) FROM pg_control_system()"
        ).one()
        return Server(f"{row[0]}/{row[1]}", int(row[2]))

    def lock_migration(self, connection: Connection) -> None:
        """Take a lock that ends with the transaction: DDL is part of it."""
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('goloves migrate'))"))


DIALECTS: dict[str, type[Dialect]] = {dialect.name: dialect for dialect in (Sqlite, MySql, Postgres)}
