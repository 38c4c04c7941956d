"""The network between a node and the store: it delays, loses, doubles and cuts, and it is honest about what is known.

A call happens at the store at one instant, in nobody's context: a node that dies or sleeps meanwhile changes nothing.
What the caller learns is what a driver over TCP could know: refused (it did not happen), or unknown (it may have).
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from goloves.core.grants import Range, Window
from goloves.errors import GolovesError, StoreUnavailable, UnknownOutcome
from goloves.stores.base import Claim, Mark, NewTag, Space, Tag, TagChange
from goloves.stores.memory import MemoryStore
from simulation.checker import Checker
from simulation.loop import VirtualLoop

T = TypeVar("T")

TIMEOUT = 2.0
"""Seconds after which a node gives a call up."""


@dataclass
class Weather:
    """How the network is now, for one node."""

    lost_requests: float = 0.0
    lost_answers: float = 0.0
    late: float = 0.0
    """Chance of a delay of up to twice the timeout."""
    doubled: float = 0.0
    """Chance that an idempotent call happens once more, later."""
    cut: bool = False
    """Nothing gets through: connections are refused."""


@dataclass
class Wire:
    """One node's way to the store."""

    node: str
    loop: VirtualLoop
    rng: random.Random
    store: MemoryStore
    checker: Checker
    happened: Counter[str]
    suspect: Callable[[], bool]
    """Whether what the store grants now may repeat what it has forgotten."""
    weather: Weather = field(default_factory=Weather)

    async def call(
        self,
        what: str,
        make: Callable[[], Coroutine[Any, Any, T]],
        *,
        granted: Callable[[T], None] = lambda _: None,
        idempotent: bool = False,
    ) -> T:
        weather, rng = self.weather, self.rng
        if weather.cut:
            self.happened["refused"] += 1
            await asyncio.sleep(0.001)
            raise StoreUnavailable("connection refused")
        there, back = rng.uniform(0.0002, 0.004), rng.uniform(0.0002, 0.004)
        if rng.random() < weather.late:
            self.happened["late"] += 1
            there += rng.uniform(0, 2 * TIMEOUT)
        if rng.random() < weather.late:
            self.happened["late"] += 1
            back += rng.uniform(0, 2 * TIMEOUT)
        answer: asyncio.Future[T] = self.loop.create_future()
        if rng.random() < weather.lost_requests:
            self.happened["lost request"] += 1
        else:
            lost = rng.random() < weather.lost_answers
            again = idempotent and rng.random() < weather.doubled
            self.loop.outside(self._happen, what, make, granted, answer, None if lost else back, delay=there)
            if again:
                self.happened["doubled"] += 1
                self.loop.outside(
                    self._happen,
                    what,
                    make,
                    granted,
                    answer,
                    None,
                    delay=there + rng.choice([1.0, 4.0, 12.0]) * TIMEOUT * rng.random(),
                )
        try:
            async with asyncio.timeout(TIMEOUT):
                return await answer
        except TimeoutError:
            raise UnknownOutcome(f"no answer to {what} within {TIMEOUT:g} s") from None

    def _happen(
        self,
        what: str,
        make: Callable[[], Coroutine[Any, Any, T]],
        granted: Callable[[T], None],
        answer: asyncio.Future[T],
        back: float | None,
    ) -> None:
        try:
            make().send(None)
        except StopIteration as done:
            if what == "halt":
                self.happened["halted"] += 1
            granted(done.value)
            if back is not None:
                self.loop.outside(self._answer, answer, done.value, delay=back)
        except GolovesError as error:
            if back is not None:
                self.loop.outside(self._refuse, answer, error, delay=back)
        if back is None:
            self.happened["lost answer"] += 1

    @staticmethod
    def _answer(answer: asyncio.Future[T], result: T) -> None:
        if not answer.done():
            answer.set_result(result)

    @staticmethod
    def _refuse(answer: asyncio.Future[T], error: GolovesError) -> None:
        if not answer.done():
            answer.set_exception(error)
            answer.exception()


class FarStore:
    """The store as a node sees it, over a `Wire`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._store = wire.store

    @property
    def identity(self) -> str:
        return self._store.identity

    @property
    def address(self) -> str:
        return self._store.address

    @property
    def has_marks(self) -> bool:
        return self._store.has_marks

    async def open(self) -> None:
        await self._wire.call("open", self._store.open)

    async def close(self) -> None:
        pass

    async def clock(self) -> int | None:
        return await self._read("clock", self._store.clock)

    async def halt(self, reason: str) -> None:
        await self._wire.call("halt", lambda: self._store.halt(reason), idempotent=True)

    async def check_halt(self) -> int:
        return await self._read("check_halt", self._store.check_halt)

    async def write_marks(self, node: str, marks: Iterable[Mark]) -> None:
        listed = list(marks)
        await self._wire.call("write_marks", lambda: self._store.write_marks(node, listed), idempotent=True)

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        wire = self._wire
        reached = wire.checker.reached[wire.node, tag]

        def note(granted: Range) -> None:
            wire.checker.granted_range(wire.node, granted, suspect=wire.suspect(), reached=reached)

        return await wire.call(
            "allocate",
            lambda: self._store.allocate(tag, size, exact=exact),
            granted=note,
            idempotent=True,
        )

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        listed = list(names)
        return await self._read("read_tags", lambda: self._store.read_tags(listed))

    async def read_remembered(self, names: Iterable[str]) -> dict[str, int]:
        listed = list(names)
        return await self._read("read_remembered", lambda: self._store.read_remembered(listed))

    async def list_tags(self, *, prefix: str = "", after: str = "", most: int = 100) -> list[Tag]:
        return await self._read("list_tags", lambda: self._store.list_tags(prefix=prefix, after=after, most=most))

    async def create_tag(self, new: NewTag) -> Tag:
        return await self._wire.call("create_tag", lambda: self._store.create_tag(new))

    async def ensure_tag(self, new: NewTag) -> Tag:
        return await self._wire.call("ensure_tag", lambda: self._store.ensure_tag(new), idempotent=True)

    async def change_tag(self, name: str, change: TagChange) -> Tag:
        return await self._wire.call("change_tag", lambda: self._store.change_tag(name, change), idempotent=True)

    async def delete_tag(self, name: str) -> None:
        await self._wire.call("delete_tag", lambda: self._store.delete_tag(name))

    async def open_space(self, space: Space) -> None:
        await self._wire.call("open_space", lambda: self._store.open_space(space), idempotent=True)

    async def claim(self, claim: Claim) -> Window:
        return await self._wire.call("claim", lambda: self._store.claim(claim), granted=self._granted_window)

    async def count_windows(self, space: str, now: int, workers: range | None = None) -> int:
        return await self._read("count_windows", lambda: self._store.count_windows(space, now, workers))

    async def last_seen(self) -> int | None:
        return await self._read("last_seen", self._store.last_seen)

    async def read_fences(self, space: str, workers: Iterable[int]) -> dict[int, int] | None:
        listed = list(workers)
        return await self._read("read_fences", lambda: self._store.read_fences(space, listed))

    async def find_window(self, space: str, nonce: str) -> Window | None:
        return await self._read("find_window", lambda: self._store.find_window(space, nonce))

    async def extend(self, window: Window, end: int) -> Window:
        return await self._wire.call(
            "extend", lambda: self._store.extend(window, end), granted=self._granted_window, idempotent=True
        )

    async def release(self, window: Window, floor: int) -> None:
        await self._wire.call("release", lambda: self._store.release(window, floor), idempotent=True)

    def _granted_window(self, window: Window) -> None:
        self._wire.checker.granted_window(self._wire.node, window, suspect=self._wire.suspect())

    async def _read(self, what: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A reading that has no answer has no effect either: it is simply not known."""
        try:
            return await self._wire.call(what, make)
        except UnknownOutcome as error:
            raise StoreUnavailable(error.message) from None
