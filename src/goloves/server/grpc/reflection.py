"""Server reflection, v1 and v1alpha: how grpcurl and its like learn what a server offers.

What the files say is loaded when somebody first asks, in a thread, so that nobody else waits for that: protobuf takes
3 MB, and most nodes are never asked.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from goloves.server.grpc.methods import Call, Method, Service

if TYPE_CHECKING:
    from goloves.server.grpc.descriptors import Directory

VERSIONS = ("v1", "v1alpha")


class Reflection:
    """Tells what the files of the named services say."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = [*names, *map(_name, VERSIONS)]
        self._directory: Directory | None = None
        self._loading: asyncio.Task[Directory] | None = None

    def services(self) -> list[Service]:
        """Give the service in both versions."""
        return [self._service(version) for version in VERSIONS]

    def _service(self, version: str) -> Service:
        async def handle(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
            async for request in requests:
                directory = self._directory or await self._load()
                yield directory.answer(version, request)

        return Service(_name(version), {"ServerReflectionInfo": Method(bytes, bytes, None, handle, many_requests=True)})

    async def _load(self) -> "Directory":
        """Load it once for all who ask, whichever of them goes away meanwhile."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(_open, self._names))
        loading = self._loading
        try:
            self._directory = await asyncio.shield(loading)
        finally:
            if loading.done() and self._loading is loading:
                self._loading = None
        return self._directory


def _name(version: str) -> str:
    return f"grpc.reflection.{version}.ServerReflection"


def _open(names: Iterable[str]) -> "Directory":
    from goloves.server.grpc.descriptors import Directory

    return Directory(names)
