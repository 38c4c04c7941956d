"""Hostile peers against a running node: its memory stays, and calls on another connection go on being answered.

What each attack ends in is held by `tests/wire/test_http2_floods.py` and `tests/server/grpc/`; here the whole process
is looked at while it runs. An attack goes on until a bystander has been served as often as it has to be.
"""

import gzip
import queue
import random
import ssl
import statistics
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from goloves.v1 import goloves_pb2 as pb
from goloves.v1.goloves_pb2_grpc import SnowflakeServiceStub
from server.grpc.certificates import self_signed
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
    Fields,
    GoneError,
    RawClient,
    call_fields,
    frame,
    prefixed,
)
from system.serving import Serving, Start

NEXT, STREAM = "/goloves.v1.SegmentService/Next", "/goloves.v1.SegmentService/Stream"
ORDER = prefixed(pb.SegmentNextRequest(tag="default").SerializeToString())
MANY = prefixed(pb.SegmentNextRequest(tag="default", count=10_000).SerializeToString())

LASTS = 0.7
"""Seconds that each attack lasts at least."""

ROUNDS = 40
"""Calls of each kind that a bystander makes while an attack goes on. They take a tenth of a second where
nothing else runs."""

PATIENCE = 60.0
"""Seconds in which it has to have made them."""

MEMORY = 80 * 1024 * 1024
"""Octets that a node may grow by under one attack. The worst, ten clients that do not read and make a thousand calls
each, takes 53 MB; grpc-go grew by 196 MB under such."""

USUAL, SLOWEST = 0.25, 10.0
"""Seconds for half of a bystander's calls, and for each: two busy cores are shared with the attackers and their
Python."""

AT_REST = 0.5
"""Of a core, that a node takes at most when its attackers have gone."""


def number(value: int) -> bytes:
    return struct.pack(">I", value)


@dataclass
class Target:
    """A node under attack, until `enough` is set."""

    port: int
    tls: ssl.SSLContext | None = None
    enough: threading.Event = field(default_factory=threading.Event)
    sent: int = 0
    """Octets that attackers have sent."""

    @property
    def goes_on(self) -> bool:
        return not self.enough.is_set()

    def connect(self, **more: Any) -> RawClient:
        return RawClient(self.port, tls=self.tls, **more)

    def send(self, client: RawClient, data: bytes) -> bool:
        """Send, unless the node has ended the connection."""
        self.sent += len(data)
        return client.try_send(data)


Attack = Callable[[Target], None]


def flood(make: Callable[[RawClient, int], Callable[[int], bytes]], *, call: bool = False) -> Attack:
    """Connect again and again, and send what `make` gives, many frames at once, as long as the node takes it."""

    def run(target: Target) -> None:
        while target.goes_on:
            try:
                with target.connect() as client:
                    frames = make(client, client.open(call_fields(STREAM)) if call else 0)
                    count = 0
                    while target.goes_on and target.send(
                        client, b"".join([frames(count + each) for each in range(100)])
                    ):
                        count += 100
            except OSError:
                continue

    return run


def pour(make: Callable[[RawClient], bytes]) -> Attack:
    """Connect again and again, and send the same again and again, as much at once as the kernel takes."""

    def run(target: Target) -> None:
        while target.goes_on:
            try:
                with target.connect() as client:
                    piece = make(client)
                    while target.goes_on and target.send(client, piece):
                        pass
            except (OSError, GoneError):
                continue

    return run


def refused(client: RawClient) -> int:
    """Make a call that is answered before its request has ended; give its stream."""
    stream = client.open(call_fields("/nobody.Knows/This"))
    client.read_until(RST_STREAM, stream)
    return stream


def request(client: RawClient, stream: int, *, end: bool = False) -> bytes:
    block = client.encoder.encode(call_fields(NEXT))
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


def ask_for_many(target: Target, clients: list[RawClient]) -> None:
    """Make call after call on all of them, and read nothing."""
    for client in clients:
        client.socket.settimeout(0.2)
    stream = 1
    while target.goes_on:
        for client in clients:
            target.send(client, request(client, stream) + frame(DATA, END_STREAM, stream, MANY))
        stream += 2
    for client in clients:
        client.socket.close()


def half_sent(target: Target) -> None:
    """Hundreds of calls on each connection that announce a message and send most of it."""
    clients = [target.connect() for _ in range(5)]
    piece = struct.pack(">BI", 0, 60_000) + b"x" * 16_000
    for client in clients:
        client.socket.settimeout(2.0)
        for stream in range(1, 800, 2):
            calls = request(client, stream) + frame(DATA, 0, stream, piece) + frame(DATA, 0, stream, piece[5:]) * 2
            if not target.goes_on or not target.send(client, calls):
                break
    target.enough.wait(PATIENCE)
    for client in clients:
        client.socket.close()


def large_heads(target: Target) -> None:
    """Hundreds of streams on each connection whose heads are as large as they may be, each another one."""
    clients = [target.connect() for _ in range(10)]
    for each, client in enumerate(clients):
        client.socket.settimeout(2.0)
        for stream in range(1, 1800, 2):
            fields = call_fields(STREAM, ("x-large", f"{each}-{stream}-" + "v" * 15_000))
            head = frame(HEADERS, END_HEADERS, stream, client.encoder.encode(fields, huffman=False))
            if not target.goes_on or not target.send(client, head):
                break
    target.enough.wait(PATIENCE)
    for client in clients:
        client.socket.close()


def parked_and_reset(target: Target) -> None:
    """Calls that wait because the client does not read, and are reset while they do."""
    while target.goes_on:
        with target.connect(settings=[(4, 0)]) as client:
            client.socket.settimeout(2.0)
            for stream in range(1, 41, 2):
                client.send(request(client, stream) + frame(DATA, END_STREAM, stream, MANY))
            for stream in range(41, 2041, 2):
                calls = request(client, stream) + frame(
                    DATA, END_STREAM, stream, prefixed(b"\x1a\x80\x70" + bytes(14_336))
                )
                if not target.goes_on or not target.send(client, calls + frame(RST_STREAM, 0, stream, number(8))):
                    break


def many_windows(target: Target) -> None:
    """Each frame of SETTINGS changes the windows of a thousand calls, again and again."""
    change = b"".join([struct.pack(">HI", 4, 1000 + each) for each in range(32)])
    while target.goes_on:
        with target.connect() as client:
            client.send(b"".join([request(client, stream) for stream in range(1, 1900, 2)]))
            while target.goes_on and target.send(client, frame(SETTINGS, 0, 0, change) * 20):
                pass


def do_not_read(target: Target) -> None:
    """Ten clients ask for all they can in huge windows, and read nothing."""
    clients = [target.connect(settings=[(4, 2**31 - 1)], buffers=4096) for _ in range(10)]
    for client in clients:
        client.send(frame(WINDOW_UPDATE, 0, 0, number(2**31 - 1 - 65_535)))
    ask_for_many(target, clients)


def windows_of_nothing(target: Target) -> None:
    """Ten clients ask for all they can and give no window for it."""
    ask_for_many(target, [target.connect(settings=[(4, 0)]) for _ in range(10)])


def windows_of_one(target: Target) -> None:
    """A client gives one octet of window at a time."""
    while target.goes_on:
        with target.connect(settings=[(4, 0)]) as client:
            for stream in range(1, 401, 2):
                client.send(request(client, stream) + frame(DATA, END_STREAM, stream, MANY))
            count = 0
            while target.goes_on and target.send(
                client, b"".join([frame(WINDOW_UPDATE, 0, (count + n) % 200 * 2 + 1, number(1)) for n in range(100)])
            ):
                count += 100


def silent(target: Target) -> None:
    """Many connections that say nothing, half a preface, or half a frame."""
    said = [b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS, 0, 0)[:5]]
    clients = [target.connect(greet=False) for _ in range(300)]
    for each, client in enumerate(clients):
        target.send(client, said[each % 4])
    target.enough.wait(PATIENCE)
    for client in clients:
        client.socket.close()


def slow_headers(target: Target) -> None:
    """Many connections that begin a header block, as large as one may be, and never end it."""
    clients = [target.connect() for _ in range(300)]
    for client in clients:
        target.send(client, frame(HEADERS, 0, 1, b"x" * 16_384) + frame(CONTINUATION, 0, 1, b"x" * 16_383))
    target.enough.wait(PATIENCE)
    for client in clients:
        client.socket.close()


def gzip_bombs(target: Target) -> None:
    bomb = prefixed(gzip.compress(bytes(50_000_000)), flag=1)
    while target.goes_on:
        with target.connect() as client:
            target.sent += 60_000
            answer = client.call(NEXT, bomb[:60_000], ("grpc-encoding", "gzip"))
            assert answer.status in (8, 13)


def noise(target: Target) -> None:
    """Frames of every kind, with anything inside."""
    rng = random.Random(5)

    def anything(_: int) -> bytes:
        return frame(rng.randrange(12), rng.randrange(256), rng.randrange(8), rng.randbytes(rng.randrange(30)))

    flood(lambda client, stream: anything, call=True)(target)


def bomb_of_references(client: RawClient, stream: int) -> Callable[[int], bytes]:
    length = b"\x7f" + bytes((0x80 | (3900 - 127) & 0x7F, (3900 - 127) >> 7))
    block = b"\x40\x01x" + length + b"v" * 3900 + b"\xbe" * 12_000
    return lambda n: frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, block)


def malformed(*heads: Fields) -> Attack:
    """Calls with these heads in turn, and one request's data behind each."""

    def make(client: RawClient, _: int) -> Callable[[int], bytes]:
        blocks = [client.encoder.encode(head) for head in heads]

        def call(n: int) -> bytes:
            stream = 2 * n + 1
            head = frame(HEADERS, END_HEADERS, stream, blocks[n % len(blocks)])
            return head + frame(DATA, END_STREAM, stream, ORDER)

        return call

    return flood(make)


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
    "slow headers": slow_headers,
    "paths without a slash": malformed(
        call_fields("x"), call_fields("x" * 1000), call_fields(NEXT[1:]), call_fields("*")
    ),
    "connection-specific headers": malformed(
        *(
            call_fields(NEXT, field)
            for field in (("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "h2c"), ("te", "gzip"))
        )
    ),
    "lengths that are not the data's": malformed(
        *(call_fields(NEXT, ("content-length", str(len(ORDER) + each))) for each in (-1, 1, 2**62))
    ),
    "SETTINGS of a thousand calls": many_windows,
    "SETTINGS": flood(lambda c, s: lambda n: frame(SETTINGS, 0, 0, struct.pack(">HI", 4, n % 1000))),
    "PING": flood(lambda c, s: lambda n: frame(PING, 0, 0, b"12345678")),
    "PRIORITY": flood(lambda c, s: lambda n: frame(PRIORITY, 0, 2 * n + 1, b"\0\0\0\0\1")),
    "empty DATA": flood(lambda c, s: lambda n: frame(DATA, 0, s), call=True),
    "empty DATA of a call that is over": pour(lambda c: frame(DATA, 0, refused(c)) * 20_000),
    "octets of a call that is over": pour(lambda c: frame(DATA, 0, refused(c), b"x") * 20_000),
    "octets of a stream": pour(lambda c: frame(DATA, 0, c.open(call_fields(STREAM)), b"\0") * 20_000),
    "large heads": large_heads,
    "varints without end": flood(
        lambda c, s: lambda n: request(c, 2 * n + 1) + frame(DATA, END_STREAM, 2 * n + 1, prefixed(b"\xff" * 5000))
    ),
    "prefixes of 4 GiB": flood(
        lambda c, s: lambda n: request(c, 2 * n + 1) + frame(DATA, 0, 2 * n + 1, b"\0\xff\xff\xff\xff" + b"x" * 100)
    ),
    "half-sent calls": half_sent,
    "calls that are reset while they wait": parked_and_reset,
    "clients that don't read": do_not_read,
    "windows of nothing": windows_of_nothing,
    "windows of one octet": windows_of_one,
    "silent connections": silent,
    "gzip bombs": gzip_bombs,
    "noise": noise,
}

OVER_TLS = ("clients that don't read", "rapid reset")
"""Attacks that are run over TLS, too: its records are buffers of their own."""


def nodes(serving: Serving) -> list[int]:
    """Give the processes that a `goloves serve` has started."""
    parent = serving.process.pid
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def resident(serving: Serving) -> int:
    """Octets of memory that its nodes hold."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in nodes(serving))


def busy(serving: Serving) -> float:
    """Seconds of CPU that its nodes have taken."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in nodes(serving)]
    return sum(int(times[11]) + int(times[12]) for times in fields) / 100


class Bystander:
    """An honest client on a connection of its own: single calls, and a stream that it keeps."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = SnowflakeServiceStub(channel)
        self._asks: queue.Queue[pb.SnowflakeNextRequest | None] = queue.Queue()
        self._answers = self._stub.Stream(iter(self._asks.get, None))
        self.took: list[float] = []

    def call(self) -> None:
        """Make a call of each kind. Ids of a space: attackers draw those of the tag as fast as the store gives them."""
        begun = time.monotonic()
        assert len(self._stub.Next(pb.SnowflakeNextRequest(), timeout=PATIENCE).ids) == 1
        between = time.monotonic()
        self._asks.put(pb.SnowflakeNextRequest(count=100))
        assert len(next(self._answers).ids) == 100
        self.took += (between - begun, time.monotonic() - between)

    def close(self) -> None:
        self._asks.put(None)
        assert list(self._answers) == []


LENIENT = {"GOLOVES_SERVER__UNRESPONSIVE": "600"}
"""A node that hangs is told by those who wait for it, and not killed before they can."""


@pytest.fixture
def node(start: Start) -> Serving:
    """Each attack has a node of its own: memory that an earlier one made it hold would hide what this one costs."""
    serving = start("--grpc", "127.0.0.1:0", GOLOVES_SEGMENT__DEADLINE="10", **LENIENT)
    serving.ready()
    return serving


@pytest.fixture
def node_with_tls(start: Start, tmp_path: Path) -> tuple[Serving, bytes]:
    pair = self_signed()
    certificate, key = pair.write(tmp_path, "server")
    files = {"GOLOVES_TLS__CERTIFICATE": str(certificate), "GOLOVES_TLS__KEY": str(key)}
    serving = start("--grpc", "127.0.0.1:0", **files, **LENIENT)
    serving.says(r"^Goloves .* listens on https://")
    return serving, pair.certificate


def port_of(serving: Serving) -> int:
    return int(serving.says(r"^  gRPC     (\S+)")[1].rpartition(":")[2])


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_peer_costs_bounded_memory_and_others_are_served(node: Serving, name: str) -> None:
    target = Target(port_of(node))
    with grpc.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        withstand(node, target, ATTACKS[name], channel)


@pytest.mark.parametrize("name", OVER_TLS)
def test_the_same_holds_over_tls(node_with_tls: tuple[Serving, bytes], name: str) -> None:
    node, trusted = node_with_tls
    context = ssl.create_default_context(cadata=trusted.decode())
    context.set_alpn_protocols(["h2"])
    target = Target(port_of(node), context)
    with grpc.secure_channel(f"localhost:{target.port}", grpc.ssl_channel_credentials(trusted)) as channel:
        withstand(node, target, ATTACKS[name], channel)


def withstand(node: Serving, target: Target, attack: Attack, channel: grpc.Channel) -> None:
    """Attack a node, and look at what it does to its memory, to a bystander, and to its rest afterwards."""
    bystander = Bystander(channel)
    for _ in range(20):
        bystander.call()
    bystander.took.clear()
    before = most = resident(node)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while target.goes_on:
                try:
                    attack(target)
                except (OSError, GoneError):
                    continue  # the node may end the connection at any moment
        except BaseException as error:
            failures.append(error)

    attacker = threading.Thread(target=run)
    attacker.start()
    try:
        begun = time.monotonic()
        while len(bystander.took) < 2 * ROUNDS or not target.sent or time.monotonic() < begun + LASTS:
            bystander.call()
            most = max(most, resident(node))
            assert time.monotonic() < begun + PATIENCE
        assert attacker.is_alive()
    finally:
        target.enough.set()
        attacker.join()
    assert not failures
    assert most - before < MEMORY, f"the node grew by {(most - before) / 1e6:.0f} MB"
    assert statistics.median(bystander.took) < USUAL, f"a bystander waits for {statistics.median(bystander.took):.3f} s"
    assert max(bystander.took) < SLOWEST, f"a bystander waited for {max(bystander.took):.2f} s"
    come_to_rest(node)
    bystander.call()
    bystander.close()
    assert node.process.poll() is None
    assert node.stop() == 0


def come_to_rest(node: Serving) -> None:
    """Wait until the node does next to nothing."""
    deadline = time.monotonic() + PATIENCE
    while True:
        begun, spent = time.monotonic(), busy(node)
        threading.Event().wait(0.2)
        share = (busy(node) - spent) / (time.monotonic() - begun)
        if share < AT_REST:
            return
        assert time.monotonic() < deadline, f"a node that nobody attacks any more takes {share:.0%} of a core"
