"""Where the microseconds of a request go in user time, without sockets: run as a process of its own, prints JSON.

python -m benchmarks.user_time SECONDS          # µs per request of `bare` and of Goloves, as JSON
python -m benchmarks.user_time SECONDS ROUTE    # and cProfile's list for a route as that JSON names it

Bytes go into `data_received`, answers into a transport that drops them. What is left of a request is the kernel's.
"""

import asyncio
import cProfile
import json
import pstats
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks.floors.bare_http import Bare
from benchmarks.load import Request
from benchmarks.local import open_service
from benchmarks.routes import CHANGING, DIFFERENT_ROUTES, ROUTES, TAGS
from goloves.server.http.protocol import HttpConnection
from goloves.server.http.shared import HttpShared
from goloves.server.limits import HttpLimits
from goloves.service import IdService

KINDS = 20_000
"""Different requests that are made beforehand; then they come again, which no cache of whole requests remembers: it
would have to keep five times as many as it does."""

CHUNK = 5_000


class Transport(asyncio.Transport):
    """Drops what is written, and counts it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.writes = 0
        self.last: bytes | bytearray | memoryview = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        self.last = data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_reading(self) -> bool:
        return True


def encode(request: Request, rng: random.Random) -> bytes:
    """Write a request as the load generator does."""
    lines = [f"{request.method} {request.path} HTTP/1.1", "Host: 127.0.0.1:12345", *request.headers]
    if request.method != "GET":
        lines.append("Content-Length: 0")
    text = "".join(f"{line}\r\n" for line in [*lines, ""])
    return text.replace("{tag}", str(rng.randrange(TAGS))).replace("{random}", f"{rng.getrandbits(64):016x}").encode()


def streams() -> dict[str, list[bytes]]:
    """Give the requests of each route, repeated and different."""
    rng = random.Random(1)
    found = {f"{name}, repeated": [encode(request, rng)] * KINDS for name, request in ROUTES.items()}
    for name, request in DIFFERENT_ROUTES.items():
        assert request.headers is CHANGING
        found[f"{name}, different"] = [encode(request, rng) for _ in range(KINDS)]
    return found


def feed(data_received: Callable[[bytes], None], stream: list[bytes], transport: Transport) -> float:
    """Give the seconds of CPU that a request takes; each must have been answered at once."""
    before = transport.writes
    begin = time.process_time()
    for data in stream:
        data_received(data)
    spent = time.process_time() - begin
    if transport.writes - before != len(stream) or bytes(transport.last[:13]) != b"HTTP/1.1 200 ":
        raise RuntimeError(
            f"{transport.writes - before} answers to {len(stream)} requests, the last {bytes(transport.last)!r}"
        )
    return spent / len(stream)


def connect(protocol: Any) -> tuple[Callable[[bytes], None], Transport]:
    """Give a connection's `data_received`, and where its answers go."""
    transport = Transport()
    protocol.connection_made(transport)
    return protocol.data_received, transport


async def open_http() -> tuple[IdService, HttpShared]:
    """Give a service whose tags are all in use, and what its HTTP connections share."""
    service = await open_service(["order", *(f"t{number}" for number in range(TAGS))])
    return service, HttpShared(service, HttpLimits())


async def measure(seconds: float) -> dict[str, float]:
    """Give the least µs of CPU per request of each way, over many short runs that alternate."""
    service, shared = await open_http()
    best: dict[str, float] = {}
    ours = {name: (stream, *connect(HttpConnection(shared))) for name, stream in streams().items()}
    bare = {f"bare: {name}": (ours[name][0], *connect(Bare())) for name in ours if name.startswith("segment get")}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, (stream, data_received, transport) in {**bare, **ours}.items():
            await asyncio.sleep(0.01)  # refills and the clock get their turn
            part = random.randrange(KINDS - CHUNK + 1)
            spent = feed(data_received, stream[part : part + CHUNK], transport) * 1e6
            best[name] = min(best.get(name, 1e9), spent)
    await service.close()
    return best


async def list_calls(route: str, seconds: float) -> None:
    """Print where the time goes, by function."""
    service, shared = await open_http()
    data_received, transport = connect(HttpConnection(shared))
    stream = streams()[route]
    feed(data_received, stream, transport)
    profiler = cProfile.Profile()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.01)
        profiler.runcall(feed, data_received, stream, transport)
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(16)
    await service.close()


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(float(sys.argv[1])))))
    for route in sys.argv[2:]:
        uvloop.run(list_calls(route, float(sys.argv[1])))
