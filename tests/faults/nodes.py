"""Nodes as processes of their own, which a test can kill, freeze, stop and start again, and what each of them said."""

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

PATIENCE = 60.0
"""Seconds after which a test gives up waiting: ten times and more what anything here takes on two busy cores."""

SOURCE = Path(__file__).parents[2] / "src"

INSIDE = Path(__file__).parent / "inside"
"""What a node loads before anything else when a test wants faults inside of it."""


def wait_for(what: Callable[[], object], why: str, *, patience: float = PATIENCE) -> float:
    """Wait until `what` is true; gives the seconds that it took."""
    begun = time.monotonic()
    while not what():
        if time.monotonic() - begun > patience:
            raise AssertionError(f"not within {patience:g} s: {why}")
        time.sleep(0.01)
    return time.monotonic() - begun


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a node, from its start to its end: what owns grants."""

    number: int
    """Counts all lives of a cluster, so that it can stand for this one where many are kept."""
    node: str
    pid: int
    address: str
    """Path of the Unix socket that this life alone listens on: no other process can answer there by mistake."""
    nodes: int = 0
    """Nodes under a supervisor, which is then the process; 0: the process is the node."""

    @property
    def calls(self) -> str:
        """Path of its socket for gRPC."""
        return f"{self.address}.grpc"

    @property
    def owner(self) -> str:
        """How the owner of a window ends that this life holds; which of several nodes it is can't be told."""
        return "" if self.nodes else f"pid {self.pid}"

    def __str__(self) -> str:
        return f"{self.node} (pid {self.pid})"


class Node:
    """`goloves serve`, started as often as a test likes, on one data directory."""

    def __init__(
        self,
        name: str,
        directory: Path,
        store: str,
        *,
        settings: str = "",
        environment: Mapping[str, str] | None = None,
        open_files: int | None = None,
        numbers: "itertools.count[int] | None" = None,
        supervised: int = 0,
    ) -> None:
        """`settings`: a configuration file's text. `store`: its URL. `open_files`: the limit of file descriptors.

        `supervised`: so many nodes under a supervisor, all of them one to the load; 0: a node by itself.
        """
        self.name = name
        self.data = directory / name
        self.log = directory / f"{name}.log"
        self.store = store
        self.environment = dict(environment or {})
        self.life: Life | None = None
        """The present life, as soon as it listens; None while there is none."""
        self.lives: list[Life] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._directory = directory
        self._settings = directory / f"{name}.toml"
        self._settings.write_text(settings)
        self._open_files = open_files
        self._numbers = numbers or itertools.count()
        self._supervised = supervised
        self._begun_at = 0
        """Where this life begins in the log."""
        self._left: set[int] = set()
        """Processes of nodes whose supervisor was killed."""

    def start(self, *, ready: bool = True) -> None:
        """Begin a life; `ready`: wait until it can serve."""
        self.begin()
        self.wait_listening()
        if ready:
            self.wait_ready()

    def begin(self) -> None:
        """Begin a life and wait for nothing."""
        assert self.process is None, f"{self.name} runs already"
        number = next(self._numbers)
        # A directory for each: nodes take turns in a socket's directory, by a short sleep, and under libfaketime that
        # ends with EINVAL now and then.
        sockets = self._directory / f"{number}"
        sockets.mkdir()
        address = str(sockets / "http")
        # The kernel ends it when the test's thread ends, however that happens.
        command = ["setpriv", "--pdeathsig=KILL", "--"]
        if self._open_files is not None:
            command += ["prlimit", f"--nofile={self._open_files}:{self._open_files}", "--"]
        command += [sys.executable, "-m", "goloves", "serve", "--config", str(self._settings)]
        command += ["--data-dir", str(self.data), "--http", f"unix:{address}"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}
        paths = [str(INSIDE)] if any(name.startswith("FAULT_") for name in self.environment) else []
        environment = {
            **inherited,
            "GOLOVES_STORE": self.store,
            "GOLOVES_DEBUG": "1",
            # With 0 this process is the node: what is done to it is done to the node.
            "GOLOVES_SERVER__NODES": str(self._supervised),
            # Who freezes a node wants it back, unless the settings say otherwise.
            **({} if "unresponsive" in self._settings.read_text() else {"GOLOVES_SERVER__UNRESPONSIVE": "600"}),
            "GOLOVES_ADMIN__LISTEN": "127.0.0.1:0",
            "GOLOVES_GRPC__LISTEN": f"unix:{address}.grpc",
            "PYTHONPATH": os.pathsep.join([*paths, str(SOURCE)]),
            **self.environment,
        }
        with self.log.open("ab") as log:
            self._begun_at = log.tell()
            self.process = subprocess.Popen(
                command,
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.lives.append(Life(number, self.name, self.process.pid, address, self._supervised))

    def wait_listening(self, *, mortal: bool = False) -> None:
        """Wait until this life listens; one that ends before that fails, unless it is `mortal`."""
        wait_for(lambda: (mortal and self.has_ended) or self._listens(), f"{self.name} listens")
        self.life = self.lives[-1]

    def wait_ready(self) -> float:
        """Wait until it can serve, and under a supervisor all that there are to be; gives the seconds that it took."""
        return wait_for(self._is_ready, f"{self.name} is ready")

    def wait_none_ready(self) -> None:
        """Wait until none of the nodes under this supervisor can serve; a node by itself is as it is."""
        wait_for(lambda: not self._supervised or not self._ready_inside(), f"no node of {self.name} is ready")

    def kill(self) -> None:
        """End this life at once, as a power failure would: a supervisor with its nodes."""
        nodes = self.inner()
        self._left |= set(nodes)
        for pid in (self._running().pid, *nodes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ended()
        wait_for(lambda: all(map(_gone, nodes)), f"the nodes of {self.name} are gone")

    def kill_process(self) -> None:
        """End this life's process alone: nodes under a supervisor are left to find out by themselves."""
        process = self._running()
        self._left |= set(self.inner())
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        self.ended()

    def inner(self) -> list[int]:
        """Give the processes of the nodes under this supervisor."""
        process = self._running()
        try:
            return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        except OSError:
            return []

    def wait_inner(self, without: Iterable[int] = ()) -> list[int]:
        """Wait until there are as many nodes under the supervisor as there are to be, and none of those `without`."""
        gone = set(without)
        wait_for(
            lambda: len(self.inner()) == self._supervised and not gone & set(self.inner()),
            f"{self.name} has {self._supervised} nodes",
        )
        return self.inner()

    def stop(self) -> int:
        """End this life in an orderly way; gives its exit code."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end of this life; gives its exit code."""
        code = self._running().wait(PATIENCE)
        self.process = None
        self.life = None
        Path(self.lives[-1].address).unlink(missing_ok=True)
        return code

    @property
    def has_ended(self) -> bool:
        """Whether the process is no more, though nobody has waited for it yet."""
        return self.process is None or self.process.poll() is not None

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does; under a supervisor the nodes, and not that."""
        for pid in self._serving():
            os.kill(pid, signal.SIGSTOP)
            state = Path(f"/proc/{pid}/stat")
            wait_for(lambda state=state: _state(state) == "T", f"{self.name} is frozen")  # type: ignore[misc]

    def thaw(self) -> None:
        """Let it go on after `freeze`, as if no time had passed for it."""
        for pid in self._serving():
            os.kill(pid, signal.SIGCONT)

    def _serving(self) -> list[int]:
        """Processes that serve ids."""
        return self.wait_inner() if self._supervised else [self._running().pid]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running().send_signal(number)

    def get(self, path: str) -> tuple[int, str]:
        """Ask this life; gives status and body."""
        answer, body = self._get(path)
        return answer.status, body

    def date(self) -> datetime:
        """Give the time that this life's answers say it is, in whole seconds."""
        answer, _ = self._get("/healthz")
        return parsedate_to_datetime(answer.headers["Date"])

    def _get(self, path: str) -> tuple[http.client.HTTPResponse, str]:
        assert self.life is not None, f"{self.name} does not listen"
        connection = _UnixConnection(self.life.address)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer, answer.read().decode()
        finally:
            connection.close()

    def readiness(self) -> tuple[bool, str]:
        """Give whether it says that it is ready, and the reasons that it names if not."""
        status, body = self.get("/readyz")
        return status == 200, body if status != 200 else ""

    def said(self) -> str:
        """Everything that it logged, in all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def says(self, words: str) -> None:
        """Wait until it has logged this."""
        wait_for(lambda: words in self.said(), f"{self.name} says {words!r}")

    def remove(self) -> None:
        """Make sure that nothing of it runs."""
        if self.process is not None:
            self._left |= set(self.inner())
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None
            self.life = None
        for pid in self._left:
            with contextlib.suppress(OSError):
                if b"goloves.supervisor.inside" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None, f"{self.name} does not run"
        return self.process

    def _listens(self) -> bool:
        self._check_alive()
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.lives[-1].address) == 0

    def _is_ready(self) -> bool:
        self._check_alive()
        return self.readiness()[0] and (not self._supervised or self._ready_inside() == self._supervised)

    def _ready_inside(self) -> int:
        """How many nodes under this supervisor can serve, by its own account."""
        with self.log.open("rb") as log:
            log.seek(self._begun_at)
            said = re.search(rb"^  health   http://(\S+)$", log.read(), re.MULTILINE)
        if said is None:
            return 0
        connection = http.client.HTTPConnection(said[1].decode(), timeout=PATIENCE)
        try:
            connection.request("GET", "/nodes")
            return sum(node["ready"] for node in json.load(connection.getresponse())["nodes"])
        finally:
            connection.close()

    def _check_alive(self) -> None:
        code = self._running().poll()
        assert code is None, f"{self.name} ended with {code}:\n{self.said()[-3000:]}"


def _gone(pid: int) -> bool:
    """Whether a process is no more; one that nobody has waited for yet counts as gone."""
    try:
        return _state(Path(f"/proc/{pid}/stat")) in "ZX"
    except OSError:
        return True


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Cluster:
    """Nodes on one store. Leaving `with` ends them all, and holds that none of them ran into something unforeseen."""

    supervised: ClassVar[int] = 0
    """Nodes under a supervisor of its own that each node is unless a test says otherwise; see `conftest.py`."""

    def __init__(self, store: str, *, settings: str = "") -> None:
        self.store = store
        self.settings = settings
        # Short, for the path of a Unix socket has 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix="goloves-"))
        self.nodes: list[Node] = []
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.remove()
        logs = {node.name: node.said() for node in self.nodes}
        shutil.rmtree(self.directory, ignore_errors=True)
        if kind is not None:
            for name, log in logs.items():
                sys.stdout.write(f"--- {name} ---\n{log[-4000:]}\n")
        else:
            for name, log in logs.items():
                assert "Traceback" not in log, f"{name} ran into something unforeseen:\n{log[-6000:]}"

    def add(
        self,
        name: str = "",
        *,
        store: str = "",
        settings: str | None = None,
        environment: Mapping[str, str] | None = None,
        open_files: int | None = None,
        supervised: int | None = None,
    ) -> Node:
        """Add a node, not started yet; what is not given is as for the whole cluster."""
        node = Node(
            name or f"node-{len(self.nodes)}",
            self.directory,
            store or self.store,
            settings=self.settings if settings is None else settings,
            environment=environment,
            open_files=open_files,
            numbers=self._numbers,
            supervised=self.supervised if supervised is None else supervised,
        )
        self.nodes.append(node)
        return node

    def start(self, count: int) -> list[Node]:
        """Add nodes and start them all at once."""
        nodes = [self.add() for _ in range(count)]
        start_all(nodes)
        return nodes

    def goloves(self, *words: str, code: int = 0) -> str:
        """Run `goloves` with the cluster's settings, as an operator does; gives what it prints."""
        settings = self.directory / "operator.toml"
        settings.write_text(self.settings)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}
        done = subprocess.run(
            [sys.executable, "-m", "goloves", *words, "--config", str(settings)],
            cwd=self.directory,
            env={**inherited, "GOLOVES_STORE": self.store, "PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    @property
    def lives(self) -> dict[int, Life]:
        """All lives that any node had, by their number."""
        return {life.number: life for node in self.nodes for life in node.lives}


def start_all(nodes: Iterable[Node], *, ready: bool = True) -> None:
    """Start nodes at once, and wait for all of them."""
    started = list(nodes)
    for node in started:
        node.begin()
    for node in started:
        node.wait_listening()
    if ready:
        for node in started:
            node.wait_ready()


def problem_code(body: str) -> str:
    """Give the code of a problem document."""
    return str(json.loads(body).get("code", "")) if body.startswith("{") else ""
