"""A node on virtual time before a store that does as it is told."""

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from goloves.config import SegmentConfig, SnowflakeConfig
from goloves.core.grants import Range, Window
from goloves.core.layout import Layout
from goloves.errors import StoreUnavailable, UnknownOutcome
from goloves.service import IdService, ServedSpace
from goloves.stores.base import Claim, Mark, NewTag, SegmentStore, Space, Tag, WorkerStore
from goloves.stores.guard import SegmentGuard, WorkerGuard
from goloves.stores.marks import Marks
from goloves.stores.memory import MemoryData, MemoryStore
from simulation.clocks import EPOCH_MS, SimClock
from simulation.loop import START, VirtualLoop

P = ParamSpec("P")
T = TypeVar("T")

SPACE = Space("default", Layout(41, 2, 4, epoch_ms=EPOCH_MS - 3_600_000))
"""Four workers of sixteen ids a millisecond."""

WINDOW = 600.0
"""Seconds that a window is long here."""

Hook = Callable[[], Awaitable[None]]


def on_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a loop whose time jumps; whatever failed in the background fails the test."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        loop = VirtualLoop()
        asyncio.set_event_loop(None)
        try:
            loop.run_until_complete(test(*args, **kwargs))
            for failure in loop.failures:
                raise failure
        finally:
            loop.end()

    return run


async def refused() -> None:
    """Fail for certain."""
    raise StoreUnavailable("connection refused")


async def lost() -> None:
    """Fail with nobody knowing whether it happened."""
    raise UnknownOutcome("no answer within 2 s")


def raising(error: BaseException) -> Hook:
    """Fail with this error."""

    async def fail() -> None:
        raise error

    return fail


def slow(seconds: float) -> Hook:
    """Take a while."""
    return functools.partial(asyncio.sleep, seconds)


def until(event: asyncio.Event) -> Hook:
    """Wait for the event."""

    async def wait() -> None:
        await event.wait()

    return wait


def times(count: int, hook: Hook) -> Hook:
    """Do this the first times only."""
    left = count

    async def some() -> None:
        nonlocal left
        if left:
            left -= 1
            await hook()

    return some


class ObedientStore(MemoryStore):
    """A store in memory with hooks before each call and after its commit, by the name of the method or "all"."""

    def __init__(self, data: MemoryData, *, clock: Callable[[], int] | None = None) -> None:
        super().__init__(data, clock=clock)
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.calls: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        """How many calls of a kind were under way at once, at most."""
        self.asked: list[tuple[str, int]] = []
        """Tag and size of each allocation that was asked for."""
        self.released: list[tuple[Window, int]] = []
        self.claims: list[Claim] = []

    async def _do(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        self.calls[what] += 1
        self.under_way[what] += 1
        self.most[what] = max(self.most[what], self.under_way[what])
        try:
            for name in (what, "all"):
                if name in self.before:
                    await self.before[name]()
            result = await work()
            for name in (what, "all"):
                if name in self.after:
                    await self.after[name]()
            return result
        finally:
            self.under_way[what] -= 1

    async def open(self) -> None:
        await self._do("open", lambda: MemoryStore.open(self))

    async def clock(self) -> int | None:
        return await self._do("clock", lambda: MemoryStore.clock(self))

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        self.asked.append((tag, size))
        return await self._do("allocate", lambda: MemoryStore.allocate(self, tag, size, exact=exact))

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        return await self._do("read_tags", lambda: MemoryStore.read_tags(self, names))

    async def list_tags(self, *, prefix: str = "", after: str = "", most: int = 100) -> list[Tag]:
        return await self._do("list_tags", lambda: MemoryStore.list_tags(self, prefix=prefix, after=after, most=most))

    async def ensure_tag(self, new: NewTag) -> Tag:
        return await self._do("ensure_tag", lambda: MemoryStore.ensure_tag(self, new))

    async def open_space(self, space: Space) -> None:
        await self._do("open_space", lambda: MemoryStore.open_space(self, space))

    async def claim(self, claim: Claim) -> Window:
        self.claims.append(claim)
        return await self._do("claim", lambda: MemoryStore.claim(self, claim))

    async def find_window(self, space: str, nonce: str) -> Window | None:
        return await self._do("find_window", lambda: MemoryStore.find_window(self, space, nonce))

    async def count_windows(self, space: str, now: int, workers: range | None = None) -> int:
        return await self._do("count_windows", lambda: MemoryStore.count_windows(self, space, now, workers))

    async def extend(self, window: Window, end: int) -> Window:
        return await self._do("extend", lambda: MemoryStore.extend(self, window, end))

    async def release(self, window: Window, floor: int) -> None:
        self.released.append((window, floor))
        await self._do("release", lambda: MemoryStore.release(self, window, floor))

    async def halt(self, reason: str) -> None:
        await self._do("halt", lambda: MemoryStore.halt(self, reason))

    async def write_marks(self, node: str, marks: Iterable[Mark]) -> None:
        await self._do("write_marks", lambda: MemoryStore.write_marks(self, node, marks))


class World:
    """A node, its clock and its store; `async with` starts and closes it.

    `started=False` leaves the start to the test. `windows` is the store of the windows if it is another one.
    """

    def __init__(
        self,
        *,
        tags: Iterable[NewTag] = (NewTag("order", step=10), NewTag("dry", step=1)),
        spaces: Iterable[ServedSpace] = (ServedSpace(SPACE, WINDOW),),
        segment: SegmentConfig | None = None,
        snowflake: SnowflakeConfig | None = None,
        data: MemoryData | None = None,
        windows: MemoryData | None = None,
        store_clock: bool = True,
        guarded: bool = False,
        started: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.clock = SimClock(loop)
        self.data = data if data is not None else MemoryData(uuid="a store")
        self.store_ahead_ms = 0
        clock = self.store_ms if store_clock else None
        self.operator = MemoryStore(self.data, clock=self.store_ms)
        """Somebody else's handle of the store, which no hook disturbs."""
        self.store = ObedientStore(self.data, clock=clock)
        self.windows = ObedientStore(windows, clock=clock) if windows is not None else self.store
        self.marks = Marks()
        segments_store: SegmentStore = self.store
        windows_store: WorkerStore = self.windows
        if guarded:
            segments_store = SegmentGuard(self.store, self.marks, "a node")
            windows_store = WorkerGuard(self.windows, self.marks, "a node")
        self.nonces = 0
        self.service = IdService(
            segments_store,
            windows_store,
            segment=segment,
            snowflake=snowflake,
            spaces=spaces,
            clock=self.clock,
            rng=random.Random(1),
            nonce=self._nonce,
            owner="a node",
        )
        self._tags = tuple(tags)
        self._start = started

    def _nonce(self) -> str:
        self.nonces += 1
        return f"{self.nonces:032x}"

    def store_ms(self) -> int:
        return EPOCH_MS + round((self.loop.now - START) * 1000) + self.store_ahead_ms

    @property
    def counters(self) -> Any:
        """A snapshot's worth of plain integers; `Any`, so that two looks at one are not taken for the same value."""
        return self.service.counters

    async def __aenter__(self) -> Self:
        await self.operator.open()
        for tag in self._tags:
            await self.operator.create_tag(tag)
        if self._start:
            await self.service.start()
            await self.settle()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.store.before.clear()
            self.store.after.clear()
            await self.service.close()

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def ids(self, tag: str = "order", count: int = 1, timeout: float | None = None) -> list[int]:
        return flat(await self.service.segment_ids(tag, count, timeout=timeout))

    async def snowflakes(self, count: int = 1, space: str = "default", timeout: float | None = None) -> list[int]:
        return flat(await self.service.snowflake_ids(space, count, timeout=timeout))

    def ask(self, tag: str = "order", count: int = 1, timeout: float | None = None) -> "asyncio.Task[list[int]]":
        """Ask, and go on meanwhile."""
        return self.loop.create_task(self.ids(tag, count, timeout))  # type: ignore[no-any-return]

    async def wait_for(self, what: Callable[[], Any], within: float = 1000.0) -> None:
        """Wait until `what` is true."""
        end = self.loop.now + within
        while not what():
            assert self.loop.now < end, "it did not happen"
            await asyncio.sleep(0.01)

    @property
    def now(self) -> int:
        """The present in units of the default space, by the node's own clock as it started."""
        return (self.clock.wall_ns() // 1_000_000 - SPACE.layout.epoch_ms) // SPACE.layout.unit_ms


def flat(spans: list[range]) -> list[int]:
    """Give the ids of spans one by one."""
    return [id_ for span in spans for id_ in span]
