"""`goloves serve`: puts the parts together, says where it listens, and stops cleanly on SIGINT and SIGTERM."""

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

import click
import structlog

from goloves.cli.failures import Exit, Failure
from goloves.cli.greeting import greet
from goloves.cli.opening import may_create, node_name, options, store_exists
from goloves.cli.options import configuration, store_options
from goloves.config import Config
from goloves.config.addresses import parse_address
from goloves.config.settings import TlsConfig
from goloves.log import set_up
from goloves.server.listener import address_of, close_listener, listen
from goloves.server.node import Node, run_node
from goloves.server.tls import Certificates
from goloves.service import IdService, ServedSpace
from goloves.stores import make_stores
from goloves.stores.guard import Marks, SegmentGuard, WorkerGuard

log = structlog.get_logger("goloves.serve")


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
@click.option("--admin", metavar="HOST:PORT", help="Comes with a later version.")
@click.option("--nodes", type=int, metavar="N", help="Data-plane processes; more than 1 come with a later version.")
@click.option("--init", is_flag=True, help="Make a new store first; an error if it exists.")
def serve_command(
    config_file: Path | None,
    store: str | None,
    data_dir: str | None,
    http: tuple[str, ...],
    grpc: tuple[str, ...],
    admin: str | None,
    nodes: int | None,
    init: bool,
) -> None:
    """Serve ids over HTTP and gRPC until Ctrl-C or SIGTERM.

    Without options: SQLite under ./data, HTTP on 127.0.0.1:8080, gRPC on 127.0.0.1:50051. An embedded store is made
    by itself only while all listeners are on loopback or Unix sockets; else a missing store is an error, unless --init
    says that it is new.
    """
    import uvloop

    flags: dict[tuple[str, ...], Any] = {
        ("stores", "url"): store,
        ("server", "data_dir"): data_dir,
        ("http", "listen"): list(http) or None,
        ("grpc", "listen"): list(grpc) or None,
        ("admin", "listen"): admin,
        ("server", "nodes"): nodes,
    }
    config = configuration(config_file, flags).config
    set_up(config.log)
    uvloop.run(_serve(config, init=init))


async def _serve(config: Config, *, init: bool) -> None:
    started, stop = asyncio.Event(), asyncio.Event()
    _stop_on_signals(started, stop)
    with contextlib.ExitStack() as stack:
        # The listeners come first: a service on the port is likely this very service, and nothing else was touched yet.
        listeners = _listen(config.http.listen, "http.listen", stack)
        grpc_listeners = _listen(config.grpc.listen, "grpc.listen", stack)
        tls = _certificates(config.tls)
        marks = Marks()
        stack.callback(marks.close)
        # One directory a node: the marks of two nodes must not be mixed (R5).
        marks.open(Path(config.server.data_dir) / "node-0")
        new = not store_exists(config.segments_url)
        segments, windows = make_stores(
            config.segments_url, config.windows_url, options(config, create=may_create(config))
        )
        if init:
            for each in dict.fromkeys((segments, windows)):
                await each.create()
        name = node_name(0)
        service = IdService(
            SegmentGuard(segments, marks, name),
            WorkerGuard(windows, marks, name),
            segment=config.segment,
            snowflake=config.snowflake,
            spaces=[ServedSpace.configured(space, each) for space, each in config.spaces.items()],
            owner=f"{name} pid {os.getpid()}",
        )
        node = Node(
            service,
            http=listeners,
            grpc=grpc_listeners,
            limits=config.http,
            grpc_limits=config.grpc,
            leaf_spaces=config.leaf.spaces,
            drain=config.server.drain,
            tls=tls,
        )
        addresses = [address_of(listener) for listener in listeners]
        grpc_addresses = [address_of(listener) for listener in grpc_listeners]
        greeting = asyncio.create_task(greet(config, addresses, grpc_addresses, service, segments, started, new=new))
        try:
            await run_node(node, stop, started.set)
        except asyncio.CancelledError:
            if started.is_set():
                message = "stopped at once by a second signal; worker ids rest until their windows end"
                raise Failure(message, Exit.INTERRUPTED) from None
        finally:
            greeting.cancel()
    log.info("stopped")


def _stop_on_signals(started: asyncio.Event, stop: asyncio.Event) -> None:
    """Let the first SIGINT or SIGTERM begin a clean stop, and a second one end it.

    A start that still waits for a store has nothing to drain: it is broken off.
    """
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None

    def stopping(number: signal.Signals) -> None:
        if not stop.is_set():
            log.info("stopping", signal=number.name)
        if stop.is_set() or not started.is_set():
            main.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping, number)


def _listen(addresses: list[str], setting: str, stack: contextlib.ExitStack) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    for text in addresses:
        for listener in listen(parse_address(text), setting):
            stack.callback(close_listener, listener)
            listeners.append(listener)
    return listeners


def _certificates(tls: TlsConfig) -> Certificates | None:
    if tls.certificate is None or tls.key is None:
        return None
    return Certificates(
        Path(tls.certificate),
        Path(tls.key),
        client_authorities=None if tls.client_authorities is None else Path(tls.client_authorities),
        client_required=tls.client_required,
    )
