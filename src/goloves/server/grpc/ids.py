"""The two services of ids: what DESIGN's `goloves.v1` says, out of the `IdService`.

Rules:
1. A single id that is at hand is answered by the quick way: two look-ups, `take`, eight octets. The bytes of a
   request lead to its name; what is issued is asked of the service's own tables each time, so that a tag that was
   dropped is gone at once.
2. Everything else goes through the service's slow way and its errors. Both give the same bytes.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from goloves.config.settings import DEFAULT_SPACE
from goloves.errors import InvalidCount, InvalidId
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.grpc.methods import Call, Method, Service, reader
from goloves.service import IdService
from goloves.wire.grpc import PREFIX
from goloves.wire.http2.requests import Quick
from goloves.wire.messages import (
    ONE_ID,
    DamagedMessage,
    decode_response,
    ids_response,
    pack_id,
    range_response,
    read_decode,
    read_lease,
    read_next,
)

ANSWER_START = PREFIX.pack(0, len(ONE_ID) + 8) + ONE_ID

MAX_REMEMBERED = 8192
MAX_REMEMBERED_OCTETS = 160
"""Requests for a single id whose name is remembered by their bytes, and their longest: 8,000 tags in use at once stay
fast, at about 2 MB. When full, all are forgotten."""


class _Source(Protocol):
    @property
    def take(self) -> Callable[[], int | None]:
        """Give an id, or None."""


def quick_next(sources: Mapping[str, _Source], default: str) -> Quick:
    """Make the quick way of a `Next` over the sources in use; `default` is what an empty name stands for."""
    names: dict[bytes, str] = {}

    def quick(request: bytes) -> bytes | None:
        name = names.get(request)
        if name is None:
            name = learn(request)
            if name is None:
                return None
        source = sources.get(name)
        if source is None:
            return None
        number = source.take()
        if number is None:
            return None
        return ANSWER_START + pack_id(number)

    def learn(request: bytes) -> str | None:
        octets = len(request) - PREFIX.size
        if not 0 <= octets <= MAX_REMEMBERED_OCTETS or request[: PREFIX.size] != PREFIX.pack(0, octets):
            return None
        try:
            name, count = read_next(request[PREFIX.size :])
        except DamagedMessage:
            return None
        if count > 1:
            return None
        if len(names) >= MAX_REMEMBERED:
            names.clear()
        names[request] = name or default
        return names[request]

    return quick


class Ids:
    """Makes both services."""

    def __init__(self, service: IdService, limits: GrpcLimits) -> None:
        self._service = service
        self._limits = limits

    def segment_service(self) -> Service:
        """`goloves.v1.SegmentService`."""
        quick = quick_next(self._service.tags, "")
        return Service(
            "goloves.v1.SegmentService",
            {
                "Next": Method(reader(read_next), ids_response, self._segment_ids, quick=quick),
                "Lease": Method(reader(read_lease), bytes, self._lease),
                "Stream": Method(
                    reader(read_next),
                    ids_response,
                    streaming=_each(self._segment_ids),
                    many_requests=True,
                    quick=quick,
                ),
            },
        )

    def snowflake_service(self) -> Service:
        """`goloves.v1.SnowflakeService`."""
        quick = quick_next(self._service.spaces, DEFAULT_SPACE)
        return Service(
            "goloves.v1.SnowflakeService",
            {
                "Next": Method(reader(read_next), ids_response, self._snowflake_ids, quick=quick),
                "Stream": Method(
                    reader(read_next),
                    ids_response,
                    streaming=_each(self._snowflake_ids),
                    many_requests=True,
                    quick=quick,
                ),
                "Decode": Method(reader(read_decode), bytes, self._decode),
            },
        )

    async def _segment_ids(self, request: tuple[str, int], call: Call) -> list[range]:
        tag, count = request
        return await self._service.segment_ids(tag, self._count(count), timeout=call.time_left())

    async def _snowflake_ids(self, request: tuple[str, int], call: Call) -> list[range]:
        space, count = request
        return await self._service.snowflake_ids(space or DEFAULT_SPACE, self._count(count), timeout=call.time_left())

    async def _lease(self, request: tuple[str, int], call: Call) -> bytes:
        tag, size = request
        if not 1 <= size <= self._limits.max_size:
            raise InvalidCount(f"size is {size}; it is between 1 and {self._limits.max_size}")
        granted = await self._service.segment_range(tag, size, timeout=call.time_left())
        return range_response(granted.start, granted.end)

    async def _decode(self, request: tuple[str, int], call: Call) -> bytes:
        space, number = request
        if number < 0:
            raise InvalidId(f"{number} is no id; ids are 0 or above")
        decoded = self._service.decode(space or DEFAULT_SPACE, number)
        return decode_response(decoded.unix_ms, decoded.worker, decoded.sequence)

    def _count(self, count: int) -> int:
        if count > self._limits.max_count:
            raise InvalidCount(f"count is {count}; at most {self._limits.max_count} ids are given at once")
        return count or 1


def _each(handler: Callable[[Any, Call], Any]) -> Callable[[Any, Call], AsyncIterator[Any]]:
    """Answer each request of a stream with one answer, in order."""

    async def handle(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        async for request in requests:
            yield await handler(request, call)

    return handle
