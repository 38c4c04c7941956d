"""A node on a free port of loopback, in a thread with its own event loop, for tests that speak to it over sockets."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from goloves.config import SegmentConfig, SnowflakeConfig
from goloves.config.addresses import Address
from goloves.core.grants import Range
from goloves.core.layout import Layout
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.limits import HttpLimits
from goloves.server.listener import address_of, close_listener, listen
from goloves.server.node import Node
from goloves.server.tls import Certificates
from goloves.service import IdService, ServedSpace
from goloves.stores.base import NewTag, Space
from goloves.stores.memory import MemoryStore

PATIENCE = 20.0
"""Seconds after which a test gives up waiting: many times what anything here takes."""

T = TypeVar("T")


class SlowStore(MemoryStore):
    """A store whose allocations wait until `flowing` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        await self.flowing.wait()
        return await super().allocate(tag, size, exact=exact)


class LiveNode:
    """Serves from `with` to its end; `call` runs a function on the node's event loop."""

    def __init__(
        self,
        *,
        tags: Iterable[str] = ("order", "default"),
        step: int = 100_000,
        limits: HttpLimits | None = None,
        grpc_limits: GrpcLimits | None = None,
        leaf_spaces: Mapping[str, str] | None = None,
        spaces: Mapping[str, Layout] | None = None,
        address: Address | None = None,
        segment: SegmentConfig | None = None,
        snowflake: SnowflakeConfig | None = None,
        drain: float = 5.0,
        tls: Certificates | None = None,
    ) -> None:
        self._tags = tuple(tags)
        self._step = step
        self._limits = limits
        self._grpc_limits = grpc_limits
        self._leaf_spaces = leaf_spaces
        self._spaces = {"default": Layout(), **(spaces or {})}
        self._segment = segment
        self._snowflake = snowflake
        self._drain = drain
        self._tls = tls
        self._listeners = listen(address or Address(host="127.0.0.1"))
        self.address = address_of(self._listeners[0])
        self.port = self.address.port
        self._listeners += (grpc := listen(Address(host="127.0.0.1")))
        self._grpc = grpc
        self.grpc = str(address_of(grpc[0]))
        self.store: SlowStore
        self.node: Node
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(PATIENCE):
            raise TimeoutError("the node did not start")
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.begin_stop()
        self._thread.join(PATIENCE)
        self.close_listeners()
        if self._thread.is_alive():
            raise TimeoutError("the node did not stop")
        if self._error is not None:
            raise self._error

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the event loop and give its result."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def wait_for(self, what: Callable[[], Any]) -> None:
        """Wait until `what` is true, as seen on the event loop."""
        deadline = time.monotonic() + PATIENCE
        while not self.call(what):
            if time.monotonic() > deadline:
                raise TimeoutError("it did not happen")
            threading.Event().wait(0.005)

    def delete_tag(self, tag: str) -> None:
        """Delete a tag in the store, behind the service's back."""
        asyncio.run_coroutine_threadsafe(self.store.delete_tag(tag), self._loop).result(PATIENCE)

    def release_store(self) -> None:
        """Let allocations go on, whether the node still runs or not."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.store.flowing.set)

    def close_listeners(self) -> None:
        """Close the listeners, which are the test's and not the node's."""
        for listener in self._listeners:
            close_listener(listener)

    def begin_stop(self) -> None:
        """Tell the node to stop; leaving `with` waits for it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.store = SlowStore()
        await self.store.open()
        for tag in self._tags:
            await self.store.create_tag(NewTag(tag, step=self._step))
        service = IdService(
            self.store,
            self.store,
            segment=self._segment or SegmentConfig(deadline=PATIENCE),
            snowflake=self._snowflake,
            spaces=[ServedSpace(Space(name, layout)) for name, layout in self._spaces.items()],
        )
        self.node = Node(
            service,
            http=[listener for listener in self._listeners if listener not in self._grpc],
            grpc=self._grpc,
            limits=self._limits,
            grpc_limits=self._grpc_limits,
            leaf_spaces=self._leaf_spaces,
            drain=self._drain,
            tls=self._tls,
        )
        await self.node.start()
        for name in self._spaces:
            await service.snowflake_ids(name, 1)
        self._started.set()
        await self._stop.wait()
        await self.node.stop()
