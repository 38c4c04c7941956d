"""`goloves serve`: puts the parts together, says where it listens, and stops cleanly on SIGINT and SIGTERM."""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import structlog

from goloves import __version__
from goloves.cli.failures import Exit, Failure
from goloves.cli.opening import address_of_store, may_create, options, store_exists
from goloves.cli.options import configuration, store_options
from goloves.config import Config
from goloves.config.addresses import Address, parse_address
from goloves.config.settings import StoresConfig
from goloves.errors import GolovesError
from goloves.log import set_up
from goloves.server.listener import address_of, close_listener, listen
from goloves.server.node import Node, run_node
from goloves.service import IdService, ServedSpace
from goloves.stores import make_stores
from goloves.stores.base import SegmentStore, Space
from goloves.stores.guard import Marks, SegmentGuard, WorkerGuard

SETTLING = 1.0
"""Seconds that the first words wait for the node to be ready, so that what they suggest works: with a store that
answers it takes a tenth of that, and whoever started it reads something within two seconds in any case."""

DEFAULT_TAG = "default"
"""The tag that a schema of Goloves' own brings."""

log = structlog.get_logger("goloves.serve")


@click.command("serve")
@store_options
@click.option(
    "--http",
    multiple=True,
    metavar="HOST:PORT",
    help="Serve HTTP here; also [IPV6]:PORT or unix:/path; may be given several times.  [default: 127.0.0.1:8080]",
)
@click.option("--grpc", metavar="HOST:PORT", help="Comes with a later version.")
@click.option("--admin", metavar="HOST:PORT", help="Comes with a later version.")
@click.option("--nodes", type=int, metavar="N", help="Data-plane processes; more than 1 come with a later version.")
@click.option("--init", is_flag=True, help="Make a new store first; an error if it exists.")
def serve_command(
    config_file: Path | None,
    store: str | None,
    data_dir: str | None,
    http: tuple[str, ...],
    grpc: str | None,
    admin: str | None,
    nodes: int | None,
    init: bool,
) -> None:
    """Serve ids over HTTP until Ctrl-C or SIGTERM.

    Without options: SQLite under ./data, HTTP on 127.0.0.1:8080. An embedded store is made by itself only while all
    listeners are on loopback or Unix sockets; else a missing store is an error, unless --init says that it is new.
    """
    import uvloop

    flags: dict[tuple[str, ...], Any] = {
        ("stores", "url"): store,
        ("server", "data_dir"): data_dir,
        ("http", "listen"): list(http) or None,
        ("grpc", "listen"): grpc,
        ("admin", "listen"): admin,
        ("server", "nodes"): nodes,
    }
    config = configuration(config_file, flags).config
    set_up(config.log)
    uvloop.run(_serve(config, init=init))


async def _serve(config: Config, *, init: bool) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    with contextlib.ExitStack() as stack:
        # The listeners come first: a service on the port is likely this very service, and nothing else was touched yet.
        listeners = _listen(config, stack)
        segments, windows = make_stores(
            config.segments_url, config.windows_url, options(config, create=may_create(config))
        )
        new = not store_exists(config.segments_url)
        if init:
            for each in dict.fromkeys((segments, windows)):
                await each.create()
        marks = Marks()
        stack.callback(marks.close)
        # One directory a node: the marks of two nodes must not be mixed (R5).
        marks.open(Path(config.server.data_dir) / "node-0")
        guard = SegmentGuard(segments, marks)
        service = IdService(
            guard,
            WorkerGuard(windows, marks),
            segment=config.segment,
            snowflake=config.snowflake,
            spaces=[ServedSpace(Space(name, each.layout()), each.window) for name, each in config.spaces.items()],
            owner=f"{socket.gethostname()} pid {os.getpid()} node 0",
        )
        node = Node(
            service, http=listeners, limits=config.http, leaf_spaces=config.leaf.spaces, drain=config.server.drain
        )
        greetings: list[asyncio.Task[None]] = []

        def greet() -> None:
            addresses = [address_of(listener) for listener in listeners]
            greetings.append(asyncio.create_task(_greet(config, service, segments, addresses, new=new)))

        try:
            await run_node(node, stop, greet)
        except asyncio.CancelledError:
            raise Failure(
                "stopped at once by a second signal; worker ids rest for a window", Exit.INTERRUPTED
            ) from None
        finally:
            for greeting in greetings:
                greeting.cancel()
    log.info("stopped")


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Let the first SIGINT or SIGTERM begin a clean stop, and a second one end it."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None

    def stopping(number: signal.Signals) -> None:
        if stop.is_set():
            main.cancel()
            return
        log.info("stopping", signal=number.name)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping, number)


def _listen(config: Config, stack: contextlib.ExitStack) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    for text in config.http.listen:
        for listener in listen(parse_address(text)):
            stack.callback(close_listener, listener)
            listeners.append(listener)
    return listeners


async def _greet(
    config: Config, service: IdService, segments: SegmentStore, addresses: list[Address], *, new: bool
) -> None:
    """Say where the node listens, which store it uses, and what to try next."""
    settled = asyncio.get_running_loop().time() + SETTLING
    while service.readiness() and asyncio.get_running_loop().time() < settled:
        await asyncio.sleep(0.01)
    reasons = service.readiness()
    store = address_of_store(config.segments_url)
    windows = address_of_store(config.windows_url)
    if config.log.format == "json":
        log.info("serving", http=[_url(address) for address in addresses], store=store, windows=windows, waits=reasons)
        return
    lines = [f"Goloves {__version__} listens on {', '.join(_url(address) for address in addresses)}"]
    lines.append(f"  store    {store}{' (new)' if new else ''}{'' if windows == store else f', windows {windows}'}")
    lines += [f"  waits    {reason}" for reason in reasons]
    lines += ["  try      " + "\n           ".join(await _suggestions(config, segments, addresses[0]))]
    lines += ["  stop     Ctrl-C"]
    click.echo("\n".join(lines), err=True)


async def _suggestions(config: Config, segments: SegmentStore, address: Address) -> list[str]:
    tag = await _some_tag(segments)
    curl = f"curl {_client_url(address)}" if not address.path else f"curl --unix-socket {address.path} http://localhost"
    goloves = _command()
    create = (
        f"{goloves} tag create order" if config.stores == StoresConfig() else f"{goloves} tag create order --store …"
    )
    if tag is None:
        return [create]
    name = quote(tag, safe="")
    return [
        f"{curl}/api/segment/get/{name}",
        f"{curl}/api/snowflake/get/anything",
        f"{curl.replace('curl', 'curl -X POST', 1)}/v1/segments/{name}/ids",
        create,
    ]


async def _some_tag(segments: SegmentStore) -> str | None:
    """Find a tag to try: `default`, or any; None if there is none, or the store can't say."""
    with contextlib.suppress(GolovesError):
        if await segments.read_tags([DEFAULT_TAG]):
            return DEFAULT_TAG
        for tag in await segments.list_tags(most=1):
            return tag.name
    return None


def _url(address: Address) -> str:
    return str(address) if address.path else f"http://{address}"


def _client_url(address: Address) -> str:
    """Give what a client on this machine asks; nobody can connect to "all addresses"."""
    if address.is_wildcard:
        address = Address("::1" if ":" in address.host else "127.0.0.1", address.port)
    return f"http://{address}"


def _command() -> str:
    """Give the command as it can be typed here: `goloves` if the shell finds it, else as it was started."""
    started = sys.argv[0]
    if shutil.which("goloves") or Path(started).name != "goloves":
        return "goloves"
    return shlex.quote(started)
