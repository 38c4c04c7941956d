"""A store in memory, for tests and the simulation: both contracts, no I/O, no waiting.

Rules:
1. `MemoryData` is what a database would keep; any number of `MemoryStore` handles, one a node, work on one of it.
2. No method awaits, so each is atomic among the tasks of one event loop.
3. `snapshot` and `restore` are a backup and its restoration: what they lose, the marks have to notice.
"""

# ruff: noqa: D102 - what each method promises stands with the contracts in base.py
import copy
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from goloves.core.grants import MAX_NUMBER, Range, Window
from goloves.core.layout import Layout
from goloves.errors import StoreUnavailable
from goloves.stores import rules
from goloves.stores.base import (
    FENCES_SKIPPED,
    Claim,
    Mark,
    NewTag,
    Place,
    RegisteredSpace,
    SeenOwner,
    Space,
    Tag,
    TagChange,
    draw_repair,
)


@dataclass
class LeafRow:
    """A row of `leaf_alloc`."""

    max_id: int
    step: int
    description: str
    updated: datetime


@dataclass
class TagRow:
    """A row of `goloves_tag`: never deleted, so that it is the tombstone of a deleted tag."""

    mark: int
    limit: int = MAX_NUMBER
    halted: str = ""
    due: int = 0
    """Numbers to leave out that lie beyond the limit: left out if it is raised (R7)."""

    def leave_out(self, row: LeafRow | None, gap: int) -> None:
        """Leave out `gap` numbers more."""
        self.due += gap
        number = max(self.mark, row.max_id if row else 0)
        self.mark = max(number, min(self.limit, number + self.due))
        self.due -= self.mark - number
        if row:
            row.max_id = self.mark


@dataclass
class SpaceRow:
    """A row of `goloves_space`."""

    layout: Layout
    floor: int = 0
    static: bool = False
    fence: int = 0
    longest: int = 0


@dataclass
class WorkerRow:
    """A row of `goloves_worker`."""

    fence: int
    start: int
    floor: int
    nonce: str
    owner: str
    seen: datetime


@dataclass
class MemoryData:
    """What a database would keep; tests may change it behind the stores' backs, as people do with SQL."""

    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    only_leaf: bool = False
    """Only Leaf's table exists: no marks, no tombstones, no windows (R4)."""
    halt: str = ""
    repairs: int = 0
    skipped: int = 0
    leaf: dict[str, LeafRow] = field(default_factory=dict)
    tags: dict[str, TagRow] = field(default_factory=dict)
    spaces: dict[str, SpaceRow] = field(default_factory=dict)
    workers: dict[str, dict[int, WorkerRow]] = field(default_factory=dict)
    marks: dict[str, dict[tuple[str, str, int], int]] = field(default_factory=dict)
    """Per node: kind, name, worker to value."""

    def snapshot(self) -> "MemoryData":
        """Give a copy that shares nothing: a backup."""
        return copy.deepcopy(self)

    def restore(self, backup: "MemoryData") -> None:
        """Become what the backup was, for all stores on it."""
        self.__dict__.update(copy.deepcopy(backup).__dict__)


class MemoryStore:
    """One node's handle of a store in memory; keeps `base.SegmentStore` and `base.WorkerStore`."""

    def __init__(
        self, data: MemoryData | None = None, *, clock: Callable[[], int] | None = None, repairing: bool = False
    ) -> None:
        """Work on `data`, or on an empty store of its own; `clock` reads the store's clock, ms since 1970.

        `repairing`: for a repair, which registers lost spaces while the store is halted.
        """
        self.data = data if data is not None else MemoryData()
        self._clock = clock
        self._repairing = repairing
        self._layouts: dict[str, Layout] = {}
        self._open = False

    @property
    def identity(self) -> str:
        return self.address if self.data.only_leaf else self.data.uuid

    @property
    def address(self) -> str:
        return "memory"

    @property
    def has_marks(self) -> bool:
        return not self.data.only_leaf

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False

    async def clock(self) -> int | None:
        return self._clock() if self._clock else None

    # --- ranges ---

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        rules.check_size(size)
        self._check_granting()
        row = self.data.leaf.get(tag)
        if row is None:
            raise rules.unknown_tag(tag)
        marked = self._marked(tag)
        if marked.halted:
            raise rules.tag_halted(tag, marked.halted)
        if not exact:
            size = rules.size_near_limit(size, row.max_id, marked.limit)
        if self.data.only_leaf and row.max_id < 0:
            raise rules.absurd_number(tag, row.max_id)
        if row.max_id < marked.mark:
            marked.halted = rules.below_mark(tag, row.max_id, marked.mark)
            raise rules.tag_halted(tag, marked.halted)
        if row.max_id > marked.limit - size:
            raise rules.used_up(tag, row.max_id, marked.limit, size, marked.due)
        granted = Range(tag, row.max_id, row.max_id + size)
        row.max_id = marked.mark = granted.end
        row.updated = self._now()
        return granted

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        self._check_open()
        listed = rules.at_most(names, "tags")
        return {name: self._tag(name) for name in listed if name in self.data.leaf}

    async def list_tags(self, *, prefix: str = "", after: str = "", most: int = 100) -> list[Tag]:
        self._check_open()
        found = sorted(name for name in self.data.leaf if name.startswith(prefix) and name > after)
        return [self._tag(name) for name in found[:most]]

    async def create_tag(self, new: NewTag) -> Tag:
        self._check_open()
        self._check_migrated("creating a tag")
        rules.check_new_tag(new)
        if new.name in self.data.leaf:
            raise rules.tag_exists(new.name)
        known = self.data.tags.get(new.name)
        old = known or TagRow(0)
        first = rules.first_number(new, known.mark + known.due if known else None, self.data.skipped)
        self.data.leaf[new.name] = LeafRow(first, new.step, new.description, self._now())
        self.data.tags[new.name] = TagRow(first, new.limit, old.halted)
        return self._tag(new.name)

    async def ensure_tag(self, new: NewTag) -> Tag:
        self._check_open()
        if new.name in self.data.leaf:
            return self._tag(new.name)
        if new.name in self.data.tags:
            raise rules.unknown_tag(new.name)
        return await self.create_tag(new)

    async def change_tag(self, name: str, change: TagChange) -> Tag:
        self._check_open()
        rules.check_change(change)
        row = self.data.leaf.get(name)
        if row is None:
            raise rules.unknown_tag(name)
        if change.limit is not None:
            self._check_migrated("a tag's limit")
            marked = self._marked(name)
            rules.check_lower_limit(name, change.limit, max(row.max_id, marked.mark))
            marked.limit = change.limit
            if marked.due:
                marked.leave_out(row, 0)
        row.step = row.step if change.step is None else change.step
        row.description = row.description if change.description is None else change.description
        row.updated = self._now()
        return self._tag(name)

    async def delete_tag(self, name: str) -> None:
        self._check_open()
        self._check_migrated("deleting a tag")
        row = self.data.leaf.get(name)
        if row is None:
            raise rules.unknown_tag(name)
        marked = self._marked(name)
        marked.mark = max(marked.mark, row.max_id)
        del self.data.leaf[name]

    # --- windows ---

    async def open_space(self, space: Space) -> None:
        if self._repairing:
            self._check_open()
        else:
            self._check_granting()
        self._check_migrated("Snowflake mode")
        row = self.data.spaces.setdefault(space.name, SpaceRow(space.layout, static=space.static))
        if row.layout != space.layout:
            if self.data.workers.get(space.name):
                raise rules.other_layout(space.name, row.layout.describe(), space.describe())
            row.layout, row.static = space.layout, space.static
        self._layouts[space.name] = space.layout

    async def claim(self, claim: Claim) -> Window:
        self._check_granting()
        self._check_migrated("Snowflake mode")
        space = self.data.spaces.get(claim.space.name)
        if space is None:
            raise rules.unknown_space(claim.space.name)
        registered = Space(claim.space.name, space.layout, space.static)
        rows = self.data.workers.setdefault(claim.space.name, {})
        if registered != claim.space:
            under_way = sum(row.floor > claim.now for row in rows.values())
            rules.check_way(claim, registered.fingerprint, registered.describe(), under_way)
            space.static = claim.space.static
        worker = self._choose(claim, rows)
        old = rows.get(worker)
        fence, floor = (old.fence, max(old.floor, space.floor)) if old else (space.fence, space.floor)
        window = rules.window(claim, worker, fence + 1, floor)
        space.longest = max(space.longest, claim.length)
        rows[worker] = WorkerRow(window.fence, window.start, window.end, claim.nonce, claim.owner, self._now())
        return window

    async def count_windows(self, space: str, now: int, workers: range | None = None) -> int:
        self._check_open()
        rows = self.data.workers.get(space, {})
        return sum(row.floor > now and (workers is None or worker in workers) for worker, row in rows.items())

    async def last_seen(self) -> int | None:
        self._check_open()
        seen = [row.seen for rows in self.data.workers.values() for row in rows.values()]
        return round(max(seen).timestamp() * 1000) if seen and self._clock else None

    async def read_fences(self, space: str, workers: Iterable[int]) -> dict[int, int] | None:
        self._check_open()
        listed = rules.at_most(workers, "worker ids")
        if space not in self.data.spaces:
            return None
        rows, unused = self.data.workers.get(space, {}), self.data.spaces[space].fence
        return {worker: rows[worker].fence if worker in rows else unused for worker in listed}

    async def find_window(self, space: str, nonce: str) -> Window | None:
        self._check_open()
        for worker, row in self.data.workers.get(space, {}).items():
            if row.nonce == nonce and row.start < row.floor:
                return Window(space, worker, row.fence, nonce, row.start, row.floor)
        return None

    async def extend(self, window: Window, end: int) -> Window:
        self._check_granting()
        layout = self._layouts.get(window.space)
        if layout is None:
            raise rules.unknown_space(window.space)
        rules.check_end(layout, end)
        row = self.data.workers.get(window.space, {}).get(window.worker)
        if row is None:
            space = self.data.spaces.get(window.space)
            rules.check_extension(window, None, "", space.floor if space else 0)
        else:
            rules.check_extension(window, row.fence, row.nonce, row.floor)
            row.floor = max(row.floor, end)
            row.seen = self._now()
        return window.extended(end)

    async def release(self, window: Window, floor: int) -> None:
        self._check_open()
        rules.check_floor(window, floor)
        row = self.data.workers.get(window.space, {}).get(window.worker)
        if row is not None and (row.fence, row.nonce) == (window.fence, window.nonce):
            row.floor = floor

    # --- halts, marks and repair ---

    async def halt(self, reason: str) -> None:
        self._check_open()
        self._check_migrated("halting the store")
        self.data.halt = self.data.halt or reason

    async def read_halt(self) -> str:
        self._check_open()
        return self.data.halt

    async def check_halt(self) -> int:
        self._check_granting()
        return self.data.repairs

    async def write_marks(self, node: str, marks: Iterable[Mark]) -> None:
        self._check_open()
        self._check_migrated("writing marks")
        kept = self.data.marks.setdefault(node, {})
        for mark in rules.at_most(marks, "marks"):
            key = (mark.kind, mark.name, mark.worker)
            kept[key] = max(mark.value, kept.get(key, mark.value))

    async def read_marks(self) -> dict[str, list[Mark]]:
        self._check_open()
        return {
            node: [
                Mark("tag" if kind == "tag" else "worker", name, value, worker)
                for (kind, name, worker), value in kept.items()
            ]
            for node, kept in self.data.marks.items()
        }

    async def read_place(self) -> Place:
        self._check_open()
        return Place()

    async def read_spaces(self) -> list[RegisteredSpace]:
        self._check_open()
        return [
            RegisteredSpace(
                name,
                Space(name, row.layout, row.static).describe(),
                Space(name, row.layout, row.static).fingerprint,
                row.layout.epoch_ms,
                row.layout.unit_ms,
                row.floor,
                row.fence,
                row.longest,
            )
            for name, row in sorted(self.data.spaces.items())
        ]

    async def read_remembered(self, names: Iterable[str]) -> dict[str, int]:
        self._check_open()
        listed = rules.at_most(names, "tags")
        if self.data.only_leaf:
            return {name: self.data.leaf[name].max_id for name in listed if name in self.data.leaf}
        known = {name: self._marked(name) for name in listed if name in self.data.leaf or name in self.data.tags}
        return {
            name: max(marked.mark + marked.due, self.data.leaf[name].max_id if name in self.data.leaf else 0)
            for name, marked in known.items()
        }

    async def forget_marks(self, used: Mapping[str, Iterable[Mark]]) -> None:
        self._check_open()
        for node, marks in used.items():
            kept = self.data.marks.get(node, {})
            for mark in marks:
                key = (mark.kind, mark.name, mark.worker)
                if key in kept and kept[key] <= mark.value:
                    del kept[key]
            if not kept:
                self.data.marks.pop(node, None)

    async def recent_owners(self, *, most: int = 100) -> list[SeenOwner]:
        self._check_open()
        rows = [
            SeenOwner(space, worker, row.fence, row.floor, row.owner, row.seen)
            for space, workers in self.data.workers.items()
            for worker, row in workers.items()
        ]
        return sorted(rows, key=lambda row: row.seen, reverse=True)[:most]

    async def raise_tags(self, numbers: Mapping[str, int]) -> None:
        self._check_open()
        for name in rules.at_most(numbers, "tags"):
            rules.check_raise(name, numbers[name], self._marked(name).limit if name in self.data.leaf else MAX_NUMBER)
        for name, number in numbers.items():
            marked = self._marked(name)
            row = self.data.leaf.get(name)
            marked.mark = max(marked.mark, number, row.max_id if row else 0)
            marked.halted = ""
            if row:
                row.max_id = marked.mark

    async def skip_tags(self, gap: int) -> None:
        self._check_open()
        self.data.skipped += gap
        for name in {*self.data.leaf, *self.data.tags}:
            self._marked(name).leave_out(self.data.leaf.get(name), gap)

    async def raise_floor(self, space: str, floor: int) -> None:
        self._check_open()
        self._check_migrated("a repair")
        row = self.data.spaces.get(space)
        if row is None:
            raise rules.unknown_space(space)
        row.floor = max(row.floor, floor)

    async def raise_fences(self, marks: Iterable[Mark]) -> None:
        self._check_open()
        self._check_migrated("a repair")
        for mark in rules.at_most(marks, "marks"):
            rows = self.data.workers.setdefault(mark.name, {})
            space = self.data.spaces.get(mark.name)
            fence = space.fence if space else 0
            row = rows.setdefault(mark.worker, WorkerRow(fence, 0, 0, "", "", self._now()))
            row.fence = max(row.fence, mark.value)
            row.nonce = ""

    async def end_windows(self, space: str) -> None:
        self._check_open()
        self._check_migrated("a repair")
        for row in self.data.workers.get(space, {}).values():
            row.fence += FENCES_SKIPPED
            row.nonce = ""
        if space in self.data.spaces:
            self.data.spaces[space].fence += FENCES_SKIPPED

    async def lift_halt(self) -> None:
        self._check_open()
        self.data.halt = ""
        self.data.repairs += draw_repair()

    # --- inside ---

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is closed")

    def _check_granting(self) -> None:
        self._check_open()
        if self.data.halt:
            raise rules.store_halted(self.data.halt)

    def _check_migrated(self, what: str) -> None:
        if self.data.only_leaf:
            raise rules.needs_migration(what)

    def _marked(self, tag: str) -> TagRow:
        row = self.data.leaf.get(tag)
        if self.data.only_leaf:
            return TagRow(-1)
        return self.data.tags.setdefault(tag, TagRow(max(0, row.max_id) if row else 0))

    def _tag(self, name: str) -> Tag:
        row = self.data.leaf[name]
        marked = None if self.data.only_leaf else self.data.tags.get(name)
        if marked is None:
            mark = None if self.data.only_leaf else row.max_id
            return Tag(name, row.max_id, row.step, row.description, row.updated, mark)
        return Tag(name, row.max_id, row.step, row.description, row.updated, marked.mark, marked.limit, marked.halted)

    def _choose(self, claim: Claim, rows: dict[int, WorkerRow]) -> int:
        workers = rules.candidates(claim)
        for worker in rules.draw(workers, claim.rng):
            if worker not in rows:
                return worker
        unused = [worker for worker in workers if worker not in rows]
        if unused:
            return claim.rng.choice(unused)
        oldest = sorted((row.floor, worker) for worker, row in rows.items() if worker in workers)
        free = [worker for floor, worker in oldest[: rules.POOLED] if floor <= claim.now]
        if not free:
            floor, first = oldest[0]
            raise rules.no_worker_free(claim, floor, rows[first].owner)
        return claim.rng.choice(free)

    def _now(self) -> datetime:
        return datetime.fromtimestamp((self._clock() if self._clock else 0) / 1000, UTC)


def new_memory_store(*, clock: Callable[[], int] | None = None) -> MemoryStore:
    """Give a store in memory as Goloves makes stores itself: with a tag and a space named `default`."""
    store = MemoryStore(clock=clock)
    moment = datetime.fromtimestamp(0, UTC)
    store.data.leaf["default"] = LeafRow(1, 1000, "", moment)
    store.data.tags["default"] = TagRow(1)
    store.data.spaces["default"] = SpaceRow(Layout())
    return store
