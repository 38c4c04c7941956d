"""PostgreSQL."""

from typing import Any, ClassVar

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, literal_column, text
from sqlalchemy.exc import DBAPIError

from goloves.errors import StoreRefused
from goloves.stores.dialects.dialect import LOCK_SHARE, Dialect, Server


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
