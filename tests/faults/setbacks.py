"""Ways to set a store back: the rows of a dump, and a second server on an older copy of the data."""

import contextlib
import copy
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

from databases import Server, free_port
from faults.ground import Ground
from faults.nodes import wait_for
from stores.backends import Served, Sql

TABLES = ("goloves_space", "goloves_tag", "leaf_alloc", "goloves_worker", "goloves_mark", "goloves_meta")
"""What a dump holds, in an order in which no node locks two of them the other way round."""


class Dump:
    """The rows of a store at one moment; the witness's own are left alone, for it must see both histories."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        for table in TABLES:
            ground.sql(f"CREATE TABLE dump_{table} AS SELECT * FROM {table}")

    def restore(self) -> None:
        """Put the rows back in one transaction, while nodes run."""
        ground = self._ground
        statements = [
            *(f"DELETE FROM {table}" for table in TABLES),
            *(f"INSERT INTO {table} SELECT * FROM dump_{table}" for table in TABLES),
        ]
        script = ";\n".join(statements)
        if not ground.embedded:
            ground.sql(f"BEGIN;\n{script};\nCOMMIT")
            return
        with contextlib.closing(sqlite3.connect(ground.file, timeout=20, isolation_level=None)) as connection:
            connection.executescript(f"BEGIN IMMEDIATE;\n{script};\nCOMMIT;")


class Backup:
    """A copy of a file, taken as SQLite takes one."""

    def __init__(self, ground: Ground, copy: Path) -> None:
        self._file = ground.file
        self._copy = copy
        with contextlib.closing(sqlite3.connect(self._file)) as source, contextlib.closing(sqlite3.connect(copy)) as to:
            source.backup(to)

    def empty_log(self) -> bool:
        """Have everything written into the file, and the log beside it emptied; False while somebody is at work."""
        with contextlib.closing(sqlite3.connect(self._file, timeout=0.5, isolation_level=None)) as connection:
            busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    def copy_over(self) -> None:
        """Write the copy over the file, as `cp` does: it stays the same file, and its log stays beside it."""
        shutil.copyfile(self._copy, self._file)


class Replica(Served):
    """The same database on a second server, which was begun from an older copy of the first one's data."""

    def __init__(self, first: Served, server: Server) -> None:
        Sql.__init__(self, first.url.replace(f":{first.server.port}/", f":{server.port}/"))
        self.server = server
        self.name = server.name


@contextlib.contextmanager
def copied_data(ground: Ground) -> Iterator[Path]:
    """Copy the data of the ground's server, which is stopped for that and goes on afterwards."""
    server = ground.server
    copied = server.directory / "older"
    server.stop()
    try:
        # `cp` keeps owners, which PostgreSQL insists on.
        subprocess.run(["cp", "-a", str(server.data), str(copied)], check=True)
    finally:
        server.start()
    try:
        yield copied
    finally:
        shutil.rmtree(copied, ignore_errors=True)


@contextlib.contextmanager
def second_server(first: Server, data: Path, *, promoted: bool) -> Iterator[Server]:
    """Start a server on copied data.

    `promoted`: as one that is known to be another: a standby that is made the primary, on MariaDB another server id.
    """
    second = copy.copy(first)
    second.port = free_port()
    second.process = None
    # Its own place for the socket and the pid file, beside the data.
    second.directory = Path(f"{first.directory}-2")
    second.directory.mkdir(mode=0o755)
    second.data = data
    second.log = second.directory / "log"
    options = ["--server-id=2"] if promoted and first.name == "mariadb" else []
    standing_by = promoted and not options
    if standing_by:
        standby = data / "standby.signal"
        standby.touch()
        stat = data.stat()
        os.chown(standby, stat.st_uid, stat.st_gid)
    try:
        second.start(*options)
        if standing_by:
            second.sql("SELECT pg_promote()")
            wait_for(lambda: second.sql("SELECT pg_is_in_recovery()") == "f", "the standby is the primary")
        yield second
    finally:
        if second.process is not None:
            second._stop(signal.SIGKILL)
        shutil.rmtree(second.directory, ignore_errors=True)
