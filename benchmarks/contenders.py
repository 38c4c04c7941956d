"""Who is measured: Goloves, the floor, `bare`, and the peers that can be had here."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import build
from benchmarks.load import Request
from benchmarks.machine import Cores
from benchmarks.routes import ROUTES
from benchmarks.servers import NotServing, Running, python, start
from benchmarks.store import Store, goloves_config

HERE = Path(__file__).parent

FLOOR, BARE, GOLOVES = "C floor", "bare", "Goloves"


@dataclass(frozen=True)
class Contender:
    """A server with the request that it gets."""

    name: str
    server: str
    request: Request


def http_contenders(routes: dict[str, Request], *, peers: tuple[str, ...] = ()) -> list[Contender]:
    """Give the floor, `bare`, Goloves on these routes, and peers, who all get the first route's request."""
    first = next(iter(routes.values()))
    return [
        Contender(FLOOR, FLOOR, first),
        Contender(BARE, BARE, first),
        *(Contender(f"{GOLOVES}, {name}", GOLOVES, request) for name, request in routes.items()),
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
                status, body = peer.get(ROUTES["segment get"].path)
                if status != 200 or not body.isdigit():
                    raise NotServing(f"it answers {status} {body[:80]!r}")
            except (build.NotBuilt, NotServing) as error:
                self.left_out[name] = str(error)
        return tuple(name for name in peers if name not in self.left_out)

    @contextlib.contextmanager
    def node(self, name: str = GOLOVES, *options: str) -> Iterator[Running]:
        """Run a node of Goloves over the database; `options` are the interpreter's."""
        with tempfile.TemporaryDirectory(prefix="node-", dir=self._directory) as place:
            directory = Path(place)
            url = self.store.url

            def command(port: int) -> list[str]:
                config = goloves_config(directory, url, port)
                return python(*options, "-m", "goloves", "serve", "--config", str(config))

            def ready(running: Running) -> bool:
                return running.get("/readyz")[0] == 200

            with start(name, command, directory, core=self.cores.server, ready=ready) as running:
                yield running

    def close(self) -> None:
        """Stop everything."""
        self._stack.close()

    def _start(self, name: str) -> AbstractContextManager[Running]:
        if name == GOLOVES:
            return self.node()
        command, environment = _COMMANDS[name]()
        return start(name, command, self._directory, core=self.cores.server, environment=environment)


Command = tuple[Callable[[int], list[str]], dict[str, str]]


def _floor() -> Command:
    program = str(build.c_program("floor_http"))
    return lambda port: [program, str(port)], {}


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

_COMMANDS: dict[str, Callable[[], Command]] = {FLOOR: _floor, BARE: _bare, **PEERS}
