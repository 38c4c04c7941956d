# ruff: noqa: D102 - what each method promises stands with the contracts in base.py
"""Halts, the marks that nodes wrote, and what `goloves repair` does, in SQL.

Rules:
1. Numbers, floors and fences only rise here: each step may be repeated, and broken off anywhere.
2. The halt is lifted last.
3. Rows are locked as grants lock them: a tag's `goloves_tag` row, a space's row.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from goloves.stores import rules, schema
from goloves.stores.base import Mark, SeenOwner
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

    async def write_marks(self, node: str, marks: Iterable[Mark]) -> None:
        self._check_migrated("writing marks")
        listed = rules.at_most(marks, "marks")
        await self._run(lambda connection: self._write_marks(connection, node[: schema.MAX_OWNER], listed))

    async def read_marks(self) -> dict[str, list[Mark]]:
        if not self.has_marks:
            return {}
        return await self._run(self._read_marks, write=False, timeout=PATIENCE)

    async def forget_marks(self) -> None:
        self._check_migrated("a repair")
        await self._run(lambda connection: connection.execute(delete(schema.mark)).rowcount, timeout=PATIENCE)

    async def recent_owners(self, *, most: int = 100) -> list[SeenOwner]:
        if not self.has_marks:
            return []
        return await self._run(lambda connection: self._recent_owners(connection, most), write=False, timeout=PATIENCE)

    async def raise_tags(self, numbers: Mapping[str, int]) -> None:
        self._check_migrated("a repair")
        listed = sorted(rules.at_most(numbers, "tags"))
        await self._run(lambda connection: self._raise_tags(connection, listed, numbers), timeout=PATIENCE)

    async def skip_tags(self, gap: int) -> None:
        self._check_migrated("a repair")
        rules.check_size(gap)
        table = schema.meta
        statement = update(table).where(table.c.id == schema.META_ID).values(skipped=table.c.skipped + gap)
        await self._run(lambda connection: connection.execute(statement).rowcount)

    async def raise_floor(self, space: str, floor: int) -> None:
        self._check_migrated("a repair")
        await self._run(lambda connection: self._raise_floor(connection, space, floor))

    async def raise_fences(self, marks: Iterable[Mark]) -> None:
        self._check_migrated("a repair")
        listed = rules.at_most(marks, "marks")
        await self._run(lambda connection: self._raise_fences(connection, listed), timeout=PATIENCE)

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

    def _recent_owners(self, connection: Connection, most: int) -> list[SeenOwner]:
        table = schema.worker
        return [
            SeenOwner(
                row.space, row.worker, row.fence, row.floor, row.owner, datetime.fromtimestamp(row.seen_ms / 1000, UTC)
            )
            for row in connection.execute(select(*table.c).order_by(table.c.seen_ms.desc()).limit(most))
        ]

    def _raise_tags(self, connection: Connection, names: list[str], numbers: Mapping[str, int]) -> None:
        for name in names:
            row = self._lock(connection, name)
            if row is None:
                continue
            number = numbers[name]
            rules.check_raise(name, number, row.limit)
            max_id = connection.execute(self._select_number(name).with_for_update()).scalar()
            reached = max(row.mark, number, max_id or 0)
            connection.execute(update(schema.tag).where(schema.tag.c.name == name).values(mark=reached, halted=""))
            if max_id is not None:
                same = self._dialect.same_name(schema.leaf.c.biz_tag, name)
                connection.execute(update(schema.leaf).where(same).values(max_id=reached))

    def _raise_floor(self, connection: Connection, space: str, floor: int) -> None:
        table = schema.space
        raised = self._dialect.greatest(table.c.floor, floor)
        if connection.execute(update(table).where(table.c.name == space).values(floor=raised)).rowcount != 1:
            raise rules.unknown_space(space)

    def _raise_fences(self, connection: Connection, marks: list[Mark]) -> None:
        """Raise fences, and take their nonces away: the windows under the old ones can't be extended any more."""
        table = schema.worker
        for name in sorted({given.name for given in marks}):
            connection.execute(select(schema.space.c.name).where(schema.space.c.name == name).with_for_update())
        for given in sorted(marks, key=lambda given: (given.name, given.worker)):
            same = [table.c.space == given.name, table.c.worker == given.worker]
            raised = self._dialect.greatest(table.c.fence, given.value)
            if connection.execute(update(table).where(*same).values(fence=raised, nonce="")).rowcount == 0:
                connection.execute(
                    insert(table).values(
                        space=given.name,
                        worker=given.worker,
                        fence=given.value,
                        start=0,
                        floor=0,
                        nonce="",
                        owner="",
                        seen_ms=0,
                    )
                )
