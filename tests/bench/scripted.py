"""Servers that do what a test tells them: each in a thread with its own event loop, on a free port of loopback."""

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.settings

PATIENCE = 30.0


class Threaded:
    """Serves connections of one protocol from `with` to its end."""

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        self._make = make
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await self._loop.create_server(self._make, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()


class Web:
    """What an HTTP server saw, and what it answers: `answer` gives the bytes for a request's head, None for nothing."""

    def __init__(self, answer: Callable[[int, bytes], bytes | None] | None = None, *, piece: int = 0) -> None:
        self.heads: list[bytes] = []
        self.piece = piece
        """Bytes of an answer that are written at once; 0: all."""
        self._numbers = count(1)
        self._answer = answer or (lambda number, head: text(b"%d" % number))

    def server(self) -> Threaded:
        return Threaded(lambda: _WebConnection(self))

    def answer(self, head: bytes) -> bytes | None:
        self.heads.append(head)
        return self._answer(next(self._numbers), head)


def text(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class _WebConnection(asyncio.Protocol):
    def __init__(self, web: Web) -> None:
        self._web = web
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            answer = self._web.answer(head)
            if answer is not None:
                self._write(answer)

    def _write(self, answer: bytes) -> None:
        piece = self._web.piece or len(answer)
        for at in range(0, len(answer), piece):
            self._transport.write(answer[at : at + piece])


def stall_once(after: int, seconds: float) -> Callable[[int, bytes], bytes]:
    """Answer at once, but stand still before one answer, as a collection of garbage or a long commit would."""

    def answer(number: int, head: bytes) -> bytes:
        if number == after:
            time.sleep(seconds)
        return text(b"%d" % number)

    return answer


class Calls:
    """What a gRPC server on the h2 library, which is strict, saw; it answers with rising ids."""

    def __init__(self, *, table_size: int = 4096) -> None:
        self.headers: list[dict[str, str]] = []
        self.messages: list[bytes] = []
        self.table_size = table_size
        """What its SETTINGS say of the table that clients may use."""
        self.numbers = count(1)

    def server(self) -> Threaded:
        return Threaded(lambda: _CallConnection(self))


class _CallConnection(asyncio.Protocol):
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._bodies: dict[int, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._h2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: self._calls.table_size})
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._take(event)
        self._transport.write(self._h2.data_to_send())

    def _take(self, event: Any) -> None:
        match event:
            case h2.events.RequestReceived():
                self._calls.headers.append({str(name): str(value) for name, value in event.headers or []})
                self._bodies[event.stream_id] = b""
            case h2.events.DataReceived():
                self._bodies[event.stream_id] += event.data or b""
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            case h2.events.StreamEnded():
                self._calls.messages.append(self._bodies.pop(event.stream_id))
                number = next(self._calls.numbers)
                # Headers that change make the library's encoder use its table and Huffman's code.
                head = [(":status", "200"), ("content-type", "application/grpc"), ("x-number", str(number))]
                self._h2.send_headers(event.stream_id, head)
                self._h2.send_data(event.stream_id, b"\0\0\0\0\x0a\x0a\x08" + number.to_bytes(8, "little"))
                trailers = [("grpc-status", "0"), ("x-trailer", f"call {number}")]
                self._h2.send_headers(event.stream_id, trailers, end_stream=True)
