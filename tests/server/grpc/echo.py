"""The service of echo.proto, and a stub of grpcio for it: proof that any protobuf service can be mounted."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from goloves.server.grpc.methods import Call, Method, Service
from goloves.wire.grpc import CallError, Metadata, Status

NAME = "test.echo.Echo"
DETAILS = b"\x08\x03\x12\x07details"
TRAILERS: Metadata = [("x-trailer", "one"), ("x-trailer", "two"), ("x-trailer-bin", b"\x00\xff")]


@cache
def pool() -> DescriptorPool:
    here = Path(__file__).parent
    with TemporaryDirectory() as directory:
        out = Path(directory) / "set"
        assert protoc.main(["protoc", f"-I{here}", f"--descriptor_set_out={out}", "echo.proto"]) == 0
        found = FileDescriptorSet.FromString(out.read_bytes())
    made = DescriptorPool()
    for file in found.file:
        made.Add(file)
    return made


def message(name: str) -> Any:
    return GetMessageClass(pool().FindMessageTypeByName(f"test.echo.{name}"))


def protobuf_service(descriptor: ServiceDescriptor, handlers: Mapping[str, Any]) -> Service:
    methods = {}
    for method in descriptor.methods:
        kind = "streaming" if method.server_streaming else "unary"
        extra = {kind: handlers[method.name], "many_requests": method.client_streaming}
        methods[method.name] = Method(reader(GetMessageClass(method.input_type)), writer, **extra)
    return Service(descriptor.full_name, methods)


def reader(kind: type[Message]) -> Any:
    def read(data: bytes) -> Message:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise CallError(Status.INTERNAL, f"the request is no {kind.DESCRIPTOR.full_name}: {error}") from None

    return read


def writer(message: Message) -> bytes:
    return message.SerializeToString()


class Echo:
    """The service; `seen` is what its handlers met, for tests to look at."""

    def __init__(self) -> None:
        self.answer = message("Answer")
        self.seen: list[str] = []
        self.metadata: Metadata = []
        self.time_left: float | None = None
        self.gathered = 0

    def service(self) -> Service:
        handlers: dict[str, Any] = {"Once": self.once, "Gather": self.gather, "Spread": self.spread, "Chat": self.chat}
        return protobuf_service(pool().FindServiceByName(NAME), handlers)

    async def _obey(self, ask: Any, call: Call) -> None:
        self.seen.append(ask.text)
        self.metadata = call.metadata
        self.time_left = call.time_left()
        if ask.text == "head":
            call.send_metadata([("x-head", "early"), ("x-head-bin", b"\x01\x02")])
        if ask.text == "trailers":
            call.set_trailers(TRAILERS)
        if ask.wait:
            try:
                await asyncio.sleep(ask.wait)
            except asyncio.CancelledError:
                self.seen.append("cancelled")
                raise
        if ask.text == "another's end":
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other
        if ask.text == "fault":
            raise ZeroDivisionError("a fault of the handler's")
        if ask.fail:
            raise CallError(Status(ask.fail), f"fäil 100%\n{ask.text}", details=DETAILS, trailers=TRAILERS)

    async def once(self, ask: Any, call: Call) -> Any:
        await self._obey(ask, call)
        return self.answer(text=ask.text * max(1, ask.times), body=ask.body, number=1)

    async def gather(self, asks: AsyncIterator[Any], call: Call) -> Any:
        texts = []
        async for ask in asks:
            await self._obey(ask, call)
            texts.append(ask.text)
            self.gathered += 1
            if ask.text == "enough":
                break
        return self.answer(text=",".join(texts), number=len(texts))

    async def spread(self, ask: Any, call: Call) -> AsyncIterator[Any]:
        for number in range(ask.times):
            yield self.answer(text=ask.text, body=ask.body, number=number)
        await self._obey(ask, call)

    async def chat(self, asks: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        async for ask in asks:
            await self._obey(ask, call)
            for number in range(max(1, ask.times)):
                yield self.answer(text=ask.text, body=ask.body, number=number)


class Stub:
    """What protoc would generate, over a channel of either kind."""

    def __init__(self, channel: Any) -> None:
        ask, answer = message("Ask"), message("Answer")
        for name, kind in (
            ("Once", "unary_unary"),
            ("Gather", "stream_unary"),
            ("Spread", "unary_stream"),
            ("Chat", "stream_stream"),
        ):
            made = getattr(channel, kind)(
                f"/{NAME}/{name}",
                request_serializer=ask.SerializeToString,
                response_deserializer=answer.FromString,
                _registered_method=True,
            )
            setattr(self, name.lower(), made)
        self.once: Any
        self.gather: Any
        self.spread: Any
        self.chat: Any


def ask(text: str = "", **more: Any) -> Any:
    return message("Ask")(text=text, **more)


__all__ = ["DETAILS", "NAME", "TRAILERS", "Echo", "Stub", "ask", "grpc", "message"]
