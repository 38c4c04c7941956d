"""Where the microseconds of a call go in user time, without sockets: run as a process of its own, prints JSON.

python -m benchmarks.grpc_time SECONDS

Calls go into `data_received` one by one, answers into a transport that drops them. Clients differ in what they do with
header fields: as a node asks them, with the table that they would have by default, and with another deadline each time.
One has a single call of `Stream`, and its messages are what is counted.
"""

import asyncio
import json
import random
import struct
import sys
import time
from collections.abc import Callable

import hpack
import uvloop

from benchmarks.local import open_service
from benchmarks.routes import CALLS
from benchmarks.user_time import Transport, connect
from goloves.server.grpc.connection import GrpcConnection
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.grpc.services import node_services
from goloves.server.grpc.shared import GrpcShared
from goloves.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    SETTINGS_ACK,
    Kind,
    frame,
    settings_frame,
    window_frame,
)

CHUNK = 2_000
"""Calls or messages of one turn, each call with another deadline where they have one."""

FIELDS = (("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "bench/1.0"))

CLIENTS = {
    "Next": (0, False),
    "Next, deadlines": (0, True),
    "Next, a table": (4096, False),
    "Next, deadlines in a table": (4096, True),
}
"""Octets of the client's table, and whether it has deadlines."""

STREAM = "Stream, a message"


class Client:
    """A connection that makes calls of one kind; `feed` gives the seconds of CPU that one takes."""

    def __init__(self, shared: GrpcShared, path: str, message: bytes, table: int, deadlines: bool) -> None:
        self._data_received: Callable[[bytes], None]
        self._transport: Transport
        self._data_received, self._transport = connect(GrpcConnection(shared))
        self._data_received(PREFACE + settings_frame([]) + SETTINGS_ACK)
        self._encoder = hpack.Encoder()
        self._encoder.header_table_size = table
        start = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "127.0.0.1:5")]
        self._fields = [*start, *FIELDS]
        self._deadlines = deadlines
        self._body = struct.pack(">BI", 0, len(message)) + message
        self._stream = 1
        self._random = random.Random(1)

    def _call(self) -> bytes:
        fields = list(self._fields)
        if self._deadlines:
            fields.append(("grpc-timeout", f"{self._random.randrange(1_000_000, 100_000_000)}u"))
        stream, self._stream = self._stream, self._stream + 2
        block = self._encoder.encode(fields)
        return frame(Kind.HEADERS, END_HEADERS, stream, block) + frame(Kind.DATA, END_STREAM, stream, self._body)

    def feed(self) -> float:
        calls = [self._call() for _ in range(CHUNK)]
        self._data_received(window_frame(0, 100 * CHUNK))
        return self._spend(calls)

    def _spend(self, calls: list[bytes]) -> float:
        before, data_received = self._transport.writes, self._data_received
        begin = time.process_time()
        for data in calls:
            data_received(data)
        spent = time.process_time() - begin
        if self._transport.writes - before != CHUNK:
            raise RuntimeError(f"{self._transport.writes - before} answers to {CHUNK} calls")
        return spent / CHUNK


class StreamClient(Client):
    """The same with one call, of which `feed` gives what a message takes."""

    def __init__(self, shared: GrpcShared, path: str, message: bytes) -> None:
        super().__init__(shared, path, message, 0, False)
        block = self._encoder.encode(self._fields)
        self._data_received(frame(Kind.HEADERS, END_HEADERS, 1, block))

    def feed(self) -> float:
        self._data_received(window_frame(0, 100 * CHUNK) + window_frame(1, 100 * CHUNK))
        return self._spend([frame(Kind.DATA, 0, 1, self._body)] * CHUNK)


async def measure(seconds: float) -> dict[str, float]:
    """Give the least µs of CPU per call of each client, over many short runs that alternate."""
    service = await open_service(["order"])
    services, _ = node_services(service, GrpcLimits())
    shared = GrpcShared(services)
    call = CALLS["SegmentService.Next"]
    clients = {name: Client(shared, call.path, call.message, *how) for name, how in CLIENTS.items()}
    clients[STREAM] = StreamClient(shared, call.path.replace("Next", "Stream"), call.message)
    best: dict[str, float] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, client in clients.items():
            await asyncio.sleep(0.01)  # refills and the clock get their turn
            best[name] = min(best.get(name, 1e9), client.feed() * 1e6)
    await service.close()
    return best


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(float(sys.argv[1])))))
