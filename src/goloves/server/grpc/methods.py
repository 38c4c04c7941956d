"""What a gRPC service is made of: methods of the four kinds, and a table of them.

A handler gets the request and the `Call`; it gives the answer or raises `CallError`:

    unary               async def handler(request, call) -> answer
    client streaming    async def handler(requests, call) -> answer           # `async for request in requests`
    server streaming    async def handler(request, call): yield answer
    bidirectional       async def handler(requests, call): yield answer

It runs in a task of its own, which is cancelled when the client cancels, when the deadline passes and when the
connection is lost. Whatever else it raises, cancellations of others included, is logged and becomes INTERNAL without a
word to the client.

A method may have a quick way beside its handler: `quick` gets a whole message with its prefix and gives the answer's,
or None: then nothing has happened and the handler is called. It must not wait. A unary call that is answered by it
never becomes a task; a stream's messages go to it one by one while its handler waits for the next.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from goloves.wire.grpc import CallError, Metadata, Status
from goloves.wire.http2.requests import Quick
from goloves.wire.messages import DamagedMessage

R = TypeVar("R")

# Requests and answers are whatever a method's `read` gives and its `write` takes: no type can say that they fit.
Handler = Callable[[Any, "Call"], Awaitable[Any]]
StreamingHandler = Callable[[Any, "Call"], AsyncIterator[Any]]


class Call(Protocol):
    """What a handler can ask about its call."""

    @property
    def method(self) -> str:
        """The full name, `package.Service/Method`."""

    @property
    def metadata(self) -> Metadata:
        """What the client sent, in order; `-bin` values as bytes."""

    @property
    def peer(self) -> str:
        """The client's address; empty on a Unix socket."""

    def time_left(self) -> float | None:
        """Give the seconds until the client's deadline; None if it has none."""

    def send_metadata(self, metadata: Metadata) -> None:
        """Send metadata ahead of the first answer; once, and not after it."""

    def set_trailers(self, metadata: Metadata) -> None:
        """Say what metadata shall follow the last answer, also if the call fails."""


@dataclass(frozen=True, slots=True)
class Method:
    """How one method is called. See the module's text."""

    read: Callable[[bytes], Any]
    """Reads a request's message; raises CallError if it can't."""
    write: Callable[[Any], bytes]
    """Writes an answer's message."""
    unary: Handler | None = None
    """The handler, if there is one answer; else `streaming` is it."""
    streaming: StreamingHandler | None = None
    many_requests: bool = False
    quick: Quick | None = None

    def __post_init__(self) -> None:
        if (self.unary is None) == (self.streaming is None):
            raise ValueError("a method has one handler: `unary` or `streaming`")


@dataclass(frozen=True, slots=True)
class Service:
    """A service and its methods, by name."""

    name: str
    """With its package: `grpc.health.v1.Health`."""
    methods: Mapping[str, Method]


def reader(read: Callable[[bytes], R]) -> Callable[[bytes], R]:
    """Give a method's `read` out of what reads a message by hand (`wire.messages`)."""

    def checked(message: bytes) -> R:
        try:
            return read(message)
        except DamagedMessage as damage:
            raise CallError(Status.INTERNAL, f"the request is no protobuf message of this method: {damage}") from None

    return checked
