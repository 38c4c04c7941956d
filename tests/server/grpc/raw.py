"""A client that writes what frames it likes and reads strictly what comes back."""

import socket
import ssl
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import hpack

from server.grpc.live import PATIENCE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 7, 8, 11
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 5, 6

Fields = list[tuple[str, str]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def prefixed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def call_fields(path: str, *more: tuple[str, str], content_type: str = "application/grpc") -> Fields:
    head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test")]
    return [*head, ("content-type", content_type), ("te", "trailers"), *more]


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Answer:
    """What came on a stream until its end."""

    head: Fields = field(default_factory=list)
    data: bytes = b""
    trailers: Fields = field(default_factory=list)
    reset: int | None = None
    """Code of the RST_STREAM, if one came."""

    @property
    def status(self) -> int | None:
        found = [value for name, value in self.head + self.trailers if name == "grpc-status"]
        return int(found[0]) if found else None

    @property
    def message(self) -> str:
        return dict(self.head + self.trailers).get("grpc-message", "")


class GoneError(Exception):
    """The connection ended: `code` of the GOAWAY before, None without; `reset` if by a reset."""

    def __init__(self, code: int | None, reason: str, *, reset: bool) -> None:
        super().__init__(f"GOAWAY {code} {reason!r}, reset {reset}")
        self.code = code
        self.reason = reason
        self.reset = reset


class RawClient:
    """A connection of HTTP/2. Acknowledges settings and gives credit by itself, unless told not to."""

    def __init__(
        self,
        port: int,
        *,
        settings: Iterable[tuple[int, int]] = (),
        greet: bool = True,
        credit: bool = True,
        tls: ssl.SSLContext | None = None,
        buffers: int = 0,
    ) -> None:
        self.socket = socket.socket()
        if buffers:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.encoder = hpack.Encoder()
        self.encoder.header_table_size = 0  # as the server asks
        self.decoder = hpack.Decoder()
        self.credit = credit
        self.buffer = b""
        self.goaway: tuple[int, int, str] | None = None
        self.settings: dict[int, int] = {}
        self.pongs: list[bytes] = []
        self.answers: dict[int, Answer] = {}
        self.ended: set[int] = set()
        self.next_stream = 1
        if greet:
            self.send(PREFACE + frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in settings)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def try_send(self, data: bytes) -> bool:
        """Send to a server that may have closed."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def open(self, fields: Fields, *, end: bool = False, stream: int | None = None) -> int:
        """Begin a request, its fields in frames of at most 16 KB; gives its stream."""
        if stream is None:
            stream = self.next_stream
            self.next_stream += 2
        block = self.encoder.encode(fields)
        pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        for number, piece in enumerate(pieces):
            flags = END_HEADERS if number == len(pieces) - 1 else 0
            if number:
                self.send(frame(CONTINUATION, flags, stream, piece))
            else:
                self.send(frame(HEADERS, flags | (END_STREAM if end else 0), stream, piece))
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> Self:
        """Send data, in frames of at most 16 KB, whatever the windows say."""
        pieces = [data[at : at + 16384] for at in range(0, len(data), 16384)] or [b""]
        for number, piece in enumerate(pieces):
            last = end and number == len(pieces) - 1
            self.send(frame(DATA, END_STREAM if last else 0, stream, piece))
        return self

    def call(self, path: str, body: bytes, *more: tuple[str, str], content_type: str = "application/grpc") -> Answer:
        """Make a whole call and read its answer."""
        stream = self.open(call_fields(path, *more, content_type=content_type))
        self.data(stream, body, end=True)
        return self.answer(stream)

    def read_frame(self) -> Frame:
        """Read one frame; GoneError at the end."""
        while len(self.buffer) < 9:
            self._more()
        head, flags, stream = struct.unpack_from(">IBI", self.buffer)
        size = 9 + (head >> 8)
        while len(self.buffer) < size:
            self._more()
        got = Frame(head & 0xFF, flags, stream, self.buffer[9:size])
        self.buffer = self.buffer[size:]
        self._note(got)
        return got

    def answer(self, stream: int) -> Answer:
        """Read until a stream has ended; and the reset that follows an early answer, with `read_until`."""
        while stream not in self.ended:
            self.read_frame()
        return self.answers[stream]

    def read_until(self, kind: int, stream: int | None = None) -> Frame:
        """Read until a frame of this kind."""
        while True:
            got = self.read_frame()
            if got.kind == kind and (stream is None or got.stream == stream) and not (kind == SETTINGS and got.flags):
                return got

    def ping(self) -> Self:
        """Wait for a PING's answer: all that was sent before has been read, if not answered, by then."""
        payload = struct.pack(">d", time.monotonic())
        self.send(frame(PING, 0, 0, payload))
        while payload not in self.pongs:
            self.read_frame()
        return self

    def gone(self) -> GoneError:
        """Read until the server closes; give how."""
        try:
            while True:
                self.read_frame()
        except GoneError as gone:
            return gone

    def _more(self) -> None:
        reset = False
        try:
            data = self.socket.recv(262_144)
        except ConnectionResetError:
            data, reset = b"", True
        if not data:
            _, code, reason = self.goaway or (0, None, "")
            raise GoneError(code, reason, reset=reset)
        self.buffer += data

    def _note(self, got: Frame) -> None:
        answer = self.answers.setdefault(got.stream, Answer()) if got.stream else Answer()
        if got.kind == HEADERS:
            assert got.flags & END_HEADERS
            fields = [(str(name), str(value)) for name, value in self.decoder.decode(got.payload)]
            if answer.head:
                assert got.flags & END_STREAM
                answer.trailers = fields
            else:
                answer.head = fields
        elif got.kind == DATA:
            answer.data += got.payload
            if self.credit and got.payload:
                update = struct.pack(">I", len(got.payload))
                self.try_send(frame(WINDOW_UPDATE, 0, 0, update) + frame(WINDOW_UPDATE, 0, got.stream, update))
        elif got.kind == RST_STREAM:
            answer.reset = struct.unpack(">I", got.payload)[0]
            self.ended.add(got.stream)
        elif got.kind == SETTINGS and not got.flags & ACK:
            for name, value in struct.iter_unpack(">HI", got.payload):
                self.settings[name] = value
            self.try_send(frame(SETTINGS, ACK, 0))
        elif got.kind == PING and got.flags & ACK:
            self.pongs.append(got.payload)
        elif got.kind == PING:
            self.try_send(frame(PING, ACK, 0, got.payload))
        elif got.kind == GOAWAY:
            last, code = struct.unpack_from(">II", got.payload)
            self.goaway = last, code, got.payload[8:].decode()
        if got.kind in (DATA, HEADERS) and got.flags & END_STREAM:
            self.ended.add(got.stream)
