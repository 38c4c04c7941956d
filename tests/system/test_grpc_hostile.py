"""Hostile peers against a running node: its memory stays, and calls on another connection go on being answered.

What each attack ends in is held by `tests/wire/test_http2_floods.py` and `tests/server/grpc/`; here the whole process
is looked at while it runs.
"""

import gzip
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from goloves.v1 import goloves_pb2 as pb
from goloves.v1.goloves_pb2_grpc import SnowflakeServiceStub
from server.grpc.raw import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    GoneError,
    RawClient,
    call_fields,
    frame,
    prefixed,
)
from system.serving import Serving

NEXT, STREAM = "/goloves.v1.SegmentService/Next", "/goloves.v1.SegmentService/Stream"
ORDER = prefixed(pb.SegmentNextRequest(tag="default").SerializeToString())
MANY = prefixed(pb.SegmentNextRequest(tag="default", count=10_000).SerializeToString())

LASTS = 1.5
"""Seconds of each attack."""

MEMORY = 80 * 1024 * 1024
"""Octets that a node may grow by under one attack. grpc-go grew by 196 MB under ten clients that don't read."""

SLOWEST = 3.0
"""Seconds for a bystander's call: two busy cores are shared with the attackers and their Python."""


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def attempt(client: RawClient, make: Callable[[int], bytes], until: float) -> None:
    """Send what `make` gives, many frames at once, as long as the server takes it."""
    count = 0
    while time.monotonic() < until:
        batch = b"".join([make(count + each) for each in range(100)])
        count += 100
        if not client.try_send(batch):
            return


Attack = Callable[[int, float], None]


def flood(make: Callable[[RawClient, int], Callable[[int], bytes]], *, call: bool = False) -> Attack:
    """Connect again and again, and flood."""

    def run(port: int, until: float) -> None:
        while time.monotonic() < until:
            try:
                with RawClient(port) as client:
                    stream = client.open(call_fields(STREAM)) if call else 0
                    attempt(client, make(client, stream), until)
            except OSError:
                continue

    return run


def request(client: RawClient, stream: int, *, end: bool = False) -> bytes:
    block = client.encoder.encode(call_fields(NEXT))
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


def half_sent(port: int, until: float) -> None:
    """A thousand calls on each connection that announce a message and send a part of it."""
    clients = [RawClient(port) for _ in range(5)]
    for client in clients:
        for _ in range(900):
            stream = client.open(call_fields(NEXT))
            client.data(stream, struct.pack(">BI", 0, 60_000) + b"x" * 500)
    wait(until)
    for client in clients:
        client.socket.close()


def do_not_read(port: int, until: float) -> None:
    """Ten clients ask for all they can in huge windows, and read nothing."""
    settings = [(4, 2**31 - 1)]
    clients = [RawClient(port, settings=settings, buffers=4096) for _ in range(10)]
    for client in clients:
        client.socket.settimeout(0.2)
        client.try_send(frame(WINDOW_UPDATE, 0, 0, number(2**31 - 1 - 65_535)))
    stream = 1
    while time.monotonic() < until:
        for client in clients:
            client.try_send(request(client, stream) + frame(DATA, END_STREAM, stream, MANY))
        stream += 2
    for client in clients:
        client.socket.close()


def windows_of_nothing(port: int, until: float) -> None:
    """Ten clients ask for all they can and give no window for it."""
    clients = [RawClient(port, settings=[(4, 0)]) for _ in range(10)]
    for client in clients:
        client.socket.settimeout(0.2)
    stream = 1
    while time.monotonic() < until:
        for client in clients:
            client.try_send(request(client, stream) + frame(DATA, END_STREAM, stream, MANY))
        stream += 2
    for client in clients:
        client.socket.close()


def windows_of_one(port: int, until: float) -> None:
    """A client gives one octet of window at a time."""
    with RawClient(port, settings=[(4, 0)]) as client:
        for stream in range(1, 401, 2):
            client.send(request(client, stream) + frame(DATA, END_STREAM, stream, MANY))
        attempt(client, lambda n: frame(WINDOW_UPDATE, 0, n % 200 * 2 + 1, number(1)), until)


def silent(port: int, until: float) -> None:
    """Many connections that say nothing, half a preface, or half a frame."""
    said = [b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS, 0, 0)[:5]]
    clients = [RawClient(port, greet=False).send(said[each % 4]) for each in range(300)]
    wait(until)
    for client in clients:
        client.socket.close()


def gzip_bombs(port: int, until: float) -> None:
    bomb = prefixed(gzip.compress(bytes(50_000_000)), flag=1)
    while time.monotonic() < until:
        with RawClient(port) as client:
            answer = client.call(NEXT, bomb[:60_000], ("grpc-encoding", "gzip"))
            assert answer.status in (8, 13)


def noise(port: int, until: float) -> None:
    """Frames of every kind, with anything inside."""
    rng = random.Random(5)
    while time.monotonic() < until:
        with RawClient(port) as client:
            client.open(call_fields(STREAM))
            attempt(
                client,
                lambda _: frame(
                    rng.randrange(12), rng.randrange(256), rng.randrange(8), rng.randbytes(rng.randrange(30))
                ),
                until,
            )


def bomb_of_references(client: RawClient, stream: int) -> Callable[[int], bytes]:
    length = b"\x7f" + bytes((0x80 | (3900 - 127) & 0x7F, (3900 - 127) >> 7))
    block = b"\x40\x01x" + length + b"v" * 3900 + b"\xbe" * 12_000
    return lambda n: frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, block)


def wait(until: float) -> None:
    threading.Event().wait(max(0.0, until - time.monotonic()))


ATTACKS: dict[str, Attack] = {
    "rapid reset": flood(lambda c, s: lambda n: request(c, 2 * n + 1) + frame(RST_STREAM, 0, 2 * n + 1, number(8))),
    "provoked resets": flood(
        lambda c, s: lambda n: request(c, 2 * n + 1, end=True) + frame(WINDOW_UPDATE, 0, 2 * n + 1, number(0))
    ),
    "CONTINUATION": flood(
        lambda c, s: lambda n: frame(HEADERS, 0, 1) if n == 0 else frame(CONTINUATION, 0, 1, b"x" * 100)
    ),
    "HPACK bombs": flood(bomb_of_references),
    "header lists": flood(
        lambda c, s: lambda n: frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, b"\x00\x01a\x01b" * 3000)
    ),
    "SETTINGS": flood(lambda c, s: lambda n: frame(SETTINGS, 0, 0, struct.pack(">HI", 4, n % 1000))),
    "PING": flood(lambda c, s: lambda n: frame(PING, 0, 0, b"12345678")),
    "PRIORITY": flood(lambda c, s: lambda n: frame(PRIORITY, 0, 2 * n + 1, b"\0\0\0\0\1")),
    "empty DATA": flood(lambda c, s: lambda n: frame(DATA, 0, s), call=True),
    "varints without end": flood(
        lambda c, s: lambda n: request(c, 2 * n + 1) + frame(DATA, END_STREAM, 2 * n + 1, prefixed(b"\xff" * 5000))
    ),
    "prefixes of 4 GiB": flood(
        lambda c, s: lambda n: request(c, 2 * n + 1) + frame(DATA, 0, 2 * n + 1, b"\0\xff\xff\xff\xff" + b"x" * 100)
    ),
    "half-sent calls": half_sent,
    "clients that don't read": do_not_read,
    "windows of nothing": windows_of_nothing,
    "windows of one octet": windows_of_one,
    "silent connections": silent,
    "gzip bombs": gzip_bombs,
    "noise": noise,
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Serving]:
    """Each attack has a node of its own: memory that an earlier one made it hold would hide what this one costs."""
    words = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    serving = Serving(tmp_path, words, {"GOLOVES_SEGMENT__DEADLINE": "10"})
    try:
        serving.ready()
        yield serving
        assert serving.stop() == 0
    finally:
        serving.remove()


def resident(serving: Serving) -> int:
    """Octets of memory that the node holds."""
    with open(f"/proc/{serving.process.pid}/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * 4096


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_peer_costs_bounded_memory_and_others_are_served(node: Serving, name: str) -> None:
    address = node.says(r"^  gRPC     (\S+)")[1]
    port = int(address.rpartition(":")[2])
    with grpc.insecure_channel(address) as channel:
        # Ids of a space: those of the tag are drawn by the attackers as fast as the store can give them.
        stub = SnowflakeServiceStub(channel)
        stub.Next(pb.SnowflakeNextRequest(), timeout=10)
        before = most = resident(node)
        failures: list[BaseException] = []
        until = time.monotonic() + LASTS

        def attack() -> None:
            try:
                ATTACKS[name](port, until)
            except (OSError, GoneError):
                pass  # the node may end the connection at any moment
            except BaseException as error:
                failures.append(error)

        attacker = threading.Thread(target=attack)
        attacker.start()
        slowest, calls = 0.0, 0
        while attacker.is_alive() or calls < 20:
            begun = time.monotonic()
            assert len(stub.Next(pb.SnowflakeNextRequest(), timeout=30).ids) == 1
            slowest = max(slowest, time.monotonic() - begun)
            calls += 1
            most = max(most, resident(node))
        attacker.join()
    assert not failures
    assert most - before < MEMORY, f"the node grew by {(most - before) / 1e6:.0f} MB"
    assert slowest < SLOWEST, f"a bystander waited for {slowest:.2f} s"
    assert node.process.poll() is None
    assert "Traceback" not in node.said
