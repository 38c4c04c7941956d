"""A client that draws over gRPC, with grpcio as people use it: single calls, leases, and streams."""

from collections.abc import Awaitable, Callable, Sequence

import grpc

from goloves.v1 import goloves_pb2 as pb
from goloves.v1 import goloves_pb2_grpc as pb_grpc

PATIENCE = 60.0
"""Seconds after which a call is given up: nothing here takes that long."""

OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
"""Quick to find a node again, and nothing is repeated behind our back."""

STATUSES = {
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.OUT_OF_RANGE,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""What a refusal is called here that has this status over HTTP."""

NumbersGiven = Callable[[str, int, int, bool], None]
"""Told of a tag, a start, an end, and whether it is a range of the caller's own."""

IdsGiven = Callable[[str, Sequence[int]], None]
"""Told of a space and ids."""


class Calls:
    """Draws from one life of a node, one call after another, until it is closed."""

    def __init__(
        self, address: str, tags: Sequence[str], spaces: Sequence[str], numbers: NumbersGiven, ids: IdsGiven
    ) -> None:
        """`address`: path of a Unix socket."""
        self._channel = grpc.aio.insecure_channel(f"unix:{address}", options=OPTIONS)
        self._segments = pb_grpc.SegmentServiceStub(self._channel)
        self._snowflakes = pb_grpc.SnowflakeServiceStub(self._channel)
        self._numbers = numbers
        self._ids = ids
        self.ways: list[Callable[[], Awaitable[None]]] = []
        """The calls to make in turn."""
        for tag in tags:
            self.ways += [self._next(tag, 1), self._lease(tag), self._next(tag, 37), self._stream(tag)]
        for space in spaces:
            self.ways += [self._snowflake(space, 1), self._snowflake(space, 40), self._snowflake_stream(space)]

    async def close(self) -> None:
        await self._channel.close()

    def _next(self, tag: str, count: int) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            answer = await self._segments.Next(pb.SegmentNextRequest(tag=tag, count=count), timeout=PATIENCE)
            self._note(tag, answer.ids)

        return call

    def _lease(self, tag: str) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            answer = await self._segments.Lease(pb.SegmentLeaseRequest(tag=tag, size=15), timeout=PATIENCE)
            self._numbers(tag, answer.start, answer.end, True)

        return call

    def _stream(self, tag: str) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            stream = self._segments.Stream(timeout=PATIENCE)
            for count in (1, 20, 3):
                await stream.write(pb.SegmentNextRequest(tag=tag, count=count))
                answer = await stream.read()
                if answer is grpc.aio.EOF:
                    break
                self._note(tag, answer.ids)
            await stream.done_writing()
            await stream.read()

        return call

    def _snowflake(self, space: str, count: int) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            answer = await self._snowflakes.Next(pb.SnowflakeNextRequest(space=space, count=count), timeout=PATIENCE)
            self._ids(space, answer.ids)

        return call

    def _snowflake_stream(self, space: str) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            stream = self._snowflakes.Stream(timeout=PATIENCE)
            for count in (1, 30):
                await stream.write(pb.SnowflakeNextRequest(space=space, count=count))
                answer = await stream.read()
                if answer is grpc.aio.EOF:
                    break
                self._ids(space, answer.ids)
            await stream.done_writing()
            await stream.read()

        return call

    def _note(self, tag: str, numbers: Sequence[int]) -> None:
        start = before = numbers[0]
        for number in numbers[1:]:
            if number != before + 1:
                self._numbers(tag, start, before + 1, False)
                start = number
            before = number
        self._numbers(tag, start, before + 1, False)


def is_cut(error: grpc.aio.AioRpcError) -> bool:
    """Say whether a call ended with its connection, as far as that can be told.

    "Internal error from Core" are grpcio's own words, which no server sends: it says so, whatever the call's status
    was, when a message could not be written since the call had ended.
    """
    words = str(error.details() or "")
    return (
        error.code() is grpc.StatusCode.UNAVAILABLE
        or "Stream removed" in words
        or "Internal error from Core" in words
        or "connection" in words.lower()
    )
