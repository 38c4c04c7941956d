import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from goloves.core.grants import Range, Window
from goloves.core.layout import Layout
from goloves.errors import (
    ConfigError,
    StoreUnavailable,
    StoreWentBackwards,
    UnknownOutcome,
    UnknownSpace,
    UnknownTag,
    WindowLost,
)
from goloves.stores.base import Claim, Mark, NewTag, Space, TagChange
from goloves.stores.guard import SegmentGuard, WorkerGuard
from goloves.stores.marks import HEADER, Marks
from goloves.stores.memory import LeafRow, MemoryData, MemoryStore, TagRow
from stores.halts import open_halted, tell_marks

SPACE = Space("default", Layout(41, 1, 12))
STORE = "a store"
THEN = datetime(2026, 1, 1, tzinfo=UTC)


class CrossingStore(MemoryStore):
    """Holds answers back, and fails to halt or to write marks where it is told to."""

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self.hold: asyncio.Event | None = None
        self.halt_error: Exception | None = None
        self.marks_error: Exception | None = None
        self.written: list[int] = []

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        hold = self.hold
        granted = await super().allocate(tag, size, exact=exact)
        if hold is not None:
            await hold.wait()
        return granted

    async def halt(self, reason: str) -> None:
        if self.halt_error is not None:
            raise self.halt_error
        await super().halt(reason)

    async def write_marks(self, node: str, marks: object) -> None:
        listed: list[Mark] = list(marks)  # type: ignore[call-overload]
        self.written.append(len(listed))
        if self.marks_error is not None:
            raise self.marks_error
        await super().write_marks(node, listed)


class Watched:
    """A store with both guards of one node."""

    def __init__(self, data: MemoryData | None = None) -> None:
        self.data = data or MemoryData(uuid=STORE)
        self.store = CrossingStore(self.data)
        self.marks = Marks()
        self.segments = SegmentGuard(self.store, self.marks, "node 1")
        self.windows = WorkerGuard(self.store, self.marks, "node 1")
        self.nonces = 0

    async def open(self) -> "Watched":
        await self.segments.open()
        await self.windows.open()
        await self.windows.open_space(SPACE)
        await self.segments.create_tag(NewTag("order", step=10))
        return self

    def a_claim(self, worker: int = 0, now: int = 1000) -> Claim:
        self.nonces += 1
        return Claim(SPACE, now, 100, f"{self.nonces:032x}", "node 1", random.Random(1), range(worker, worker + 1))

    async def claimed(self, worker: int = 0, now: int = 1000) -> Window:
        return await self.windows.claim(self.a_claim(worker, now))


async def watched() -> Watched:
    return await Watched().open()


def tag_mark(name: str, value: int) -> Mark:
    return Mark("tag", name, value)


# --- ranges ---


async def test_r5_each_range_raises_its_tag_s_mark() -> None:
    each = await watched()
    assert each.marks.tag(STORE, "order") == -1
    assert await each.segments.allocate("order", 10) == Range("order", 1, 11)
    assert each.marks.tag(STORE, "order") == 11


async def test_r5_a_range_below_the_mark_halts_the_whole_store_and_is_not_given() -> None:
    each = await watched()
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.data.restore(backup)
    with pytest.raises(
        StoreWentBackwards, match=r"\[1, 11\) of the tag 'order' lies below 101.*goloves repair"
    ) as caught:
        await each.segments.allocate("order", 10)
    assert caught.value.whole_store
    assert "lies below 101" in each.data.halt
    with pytest.raises(StoreWentBackwards):
        await each.claimed()


async def test_r5_two_answers_may_cross() -> None:
    each = await watched()
    each.store.hold = slow = asyncio.Event()
    first = asyncio.ensure_future(each.segments.allocate("order", 10))
    await asyncio.sleep(0)
    each.store.hold = None
    assert await each.segments.allocate("order", 10) == Range("order", 11, 21)
    slow.set()
    assert await first == Range("order", 1, 11)
    assert each.marks.tag(STORE, "order") == 21
    assert not each.data.halt


async def test_r5_a_reading_raises_the_mark_of_a_tag_in_use_and_remembers_no_other() -> None:
    each = await watched()
    await each.segments.create_tag(NewTag("other"))
    await each.segments.allocate("order", 10)
    await each.store.allocate("order", 500)
    assert set(await each.segments.read_tags(["order", "other", "none"])) == {"order", "other"}
    assert each.marks.tag(STORE, "order") == 511
    assert each.marks.tag(STORE, "other") == -1


async def test_r5_a_reading_below_the_mark_halts_the_whole_store() -> None:
    each = await watched()
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.data.restore(backup)
    with pytest.raises(StoreWentBackwards, match="up to 1, below 101"):
        await each.segments.read_tags(["order"])
    assert each.data.halt


async def test_r5_where_the_store_has_no_marks_the_node_s_own_judge_what_is_read() -> None:
    each = await watched()
    each.data.only_leaf = True
    await each.segments.allocate("order", 100)
    each.data.leaf["order"].max_id = 50
    with pytest.raises(StoreWentBackwards, match=r"up to 50, below 101.*stop all nodes, run `goloves repair`"):
        await each.segments.read_tags(["order"])
    with pytest.raises(StoreWentBackwards):
        await each.segments.allocate("order", 10)


async def test_r5_where_the_store_has_no_marks_a_refused_node_does_not_climb_past_its_own_mark() -> None:
    each = await watched()
    each.data.only_leaf = True
    each.data.leaf["other"] = LeafRow(1, 10, "", THEN)
    await each.segments.allocate("order", 100)
    each.data.leaf["order"].max_id = 1
    for size in (10, 40, 160, 640):
        with pytest.raises(StoreWentBackwards, match="goloves repair") as caught:
            await each.segments.allocate("order", size)
        assert caught.value.whole_store
    # Somebody else climbs past the mark: what he was granted before is not known here.
    each.data.leaf["order"].max_id = 5000
    for tag in ("order", "other"):
        with pytest.raises(StoreWentBackwards):
            await each.segments.allocate(tag, 10)
    assert (each.data.leaf["order"].max_id, each.data.leaf["other"].max_id) == (5000, 1)


async def test_r5_where_the_store_has_no_marks_a_restart_after_a_repair_ends_the_halt_and_one_before_it_does_not() -> (
    None
):
    each = await watched()
    each.data.only_leaf = True
    await each.segments.allocate("order", 100)
    each.marks.rise("memory", tag_mark("order", 101))
    each.data.leaf["order"].max_id = 1

    async def restarted() -> SegmentGuard:
        marks = Marks()
        for mark in each.marks.all("memory"):
            marks.rise("memory", mark)
        guard = SegmentGuard(each.store, marks, "node 1")
        with contextlib.suppress(StoreWentBackwards):
            await guard.open()
        return guard

    guard = await restarted()
    each.data.leaf["order"].max_id = 3000
    with pytest.raises(StoreWentBackwards, match="up to 1, below 101"):
        await guard.allocate("order", 10)
    assert await (await restarted()).allocate("order", 10) == Range("order", 3000, 3010)


async def test_r4_a_tag_that_the_store_halts_alone_is_not_the_whole_store_s_matter() -> None:
    each = await watched()
    await each.segments.allocate("order", 10)
    each.data.leaf["order"].max_id = 1
    with pytest.raises(StoreWentBackwards) as caught:
        await each.segments.allocate("order", 10)
    assert not caught.value.whole_store
    assert not each.data.halt
    assert each.data.marks == {}


async def test_the_rest_of_a_store_is_handed_on() -> None:
    each = await watched()
    assert (each.segments.identity, each.windows.identity) == (STORE, STORE)
    assert each.segments.has_marks
    assert await each.segments.clock() is None
    await each.segments.ensure_tag(NewTag("made"))
    assert (await each.segments.change_tag("made", TagChange(step=7))).step == 7
    assert [tag.name for tag in await each.segments.list_tags(prefix="m", most=5)] == ["made"]
    await each.segments.delete_tag("made")
    assert await each.segments.list_tags(after="n") == await each.store.list_tags(after="n")
    await each.windows.write_marks("node 2", [tag_mark("order", 5)])
    assert each.data.marks == {"node 2": {("tag", "order", -1): 5}}
    await each.windows.halt("an operator said so")
    assert each.data.halt == "an operator said so"
    await each.segments.close()
    with pytest.raises(StoreUnavailable):
        await each.segments.allocate("order", 1)


# --- windows ---


async def test_r5_windows_are_judged_by_their_fence() -> None:
    each = await watched()
    window = await each.claimed()
    assert each.marks.fences(STORE, "default") == {0: 1}
    await each.windows.release(window, window.start)
    assert (await each.claimed()).fence == 2
    assert each.marks.fences(STORE, "default") == {0: 2}


async def test_r5_a_fence_that_is_not_above_the_mark_halts_the_whole_store() -> None:
    each = await watched()
    backup = each.data.snapshot()
    await each.claimed()
    each.data.restore(backup)
    with pytest.raises(StoreWentBackwards, match="worker 0 of the space 'default' has fence 0, below 1"):
        await each.claimed(now=5000)
    assert each.data.halt


async def test_r5_any_fence_that_is_behind_halts_a_claim_and_not_only_that_of_the_worker_id_claimed() -> None:
    each = await watched()
    backup = each.data.snapshot()
    await each.claimed(worker=0)
    each.data.restore(backup)
    with pytest.raises(StoreWentBackwards, match="worker 0 of the space 'default' has fence 0, below 1"):
        await each.claimed(worker=1)
    assert each.data.halt
    assert 1 not in each.data.workers.get("default", {})


async def test_r5_all_fences_are_compared_when_the_store_is_opened() -> None:
    each = await watched()
    for worker in range(2):
        await each.claimed(worker)
    for worker in range(2, 1500):
        each.marks.rise(STORE, Mark("worker", "default", 1, worker))
        each.data.workers["default"][worker] = replace(each.data.workers["default"][0])
    again = WorkerGuard(each.store, each.marks, "node 1")
    await again.open()
    assert not each.data.halt
    each.data.workers["default"][1499].fence = 0
    await open_halted(again)
    assert "worker 1499 of the space 'default' has fence 0, below 1" in each.data.halt
    with pytest.raises(StoreWentBackwards):
        await each.claimed()


async def test_r5_a_claim_that_meets_the_mark_of_its_worker_id_only_in_the_answer_is_refused() -> None:
    each = await watched()
    backup = each.data.snapshot()
    await each.claimed()

    async def set_back(space: str, workers: object) -> dict[int, int]:
        each.data.restore(backup)  # after the marks were compared, and before the claim
        return {0: 1}

    each.store.read_fences = set_back  # type: ignore[method-assign]
    with pytest.raises(StoreWentBackwards, match="fence 1 of worker 0 in the space 'default' is not above 1"):
        await each.claimed(now=5000)


async def test_r6_a_space_that_the_store_lost_is_not_registered_anew_by_a_node_that_had_windows_of_it() -> None:
    each = await watched()
    await each.claimed()
    del each.data.spaces["default"], each.data.workers["default"]
    with pytest.raises(StoreWentBackwards, match="no longer knows the space 'default'"):
        await each.windows.open_space(SPACE)
    assert "default" not in each.data.spaces
    assert each.data.halt

    each = await watched()
    await each.claimed()
    del each.data.spaces["default"], each.data.workers["default"]
    await open_halted(WorkerGuard(each.store, each.marks, "node 1"))
    assert "no longer knows the space" in each.data.halt


async def test_r6_a_halt_is_noticed_by_a_node_that_only_reads() -> None:
    each = await watched()
    await each.segments.allocate("order", 10)
    await each.store.halt("somebody else noticed")
    with pytest.raises(StoreWentBackwards, match="somebody else noticed") as caught:
        await each.segments.read_tags(["order"])
    assert caught.value.whole_store
    assert each.data.marks == {}
    await tell_marks(each.segments)
    assert each.data.marks == {"node 1": {("tag", "order", -1): 11}}


async def test_r6_a_node_that_slept_through_halt_and_repair_is_told_once_to_drop_what_it_holds() -> None:
    each = await watched()
    await each.segments.read_tags(["order"])
    await each.store.halt("somebody else noticed")
    await each.store.lift_halt()
    with pytest.raises(StoreWentBackwards, match="what it holds is dropped") as caught:
        await each.segments.read_tags(["order"])
    assert caught.value.whole_store
    assert await each.segments.read_tags(["order"])


async def test_r6_a_node_that_met_the_halt_itself_is_not_told_again_after_the_repair() -> None:
    each = await watched()
    await each.segments.read_tags(["order"])
    await each.store.halt("somebody else noticed")
    with pytest.raises(StoreWentBackwards):
        await each.claimed()
    await each.store.lift_halt()
    assert await each.segments.allocate("order", 10)
    assert await each.segments.read_tags(["order"])


async def test_r5_a_window_that_is_read_back_is_judged_too() -> None:
    each = await watched()
    backup = each.data.snapshot()
    await each.claimed()
    each.data.restore(backup)
    claim = each.a_claim()
    await each.store.claim(claim)
    with pytest.raises(StoreWentBackwards):
        await each.windows.find_window("default", claim.nonce)
    assert await each.windows.find_window("default", "nobody's") is None


async def test_w4_a_window_that_is_read_back_raises_the_mark() -> None:
    each = await watched()
    claim = each.a_claim()
    window = await each.store.claim(claim)
    assert await each.windows.find_window("default", claim.nonce) == window
    assert each.marks.fences(STORE, "default") == {0: 1}


async def test_w3_an_extension_that_finds_the_store_set_back_halts_it() -> None:
    each = await watched()
    backup = each.data.snapshot()
    window = await each.claimed()
    each.data.restore(backup)
    with pytest.raises(StoreWentBackwards) as caught:
        await each.windows.extend(window, window.end + 10)
    assert caught.value.whole_store
    assert each.data.halt


async def test_w3_an_extension_of_a_halted_store_reports_the_node_s_marks() -> None:
    each = await watched()
    window = await each.claimed()
    await each.store.halt("somebody else noticed")
    with pytest.raises(StoreWentBackwards, match="somebody else noticed"):
        await each.windows.extend(window, window.end + 10)
    await tell_marks(each.windows)
    assert each.data.marks == {"node 1": {("worker", "default", 0): 1}}


async def test_an_extension_that_is_granted_or_lost_is_handed_on() -> None:
    each = await watched()
    window = await each.claimed()
    assert (await each.windows.extend(window, window.end + 10)).end == window.end + 10
    other = Watched(each.data)
    await other.windows.open()
    await other.windows.open_space(SPACE)
    other.nonces = 100
    await other.claimed(now=window.end + 10)
    with pytest.raises(WindowLost):
        await each.windows.extend(window, window.end + 20)


# --- halts and reports ---


async def test_r6_a_node_that_meets_a_halt_writes_its_marks_once() -> None:
    each = await watched()
    await each.segments.allocate("order", 10)
    await each.store.halt("somebody else noticed")
    for _ in range(5):
        with pytest.raises(StoreWentBackwards):
            await each.segments.allocate("order", 10)
    assert each.store.written == [1]
    assert each.data.marks == {"node 1": {("tag", "order", -1): 11}}


async def test_r6_after_a_repair_the_next_halt_is_reported_anew() -> None:
    each = await watched()
    for _ in range(2):
        await each.segments.allocate("order", 10)
        await each.store.halt("again")
        for _ in range(2):
            with pytest.raises(StoreWentBackwards):
                await each.segments.allocate("order", 10)
            with pytest.raises(StoreWentBackwards):
                await each.claimed()
        await each.store.lift_halt()
    assert each.data.marks["node 1"]["tag", "order", -1] == 21
    assert len(each.store.written) == 2


async def test_r6_marks_are_written_anew_at_a_second_halt_that_comes_before_any_grant() -> None:
    each = await watched()
    await each.segments.allocate("order", 100)
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    for _ in range(2):
        each.data.restore(backup)
        with pytest.raises(StoreWentBackwards):
            await each.segments.read_tags(["order"])
        await tell_marks(each.segments)
        assert each.data.marks["node 1"]["tag", "order", -1] == 201


async def test_r6_marks_are_written_anew_each_minute_while_a_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    each = await watched()
    await each.segments.allocate("order", 10)
    clock = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0])
    await each.store.halt("somebody else noticed")
    with pytest.raises(StoreWentBackwards):
        await each.segments.allocate("order", 10)
    for moment, marks in ((1000.0, 1), (1059.0, 0), (1061.0, 1)):
        clock[0] = moment
        each.data.marks.clear()  # a repair that was broken off, or another restore
        with pytest.raises(StoreWentBackwards):
            await each.segments.allocate("order", 10)
        assert len(each.data.marks) == marks


async def test_r6_many_marks_are_written_in_parts() -> None:
    each = await watched()
    for number in range(250):
        each.marks.rise(STORE, tag_mark(f"tag {number}", 5))
    each.marks.rise("another store", tag_mark("elsewhere", 5))
    await each.store.halt("somebody else noticed")
    with pytest.raises(StoreWentBackwards):
        await each.segments.allocate("order", 10)
    assert each.store.written == []
    await tell_marks(each.segments)
    assert each.store.written == [100, 100, 50]
    assert len(each.data.marks["node 1"]) == 250


async def test_r6_marks_that_could_not_be_written_are_written_at_the_next_refusal() -> None:
    each = await watched()
    await each.segments.allocate("order", 10)
    await each.store.halt("somebody else noticed")
    each.store.marks_error = StoreUnavailable("connection refused")
    for _ in range(2):
        with pytest.raises(StoreWentBackwards):
            await each.segments.allocate("order", 10)
    assert each.store.written == [1]
    each.store.marks_error = None
    with pytest.raises(StoreWentBackwards):
        await each.segments.allocate("order", 10)
    assert each.data.marks["node 1"]


@pytest.mark.parametrize("error", [StoreUnavailable("connection refused"), UnknownOutcome("no answer")])
async def test_r6_a_halt_that_could_not_be_written_is_owed_before_anything_else_is_granted(error: Exception) -> None:
    each = await watched()
    await each.segments.create_tag(NewTag("other", step=10))
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.data.restore(backup)
    each.store.halt_error = error
    with pytest.raises(StoreWentBackwards, match="the halt could not be written"):
        await each.segments.allocate("order", 1000)
    with pytest.raises(StoreWentBackwards, match="the halt could not be written"):
        await each.segments.allocate("other", 10)
    assert not each.data.halt
    each.store.halt_error = None
    with pytest.raises(StoreWentBackwards, match="lies below 101"):
        await each.segments.allocate("other", 10)
    assert "lies below 101" in each.data.halt
    await each.store.raise_tags({"order": 5000})
    await each.store.lift_halt()
    assert await each.segments.allocate("other", 10) == Range("other", 1, 11)


async def test_r6_a_halt_that_the_windows_owe_holds_for_their_claims_and_extensions() -> None:
    each = await watched()
    window = await each.claimed(worker=1)
    backup = each.data.snapshot()
    await each.claimed(worker=0)
    each.data.restore(backup)
    each.store.halt_error = StoreUnavailable("connection refused")
    with pytest.raises(StoreWentBackwards):
        await each.claimed(worker=0)
    with pytest.raises(StoreWentBackwards):
        await each.windows.extend(window, window.end + 10)
    with pytest.raises(StoreWentBackwards):
        await each.claimed(worker=1, now=5000)


async def test_r6_a_halt_that_the_tags_owe_holds_for_claims_and_extensions_and_the_other_way_round() -> None:
    each = await watched()
    window = await each.claimed(worker=1)
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.data.restore(backup)
    each.store.halt_error = StoreUnavailable("connection refused")
    with pytest.raises(StoreWentBackwards):
        await each.segments.read_tags(["order"])
    with pytest.raises(StoreWentBackwards, match="below 101"):
        await each.claimed(worker=0)
    with pytest.raises(StoreWentBackwards, match="below 101"):
        await each.windows.extend(window, window.end + 10)
    assert list(each.data.workers["default"]) == [1]

    each = await watched()
    backup = each.data.snapshot()
    await each.claimed(worker=0)
    each.data.restore(backup)
    each.store.halt_error = StoreUnavailable("connection refused")
    with pytest.raises(StoreWentBackwards):
        await each.claimed(worker=0)
    with pytest.raises(StoreWentBackwards, match="worker 0 of the space"):
        await each.segments.allocate("order", 10)
    assert each.data.leaf["order"].max_id == 1


async def test_r6_a_grant_that_was_under_way_when_a_halt_became_due_is_not_given() -> None:
    each = await watched()
    await each.segments.create_tag(NewTag("other", step=10))
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.data.restore(backup)
    each.store.hold = slow = asyncio.Event()
    under_way = asyncio.ensure_future(each.segments.allocate("other", 10))
    await asyncio.sleep(0)
    each.store.halt_error = StoreUnavailable("connection refused")
    with pytest.raises(StoreWentBackwards):
        await each.segments.read_tags(["order"])
    slow.set()
    with pytest.raises(StoreWentBackwards, match="below 101"):
        await under_way


# --- halts that are owed, and repairs that came first ---


AWAY = StoreUnavailable("connection refused")


class Owing:
    """A node that found the store set back and could not halt it; another one can, and an operator repairs it."""

    def __init__(self, each: Watched) -> None:
        self.each = each
        self.data = each.data

    @classmethod
    async def made(cls) -> "Owing":
        each = await watched()
        await each.segments.create_tag(NewTag("other", step=10))
        backup = each.data.snapshot()
        await each.segments.allocate("order", 100)
        await each.claimed()
        each.data.restore(backup)
        each.store.halt_error = AWAY
        with pytest.raises(StoreWentBackwards, match="the halt could not be written"):
            await each.segments.read_tags(["order"])
        each.store.halt_error = None
        return cls(each)

    async def repair(self, numbers: dict[str, int], fence: int) -> None:
        store = self.each.store
        await store.halt("another node noticed")
        await store.raise_tags(numbers)
        await store.raise_fences([Mark("worker", "default", fence, 0)])
        await store.lift_halt()


async def test_r6_a_halt_that_is_owed_is_settled_by_a_repair_that_came_after_it_was_found() -> None:
    owing = await Owing.made()
    each = owing.each
    await owing.repair({"order": 5000}, 7)
    with pytest.raises(StoreWentBackwards, match="what it holds is dropped") as caught:
        await each.segments.allocate("other", 10)
    assert caught.value.whole_store
    assert not each.data.halt
    assert (await each.segments.allocate("order", 10)).start == 5000
    assert await each.segments.read_tags(["order"])
    assert (await each.claimed(now=5000)).fence == 8
    assert not each.data.halt


async def test_r6_a_repair_settles_what_is_owed_for_all_who_ask_at_once() -> None:
    """The first to hear of it has settled it; the others, who ask meanwhile, must not halt the store anew."""
    owing = await Owing.made()
    each = owing.each
    await owing.repair({"order": 5000}, 7)
    check = each.store.check_halt

    async def slow() -> int:
        await asyncio.sleep(0)
        return await check()

    each.store.check_halt = slow  # type: ignore[method-assign]
    asks = [each.segments.allocate("other", 10), each.segments.read_tags(["order"]), each.claimed(now=5000)]
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreWentBackwards}
    assert not each.data.halt
    assert (await each.segments.allocate("order", 10)).start == 5000


async def test_r6_a_repair_that_did_not_get_the_marks_of_a_node_that_met_the_halt_is_followed_by_another() -> None:
    each = await watched()
    await each.segments.create_tag(NewTag("other", step=10))
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.data.restore(backup)
    await each.store.halt("another node noticed")

    async def away(node: str, marks: Iterable[Mark]) -> None:
        raise AWAY

    write, each.store.write_marks = each.store.write_marks, away  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreWentBackwards, match="another node noticed"):
        await each.segments.read_tags(["other"])
    await tell_marks(each.segments)
    each.store.write_marks = write  # type: ignore[method-assign]
    await each.store.lift_halt()
    with pytest.raises(StoreWentBackwards, match="'order' up to 1, below 101"):
        await each.segments.allocate("other", 10)
    await tell_marks(each.segments)
    assert each.data.marks["node 1"]["tag", "order", -1] == 101


@pytest.mark.parametrize("asked", ["tags", "windows"])
@pytest.mark.parametrize(("number", "fence"), [(60, 7), (5000, 0)])
async def test_r6_a_repair_that_did_not_know_the_marks_of_a_node_that_owes_a_halt_is_followed_by_another(
    asked: str, number: int, fence: int
) -> None:
    """What the node asks for is not what the store is behind of: all its marks are compared."""
    owing = await Owing.made()
    each = owing.each
    await owing.repair({"order": number}, fence)
    for _ in range(2):  # who is told of the repair drops what it holds; the next to ask compares
        for ask in (
            lambda: each.segments.allocate("other", 10),
            lambda: each.windows.claim(each.a_claim(worker=1, now=5000)),
        )[:: 1 if asked == "tags" else -1]:
            with contextlib.suppress(StoreWentBackwards):
                await ask()
    assert "below" in each.data.halt
    told = each.data.marks["node 1"]
    assert (told["tag", "order", -1], told["worker", "default", 0]) == (101, 1)


async def test_r6_nothing_is_owed_to_a_store_that_was_halted_when_the_loss_was_found() -> None:
    """As marks are compared at a start: what comes next is a repair, whose end would be another halt."""
    each = await watched()
    await each.segments.allocate("order", 10)
    each.marks.rise(STORE, tag_mark("order", 5000))
    await each.store.halt("another node noticed")
    each.store.halt_error = AWAY
    await open_halted(each.segments)
    await tell_marks(each.segments)
    assert each.data.marks == {"node 1": {("tag", "order", -1): 5000}}
    await each.store.raise_tags({"order": 9000})
    await each.store.lift_halt()
    assert (await each.segments.allocate("order", 10)).start == 9000


async def test_r6_a_repair_that_may_be_older_than_what_was_found_settles_nothing() -> None:
    """A node that could not read where repairs stand when it found a loss can't tell one before it from one after."""
    each = await watched()
    await each.segments.read_tags(["order"])
    await each.store.halt("long before")
    await each.store.lift_halt()
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.data.restore(backup)

    async def away() -> int:
        raise AWAY

    check, each.store.check_halt = each.store.check_halt, away  # type: ignore[method-assign]
    with pytest.raises(StoreWentBackwards, match="the halt could not be written"):
        await each.segments.allocate("order", 10)
    each.store.check_halt = check  # type: ignore[method-assign]
    each.data.leaf["order"].max_id = each.data.tags["order"].mark = 900  # others went on, past the mark
    with pytest.raises(StoreWentBackwards, match="lies below 101"):
        await each.segments.allocate("other", 10)
    assert "lies below 101" in each.data.halt


async def test_r6_a_store_that_was_set_back_once_more_is_not_taken_for_a_repaired_one() -> None:
    each = await watched()
    oldest = each.data.snapshot()
    await each.store.lift_halt()
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.data.restore(backup)
    each.store.halt_error = AWAY
    with pytest.raises(StoreWentBackwards):
        await each.segments.allocate("order", 10)
    each.store.halt_error = None
    each.data.restore(oldest)
    each.data.leaf["order"].max_id = each.data.tags["order"].mark = 900
    with pytest.raises(StoreWentBackwards):
        await each.segments.allocate("order", 10)
    assert "lies below 101" in each.data.halt


async def test_r6_a_node_that_slept_through_a_repair_compares_all_its_marks_and_not_only_those_it_uses() -> None:
    each = await watched()
    await each.segments.read_tags(["order"])
    each.marks.rise(STORE, tag_mark("used long ago", 500))
    await each.store.create_tag(NewTag("used long ago"))
    await each.store.halt("another node noticed")
    await each.store.lift_halt()
    with pytest.raises(StoreWentBackwards, match="what it holds is dropped"):
        await each.segments.read_tags(["order"])
    with pytest.raises(StoreWentBackwards, match="'used long ago' up to 1, below 500"):
        await each.segments.allocate("order", 10)
    await tell_marks(each.segments)
    assert each.data.marks["node 1"]["tag", "used long ago", -1] == 500


async def test_r6_a_window_that_a_repair_ended_which_its_owner_slept_through_is_dropped_and_not_used_to_its_end() -> (
    None
):
    """Where windows have a store of their own, nobody reads tags; and a repair may know of shorter windows only."""
    each = await watched()
    window = await each.claimed()
    await each.store.halt("another node noticed")
    await each.store.end_windows("default")
    await each.store.lift_halt()
    with pytest.raises(StoreWentBackwards, match="what it holds is dropped") as caught:
        await each.windows.extend(window, window.end + 10)
    assert caught.value.whole_store
    window = await each.claimed(now=5000)
    # One that a skip of failovers ended is as good as before: what it leaves out lies behind it.
    await each.store.end_windows("default")
    with pytest.raises(WindowLost):
        await each.windows.extend(window, window.end + 10)


async def test_r6_a_repair_is_noticed_by_a_node_that_read_nothing_since_it_met_the_one_before() -> None:
    each = await watched()
    for _ in range(2):
        await each.store.halt("another node noticed")
        with pytest.raises(StoreWentBackwards):
            await each.segments.allocate("order", 10)
        await each.store.lift_halt()
        await each.segments.allocate("order", 10)
        window = await each.claimed(now=5000 + each.nonces * 1000)
        await each.store.halt("another node noticed")
        await each.store.end_windows("default")
        await each.store.lift_halt()
        with pytest.raises(StoreWentBackwards, match="what it holds is dropped"):
            await (each.segments.read_tags(["order"]) if each.nonces == 1 else each.windows.extend(window, window.end))


async def test_r6_the_second_of_two_repairs_of_one_backup_is_noticed_by_a_node_that_slept_through_it() -> None:
    each = await watched()
    backup = each.data.snapshot()
    for _ in range(2):
        each.data.restore(backup)
        await each.store.halt("another node noticed")
        await each.store.lift_halt()
        with pytest.raises(StoreWentBackwards, match="what it holds is dropped"):
            await each.segments.read_tags(["order"])
        assert await each.segments.read_tags(["order"])


# --- the state directory ---


@pytest.fixture
def opened() -> Iterator[list[Marks]]:
    """Collects marks that the test opened, and closes them."""
    marks: list[Marks] = []
    yield marks
    for each in marks:
        each.close()


def open_marks(opened: list[Marks], directory: Path) -> Marks:
    marks = Marks()
    opened.append(marks)
    marks.open(directory)
    return marks


def test_r5_marks_survive_a_restart_in_the_state_directory(tmp_path: Path, opened: list[Marks]) -> None:
    first = open_marks(opened, tmp_path / "deep" / "node-0")
    first.rise(STORE, tag_mark("order", 10))
    first.rise(STORE, tag_mark("订单 \u2028", 5))
    first.rise(STORE, Mark("worker", "default", 7, 3))
    first.rise("another store", tag_mark("order", 99))
    first.close()
    second = open_marks(opened, tmp_path / "deep" / "node-0")
    assert second.tag(STORE, "order") == 10
    assert second.tag(STORE, "订单 \u2028") == 5
    assert second.fences(STORE, "default") == {3: 7}
    assert second.tag("another store", "order") == 99
    assert len(second.all(STORE)) == 3


def test_r5_marks_are_on_the_disk_as_soon_as_they_rise_for_a_node_that_is_killed(
    tmp_path: Path, opened: list[Marks]
) -> None:
    marks = open_marks(opened, tmp_path)
    marks.rise(STORE, tag_mark("order", 10))
    assert (tmp_path / "marks").read_text().splitlines()[-1] == '["a store", "tag", "order", 10, -1]'


def test_r5_a_mark_only_rises(tmp_path: Path, opened: list[Marks]) -> None:
    marks = open_marks(opened, tmp_path)
    for value in (10, 5, 10):
        marks.rise(STORE, tag_mark("order", value))
        marks.rise(STORE, Mark("worker", "default", value, 0))
    assert marks.tag(STORE, "order") == 10
    assert marks.fences(STORE, "default") == {0: 10}
    assert len((tmp_path / "marks").read_text().splitlines()) == 3


def test_r5_the_fences_that_are_given_out_are_a_copy() -> None:
    marks = Marks()
    marks.rise(STORE, Mark("worker", "default", 1, 0))
    marks.fences(STORE, "default")[0] = 99
    assert marks.fences(STORE, "default") == {0: 1}


def test_r5_a_state_directory_belongs_to_one_node_at_a_time(tmp_path: Path, opened: list[Marks]) -> None:
    first = open_marks(opened, tmp_path)
    with pytest.raises(ConfigError, match="belongs to a node that is running; stop it, or give this one another"):
        open_marks(opened, tmp_path)
    first.close()
    open_marks(opened, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [b'["a store", "tag", "or', b"\x00\x00\x00", b"\xff\xfe\n", b"[]\n", b"5\n", b'["a store", "tag", "x", "y", -1]\n'],
)
def test_r5_a_damaged_line_is_left_out_and_said_and_the_others_hold(
    tmp_path: Path, opened: list[Marks], damage: bytes, said: Callable[[], str]
) -> None:
    marks = open_marks(opened, tmp_path)
    marks.rise(STORE, tag_mark("order", 10))
    marks.close()
    with (tmp_path / "marks").open("ab") as file:
        file.write(damage)
    again = open_marks(opened, tmp_path)
    assert again.tag(STORE, "order") == 10
    assert "lines of the marks can't be read" in said()
    again.rise(STORE, tag_mark("order", 11))
    again.close()
    assert open_marks(opened, tmp_path).tag(STORE, "order") == 11


def test_r5_marks_of_a_later_version_are_refused_and_left_alone(tmp_path: Path, opened: list[Marks]) -> None:
    (tmp_path / "marks").write_text("goloves marks 2\nsomething new\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"another version of Goloves \('goloves marks 2'\); use that version"):
            open_marks(opened, tmp_path)
    assert (tmp_path / "marks").read_text() == "goloves marks 2\nsomething new\n"


def test_r5_marks_that_exist_and_cannot_be_read_are_not_passed_over(tmp_path: Path, opened: list[Marks]) -> None:
    (tmp_path / "marks").mkdir()
    with pytest.raises(ConfigError, match=r"can't be read .* mend that"):
        open_marks(opened, tmp_path)


def test_r5_a_directory_that_cannot_be_written_alarms_and_marks_stay_in_memory(
    tmp_path: Path, opened: list[Marks], said: Callable[[], str]
) -> None:
    (tmp_path / "file").write_text("")
    marks = open_marks(opened, tmp_path / "file" / "node-0")
    assert marks.write_failed
    assert "marks stay in memory only" in said()
    marks.rise(STORE, tag_mark("order", 10))
    assert marks.tag(STORE, "order") == 10


def test_r5_a_directory_in_which_no_file_can_be_made_alarms_and_marks_stay_in_memory(
    tmp_path: Path, opened: list[Marks]
) -> None:
    (tmp_path / "marks.new").mkdir()
    marks = open_marks(opened, tmp_path)
    assert marks.write_failed
    marks.rise(STORE, tag_mark("order", 10))
    assert marks.tag(STORE, "order") == 10


def test_r5_marks_that_a_full_disk_did_not_take_are_written_when_it_has_room_again(
    tmp_path: Path, opened: list[Marks], said: Callable[[], str]
) -> None:
    marks = open_marks(opened, tmp_path)
    good = marks._file
    marks._file = full = open("/dev/full", "a", buffering=1)  # noqa: PTH123, SIM115 - each write to it fails
    for number in range(3):
        marks.rise(STORE, tag_mark(f"tag {number}", 10))
    assert marks.write_failed
    assert said().count("marks stay in memory only") == 1
    marks._file = good
    marks.rise(STORE, tag_mark("last", 10))
    assert marks.write_failed is False
    marks.close()
    with contextlib.suppress(OSError):
        full.close()
    again = open_marks(opened, tmp_path)
    assert {mark.name for mark in again.all(STORE)} == {"tag 0", "tag 1", "tag 2", "last"}


def test_closing_on_a_full_disk_raises_nothing(tmp_path: Path, opened: list[Marks]) -> None:
    marks = open_marks(opened, tmp_path)
    assert marks._file is not None
    marks._file.close()
    marks._file = open("/dev/full", "a", buffering=1)  # noqa: PTH123, SIM115 - closed by the marks
    marks.rise(STORE, tag_mark("order", 10))
    marks.close()
    marks.close()


def test_the_file_is_written_anew_when_it_has_many_lines(
    tmp_path: Path, opened: list[Marks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goloves.stores.marks.COMPACT_AFTER", 50)
    marks = open_marks(opened, tmp_path)
    for value in range(200):
        marks.rise(STORE, tag_mark(f"tag {value % 3}", value))
        assert len((tmp_path / "marks").read_text().splitlines()) <= 51
    lines = (tmp_path / "marks").read_text().splitlines()
    assert lines[0] == HEADER
    marks.close()
    again = open_marks(opened, tmp_path)
    assert [again.tag(STORE, f"tag {number}") for number in range(3)] == [198, 199, 197]
    assert len((tmp_path / "marks").read_text().splitlines()) == 4


async def test_r5_a_restarted_node_refuses_a_store_that_was_set_back_meanwhile(
    tmp_path: Path, opened: list[Marks]
) -> None:
    each = Watched()
    opened.append(each.marks)
    each.marks.open(tmp_path)
    await each.open()
    backup = each.data.snapshot()
    await each.segments.allocate("order", 100)
    each.marks.close()
    each.data.restore(backup)
    marks = open_marks(opened, tmp_path)
    with pytest.raises(StoreWentBackwards):
        await SegmentGuard(each.store, marks, "node 1").allocate("order", 10)


async def test_r5_all_marks_are_compared_when_the_store_is_opened_whichever_tags_are_used_first() -> None:
    each = await watched()
    for number in range(1500):
        each.marks.rise(STORE, tag_mark(f"tag-{number}", 1))
        await each.store.create_tag(NewTag(f"tag-{number}", start=1))
    again = SegmentGuard(each.store, each.marks, "node 1")
    await again.open()
    assert not each.data.halt
    each.marks.rise(STORE, tag_mark("tag-1400", 2))
    await open_halted(again)
    assert "the tag 'tag-1400' up to 1, below 2" in each.data.halt
    with pytest.raises(StoreWentBackwards):
        await again.allocate("order", 1)


async def test_r5_a_deleted_tag_is_no_alarm_at_the_opening_and_one_that_the_store_never_knew_is() -> None:
    each = await watched()
    await each.segments.allocate("order", 10)
    await each.segments.delete_tag("order")
    await each.segments.open()
    assert not each.data.halt
    each.marks.rise(STORE, tag_mark("made later", 5))
    await open_halted(each.segments)
    assert "'made later' never, below 5" in each.data.halt


async def test_r5_a_store_that_is_found_set_back_at_the_opening_is_open_and_owes_a_halt_that_could_not_be_written() -> (
    None
):
    each = await watched()
    each.marks.rise(STORE, tag_mark("order", 5000))
    each.store.halt_error = StoreUnavailable("away")
    await open_halted(each.segments)
    each.store.halt_error = None
    with pytest.raises(StoreWentBackwards, match="below 5000"):
        await each.segments.allocate("order", 1)
    assert each.data.halt


async def test_r5_where_only_leaf_s_table_exists_the_tags_that_are_there_are_compared_at_the_opening() -> None:
    each = Watched(MemoryData(only_leaf=True))
    each.marks.rise("memory", tag_mark("gone", 5000))
    each.data.leaf["order"] = LeafRow(100, 10, "", THEN)
    await each.segments.open()
    assert await each.segments.allocate("order", 10)
    each.marks.rise("memory", tag_mark("order", 5000))
    await open_halted(each.segments)
    with pytest.raises(StoreWentBackwards, match="up to 110, below 5000"):
        await each.segments.allocate("order", 10)
    assert each.data.leaf["order"].max_id == 110


async def test_r5_where_only_leaf_s_table_exists_a_number_set_up_and_back_by_hand_is_forgotten_with_its_lines(
    tmp_path: Path, opened: list[Marks]
) -> None:
    """What the page on operations says; the other tags are remembered as ever."""
    each = Watched(MemoryData(uuid=STORE, only_leaf=True))
    for name in ("order", "message"):
        each.data.leaf[name] = LeafRow(1, 10, "", THEN)

    async def started() -> SegmentGuard:
        guard = SegmentGuard(each.store, open_marks(opened, tmp_path / "node-0"), "node 1")
        with contextlib.suppress(StoreWentBackwards):
            await guard.open()
        return guard

    guard = await started()
    await guard.allocate("order", 100)
    await guard.allocate("message", 100)
    each.data.leaf["order"].max_id = 10**12
    await guard.read_tags(["order"])
    each.data.leaf["order"].max_id = 101
    with pytest.raises(StoreWentBackwards, match="up to 101, below 1000000000000"):
        await guard.read_tags(["order"])
    opened[-1].close()
    with pytest.raises(StoreWentBackwards):
        await (await started()).allocate("order", 10)
    opened[-1].close()

    file = tmp_path / "node-0" / "marks"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if ', "tag", "order", ' not in line))
    guard = await started()
    assert await guard.allocate("order", 10) == Range("order", 101, 111)
    each.data.leaf["message"].max_id = 1
    with pytest.raises(StoreWentBackwards, match="'message' up to 1, below 101"):
        await guard.allocate("message", 10)


async def test_r5_marks_from_before_a_migration_are_compared_after_it_and_kept_under_the_store_s_identity(
    tmp_path: Path, opened: list[Marks]
) -> None:
    each = Watched(MemoryData(uuid=STORE, only_leaf=True))
    opened.append(each.marks)
    each.marks.open(tmp_path / "node-0")
    each.data.leaf["order"] = LeafRow(1, 10, "", THEN)
    await each.segments.open()
    await each.segments.allocate("order", 100)
    assert each.marks.tag("memory", "order") == 101
    each.marks.close()
    each.data.leaf["order"].max_id = 1
    each.data.only_leaf = False
    each.data.tags["order"] = TagRow(1)  # as `goloves migrate` makes it

    marks = open_marks(opened, tmp_path / "node-0")
    guard = SegmentGuard(each.store, marks, "node 1")
    await open_halted(guard)
    assert "up to 1, below 101" in each.data.halt
    await tell_marks(guard)
    assert each.data.marks["node 1"] == {("tag", "order", -1): 101}
    with pytest.raises(StoreWentBackwards):
        await guard.allocate("order", 10)
    marks.close()
    again = open_marks(opened, tmp_path / "node-0")
    assert (again.tag(STORE, "order"), again.tag("memory", "order")) == (101, -1)
    again.carry("memory", STORE)
    assert again.tag(STORE, "order") == 101


async def test_r5_a_node_that_was_at_work_through_a_migration_does_not_halt_the_store_when_it_comes_back(
    tmp_path: Path, opened: list[Marks]
) -> None:
    each = Watched(MemoryData(uuid=STORE, only_leaf=True))
    opened.append(each.marks)
    each.marks.open(tmp_path / "node-0")
    each.data.leaf["order"] = LeafRow(1, 10, "", THEN)
    await each.segments.open()
    await each.segments.allocate("order", 100)
    # `goloves migrate` takes the number over as the mark; the node goes on as before, and moves the number alone.
    await each.segments.allocate("order", 400)
    assert each.marks.tag("memory", "order") == 501
    each.marks.close()
    each.data.only_leaf = False
    each.data.tags["order"] = TagRow(101)

    guard = SegmentGuard(each.store, open_marks(opened, tmp_path / "node-0"), "node 1")
    await guard.open()
    await guard.read_tags(["order"])
    assert not each.data.halt
    assert (await guard.allocate("order", 10)).start == 501
    await guard.read_tags(["order"])

    each.data.leaf["order"].max_id = 1  # but a store that was set back is noticed as ever
    each.data.tags["order"].mark = 1
    with pytest.raises(StoreWentBackwards):
        await guard.read_tags(["order"])
    assert "up to 1, below 511" in each.data.halt


@pytest.mark.parametrize("asked", ["read", "allocate"])
async def test_r5_a_tag_in_use_that_the_store_lost_halts_it_when_it_is_read_or_asked_for(asked: str) -> None:
    each = await watched()
    assert list(await each.segments.read_tags(["order", "unknown"])) == ["order"]
    each.marks.rise(STORE, tag_mark("order", 50))
    del each.data.leaf["order"], each.data.tags["order"]
    with pytest.raises(StoreWentBackwards, match="'order' never, below 50"):
        await (each.segments.read_tags(["order"]) if asked == "read" else each.segments.allocate("order", 10))
    assert each.data.halt


async def test_r5_a_tag_that_was_deleted_is_unknown_and_no_alarm() -> None:
    each = await watched()
    await each.segments.allocate("order", 10)
    await each.store.delete_tag("order")
    assert await each.segments.read_tags(["order"]) == {}
    with pytest.raises(UnknownTag):
        await each.segments.allocate("order", 10)
    assert not each.data.halt


async def test_r5_a_tag_that_is_gone_is_not_said_to_be_unknown_while_nobody_can_tell_why() -> None:
    each = await watched()
    await each.segments.allocate("order", 10)
    del each.data.leaf["order"]

    async def away(names: object) -> dict[str, int]:
        raise StoreUnavailable("away")

    each.store.read_remembered = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await each.segments.allocate("order", 10)


async def test_r6_a_space_that_the_store_lost_halts_it_if_this_node_claimed_worker_ids_of_it() -> None:
    each = await watched()
    del each.data.spaces["default"]
    with pytest.raises(UnknownSpace):
        await each.claimed()
    assert not each.data.halt
    await each.windows.open_space(SPACE)
    await each.claimed()
    del each.data.spaces["default"]
    with pytest.raises(StoreWentBackwards, match="no longer knows the space 'default'"):
        await each.claimed(worker=1)
    assert "no longer knows the space" in each.data.halt
