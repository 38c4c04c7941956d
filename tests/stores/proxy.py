"""A wire between a store and its database that fails on demand, at the moment that matters: the commit."""

import asyncio
import contextlib
from types import TracebackType
from typing import Literal, Self

AtCommit = Literal["pass", "lose the request", "lose the answer", "answer never"]


class Proxy:
    """Listens on `port` and forwards to `target`; what happens to a COMMIT is set by `at_commit`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.at_commit: AtCommit = "pass"
        self.mute = False
        """Whether nothing that the server says arrives any more."""
        self.connections = 0
        self.commits = 0
        """COMMITs seen."""
        self.struck = 0
        """COMMITs that something happened to."""
        self.strikes = asyncio.Event()
        """Set when the first of them comes by."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task

    def cut(self) -> None:
        """Cut all connections, as a network does that goes away."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        wires = {writer, there_writer}
        self._writers |= wires
        silent = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, there_writer, silent))
                group.create_task(self._down(there_reader, writer, silent))
        except* OSError:
            pass
        finally:
            self._writers -= wires
            for end in wires:
                end.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if b"COMMIT" in data and b"COMMITTED" not in data:
                self.commits += 1
                if self.at_commit != "pass":
                    self.struck += 1
                    self.strikes.set()
                    if self.at_commit == "lose the request":
                        raise ConnectionResetError
                    silent.set()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if silent.is_set():
                # The server has answered, so it has committed: now lose that, or keep it.
                if self.at_commit == "lose the answer":
                    raise ConnectionResetError
                continue
            if self.mute:
                continue
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
