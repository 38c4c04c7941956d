"""Mutants of ranges and of the buffers that hold them."""

from pytest import MonkeyPatch

from goloves.core.grants import Range
from goloves.core.segment import SegmentBuffer
from goloves.errors import GolovesError, StoreUnavailable, UnknownOutcome, UnknownTag
from goloves.service.tags import TagSource
from goloves.stores import rules
from goloves.stores.memory import MemoryStore, TagRow
from simulation.mutants.listed import meanwhile, mutant


@mutant()
def r1_number_is_read_and_written_in_two_steps(patch: MonkeyPatch) -> None:
    whole = MemoryStore.allocate

    async def allocate(self: MemoryStore, tag: str, size: int, *, exact: bool = False) -> Range:
        row, marked = self.data.leaf.get(tag), self.data.tags.get(tag)
        read = (row.max_id if row else 0, marked.mark if marked else 0)
        await meanwhile()
        if row is not None and marked is not None and self.data.leaf.get(tag) is row:
            row.max_id, marked.mark = read
        return await whole(self, tag, size, exact=exact)

    patch.setattr(MemoryStore, "allocate", allocate)


@mutant()
def r2_limit_is_not_looked_at(patch: MonkeyPatch) -> None:
    marked = MemoryStore._marked

    async def allocate(self: MemoryStore, tag: str, size: int, *, exact: bool = False) -> Range:
        self._check_granting()
        row = self.data.leaf.get(tag)
        if row is None:
            raise rules.unknown_tag(tag)
        granted = Range(tag, row.max_id, row.max_id + size)
        row.max_id = marked(self, tag).mark = granted.end
        return granted

    patch.setattr(MemoryStore, "allocate", allocate)


@mutant()
def r12_step_near_the_limit_is_the_tag_s_own(patch: MonkeyPatch) -> None:
    patch.setattr(rules, "size_near_limit", lambda size, max_id, limit: min(size, max(1, limit - max_id)))


@mutant()
def r3_unknown_range_is_guessed(patch: MonkeyPatch) -> None:
    whole = TagSource._allocate
    ends: dict[str, int] = {}

    async def allocate(self: TagSource, size: int) -> Range | None:
        try:
            granted = await self._shared.store.allocate(self.name, size)
        except UnknownOutcome:
            end = ends.get(self.name)
            return await whole(self, size) if end is None else Range(self.name, end, end + size)
        except (StoreUnavailable, UnknownTag, GolovesError):
            return await whole(self, size)
        ends[self.name] = granted.end
        return granted

    patch.setattr(TagSource, "_allocate", allocate)


@mutant()
def r3_range_is_used_before_the_store_acknowledged_it(patch: MonkeyPatch) -> None:
    """Persisted after use: the buffer is filled with what the store will surely grant."""
    whole = TagSource._allocate
    ends: dict[str, int] = {}

    async def allocate(self: TagSource, size: int) -> Range | None:
        early = ends.get(self.name)
        if early is not None:
            self._buffer.put(Range(self.name, early, early + size))
        granted = await whole(self, size)
        if granted is not None:
            ends[self.name] = granted.end
        return granted

    patch.setattr(TagSource, "_allocate", allocate)


@mutant()
def r3_range_is_put_twice(patch: MonkeyPatch) -> None:
    whole = SegmentBuffer.put

    def put(self: SegmentBuffer, granted: Range) -> None:
        whole(self, granted)
        if len(granted) % 2 == 0:
            whole(self, granted)

    patch.setattr(SegmentBuffer, "put", put)


@mutant()
def buffer_hands_the_last_number_out_twice(patch: MonkeyPatch) -> None:
    whole = SegmentBuffer.take_many

    def take_many(self: SegmentBuffer, count: int) -> list[range]:
        spans = whole(self, count)
        if spans and len(spans[-1]) > 3:
            self._next -= 1
        return spans

    patch.setattr(SegmentBuffer, "take_many", take_many)


@mutant()
def buffer_leaves_a_range_in_place(patch: MonkeyPatch) -> None:
    def take_range(self: SegmentBuffer, size: int) -> range | None:
        return range(self._next, self._next + size) if self._end - self._next >= size else None

    patch.setattr(SegmentBuffer, "take_range", take_range)


@mutant("operators")
def r4_store_has_no_mark(patch: MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_marked", lambda self, tag: TagRow(-1))


@mutant("operators", "leaf beside")
def r4_tombstone_is_forgotten(patch: MonkeyPatch) -> None:
    whole = MemoryStore.delete_tag

    async def delete(self: MemoryStore, name: str) -> None:
        await whole(self, name)
        del self.data.tags[name]

    patch.setattr(MemoryStore, "delete_tag", delete)


@mutant("operators", "leaf beside")
def r4_mark_is_not_locked(patch: MonkeyPatch) -> None:
    """Who deletes a tag writes the mark that it read before somebody else was granted numbers."""
    whole = MemoryStore.delete_tag

    async def delete(self: MemoryStore, name: str) -> None:
        read = self.data.leaf[name].max_id
        for _ in range(100):
            await meanwhile()
        if name in self.data.leaf:
            await whole(self, name)
            self.data.tags[name].mark = read

    patch.setattr(MemoryStore, "delete_tag", delete)
