"""A SQL store: segments, windows, marks and repair over one database, opened only after it was checked.

Rules (SAFETY R8 for embedded stores):
1. Nothing is created by opening, unless the store is embedded and the caller says so.
2. An embedded store is one file: it is bound to the machine outside of containers, and is the file that was opened, by
   device and inode, at each commit. It never lies on a network file system.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, update

from goloves.errors import StoreRefused, StoreUnavailable, StoreWentBackwards
from goloves.logger import get_logger
from goloves.stores import checks, migrations, schema
from goloves.stores.base import draw_repair
from goloves.stores.checks import Migrated
from goloves.stores.database import Database
from goloves.stores.dialects import DIALECTS
from goloves.stores.failover import Failover, Policy, Skip
from goloves.stores.repair import PATIENCE, SqlRepair
from goloves.stores.session import Session
from goloves.stores.urls import StoreUrl
from goloves.stores.workers import SqlWorkers

T = TypeVar("T")

log = get_logger("goloves.store")

PATIENT_LOOK = 30.0
"""Seconds beyond a call's that each look of a migration at the store may take: nobody waits for an id meanwhile, a
store that is busy has answered by then, and one that is away is told of while whoever asked still sits there."""


@dataclass(frozen=True)
class Options:
    """How a store is used."""

    timeout: float = 2.0
    """Seconds that a call may take."""
    pool: int = 5
    """Most connections. A refill takes some milliseconds of one, so five serve a thousand refills a second."""
    allow_lost_commits: bool = False
    """Accept a database that loses commits in a crash."""
    create: bool = False
    """Create an embedded store that does not exist (R8)."""
    failover: Policy = "halt"
    """What to do when the store's server became another (R7)."""
    skip: Skip = field(default_factory=Skip)
    """How far `failover = "skip"` goes on."""
    repairing: bool = False
    """Open the store for `goloves repair`: don't insist on its identity, which the repair is about to renew."""


class SqlStore(SqlRepair, SqlWorkers, Session):
    """A SQL store; keeps `base.SegmentStore` and `base.WorkerStore`."""

    def __init__(self, url: StoreUrl, options: Options) -> None:
        dialect = DIALECTS[url.dialect](url, options.timeout)
        super().__init__(
            Database(
                dialect,
                timeout=options.timeout,
                pool=1 if dialect.embedded else options.pool,
                allow_lost_commits=options.allow_lost_commits,
            )
        )
        self._options = options
        self._repairing = options.repairing
        self._layouts = {}
        self._failover = Failover(dialect, options.failover, options.skip)
        self._opening = asyncio.Lock()
        self._file = Path(url.database).absolute() if dialect.embedded else None
        self._inode: tuple[int, int] | None = None
        self._database.before_commit = self._check_file

    def __repr__(self) -> str:
        return f"SqlStore({self._database.address!r})"

    async def open(self) -> None:
        """Connect and check; see `base.Store.open`."""
        async with self._opening:
            if self._opened:
                return
            self._database.reopen()
            try:
                await self._open()
            except StoreWentBackwards as error:  # that of a file which was replaced meanwhile: it is not open
                await self._database.close()
                raise StoreRefused(error.message) from None
            except BaseException:
                await self._database.close()
                raise
            self._opened = True

    async def close(self) -> None:
        """Let go of all connections; see `base.Store.close`."""
        self._opened = False
        self._database.watch(None)
        await self._database.close()

    async def create(self) -> None:
        """Create the store, for `--init`; StoreRefused if it exists (R8)."""
        if self._file is not None:
            self._make_file()
        self._database.reopen()
        try:
            facts = await self._database.run(self._examine, write=False, opening=True)
            if not facts.empty:
                raise StoreRefused(
                    f"{self._database.address} exists already; start without --init, which is for a new store only"
                )
            await self._migrate(only_empty=True)
        finally:
            await self._database.close()

    async def migrate(self) -> Migrated:
        """Bring the tables to the newest form, for `goloves migrate`, and say what that changed.

        Raises StoreRefused, after that, if the store can't be used for another reason.
        """
        if self._file is not None:
            self._make_file()
        self._database.reopen()
        try:
            looking = self._options.timeout + PATIENT_LOOK
            before = await self._check(checks.state, write=False, timeout=looking)
            await self._migrate(only_empty=False)
            after = await self._check(checks.state, write=False, timeout=looking)
            await self._check(self._examine, write=False, timeout=looking)
            return checks.migrated(before, after)
        finally:
            await self._database.close()

    async def lift_halt(self) -> None:
        """End the store's halt; see `base.Store.lift_halt`."""
        self._check_migrated("a repair")
        repairs = schema.meta.c.repairs + draw_repair()
        values = {"halt": "", "machine": self._machine(), "repairs": repairs}
        statement = update(schema.meta).where(schema.meta.c.id == schema.META_ID).values(values)

        def work(connection: Connection) -> None:
            self._failover.accept(connection)
            connection.execute(statement)

        await self._run(work)

    # --- opening ---

    async def _open(self) -> None:
        if self._file is not None:
            self._find_file(self._file)
        facts = await self._check(self._examine, write=False)
        if facts.empty and self._options.create and self._dialect.embedded:
            await self._migrate(only_empty=True)
            facts = await self._check(self._examine, write=False)
        if facts.empty:
            raise StoreRefused(
                f"{self._database.address} has no tables yet; make them with: goloves migrate (or start once with"
                " --init)"
            )
        await self._check(
            lambda connection: checks.try_out(connection, self._dialect, migrated=facts.migrated), write=True
        )
        self._facts = facts
        if not facts.migrated:
            log.warning(
                "only Leaf's table exists: no marks, no halt, no tag can be made or deleted, no Snowflake ids",
                store=self._database.address,
                mend="goloves migrate",
            )
        elif self._file is not None:
            await self._bind_machine(facts.machine)
        self._failover.migrated = facts.migrated
        if not self._repairing:
            self._database.watch(self._failover.meet)
            await self._database.run(lambda connection: None, write=False)

    async def _check(self, work: Callable[[Connection], T], *, write: bool, timeout: float | None = None) -> T:
        """Run a check or a migration; an error of the database that a person must mend is a refusal too."""
        try:
            return await self._database.run(work, write=write, timeout=timeout, opening=True)
        except StoreUnavailable as error:
            refusal = self._dialect.refusal(error.__cause__) if error.__cause__ else ""
            if refusal:
                raise StoreRefused(refusal) from error
            raise

    def _examine(self, connection: Connection) -> checks.Facts:
        return checks.look(connection, self._dialect)

    async def _migrate(self, *, only_empty: bool) -> None:
        def work(connection: Connection) -> None:
            self._dialect.lock_migration(connection)
            try:
                if not only_empty or self._examine(connection).empty:
                    migrations.upgrade(connection)
            finally:
                self._dialect.unlock_migration(connection)

        await self._check(work, write=True, timeout=PATIENCE)

    # --- embedded stores ---

    def _find_file(self, file: Path) -> None:
        warning = checks.check_file_system(file)
        if warning:
            log.warning(warning)
        if not file.exists():
            if not self._options.create:
                raise StoreRefused(
                    f"there is no store at {file}; make it with: goloves migrate (or start once with --init)."
                    " If there was one before, find it first: made anew, it gives the same ids again"
                )
            self._make_file()
        self._inode = checks.identity_of(file)

    def _make_file(self) -> None:
        file = self._file
        assert file is not None
        if not file.exists() and file.with_name(f"{file.name}-wal").exists():
            raise StoreRefused(
                f"{file} is gone, but its log {file.name}-wal is there; restore the file from a backup, then run:"
                " goloves repair. Only if it shall begin anew: remove the log too"
            )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o640))
        except OSError as error:
            raise StoreRefused(
                f"{file} can't be made: {error.strerror}; give the user of this process a directory that it can write"
            ) from error
        self._inode = checks.identity_of(file)

    def _check_file(self) -> None:
        """Refuse to commit to a file that was replaced under us, or to the one that replaced it (R8)."""
        if self._file is not None and checks.identity_of(self._file) != self._inode:
            raise StoreWentBackwards(
                f"{self._file} was replaced or removed while it was in use; put the right file there and restart",
                whole_store=True,
            )

    async def _bind_machine(self, bound: str) -> None:
        mine = self._machine()
        if not mine or bound == mine or self._repairing:
            return
        if bound:
            raise StoreRefused(
                f"{self._file} belongs to another machine: a copy that runs beside its original would repeat its ids."
                " If it was moved on purpose, and the original is gone for good, run: goloves repair"
            )
        statement = update(schema.meta).where(schema.meta.c.id == schema.META_ID).values(machine=mine)
        await self._database.run(lambda connection: connection.execute(statement).rowcount)
