"""Feeds `wire/` with damaged input: `PYTHONPATH=tests python tests/wire/fuzz.py EXECUTIONS`, so many of each target.
What it must never do is raise, break a limit, or answer a call by the quick way as it would not by the table.

Input is made by changing inputs that are kept in `corpus/`. One that makes a target behave in a way not seen before
(another fault, another sequence of events or frames) is kept too, so that the corpus reaches ever further; one that
breaks a promise is written there and named.
"""

import hashlib
import random
import sys
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

from goloves.wire.grpc import CallError, MessageReader, frame_message
from goloves.wire.hpack import DamagedBlock, Decoder
from goloves.wire.http1 import Continue, Refusal, Requests
from goloves.wire.http1 import Limits as Http1Limits
from goloves.wire.http1 import Request as Http1Request
from goloves.wire.http2 import DataReceived, Limits, QuickWay, Request, RequestReader, RequestReceived
from goloves.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    SETTINGS_ACK,
    Code,
    Kind,
    Setting,
    frame,
    settings_frame,
)
from goloves.wire.messages import DamagedMessage, read_decode, read_lease, read_next
from wire.h2peer import HEAD, REQUEST, TRAILERS, Peer, data, is_coded_number, is_number, window_frame
from wire.h2server import Server

CORPUS = Path(__file__).parent / "corpus"
MOST_KEPT = 60
"""Inputs kept of each target: enough to reach far, few enough to be read again in each test run."""
LONGEST = 40_000
"""Octets of an input: two of the largest frames, and more."""

PATIENCE = 3600.0
"""Seconds after which a run has failed that has not reached its number."""

LIMITS = Limits(streams=4, stream_window=65_535, connection_window=100_000, header_list=2000, header_block=20_000)

Behaviour = Hashable


def hpack(piece: bytes) -> Behaviour:
    """Decode two halves as two blocks of one connection."""
    decoder = Decoder(256)
    found: list[Hashable] = []
    for block in (piece[: len(piece) // 2], piece[len(piece) // 2 :]):
        try:
            found.append(min(len(decoder.decode(block)), 3))
        except DamagedBlock as damage:
            return (*found, str(damage)[:20])
        finally:
            assert 0 <= decoder.table_size <= 256
    return tuple(found)


def prepare(request: Request) -> None:
    request.quick = lambda body: body[:100] if body[:1] == b"q" else None


def http2(piece: bytes) -> Behaviour:
    """Feed a connection in a few pieces; answer what it brings."""
    way = QuickWay(prepare, is_number, is_coded_number, HEAD, TRAILERS)
    peer = Peer(limits=LIMITS, reader=RequestReader(b"grpc-timeout", way), greet=False)
    connection = peer.connection
    seen: set[Hashable] = set()
    step = max(1, len(piece) // 3)
    for at in range(0, len(piece), step):
        for event in peer.feed(piece[at : at + step]):
            seen.add((type(event).__name__, getattr(event, "reason", "")[:24]))
            if isinstance(event, RequestReceived) and event.stream % 8 == 1:
                connection.start_answer(event.stream, HEAD)
                connection.send_data(event.stream, b"x" * 100)
                connection.end_answer(event.stream, TRAILERS)
            elif isinstance(event, RequestReceived) and event.stream % 8 == 3:
                connection.reset(event.stream, Code.CANCEL)
            elif isinstance(event, DataReceived):
                connection.credit(event.stream, len(event.data))
        peer.now += 1.0
        peer.tick()
        assert connection.calls <= LIMITS.streams
        assert connection.queued >= 0
        assert connection._receive_window >= 0
        assert len(connection._abandoned) <= LIMITS.remembered
    seen |= {(got.kind, got.flags) for got in peer.sent}
    return frozenset(seen)


def quick(piece: bytes) -> Behaviour:
    """Feed frames to a connection with the quick way and to one without; both have to do the same."""
    servers = [Server(LIMITS, quick=way) for way in (True, False)]
    pieces = [PREFACE + settings_frame([]) + SETTINGS_ACK]
    while piece:
        # HEADERS go together with the frame after them, or no call would come whole.
        end = 0
        for _ in range(2 if piece[3:4] == bytes((Kind.HEADERS,)) else 1):
            end += 9 + int.from_bytes(piece[end : end + 3], "big")
        pieces.append(piece[:end])
        piece = piece[end:]
    for each in pieces:
        for server in servers:
            server.feed(each)
    one, other = servers
    assert one.connection.failed == other.connection.failed
    assert one.by_stream() == other.by_stream()
    assert one.connection.calls == other.connection.calls
    assert one.credited() == other.credited()
    seen = {tuple([kind for kind, _, _ in frames]) for frames in one.by_stream().values()}
    known = len(one.connection._patterns), len(one.connection._repeats)
    return min(one.connection.quick_answers, 4), one.connection.failed, frozenset(seen), known


def framing(piece: bytes) -> Behaviour:
    """Cut data into messages, with and without compression."""
    found: list[Hashable] = []
    for encoding in (b"identity", b"gzip"):
        reader = MessageReader(1000, encoding)
        try:
            for at in range(0, len(piece), 7):
                reader.feed(piece[at : at + 7])
                while (message := reader.next()) is not None:
                    assert len(message) <= 1000
                    found.append(min(len(message), 3))
                assert reader.waiting <= 1000 + 1 + 64 + 5 + 7  # gzip may make a message larger
            reader.close()
            reader.next()
        except CallError as error:
            found.append(error.status)
    return tuple(found[:6])


def messages(piece: bytes) -> Behaviour:
    """Read the hot messages."""
    found: list[Hashable] = []
    for read in (read_next, read_lease, read_decode):
        try:
            name, number = read(piece)
            found.append((bool(name), number > 0))
        except DamagedMessage as damage:
            found.append(str(damage)[:20])
    return tuple(found)


HTTP1_LIMITS = Http1Limits(line=200, head=400, headers=16, body=300, framing=100)


def http1(piece: bytes) -> Behaviour:
    """Read requests, whole and in a few pieces, which has to give the same."""
    outcomes: list[tuple[Http1Request | Refusal, ...]] = []
    for step in (len(piece) or 1, max(1, len(piece) // 3), 7):
        requests = Requests(HTTP1_LIMITS)
        found: list[Http1Request | Refusal] = []
        for at in range(0, len(piece), step):
            requests.receive(piece[at : at + step])
            while (event := requests.next()) is not None:
                assert not found or not isinstance(found[-1], Refusal), "after a refusal comes nothing"
                if not isinstance(event, Continue):
                    found.append(event)
            assert requests.waiting <= HTTP1_LIMITS.head, "what is kept of an unfinished request has its limit"
        outcomes.append(tuple(found))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    return tuple(
        event.detail if isinstance(event, Refusal) else (event.minor, event.keep_alive, event.bare, not event.accept)
        for event in outcomes[0][:2]
    )


def quick_calls(table: int, coded: bool) -> bytes:
    """Calls that may be answered at once, of a client that keeps a table of this size; the last two can't be."""
    encoder = Peer().encoder
    encoder.header_table_size = table
    made = []
    for number, timeout in enumerate((b"100", b"101", b"102", b"9", b"soon", None)):
        more = [] if timeout is None else [(b"grpc-timeout", timeout)]
        block = encoder.encode([*REQUEST, *more], huffman=coded)
        stream = 2 * number + 1
        body = b"quick" if more else b"slow"
        made.append(frame(Kind.HEADERS, END_HEADERS, stream, block) + data(stream, body, end=True))
    return b"".join([*made, window_frame(0, 1000), settings_frame([(Setting.INITIAL_WINDOW_SIZE, 100_000)])])


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with: right ones."""
    if target == "http1":
        get = b"GET /a?b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
        post = b"POST http://a/b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"
        chunks = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: 1\r\n\r\n"
        old = b"\r\nOPTIONS * HTTP/1.0\r\nConnection: keep-alive, x\r\n\r\n"
        return [get * 2, post + get, chunks + get, old + post]
    if target == "http2":
        peer = Peer(greet=False)
        hello = PREFACE + settings_frame([]) + SETTINGS_ACK
        call = peer.headers(1, more=[(b"grpc-timeout", b"100")]) + data(1, b"quick", end=True)
        slow = peer.headers(3) + data(3, b"slow") + window_frame(3, 5) + peer.headers(3, [(b"x", b"y")], end=True)
        split = frame(Kind.HEADERS, END_STREAM, 5, peer.encoder.encode(REQUEST)[:3])
        split += frame(Kind.CONTINUATION, END_HEADERS, 5, b"\x82\x86")
        large = frame(Kind.HEADERS, 0, 5, peer.encoder.encode([*REQUEST, (b"x", b"y" * 16_384)])[:16_384])
        large += (
            frame(Kind.CONTINUATION, END_HEADERS, 5, bytes(10)) + peer.headers(7) + data(7, b"q" * 16_384, end=True)
        )
        ping = frame(Kind.PING, 0, 0, bytes(8))
        return [hello + call + slow, hello + call * 3, hello + slow + split, hello + ping, hello + large]
    if target == "quick":
        return [quick_calls(table, coded) for table in (0, 4096) for coded in (False, True)]
    if target == "hpack":
        encoder = Peer(greet=False).encoder
        return [encoder.encode(REQUEST) + encoder.encode(REQUEST), encoder.encode(REQUEST, huffman=False)]
    if target == "framing":
        return [frame_message(b"hello") * 3, frame_message(b"hello " * 300, compress=True)]
    return [b"\x0a\x05order\x10\x03", b"\x0a\x07default\x11" + bytes(8), b"\x1b\x08\x01\x1c"]


TARGETS: dict[str, Callable[[bytes], Behaviour]] = {
    "hpack": hpack,
    "http1": http1,
    "http2": http2,
    "quick": quick,
    "framing": framing,
    "messages": messages,
}


def change(piece: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change an input somehow; `other` is one to borrow from."""
    made = bytearray(piece)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(made) + 1)
        how = rng.randrange(7)
        if how == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif how == 1 and at < len(made):
            made[at] = rng.choice((0, 1, 4, 5, 8, 9, 0x20, 0x7F, 0x80, 0xFF))
        elif how == 2:
            made[at:at] = rng.randbytes(rng.randrange(1, 5))
        elif how == 3:
            del made[at : at + rng.randrange(1, 12)]
        elif how == 4 and other:
            start = rng.randrange(len(other))
            made[at:at] = other[start : start + rng.randrange(1, 60)]
        elif how == 5 and made:
            start = rng.randrange(len(made))
            made[at:at] = made[start : start + rng.randrange(1, 60)]
        elif how == 6:
            made[at:] = other[at:]
    return bytes(made[:LONGEST])


@dataclass
class Fuzzer:
    """Fuzzes one target. `executions` counts how often it was run."""

    name: str
    rng: random.Random
    keep: Path | None = None
    """Where inputs that show something new are kept."""
    executions: int = 0
    inputs: list[bytes] = field(default_factory=list)
    known: set[Behaviour] = field(default_factory=set)

    def __post_init__(self) -> None:
        kept = sorted((CORPUS / self.name).glob("*")) if (CORPUS / self.name).exists() else []
        for piece in [*seeds(self.name), *(path.read_bytes() for path in kept)]:
            self.run(piece, new=False)

    def run(self, piece: bytes, *, new: bool = True) -> None:
        self.executions += 1
        try:
            behaviour = TARGETS[self.name](piece)
        except Exception:
            path = self.save(piece, CORPUS / self.name)
            sys.stderr.write(f"{self.name}: a promise is broken by {path}\n")
            raise
        if not new or behaviour not in self.known:
            self.inputs.append(piece)
            if new and self.keep is not None and len(self.inputs) <= MOST_KEPT:
                self.save(piece, self.keep / self.name)
        self.known.add(behaviour)

    @staticmethod
    def save(piece: bytes, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / hashlib.sha256(piece).hexdigest()[:16]
        path.write_bytes(piece)
        return path

    def step(self) -> None:
        """Run one changed input."""
        self.run(change(self.rng.choice(self.inputs), self.rng.choice(self.inputs), self.rng))


def main() -> None:
    """Run the command."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    wanted, seed = int(sys.argv[1]), random.randrange(2**32)
    rng = random.Random(seed)
    fuzzers = [Fuzzer(name, rng, CORPUS) for name in TARGETS]
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and any(fuzzer.executions < wanted for fuzzer in fuzzers):
        for fuzzer in fuzzers:
            for _ in range(min(50, wanted - fuzzer.executions)):
                fuzzer.step()
    for fuzzer in fuzzers:
        sys.stdout.write(f"{fuzzer.name}: {fuzzer.executions} executions, {len(fuzzer.known)} behaviours\n")
    sys.stdout.write(f"seed {seed}\n")
    if any(fuzzer.executions < wanted for fuzzer in fuzzers):
        sys.exit(f"too few: {wanted} executions of each were due within {PATIENCE:.0f} s")


if __name__ == "__main__":
    main()
