# ruff: noqa: D102 - what each method promises stands with the contracts in base.py
"""Windows in SQL.

Rules:
1. A claim locks its space's row, so that claims of one space follow one another and none is chosen in vain; the write
   compares the fence all the same (W1).
2. A claim compares the layout under that lock (W9): from the first claim on, it can't change.
3. An extension locks nothing but its own row, and compares fence and nonce (W3). So does a release (W5).
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, String, and_, bindparam, func, insert, select, update

from goloves.core.grants import Window
from goloves.core.layout import Layout
from goloves.errors import StoreUnavailable
from goloves.stores import rules, schema
from goloves.stores.base import Claim, Space
from goloves.stores.session import NOT_HALTED, Session

CHOICES = 8
"""How often a worker id is chosen that its owner extends before it is locked: more than once is hardly ever seen."""

EXACT_UP_TO = 4096
"""Worker ids up to which the last never-used one is looked for: an index of that many rows is read in a millisecond or
two. In larger spaces the draw finds one as long as a few in a hundred are left, and nobody will use up the rest."""


# What an extension says is made once: to make it takes SQLAlchemy longer than the database to run it.
_SPACE = bindparam("of_space", type_=String)
_WORKER = bindparam("of_worker", type_=Integer)
_FENCE = bindparam("of_fence", type_=BigInteger)
_NONCE = bindparam("of_nonce", type_=String)
_END = bindparam("end", type_=BigInteger)
_HELD = and_(schema.worker.c.space == _SPACE, schema.worker.c.worker == _WORKER)
_LOCKED = select(schema.worker.c.fence, schema.worker.c.nonce, schema.worker.c.floor).where(_HELD).with_for_update()


class SqlWorkers(Session):
    """The worker half of a SQL store."""

    _layouts: dict[str, Layout]

    async def open_space(self, space: Space) -> None:
        self._check_migrated("Snowflake mode")
        await self._run(lambda connection: self._open_space(connection, space))
        self._layouts[space.name] = space.layout

    async def claim(self, claim: Claim) -> Window:
        self._check_migrated("Snowflake mode")
        return await self._run(lambda connection: self._claim(connection, claim))

    async def count_windows(self, space: str, now: int, workers: range | None = None) -> int:
        self._check_migrated("Snowflake mode")
        table = schema.worker
        statement = select(func.count()).select_from(table).where(table.c.space == space, table.c.floor > now)
        if workers is not None:
            statement = statement.where(table.c.worker >= workers.start, table.c.worker < workers.stop)
        return await self._run(lambda connection: connection.execute(statement).scalar_one(), write=False)

    async def last_seen(self) -> int | None:
        self._check_migrated("Snowflake mode")
        if not self._dialect.own_clock:
            return None
        statement = select(func.max(schema.worker.c.seen_ms))
        return await self._run(lambda connection: connection.execute(statement).scalar(), write=False)

    async def read_fences(self, space: str, workers: Iterable[int]) -> dict[int, int] | None:
        self._check_migrated("Snowflake mode")
        listed = rules.at_most(workers, "worker ids")
        return await self._run(lambda connection: self._read_fences(connection, space, listed), write=False)

    async def find_window(self, space: str, nonce: str) -> Window | None:
        self._check_migrated("Snowflake mode")
        return await self._run(lambda connection: self._find(connection, space, nonce), write=False)

    async def extend(self, window: Window, end: int) -> Window:
        self._check_migrated("Snowflake mode")
        layout = self._layouts.get(window.space)
        if layout is None:
            raise rules.unknown_space(window.space)
        rules.check_end(layout, end)
        await self._run(lambda connection: self._extend(connection, window, end))
        return window.extended(end)

    async def release(self, window: Window, floor: int) -> None:
        self._check_migrated("Snowflake mode")
        rules.check_floor(window, floor)
        table = schema.worker
        statement = update(table).where(
            self._is_worker(window), table.c.fence == window.fence, table.c.nonce == window.nonce
        )
        await self._run(lambda connection: connection.execute(statement.values(floor=floor)).rowcount)

    # --- transactions ---

    def _open_space(self, connection: Connection, space: Space) -> None:
        layout, table = space.layout, schema.space
        if not self._repairing and (halt := self._store_halt(connection)):
            # What is registered while a repair is under way would miss the floor that it raises.
            raise rules.store_halted(halt)
        form = {
            "layout": space.describe(),
            "fingerprint": space.fingerprint,
            "epoch_ms": layout.epoch_ms,
            "unit_ms": layout.unit_ms,
        }
        empty = {"floor": 0, "fence": 0, "longest": 0}
        connection.execute(self._dialect.insert_missing(table).values(name=space.name, **empty, **form))
        row = connection.execute(select(*table.c).where(table.c.name == space.name).with_for_update()).one()
        if row.fingerprint in (space.fingerprint, space.other_way().fingerprint):
            return  # static or pooled is settled by claims
        used = select(schema.worker.c.worker).where(schema.worker.c.space == space.name).limit(1)
        if row.floor > 0 or connection.execute(used).first() is not None:
            raise rules.other_layout(space.name, row.layout, space.describe())
        connection.execute(update(table).where(table.c.name == space.name).values(form))

    def _claim(self, connection: Connection, claim: Claim) -> Window:
        space = self._lock_space(connection, claim.space.name)
        if halt := self._store_halt(connection):
            raise rules.store_halted(halt)
        if space.fingerprint != claim.space.fingerprint:
            self._change_way(connection, claim, space)
        table = schema.worker
        old = self._choose_and_lock(connection, claim)
        if isinstance(old, int):
            window = rules.window(claim, old, space.fence + 1, space.floor)
        else:
            window = rules.window(claim, old.worker, old.fence + 1, max(old.floor, space.floor))
        if halt := self._store_halt(connection):  # perhaps since we waited for the worker id's lock
            raise rules.store_halted(halt)
        if claim.length > space.longest:
            longest = update(schema.space).where(schema.space.c.name == window.space).values(longest=claim.length)
            connection.execute(longest)
        values = {
            "fence": window.fence,
            "start": window.start,
            "floor": window.end,
            "nonce": claim.nonce,
            "owner": claim.owner[: schema.MAX_OWNER],
            "seen_ms": self._dialect.clock_ms(),
        }
        if isinstance(old, int):
            connection.execute(insert(table).values(space=window.space, worker=window.worker, **values))
            return window
        written = connection.execute(
            update(table)
            .where(self._is_worker(window), table.c.fence == old.fence, table.c.floor == old.floor, NOT_HALTED)
            .values(values)
        )
        if written.rowcount != 1:
            if halt := self._store_halt(connection):
                raise rules.store_halted(halt)
            raise StoreUnavailable(f"worker id {window.worker} of space {window.space!r} changed under its lock")
        return window

    def _change_way(self, connection: Connection, claim: Claim, registered: Any) -> None:
        """Make a pooled space static or the other way round, where no window is under way (W6)."""
        table, mine = schema.worker, claim.space
        count = select(func.count()).select_from(table).where(table.c.space == mine.name, table.c.floor > claim.now)
        under_way = connection.execute(count).scalar_one()
        rules.check_way(claim, registered.fingerprint, registered.layout, under_way)
        values = {"layout": mine.describe(), "fingerprint": mine.fingerprint}
        connection.execute(update(schema.space).where(schema.space.c.name == mine.name).values(values))

    def _lock_space(self, connection: Connection, name: str) -> Any:
        table = schema.space
        row = connection.execute(select(*table.c).where(table.c.name == name).with_for_update()).one_or_none()
        if row is None:
            raise rules.unknown_space(name)
        return row

    def _read_fences(self, connection: Connection, space: str, workers: list[int]) -> dict[int, int] | None:
        table = schema.worker
        unused = connection.execute(select(schema.space.c.fence).where(schema.space.c.name == space)).scalar()
        if unused is None:
            return None
        used = select(table.c.worker, table.c.fence).where(table.c.space == space, table.c.worker.in_(workers))
        fences = {row.worker: row.fence for row in connection.execute(used)}
        return {worker: fences.get(worker, unused) for worker in workers}

    def _find(self, connection: Connection, space: str, nonce: str) -> Window | None:
        table = schema.worker
        row = connection.execute(select(*table.c).where(table.c.space == space, table.c.nonce == nonce)).first()
        if row is None or row.floor <= row.start:
            return None
        return Window(space, row.worker, row.fence, nonce, row.start, row.floor)

    def _extend(self, connection: Connection, window: Window, end: int) -> None:
        values = {_SPACE.key: window.space, _WORKER.key: window.worker}
        row = connection.execute(_LOCKED, values).one_or_none()
        if row is None:
            floor = select(schema.space.c.floor).where(schema.space.c.name == window.space)
            rules.check_extension(window, None, "", connection.execute(floor).scalar() or 0)
            return
        fence, nonce, floor = row
        rules.check_extension(window, fence, nonce, floor)
        values |= {_FENCE.key: window.fence, _NONCE.key: window.nonce, _END.key: end}
        if connection.execute(self._extended, values).rowcount != 1:
            raise rules.store_halted(self._store_halt(connection))

    @cached_property
    def _extended(self) -> Any:
        """Raises the floor of the window that is held, and none else."""
        table = schema.worker
        return (
            update(table)
            .where(_HELD, table.c.fence == _FENCE, table.c.nonce == _NONCE, NOT_HALTED)
            .values(floor=self._dialect.greatest(table.c.floor, _END), seen_ms=self._dialect.clock_ms())
        )

    def _is_worker(self, window: Window) -> Any:
        return and_(schema.worker.c.space == window.space, schema.worker.c.worker == window.worker)

    # --- which worker id (W6) ---

    def _choose_and_lock(self, connection: Connection, claim: Claim) -> Any:
        """Do as `_choose`, and lock the row that it gives.

        Its owner may extend a window that is past by our clock, until the row is locked: then the id isn't free (W1).
        """
        table = schema.worker
        for _ in range(CHOICES):
            chosen = self._choose(connection, claim)
            if isinstance(chosen, int):
                return chosen
            row = connection.execute(
                select(table.c.worker, table.c.fence, table.c.floor)
                .where(table.c.space == claim.space.name, table.c.worker == chosen.worker)
                .with_for_update()
            ).one_or_none()
            if row is not None and row.floor <= claim.now:
                return row
        raise StoreUnavailable(f"worker ids of space {claim.space.name!r} were taken as they were chosen; try again")

    def _choose(self, connection: Connection, claim: Claim) -> Any:
        """Give a worker id that was never used, or the row of one that was and whose window is past."""
        allowed = rules.candidates(claim)
        drawn = rules.draw(allowed, claim.rng)
        table = schema.worker
        known = select(table.c.worker).where(table.c.space == claim.space.name, table.c.worker.in_(drawn))
        used = set(connection.execute(known).scalars())
        for worker in drawn:
            if worker not in used:
                return worker
        if len(allowed) <= EXACT_UP_TO:
            unused = self._unused(connection, claim, allowed)
            if unused is not None:
                return unused
        inside = and_(table.c.space == claim.space.name, table.c.worker >= allowed[0], table.c.worker <= allowed[-1])
        past = connection.execute(
            select(table.c.worker, table.c.fence, table.c.floor)
            .where(inside, table.c.floor <= claim.now)
            .order_by(table.c.floor)
            .limit(rules.POOLED)
        ).all()
        if past:
            return claim.rng.choice(past)
        unused = self._unused(connection, claim, allowed)
        if unused is not None:
            return unused
        first = connection.execute(
            select(table.c.floor, table.c.owner).where(inside).order_by(table.c.floor).limit(1)
        ).one()
        raise rules.no_worker_free(claim, first.floor, first.owner)

    def _unused(self, connection: Connection, claim: Claim, allowed: range) -> int | None:
        """Find a worker id without a row: the first one behind a random place, else the first of all."""
        table = schema.worker
        first, last = allowed[0], allowed[-1]
        place = claim.rng.choice(allowed)
        beyond = table.alias()
        free_beyond = ~(
            select(beyond.c.worker)
            .where(beyond.c.space == claim.space.name, beyond.c.worker == table.c.worker + 1)
            .correlate(table)
            .exists()
        )
        for start in (place, first):
            found: int | None = connection.execute(
                select(table.c.worker + 1)
                .where(table.c.space == claim.space.name, table.c.worker >= start, table.c.worker < last, free_beyond)
                .order_by(table.c.worker)
                .limit(1)
            ).scalar()
            if found is not None:
                return found
        taken = select(table.c.worker).where(table.c.space == claim.space.name, table.c.worker == first)
        return first if connection.execute(taken).first() is None else None
