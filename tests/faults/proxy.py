"""The way between nodes and their database, as bad as a test wants it.

What is held on the way arrives late, as with a network that comes back: also when who sent it has hung up meanwhile.
So a COMMIT that its node gave up long ago may still reach the database.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from faults.background import Background

Way = Literal["up", "down"]
"""`up` is from the nodes to the database."""

AtCommit = Literal["pass", "lose the request", "lose the answer", "hold"]
"""`hold`: from that COMMIT on nothing goes up any more, so that a transaction stays open with what it has locked."""


class Proxy:
    """Forwards connections to a port of 127.0.0.1, from `with` to its end. Everything may be set from any thread."""

    def __init__(self, target: int, *, connecting_commits: bool) -> None:
        """`connecting_commits`: the first COMMIT of each connection belongs to its setting up, and is let through."""
        self.target = target
        self.port = 0
        self.delay: dict[Way, float] = {"up": 0.0, "down": 0.0}
        """Seconds that everything takes longer."""
        self.refusing = False
        """New connections are cut at once."""
        self.at_commit: AtCommit = "pass"
        self.every = 1
        """At how many COMMITs it strikes once."""
        self.commits = 0
        """COMMITs of transactions that came by."""
        self.struck = 0
        self.attempts: list[float] = []
        """When connections were asked for, by `time.monotonic`."""
        self._connecting_commits = connecting_commits
        self._background = Background()
        self._flowing: dict[Way, asyncio.Event] = {}
        self._links: set[_Link] = set()

    def __enter__(self) -> Self:
        self._background.__enter__()
        self._background.run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.run(self._close())
        self._background.__exit__(kind, error, trace)

    def hold(self, way: Way) -> None:
        """Let nothing through this way, and lose nothing either."""
        self._background.run(self._call(self._flowing[way].clear))

    def release(self, way: Way) -> None:
        """Let through what was held."""
        self._background.run(self._call(self._flowing[way].set))

    def cut(self) -> None:
        """Cut all connections."""

        def cut() -> None:
            for link in list(self._links):
                link.abort()

        self._background.run(self._call(cut))

    async def _call(self, work: Callable[[], None]) -> None:
        work()

    async def _listen(self) -> None:
        for way in ("up", "down"):
            self._flowing[way] = asyncio.Event()
            self._flowing[way].set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts.append(time.monotonic())
        if self.refusing:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, there_writer)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump("up", reader, there_writer, link), self._pump("down", there_reader, writer, link)
            )
        finally:
            self._links.discard(link)
            link.abort()

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: "_Link") -> None:
        """Forward one way until it ends; the other way goes on, for it may hold something that is still under way."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if way == "up" and _is_commit(data) and self._strikes(link):
                    if self.at_commit == "lose the request":
                        break
                    if self.at_commit == "hold":
                        self._flowing["up"].clear()
                    else:
                        link.silent = True
                if self.delay[way]:
                    await asyncio.sleep(self.delay[way])
                await self._flowing[way].wait()
                if way == "down" and link.silent:
                    break  # the database has answered, so it has committed: that word is lost
                writer.write(data)
                await writer.drain()
            else:
                await self._flowing[way].wait()
                writer.close()
                return
        link.abort()

    def _strikes(self, link: "_Link") -> bool:
        if self._connecting_commits and not link.ready:
            link.ready = True
            return False
        self.commits += 1
        if self.at_commit == "pass" or self.commits % self.every:
            return False
        self.struck += 1
        return True


class _Link:
    """One connection through the proxy."""

    def __init__(self, *ends: asyncio.StreamWriter) -> None:
        self._ends = ends
        self.ready = False
        self.silent = False
        """The next answer is lost, and the connection with it."""

    def abort(self) -> None:
        for end in self._ends:
            end.transport.abort()


def _is_commit(data: bytes) -> bool:
    return b"COMMIT" in data and b"COMMITTED" not in data
