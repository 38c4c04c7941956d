"""The gate before a store: all calls pass it, after a failure one probe at a time, so that nobody storms a sick store.

Rules:
1. At most `limit` calls are under way at once; more wait in line.
2. A call that fails because the store is away closes the gate. While it is closed, one call at a time goes through as a
   probe, not before a random part of a delay that doubles with each failure, from 50 ms to 1 s.
3. A call that only met somebody else's lock leaves it open: that is the matter of one tag, not of the store.
4. The first call that the store answers, be it with a refusal, opens the gate; who waits goes on. So ids come back
   within about a second of the store.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from goloves.errors import GolovesError, Locked, StoreUnavailable, UnknownOutcome
from goloves.logger import get_logger

T = TypeVar("T")

FIRST_DELAY = 0.05
"""Seconds: a database that restarts a connection or two is back by then."""

LONGEST_DELAY = 1.0
"""Seconds: the promise is ids within two seconds of the store's return, the probe's own time included."""

QUIET = 60.0
"""Seconds between two log lines that say the same."""

log = get_logger("goloves.store")


class Gate:
    """See the module's rules. `name` says in messages what lies behind it."""

    def __init__(self, name: str, *, limit: int, rng: random.Random) -> None:
        self.name = name
        self.error: StoreUnavailable | UnknownOutcome | None = None
        """Why the gate is closed; None while it is open."""
        self.retry_at = 0.0
        """Loop time before which no probe is made; means nothing while the gate is open."""
        self._rng = rng
        self._failures = 0
        self._probing = False
        self._changed: asyncio.Event = asyncio.Event()
        self._places = asyncio.Semaphore(limit)
        self._said_at = 0.0

    async def call(self, make: Callable[[], Awaitable[T]]) -> T:
        """Wait for the way to be free, then make the call; whatever it raises is raised."""
        while True:
            if self.error is None:
                async with self._places:
                    if self.error is None:  # it may have closed while this call stood in line
                        return await self._attempt(make)
            elif self._probing:
                await self._changed.wait()
            elif (delay := self.retry_at - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(delay)
            else:
                self._probing = True
                try:
                    return await self._attempt(make)
                finally:
                    self._probing = False
                    self._wake()

    async def call_now(self, make: Callable[[], Awaitable[T]]) -> T:
        """Like `call`, but while the gate is closed and no probe is due, raise at once why."""
        if self.error is not None and (self._probing or asyncio.get_running_loop().time() < self.retry_at):
            raise StoreUnavailable(f"the store is away: {self.error.message}")
        return await self.call(make)

    async def _attempt(self, make: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await make()
        except Locked:
            self._open()
            raise
        except (StoreUnavailable, UnknownOutcome) as error:
            self._close(error)
            raise
        except GolovesError:
            self._open()
            raise
        self._open()
        return result

    def jitter(self, seconds: float) -> float:
        """Give a random part of a delay, at least half of it."""
        return seconds * self._rng.uniform(0.5, 1.0)

    def _open(self) -> None:
        if self.error is not None:
            self.error = None
            self._failures = 0
            log.info("the store answers again", store=self.name)
            self._wake()

    def _close(self, error: StoreUnavailable | UnknownOutcome) -> None:
        now = asyncio.get_running_loop().time()
        delay = self.jitter(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self._failures, 10)))
        if self.error is None or now - self._said_at >= QUIET:
            self._said_at = now
            log.warning("the store is away", store=self.name, reason=error.message)
        self._failures += 1
        self.error = error
        self.retry_at = now + delay

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
