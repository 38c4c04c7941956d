# ruff: noqa: D102 - what each method promises stands with the contracts in base.py
"""Ranges in SQL.

Rules:
1. `goloves_tag`'s row of the name is locked first, by whatever grants, creates, changes or deletes (R4).
2. `max_id` moves in one statement inside that transaction (R1); Leaf's own nodes, who know no lock, may move it at any
   time.
3. A number below the mark halts the tag, and the halt is committed.
4. Where only Leaf's table exists, a node does what a Leaf node does, and no more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, delete, func, insert, literal, select, update

from goloves.core.grants import MAX_NUMBER, Range
from goloves.errors import GolovesError
from goloves.stores import rules, schema
from goloves.stores.base import NewTag, Tag, TagChange
from goloves.stores.dialects import TAG
from goloves.stores.session import NOT_HALTED, Session

NEVER_MADE = -1
"""The mark of a row that is there to be locked, while its tag is made for the first time: no tombstone has it."""

_END = bindparam("end", type_=BigInteger)
_RAISE_MARK = update(schema.tag).where(schema.tag.c.name == TAG, NOT_HALTED).values(mark=_END)


@dataclass
class _Row:
    """A tag under its lock."""

    mark: int
    limit: int
    halted: str
    store_halt: str
    max_id: int | None
    """Of `leaf_alloc`, which is not locked; None if there is no row."""
    due: int = 0
    """Numbers to leave out before the next grant (R7)."""
    skipped: int = 0
    """What `goloves_tag.skipped` becomes once they are left out."""


class SqlSegments(Session):
    """The segment half of a SQL store."""

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        rules.check_size(size)
        granted = await self._run(lambda connection: self._allocate(connection, tag, size, exact))
        if isinstance(granted, GolovesError):
            raise granted
        return granted

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        listed = rules.at_most(names, "tags")
        if not listed:
            return {}
        return await self._run(lambda connection: self._read(connection, listed), write=False)

    async def list_tags(self, *, prefix: str = "", after: str = "", most: int = 100) -> list[Tag]:
        return await self._run(lambda connection: self._list(connection, prefix, after, most), write=False)

    async def create_tag(self, new: NewTag) -> Tag:
        self._check_migrated("creating a tag")
        rules.check_new_tag(new)
        return await self._run(lambda connection: self._create(connection, new))

    async def ensure_tag(self, new: NewTag) -> Tag:
        found = await self.read_tags([new.name])
        if found:
            return found[new.name]
        self._check_migrated("creating a tag")
        rules.check_new_tag(new)
        return await self._run(lambda connection: self._ensure(connection, new))

    async def change_tag(self, name: str, change: TagChange) -> Tag:
        rules.check_change(change)
        if change.limit is not None:
            self._check_migrated("a tag's limit")
        return await self._run(lambda connection: self._change(connection, name, change))

    async def delete_tag(self, name: str) -> None:
        self._check_migrated("deleting a tag")
        await self._run(lambda connection: self._delete(connection, name))

    # --- transactions ---

    def _allocate(self, connection: Connection, tag: str, size: int, exact: bool) -> Range | GolovesError:
        """Grant a range; an error that is returned, not raised, is committed with the halt that it tells of."""
        if self._failover.own_halt:  # perhaps since this very connection was made
            raise rules.store_halted(self._failover.own_halt)
        row = self._lock(connection, tag) if self.has_marks else self._look(connection, tag)
        if row is None or row.max_id is None:
            raise rules.unknown_tag(tag)
        if row.store_halt:
            raise rules.store_halted(row.store_halt)
        if row.halted:
            raise rules.tag_halted(tag, row.halted)
        number, mark = self._skip(connection, tag, row, row.max_id) if row.due else (row.max_id, row.mark)
        if not exact:
            size = rules.size_near_limit(size, number, row.limit)
        end = self._dialect.raise_number(connection, tag, size, row.limit, number)
        if end is None:
            return self._not_raised(connection, tag, size, row)
        start = end - size
        if not self.has_marks:
            return Range(tag, start, end)
        if start < mark:
            return self._halt_tag(connection, tag, start, mark)
        self._raise_mark(connection, tag, end)
        return Range(tag, start, end)

    def _skip(self, connection: Connection, tag: str, row: _Row, max_id: int) -> tuple[int, int]:
        """Leave numbers out: move `max_id` and the mark up and grant nothing; gives where they stand then.

        The mark too, for nodes have read it as if this had happened already. What a limit cuts off stays due: in the
        time that was lost it may have been a higher one, and be raised to that again.
        """
        out, number = max(0, min(row.due, row.limit - max_id)), max_id
        if out:
            raised = self._dialect.raise_number(connection, tag, out, row.limit, max_id)
            if raised is None:
                raise rules.used_up(tag, max_id, row.limit, out)
            number = raised
        mark = max(row.mark, min(row.mark + row.due, row.limit))
        row.due -= min(out, mark - row.mark)
        if out or mark != row.mark:
            values = {"skipped": row.skipped - row.due, "mark": mark}
            connection.execute(update(schema.tag).where(schema.tag.c.name == tag).values(values))
        return number, mark

    def _not_raised(self, connection: Connection, tag: str, size: int, row: _Row) -> GolovesError:
        max_id = connection.execute(self._number, {TAG.key: tag}).scalar()
        if max_id is None:
            return rules.unknown_tag(tag)
        if self.has_marks and max_id < row.mark:
            return self._halt_tag(connection, tag, max_id, row.mark)
        if max_id < 0:
            return rules.absurd_number(tag, max_id)
        return rules.used_up(tag, max_id, row.limit, size, row.due)

    def _halt_tag(self, connection: Connection, tag: str, start: int, mark: int) -> GolovesError:
        reason = rules.below_mark(tag, start, mark)
        connection.execute(update(schema.tag).where(schema.tag.c.name == tag).values(halted=reason))
        return rules.tag_halted(tag, reason)

    def _raise_mark(self, connection: Connection, tag: str, end: int) -> None:
        """Raise the mark, unless the store was halted while we waited for the tag's lock (R6)."""
        raised = connection.execute(_RAISE_MARK, {TAG.key: tag, _END.key: end})
        if raised.rowcount != 1:
            raise rules.store_halted(self._store_halt(connection))

    def _read(self, connection: Connection, names: list[str]) -> dict[str, Tag]:
        # A few lengths of list, so that there are few statements to prepare and remember.
        length = next(length for length in (1, 10, 100, 1000) if length >= len(names))
        asked = names + [names[-1]] * (length - len(names))
        table = schema.leaf
        rows = connection.execute(select(*table.c).where(table.c.biz_tag.in_(asked))).all()
        wanted = set(names)
        return self._tags(connection, [row for row in rows if row.biz_tag in wanted], asked)

    def _list(self, connection: Connection, prefix: str, after: str, most: int) -> list[Tag]:
        table, binary = schema.leaf, self._facts.binary_names
        key = self._dialect.order_key(table.c.biz_tag, binary=binary)
        statement = select(*table.c).order_by(key).limit(most)
        if after:
            statement = statement.where(key > self._dialect.order_value(literal(after), binary=binary))
        if prefix:
            statement = statement.where(key >= self._dialect.order_value(literal(prefix), binary=binary))
            beyond = rules.after_all_with(prefix)
            if beyond is not None:
                statement = statement.where(key < self._dialect.order_value(literal(beyond), binary=binary))
        rows = connection.execute(statement).all()
        return list(self._tags(connection, rows, [row.biz_tag for row in rows]).values())

    def _tags(self, connection: Connection, rows: Iterable[Any], names: list[str]) -> dict[str, Tag]:
        marks = self._marks_of(connection, names) if self.has_marks and names else {}
        found = {row.biz_tag: row for row in rows}
        to_skip = 0
        if self.has_marks and any(name not in marks for name in found):
            # A tag without a row of its own gets one with its first grant, and then leaves these out as well.
            skipped = select(schema.meta.c.skipped).where(schema.meta.c.id == schema.META_ID)
            to_skip = connection.execute(skipped).scalar_one()
        return {name: self._tag(row, marks.get(name), to_skip) for name, row in found.items()}

    def _marks_of(self, connection: Connection, names: list[str]) -> dict[str, Any]:
        """Read the rows of `goloves_tag`, with the numbers that are `due` to be left out."""
        table, meta = schema.tag, schema.meta
        to_skip = select(meta.c.skipped).where(meta.c.id == schema.META_ID).scalar_subquery()
        due = (to_skip - table.c.skipped).label("due")
        statement = select(*table.c, due).where(table.c.name.in_(names))
        return {row.name: row for row in connection.execute(statement)}

    def _tag(self, row: Any, marked: Any, to_skip: int) -> Tag:
        updated: datetime | None = row.update_time
        if updated is not None and updated.tzinfo is None:
            updated = updated.replace(tzinfo=UTC)
        description = row.description or ""
        if marked is None:
            max_id = min(row.max_id + to_skip, MAX_NUMBER)
            return Tag(row.biz_tag, max_id, row.step, description, updated, max_id if self.has_marks else None)
        # What is due to be left out counts as granted: a node that remembers a part of it needs no alarm.
        max_id, mark = (min(number + marked.due, marked.limit) for number in (row.max_id, marked.mark))
        return Tag(row.biz_tag, max_id, row.step, description, updated, mark, marked.limit, marked.halted)

    def _create(self, connection: Connection, new: NewTag) -> Tag:
        row = self._lock(connection, new.name, make=True)
        assert row is not None
        # Asked under the lock: what came with it may be from before we waited for it.
        alike = connection.execute(select(schema.leaf.c.biz_tag).where(schema.leaf.c.biz_tag == new.name)).scalar()
        if alike is not None:
            raise rules.tag_exists(new.name) if alike == new.name else rules.tag_alike(new.name, alike)
        mark = None if row.mark == NEVER_MADE else min(row.mark + row.due, MAX_NUMBER)
        first = rules.first_number(new, mark, row.skipped)
        connection.execute(
            insert(schema.leaf).values(
                biz_tag=new.name,
                max_id=first,
                step=new.step,
                description=new.description,
                update_time=func.current_timestamp(),
            )
        )
        connection.execute(
            update(schema.tag)
            .where(schema.tag.c.name == new.name)
            .values(mark=first, limit=new.limit, skipped=row.skipped)
        )
        return self._read(connection, [new.name])[new.name]

    def _ensure(self, connection: Connection, new: NewTag) -> Tag:
        row = self._lock(connection, new.name, make=True)
        assert row is not None
        # Asked under the lock: another node may have made the tag while we waited for it.
        found = self._read(connection, [new.name])
        if found:
            return found[new.name]
        if row.mark != NEVER_MADE:
            raise rules.unknown_tag(new.name)
        return self._create(connection, new)

    def _change(self, connection: Connection, name: str, change: TagChange) -> Tag:
        if self.has_marks:
            row = self._lock(connection, name)
            if row is None:
                raise rules.unknown_tag(name)
            if change.limit is not None:
                # What is due to be left out counts as granted: nodes have read marks above it.
                granted = min(max(row.mark, row.max_id or 0) + row.due, max(row.limit, row.mark, row.max_id or 0))
                rules.check_lower_limit(name, change.limit, granted)
                connection.execute(update(schema.tag).where(schema.tag.c.name == name).values(limit=change.limit))
        values: dict[str, Any] = {"update_time": func.current_timestamp()}
        if change.step is not None:
            values["step"] = change.step
        if change.description is not None:
            values["description"] = change.description
        table = schema.leaf
        if (
            connection.execute(
                update(table).where(self._dialect.same_name(table.c.biz_tag, name)).values(values)
            ).rowcount
            != 1
        ):
            raise rules.unknown_tag(name)
        return self._read(connection, [name])[name]

    def _delete(self, connection: Connection, name: str) -> None:
        row = self._lock(connection, name)
        if row is None:
            raise rules.unknown_tag(name)
        max_id = connection.execute(self._select_number(name).with_for_update()).scalar()
        if max_id is None:
            raise rules.unknown_tag(name)
        connection.execute(update(schema.tag).where(schema.tag.c.name == name).values(mark=max(row.mark, max_id)))
        connection.execute(delete(schema.leaf).where(self._dialect.same_name(schema.leaf.c.biz_tag, name)))

    # --- locks ---

    def _select_number(self, tag: str | ColumnElement[str]) -> Any:
        return select(schema.leaf.c.max_id).where(self._dialect.same_name(schema.leaf.c.biz_tag, tag))

    @cached_property
    def _number(self) -> Any:
        return self._select_number(TAG)

    def _look(self, connection: Connection, tag: str) -> _Row | None:
        max_id = connection.execute(self._number, {TAG.key: tag}).scalar()
        return None if max_id is None else _Row(-1, MAX_NUMBER, "", "", max_id)

    def _lock(self, connection: Connection, tag: str, *, make: bool = False) -> _Row | None:
        """Lock a tag's row. One that is missing is made: at the current `max_id` (R4), or with `make` for a new tag."""
        row = connection.execute(self._locked, {TAG.key: tag}).one_or_none()
        if row is None:
            if not self._make_row(connection, tag, make):
                return None
            row = connection.execute(self._locked, {TAG.key: tag}).one()
        mark, limit, halted, skipped, store_halt, to_skip, max_id = row
        return _Row(mark, limit, halted, store_halt, max_id, to_skip - skipped, to_skip)

    @cached_property
    def _locked(self) -> Any:
        """A tag's row, to be locked, with what else a grant asks about."""
        table, meta = schema.tag, schema.meta
        return (
            select(
                table.c.mark,
                table.c.limit,
                table.c.halted,
                table.c.skipped,
                select(meta.c.halt).where(meta.c.id == schema.META_ID).scalar_subquery(),
                select(meta.c.skipped).where(meta.c.id == schema.META_ID).scalar_subquery(),
                self._number.scalar_subquery(),
            )
            .where(table.c.name == TAG)
            .with_for_update()
        )

    def _make_row(self, connection: Connection, tag: str, new: bool) -> bool:
        max_id = connection.execute(self._number, {TAG.key: tag}).scalar()
        if max_id is None and not new:
            return False
        mark = NEVER_MADE if max_id is None else max(0, max_id)
        connection.execute(
            self._dialect.insert_missing(schema.tag).values(name=tag, mark=mark, limit=MAX_NUMBER, halted="", skipped=0)
        )
        return True
