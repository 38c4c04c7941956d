"""One data-plane process: takes its sockets, its settings and its service, serves until told to stop, then drains.

It binds nothing and prints nothing, so that a supervisor can start several and hand them their sockets.

The stages of a stop, in order:
1. *not ready*: no new connections are accepted, and `/readyz` says 503.
2. *closing*: each answer says `Connection: close`.
3. *waiting*: connections at rest are closed after a moment in which a busy client gets its last answer; requests under
   way are waited for, up to `drain` seconds; then what is left is cut.
4. *released*: the service is closed, which gives the windows back.
"""

import asyncio
import gc
import socket
from collections.abc import Callable, Iterable, Mapping

import structlog

from goloves.server.http.protocol import HttpConnection
from goloves.server.http.shared import SLICES, HttpShared
from goloves.server.limits import HttpLimits
from goloves.server.listener import Acceptor
from goloves.service import IdService

LAST_ANSWER = 0.2
"""Seconds that a connection at rest is kept open while draining: a busy client asks again well within that, gets an
answer that says close, and meets no connection that closes under its request."""

LOOK = 0.02
"""Seconds between two looks at what is left while draining."""

log = structlog.get_logger("goloves.node")


class Node:
    """One data-plane process; see the module's text."""

    def __init__(
        self,
        service: IdService,
        *,
        http: Iterable[socket.socket],
        limits: HttpLimits | None = None,
        leaf_spaces: Mapping[str, str] | None = None,
        drain: float = 5.0,
    ) -> None:
        """`http`: listeners, bound and non-blocking, that stay their owner's. `drain`: seconds of stage 3."""
        self.service = service
        self.http = HttpShared(service, limits or HttpLimits(), leaf_spaces)
        self._listeners = list(http)
        self._drain = drain
        self._acceptors: list[Acceptor] = []
        self._ticking: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Start the service, then accept. Raises what `service.start` raises; nothing is accepted then."""
        await self.service.start()
        # What start-up made stays: collections need not walk through it again, which would show in the slowest
        # requests.
        gc.collect()
        gc.freeze()
        for listener in self._listeners:
            acceptor = Acceptor(listener, self._connect, self._no_room)
            acceptor.start()
            self._acceptors.append(acceptor)

    async def stop(self) -> None:
        """Go through the stages; returns when the service is closed."""
        shared = self.http
        loop = asyncio.get_running_loop()
        shared.routes.stopping = True
        for acceptor in self._acceptors:
            acceptor.stop()
        shared.draining = True
        for connection in shared.connections():
            connection.retire()
        begun = loop.time()
        while shared.open and loop.time() < begun + self._drain:
            now = loop.time()
            if now >= begun + min(LAST_ANSWER, self._drain):
                for connection in shared.connections():
                    connection.close_at_rest(now - LAST_ANSWER)
            await asyncio.sleep(LOOK)
        left = shared.connections()
        if left:
            log.warning("connections cut: their requests took longer than the drain", connections=len(left))
        for connection in left:
            connection.cut()
        await self.service.close()
        if self._ticking is not None:
            self._ticking.cancel()

    def _connect(self) -> HttpConnection:
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(1 / SLICES, self._tick)
        return HttpConnection(self.http)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.http.tick(loop.time())
        # A node without connections sleeps.
        self._ticking = loop.call_later(1 / SLICES, self._tick) if self.http.open else None

    def _no_room(self) -> None:
        self.http.counters.accept_paused += 1


async def run_node(node: Node, stop: asyncio.Event, started: Callable[[], None] = lambda: None) -> None:
    """Serve until `stop` is set, then drain; `started` is called once the listeners accept."""
    try:
        await node.start()
        started()
        await stop.wait()
    finally:
        await node.stop()
