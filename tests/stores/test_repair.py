"""What `goloves repair` finds and does on each store: set back, broken off, repeated, met by nodes that are late."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from goloves.core.grants import Window
from goloves.core.layout import Layout
from goloves.errors import InvalidCount, NoWorkerFree, StoreUnavailable, StoreWentBackwards, UnknownSpace
from goloves.repair import Findings, Plan, look, plan_repair, repair
from goloves.stores.base import Mark, NewTag, Place, Space, TagChange
from goloves.stores.guard import SegmentGuard, WorkerGuard
from goloves.stores.marks import Marks
from stores.backends import Backend, Memory, Node, Sqlite
from stores.contract import a_claim
from stores.halts import tell_marks
from stores.test_leaf_table import leaf

__all__ = ["leaf"]

SPACE = Space("default", Layout())

NOW_MS = 1_800_000_000_000


class OneNode:
    """A node as `goloves serve` puts it together: a store, watched, and marks."""

    def __init__(self, store: Node, name: str) -> None:
        self.name = name
        self.marks = Marks()
        self.segments = SegmentGuard(store, self.marks, name)
        self.windows = WorkerGuard(store, self.marks, name)

    async def claim(self, now: int) -> Window:
        return await self.windows.claim(replace(a_claim(SPACE, now), owner=f"{self.name} pid 7"))


async def nodes(backend: Backend, *names: str) -> list[OneNode]:
    made = [OneNode(await backend.node(), name) for name in names]
    for node in made:
        await node.windows.open_space(SPACE)
    return made


def plan(findings: Findings, **more: Any) -> Plan:
    wanted: dict[str, Any] = {
        "now_ms": NOW_MS,
        "windows": {},
        "longest_window": 600.0,
        "max_forward": 10.0,
        "margin": 10_000,
    } | more
    return plan_repair(findings, **wanted)


async def set_back(backend: Backend, store: Node) -> None:
    """Bring the store back to where it began, as a restored backup does; what was made since is gone."""
    if isinstance(backend, Memory):
        for name in list(backend.data.leaf):
            if name == "default":
                backend.data.leaf[name].max_id = backend.data.tags[name].mark = 1
            else:
                del backend.data.leaf[name], backend.data.tags[name]
        backend.data.workers.clear()
        return
    sql: Callable[[str], str] = backend.sql  # type: ignore[attr-defined]
    await asyncio.to_thread(sql, "DELETE FROM leaf_alloc WHERE biz_tag <> 'default'")
    await asyncio.to_thread(sql, "DELETE FROM goloves_tag WHERE name <> 'default'")
    await asyncio.to_thread(sql, "UPDATE leaf_alloc SET max_id = 1")
    await asyncio.to_thread(sql, "UPDATE goloves_tag SET mark = 1")
    await asyncio.to_thread(sql, "DELETE FROM goloves_worker")


async def worked(backend: Backend) -> tuple[list[OneNode], Node]:
    """Two nodes that were granted ranges of two tags and a window each, then a store that was set back."""
    both = await nodes(backend, "a", "b")
    store = await backend.node()
    await store.create_tag(NewTag("order"))
    for node in both:
        await node.segments.allocate("default", 500)
        await node.segments.allocate("order", 100)
        await node.claim(1000)
    await set_back(backend, store)
    return both, store


async def halted(both: list[OneNode]) -> None:
    """Each node notices; each writes its marks."""
    for node in both:
        with pytest.raises(StoreWentBackwards):
            await node.segments.allocate("default", 1)
        await tell_marks(node.segments)


async def test_r6_after_a_repair_all_goes_on_above_whatever_was_granted(backend: Backend) -> None:
    both, store = await worked(backend)
    await halted(both)
    findings = await look(store)
    assert "of the tag 'default' lies below 501" in findings.halt
    assert set(findings.marks) == {"a", "b"}
    assert findings.silent == []
    behind = {each.name: (each.stands, each.remembered) for each in findings.behind}
    assert behind == {"default": (2, 1001), "order": (None, 201)}
    assert len(findings.fences_behind) == 2
    todo = plan(findings)
    assert todo.numbers == {"default": 1001, "order": 201}
    assert todo.floors == {"default": NOW_MS + 610_000}
    await repair(store, findings, todo)

    assert (await look(store)).went_backwards is False
    assert plan(await look(store)).empty
    for node in both:
        assert (await node.segments.allocate("default", 10)).start >= 11_001
        with pytest.raises(NoWorkerFree, match="rests for"):
            await node.claim(2000)
        window = await node.claim(SPACE.layout.units(NOW_MS + 610_000))
        assert window.start == SPACE.layout.units(NOW_MS + 610_000)
        assert (await node.windows.extend(window, window.end + 5)).end == window.end + 5
    assert (await store.create_tag(NewTag("order"))).max_id == 10_201
    assert (await both[0].segments.allocate("order", 10)).start == 10_201


async def test_r6_a_repair_may_break_off_anywhere_and_be_repeated(backend: Backend) -> None:
    both, store = await worked(backend)
    await halted(both)
    for calls in range(100):
        findings = await look(store)
        if not findings.halt:
            break
        try:
            await repair(Breaking(store, calls), findings, plan(findings))
        except StoreUnavailable:
            assert await store.read_halt(), "the halt is lifted last"
    assert calls > 5
    for node in both:
        assert (await node.segments.allocate("default", 10)).start >= 11_001
        with pytest.raises(NoWorkerFree, match="rests for"):
            await node.claim(2000)
    assert (await store.create_tag(NewTag("order"))).max_id >= 10_201


class Breaking:
    """A store that is away after so many changes."""

    def __init__(self, store: Node, calls: int) -> None:
        self._store = store
        self._left = calls

    def __getattr__(self, name: str) -> Any:
        what = getattr(self._store, name)
        if name not in (
            *("raise_tags", "skip_tags", "raise_floor", "end_windows", "raise_fences", "forget_marks", "lift_halt"),
        ):
            return what

        async def counted(*given: Any) -> Any:
            if not self._left:
                raise StoreUnavailable("away")
            self._left -= 1
            return await what(*given)

        return counted


async def test_r6_marks_that_are_written_during_a_repair_count_too(backend: Backend) -> None:
    both, store = await worked(backend)
    await halted(both[:1])
    findings = await look(store)
    todo = plan(findings, margin=0)
    assert todo.numbers["default"] == 501
    await halted(both[1:])
    await repair(store, findings, todo)
    assert (await store.allocate("default", 1)).start == 1001
    assert await store.read_marks() == {}


async def test_r6_a_repair_ends_while_nodes_go_on_writing_what_it_knows(backend: Backend) -> None:
    """Nodes that are refused tell about once a minute; with many of them there is never a moment without marks."""
    both, store = await worked(backend)
    await halted(both)
    findings = await look(store)
    told = {node.name: node.marks.all(store.identity) for node in both}
    forget = store.forget_marks

    async def forget_and_hear_again(used: Any) -> None:
        await forget(used)
        for name, marks in told.items():
            await store.write_marks(name, marks)

    store.forget_marks = forget_and_hear_again  # type: ignore[method-assign]
    await repair(store, findings, plan(findings))
    assert (await both[0].segments.allocate("default", 1)).start >= 1001


async def test_r6_a_space_that_only_nodes_remember_has_to_be_configured_for_a_repair(backend: Backend) -> None:
    """Else its worker ids were raised, the halt was lifted, and the next start of such a node halted all again."""
    _, store = await worked(backend)
    findings = await look(store, {"c": [Mark("worker", "retired", 3, 5), Mark("tag", "default", 5000)]})
    with pytest.raises(UnknownSpace, match=r"put \[spaces\.retired\] into it"):
        plan(findings)


async def test_r6_nodes_that_told_nothing_are_named_once_each(backend: Backend) -> None:
    both = await nodes(backend, "a", "b", "c")
    for node in both:
        for _ in range(2):
            await node.claim(1000)
    store = await backend.node()
    await store.write_marks("a", [Mark("tag", "default", 1)])
    findings = await look(store, {"c": [Mark("tag", "default", 1)]})
    assert [owner.owner for owner in findings.silent] == ["b pid 7"]
    assert not findings.went_backwards


async def test_r4_a_tag_alone_is_repaired_and_the_others_stay(backend: Backend) -> None:
    store = await backend.node()
    await store.create_tag(NewTag("order", start=40))
    await store.allocate("default", 100)
    backend.set_number("default", 50)
    lowered = await look(store)
    assert [tag.name for tag in lowered.halted] == ["default"], "at its next grant it will halt"
    with pytest.raises(StoreWentBackwards):
        await store.allocate("default", 1)
    findings = await look(store)
    assert [tag.halted[:15] for tag in findings.halted] == ["its next number"]
    todo = plan(findings)
    assert (todo.numbers, todo.whole, todo.margin, todo.floors) == ({"default": 101}, False, 0, {})
    for _ in range(2):
        await repair(store, findings, todo)
    assert (await store.allocate("default", 1)).start == 101
    assert (await store.allocate("order", 1)).start == 40
    assert plan(await look(store)).empty


async def test_r6_marks_of_nodes_that_do_not_run_show_that_a_store_was_restored(backend: Backend) -> None:
    both, store = await worked(backend)
    remembered = {node.name: node.marks.all(store.identity) for node in both}
    findings = await look(store, remembered)
    assert not findings.halt
    assert plan(findings).whole
    await repair(store, findings, plan(findings))
    for node in both:
        assert (await node.segments.allocate("default", 10)).start >= 11_001


async def test_r6_a_deleted_tag_is_no_tag_that_was_lost(backend: Backend) -> None:
    [node] = await nodes(backend, "a")
    store = await backend.node()
    await store.create_tag(NewTag("gone"))
    await node.segments.allocate("gone", 70)
    await store.delete_tag("gone")
    findings = await look(store, {"a": node.marks.all(store.identity)})
    assert findings.behind == []
    assert plan(findings).empty


async def test_r6_a_limit_below_what_nodes_were_granted_is_named_before_anything_is_done(backend: Backend) -> None:
    store = await backend.node()
    await store.change_tag("default", TagChange(limit=1000))
    findings = await look(store, {"a": [Mark("tag", "default", 5000)]})
    with pytest.raises(InvalidCount, match=r"limits of 1 tags.*goloves tag set 'default' --limit 5000"):
        plan(findings)


async def test_r6_tags_that_a_margin_uses_up_are_named(backend: Backend) -> None:
    store = await backend.node()
    await store.change_tag("default", TagChange(limit=9000))
    findings = await look(store, {"a": [Mark("tag", "default", 500)]})
    assert plan(findings).used_up == ("default",)
    assert plan(findings, margin=100).used_up == ()


async def test_r8_a_store_that_was_moved_whole_is_only_bound_anew(tmp_path: Path) -> None:
    backend = await Sqlite(tmp_path).migrate()
    store = await backend.node()
    findings = await look(store)
    findings.place = Place(machine="new", known_machine="old")
    careful, whole = plan(findings), plan(findings, margin=0)
    assert (careful.whole, careful.margin, set(careful.floors)) == (True, 10_000, {"default"})
    assert (whole.whole, whole.margin, whole.floors) == (True, 0, {})
    findings.halt = "set back as well"
    assert set(plan(findings, margin=0).floors) == {"default"}
    await backend.close()


async def test_r4_where_only_leafs_table_exists_its_numbers_are_raised(leaf: Backend) -> None:
    store = await leaf.node()
    remembered = {"a": [Mark("tag", "order", 900), Mark("tag", "apple", 70), Mark("tag", "gone", 5)]}
    findings = await look(store, remembered)
    assert [(behind.name, behind.stands) for behind in findings.behind] == [("order", 1)]
    todo = plan(findings)
    assert (todo.whole, todo.floors) == (True, {})
    await repair(store, findings, todo)
    tags = {tag.name: tag.max_id for tag in await store.list_tags()}
    assert tags == {"order": 10_900, "apple": 10_070, "Zebra": 15_000}
    assert plan(await look(store, remembered)).empty
    await leaf.close()


async def test_w6_a_space_rests_for_the_longest_window_that_was_claimed_whatever_the_repair_is_configured_with() -> (
    None
):
    backend = Memory()
    store = await backend.node()
    await store.open_space(SPACE)
    await store.claim(a_claim(SPACE, 1000, 3_000_000))
    await store.halt("a mark lies above it")
    todo = plan(await look(store), windows={"default": 60.0})
    assert todo.floors == {"default": NOW_MS + 3_010_000}
    await backend.close()


async def test_r6_a_first_claim_that_a_skip_ended_is_no_reason_for_a_repair() -> None:
    backend = Memory()
    store = await backend.node()
    await store.open_space(SPACE)
    lost = await store.claim(a_claim(SPACE, 1000))
    backend.forget_worker("default", lost.worker)
    remembered = {"a": [Mark("worker", "default", lost.fence, lost.worker)]}
    assert (await look(store, remembered)).went_backwards
    await store.end_windows("default")
    assert not (await look(store, remembered)).went_backwards
    await backend.close()
