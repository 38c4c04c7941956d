"""Who is measured: Goloves, the floor, `bare`, and the peers that can be had here."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import build
from benchmarks.load import Call, Request
from benchmarks.machine import Cores
from benchmarks.routes import CALLS, ROUTES
from benchmarks.servers import NotServing, Running, free_port, get, listens, python, start
from benchmarks.store import STEP, Store, goloves_config

HERE = Path(__file__).parent

FLOOR, BARE, GOLOVES = "C floor", "bare", "Goloves"
GRPC_FLOOR, GRPC_GOLOVES = "C floor, gRPC", "Goloves, gRPC"


@dataclass(frozen=True)
class Contender:
    """A server with the request that it gets."""

    name: str
    server: str
    request: Request | Call


def http_contenders(routes: dict[str, Request], *, peers: tuple[str, ...] = ()) -> list[Contender]:
    """Give the floor, `bare`, Goloves on these routes, and peers, who all get the first route's request."""
    first = next(iter(routes.values()))
    return [
        Contender(FLOOR, FLOOR, first),
        Contender(BARE, BARE, first),
        *(Contender(f"{GOLOVES}, {name}", GOLOVES, request) for name, request in routes.items()),
        *(Contender(name, name, first) for name in peers),
    ]


def grpc_contenders(*, peers: tuple[str, ...] = ()) -> list[Contender]:
    """Give the floor, Goloves on its calls, and peers, who all get the first call."""
    first = next(iter(CALLS.values()))
    return [
        Contender(FLOOR, GRPC_FLOOR, first),
        *(Contender(f"{GOLOVES}, {name}", GRPC_GOLOVES, call) for name, call in CALLS.items()),
        *(Contender(name, name, first) for name in peers),
    ]


class Servers:
    """Starts each server when it is first needed; all run until `close`, and are idle while another is measured."""

    def __init__(self, cores: Cores) -> None:
        self.cores = cores
        self.openload = build.c_program("openload")
        self.left_out: dict[str, str] = {}
        """Peers that can't be had here, and why."""
        self._stack = contextlib.ExitStack()
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="goloves-bench-")))
        self._running: dict[str, Running] = {}
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The database."""
        if self._store is None:
            self._store = Store(self.cores.load)
            self._stack.callback(self._store.remove)
        return self._store

    def get(self, name: str) -> Running:
        """Give a server by its name."""
        if name not in self._running:
            self._running[name] = self._stack.enter_context(self._start(name))
        return self._running[name]

    def available(self, peers: tuple[str, ...]) -> tuple[str, ...]:
        """Give those peers that can be had here."""
        for name in peers:
            if name in self._running or name in self.left_out:
                continue
            try:
                peer = self.get(name)
                if name not in GRPC_PEERS:
                    status, body = peer.get(ROUTES["segment get"].path)
                    if status != 200 or not body.isdigit():
                        raise NotServing(f"it answers {status} {body[:80]!r}")
            except (build.NotBuilt, NotServing) as error:
                self.left_out[name] = str(error)
        return tuple(name for name in peers if name not in self.left_out)

    @contextlib.contextmanager
    def node(self, name: str = GOLOVES, *options: str, max_step: int | None = STEP) -> Iterator[Running]:
        """Run a node of Goloves over the database; `options` are the interpreter's, `max_step` None is the default."""
        http, grpc = free_port(), free_port()
        with tempfile.TemporaryDirectory(prefix="node-", dir=self._directory) as place:
            directory = Path(place)
            config = goloves_config(directory, self.store.url, http, grpc, max_step)
            command = python(*options, "-m", "goloves", "serve", "--config", str(config))
            port = grpc if name == GRPC_GOLOVES else http

            def ready(running: Running) -> bool:
                return get(http, "/readyz")[0] == 200

            with start(name, lambda _: command, directory, core=self.cores.server, ready=ready, port=port) as running:
                yield running

    @contextlib.contextmanager
    def service(self) -> Iterator[Running]:
        """Run Goloves as `make run` does: supervisor, node and a new SQLite file, on ports that are free; it is there
        when it has said its first words."""
        with tempfile.TemporaryDirectory(prefix="service-", dir=self._directory) as place:
            addresses = [word for kind in ("http", "grpc", "admin") for word in (f"--{kind}", "127.0.0.1:0")]
            command = python("-m", "goloves", "serve", *addresses)

            def spoken(running: Running) -> bool:
                return " listens on " in running.tail

            with start("Goloves service", lambda _: command, Path(place), core=None, ready=spoken) as running:
                yield running

    @contextlib.contextmanager
    def supervised(self, nodes: int) -> Iterator[tuple[Running, int]]:
        """Run nodes under a supervisor, over the database and on all cores; gives the control plane's port too."""
        http, grpc, admin = free_port(), free_port(), free_port()
        with tempfile.TemporaryDirectory(prefix="supervised-", dir=self._directory) as place:
            config = goloves_config(Path(place), self.store.url, http, grpc)
            addresses = ("--nodes", str(nodes), "--admin", f"127.0.0.1:{admin}")
            command = python("-m", "goloves", "serve", "--config", str(config), *addresses)

            def ready(running: Running) -> bool:
                shown = json.loads(get(admin, "/readyz")[1])["nodes"]
                return len(shown) == nodes and all(node["ready"] for node in shown)

            name = f"Goloves, {nodes} supervised"
            with start(name, lambda _: command, Path(place), core=None, ready=ready, port=http) as running:
                yield running, admin

    def close(self) -> None:
        """Stop everything."""
        self._stack.close()

    def _start(self, name: str) -> AbstractContextManager[Running]:
        if name in (GOLOVES, GRPC_GOLOVES):
            return self.node(name)
        command, environment = _COMMANDS[name]()
        ready = listens if name == GRPC_FLOOR or name in GRPC_PEERS else None
        return start(name, command, self._directory, core=self.cores.server, environment=environment, ready=ready)


Command = tuple[Callable[[int], list[str]], dict[str, str]]


def _floor(name: str) -> Callable[[], Command]:
    def command() -> Command:
        program = str(build.c_program(name))
        return lambda port: [program, str(port)], {}

    return command


def _bare() -> Command:
    return lambda port: python(str(HERE / "floors" / "bare_http.py"), str(port)), {}


def _starlette() -> Command:
    words = ("-m", "uvicorn", "starlette_app:app", "--loop", "uvloop", "--http", "httptools", "--no-access-log")
    path = {"PYTHONPATH": str(HERE / "peers")}
    return lambda port: python(*words, "--log-level", "warning", "--port", str(port)), path


def _granian() -> Command:
    words = ("--interface", "rsgi", "--workers", "1", "--runtime-threads", "1", "--loop", "uvloop", "--http", "1")
    path = {"PYTHONPATH": str(HERE / "peers")}
    options = ("--no-ws", "--log-level", "warning", "granian_app:app")
    return lambda port: python("-m", "granian", "--host", "127.0.0.1", "--port", str(port), *words, *options), path


def _compiled(name: str) -> Callable[[], Command]:
    def command() -> Command:
        program = str(build.peer(name))
        # One core is one thread: what a second one does would only be switching.
        return lambda port: [program, str(port)], {"GOMAXPROCS": "1"}

    return command


PEERS = {
    "axum (Rust)": _compiled("axum"),
    "fasthttp (Go)": _compiled("fasthttp"),
    "net/http (Go)": _compiled("nethttp"),
    "granian (RSGI)": _granian,
    "uvicorn + Starlette": _starlette,
}

GRPC_PEERS = {"tonic (Rust)": _compiled("tonic"), "grpc-go": _compiled("grpcgo")}

_COMMANDS: dict[str, Callable[[], Command]] = {
    FLOOR: _floor("floor_http"),
    GRPC_FLOOR: _floor("floor_grpc"),
    BARE: _bare,
    **PEERS,
    **GRPC_PEERS,
}
