"""A layer above a connection for tests of `wire/http2`: answers calls by the quick way too, or by the long one only."""

from goloves.wire.http2 import (
    Connection,
    DataReceived,
    Event,
    Limits,
    QuickWay,
    Request,
    RequestReader,
    RequestReceived,
    StreamReset,
    TrailersReceived,
)
from goloves.wire.http2.frames import Code, Kind
from wire.h2peer import HEAD, TRAILERS, Got, is_coded_number, is_number, parse

ANSWER = b"an answer of some length"


def answer_to(body: bytes) -> bytes | None:
    """Answer bodies that begin with q at once, others later."""
    if body == b"Q":
        return b"a" * 10_000
    return ANSWER + body if body[:1] == b"q" else None


class Server:
    """A layer above the connection; `quick` says whether it offers the quick way."""

    def __init__(self, limits: Limits, *, quick: bool) -> None:
        way = QuickWay(self.prepare, is_number, is_coded_number, HEAD, TRAILERS) if quick else None
        self.connection = Connection(RequestReader(b"grpc-timeout", way), limits, 0.0)
        self.bodies: dict[int, bytes] = {}
        self.out: list[Got] = []

    @staticmethod
    def prepare(request: Request) -> None:
        if request.content_length is None:
            request.quick = answer_to

    def feed(self, piece: bytes) -> None:
        for event in self.connection.receive(piece, 0.0):
            self.take(event)
        self.out += parse(self.connection.take_output())

    def take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            if event.varying is not None and not is_number(event.varying):
                self.connection.reset(event.stream, Code.INTERNAL_ERROR)
                return
            self.bodies[event.stream] = b""
            if event.ended:
                self.end(event.stream)
        elif isinstance(event, DataReceived):
            self.connection.credit(event.stream, len(event.data))
            if event.stream in self.bodies:
                self.bodies[event.stream] += event.data
                if event.ended:
                    self.end(event.stream)
        elif isinstance(event, TrailersReceived):
            self.end(event.stream)
        elif isinstance(event, StreamReset):
            self.bodies.pop(event.stream, None)

    def end(self, stream: int) -> None:
        answer = answer_to(self.bodies.pop(stream, b""))
        if answer is None:
            self.connection.reset(stream, Code.CANCEL)
            return
        self.connection.start_answer(stream, HEAD)
        self.connection.send_data(stream, answer)
        self.connection.end_answer(stream, TRAILERS)

    def by_stream(self) -> dict[int, list[tuple[Kind, int, bytes]]]:
        found: dict[int, list[tuple[Kind, int, bytes]]] = {}
        for got in self.out:
            if got.stream:
                found.setdefault(got.stream, []).append((got.kind, got.flags, got.payload))
        return found

    def credited(self) -> int:
        """Octets of credit that the client has, with those that wait to be given."""
        given = sum(int.from_bytes(got.payload, "big") for got in self.out if got.kind is Kind.WINDOW_UPDATE)
        return given + self.connection._uncredited

    def room(self) -> int:
        """Octets that the connection takes, with those for which no credit was given yet."""
        return self.connection._receive_window + self.connection._uncredited
