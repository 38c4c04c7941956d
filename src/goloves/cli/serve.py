"""`goloves serve`: puts the parts together and says where it listens; `goloves reload`: changes what runs.

Which signals do what stands in `supervisor/`; without a supervisor (`nodes = 0`), SIGINT and SIGTERM stop the node that
this process is.
"""

import asyncio
import contextlib
import importlib.util
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from goloves.cli.failures import Exit, Failure, failure, missing_extra
from goloves.cli.greeting import Place, say_first_words
from goloves.cli.opening import store_exists
from goloves.cli.options import config_option, configuration, store_options
from goloves.config import Config, load
from goloves.config.addresses import parse_address
from goloves.errors import ConfigError, GolovesError
from goloves.log import set_up
from goloves.logger import get_logger
from goloves.server.assembly import FirstWords, assemble, may_create, state_directory
from goloves.server.listener import address_of, close_listener, listen

if TYPE_CHECKING:
    from goloves.supervisor.messages import Failed, Ready
    from goloves.supervisor.open_listeners import OpenListeners

log = get_logger("goloves.serve")


class Nodes(click.ParamType):  # type: ignore[type-arg]  # generic for the type checker only
    """A number, or `auto`."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read it; whether there can be as many is the configuration's to say."""
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is no number, and not auto", param, ctx)


@click.command("serve")
@store_options
@click.option(
    "--http",
    multiple=True,
    metavar="HOST:PORT",
    help="Serve HTTP here; also [IPV6]:PORT or unix:/path; may be given several times.  [default: 127.0.0.1:8080]",
)
@click.option(
    "--grpc",
    multiple=True,
    metavar="HOST:PORT",
    help="Serve gRPC here, likewise.  [default: 127.0.0.1:50051]",
)
@click.option(
    "--admin",
    metavar="HOST:PORT",
    help="Serve /readyz, /healthz and /nodes of the whole service here.  [default: 127.0.0.1:8081]",
)
@click.option("--nodes", type=Nodes(), help="Data-plane processes; auto is one a core.  [default: 1]")
@click.option("--init", is_flag=True, help="Make a new store first; an error if it exists.")
@click.option(
    "--takeover", is_flag=True, help="Take over from the service that runs on this data directory; it then ends."
)
def serve_command(
    config_file: Path | None,
    store: str | None,
    data_dir: str | None,
    http: tuple[str, ...],
    grpc: tuple[str, ...],
    admin: str | None,
    nodes: int | str | None,
    init: bool,
    takeover: bool,
) -> None:
    """Serve ids over HTTP and gRPC until Ctrl-C or SIGTERM.

    Without options: SQLite under ./data, HTTP on 127.0.0.1:8080, gRPC on 127.0.0.1:50051. An embedded store is made
    by itself only while all listeners are on loopback or Unix sockets and stores.create is true; else a missing store
    is an error, unless --init says that it is new.
    """
    flags: dict[tuple[str, ...], Any] = {
        ("stores", "url"): store,
        ("server", "data_dir"): data_dir,
        ("http", "listen"): list(http) or None,
        ("grpc", "listen"): list(grpc) or None,
        ("admin", "listen"): admin,
        ("server", "nodes"): nodes,
    }
    config = configuration(config_file, flags).config
    if takeover and init:
        raise Failure("--takeover goes on with a store that exists; leave out --init", Exit.USAGE)
    set_up(config.log)
    if config.server.nodes == 0:
        if takeover:
            raise Failure("--takeover needs a supervisor, which nodes = 0 leaves out", Exit.USAGE)
        _serve_alone(config, init=init)
    else:
        _supervise(config, partial(_reread, config_file, flags), init=init, takeover=takeover)
    log.info("stopped")


def _reread(config_file: Path | None, flags: dict[tuple[str, ...], Any]) -> Config:
    import os

    given = {key: value for key, value in flags.items() if value not in (None, ())}
    return load(config_file, os.environ, given).config


# --- with a supervisor ---


def _supervise(config: Config, reread: Callable[[], Config], *, init: bool, takeover: bool) -> None:
    from goloves.supervisor.service import Service
    from goloves.supervisor.supervisor import Hastened, StartFailed

    _check_installed(config)
    new = not store_exists(config.segments_url)
    try:
        asyncio.run(Service(config, reread, partial(_greet, config, new)).run(init=init, takeover=takeover))
    except StartFailed as error:
        raise _failure_of(error.failed) from None
    except Hastened:
        raise Failure("stopped at once by a second signal: requests under way were cut", Exit.INTERRUPTED) from None


def _check_installed(config: Config) -> None:
    """Find out here what is not installed; a node that can't be loaded at all could only say so with a traceback."""
    for name in ("uvloop", "uvicorn", "starlette"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)


def _greet(config: Config, new: bool, listeners: "OpenListeners", ready: "Ready") -> None:
    place = Place(listeners.addresses("http"), listeners.addresses("grpc"), listeners.addresses("admin"))
    say_first_words(config, place, FirstWords(ready.waits, ready.tag), new=new)


def _failure_of(failed: "Failed") -> Failure:
    """Give the failure that an error of a node's becomes here: the same as if it had happened here."""
    if failed.module:
        missing = missing_extra(ModuleNotFoundError(name=failed.module))
        if missing is not None:
            return missing
    for kind in _errors(GolovesError):
        if kind.code == failed.code:
            return failure(_again(kind, failed.message))
    return Failure(failed.message)


def _again(kind: type[GolovesError], message: str) -> GolovesError:
    error = kind.__new__(kind)
    GolovesError.__init__(error, message)
    return error


def _errors(kind: type[GolovesError]) -> list[type[GolovesError]]:
    return [kind, *(inner for below in kind.__subclasses__() for inner in _errors(below))]


# --- without ---


def _serve_alone(config: Config, *, init: bool) -> None:
    import uvloop

    uvloop.run(_alone(config, init=init))


async def _alone(config: Config, *, init: bool) -> None:
    from goloves.server.node import run_node
    from goloves.stores.marks import Marks
    from goloves.supervisor.seats import lock_service

    started, stop = asyncio.Event(), asyncio.Event()
    hasten: list[Callable[[], None]] = []
    hastened = _stop_on_signals(started, stop, hasten)
    with contextlib.ExitStack() as stack:
        # The listeners come first: a service on the port is likely this very service, and nothing else was touched yet.
        listeners = _listen(config.http.listen, "http.listen", stack)
        grpc_listeners = _listen(config.grpc.listen, "grpc.listen", stack)
        lock = lock_service(Path(config.server.data_dir))
        if lock is not None:
            stack.callback(lock.close)
        marks = Marks()
        stack.callback(marks.close)
        marks.open(state_directory(config, 0))
        new = not store_exists(config.segments_url)
        assembled = await assemble(
            config, 0, marks, http=listeners, grpc=grpc_listeners, create=may_create(config), init=init
        )
        hasten.append(assembled.node.hasten)
        place = Place([address_of(each) for each in listeners], [address_of(each) for each in grpc_listeners], [])

        async def greet() -> None:
            say_first_words(config, place, await assembled.first_words(), new=new)

        def accepts() -> None:
            started.set()
            assembled.started.set()

        greeting = asyncio.create_task(greet())
        try:
            await run_node(assembled.node, stop, config.server.notice, accepts)
        except asyncio.CancelledError:
            if not stop.is_set():
                raise
        finally:
            greeting.cancel()
    if hastened.is_set():
        raise Failure("stopped at once by a second signal: requests under way were cut", Exit.INTERRUPTED)


def _stop_on_signals(started: asyncio.Event, stop: asyncio.Event, hasten: list[Callable[[], None]]) -> asyncio.Event:
    """Let the first SIGINT or SIGTERM begin a clean stop, and a second one end its wait; gives what tells of that.

    A start that still waits for a store has nothing to drain: it is broken off.
    """
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None
    hastened = asyncio.Event()

    def stopping(number: signal.Signals) -> None:
        if not stop.is_set():
            log.info("stopping", signal=number.name)
            if not started.is_set():
                main.cancel()
        else:
            hastened.set()
            for each in hasten:
                each()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping, number)
    return hastened


def _listen(addresses: list[str], setting: str, stack: contextlib.ExitStack) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    for text in addresses:
        for listener in listen(parse_address(text), setting):
            stack.callback(close_listener, listener)
            listeners.append(listener)
    return listeners


# --- what runs ---


@click.command("reload")
@config_option
@click.option("--data-dir", metavar="DIR", help="Data directory of the service.  [default: ./data]")
@click.option("--rolling", is_flag=True, help="Replace all nodes, one after another, while the others serve.")
@click.option("--upgrade", is_flag=True, help="Replace the whole service, supervisor and all, while it serves.")
def reload_command(config_file: Path | None, data_dir: str | None, rolling: bool, upgrade: bool) -> None:
    """Let the running service read its configuration again.

    Certificates and [log] are in force at once; what else has changed is named. With --rolling every node is replaced
    by a new one, also of a new version that was installed meanwhile: clients that heed Connection: close and GOAWAY
    notice nothing, and no connection is refused.
    With --upgrade the running service starts its successor, by the command that it was started with itself, and ends
    when that one serves.
    """
    import msgspec

    from goloves.supervisor.orders import Reply, Request, check_alive, connect

    if rolling and upgrade:
        raise Failure("--upgrade takes new nodes as well; leave out --rolling", Exit.USAGE)
    try:
        config = configuration(config_file, {("server", "data_dir"): data_dir}).config
    except ConfigError as error:
        message = f"the configuration can't be used; a service that runs goes on as before\n{error.message}"
        raise Failure(message, Exit.CONFIG) from None
    directory = Path(config.server.data_dir)
    # Only this answer is waited for with a bound: to replace all nodes takes as long as it takes.
    connection = connect(directory) if check_alive(directory) else None
    if connection is None:
        message = f"no service runs on the data directory {config.server.data_dir}; name it: --config or --data-dir"
        raise Failure(message, Exit.UNAVAILABLE)
    with connection, connection.makefile("rb") as answers:
        order = "roll" if rolling else "upgrade" if upgrade else "reload"
        connection.sendall(msgspec.json.encode(Request(order)) + b"\n")
        for line in answers:
            reply = msgspec.json.decode(line, type=Reply)
            if reply.say:
                click.echo(reply.say)
            if reply.error:
                raise Failure(reply.error, Exit.CONFIG if reply.code == ConfigError.code else Exit.FAILED)
            if reply.done:
                return
    raise Failure("the service hung up before it was done; its log says why")
