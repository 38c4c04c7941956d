"""IdService: names to generators. Every shell asks it, and nothing else gives ids.

Rules:
1. `tags[name].take()` and `spaces[name].take()` are the hot path: they await nothing. None means: take the slow path,
   by `segment_ids` or `snowflake_ids`, which finds the name, waits for a refill, and raises when the deadline passes.
2. A tag is picked up at its first use (`names.py`), and read again every `refresh` seconds; one that was deleted is
   dropped.
3. Clocks, stores and randomness come in from outside; time in tasks is the event loop's. So a simulation runs this very
   code on virtual time.
4. In the child of a fork nothing is issued: the grants belong to the parent (SAFETY P2).
"""

import asyncio
import os
import random
import secrets
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from goloves.config import SegmentConfig, SnowflakeConfig
from goloves.core.clock import SteadyClock
from goloves.core.grants import MAX_NUMBER, Range
from goloves.core.layout import Decoded
from goloves.core.names import check_name
from goloves.errors import (
    GolovesError,
    InvalidCount,
    NoRange,
    ShuttingDown,
    StoreUnavailable,
    StoreWentBackwards,
    TooManyWaiting,
    Unavailable,
    UnknownOutcome,
    UnknownSpace,
    UnknownTag,
)
from goloves.logger import get_logger
from goloves.service.clock import Clock, SystemClock
from goloves.service.counters import Counters
from goloves.service.gate import QUIET, Gate
from goloves.service.names import NAMES_PER_QUERY, Names, hint
from goloves.service.spaces import Keeping, ServedSpace, SpaceSource
from goloves.service.tags import Refills, TagSource
from goloves.stores.base import SegmentStore, Tag, WorkerStore

RANGES_AT_ONCE = 64
"""Requests for ranges under way at once, each a transaction of its own; more get 429."""

STORE_CALLS_AT_ONCE = 16
"""Calls to one store under way at once: more than its connections, so that none of them idles."""

OBSERVE_EVERY = 0.25
"""Seconds between two looks at the system's clock (see `core/clock.py`)."""

STOPPING = "this node is stopping; ask another one"

FORKED = "ids belong to the process that started the service, not to its forked child: start one here"

log = get_logger("goloves.service")

_services: "weakref.WeakSet[IdService]" = weakref.WeakSet()


class IdService:
    """See the module's rules. Not thread-safe: everything happens on the event loop that called `start`."""

    def __init__(
        self,
        segments: SegmentStore,
        workers: WorkerStore,
        *,
        segment: SegmentConfig | None = None,
        snowflake: SnowflakeConfig | None = None,
        spaces: Iterable[ServedSpace] = (),
        clock: Clock | None = None,
        rng: random.Random | None = None,
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
        owner: str | None = None,
    ) -> None:
        """`segments` and `workers` may be handles of one database. `owner` says who claims windows, for people."""
        self.tags: dict[str, TagSource] = {}
        """Tags in use on this node."""
        self.spaces: dict[str, SpaceSource] = {}
        """Spaces that this node serves."""
        self.counters = Counters()
        self._segments = segments
        self._workers = workers
        self._config = segment or SegmentConfig()
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._served = tuple(spaces)
        self._pid = os.getpid()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._segments_open = asyncio.Event()
        self._windows_open = asyncio.Event()
        self._open_error: GolovesError | None = None
        self._stopping = False
        self._drop_listeners: list[Callable[[], None]] = []
        self._ranges_under_way = 0
        self._telling: set[str] = set()
        """Identities of stores into which this node's marks are being written."""
        self._jump = 0
        self._judged_at = float("-inf")

        self._segment_gate = Gate("segments", limit=STORE_CALLS_AT_ONCE, rng=self._rng)
        self._window_gate = Gate("windows", limit=STORE_CALLS_AT_ONCE, rng=self._rng)
        self._steady = SteadyClock(self._clock.wall_ns(), self._clock.monotonic_ns())
        self._refills = Refills(
            segments, self._segment_gate, self._config, self.counters, self._spawn, self._drop, self._segments_halted
        )
        self._names = Names(
            segments, self._segment_gate, self._config, self.counters, self._spawn, self._segments_halted, self.tags
        )
        self._keeping = Keeping(
            workers,
            self._window_gate,
            snowflake or SnowflakeConfig(),
            self.counters,
            self._clock,
            self._steady,
            self._rng,
            nonce,
            owner or f"{socket.gethostname()} pid {self._pid}",
            self._windows_halted,
        )
        _services.add(self)

    # --- life ---

    async def start(self) -> None:
        """Open the stores and begin to claim windows; does not wait for a store that is away.

        Raises StoreRefused if a store can't be used as it is: nothing was started then.
        """
        self.spaces.update({served.space.name: SpaceSource(served, self._keeping) for served in self._served})
        try:
            await self._open_stores()
        except (StoreUnavailable, UnknownOutcome) as error:
            self._open_error = error
            self._spawn(self._open_when_back())
        for source in self.spaces.values():
            self._spawn(self._keep(source))
        self._spawn(self._repeat(lambda: self._config.refresh * self._rng.uniform(0.8, 1.0), self._refresh))
        self._spawn(self._repeat(lambda: OBSERVE_EVERY, self._observe))

    async def close(self, timeout: float = 2.0) -> None:
        """Stop: nothing is issued any more, windows are released within `timeout` seconds if the store answers."""
        if self._stopping or os.getpid() != self._pid:
            return
        self._stopping = True
        stopping = ShuttingDown(STOPPING)
        for tag in list(self.tags.values()):
            tag.retire(stopping)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._names.fail_all(stopping)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(source.stop(stopping) for source in self.spaces.values()))
        except TimeoutError:
            log.info("the store did not take the windows back in time: their worker ids rest until the windows end")
        await self._segments.close()
        await self._workers.close()
        _services.discard(self)

    def on_drop(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a tag was dropped: what was remembered about it is out of date."""
        self._drop_listeners.append(listener)

    def readiness(self) -> list[str]:
        """Say why this node can't serve; empty if it can.

        A store that is away does not count as long as buffers and windows serve without it: taking all nodes out of a
        load balancer at once would turn a hiccup into an outage.
        """
        if self._stopping:
            return [STOPPING]
        reasons: list[str] = []
        if self._open_error is not None:
            reasons.append(f"the store can't be used: {self._open_error.message}")
        reasons += [
            f"no window of the space {source.name!r}" + (f": {source.trouble.message}" if source.trouble else "")
            for source in self.spaces.values()
            if not source.usable
        ]
        failing = next((tag for tag in self.tags.values() if tag.failing), None) if self._segment_gate.error else None
        if failing is not None and self._segment_gate.error is not None:
            reasons.append(f"the tag {failing.name!r} has no number left: {self._segment_gate.error.message}")
        return reasons

    # --- ids ---

    async def segment_ids(self, tag: str, count: int, *, timeout: float | None = None) -> list[range]:
        """Give `count` ids of a tag as spans in order; `timeout` seconds, the configured deadline if None."""
        self._check_alive()
        if count < 1:
            raise InvalidCount(f"count is {count}; ask for at least 1")
        deadline = self._deadline(timeout, self._config.deadline)
        source = self.tags.get(tag) or await self._find(tag, deadline)
        return await source.ids(count, deadline - asyncio.get_running_loop().time())

    async def segment_range(self, tag: str, size: int, *, timeout: float | None = None) -> Range:
        """Give a range of just `size` consecutive numbers; the caller owns it, whatever becomes of this node."""
        self._check_alive()
        if not 1 <= size <= MAX_NUMBER:
            raise InvalidCount(f"size is {size}; ask for at least 1")
        deadline = self._deadline(timeout, self._config.deadline)
        source = self.tags.get(tag) or await self._find(tag, deadline)
        span = source.take_range(size)
        if span is not None:
            return Range(tag, span.start, span.stop)
        if self._ranges_under_way >= RANGES_AT_ONCE:
            raise TooManyWaiting(f"{RANGES_AT_ONCE} requests for ranges are under way already; try again")
        self._ranges_under_way += 1
        task: asyncio.Task[Range] = self._spawn(source.allocate(size))
        task.add_done_callback(self._range_ended)
        await asyncio.wait([task], timeout=deadline - asyncio.get_running_loop().time())
        self._check_alive()
        if not task.done():
            self.counters.deadlines_missed += 1
            self.counters.ranges_burned += 1
            raise NoRange(f"no range of the tag {tag!r} came in time; try again")
        try:
            return task.result()
        except UnknownOutcome:
            self.counters.ranges_burned += 1
            raise

    async def snowflake_ids(self, space: str, count: int, *, timeout: float | None = None) -> list[range]:
        """Give `count` ids of a space as spans in order; `timeout` seconds, the configured deadline if None."""
        self._check_alive()
        if count < 1:
            raise InvalidCount(f"count is {count}; ask for at least 1")
        source = self._space(space)
        deadline = self._deadline(timeout, self._keeping.config.deadline)
        return await source.ids(count, deadline - asyncio.get_running_loop().time())

    def decode(self, space: str, id_: int) -> Decoded:
        """Take an id of this space apart; InvalidId, UnknownSpace."""
        return self._space(space).layout.decode(id_)

    # --- names ---

    def _check_alive(self) -> None:
        if os.getpid() != self._pid:
            raise Unavailable(FORKED)
        if self._stopping:
            raise ShuttingDown(STOPPING)

    def _space(self, name: str) -> SpaceSource:
        source = self.spaces.get(name)
        if source is None:
            check_name(name, "space")
            raise UnknownSpace(f"there is no space {name!r}{hint(name, list(self.spaces))}")
        return source

    async def _find(self, name: str, deadline: float) -> TagSource:
        """Pick a tag up from the store at its first use."""
        check_name(name, "tag")
        if self._open_error is not None and not self._segments_open.is_set():
            # Asking would push the next attempt to open the store further away, with each request anew.
            raise StoreUnavailable(f"the store can't be used: {self._open_error.message}")
        tag = await self._names.find(name, deadline)
        self._check_alive()
        return self._use(tag)

    def _use(self, tag: Tag) -> TagSource:
        source = self.tags.get(tag.name)
        if source is None:
            source = self.tags[tag.name] = TagSource(tag, self._refills)
        return source

    def _drop(self, source: TagSource) -> None:
        source.retire(UnknownTag(f"the tag {source.name!r} does not exist any more"))
        if self.tags.get(source.name) is source:
            del self.tags[source.name]
            self.counters.tags_dropped += 1
            log.info("tag dropped: it does not exist any more", tag=source.name)
            for listener in self._drop_listeners:
                listener()

    def _halt(self, error: StoreWentBackwards, store: SegmentStore | WorkerStore) -> None:
        """Drop all grants of a store that is halted as a whole (R6), and none of another; then tell it the marks."""
        if self._segments_open.is_set() and self._segments.identity == store.identity:
            for tag in self.tags.values():
                tag.refuse(error)
        if self._windows_open.is_set() and self._workers.identity == store.identity:
            for space in self.spaces.values():
                space.drop()
        if store.identity not in self._telling and not self._stopping:
            self._telling.add(store.identity)
            self._spawn(self._tell_marks(store))

    async def _tell_marks(self, store: SegmentStore | WorkerStore) -> None:
        """Let the guard write this node's marks for the repair; who is refused later does it if that fails."""
        gate = self._segment_gate if store is self._segments else self._window_gate
        try:
            await gate.call_now(store.check_halt)
        except StoreWentBackwards as error:
            self._halt(error, store)  # once more, for this may be another halt
        except GolovesError:
            pass  # the gate says that the store is away
        finally:
            self._telling.discard(store.identity)

    def _segments_halted(self, error: StoreWentBackwards) -> None:
        self._halt(error, self._segments)

    def _windows_halted(self, error: StoreWentBackwards) -> None:
        self._halt(error, self._workers)

    # --- tasks ---

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, GolovesError):
            log.error("a background task failed", exc_info=error)

    def _deadline(self, timeout: float | None, default: float) -> float:
        return asyncio.get_running_loop().time() + (default if timeout is None else min(timeout, default))

    async def _open_stores(self) -> None:
        """Open what is not open yet. Raises StoreRefused, StoreUnavailable, UnknownOutcome."""
        away: StoreUnavailable | UnknownOutcome | None = None
        try:
            await self._open(self._segments, self._segment_gate, self._segments_open)
        except (StoreUnavailable, UnknownOutcome) as error:
            away = error
        await self._open(self._workers, self._window_gate, self._windows_open)
        if away is not None:
            raise away
        self._open_error = None

    async def _open(self, store: SegmentStore | WorkerStore, gate: Gate, opened: asyncio.Event) -> None:
        """Open one store; of one that went backwards meanwhile, nothing is kept that was granted before."""
        if opened.is_set():
            return
        halted: StoreWentBackwards | None = None
        try:
            await gate.call_now(store.open)
        except StoreWentBackwards as error:
            halted = error
        opened.set()
        if halted is not None:
            self.counters.store_went_backwards += 1
            self._halt(halted, store)

    async def _open_when_back(self) -> None:
        """Open a store that was away at start, as soon as it is back; one that must not be used is looked at again."""
        said_at = float("-inf")
        while self._open_error is not None:
            await asyncio.sleep(self._rng.uniform(0.2, 0.4))
            try:
                await self._open_stores()
            except (StoreUnavailable, UnknownOutcome) as error:
                self._open_error = error
            except GolovesError as error:
                self._open_error = error
                now = asyncio.get_running_loop().time()
                if now - said_at >= QUIET:
                    said_at = now
                    log.error("the store can't be used", reason=error.message)

    async def _keep(self, source: SpaceSource) -> None:
        await self._windows_open.wait()
        await source.keep()

    def _range_ended(self, _task: asyncio.Task[Any]) -> None:
        self._ranges_under_way -= 1

    async def _repeat(self, pause: Callable[[], float], work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this now and then, and go on after a failure that nobody foresaw: it would be missed for good."""
        while True:
            await asyncio.sleep(pause())
            try:
                await work()
            except Exception as error:
                log.error("a background task failed", exc_info=error)

    async def _refresh(self) -> None:
        """Read the tags in use again."""
        names = list(self.tags)
        for at in range(0, len(names), NAMES_PER_QUERY):
            part = names[at : at + NAMES_PER_QUERY]
            try:
                found = await self._segment_gate.call(lambda part=part: self._segments.read_tags(part))  # type: ignore[misc]
            except StoreWentBackwards as error:
                self.counters.store_went_backwards += 1
                self._segments_halted(error)
                break
            except GolovesError:
                break  # the gate says that the store is away; the next round reads again
            for name in part:
                source = self.tags.get(name)
                if source is None:
                    continue
                if name in found:
                    source.read(found[name])
                else:
                    self._drop(source)

    async def _observe(self) -> None:
        """Look at the system's clock; let the store's clock judge a jump."""
        jump = self._steady.observe(self._clock.wall_ns(), self._clock.monotonic_ns())
        self._read_clocks()
        if jump and not self._jump:
            self.counters.clock_jumps += 1
            log.warning("the system's clock jumped: held off until it is confirmed", seconds=jump / 1e9)
        self._jump = jump
        now = asyncio.get_running_loop().time()
        if jump and now - self._judged_at >= 1.0 and self._windows_open.is_set():
            self._judged_at = now
            try:
                store_ms = await self._window_gate.call_now(self._workers.clock)
            except GolovesError:
                return
            if store_ms is not None and self._steady.judge(
                store_ms * 1_000_000,
                self._clock.wall_ns(),
                self._clock.monotonic_ns(),
                round(self._keeping.config.max_forward * 1e9),
            ):
                self._jump = 0
                self._read_clocks()
                log.warning("the store's clock confirms the jump: followed", seconds=jump / 1e9)

    def _read_clocks(self) -> None:
        for space in self.spaces.values():
            space.read_clock()

    def _forked(self) -> None:
        error = Unavailable(FORKED)
        for space in self.spaces.values():
            space.forget(error)
        for tag in self.tags.values():
            tag.forget(error)
        self.tags.clear()


def _forget_grants_in_child() -> None:
    for service in list(_services):
        service._forked()


os.register_at_fork(after_in_child=_forget_grants_in_child)
