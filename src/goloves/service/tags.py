"""One tag on this node: its buffer, its refill, and the requests that wait for it.

Rules:
1. One refill at a time, in a task of its own that no request can cancel.
2. Who finds the buffer empty waits in line; a refill serves the line in order before anybody else.
3. Waiting ends at the request's deadline, at once if no refill can come before it.
4. A range whose outcome is unknown is never used: only what `allocate` returned goes into the buffer (R3).
5. A tag whose lock somebody else holds is tried now and then only: its calls would take up the connections of others.
6. A halt drops what is held and what is under way: a range that was asked for before is burned when it comes (R6).
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from goloves.config import SegmentConfig
from goloves.core.grants import Range
from goloves.core.segment import SegmentBuffer, StepPolicy
from goloves.errors import (
    GolovesError,
    Locked,
    NoRange,
    StoreUnavailable,
    StoreWentBackwards,
    TooManyWaiting,
    UnknownOutcome,
    UnknownTag,
)
from goloves.logger import get_logger
from goloves.service.counters import Counters
from goloves.service.gate import Gate
from goloves.service.line import Line, Waiter, fail, serve, wanted
from goloves.stores.base import SegmentStore, Tag, nearly_used_up

REFUSAL_LASTS = 1.0
"""Seconds for which a final refusal (used up, halted) is repeated without asking the store again: a tag that is used up
would otherwise turn each request into a transaction."""

WARN_EVERY = 3600.0
"""Seconds between two warnings that a tag's numbers run out."""

FIRST_REST = 0.25
"""Seconds for which a tag is left alone once somebody else holds its lock; doubled each time that this is so again, and
cut by jitter. Calls that wait for locks take up connections that other tags need."""

LONGEST_REST = 2.0
"""Seconds: a lock that was let go is noticed within that."""

log = get_logger("goloves.segment")


@dataclass(slots=True)
class Refills:
    """What all tags of a node share."""

    store: SegmentStore
    gate: Gate
    config: SegmentConfig
    counters: Counters
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    gone: Callable[["TagSource"], None]
    """Called when the store says that the tag does not exist any more."""
    halted: Callable[[StoreWentBackwards], None]
    """Called when the store says that it is halted as a whole."""


class TagSource:
    """Ids of one tag. `take` is the hot path: it gives an id, or None if the slow path (`ids`) must be taken."""

    __slots__ = (
        "_buffer",
        "_halts",
        "_limit",
        "_line",
        "_locked",
        "_policy",
        "_refill",
        "_refused",
        "_refused_until",
        "_rest",
        "_rests_until",
        "_retired",
        "_shared",
        "_warned_at",
        "name",
        "take",
    )

    def __init__(self, tag: Tag, shared: Refills) -> None:
        self.name = tag.name
        self._shared = shared
        self._retired: GolovesError | None = None
        """Why nothing comes from here any more."""
        self._buffer = SegmentBuffer(self._start_refill)
        self._policy = StepPolicy(tag.step, target=shared.config.target, max_step=shared.config.max_step)
        self._refill: asyncio.Task[None] | None = None
        self._line: Line | None = None
        self._refused: GolovesError | None = None
        self._refused_until = 0.0
        self._locked: Locked | None = None
        """Somebody else held the tag's lock when it was asked for last."""
        self._rest = FIRST_REST
        self._rests_until = 0.0
        self._halts = 0
        self._limit = tag.limit
        self._warned_at = float("-inf")
        self.take: Callable[[], int | None] = self._buffer.take

    @property
    def left(self) -> int:
        """Numbers in the buffer."""
        return self._buffer.left

    @property
    def failing(self) -> bool:
        """Whether requests can't be served now: nothing is left, and the last word of the store was a failure."""
        return not self.left and (self._refused is not None or self._shared.gate.error is not None)

    @property
    def step(self) -> int:
        """What the last refill asked for."""
        return self._policy.step

    async def ids(self, count: int, timeout: float) -> list[range]:
        """Give `count` ids as spans in order, within `timeout` seconds.

        Raises NoRange, TagUsedUp, UnknownTag, StoreWentBackwards, TooManyWaiting, ShuttingDown.
        """
        spans = [] if self._line else self._buffer.take_many(count)
        left = count - sum(map(len, spans))
        if not left:
            return spans
        return await self._wait(Waiter(spans, left), timeout)

    def take_range(self, size: int) -> range | None:
        """Give `size` consecutive numbers if the current range holds them."""
        return self._buffer.take_range(size)

    async def allocate(self, size: int) -> Range:
        """Allocate a range of just `size` numbers, for a caller who keeps it. Raises what the store raises."""
        shared = self._shared
        halts = self._halts
        self._probe_lock()
        try:
            granted = await shared.gate.call_now(lambda: shared.store.allocate(self.name, size, exact=True))
        except Locked as error:
            self._begin_rest(error)
            raise
        except UnknownTag:
            shared.gone(self)
            raise
        except StoreWentBackwards as error:
            self._went_backwards(error)
            raise
        self._locked = None
        if self._halts != halts:
            shared.counters.ranges_burned += 1
            raise NoRange(f"the tag {self.name!r} was halted while a range was allocated; try again")
        return granted

    def read(self, tag: Tag) -> None:
        """Take over what the store says about the tag now."""
        self._policy.own = tag.step
        self._limit = tag.limit
        self._warn_of_the_end(tag.max_id)
        if tag.halted:
            self.refuse(StoreWentBackwards(halted_message(tag.name, tag.halted)))

    def refuse(self, error: GolovesError) -> None:
        """Forget all ranges and answer with this error for a while."""
        self._halts += 1
        self._buffer.clear()
        self._refuse_when_empty(error)

    def retire(self, error: GolovesError) -> None:
        """Drop the tag: forget all ranges, end the line with this error, give nothing from now on."""
        self.forget(error)
        self._fail_line(error)

    def forget(self, error: GolovesError) -> None:
        """Forget all ranges and wake nobody: in the child of a fork, whoever waits is the parent's (P2)."""
        self._retired = error
        self._buffer.clear()

    async def _wait(self, waiter: Waiter, timeout: float) -> list[range]:
        shared = self._shared
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._retired is not None:
            raise self._retired.with_traceback(None)
        if self._refused is not None and now < self._refused_until:
            raise self._refused.with_traceback(None)
        if self._line is None:
            self._line = Line()
        if len(self._line) >= shared.config.max_waiting:
            raise TooManyWaiting(
                f"{shared.config.max_waiting} requests wait for the tag {self.name!r} already; send fewer at once"
            )
        shared.counters.refills_late += 1
        self._start_refill()
        gate = shared.gate
        if gate.error is not None and gate.retry_at > now + timeout:
            shared.counters.deadlines_missed += 1
            raise self._late(timeout)
        self._line.append(waiter)
        timer = loop.call_later(timeout, self._expire, waiter, timeout)
        try:
            spans = await waiter.done
        finally:
            timer.cancel()
        if self._retired is not None:
            raise self._retired.with_traceback(None)
        return spans

    def _expire(self, waiter: Waiter, timeout: float) -> None:
        if not waiter.done.done():
            self._shared.counters.deadlines_missed += 1
            waiter.done.set_exception(self._late(timeout))

    def _late(self, timeout: float) -> NoRange:
        error = self._shared.gate.error
        if error is not None:
            why = f"the store is away ({error.message})"
        elif self._locked is not None:
            why = f"somebody else holds its lock in the store ({self._locked.message})"
        else:
            why = "no refill came"
        within = f"{round(max(0.0, timeout), 2):g}"
        return NoRange(f"the tag {self.name!r} has no number left and {why} within {within} s; try again")

    def _start_refill(self) -> None:
        if self._refill is not None or self._retired is not None:
            return
        if self._refused is not None and asyncio.get_running_loop().time() < self._refused_until:
            return
        self._refill = self._shared.spawn(self._run_refill())

    async def _run_refill(self) -> None:
        shared = self._shared
        try:
            while self._retired is None:
                size = self._policy.next(asyncio.get_running_loop().time(), wanted=wanted(self._line))
                halts = self._halts
                granted = await self._allocate(size)
                if granted is None or self._retired is not None:
                    return
                if self._halts != halts:
                    shared.counters.ranges_burned += 1
                else:
                    shared.counters.refills += 1
                    self._refused = None
                    self._buffer.put(granted)
                    self._serve_line()
                    self._warn_of_the_end(granted.end)
                if not self._line and not self._buffer.due:
                    return
        finally:
            self._refill = None

    async def _allocate(self, size: int) -> Range | None:
        """Allocate, however long the store is away; None if it refuses for good."""
        shared = self._shared
        while self._retired is None:
            try:
                granted = await shared.gate.call(lambda: shared.store.allocate(self.name, size))
            except Locked as error:
                shared.counters.refills_failed += 1
                await asyncio.sleep(self._begin_rest(error))
            except UnknownOutcome:
                shared.counters.refills_failed += 1
                shared.counters.ranges_burned += 1
            except StoreUnavailable:
                shared.counters.refills_failed += 1
            except UnknownTag:
                shared.gone(self)
            except GolovesError as error:
                shared.counters.refills_failed += 1
                if self._refused is None:
                    log.error("no more ids of this tag", tag=self.name, code=error.code, reason=error.message)
                if isinstance(error, StoreWentBackwards):
                    self._went_backwards(error)
                else:
                    self._refuse_when_empty(error)
                return None
            else:
                self._locked = None
                return granted
        return None

    def _begin_rest(self, error: Locked) -> float:
        """Leave the tag alone for a while, since somebody else holds its lock; gives the seconds."""
        if self._locked is None:
            self._rest = FIRST_REST
            log.warning("somebody else holds the lock of this tag", tag=self.name, reason=error.message)
        else:
            self._rest = min(LONGEST_REST, 2 * self._rest)
        self._locked = error
        rest = self._shared.gate.jitter(self._rest)
        self._rests_until = asyncio.get_running_loop().time() + rest
        return rest

    def _probe_lock(self) -> None:
        """Let one request at a time try whether the tag's lock is free again; Locked for the others."""
        if self._locked is None:
            return
        now = asyncio.get_running_loop().time()
        if now < self._rests_until:
            raise self._locked.with_traceback(None)
        self._rests_until = now + self._rest

    def _warn_of_the_end(self, number: int) -> None:
        """Warn, once an hour, while less than a tenth of the numbers below the limit is left."""
        now = asyncio.get_running_loop().time()
        if nearly_used_up(number, self._limit) and now - self._warned_at >= WARN_EVERY:
            self._warned_at = now
            log.warning(
                "the tag's numbers run out: raise its limit, or use a new tag",
                tag=self.name,
                left=max(0, self._limit - number),
                limit=self._limit,
            )

    def _went_backwards(self, error: StoreWentBackwards) -> None:
        self._shared.counters.store_went_backwards += 1
        self.refuse(error)
        if error.whole_store:
            self._shared.halted(error)

    def _refuse_when_empty(self, error: GolovesError) -> None:
        """Answer with this error once the ranges that are held are used: they were granted, and stay good."""
        self._refused = error
        self._refused_until = asyncio.get_running_loop().time() + REFUSAL_LASTS
        self._fail_line(error)

    def _serve_line(self) -> None:
        if serve(self._line, self._buffer.take_many):
            self._line = None

    def _fail_line(self, error: GolovesError) -> None:
        line, self._line = self._line, None
        fail(line, error)


def halted_message(tag: str, reason: str) -> str:
    """Say that a tag is halted, and what mends it."""
    return f"the tag {tag!r} is halted because the store went backwards ({reason}); an operator runs `goloves repair`"
