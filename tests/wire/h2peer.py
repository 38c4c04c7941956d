"""A client's side for tests of `wire/http2`: makes frames, feeds a connection, reads what it gives."""

import struct
from dataclasses import dataclass, field

import hpack

from goloves.wire.hpack import Recognizer, encode
from goloves.wire.http2 import Connection, Event, Limits, RequestReader, RequestReceived
from goloves.wire.http2.connection import WISHED_TABLE
from goloves.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    HEADER,
    PREFACE,
    SETTINGS_ACK,
    Code,
    Kind,
    Setting,
    frame,
    settings_frame,
    window_frame,
)

Fields = list[tuple[bytes, bytes]]

REQUEST: Fields = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/pkg.Service/Method"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
HEAD = encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encode([(b"grpc-status", b"0")])


@dataclass(frozen=True)
class Got:
    """A frame that the connection sent."""

    kind: Kind
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> Code:
        """The error code of a RST_STREAM or GOAWAY."""
        at = 4 if self.kind is Kind.GOAWAY else 0
        return Code(struct.unpack_from(">I", self.payload, at)[0])


def parse(data: bytes) -> list[Got]:
    found = []
    at = 0
    while at < len(data):
        head, flags, stream = HEADER.unpack_from(data, at)
        end = at + 9 + (head >> 8)
        assert end <= len(data)
        found.append(Got(Kind(head & 0xFF), flags, stream, data[at + 9 : end]))
        at = end
    return found


def is_number(value: bytes) -> bool:
    return value.isdigit()


is_coded_number = Recognizer(0, lambda _, octet: 1 if 48 <= octet <= 57 else None, lambda state: state == 1)


@dataclass
class Peer:
    """Feeds a connection; `sent` has all frames that it gave, `events` all events."""

    limits: Limits = field(default_factory=Limits)
    reader: RequestReader = field(default_factory=lambda: RequestReader(b"grpc-timeout"))
    greet: bool = True
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.connection = Connection(self.reader, self.limits, self.now)
        self.encoder = hpack.Encoder()
        self.events: list[Event] = []
        self.sent: list[Got] = []
        if self.greet:
            self.encoder.header_table_size = WISHED_TABLE
            self.feed(PREFACE + settings_frame([]) + SETTINGS_ACK)
            self.sent.clear()

    def feed(self, data: bytes) -> list[Event]:
        events = self.connection.receive(data, self.now)
        self.collect(events)
        return events

    def collect(self, events: list[Event] | None = None) -> None:
        self.events += events or []
        self.sent += parse(self.connection.take_output())

    def tick(self) -> None:
        self.collect(self.connection.tick(self.now))

    def headers(
        self, stream: int, fields: Fields | None = None, *, end: bool = False, more: Fields | None = None
    ) -> bytes:
        block = self.encoder.encode((REQUEST if fields is None else fields) + (more or []))
        return frame(Kind.HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)

    def open(self, stream: int, *, end: bool = False, more: Fields | None = None) -> None:
        self.feed(self.headers(stream, end=end, more=more))
        assert isinstance(self.events[-1], RequestReceived)
        self.sent.clear()

    def answer(self, stream: int, data: bytes = b"answer") -> None:
        self.connection.start_answer(stream, HEAD)
        self.connection.send_data(stream, data)
        self.connection.end_answer(stream, TRAILERS)
        self.collect()

    def of(self, kind: Kind) -> list[Got]:
        return [got for got in self.sent if got.kind is kind]

    @property
    def goaway(self) -> Code | None:
        """The code with which the connection failed; None if it goes on."""
        found = self.of(Kind.GOAWAY)
        assert self.connection.failed == bool(found)
        return found[0].code if found else None

    @property
    def resets(self) -> list[tuple[int, Code]]:
        return [(got.stream, got.code) for got in self.of(Kind.RST_STREAM)]


def data(stream: int, payload: bytes = b"data", *, end: bool = False) -> bytes:
    return frame(Kind.DATA, END_STREAM if end else 0, stream, payload)


def setting(name: Setting, value: int) -> bytes:
    return settings_frame([(name, value)])


__all__ = ["HEAD", "REQUEST", "TRAILERS", "Got", "Peer", "data", "frame", "parse", "setting", "window_frame"]
