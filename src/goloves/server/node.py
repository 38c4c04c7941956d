"""One data-plane process: takes its sockets, its settings and its service, serves until told to stop, then drains.

It binds nothing and prints nothing, so that a supervisor can start several and hand them their sockets.

The stages of a stop, in order:
1. *not ready*: `/readyz` says 503, and gRPC's health says NOT_SERVING. Each answer says `Connection: close`, each gRPC
   connection is sent GOAWAY. If others go on serving on the same listeners, no new connection is accepted from now on;
   else new ones are taken for `notice` seconds still, so that who checks by connecting anew learns of it, then what
   waits is accepted, and the listeners are shut: connects are refused.
2. *waiting*: connections at rest are closed after a moment in which a busy client gets its last answer; requests under
   way are waited for, up to `drain` seconds; then what is left is cut.
3. *releasing*: nothing is issued any more, and then the windows are given back. Never the other way round: whoever
   claims a released worker id may issue from where the release said that this node has ended (W5).
4. *stopped*.
"""

import asyncio
import contextlib
import gc
import resource
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial

from goloves.logger import get_logger
from goloves.server.balance import Balance, Kind
from goloves.server.grpc.connection import GrpcConnection
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.grpc.services import node_services
from goloves.server.grpc.shared import GrpcShared
from goloves.server.http.protocol import HttpConnection
from goloves.server.http.shared import HttpShared
from goloves.server.limits import HttpLimits
from goloves.server.listener import Acceptor, Handshakes
from goloves.server.plane import SLICES
from goloves.server.stages import Stage
from goloves.server.tls import GRPC_PROTOCOLS, HTTP_PROTOCOLS, Certificates
from goloves.service import IdService

LAST_ANSWER = 0.2
"""Seconds that a connection at rest is kept open while draining: a busy client asks again well within that, gets an
answer that says close, and meets no connection that closes under its request."""

LOOK = 0.02
"""Seconds between two looks at what is left while draining."""

RENEW = 5.0
"""Seconds between two looks at the files of certificates: renewals happen days before they are due."""

log = get_logger("goloves.node")


class Node:
    """One data-plane process; see the module's text."""

    def __init__(
        self,
        service: IdService,
        *,
        http: Iterable[socket.socket],
        grpc: Iterable[socket.socket] = (),
        limits: HttpLimits | None = None,
        grpc_limits: GrpcLimits | None = None,
        leaf_spaces: Mapping[str, str] | None = None,
        drain: float = 5.0,
        tls: Certificates | None = None,
        balance: Balance | None = None,
    ) -> None:
        """`http`, `grpc`: listeners, bound and non-blocking, that stay their owner's. `drain`: seconds of stage 2.

        `tls`: without it, connections are plain. `balance`: if other nodes accept from the same listeners.
        """
        self.service = service
        self.stage = Stage.STARTING
        self.http = HttpShared(service, limits or HttpLimits(), leaf_spaces)
        grpc_limits = grpc_limits or GrpcLimits()
        services, self._health = node_services(service, grpc_limits)
        self.grpc = GrpcShared(services, grpc_limits)
        self._planes = (self.http, self.grpc)
        self._listeners: list[tuple[socket.socket, Callable[[], asyncio.Protocol], tuple[str, ...], Kind]] = [
            *((listener, self._connect_http, HTTP_PROTOCOLS, Kind.HTTP) for listener in http),
            *((listener, self._connect_grpc, GRPC_PROTOCOLS, Kind.GRPC) for listener in grpc),
        ]
        self._tls = tls
        self._drain = drain
        self._hastened = asyncio.Event()
        self._balance = balance
        if balance is not None:
            self.http.counted = partial(balance.publish, Kind.HTTP)
            self.grpc.counted = partial(balance.publish, Kind.GRPC)
        self._acceptors: list[Acceptor] = []
        self._handshakes = {
            Kind.HTTP: Handshakes(partial(self._has_room, self.http)),
            Kind.GRPC: Handshakes(partial(self._has_room, self.grpc)),
        }
        self._ticking: asyncio.TimerHandle | None = None
        self._renewing: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Start the service, then accept. Raises what `service.start` raises; nothing is accepted then."""
        await self.service.start()
        # What start-up made stays: collections need not walk through it again, which would show in the slowest
        # requests.
        gc.collect()
        gc.freeze()
        if self._balance is not None:
            self._balance.begin()
        for listener, connect, protocols, kind in self._listeners:
            context = partial(self._tls.context, protocols) if self._tls is not None else None
            is_due = partial(self._is_due, self._balance, kind) if self._balance is not None else None
            no_room = partial(self._no_room, self.http if kind is Kind.HTTP else self.grpc)
            acceptor = Acceptor(listener, connect, no_room, context, is_due, self._handshakes[kind])
            acceptor.start()
            self._acceptors.append(acceptor)
        self.stage = Stage.SERVING
        if self._tls is not None:
            self._renewing = asyncio.get_running_loop().call_later(RENEW, self._renew, self._tls)

    async def stop(self, drain: float | None = None, rest: float = LAST_ANSWER, notice: float | None = None) -> None:
        """Go through the stages; returns when the service is closed.

        `drain`: seconds, if not those of the node. `rest`: seconds for which connections at rest are kept. `notice`:
        the whole service ends, and listeners are shut after so many seconds; None: others serve on.
        """
        loop = asyncio.get_running_loop()
        drain = self._drain if drain is None else drain
        begun = loop.time()
        self.stage = Stage.NOT_READY
        if self._balance is not None:
            self._balance.end()
        self.http.routes.stopping = True
        self._health.stop()
        if notice is None:
            self.stop_accepting()
        for plane in self._planes:
            plane.draining = True
        for connection in self._connections():
            connection.retire()
        if notice is not None and self._acceptors:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(notice):
                    await self._hastened.wait()
            for acceptor in self._acceptors:
                acceptor.drain()
        self.stage = Stage.WAITING
        until = loop.time() + drain
        while self.open and loop.time() < until and not self._hastened.is_set():
            now = loop.time()
            if now >= begun + min(rest, drain):
                for connection in self._connections():
                    connection.close_at_rest(now - rest)
            await asyncio.sleep(LOOK)
        cut = sum(plane.abort_all() for plane in self._planes)
        if cut:
            log.warning("connections cut: their requests took longer than the drain", connections=cut)
        for acceptor in self._acceptors:
            acceptor.cut()
        self.stage = Stage.RELEASING
        await self.service.close()
        self.stage = Stage.STOPPED
        for timer in (self._ticking, self._renewing):
            if timer is not None:
                timer.cancel()

    def stop_accepting(self) -> None:
        """Let go of the listeners: nothing of this node uses them any more."""
        for acceptor in self._acceptors:
            acceptor.stop()

    def hasten(self) -> None:
        """End the wait of a stop: what is under way is cut. Windows are still given back."""
        self._hastened.set()

    def renew_certificates(self) -> None:
        """Look now whether the certificate's files have changed."""
        if self._tls is not None:
            self._tls.look()

    def counters(self) -> dict[str, int]:
        """Give everything that is counted, by name; each number only rises."""
        return {
            "http_requests": self.http.requests,
            **{f"http_{name}": getattr(self.http.counters, name) for name in self.http.counters.__slots__},
            "grpc_calls": self.grpc.calls,
            **{f"grpc_{name}": getattr(self.grpc.counters, name) for name in self.grpc.counters.__slots__},
            **asdict(self.service.counters),
        }

    @property
    def open(self) -> int:
        """Connections of all kinds."""
        return sum(plane.open for plane in self._planes) + sum(each.open for each in self._handshakes.values())

    def _connections(self) -> list[HttpConnection | GrpcConnection]:
        return [*self.http.connections(), *self.grpc.connections()]

    def _connect_http(self) -> HttpConnection:
        self._keep_ticking()
        return HttpConnection(self.http)

    def _connect_grpc(self) -> GrpcConnection:
        self._keep_ticking()
        return GrpcConnection(self.grpc)

    def _keep_ticking(self) -> None:
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(1 / SLICES, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        for plane in self._planes:
            plane.tick(loop.time())
        # A node without connections sleeps.
        self._ticking = loop.call_later(1 / SLICES, self._tick) if self.open else None

    def _renew(self, tls: Certificates) -> None:
        tls.look()
        self._renewing = asyncio.get_running_loop().call_later(RENEW, self._renew, tls)

    def _is_due(self, balance: Balance, kind: Kind) -> bool:
        plane = self.http if kind is Kind.HTTP else self.grpc
        count = plane.open + self._handshakes[kind].open
        balance.publish(kind, count)
        return balance.is_due(kind, count)

    def _has_room(self, plane: HttpShared | GrpcShared, address: str, held: int, pending: int) -> bool:
        # Without TLS there is no wait, and who is one too many is told so.
        return self._tls is None or plane.over(address, held, pending) is None

    @staticmethod
    def _no_room(plane: HttpShared | GrpcShared) -> None:
        plane.counters.accept_paused += 1


async def run_node(node: Node, stop: asyncio.Event, notice: float, started: Callable[[], None] = lambda: None) -> None:
    """Serve until `stop` is set, then stop as a whole service; `started` is called once the listeners accept."""
    raise_open_files()
    try:
        await node.start()
        started()
        await stop.wait()
    finally:
        await node.stop(notice=notice)


def raise_open_files() -> None:
    """Let this process open as many files as it may."""
    # Each connection is an open file, and the soft limit is 1,024 on most systems for programs that use select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
