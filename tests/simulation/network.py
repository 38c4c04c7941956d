"""The network between a node and the store: it delays, loses, doubles and cuts, and it is honest about what is known.

A call happens at the store at one instant, in nobody's context: a node that dies or sleeps meanwhile changes nothing.
What the caller learns is what a driver over TCP could know: refused (it did not happen), or unknown (it may have).
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from goloves.core.grants import Range, Window
from goloves.errors import GolovesError, StoreUnavailable, UnknownOutcome
from goloves.stores.base import Claim, Mark, NewTag, Space, Tag, TagChange
from goloves.stores.memory import MemoryStore
from simulation.checker import Checker, Duplicate
from simulation.loop import VirtualLoop
from simulation.store import TURN

T = TypeVar("T")

TIMEOUT = 2.0
"""Seconds after which a node gives a call up."""

MAX_FORWARD = 2.0
"""Seconds by which a node's clock may be ahead of the store's."""


@dataclass
class Weather:
    """How the network is now, for one node."""

    lost_requests: float = 0.0
    lost_answers: float = 0.0
    late: float = 0.0
    """Chance of a delay of up to twice the timeout."""
    very_late: float = 0.0
    """Chance that a request arrives after more than a whole window."""
    doubled: float = 0.0
    """Chance that an idempotent call happens once more, later, and is answered once more."""
    cut: bool = False
    """Nothing gets through: connections are refused."""


@dataclass
class Wire:
    """The way of one life of a node to the store."""

    node: str
    life: str
    loop: VirtualLoop
    rng: random.Random
    store: MemoryStore
    checker: Checker
    happened: Counter[str]
    weather: Callable[[], Weather]
    connect: Callable[[], None]
    """Called before each call at the store: a connection may meet another server than before (R7)."""
    store_ms: Callable[[], int] | None
    """The true time at the store, ms since 1970; None where no clock is right."""

    async def call(
        self,
        what: str,
        make: Callable[[], Coroutine[Any, Any, T]],
        *,
        done: Callable[[T], None] = lambda _: None,
        idempotent: bool = False,
    ) -> T:
        """Call the store; `done` is told of what was committed, at the very moment."""
        weather, rng = self.weather(), self.rng
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
        if rng.random() < weather.very_late:
            self.happened["later than a window"] += 1
            there += rng.uniform(10.0, 40.0)
        answer: asyncio.Future[T] = self.loop.create_future()
        lost = rng.random() < weather.lost_answers
        if rng.random() < weather.lost_requests:
            self.happened["lost request"] += 1
        else:
            self.loop.outside(self._begin, what, make, done, answer, None if lost else back, delay=there)
            if idempotent and rng.random() < weather.doubled:
                self.happened["doubled"] += 1
                again = there + rng.choice([0.1, 1.0, 4.0, 12.0]) * TIMEOUT * rng.random()
                self.loop.outside(self._begin, what, make, done, answer, back, delay=again)
        timer = self.loop.call_later(TIMEOUT, self._give_up, answer, what)
        try:
            return await answer
        finally:
            timer.cancel()

    def _begin(
        self,
        what: str,
        make: Callable[[], Coroutine[Any, Any, T]],
        done: Callable[[T], None],
        answer: asyncio.Future[T],
        back: float | None,
    ) -> None:
        self.connect()
        self._happen(what, make(), done, answer, back)

    def _happen(
        self,
        what: str,
        work: Coroutine[Any, Any, T],
        done: Callable[[T], None],
        answer: asyncio.Future[T],
        back: float | None,
    ) -> None:
        """Let the store work. It does so at one instant, unless a mutant breaks its transaction in two."""
        try:
            work.send(None)
        except StopIteration as result:
            if what == "halt":
                self.happened["halted"] += 1
            done(result.value)
            if back is not None:
                self.loop.outside(self._answer, answer, result.value, delay=back)
        except GolovesError as error:
            if back is not None:
                self.loop.outside(self._refuse, answer, error, delay=back)
        else:
            self.loop.outside(self._happen, what, work, done, answer, back, delay=TURN)
            return
        if back is None:
            self.happened["lost answer"] += 1

    def check_granting(self, what: str) -> None:
        """Hold that nothing is granted after a halt (R4, R6)."""
        if self.store.data.halt:
            raise Duplicate(f"{what} was granted by a store that is halted: {self.store.data.halt}")

    def check_ahead(self, window: Window, length: int) -> None:
        """Hold that no window begins further ahead of the store's clock than `max_forward` (W8)."""
        layout = self.checker.layout
        if self.store_ms is not None:
            latest = self.store_ms() + round((MAX_FORWARD + 1.0) * 1000)
            if layout.unix_ms(window.start) > latest or layout.unix_ms(window.end - length) > latest:
                raise Duplicate(f"{window} begins too far ahead of the store's clock, which is at {self.store_ms()} ms")

    @staticmethod
    def _give_up(answer: asyncio.Future[T], what: str) -> None:
        if not answer.done():
            answer.set_exception(UnknownOutcome(f"no answer to {what} within {TIMEOUT:g} s"))
            answer.exception()  # a node that is killed meanwhile does not ask for it

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
        wire, data = self._wire, self._store.data

        def committed(granted: Range) -> None:
            wire.check_granting(f"{granted}")
            row = data.tags.get(tag)
            if row is not None and not data.only_leaf:
                left = row.limit - granted.start
                if row.halted:
                    raise Duplicate(f"{granted} was granted though its tag is halted: {row.halted}")
                if len(granted) > (left if exact else max(1, left // 1000)):
                    raise Duplicate(f"{granted} is too large for a tag that has {left} numbers left")
            wire.checker.committed_range(wire.life, granted, wire.loop.now)

        return await wire.call(
            "allocate", lambda: self._store.allocate(tag, size, exact=exact), done=committed, idempotent=True
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
        wire, data = self._wire, self._store.data

        def committed(window: Window) -> None:
            wire.check_granting(f"{window}")
            if window.start < data.spaces[window.space].floor:
                raise Duplicate(f"{window} begins below the floor of its space")
            if claim.workers is not None and window.worker not in claim.workers:
                raise Duplicate(f"{window} is none of {claim.workers}")
            wire.check_ahead(window, claim.length)
            wire.checker.committed_claim(wire.life, window, wire.loop.now)

        return await wire.call("claim", lambda: self._store.claim(claim), done=committed)

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
        wire = self._wire

        def committed(extended: Window) -> None:
            wire.check_granting(f"{extended}")
            wire.checker.committed_extension(extended, wire.loop.now)

        return await wire.call("extend", lambda: self._store.extend(window, end), done=committed, idempotent=True)

    async def release(self, window: Window, floor: int) -> None:
        wire, data = self._wire, self._store.data

        def committed(_: None) -> None:
            row = data.workers.get(window.space, {}).get(window.worker)
            if row is not None and (row.fence, row.nonce, row.floor) == (window.fence, window.nonce, floor):
                wire.checker.committed_release(wire.life, window, floor, wire.loop.now)

        await wire.call("release", lambda: self._store.release(window, floor), done=committed, idempotent=True)

    async def _read(self, what: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A reading that has no answer has no effect either: it is simply not known."""
        try:
            return await self._wire.call(what, make)
        except UnknownOutcome as error:
            raise StoreUnavailable(error.message) from None
