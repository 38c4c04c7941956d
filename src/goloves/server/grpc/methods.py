"""What a gRPC service is made of: methods of the four kinds, and a table of them.

A handler gets the request and the `Call`; it gives the answer or raises `CallError`:

    unary               async def handler(request, call) -> answer
    client streaming    async def handler(requests, call) -> answer           # `async for request in requests`
    server streaming    async def handler(request, call): yield answer
    bidirectional       async def handler(requests, call): yield answer

It runs in a task of its own, which is cancelled when the client cancels, when the deadline passes and when the
connection is lost. Whatever else it raises is logged and becomes INTERNAL without a word to the client.

A method may have a quick way beside its handler: `quick` gets a whole message with its prefix and gives the answer's,
or
None: then nothing has happened and the handler is called. It must not wait. A unary call that is answered by it never
becomes a task; a stream's messages go to it one by one while its handler waits for the next.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from goloves.server.grpc.descriptors import describing
from goloves.wire.grpc import CallError, Metadata, Status
from goloves.wire.http2.requests import Quick

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
    max_message: int | None = None
    """Octets of a request's message; None takes the server's limit."""

    def __post_init__(self) -> None:
        if (self.unary is None) == (self.streaming is None):
            raise ValueError("a method has one handler: `unary` or `streaming`")


@dataclass(frozen=True, slots=True)
class Service:
    """A service and its methods, by name."""

    name: str
    """With its package: `grpc.health.v1.Health`."""
    methods: Mapping[str, Method]
    files: Iterable[FileDescriptorProto] = field(default=())
    """The files that describe it, those that they import included, for reflection."""


def protobuf_service(
    descriptor: ServiceDescriptor, handlers: Mapping[str, Handler | StreamingHandler], **more: Mapping[str, Any]
) -> Service:
    """Make a service of what protobuf knows about it; each method needs a handler.

    `more` sets further fields of single methods: `quick={"Next": …}`.
    """
    missing = sorted({method.name for method in descriptor.methods} ^ set(handlers))
    if missing:
        raise ValueError(f"{descriptor.full_name}: methods and handlers differ in {', '.join(missing)}")
    methods = {}
    for method in descriptor.methods:
        name = method.name
        kind = "streaming" if method.server_streaming else "unary"
        extra = {key: values[name] for key, values in more.items() if name in values}
        methods[name] = Method(
            reader(GetMessageClass(method.input_type)),
            writer,
            many_requests=method.client_streaming,
            **{kind: handlers[name]},  # type: ignore[arg-type]
            **extra,
        )
    return Service(descriptor.full_name, methods, describing(descriptor))


def reader(kind: type[Message]) -> Callable[[bytes], Message]:
    """Give what reads messages of this kind."""

    def read(data: bytes) -> Message:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise CallError(Status.INTERNAL, f"the request is no {kind.DESCRIPTOR.full_name}: {error}") from None

    return read


def writer(message: Message) -> bytes:
    """Write a message."""
    return message.SerializeToString()
