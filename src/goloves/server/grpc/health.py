"""The standard health service: `grpc.health.v1.Health`.

A node's services are well together or not at all, since they have one `IdService`: SERVING while it is ready,
NOT_SERVING while it drains or has no store, window or numbers. `""` is the server as a whole.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from goloves.server.grpc.methods import Call, Method, Service, reader
from goloves.wire.grpc import SHOWN, CallError, Status
from goloves.wire.messages import health_list_response, health_response, read_health, read_nothing

NAME = "grpc.health.v1.Health"

LOOK = 0.5
"""Seconds between two looks at whether the service is ready, while somebody watches. Load balancers that poll do so
every few seconds."""

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)


class Health:
    """Answers for the named services; `reasons` says why they can't serve, empty if they can.

    However many watch, one of them all looks; the others sleep until there is news.
    """

    def __init__(self, names: Iterable[str], reasons: Callable[[], list[str]]) -> None:
        self._names = ("", *names)
        self._reasons = reasons
        self._stopping = False
        self._watchers = 0
        self._seen = UNKNOWN
        self._news = asyncio.Event()
        self._next_look: asyncio.TimerHandle | None = None

    def service(self) -> Service:
        """Give the service."""
        read = reader(read_health)
        return Service(
            NAME,
            {
                "Check": Method(read, health_response, self._check),
                "List": Method(reader(read_nothing), health_list_response, self._list_all),
                "Watch": Method(read, health_response, streaming=self._watch),
            },
        )

    def stop(self) -> None:
        """Say that the node begins to stop: it is NOT_SERVING from now on, and watchers are told and let go."""
        self._stopping = True
        self._tell()

    def _status(self) -> int:
        return NOT_SERVING if self._stopping or self._reasons() else SERVING

    def _look(self) -> None:
        """Tell the watchers if the status is another one; look again in a while, as long as there are any."""
        if self._status() != self._seen:
            self._tell()
        self._next_look = asyncio.get_running_loop().call_later(LOOK, self._look) if self._watchers else None

    def _tell(self) -> None:
        self._seen = self._status()
        self._news.set()
        self._news = asyncio.Event()

    async def _check(self, service: str, call: Call) -> int:
        if service not in self._names:
            raise CallError(Status.NOT_FOUND, f"this server has no service {service[:SHOWN]!r}")
        return self._status()

    async def _list_all(self, request: None, call: Call) -> dict[str, int]:
        return dict.fromkeys(self._names, self._status())

    async def _watch(self, service: str, call: Call) -> AsyncIterator[int]:
        known = service in self._names
        said = None
        self._watchers += 1
        try:
            if self._next_look is None:
                self._look()
            elif self._status() != self._seen:
                self._tell()
            while True:
                news = self._news
                status = self._seen if known else SERVICE_UNKNOWN
                if status != said:
                    said = status
                    yield status
                if self._stopping:
                    raise CallError(Status.UNAVAILABLE, "this node is stopping; ask another one")
                await news.wait()
        finally:
            self._watchers -= 1
