"""Clients of both protocols that do as they are told: who hears `Connection: close` or GOAWAY connects anew.

What such a client may never meet while nodes are replaced is counted: a connect that is refused, a request that gets no
answer, an answer without an id.
"""

import asyncio
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import grpc

from faults.background import Background
from faults.nodes import PATIENCE, wait_for
from goloves.v1 import goloves_pb2, goloves_pb2_grpc

PAUSE = 0.1
"""Seconds between two requests of a client: well below the time that a node that is replaced leaves to its clients, and
long enough that 200 of them leave room for the service on two cores."""

LONG_PAUSE = 1.0
"""Seconds after which a node that is replaced may have closed a connection at rest. A client that got no turn for as
long asks into the closing, and asks anew (RFC 9112 §9.3.1)."""

TIMEOUT = 30.0

REQUEST = b"GET /api/segment/get/default HTTP/1.1\r\nHost: a\r\n\r\n"


class Load:
    """Draws numbers of the tag `default` from `with` to its end."""

    def __init__(self, http: str, grpc_address: str, *, http_clients: int, grpc_clients: int) -> None:
        """`http`: a URL; `grpc_address`: host and port."""
        url = urlsplit(http)
        self._host, self._port = str(url.hostname), int(url.port or 0)
        self._grpc = grpc_address
        self._clients = (http_clients, grpc_clients)
        self._background = Background()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._lock = threading.Lock()
        self.numbers: list[int] = []
        self.failures: Counter[str] = Counter()
        self.reconnects = 0
        """HTTP connections that a node asked to close."""
        self.late = 0
        """Requests of clients that paused for too long, on connections that were closed meanwhile."""
        self.served_by_client: Counter[int] = Counter()

    def __enter__(self) -> Self:
        http_clients, grpc_clients = self._clients
        self._background.__enter__()
        self._background.run(self._start(http_clients))
        for client in range(grpc_clients):
            thread = threading.Thread(target=self._call, args=(http_clients + client,))
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(2 * TIMEOUT)
        self._background.run(self._finish())
        self._background.__exit__(kind, error, trace)

    def wait_all_served(self, times: int = 1, *, despite_failures: bool = False) -> None:
        """Wait until every client has been served so many times more, or one has failed unless that is foreseen."""
        before = Counter(self.served_by_client)
        clients = range(sum(self._clients))
        wait_for(
            lambda: (
                all(self.served_by_client[client] - before[client] >= times for client in clients)
                or (self.failures and not despite_failures)
            ),
            "every client is served",
            patience=4 * PATIENCE,
        )

    def check(self) -> None:
        """Hold that nothing failed, that everybody was served, and that no number came twice."""
        assert not self.failures, self.failures.most_common(10)
        assert self.late <= 1 + self._clients[0] // 20
        assert len(set(self.numbers)) == len(self.numbers)
        assert len(self.served_by_client) == sum(self._clients)

    def _served(self, client: int, number: int) -> None:
        with self._lock:
            self.numbers.append(number)
            self.served_by_client[client] += 1

    def _failed(self, what: str) -> None:
        with self._lock:
            self.failures[what] += 1

    # --- HTTP ---

    async def _start(self, clients: int) -> None:
        self._tasks = [asyncio.create_task(self._ask(client)) for client in range(clients)]

    async def _finish(self) -> None:
        await asyncio.wait_for(asyncio.gather(*self._tasks), TIMEOUT)

    async def _ask(self, client: int) -> None:
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port)
            except OSError as error:
                self._failed(f"connect: {type(error).__name__}")
                await asyncio.sleep(PAUSE)
                continue
            try:
                await self._converse(client, reader, writer)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self._failed(f"request: {type(error).__name__}")
            finally:
                writer.close()

    async def _converse(self, client: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = time.monotonic()
        while not self._stopping:
            if reader.at_eof():
                return  # closed while nothing was under way, which a client sees before it asks
            paused = time.monotonic() - answered
            writer.write(REQUEST)
            async with asyncio.timeout(TIMEOUT):
                try:
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                except (ConnectionError, asyncio.IncompleteReadError) as error:
                    if paused > LONG_PAUSE and not getattr(error, "partial", b""):
                        self.late += 1
                        return
                    raise
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
            answered = time.monotonic()
            if not head.startswith(b"http/1.1 200 "):
                self._failed(f"answer: {head[9:12]!r} {body[:100]!r}")
            else:
                self._served(client, int(body))
            if b"connection: close" in head:
                self.reconnects += 1
                return
            await asyncio.sleep(PAUSE)

    # --- gRPC ---

    def _call(self, client: int) -> None:
        # grpcio's own retries stay on: a call that meets GOAWAY before it has left the client is begun anew elsewhere,
        # and would fail without them, whatever the node does. One that the node has taken is repeated by nobody. That
        # a node refuses none before its client has seen GOAWAY, tests of the connection hold.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._grpc, options) as channel:
            stub = goloves_pb2_grpc.SegmentServiceStub(channel)
            while not self._stopping:
                try:
                    answer = stub.Next(goloves_pb2.SegmentNextRequest(tag="default"), timeout=TIMEOUT)
                except grpc.RpcError as error:
                    self._failed(f"call: {error.code()} {error.details()}")
                else:
                    self._served(client, answer.ids[0])
                time.sleep(PAUSE)
