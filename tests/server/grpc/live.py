"""A gRPC server on a free port of loopback, in a thread with its own event loop."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import uvloop

from goloves.server.grpc.connection import GrpcConnection
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.grpc.methods import Service
from goloves.server.grpc.shared import GrpcShared
from goloves.server.listener import Acceptor
from goloves.server.plane import SLICES
from goloves.server.tls import GRPC_PROTOCOLS, Certificates

PATIENCE = 20.0
"""Seconds after which a test gives up waiting: many times what anything here takes."""

T = TypeVar("T")


class LiveGrpc:
    """Serves these services from `with` to its end; `call` runs a function on the server's event loop."""

    def __init__(
        self,
        services: Iterable[Service],
        limits: GrpcLimits | None = None,
        *,
        tls: Certificates | None = None,
        adjust: Callable[[GrpcShared], None] = lambda shared: None,
        ticks: bool = True,
    ) -> None:
        self._services = list(services)
        self._limits = limits
        self._tls = tls
        self._adjust = adjust
        self._ticks = ticks
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self.shared: GrpcShared
        self.loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(PATIENCE):
            raise TimeoutError("the server did not start")
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        self._listener.close()
        if self._thread.is_alive():
            raise TimeoutError("the server did not stop")
        if self._error is not None:
            raise self._error

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the event loop and give its result."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def wait_for(self, what: Callable[[], object]) -> None:
        """Wait until `what` is true, as seen on the event loop."""
        deadline = time.monotonic() + PATIENCE
        while not self.call(what):
            if time.monotonic() > deadline:
                raise TimeoutError("it did not happen")
            threading.Event().wait(0.005)

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.shared = GrpcShared(self._services, self._limits)
        self._adjust(self.shared)
        context = partial(self._tls.context, GRPC_PROTOCOLS) if self._tls is not None else None
        acceptor = Acceptor(self._listener, lambda: GrpcConnection(self.shared), lambda: None, context)
        acceptor.start()
        ticking = asyncio.create_task(self._tick() if self._ticks else asyncio.sleep(0))
        self._started.set()
        await self._stop.wait()
        acceptor.stop()
        ticking.cancel()
        for connection in self.shared.connections():
            connection.abort()
        deadline = self.loop.time() + PATIENCE
        while self.shared.open and self.loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1 / SLICES / 4)  # four times as often as a node: timeouts in tests are short
            self.shared.tick(self.loop.time())
