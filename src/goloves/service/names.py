"""Tags by name: one that is not in use on this node yet is looked up, and so is what was meant if there is none.

Rules:
1. Names that don't exist cost a place in a bounded cache and a place in a batched query, whatever a peer makes up.
2. A name that was not found stays unknown for some seconds; with `auto_create` it is made instead, unless it was
   deleted.
3. A look-up is nobody's in particular: who asked may leave, and the others get its answer.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from goloves.config import SegmentConfig
from goloves.errors import (
    GolovesError,
    NoRange,
    StoreUnavailable,
    StoreWentBackwards,
    TooManyWaiting,
    UnknownTag,
)
from goloves.service.counters import Counters
from goloves.service.gate import Gate
from goloves.stores.base import NewTag, SegmentStore, Tag

UNKNOWN_KEPT = 10_000
"""Names remembered as unknown: 6 MB if they are the longest. A flood of made-up names pushes out older ones, which are
looked up anew."""

UNKNOWN_LASTS = 5.0
"""Seconds for which a name stays unknown without asking again; a tag made by SQL is seen after this at the latest."""

LOOKUPS_WAITING = 2_000
"""Names that may wait to be looked up: two full queries. More at once is a flood of made-up names, and gets 429."""

NAMES_PER_QUERY = 1_000
"""What `read_tags` takes at once."""

SUGGESTIONS_PER_SECOND = 5
"""How often an unknown name is compared with the names that exist; a flood of unknown names gets plain answers."""

COMPARED = 200
"""Names that an unknown one is compared with at once: a few milliseconds of the event loop."""


class Names:
    """See the module's rules."""

    def __init__(
        self,
        store: SegmentStore,
        gate: Gate,
        config: SegmentConfig,
        counters: Counters,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        halted: Callable[[StoreWentBackwards], None],
        in_use: Collection[str],
    ) -> None:
        """`spawn` starts a task, `halted` is told that the store is halted as a whole.

        `in_use` are the names of the node's tags, now and later.
        """
        self._store = store
        self._gate = gate
        self._config = config
        self._counters = counters
        self._spawn = spawn
        self._halted = halted
        self._in_use = in_use
        self._unknown: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._lookups: dict[str, asyncio.Future[Tag | None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._suggested = (0, 0)

    async def find(self, name: str, deadline: float) -> Tag:
        """Look a tag up; waits until `deadline`, by the event loop's time.

        Raises UnknownTag, with what may have been meant; NoRange if nothing was heard in time; TooManyWaiting; and what
        the store raised.
        """
        loop = asyncio.get_running_loop()
        known = self._unknown.get(name)
        if known is not None:
            if loop.time() < known[0]:
                raise UnknownTag(known[1])
            del self._unknown[name]
        future = self._lookups.get(name)
        if future is None:
            if len(self._lookups) >= LOOKUPS_WAITING:
                raise TooManyWaiting("too many unknown tags are being looked up; try again")
            future = self._lookups[name] = loop.create_future()
            if self._looking is None:
                self._looking = self._spawn(self._look_up())
        try:
            async with asyncio.timeout_at(deadline):
                tag = await asyncio.shield(future)
        except TimeoutError:
            self._counters.deadlines_missed += 1
            error = self._gate.error
            why = f"the store is away ({error.message})" if error else "the store did not answer in time"
            raise NoRange(f"the tag {name!r} could not be looked up: {why}; try again") from None
        if tag is None:
            raise UnknownTag(await self._remember_unknown(name, deadline))
        return tag

    def fail_all(self, error: GolovesError) -> None:
        """Answer all who wait with an error."""
        self._fail(list(self._lookups), error)

    async def _look_up(self) -> None:
        """Look up the names that wait, all of them in one query, until none waits."""
        try:
            while self._lookups:
                names = list(self._lookups)[:NAMES_PER_QUERY]
                try:
                    found = await self._gate.call_now(lambda names=names: self._store.read_tags(names))  # type: ignore[misc]
                except GolovesError as error:
                    self._fail(names, error)
                    if isinstance(error, StoreWentBackwards):
                        self._counters.store_went_backwards += 1
                        self._halted(error)
                    continue
                for name in names:
                    if name in found or not self._config.auto_create:
                        self._lookups.pop(name).set_result(found.get(name))
                for name in names:
                    if name in self._lookups:
                        await self._create(name)
        except Exception:
            self.fail_all(StoreUnavailable("looking a tag up failed in a way nobody foresaw"))
            raise
        finally:
            self._looking = None

    async def _create(self, name: str) -> None:
        new = NewTag(name, self._config.default_step)
        try:
            tag = await self._gate.call_now(lambda: self._store.ensure_tag(new))
        except UnknownTag:  # a tombstone
            self._lookups.pop(name).set_result(None)
        except GolovesError as error:
            self._fail([name], error)
        else:
            self._lookups.pop(name).set_result(tag)

    def _fail(self, names: list[str], error: GolovesError) -> None:
        for name in names:
            future = self._lookups.pop(name)
            future.set_exception(error)
            future.exception()  # nobody may wait for it any more

    async def _remember_unknown(self, name: str, deadline: float) -> str:
        self._counters.unknown_names += 1
        message = f"there is no tag {name!r}{await self._suggestion(name, deadline)}"
        self._unknown[name] = (asyncio.get_running_loop().time() + UNKNOWN_LASTS, message)
        if len(self._unknown) > UNKNOWN_KEPT:
            self._unknown.popitem(last=False)
        return message

    async def _suggestion(self, name: str, deadline: float) -> str:
        now = asyncio.get_running_loop().time()
        second, used = self._suggested
        if second == int(now) and used >= SUGGESTIONS_PER_SECOND:
            return _how_to_create("")
        self._suggested = (int(now), used + 1 if second == int(now) else 1)
        try:
            async with asyncio.timeout_at(deadline):
                tags = await self._gate.call_now(lambda: self._beside(name))
        except (GolovesError, TimeoutError):
            tags = []
        names = list(dict.fromkeys([tag.name for tag in tags] + list(self._in_use)[:COMPARED]))
        return _how_to_create(hint(name, names))

    async def _beside(self, name: str) -> list[Tag]:
        """Read tags that may be meant: those that begin as the name does, and else the first of all."""
        for length in (3, 1, 0):
            tags = await self._store.list_tags(prefix=name[:length], most=COMPARED)
            if hint(name, [tag.name for tag in tags]):
                return tags
        return []


def _how_to_create(meant: str) -> str:
    return f"{meant} Or create it with `goloves tag create`" if meant else "; create it with `goloves tag create`"


def hint(name: str, names: list[str]) -> str:
    """Say which of some names is much like one that there is not; empty if none is."""
    try:
        from difflib import get_close_matches
    except (ImportError, OSError):  # no file descriptor is left, say: the answer is worth more than its hint
        return ""
    close = get_close_matches(name, names, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""
