"""One space on this node: its generator, the keeper of its window, and the requests that wait.

Rules:
1. The keeper alone claims, extends and releases; one call at a time, in a task that no request can cancel.
2. A window enters the generator only when the store acknowledged it; a claim whose outcome is unknown is read back by
   its nonce and adopted only if it is ours (W4).
3. A window is released only after the generator gave it up (W5), and is never claimed or extended with a clock that is
   ahead of the store's by more than `max_forward` (W8).
4. A lost window goes on until the end that it has; meanwhile another worker id is claimed (rule 2 of the one idea).
5. A halt drops the window that is held and the claim that is under way: what was asked for before is not adopted (R6).
6. Who can't be served at once waits in line, and is served whole before the next: batches that take from one another
   would all miss their deadlines. While somebody waits, the hot path gives nothing.
7. In the child of a fork nothing is issued, claimed, extended or released: window and connection are the parent's (P2).
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from goloves.config import SnowflakeConfig
from goloves.config.settings import SpaceConfig
from goloves.core.clock import SteadyClock
from goloves.core.grants import Window
from goloves.core.layout import Layout
from goloves.core.snowflake import LEAD_MS, SnowflakeGenerator, Why
from goloves.errors import (
    ClockAhead,
    ClockBackwards,
    GolovesError,
    Locked,
    NoWindow,
    NoWorkerFree,
    OverLayoutRate,
    StoreUnavailable,
    StoreWentBackwards,
    TimeUsedUp,
    TooManyWaiting,
    UnknownOutcome,
    UnknownSpace,
    WindowLost,
)
from goloves.logger import get_logger
from goloves.service.clock import Clock
from goloves.service.counters import Counters
from goloves.service.gate import QUIET, Gate
from goloves.service.line import Line, Waiter, fail, serve, wanted
from goloves.stores.base import Claim, Space, WorkerStore

EXTENSIONS_PER_WINDOW = 10
"""A window is extended every tenth of its length: nine tenths are left to ride out a store that is away."""

RETRY = 1.0
"""Seconds between two claims that are refused (no worker id free, halted, clock ahead), give or take a third."""

LONGEST_RETRY = 10.0
"""Seconds between two claims while no worker id is free: a tenth of the wait for the first one, at most this. Windows
that are given back early are noticed within that, and hundreds of nodes that wait for ten minutes don't each ask every
second."""

WARN_DAYS = 60
"""Days before a layout's time runs out from which on every node warns: time to make a new space and move clients."""

SCARCE = 2
"""Worker ids that a space needs for each node: nodes that crash leave theirs resting while they claim another (W6)."""

WARN_EVERY = 3600.0
"""Seconds between two warnings of what will only be trouble one day."""

MAX_WAITING = 10_000
"""Requests that may wait for one space at once: some seconds' worth, a few MB."""

log = get_logger("goloves.snowflake")


@dataclass(frozen=True, slots=True)
class ServedSpace:
    """A space that this node serves."""

    space: Space
    window: float = 600.0
    """Seconds that a window is long."""
    workers: range | None = None
    """The worker ids that this node may claim (W10), its only one if they are static; None: all that the layout has."""

    @classmethod
    def configured(cls, name: str, config: SpaceConfig) -> "ServedSpace":
        """Give a space as its configuration has it; ConfigError if the host name has no number where one is wanted."""
        static = config.worker is not None
        return cls(Space(name, config.layout(), static), config.window, config.worker_ids())


@dataclass(slots=True)
class Keeping:
    """What all spaces of a node share."""

    store: WorkerStore
    gate: Gate
    config: SnowflakeConfig
    counters: Counters
    clock: Clock
    steady: SteadyClock
    rng: random.Random
    nonce: Callable[[], str]
    """Draws 32 hex digits from a cryptographic source (W4)."""
    owner: str
    halted: Callable[[StoreWentBackwards], None]
    """Called when the store says that it is halted as a whole."""


class SpaceSource:
    """Ids of one space. `take` is the hot path: it gives an id, or None if the slow path (`ids`) must be taken."""

    def __init__(self, served: ServedSpace, shared: Keeping) -> None:
        layout = served.space.layout
        self.name = served.space.name
        self.layout: Layout = layout
        self.trouble: GolovesError | None = NoWindow("none was claimed yet")
        """Why the keeper could not do what it last tried; None if all is well."""
        self._space = served.space
        self._shared = shared
        self._generator = SnowflakeGenerator(
            layout,
            max_backward=layout.span_units(round(shared.config.max_backward * 1000)),
            getrandbits=shared.rng.getrandbits,
        )
        self._lead = layout.span_units(LEAD_MS)
        self._workers = served.workers
        self._length = layout.span_units(round(served.window * 1000))
        self._pause = served.window / EXTENSIONS_PER_WINDOW
        self._wake = asyncio.Event()
        self._abandon = False
        self._lost = False
        self._drops = 0
        self._ended: GolovesError | None = None
        """Why nothing comes from here any more."""
        self._line = Line()
        self._serving: asyncio.TimerHandle | None = None
        """Serves the line once more, when the clock has gone on."""
        self._warned_at = self._end_warned_at = self._scarce_warned_at = float("-inf")
        self._count_due = False
        self._monotonic_ns = shared.clock.monotonic_ns
        self._steady = shared.steady
        self._epoch_ns = layout.epoch_ms * 1_000_000
        self._unit_ns = layout.unit_ms * 1_000_000
        self._next: Callable[[int], int | None] = self._generator.next
        self._more = self._generator.more
        self._unit_ends_ns = 0
        """Reading of the monotonic clock at which the unit of the last `take` ends: until then nothing is divided."""

    @property
    def window(self) -> Window | None:
        """The window that is held."""
        return self._generator.window

    @property
    def usable(self) -> bool:
        """Whether ids can be issued now: the present lies in the window that is held."""
        window = self._generator.window
        return window is not None and window.start - self._lead <= self._now() < window.end

    def take(self) -> int | None:
        """Give an id, or None."""
        if self._monotonic_ns() < self._unit_ends_ns:
            number = self._more()
            if number is not None:
                return number
        return self._take_next()

    def read_clock(self) -> None:
        """Read the clock anew with the next id: its offset to the monotonic clock is another."""
        self._unit_ends_ns = 0

    async def ids(self, count: int, timeout: float) -> list[range]:
        """Give `count` ids as spans, within `timeout` seconds; one request after the other.

        What can't be had in that time even by the rate of the layout is refused at once, and draws nothing.

        Raises NoWindow, ClockBackwards, OverLayoutRate, TimeUsedUp, StoreWentBackwards, TooManyWaiting, ShuttingDown.
        """
        line = self._line
        if line:
            self._serve_line()  # the clock may have caught up without a word from the keeper
        if self._ended is not None:
            raise self._ended.with_traceback(None)
        if len(line) >= MAX_WAITING:
            raise TooManyWaiting(f"{MAX_WAITING} requests wait for the space {self.name!r}; send fewer at once")
        self._check_room(count, timeout)
        spans = [] if line else self._generator.take_many(self._now(), count)
        left = count - sum(map(len, spans))
        if not left:
            return spans
        if timeout <= 0:
            self._shared.counters.deadlines_missed += 1
            raise self._refusal()
        waiter = Waiter(spans, left)
        line.append(waiter)
        self._next = _nothing
        self._unit_ends_ns = 0
        self._help_line()
        timer = asyncio.get_running_loop().call_later(timeout, self._expire, waiter)
        try:
            return await waiter.done
        finally:
            timer.cancel()
            if not wanted(line):
                self._end_line()

    async def keep(self) -> None:
        """Hold a window until `stop`: claim, extend, claim another."""
        await self._register()
        while self._ended is None:
            try:
                if self._abandon:
                    self._abandon = False
                    await self._release()
                if self.window is None or self._lost or self._now() >= self.window.end:
                    await self._claim()
                else:
                    await self._extend()
            except (StoreUnavailable, UnknownOutcome) as error:
                self.trouble = error
                await self._rest_if_locked(error)
            except UnknownSpace as error:  # somebody removed it; a node that had windows of it would have halted
                self._refused(error)
                await self._sleep(RETRY * self._shared.rng.uniform(0.67, 1.33))
                await self._register()
            except GolovesError as error:
                self._refused(error)
                wait = error.retry_after or 0.0 if isinstance(error, NoWindow) else 0.0
                await self._sleep(min(LONGEST_RETRY, max(RETRY, wait / 10)) * self._shared.rng.uniform(0.67, 1.33))
            except Exception as error:
                await self._unforeseen(error)
            else:
                self.trouble = None
                self._serve_line()
                await self._warn_of_scarcity()
                await self._sleep(self._pause * self._shared.rng.uniform(0.8, 1.0))

    async def stop(self, error: GolovesError) -> None:
        """Give up the window: nothing is issued any more, then it is released. The keeper must have ended.

        Who waits, or asks later, gets this error.
        """
        self._ended = error
        self._fail_line(error)
        await self._release()

    def drop(self) -> None:
        """Forget the window without releasing it, because the store is halted; the keeper goes on trying."""
        self._drops += 1
        self._lost = False
        if self._generator.retire() is not None:  # else the keeper tries already, and spaces would wake one another
            self._wake.set()

    def forget(self, error: GolovesError) -> None:
        """Forget the window without a word, and answer with this error: for the child of a fork (P2)."""
        self._ended = error
        self._generator.retire()

    def _take_next(self) -> int | None:
        now = self._now()
        number = self._next(now)
        unit_ends = (now + 1) * self._unit_ns + self._epoch_ns - self._steady.offset
        self._unit_ends_ns = 0 if number is None else unit_ends
        return number

    def _now(self) -> int:
        return (self._monotonic_ns() + self._steady.offset - self._epoch_ns) // self._unit_ns

    def _refusal(self) -> GolovesError:
        """Say why there is no id."""
        why = self._generator.why
        if why is Why.OVER_RATE:
            return self._over_rate()
        window = self.window
        if why is Why.NOT_YET and window is not None:
            wait = max(1.0, (self.layout.unix_ms(window.start) - self.layout.unix_ms(self._now())) / 1000)
            return NoWindow(
                f"the window of the space {self.name!r} begins in {wait:.0f} s by the clock of this node, which stepped"
                " back; try again",
                retry_after=wait,
            )
        trouble = self.trouble
        if isinstance(trouble, StoreWentBackwards | TimeUsedUp):
            return trouble.with_traceback(None)
        because = f" ({trouble.message})" if trouble is not None else ""
        if why is Why.CLOCK_BACKWARDS:
            return ClockBackwards(
                f"the clock of this node stepped back by more than {self._shared.config.max_backward:g} s, and the "
                f"space {self.name!r} has no other worker id yet{because}; try again"
            )
        retry_after = trouble.retry_after if trouble is not None else None
        return NoWindow(
            f"this node has no window of the space {self.name!r} now{because}; try again",
            retry_after=retry_after or 1.0,
        )

    def _over_rate(self) -> OverLayoutRate:
        rate = self.layout.sequences * 1000 // self.layout.unit_ms
        return OverLayoutRate(f"the space {self.name!r} gives {rate} ids a second on each node at most; try again")

    def _refused(self, error: GolovesError) -> None:
        self.trouble = error
        loop_time = asyncio.get_running_loop().time()
        if loop_time - self._warned_at >= QUIET:
            self._warned_at = loop_time
            log.warning("no window", space=self.name, code=error.code, reason=error.message)
        if isinstance(error, StoreWentBackwards):
            self._shared.counters.store_went_backwards += 1
            self.drop()
            if error.whole_store:
                self._shared.halted(error)
        self._wake.clear()

    async def _unforeseen(self, error: Exception) -> None:
        """Go on after a failure that nobody foresaw: a keeper that ends leaves its space without a window for good."""
        if not isinstance(self.trouble, NoWindow) or self.trouble.__cause__ is None:
            log.error("a background task failed", space=self.name, exc_info=error)
        self.trouble = NoWindow(f"the space {self.name!r} met a failure that nobody foresaw ({type(error).__name__})")
        self.trouble.__cause__ = error
        await self._sleep(RETRY * self._shared.rng.uniform(0.67, 1.33))

    async def _rest_if_locked(self, error: GolovesError) -> None:
        """Pause where only a lock was in the way: the gate, which stays open then, does so in all other cases."""
        if isinstance(error, Locked):
            await self._sleep(RETRY * self._shared.rng.uniform(0.67, 1.33))

    def _give_up_worker(self) -> None:
        """Let the keeper take another worker id, for the clock stepped back too far for this one."""
        if not self._abandon:
            self._abandon = True
            self._shared.counters.workers_abandoned += 1
            then = "waiting until it has caught up" if self._space.static else "taking another worker id"
            log.warning(f"the clock stepped back: {then}", space=self.name)
            self._wake.set()

    async def _register(self) -> None:
        shared = self._shared
        while self._ended is None:
            try:
                await shared.gate.call(lambda: shared.store.open_space(self._space))
            except (StoreUnavailable, UnknownOutcome) as error:
                self.trouble = error
                await self._rest_if_locked(error)
            except GolovesError as error:
                self._refused(error)
                await self._sleep(RETRY * shared.rng.uniform(0.67, 1.33))
            except Exception as error:
                await self._unforeseen(error)
            else:
                return

    async def _claim(self) -> None:
        shared = self._shared
        await self._check_clock()
        nonce = shared.nonce()
        now = self.layout.units(self.layout.unix_ms(self._now()))
        claim = Claim(self._space, now, self._length, nonce, shared.owner, shared.rng, self._workers)
        drops = self._drops
        try:
            window = await shared.gate.call(lambda: shared.store.claim(claim))
        except UnknownOutcome:
            found = await self._find(nonce)
            if found is None:
                raise
            shared.counters.windows_adopted += 1
            window = found
        except NoWorkerFree as error:
            wait = (self.layout.unix_ms(error.lowest_floor) - self.layout.unix_ms(self._now())) / 1000
            wait = max(1.0, wait)
            raise NoWindow(error.message, retry_after=wait) from error
        if self._ended is not None:
            return
        if self._drops != drops:
            raise NoWindow(f"the store was halted while a worker id of the space {self.name!r} was claimed; try again")
        shared.counters.windows_claimed += 1
        self._lost = False
        self._generator.adopt(window)
        self._count_due = True
        log.info("window claimed", space=self.name, worker=window.worker, fence=window.fence)
        self._warn_of_the_end()

    async def _find(self, nonce: str) -> Window | None:
        """Read back a claim whose outcome is unknown, however long the store is away (W4)."""
        shared = self._shared
        while self._ended is None:
            try:
                return await shared.gate.call(lambda: shared.store.find_window(self.name, nonce))
            except (StoreUnavailable, UnknownOutcome) as error:
                self.trouble = error
        return None

    async def _extend(self) -> None:
        shared = self._shared
        window = self.window
        if window is None:
            return
        await self._check_clock()
        end = min(self._now() + self._length, self.layout.end_units)
        try:
            extended = await shared.gate.call(lambda: shared.store.extend(window, end))
        except WindowLost as error:
            shared.counters.windows_lost += 1
            log.warning("window lost", space=self.name, worker=window.worker, reason=error.message)
            self._lost = True
            await self._claim()
            return
        if self.window is window:
            self._generator.extend(extended)
            shared.counters.windows_extended += 1
        self._warn_of_the_end()

    async def _release(self) -> None:
        shared = self._shared
        retired = self._generator.retire()
        if retired is None:
            return
        window, floor = retired
        try:
            await shared.gate.call_now(lambda: shared.store.release(window, floor))
            shared.counters.windows_released += 1
        except GolovesError as error:
            log.info("window not released: its worker id rests until it ends", space=self.name, reason=error.message)

    async def _check_clock(self) -> None:
        """Refuse to go on with a clock that is ahead of the store's by more than `max_forward` (W8).

        SQLite has no clock but that of the machine, on which all nodes of the store run: there is none to compare with.
        """
        shared = self._shared
        store_ms = await shared.gate.call(shared.store.clock)
        if store_ms is None:
            return
        ahead = (shared.clock.monotonic_ns() + shared.steady.offset) / 1e9 - store_ms / 1000
        if ahead > shared.config.max_forward:
            shared.counters.clock_ahead += 1
            noted_ms = await shared.gate.call(shared.store.last_seen)
            back = (noted_ms - store_ms) / 1000 if noted_ms is not None else 0.0
            if back > shared.config.max_forward:
                # It contradicts what it said itself, to whatever node: this node's clock may well be right.
                raise ClockAhead(
                    f"the clock of the store stepped back: it is {back:.1f} s behind what it noted itself, and"
                    f" {ahead:.1f} s behind this node's; set the store's clock right"
                )
            raise ClockAhead(
                f"the clock of this node is {ahead:.1f} s ahead of the store's; set the wrong one right, the store's if"
                f" all nodes say so (max_forward is {shared.config.max_forward:g} s)"
            )

    def _warn_of_the_end(self) -> None:
        left_days = (self.layout.end_unix_ms - self.layout.unix_ms(self._now())) / 86_400_000
        loop_time = asyncio.get_running_loop().time()
        if left_days <= WARN_DAYS and loop_time - self._end_warned_at >= WARN_EVERY:
            self._end_warned_at = loop_time
            log.warning("the layout's time runs out: make a new space", space=self.name, days_left=round(left_days, 1))

    async def _warn_of_scarcity(self) -> None:
        """After a claim, count the windows under way and warn if they leave too few worker ids (W6)."""
        shared, ids = self._shared, self._workers or range(self.layout.workers)
        loop_time = asyncio.get_running_loop().time()
        if self._space.static or not self._count_due or loop_time - self._scarce_warned_at < WARN_EVERY:
            return
        self._count_due = False
        try:
            taken = await shared.gate.call_now(lambda: shared.store.count_windows(self.name, self._now(), ids))
        except GolovesError:
            return  # the gate says that the store is away; the next claim counts again
        if taken * SCARCE > len(ids):
            self._scarce_warned_at = loop_time
            log.warning(
                "worker ids of the space run short: nodes that crash may have to wait for one",
                space=self.name,
                taken=taken,
                of=len(ids),
                mend="fewer nodes, or a new space with more worker bits",
            )

    # --- the line ---

    def _check_room(self, count: int, timeout: float) -> None:
        if not self.usable:
            return  # nobody knows what the next window lets through
        now = self._now()
        room = self._generator.room(now, now + self.layout.span_units(max(0, round(timeout * 1000))))
        if count + wanted(self._line) > room:
            self._shared.counters.deadlines_missed += 1
            raise self._over_rate()

    def _serve_line(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            self._serving = None
        if serve(self._line, self._take_many):
            self._end_line()
        else:
            self._help_line()

    def _take_many(self, count: int) -> list[range]:
        return self._generator.take_many(self._now(), count)

    def _help_line(self) -> None:
        """Do what brings ids to the line, by the reason for which there were none."""
        why = self._generator.why
        if why is Why.NOT_YET:
            self._fail_line(self._refusal())
        elif why is Why.CLOCK_BACKWARDS:
            self._give_up_worker()
        elif why is Why.WINDOW_ENDED and self.trouble is None:
            self._wake.set()  # a jump of the clock that was followed leapt over the end while the keeper slept
        elif why is Why.OVER_RATE and self._serving is None:
            pause = max(0.001, self.layout.unit_ms / 1000)
            self._serving = asyncio.get_running_loop().call_later(pause, self._serve_line)

    def _fail_line(self, error: GolovesError) -> None:
        fail(self._line, error)
        self._end_line()

    def _end_line(self) -> None:
        """Let the hot path give ids again: nobody waits."""
        self._next = self._generator.next
        if self._serving is not None:
            self._serving.cancel()
            self._serving = None

    def _expire(self, waiter: Waiter) -> None:
        if not waiter.done.done():
            self._shared.counters.deadlines_missed += 1
            waiter.done.set_exception(self._refusal())

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but wake at once when something must be done."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()


def _nothing(_now: int) -> None:
    """Stand in for the generator on the hot path, while a line waits."""
