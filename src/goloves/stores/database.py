"""A database: its connections, its transactions, and what became of them.

Rules:
1. A transaction is a plain function of a SQLAlchemy connection. It is run whole, begun and committed here, and nowhere
   else.
2. Its outcome is honest (R3). Until COMMIT is sent nothing can have happened: a failure is StoreUnavailable. From then
   on only the server's word that it committed, or that it rolled back, is believed: anything else is UnknownOutcome.
3. A known abort is repeated a few times; one for somebody else's lock is not, since it has waited already (Locked),
   unless the call has more time than usual: migrations and repairs are patient. A transaction that failed because an
   idle connection had died is repeated on a new one, for nothing was committed. Nothing else is repeated.
4. A connection that failed, timed out or was cancelled is cut at once and never used again; if it failed, so are all
   idle ones, because what broke it broke them too. So a database that comes back is used at once.
5. Each call ends within its timeout: waiting for a connection, connecting, repeating and committing included.
6. A transaction lets the event loop go on before each statement: what SQLAlchemy does for one takes as long as ten
   requests, and none of them shall wait for more. (A driver that has a thread of its own lets it go on more often.)

The engine is SQLAlchemy's ordinary one over an asynchronous driver, run in greenlets by SQLAlchemy's own means, as its
asyncio extension does. That extension imports the ORM (8 MB in each node), and its pool takes part in neither rule 4
(it closes politely, for up to two seconds each) nor a wall clock that steps; hence the few lines of pool here.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only, greenlet_spawn

from goloves.errors import GolovesError, Locked, StoreRefused, StoreUnavailable, UnknownOutcome
from goloves.logger import get_logger
from goloves.stores.dialects import Dialect, Verdict

T = TypeVar("T")

REPEATS = 4
"""How often a known abort is repeated: two transactions that deadlock do so once; more means that something else is
wrong, and the caller has a deadline."""

BACK_OFF = 0.01
"""Seconds, doubled with each repeat and drawn at random up to that, so that two that deadlocked don't meet again."""

REPEATS_LOCKED = 20
"""How often a patient call tries a lock that somebody else holds: half a second each, some ten seconds in all, which
another migration or repair takes at most."""

STALE_AFTER = 30.0
"""Seconds of idleness after which a connection is tried before it is used: proxies and firewalls forget connections,
the busiest of them after a minute."""

FAILURES = (SQLAlchemyError, OSError, EOFError, RuntimeError)
"""What drivers raise when a database or the way to it fails; uvloop raises RuntimeError on a closed transport."""

MISTAKES = (ValueError, AssertionError)
"""What our own transactions raise where their caller is wrong: just these classes, for a driver that meets bytes that
it does not understand raises their children, and anything else too."""

log = get_logger("goloves.store")


class _Unconnectable(StoreRefused):
    """No connection can be had until a person mends something."""


@dataclass
class _Link:
    """A connection with what has to be known to use it again."""

    connection: Connection
    used: float
    """When it was used last, by the monotonic clock."""
    fresh: bool = True
    """It was connected for this very transaction."""


@dataclass
class _Progress:
    """How far a call has come; read when it is cut off."""

    patient: bool = False
    """It may wait for locks that others hold for longer than a moment."""
    committing: bool = False
    trouble: list[str] = field(default_factory=list)
    """What went wrong so far, for the message."""


class Database:
    """One database; see the module's rules. Made cheaply: it connects with its first transaction."""

    def __init__(self, dialect: Dialect, *, timeout: float, pool: int, allow_lost_commits: bool) -> None:
        self.dialect = dialect
        self.address = dialect.url.address
        self._timeout = timeout
        self._allow_lost_commits = allow_lost_commits
        self._engine: Engine | None = None
        self._slots = asyncio.Semaphore(pool)
        self._idle: list[_Link] = []
        self._dying: set[asyncio.Future[Any]] = set()
        self._closed = False
        self._on_connect: Callable[[Connection], None] | None = None
        self.before_commit: Callable[[], None] = lambda: None
        """Looks once more, before each COMMIT, whether this is still the store that was opened; raises if it is not
        (R8)."""

    async def run(
        self,
        work: Callable[[Connection], T],
        *,
        write: bool = True,
        timeout: float | None = None,
        opening: bool = False,
    ) -> T:
        """Run a transaction: `work` in a greenlet, then COMMIT (ROLLBACK if it doesn't write, or raises).

        Raises what `work` raises of `GolovesError`; StoreUnavailable; UnknownOutcome. `opening`: what a person must
        mend before a connection can be had raises StoreRefused; otherwise it counts as being unavailable.
        """
        progress = _Progress(patient=timeout is not None and timeout > self._timeout)
        limit = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                return await self._run(work, write, progress)
        except TimeoutError as error:
            why = f" ({progress.trouble[-1]})" if progress.trouble else ""
            if progress.committing:
                raise UnknownOutcome(f"{self.address} did not answer a commit within {limit:g} s{why}") from error
            raise StoreUnavailable(f"{self.address} did not answer within {limit:g} s{why}") from error
        except _Unconnectable as error:
            if opening:
                raise StoreRefused(error.message) from error
            raise StoreUnavailable(error.message) from error

    async def close(self) -> None:
        """Close idle connections; those in use are closed when their transactions end."""
        self._closed = True
        idle, self._idle = self._idle, []
        for link in idle:
            self._cut(link)
        if self._dying:
            await asyncio.wait(self._dying, timeout=self._timeout)

    def reopen(self) -> None:
        """Allow connections again after `close`."""
        self._closed = False

    def watch(self, look: Callable[[Connection], None] | None) -> None:
        """Have each new connection looked at before it is used; `look` may run transactions on it (R7)."""
        self._on_connect = look
        self._cut_idle()

    # --- transactions ---

    async def _run(self, work: Callable[[Connection], T], write: bool, progress: _Progress) -> T:
        async with self._slots:
            for repeat in range(1, REPEATS_LOCKED + 2):
                link = await self._take()
                progress.committing = False
                try:
                    if not self.dialect.embedded:
                        await asyncio.sleep(0)
                    answer: T = await greenlet_spawn(self._transact, link.connection, work, write, progress)
                except GolovesError:
                    await self._undo(link)
                    raise
                except Exception as error:
                    if type(error) in MISTAKES and not progress.committing:
                        self._cut(link)
                        raise
                    self._note(error)
                    progress.trouble.append(self.dialect.words(error))
                    if not await self._may_repeat(link, error, progress, repeat):
                        kind = Locked if self.dialect.code(error) in self.dialect.locked else StoreUnavailable
                        raise kind(f"{self.address} failed: {progress.trouble[-1]}") from error
                except BaseException:
                    self._cut(link)
                    raise
                else:
                    self._give(link)
                    return answer
                await asyncio.sleep(random.uniform(0, BACK_OFF * 2 ** min(repeat, REPEATS)))
        raise AssertionError("the last repeat raises")

    def _transact(self, connection: Connection, work: Callable[[Connection], T], write: bool, progress: _Progress) -> T:
        self.dialect.begin(connection, write=write)
        answer: T = work(connection)
        if write:
            self.before_commit()
            progress.committing = True
            connection.commit()
            progress.committing = False
        else:
            connection.rollback()
        return answer

    async def _may_repeat(self, link: _Link, error: BaseException, progress: _Progress, repeat: int) -> bool:
        """Look after the connection of a transaction that failed, and say whether it may be repeated."""
        committing = progress.committing
        verdict = self.dialect.verdict(error, committing=committing)
        if verdict is Verdict.LOST:
            self._cut(link)
            self._cut_idle()
            if committing:
                raise UnknownOutcome(
                    f"{self.address} was lost while it committed: {self.dialect.words(error)}"
                ) from error
            return not link.fresh and repeat <= REPEATS
        await self._undo(link)
        if self.dialect.code(error) in self.dialect.locked:
            return progress.patient and repeat <= REPEATS_LOCKED
        return verdict is Verdict.ABORTED and repeat <= REPEATS

    async def _undo(self, link: _Link) -> None:
        try:
            await greenlet_spawn(link.connection.rollback)
        except Exception as error:
            self._note(error)
            self._cut(link)
        except BaseException:
            self._cut(link)
            raise
        else:
            self._give(link)

    # --- connections ---

    async def _take(self) -> _Link:
        if self._closed:
            raise StoreUnavailable(f"{self.address} is closed")
        while self._idle:
            link = self._idle.pop()
            if time.monotonic() - link.used < STALE_AFTER or await self._alive(link):
                link.fresh = False
                return link
        return await self._connect()

    async def _alive(self, link: _Link) -> bool:
        """Try a connection that was idle for long; a quarter of the timeout is enough for one that lives."""
        try:
            async with asyncio.timeout(self._timeout / 4):
                await greenlet_spawn(self._ping, link.connection)
        except Exception as error:
            self._note(error)
            self._cut(link)
            self._cut_idle()
            return False
        except BaseException:
            self._cut(link)
            raise
        return True

    def _ping(self, connection: Connection) -> None:
        connection.exec_driver_sql("SELECT 1")
        connection.rollback()

    async def _connect(self) -> _Link:
        engine = self._engine or self._make_engine()
        try:
            connection = await greenlet_spawn(engine.connect)
        except Exception as error:
            self._note(error)
            self._cut_idle()
            raise self._no_connection(error) from error
        link = _Link(connection, time.monotonic())
        try:
            await greenlet_spawn(self._prepare, connection)
        except StoreRefused as error:
            self._cut(link)
            raise _Unconnectable(error.message) from error
        except GolovesError:
            self._cut(link)
            raise
        except Exception as error:
            self._note(error)
            self._cut(link)
            raise self._no_connection(error) from error
        except BaseException:
            self._cut(link)
            raise
        return link

    def _note(self, error: Exception) -> None:
        """Keep the trace of a failure of a kind that nobody foresaw; what it means for the outcome is judged alike."""
        if not isinstance(error, FAILURES):
            log.error("the driver failed in a way of its own", store=self.address, exc_info=error)

    def _no_connection(self, error: BaseException) -> GolovesError:
        refusal = self.dialect.refusal(error)
        if refusal:
            return _Unconnectable(refusal)
        return StoreUnavailable(f"{self.address} can't be reached: {self.dialect.words(error)}")

    def _prepare(self, connection: Connection) -> None:
        self.dialect.prepare(connection, allow_lost_commits=self._allow_lost_commits)
        connection.rollback()
        if self._on_connect is not None:
            self._on_connect(connection)

    def _give(self, link: _Link) -> None:
        if self._closed or link.connection.invalidated:
            self._cut(link)
            return
        link.used = time.monotonic()
        self._idle.append(link)

    def _cut_idle(self) -> None:
        idle, self._idle = self._idle, []
        for link in idle:
            self._cut(link)

    def _cut(self, link: _Link) -> None:
        """Cut a connection at once: outside of a greenlet SQLAlchemy awaits nothing here."""
        if not link.connection.closed:
            if not link.connection.invalidated:
                link.connection.invalidate()
            link.connection.close()

    def _make_engine(self) -> Engine:
        dialect = self.dialect
        engine = create_engine(
            dialect.engine_url(),
            poolclass=NullPool,
            pool_reset_on_return=None,
            connect_args=dialect.connect_arguments(),
            **dialect.engine_arguments(),
        )
        # SQLAlchemy would say goodbye first, and wait for an answer that may never come.
        engine.dialect.do_terminate = self._kill  # type: ignore[method-assign,assignment]
        if not dialect.embedded:
            event.listen(engine, "before_cursor_execute", _give_way)
        self._engine = engine
        return engine

    def _kill(self, adapted: Any) -> None:
        dying = self.dialect.kill(adapted.driver_connection)
        if isinstance(dying, asyncio.Future):
            self._dying.add(dying)
            dying.add_done_callback(self._dying.discard)


def _give_way(*_statement: object) -> None:
    """Let the event loop go on: a statement was made, and is sent after that."""
    await_only(asyncio.sleep(0))
