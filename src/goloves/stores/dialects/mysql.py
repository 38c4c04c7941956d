"""MySQL and MariaDB."""

import logging
from functools import cached_property
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    Table,
    cast,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from goloves.errors import StoreRefused
from goloves.stores import schema
from goloves.stores.dialects.dialect import LOCK_SHARE, SIZE, Dialect, Server
from goloves.stores.urls import StoreUrl

LONGEST_REST = 60
"""Seconds after which MySQL ends a connection at rest, and with it the locks of a node that froze. Nodes try one that
rested for half of that before they use it (`STALE_AFTER` in database.py)."""

_LAST_INSERT_ID = select(func.last_insert_id())


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
            f" /*M!100300 , idle_transaction_timeout = {self.patience} */ /*!80000 , wait_timeout = {LONGEST_REST} */"
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
        result = connection.execute(self._raise, self._values(tag, size, limit))
        if result.rowcount != 1:
            return None
        # It comes with the answer, unless the table has a trigger. What is not as expected is asked for once more.
        if result.lastrowid == seen + size:
            return seen + size
        return int(connection.execute(_LAST_INSERT_ID).scalar_one())

    @cached_property
    def _raise(self) -> Any:
        return self._raising(func.last_insert_id(schema.leaf.c.max_id + SIZE))

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
