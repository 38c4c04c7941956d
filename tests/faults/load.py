"""Clients that draw ids from nodes over all routes and both modes, and note each answer with its time.

A client keeps a connection as long as it lives, goes over to the next life of its node by itself, and asks again after
whatever happens: so load goes on through any fault, and what it met is there to be looked at.
"""

import asyncio
import json
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, pairwise
from types import TracebackType
from typing import Literal, Self, cast

import grpc

from faults.background import Background
from faults.calls import STATUSES, Calls, is_cut
from faults.ledger import Ledger
from faults.nodes import Life, Node, wait_for

Mode = Literal["segment", "range", "snowflake"]

PAUSE = 0.01
"""Seconds that a client waits before it asks again where nobody listens, or after a refusal."""

CALL_PAUSE = 4
"""So many times the pause after an answer over HTTP follows one over gRPC, which takes five times as much of the
processor: fifty calls a second for each node leave the most of it to what is tested."""


@dataclass(frozen=True, slots=True)
class Route:
    """One way to ask for ids."""

    mode: Mode
    name: str
    """The tag or the space."""
    request: bytes
    text: bool = False
    """The answer is a bare number."""


def leaf_segment(tag: str) -> Route:
    """Leaf's route to a tag."""
    return Route("segment", tag, f"GET /api/segment/get/{tag} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), text=True)


def leaf_snowflake() -> Route:
    """Leaf's route to the space `default`."""
    return Route("snowflake", "default", b"GET /api/snowflake/get/any HTTP/1.1\r\nHost: a\r\n\r\n", text=True)


def numbers(tag: str, count: int) -> Route:
    """Ids of a tag."""
    return Route("segment", tag, _post(f"/v1/segments/{tag}/ids?count={count}"))


def a_range(tag: str, size: int) -> Route:
    """A range of the caller's own."""
    return Route("range", tag, _post(f"/v1/segments/{tag}/ranges?size={size}"))


def snowflakes(space: str, count: int) -> Route:
    """Ids of a space."""
    return Route("snowflake", space, _post(f"/v1/snowflakes/{space}/ids?count={count}"))


def _post(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()


def all_routes(tags: Sequence[str] = ("default",), spaces: Sequence[str] = ("default",)) -> list[Route]:
    """Every route, with small and large counts."""
    routes: list[Route] = []
    for tag in tags:
        routes += [leaf_segment(tag), numbers(tag, 1), numbers(tag, 37), a_range(tag, 25), leaf_segment(tag)]
    for space in spaces:
        routes += [leaf_snowflake()] if space == "default" else []
        routes += [snowflakes(space, 1), snowflakes(space, 50)]
    return routes


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that gave no ids. Times are those of `time.monotonic`."""

    mode: Mode
    node: str
    sent: float
    received: float
    status: int
    code: str


@dataclass
class Met:
    """What clients met."""

    served: dict[tuple[Mode, str], "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """When ids came, by mode and node."""
    refusals: list[Refusal] = field(default_factory=list)
    cut: int = 0
    """Connections lost while an answer was awaited."""
    calls: int = 0
    """Calls over gRPC that gave ids."""
    calls_failed: int = 0
    wrong: list[str] = field(default_factory=list)
    """Answers that nothing justifies: other statuses than 200 and the allowed ones, 429 and 503 that don't say when to
    try again, and what can't be read."""


class Load:
    """Draws ids from `with` to its end."""

    def __init__(
        self,
        nodes: Iterable[Node],
        ledger: Ledger,
        *,
        routes: Sequence[Route] | None = None,
        clients: int = 4,
        calls: int = 1,
        pause: float = 0.004,
        allowed: frozenset[int] = frozenset({429, 503}),
    ) -> None:
        """`clients` over HTTP and `calls` over gRPC for each node, which pause for so many seconds after an answer.

        `allowed`: statuses that a fault of this test justifies.
        """
        self.ledger = ledger
        self.met = Met()
        self._nodes = list(nodes)
        self._routes = list(routes or all_routes())
        self._clients = clients
        self._calls = calls
        self._pause = pause
        self._allowed = allowed
        self._background = Background()
        self._stopping = False

    def __enter__(self) -> Self:
        self._background.__enter__()
        self._background.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._background.__exit__(kind, error, trace)
        if kind is None:
            assert self.met.calls or not self._calls, f"no call over gRPC gave ids, and {self.met.calls_failed} failed"
            assert not self.met.wrong, f"answers that nothing justifies: {Counter(self.met.wrong).most_common(10)}"

    # --- what was met ---

    def served(self, mode: Mode | None = None, node: str | None = None, *, since: float = 0.0) -> int:
        """How many answers gave ids, since a moment."""
        return sum(len(times) - bisect_left(times, since) for times in self._times(mode, node))

    def refused(self, mode: Mode | None = None, node: str | None = None, *, since: float = 0.0) -> list[Refusal]:
        """Answers that gave none, to requests sent since a moment."""
        return [
            refusal
            for refusal in self.met.refusals
            if refusal.sent >= since and mode in (None, refusal.mode) and node in (None, refusal.node)
        ]

    def wait_served(
        self, count: int, mode: Mode | None = None, node: str | None = None, *, since: float | None = None
    ) -> float:
        """Wait until so many more answers gave ids, from now on or since a moment; gives the seconds since then."""
        begun = time.monotonic() if since is None else since
        wait_for(
            lambda: self.served(mode, node, since=begun) >= count,
            f"{count} answers with ids ({mode or 'any mode'}, {node or 'any node'})",
        )
        times = sorted(moment for times in self._times(mode, node) for moment in times[bisect_left(times, begun) :])
        return times[count - 1] - begun

    def wait_refused(self, mode: Mode | None = None, node: str | None = None, *, count: int = 1) -> float:
        """Wait until requests that are sent from now on are refused; gives the seconds that it took."""
        begun = time.monotonic()
        return wait_for(
            lambda: len(self.refused(mode, node, since=begun)) >= count, f"refusals ({mode or 'any mode'}, {node})"
        )

    def longest_silence(self, since: float, until: float, mode: Mode | None = None, node: str | None = None) -> float:
        """Give the longest time between two answers with ids, in seconds."""
        inside: list[float] = []
        for times in self._times(mode, node):
            inside += times[bisect_left(times, since) : bisect_right(times, until)]
        moments = [since, *sorted(inside), until]
        return max(after - before for before, after in pairwise(moments))

    def _times(self, mode: Mode | None, node: str | None) -> list["array[float]"]:
        return [
            times for key, times in list(self.met.served.items()) if mode in (None, key[0]) and node in (None, key[1])
        ]

    # --- clients ---

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._draw(node, first * 3)) for node in self._nodes for first in range(self._clients)
        ]
        self._tasks += [loop.create_task(self._call(node)) for node in self._nodes for _ in range(self._calls)]

    async def _call(self, node: Node) -> None:
        """Draw over gRPC. What is refused there, and what is cut, is not told apart: both are only counted."""
        tags = list(dict.fromkeys(route.name for route in self._routes if route.mode != "snowflake"))
        spaces = list(dict.fromkeys(route.name for route in self._routes if route.mode == "snowflake"))
        allowed = {STATUSES[status] for status in self._allowed if status in STATUSES}
        while not self._stopping:
            life = node.life
            if life is None:
                await asyncio.sleep(PAUSE)
                continue
            calls = Calls(
                life.calls, tags, spaces, partial(self._called_numbers, life), partial(self._called_ids, life)
            )
            try:
                for way in cycle(calls.ways):
                    if self._stopping or node.life is not life:
                        break
                    try:
                        await way()
                    except grpc.aio.AioRpcError as error:
                        self.met.calls_failed += 1
                        if not is_cut(error) and error.code() not in allowed:
                            self.met.wrong.append(f"{error.code()}: {error.details()}")
                        await asyncio.sleep(5 * PAUSE)
                    else:
                        self.met.calls += 1
                        await asyncio.sleep(CALL_PAUSE * self._pause)
            finally:
                await calls.close()

    def _called_numbers(self, life: Life, tag: str, start: int, end: int, exact: bool) -> None:
        self.ledger.numbers[tag].append((start, end, life.number, exact))
        self.met.served["range" if exact else "segment", life.node].append(time.monotonic())

    def _called_ids(self, life: Life, space: str, ids: Sequence[int]) -> None:
        self.ledger.ids[space] += [(id_, life.number) for id_ in ids]
        self.met.served["snowflake", life.node].append(time.monotonic())

    async def _draw(self, node: Node, first: int) -> None:
        loop = asyncio.get_running_loop()
        turn = first
        while not self._stopping:
            life = node.life
            if life is None:
                await asyncio.sleep(PAUSE)
                continue
            try:
                _, connection = await loop.create_unix_connection(_Connection, life.address)
            except OSError:
                await asyncio.sleep(PAUSE)
                continue
            try:
                while not self._stopping and not connection.lost:
                    route = self._routes[turn % len(self._routes)]
                    turn += 1
                    await asyncio.sleep(self._pause if await self._ask(connection, life, route) else PAUSE)
            except ConnectionError:
                self.met.cut += 1
                await asyncio.sleep(PAUSE)
            finally:
                connection.close()

    async def _ask(self, connection: "_Connection", life: Life, route: Route) -> bool:
        sent = time.monotonic()
        status, head, body = await connection.ask(route.request)
        received = time.monotonic()
        if status == 200:
            try:
                self._note(life, route, body)
            except (ValueError, KeyError, TypeError):
                self.met.wrong.append(f"{route.request[:40]!r} gave {body[:80]!r}")
            else:
                self.met.served[route.mode, life.node].append(received)
            return True
        code = ""
        if body.startswith(b"{"):
            code = str(json.loads(body).get("code", ""))
        self.met.refusals.append(Refusal(route.mode, life.node, sent, received, status, code))
        if status not in self._allowed or (status in (429, 503) and b"retry-after" not in head.lower()):
            self.met.wrong.append(f"{status} {code}: {body[:200].decode(errors='replace')}")
        return False

    def _note(self, life: Life, route: Route, body: bytes) -> None:
        if route.text:
            found = [int(body)]
        elif route.mode == "range":
            answer = json.loads(body)
            self.ledger.numbers[route.name].append((int(answer["start"]), int(answer["end"]), life.number, True))
            return
        else:
            found = [int(id_) for id_ in json.loads(body)["ids"]]
        if route.mode == "snowflake":
            self.ledger.ids[route.name] += [(id_, life.number) for id_ in found]
            return
        spans = self.ledger.numbers[route.name]
        start = found[0]
        for before, after in pairwise(found):
            if after != before + 1:
                spans.append((start, before + 1, life.number, False))
                start = after
        spans.append((start, found[-1] + 1, life.number, False))


class _Connection(asyncio.Protocol):
    """HTTP/1.1 over one connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Send a request; gives status, head and body. Raises ConnectionError."""
        if self._transport is None or self.lost:
            raise ConnectionResetError
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        length = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), head, rest[:length]))
        if b"\r\nconnection: close" in lower:
            self.close()

    def close(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()
