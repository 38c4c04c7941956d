# ruff: noqa: D102 - what each method promises stands with the contracts in base.py
"""Halts, the marks that nodes wrote, and what `goloves repair` does, in SQL.

Rules:
1. Numbers, floors and fences only rise here: each step may be repeated, and broken off anywhere.
2. The halt is lifted last.
3. Rows are locked as grants lock them: a tag's `goloves_tag` row, a space's row.
4. Where only Leaf's table exists, there are numbers to raise and nothing else.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from goloves.core.grants import MAX_NUMBER
from goloves.stores import checks, failover, rules, schema
from goloves.stores.base import Mark, Place, RegisteredSpace, SeenOwner
from goloves.stores.segments import SqlSegments

PATIENCE = 600.0
"""Seconds that a step over all tags may take: a million rows are changed in a minute or two."""


class SqlRepair(SqlSegments):
    """What the halves of a SQL store have in common beside opening and closing it."""

    async def clock(self) -> int | None:
        if not self._dialect.own_clock:
            return None
        statement = select(self._dialect.clock_ms())
        return await self._run(lambda connection: connection.execute(statement).scalar_one(), write=False)

    async def halt(self, reason: str) -> None:
        self._check_migrated("halting the store")
        table = schema.meta
        statement = (
            update(table)
            .where(table.c.id == schema.META_ID, table.c.halt == "")
            .values(halt=reason[: schema.MAX_REASON] or "no reason given")
        )
        await self._run(lambda connection: connection.execute(statement).rowcount)

    async def read_halt(self) -> str:
        if not self.has_marks:
            return ""
        return await self._run(self._store_halt, write=False)

    async def check_halt(self) -> int:
        if not self.has_marks:
            if self._failover.own_halt:
                raise rules.store_halted(self._failover.own_halt)
            return 0
        table = schema.meta
        statement = select(table.c.halt, table.c.repairs).where(table.c.id == schema.META_ID)
        row = await self._run(lambda connection: connection.execute(statement).one(), write=False)
        if row.halt:
            raise rules.store_halted(row.halt)
        repairs: int = row.repairs
        return repairs

    async def write_marks(self, node: str, marks: Iterable[Mark]) -> None:
        self._check_migrated("writing marks")
        listed = rules.at_most(marks, "marks")
        await self._run(lambda connection: self._write_marks(connection, node[: schema.MAX_OWNER], listed))

    async def read_marks(self) -> dict[str, list[Mark]]:
        if not self.has_marks:
            return {}
        return await self._run(self._read_marks, write=False, timeout=PATIENCE)

    async def read_place(self) -> Place:
        if not self.has_marks:
            return Place()
        server = await self._run(self._failover.look, write=False)
        columns = (schema.meta.c.server, schema.meta.c.machine)
        statement = select(*columns).where(schema.meta.c.id == schema.META_ID)
        known = await self._run(lambda connection: connection.execute(statement).one(), write=False)
        return Place(server.name if server else "", known.server, self._machine(), known.machine)

    async def read_spaces(self) -> list[RegisteredSpace]:
        if not self.has_marks:
            return []
        return await self._run(self._read_spaces, write=False)

    async def read_remembered(self, names: Iterable[str]) -> dict[str, int]:
        listed = rules.at_most(names, "tags")
        if not listed:
            return {}
        return await self._run(lambda connection: self._read_remembered(connection, listed), write=False)

    async def forget_marks(self, used: Mapping[str, Iterable[Mark]]) -> None:
        self._check_migrated("a repair")
        await self._run(lambda connection: self._forget_marks(connection, used), timeout=PATIENCE)

    async def recent_owners(self, *, most: int = 100) -> list[SeenOwner]:
        if not self.has_marks:
            return []
        return await self._run(lambda connection: self._recent_owners(connection, most), write=False, timeout=PATIENCE)

    async def raise_tags(self, numbers: Mapping[str, int]) -> None:
        listed = sorted(rules.at_most(numbers, "tags"))
        work = self._raise_tags if self.has_marks else self._raise_leaf
        await self._run(lambda connection: work(connection, listed, numbers), timeout=PATIENCE)

    async def skip_tags(self, gap: int) -> None:
        rules.check_size(gap)
        table, leaf = schema.meta, schema.leaf
        if self.has_marks:
            statement = update(table).where(table.c.id == schema.META_ID).values(skipped=table.c.skipped + gap)
        else:
            statement = update(leaf).where(leaf.c.max_id <= MAX_NUMBER - gap).values(max_id=leaf.c.max_id + gap)
        await self._run(lambda connection: connection.execute(statement).rowcount, timeout=PATIENCE)

    async def raise_floor(self, space: str, floor: int) -> None:
        self._check_migrated("a repair")
        await self._run(lambda connection: self._raise_floor(connection, space, floor))

    async def raise_fences(self, marks: Iterable[Mark]) -> None:
        self._check_migrated("a repair")
        listed = rules.at_most(marks, "marks")
        await self._run(lambda connection: self._raise_fences(connection, listed), timeout=PATIENCE)

    async def end_windows(self, space: str) -> None:
        self._check_migrated("a repair")
        await self._run(lambda connection: self._end_windows(connection, space), timeout=PATIENCE)

    def _machine(self) -> str:
        """Give this machine's id, hashed as systemd asks of applications; empty where it says nothing."""
        machine = checks.machine_id() if self._dialect.embedded else ""
        return hashlib.sha256(f"goloves store {machine}".encode()).hexdigest() if machine else ""

    # --- transactions ---

    def _write_marks(self, connection: Connection, node: str, marks: list[Mark]) -> None:
        table = schema.mark
        for given in marks:
            key = {"node": node, "kind": given.kind, "name": given.name, "worker": given.worker}
            same = [table.c[name] == value for name, value in key.items()]
            raised = self._dialect.greatest(table.c.value, given.value)
            # Both guards of a node may write at once: an insert that minds what is there, then the update.
            connection.execute(self._dialect.insert_missing(table).values(**key, value=given.value))
            connection.execute(update(table).where(*same).values(value=raised))

    def _read_marks(self, connection: Connection) -> dict[str, list[Mark]]:
        found: dict[str, list[Mark]] = {}
        for row in connection.execute(select(*schema.mark.c)):
            kind: Any = row.kind
            found.setdefault(row.node, []).append(Mark(kind, row.name, row.value, row.worker))
        return found

    def _forget_marks(self, connection: Connection, used: Mapping[str, Iterable[Mark]]) -> None:
        table = schema.mark
        statement = delete(table).where(
            *(table.c[name] == bindparam(f"the_{name}") for name in ("node", "kind", "name", "worker")),
            table.c.value <= bindparam("the_value"),
        )
        rows = [
            {
                "the_node": node,
                "the_kind": mark.kind,
                "the_name": mark.name,
                "the_worker": mark.worker,
                "the_value": mark.value,
            }
            for node, marks in used.items()
            for mark in marks
        ]
        if rows:
            connection.execute(statement, rows)

    def _recent_owners(self, connection: Connection, most: int) -> list[SeenOwner]:
        table = schema.worker
        return [
            SeenOwner(
                row.space, row.worker, row.fence, row.floor, row.owner, datetime.fromtimestamp(row.seen_ms / 1000, UTC)
            )
            for row in connection.execute(select(*table.c).order_by(table.c.seen_ms.desc()).limit(most))
        ]

    def _read_spaces(self, connection: Connection) -> list[RegisteredSpace]:
        rows = connection.execute(select(*schema.space.c).order_by(schema.space.c.name))
        return [
            RegisteredSpace(
                row.name, row.layout, row.fingerprint, row.epoch_ms, row.unit_ms, row.floor, row.fence, row.longest
            )
            for row in rows
        ]

    def _read_remembered(self, connection: Connection, names: list[str]) -> dict[str, int]:
        found = {name: tag.max_id for name, tag in self._read(connection, names).items()}
        if self.has_marks:
            for name, row in self._marks_of(connection, names).items():
                found[name] = max(found.get(name, 0), min(row.mark + row.due, MAX_NUMBER))
        return found

    def _raise_tags(self, connection: Connection, names: list[str], numbers: Mapping[str, int]) -> None:
        for name in names:
            row = self._lock(connection, name, make=True)
            assert row is not None
            number = numbers[name]
            max_id = connection.execute(self._select_number(name).with_for_update()).scalar()
            rules.check_raise(name, number, MAX_NUMBER if max_id is None else row.limit)
            reached = max(row.mark, number, max_id or 0)
            connection.execute(update(schema.tag).where(schema.tag.c.name == name).values(mark=reached, halted=""))
            if max_id is not None:
                same = self._dialect.same_name(schema.leaf.c.biz_tag, name)
                connection.execute(update(schema.leaf).where(same).values(max_id=reached))

    def _raise_leaf(self, connection: Connection, names: list[str], numbers: Mapping[str, int]) -> None:
        table = schema.leaf
        for name in names:
            number = numbers[name]
            rules.check_raise(name, number, MAX_NUMBER)
            same = self._dialect.same_name(table.c.biz_tag, name)
            connection.execute(update(table).where(same, table.c.max_id < number).values(max_id=number))

    def _raise_floor(self, connection: Connection, space: str, floor: int) -> None:
        table = schema.space
        raised = self._dialect.greatest(table.c.floor, floor)
        if connection.execute(update(table).where(table.c.name == space).values(floor=raised)).rowcount != 1:
            raise rules.unknown_space(space)

    def _end_windows(self, connection: Connection, space: str) -> None:
        self._lock_spaces(connection, [space])
        failover.end_windows(connection, space)

    def _lock_spaces(self, connection: Connection, names: Iterable[str]) -> dict[str, int]:
        """Lock spaces; gives the fences of their worker ids that have no row."""
        table, fences = schema.space, {}
        for name in sorted(set(names)):
            fence = connection.execute(select(table.c.fence).where(table.c.name == name).with_for_update()).scalar()
            fences[name] = fence or 0
        return fences

    def _raise_fences(self, connection: Connection, marks: list[Mark]) -> None:
        """Raise fences, and take their nonces away: the windows under the old ones can't be extended any more."""
        table = schema.worker
        fences = self._lock_spaces(connection, (given.name for given in marks))
        for given in sorted(marks, key=lambda given: (given.name, given.worker)):
            same = [table.c.space == given.name, table.c.worker == given.worker]
            raised = self._dialect.greatest(table.c.fence, given.value)
            if connection.execute(update(table).where(*same).values(fence=raised, nonce="")).rowcount == 0:
                connection.execute(
                    insert(table).values(
                        space=given.name,
                        worker=given.worker,
                        fence=max(given.value, fences[given.name]),
                        start=0,
                        floor=0,
                        nonce="",
                        owner="",
                        seen_ms=0,
                    )
                )
