"""Real MariaDB and PostgreSQL servers for tests: on free ports, in temporary directories, gone when the tests are.

    from databases import mariadb, postgresql     # in a conftest.py; each process of a test run has one of each

    def test_something(mariadb: Server) -> None:
        url = mariadb.fresh()                     # a store URL of an empty database
        mariadb.kill()
        mariadb.start()                           # on the same port and data

A server dies with the process that started it, however that ends. Where one can't be had, its tests are skipped by
name; with CI set that is a failure.
"""

import atexit
import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest

PASSWORD = "p@ss:w/ö?r#d%&'x"
"""Every character that a URL, a shell or SQL could trip over."""

USER = "goloves"

READY = 60.0
"""Seconds that a server may take to come up: ten times what it takes on two busy cores."""


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A database server of our own."""

    name: ClassVar[str]
    scheme: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    owner: ClassVar[str]
    """User that it runs as when the tests run as root."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        # Commits are flushed for real, for start-up refuses anything less: in memory that costs nothing.
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
        self.directory = Path(tempfile.mkdtemp(prefix=f"goloves-{self.name}-", dir=memory if roomy else None))
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        atexit.register(self.remove)

    @classmethod
    def missing(cls) -> str:
        """Say what is missing here; empty if nothing is."""
        absent = [program for program in cls.programs if cls.find(program) is None]
        return f"{cls.name} can't be had: {', '.join(absent)} not installed" if absent else ""

    @classmethod
    def find(cls, program: str) -> str | None:
        """Give the path of a program."""
        return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

    def create(self) -> None:
        """Make the data directory and start."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Give the command that runs the server in the foreground."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Say whether it answers."""
        raise NotImplementedError

    def sql(self, statement: str, database: str = "") -> str:
        """Run SQL as administrator; the answer is tab-separated, without headings."""
        raise NotImplementedError

    def start(self, *options: str) -> None:
        """Start it on its port and data, with further options, and wait until it answers."""
        assert self.process is None, f"{self.name} runs already"
        deadline = time.monotonic() + READY
        while True:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*self._prefix(), *self.command(), *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    start_new_session=True,
                )
            self._watch(self.process)
            while self.process.poll() is None and time.monotonic() < deadline:
                if self.ready():
                    return
                self._pause(self.process)
            self._stop(signal.SIGKILL)
            # After a kill the memory of the old one may be in use for another moment: once more.
            if time.monotonic() > deadline - READY / 2:
                raise AssertionError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """Stop it in an orderly way."""
        self._stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, with all its processes, as a power failure would."""
        self._stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it stop answering, with its connections open."""
        assert self.process is not None
        self._signal(self.process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        assert self.process is not None
        self._signal(self.process, signal.SIGCONT)

    def restart(self, *options: str) -> None:
        """Stop it and start it on the same port and data, with further options."""
        self.stop()
        self.start(*options)

    def fresh(self, template: str = "") -> str:
        """Make a database of our user, empty or as `template` is; give its store URL."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self._create_database(name, template)
        return self.url(name)

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        """Give a store URL."""
        return f"{self.scheme}://{quote(user)}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def remove(self) -> None:
        """Kill it and remove its data."""
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _create_database(self, name: str, template: str) -> None:
        raise NotImplementedError

    def _prefix(self) -> list[str]:
        """Run as another user if we are root."""
        if os.geteuid() != 0 or self.owner == "root":
            return []
        entry = pwd.getpwnam(self.owner)
        return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--"]

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Have a shell wait on a pipe that breaks when we die, however that happens, and kill the server then.

        Linux's own signal at a parent's death won't do: it comes when the thread ends that started the server.
        """
        self._watchdog = subprocess.Popen(
            ["sh", "-c", f'read _; kill -KILL -{process.pid}; rm -rf "$0"', str(self.directory)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _run(self, *command: str, environment: dict[str, str] | None = None, text: str = "") -> str:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=READY,
            cwd=self.directory,
            env={**os.environ, **(environment or {})},
            check=False,
        )
        assert done.returncode == 0, f"{command[0]} failed: {done.stderr}"
        return done.stdout

    def _stop(self, how: signal.Signals) -> None:
        assert self.process is not None, f"{self.name} does not run"
        self._end(self.process, how)
        self.process = None
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    @classmethod
    def _end(cls, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        """End a server: told to stop, the main process ends the others; killed, they all die at once."""
        if how is not signal.SIGKILL:
            process.send_signal(how)
            try:
                process.wait(READY / 4)
            except subprocess.TimeoutExpired:
                how = signal.SIGKILL
        if how is signal.SIGKILL:
            cls._signal(process, how)
        process.wait(READY)

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
        """Send a signal to the main process and then to its children: PostgreSQL's have sessions of their own."""
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        except OSError:
            children = []
        for number in [process.pid, *map(int, children)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, what)

    @staticmethod
    def _pause(process: subprocess.Popen[bytes]) -> None:
        """Give a server that starts the time for its next step; ends early if it dies."""
        try:
            process.wait(0.03)
        except subprocess.TimeoutExpired:
            return


class MariaDb(Server):
    """MariaDB; `mysql://` URLs."""

    name = "mariadb"
    scheme = "mysql"
    programs = ("mariadbd", "mariadb-install-db", "mariadb", "setpriv")
    owner = "root"

    def create(self) -> None:
        self._run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *(["--user=root"] if os.geteuid() == 0 else []),
        )
        self.start()
        quoted = PASSWORD.replace("'", "''")
        self.sql(f"CREATE USER {USER}@'%' IDENTIFIED BY '{quoted}'; GRANT ALL ON `test\\_%`.* TO {USER}@'%'")

    def command(self) -> list[str]:
        program = self.find("mariadbd")
        assert program is not None
        return [
            program,
            "--no-defaults",
            f"--datadir={self.data}",
            f"--tmpdir={self.directory}",
            f"--socket={self.directory / 'socket'}",
            f"--pid-file={self.directory / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--performance-schema=off",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
            "--innodb-flush-method=fsync",
            "--key-buffer-size=1M",
            "--aria-pagecache-buffer-size=1M",
            "--thread-cache-size=16",
            *(["--user=root"] if os.geteuid() == 0 else []),
        ]

    def ready(self) -> bool:
        return self._client("-e", "SELECT 1").returncode == 0

    def sql(self, statement: str, database: str = "") -> str:
        done = self._client("-N", "-B", *([database] if database else []), text=statement)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _client(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *("mariadb", "--no-defaults", f"--socket={self.directory / 'socket'}"),
                *("--default-character-set=utf8mb4", "-u", "root", *arguments),
            ],
            input=text,
            capture_output=True,
            text=True,
            timeout=READY,
            check=False,
        )

    def _create_database(self, name: str, template: str) -> None:
        statements = [f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"]
        for table in self.sql("SHOW TABLES", template).splitlines() if template else []:
            statements.append(f"CREATE TABLE {name}.{table} LIKE {template}.{table}")
            statements.append(f"INSERT INTO {name}.{table} SELECT * FROM {template}.{table}")
        self.sql(";".join(statements))


class PostgreSql(Server):
    """PostgreSQL; `postgresql://` URLs."""

    name = "postgresql"
    scheme = "postgresql"
    programs = ("initdb", "postgres", "psql", "setpriv")
    owner = "postgres"

    @classmethod
    def find(cls, program: str) -> str | None:
        newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]))
        return str(newest[-1]) if newest else super().find(program)

    def create(self) -> None:
        self.directory.chmod(0o755)
        self.data.mkdir()
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.owner)
            os.chown(self.data, entry.pw_uid, entry.pw_gid)
        program = self.find("initdb")
        assert program is not None
        self._run(
            *self._prefix(),
            *(program, "-D", str(self.data), "-U", "admin", "-E", "UTF8", "--locale=C.UTF-8", "-N"),
            *("--auth-local=trust", "--auth-host=scram-sha-256"),
        )
        self.start()
        quoted = PASSWORD.replace("'", "''")
        self.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{quoted}'")

    def command(self) -> list[str]:
        program = self.find("postgres")
        assert program is not None
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.data),
            "shared_buffers": "16MB",
            "max_connections": "60",
            "max_wal_size": "64MB",
            "dynamic_shared_memory_type": "mmap",
            "autovacuum": "off",
        }
        return [program, "-D", str(self.data), *(f"--{name}={value}" for name, value in settings.items())]

    def ready(self) -> bool:
        return self._client("-c", "SELECT 1").returncode == 0

    def stop(self) -> None:
        """Stop it without waiting for its clients."""
        self._stop(signal.SIGINT)

    def sql(self, statement: str, database: str = "postgres") -> str:
        done = self._client("-v", "ON_ERROR_STOP=1", database=database, text=statement)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _client(self, *arguments: str, database: str = "postgres", text: str = "") -> subprocess.CompletedProcess[str]:
        program = self.find("psql")
        assert program is not None
        return subprocess.run(
            [
                *(program, "-X", "-q", "-A", "-t", "-F", "\t", "-h", str(self.data), "-p", str(self.port)),
                *("-U", "admin", "-d", database, *arguments),
            ],
            input=text,
            capture_output=True,
            text=True,
            timeout=READY,
            check=False,
        )

    def _create_database(self, name: str, template: str) -> None:
        self.sql(f"CREATE DATABASE {name} OWNER {USER}" + (f" TEMPLATE {template}" if template else ""))


_running: dict[type[Server], Server] = {}


def server(kind: type[Server]) -> Server:
    """Give the one server of a kind that this process has, started at first use; skip where it can't be had."""
    if kind not in _running:
        missing = kind.missing()
        if missing and os.environ.get("CI"):
            pytest.fail(missing)
        if missing:
            pytest.skip(missing)
        made = kind()
        made.create()
        _running[kind] = made
    return _running[kind]


@pytest.fixture(scope="session")
def mariadb() -> Server:
    """A MariaDB server, shared by all tests of this process: leave it running as it was."""
    return server(MariaDb)


@pytest.fixture(scope="session")
def postgresql() -> Server:
    """A PostgreSQL server, shared by all tests of this process: leave it running as it was."""
    return server(PostgreSql)
