"""Feeds `wire/` with damaged input: `PYTHONPATH=tests python tests/wire/fuzz.py EXECUTIONS`, so many of each target.
What it must never do is raise, break a limit, take too long, or answer a call by the quick way as it would not by the
table.

Input is made by changing inputs that are kept in `corpus/`. One that makes a target behave in a way not seen before
(another fault, another sequence of events or frames) is kept too, so that the corpus reaches ever further; one that
breaks a promise is written there and named.

Why not atheris: libFuzzer ends the process that it runs in, so the run inside of the test suite would be another one's;
it is led by the lines that were reached, while two answers that differ count here though the same lines give them;
and atheris 3.0 has wheels for Linux on x86-64 up to Python 3.13 alone.
"""

import hashlib
import random
import re
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

from goloves.wire.grpc import (
    CallError,
    MessageReader,
    frame_message,
    has_time,
    is_grpc,
    metadata_fields,
    percent_decode,
    percent_encode,
    read_metadata,
    request_encoding,
    subtype,
    timeout_seconds,
)
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
from goloves.wire.http2.requests import Malformed, check_field
from goloves.wire.messages import DamagedMessage, read_decode, read_health, read_lease, read_next, read_nothing
from wire.h2peer import HEAD, REQUEST, TRAILERS, Peer, data, is_coded_number, is_number, window_frame
from wire.h2server import Server

CORPUS = Path(__file__).parent / "corpus"
MOST_KEPT = 100
"""Inputs kept of each target: enough to reach far, few enough to be read again in each test run."""
LONGEST = 40_000
"""Octets of an input: two of the largest frames, and more."""

TIME = 0.05
TIME_OF_OCTET = 15e-6
"""Seconds of the processor that an input may take, and those that each of its octets adds: ten times what the slowest
ones take, so that what grows by the square of an input's length shows and a slow machine does not."""
TRIES = 3
"""How often in a row an input has to be too slow: Python's collector may run in any one."""

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
    """Read the messages that are read by hand: of ids and of health."""
    found: list[Hashable] = []
    for read in (read_next, read_lease, read_decode):
        try:
            name, number = read(piece)
            assert -(2**63) <= number < 2**64
            found.append((bool(name), number > 0))
        except DamagedMessage as damage:
            found.append(str(damage)[:20])
    for whole in (read_health, read_nothing):
        try:
            found.append(bool(whole(piece)))
        except DamagedMessage as damage:
            found.append(str(damage)[:20])
    return tuple(found)


NAMED = re.compile(r"""(['"]).*\1""")
"""What a fault repeats of its input."""


def metadata(piece: bytes) -> Behaviour:
    """Read lines as the fields of a call, and as its metadata; what is right has to come back when it is written."""
    fields, found = [], set[Hashable]()
    for line in piece.split(b"\n"):
        name, _, value = line.partition(b":")
        try:
            check_field(name, value)
            fields.append((name, value))
        except Malformed as fault:
            found.add(NAMED.sub("", str(fault))[:24])
    try:
        read = read_metadata(fields)
    except CallError as error:
        return frozenset(found | {error.status})
    found |= {(type(value).__name__, bool(value)) for _, value in read}
    try:
        written = metadata_fields(read)
    except ValueError as fault:
        return frozenset(found | {NAMED.sub("", str(fault))[:24]})
    assert read_metadata(written) == read
    return frozenset(found)


def values(piece: bytes) -> Behaviour:
    """Read a value as that of each field that is gRPC's own."""
    message = percent_decode(piece)
    written = percent_encode(message)
    assert all(0x20 <= octet <= 0x7E for octet in written)
    assert percent_decode(written) == message
    seconds = timeout_seconds(piece)
    assert has_time(piece) is bool(seconds)
    try:
        encoding = request_encoding([(b"grpc-encoding", piece)])
    except CallError as error:
        assert len(error.message) < 1000
        encoding = b""
    escaped = "\ufffd" in message, written == piece, len(message) < len(piece), not message.isascii()
    return escaped, seconds is not None and min(len(piece), 4), is_grpc(piece), len(subtype(piece)) % 4, encoding


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
    if target == "metadata":
        binary = b"x-data-bin:" + b64encode(bytes(range(250, 256))) + b",YQ,YWI="
        return [
            binary,
            b"x-one:1\ngrpc-timeout:5S\nx-one:2\ncontent-type:application/grpc",
            b"x-text:\xc3\xa4 \xff\nte:trailers",
        ]
    if target == "values":
        return [b"f%C3%A4il 100%25%0A", b"99999999n", b"application/grpc+proto; a=b", b"gzip", b"identity"]
    return [b"\x0a\x05order\x10\x03", b"\x0a\x07default\x11" + bytes(8), b"\x1b\x08\x01\x1c"]


TARGETS: dict[str, Callable[[bytes], Behaviour]] = {
    "hpack": hpack,
    "http1": http1,
    "http2": http2,
    "quick": quick,
    "framing": framing,
    "messages": messages,
    "metadata": metadata,
    "values": values,
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
            behaviour = self.behave(piece)
        except Exception:
            path = self.save(piece, CORPUS / self.name)
            sys.stderr.write(f"{self.name}: a promise is broken by {path}\n")
            raise
        if not new or behaviour not in self.known:
            self.inputs.append(piece)
            if new and self.keep is not None and len(self.inputs) <= MOST_KEPT:
                self.save(piece, self.keep / self.name)
        self.known.add(behaviour)

    def behave(self, piece: bytes) -> Behaviour:
        """Give what the target makes of an input, in time."""
        most = TIME + TIME_OF_OCTET * len(piece)
        for _ in range(TRIES):
            begun = time.thread_time()
            behaviour = TARGETS[self.name](piece)
            took = time.thread_time() - begun
            if took <= most:
                return behaviour
        raise AssertionError(f"{len(piece)} octets took {took:.3f} s; at most {most:.3f} s are due")

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
