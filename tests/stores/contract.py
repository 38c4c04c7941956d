"""What every store promises (`goloves/stores/base.py`), as tests that run over each of them.

A module that holds stores to it imports these classes, gives them names that begin with `Test`, and has a fixture
`backend`.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from goloves.core.grants import MAX_NUMBER, Range, Window
from goloves.core.layout import Layout, preset
from goloves.errors import (
    InvalidCount,
    NoWindow,
    NoWorkerFree,
    StoreRefused,
    StoreUnavailable,
    StoreWentBackwards,
    TagExists,
    TagUsedUp,
    TimeUsedUp,
    UnknownSpace,
    UnknownTag,
    WindowLost,
)
from goloves.stores.base import FENCES_SKIPPED, Claim, Mark, NewTag, SegmentStore, Space, TagChange, WorkerStore
from stores.backends import Backend

LEAF = Space("default", Layout())
FOUR = Space("four", Layout(41, 2, 12))
TWO = Space("two", Layout(41, 1, 12))
HUGE = Space("huge", preset("uid", epoch_ms=1_700_000_000_000))


def a_claim(
    space: Space, now: int, length: int = 1000, *, workers: range | None = None, seed: int | None = None
) -> Claim:
    return Claim(space, now, length, secrets.token_hex(16), "a test", random.Random(seed), workers)


async def claimed(store: WorkerStore, space: Space, now: int, length: int = 1000) -> Window:
    return await store.claim(a_claim(space, now, length))


def assert_disjoint(ranges: list[Range]) -> None:
    ordered = sorted(ranges, key=lambda granted: granted.start)
    for before, after in pairwise(ordered):
        assert before.end <= after.start, f"{before} and {after} overlap"


class SegmentContract:
    """Ranges."""

    async def test_a_store_that_goloves_makes_has_a_tag_named_default_whose_first_id_is_1(
        self, backend: Backend
    ) -> None:
        store = await backend.node()
        assert await store.allocate("default", 10) == Range("default", 1, 11)

    async def test_ranges_of_a_tag_follow_one_another(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order", start=100))
        ranges = [await store.allocate("order", size) for size in (1, 7, 1000)]
        assert ranges == [Range("order", 100, 101), Range("order", 101, 108), Range("order", 108, 1108)]

    async def test_what_one_node_got_no_other_node_gets(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        assert [await first.allocate("default", 5), await second.allocate("default", 5)] == [
            Range("default", 1, 6),
            Range("default", 6, 11),
        ]

    async def test_r1_nodes_that_allocate_at_once_get_ranges_that_never_overlap(self, backend: Backend) -> None:
        stores = await backend.nodes(4)

        async def take(store: SegmentStore) -> list[Range]:
            return [await store.allocate("default", 3) for _ in range(25)]

        ranges = [granted for taken in await asyncio.gather(*map(take, stores)) for granted in taken]
        assert len(ranges) == 100
        assert_disjoint(ranges)
        assert max(granted.end for granted in ranges) == 301

    async def test_a_closed_store_grants_nothing_and_says_so(self, backend: Backend) -> None:
        store = await backend.node()
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailable, match=r"open|closed"):
            await store.allocate("default", 1)

    async def test_a_closed_store_can_be_opened_again(self, backend: Backend) -> None:
        store = await backend.node()
        await store.close()
        await store.open()
        await store.open()
        assert await store.allocate("default", 1)

    async def test_an_unknown_tag_is_named_with_the_way_to_make_it(self, backend: Backend) -> None:
        store = await backend.node()
        with pytest.raises(UnknownTag, match=r"'ordr'.*goloves tag create ordr"):
            await store.allocate("ordr", 10)

    @pytest.mark.parametrize("size", [0, -1, MAX_NUMBER + 1])
    async def test_a_size_that_is_none_is_refused(self, backend: Backend, size: int) -> None:
        store = await backend.node()
        with pytest.raises(InvalidCount):
            await store.allocate("default", size)

    async def test_r1_names_are_compared_byte_for_byte(self, backend: Backend) -> None:
        store = await backend.node()
        names = [
            "order",
            "ORDER",
            "Order",
            "ordér",
            "orde\u0301r",
            "订单",
            "o_der",
            "o%der",
            "o'der",
            'o"der',
            "o\\der",
        ]
        for number, name in enumerate(names):
            await store.create_tag(NewTag(name, start=1000 * number))
        for number, name in enumerate(names):
            assert (await store.allocate(name, 5)).start == 1000 * number
        for name in ("oRDer", "order ", " order", "order\u00a0", "0rder"):
            with pytest.raises(UnknownTag):
                await store.allocate(name, 5)
        assert set(await store.read_tags([*names, "oRDer", "order "])) == set(names)

    async def test_r2_the_last_number_below_the_limit_is_given_and_no_more(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("ticket", limit=11))
        assert await store.allocate("ticket", 8, exact=True) == Range("ticket", 1, 9)
        with pytest.raises(TagUsedUp, match="2 numbers left"):
            await store.allocate("ticket", 3, exact=True)
        assert await store.allocate("ticket", 2, exact=True) == Range("ticket", 9, 11)
        with pytest.raises(TagUsedUp, match="reached its limit 11"):
            await store.allocate("ticket", 1)

    async def test_r2_numbers_end_at_two_to_the_63_without_rounding_or_wrapping(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("high", start=MAX_NUMBER - 5))
        assert await store.allocate("high", 3, exact=True) == Range("high", MAX_NUMBER - 5, MAX_NUMBER - 2)
        with pytest.raises(TagUsedUp):
            await store.allocate("high", 3, exact=True)
        assert await store.allocate("high", 2, exact=True) == Range("high", MAX_NUMBER - 2, MAX_NUMBER)
        with pytest.raises(TagUsedUp):
            await store.allocate("high", 1)

    async def test_r12_near_its_limit_a_tag_gives_a_thousandth_of_what_remains(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("ticket", limit=10_001))
        assert len(await store.allocate("ticket", 1000)) == 10
        assert len(await store.allocate("ticket", 3)) == 3
        assert len(await store.allocate("ticket", 9000, exact=True)) == 9000
        assert len(await store.allocate("ticket", 1000)) == 1

    async def test_a_tag_that_exists_is_not_created_again(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order", step=7, description="orders"))
        with pytest.raises(TagExists, match="goloves tag set order"):
            await store.create_tag(NewTag("order"))
        tag = (await store.read_tags(["order"]))["order"]
        assert (tag.max_id, tag.step, tag.description, tag.mark, tag.halted) == (1, 7, "orders", 1, "")

    @pytest.mark.parametrize(
        "new",
        [
            NewTag("x", step=0),
            NewTag("x", step=2**31),
            NewTag("x", start=-1),
            NewTag("x", start=11, limit=10),
            NewTag("x", limit=0),
            NewTag("x", limit=2**63),
            NewTag("x", description="d" * 257),
        ],
    )
    async def test_a_tag_that_can_not_be_is_refused(self, backend: Backend, new: NewTag) -> None:
        store = await backend.node()
        with pytest.raises(InvalidCount):
            await store.create_tag(new)
        assert await store.read_tags(["x"]) == {}

    async def test_of_nodes_that_create_a_tag_at_once_one_does(self, backend: Backend) -> None:
        stores = await backend.nodes(6)
        outcomes = await asyncio.gather(
            *(store.create_tag(NewTag("order")) for store in stores), return_exceptions=True
        )
        made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(made) == 1
        assert all(isinstance(outcome, TagExists) for outcome in outcomes if outcome not in made)

    async def test_nodes_that_ensure_a_tag_at_once_share_one(self, backend: Backend) -> None:
        stores = await backend.nodes(6)

        async def use(store: SegmentStore) -> Range:
            assert (await store.ensure_tag(NewTag("order", step=50))).step == 50
            return await store.allocate("order", 10)

        ranges = await asyncio.gather(*map(use, stores))
        assert_disjoint(ranges)
        assert max(granted.end for granted in ranges) == 61

    async def test_r4_a_deleted_tag_goes_on_above_its_numbers_when_it_is_created_again(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order"))
        await store.allocate("order", 100)
        await store.delete_tag("order")
        with pytest.raises(UnknownTag):
            await store.allocate("order", 1)
        with pytest.raises(UnknownTag):
            await store.delete_tag("order")
        assert (await store.create_tag(NewTag("order", start=5))).max_id == 101
        assert (await store.allocate("order", 1)).start == 101

    async def test_r4_auto_create_leaves_a_tombstone_alone(self, backend: Backend) -> None:
        store = await backend.node()
        await store.ensure_tag(NewTag("order"))
        await store.delete_tag("order")
        with pytest.raises(UnknownTag):
            await store.ensure_tag(NewTag("order"))
        assert await store.read_tags(["order"]) == {}

    async def test_r4_auto_create_leaves_the_tombstone_of_a_tag_alone_that_never_gave_a_number(
        self, backend: Backend
    ) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order", start=0))
        await store.delete_tag("order")
        with pytest.raises(UnknownTag):
            await store.ensure_tag(NewTag("order"))
        assert (await store.create_tag(NewTag("order", start=0))).max_id == 0

    async def test_r4_of_nodes_that_create_a_deleted_tag_at_once_one_does(self, backend: Backend) -> None:
        stores = await backend.nodes(6)
        await stores[0].create_tag(NewTag("order"))
        await stores[0].allocate("order", 10)
        await stores[0].delete_tag("order")
        outcomes = await asyncio.gather(
            *(store.create_tag(NewTag("order")) for store in stores), return_exceptions=True
        )
        made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert [tag.max_id for tag in made] == [11]
        assert all(isinstance(outcome, TagExists) for outcome in outcomes if outcome not in made)

    async def test_r4_a_new_tag_whose_limit_lies_below_the_tombstone_is_refused(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order", start=500))
        await store.delete_tag("order")
        with pytest.raises(InvalidCount, match="500"):
            await store.create_tag(NewTag("order", limit=400))

    async def test_r4_numbers_that_only_leaf_handed_out_are_in_the_tombstone(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order"))
        backend.set_number("order", 7000)
        await store.delete_tag("order")
        assert (await store.create_tag(NewTag("order"))).max_id == 7000

    async def test_r4_a_number_set_back_halts_the_tag_for_every_node(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        await first.allocate("default", 100)
        backend.set_number("default", 50)
        with pytest.raises(StoreWentBackwards, match=r"'default' is halted.*50, below 101.*goloves repair") as caught:
            await first.allocate("default", 10)
        assert not caught.value.whole_store
        backend.set_number("default", 100_000)
        with pytest.raises(StoreWentBackwards, match="halted"):
            await second.allocate("default", 10)
        assert "below 101" in (await second.read_tags(["default"]))["default"].halted

    async def test_r4_a_tag_deleted_by_sql_and_inserted_again_at_1_is_halted(self, backend: Backend) -> None:
        store = await backend.node()
        await store.allocate("default", 100)
        backend.remove("default")
        with pytest.raises(UnknownTag):
            await store.allocate("default", 1)
        backend.insert("default", 1)
        with pytest.raises(StoreWentBackwards):
            await store.allocate("default", 1)

    async def test_r4_a_negative_number_halts_the_tag(self, backend: Backend) -> None:
        store = await backend.node()
        backend.set_number("default", -5)
        with pytest.raises(StoreWentBackwards, match="-5"):
            await store.allocate("default", 10)

    async def test_r4_numbers_that_leaf_hands_out_raise_the_mark(self, backend: Backend) -> None:
        store = await backend.node()
        backend.set_number("default", 5000)
        assert (await store.allocate("default", 10)).start == 5000
        backend.set_number("default", 5005)
        with pytest.raises(StoreWentBackwards):
            await store.allocate("default", 10)

    async def test_r4_a_tag_inserted_by_sql_gets_its_mark_at_first_use(self, backend: Backend) -> None:
        store = await backend.node()
        backend.insert("by-hand", 42, 10)
        assert (await store.read_tags(["by-hand"]))["by-hand"].mark == 42
        assert await store.allocate("by-hand", 8) == Range("by-hand", 42, 50)
        backend.set_number("by-hand", 42)
        with pytest.raises(StoreWentBackwards):
            await store.allocate("by-hand", 8)

    async def test_a_tag_is_changed_in_what_is_named_and_in_nothing_else(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order", step=5, description="a"))
        assert (await store.change_tag("order", TagChange(step=9))).step == 9
        assert (await store.change_tag("order", TagChange(step=9))).description == "a"
        changed = await store.change_tag("order", TagChange(description="", limit=500))
        assert (changed.step, changed.description, changed.limit, changed.max_id) == (9, "", 500, 1)

    async def test_a_change_that_can_not_be_is_refused(self, backend: Backend) -> None:
        store = await backend.node()
        await store.allocate("default", 100)
        with pytest.raises(InvalidCount, match="101"):
            await store.change_tag("default", TagChange(limit=100))
        with pytest.raises(InvalidCount):
            await store.change_tag("default", TagChange(step=0))
        with pytest.raises(UnknownTag):
            await store.change_tag("nobody", TagChange(step=1))
        with pytest.raises(UnknownTag):
            await store.change_tag("nobody", TagChange(limit=10))
        assert (await store.change_tag("default", TagChange(limit=101))).limit == 101

    async def test_tags_are_listed_in_the_order_of_their_bytes_page_by_page(self, backend: Backend) -> None:
        store = await backend.node()
        names = ["B", "a", "a b", "a%", "a_", "ab", "b", "ä", "订单", "\U0001f600", "\uffe6"]
        for name in names:
            await store.create_tag(NewTag(name))
        expected = sorted([*names, "default"], key=str.encode)
        listed, after = [], ""
        while page := await store.list_tags(after=after, most=4):
            listed += [tag.name for tag in page]
            after = listed[-1]
        assert listed == expected

    @pytest.mark.parametrize(
        ("prefix", "found"),
        [("a", ["a", "a%", "a_b", "ab"]), ("a%", ["a%"]), ("a_", ["a_b"]), ("A", []), ("\U0010ffff", ["\U0010ffffz"])],
    )
    async def test_tags_are_listed_by_prefix_and_a_prefix_is_no_pattern(
        self, backend: Backend, prefix: str, found: list[str]
    ) -> None:
        store = await backend.node()
        for name in ("a", "ab", "a%", "a_b", "b", "\U0010ffffz"):
            await store.create_tag(NewTag(name))
        assert [tag.name for tag in await store.list_tags(prefix=prefix)] == found
        assert [tag.name for tag in await store.list_tags(prefix="a", after="a%", most=1)] == ["a_b"]

    async def test_up_to_a_thousand_tags_are_read_at_once(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order"))
        assert await store.read_tags([]) == {}
        assert set(await store.read_tags([f"t{number}" for number in range(999)] + ["order"])) == {"order"}
        with pytest.raises(ValueError, match="1001 tags"):
            await store.read_tags([f"t{number}" for number in range(1001)])

    async def test_a_tag_says_when_it_was_last_used(self, backend: Backend) -> None:
        store = await backend.node()
        updated = (await store.create_tag(NewTag("order"))).updated
        assert updated is not None
        assert updated.tzinfo is not None


class HaltContract:
    """Halts, marks and repair."""

    async def test_r6_after_a_halt_no_node_gets_a_grant_until_it_is_lifted(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        await second.open_space(LEAF)
        window = await claimed(second, LEAF, 100)
        assert await second.read_halt() == ""
        await first.halt("a mark lies above the store's")
        await second.halt("another reason")
        assert await second.read_halt() == "a mark lies above the store's"
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: second.allocate("default", 1),
            lambda: claimed(second, LEAF, 100),
            lambda: second.extend(window, window.end + 10),
        ]
        for call in calls:
            with pytest.raises(StoreWentBackwards, match=r"a mark lies above.*goloves repair") as caught:
                await call()
            assert caught.value.whole_store
        await second.lift_halt()
        assert await first.allocate("default", 1)
        assert (await second.extend(window, window.end + 10)).end == window.end + 10

    async def test_r6_nodes_write_their_marks_and_none_is_lowered(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        await first.write_marks("a", [Mark("tag", "order", 50), Mark("worker", "default", 3, 7)])
        await first.write_marks("a", [Mark("tag", "order", 40), Mark("worker", "default", 4, 7)])
        await second.write_marks("b", [Mark("tag", "order", 60), Mark("tag", "default", 1)])
        marks = await second.read_marks()
        assert {node: set(some) for node, some in marks.items()} == {
            "a": {Mark("tag", "order", 50), Mark("worker", "default", 4, 7)},
            "b": {Mark("tag", "order", 60), Mark("tag", "default", 1)},
        }
        await second.write_marks("a", [Mark("tag", "order", 51)])
        await first.forget_marks(marks)
        assert await second.read_marks() == {"a": [Mark("tag", "order", 51)]}, "raised since it was read"
        await first.forget_marks(await first.read_marks())
        assert await second.read_marks() == {}

    async def test_r6_a_repair_raises_a_tag_above_a_number_and_lifts_its_halt(self, backend: Backend) -> None:
        store = await backend.node()
        await store.allocate("default", 100)
        await store.create_tag(NewTag("gone"))
        await store.delete_tag("gone")
        backend.set_number("default", 1)
        with pytest.raises(StoreWentBackwards):
            await store.allocate("default", 1)
        for _ in range(2):
            await store.raise_tags({"default": 5000, "gone": 300})
        assert (await store.allocate("default", 1)).start == 5000
        assert (await store.create_tag(NewTag("gone"))).max_id == 300

    async def test_r6_a_tag_that_only_nodes_remember_gets_a_tombstone(self, backend: Backend) -> None:
        store = await backend.node()
        for _ in range(2):
            await store.raise_tags({"newer": 700})
        with pytest.raises(UnknownTag):
            await store.allocate("newer", 1)
        with pytest.raises(UnknownTag):
            await store.ensure_tag(NewTag("newer"))
        assert (await store.create_tag(NewTag("newer"))).max_id == 700

    async def test_r6_the_store_tells_what_it_remembers_of_tags_deleted_ones_too(self, backend: Backend) -> None:
        store = await backend.node()
        await store.allocate("default", 100)
        await store.create_tag(NewTag("gone", start=50))
        await store.delete_tag("gone")
        backend.set_number("default", 7)
        assert await store.read_remembered(["default", "gone", "never"]) == {"default": 101, "gone": 50}
        backend.set_number("default", 900)
        assert await store.read_remembered(["default"]) == {"default": 900}
        assert await store.read_remembered([]) == {}
        await store.skip_tags(1000)
        assert await store.read_remembered(["default", "gone"]) == {"default": 1900, "gone": 1050}

    async def test_r6_a_repair_never_lowers_a_tag(self, backend: Backend) -> None:
        store = await backend.node()
        await store.allocate("default", 100)
        backend.set_number("default", 50)
        await store.raise_tags({"default": 70})
        assert (await store.allocate("default", 1)).start == 101

    async def test_r6_a_repair_past_a_limit_is_refused(self, backend: Backend) -> None:
        store = await backend.node()
        await store.change_tag("default", TagChange(limit=1000))
        with pytest.raises(InvalidCount, match="limit is 1000"):
            await store.raise_tags({"default": 1001})
        await store.delete_tag("default")
        await store.raise_tags({"default": 1001})
        assert (await store.create_tag(NewTag("default"))).max_id == 1001

    async def test_r6_what_is_left_out_counts_as_granted_at_once(self, backend: Backend) -> None:
        store = await backend.node()
        await store.change_tag("default", TagChange(limit=900))
        await store.create_tag(NewTag("order", start=5))
        await store.skip_tags(1000)
        tags = await store.read_tags(["default", "order"])
        assert (tags["order"].max_id, tags["order"].mark) == (1005, 1005)
        assert (tags["default"].max_id, tags["default"].mark) == (900, 900)
        assert (await store.allocate("order", 1)).start == 1005
        assert (await store.read_tags(["order"]))["order"].max_id == 1006

    async def test_r7_a_skip_leaves_numbers_out_of_every_tag_once(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order", start=10))
        await store.create_tag(NewTag("gone", start=20))
        await store.delete_tag("gone")
        await store.skip_tags(1000)
        await store.skip_tags(500)
        assert [(await store.allocate("order", 5)).start for _ in range(2)] == [1510, 1515]
        assert (await store.create_tag(NewTag("gone"))).max_id == 1520
        assert (await store.allocate("gone", 1)).start == 1520
        # A name that was never seen may be one that the store forgot.
        assert (await store.create_tag(NewTag("new"))).max_id == 1501
        assert (await store.allocate("new", 1)).start == 1501
        assert (await store.ensure_tag(NewTag("made at first use"))).max_id == 1501
        assert (await store.create_tag(NewTag("certainly new", start=7))).max_id == 7
        with pytest.raises(InvalidCount, match=r"begins at 1501.*its limit is 900.*--start 1"):
            await store.create_tag(NewTag("short", limit=900))
        assert (await store.create_tag(NewTag("short", limit=900, start=1))).max_id == 1
        assert (await store.allocate("default", 1)).start == 1501

    async def test_r7_a_skip_shows_in_what_is_read_of_a_tag_that_was_inserted_and_never_used(
        self, backend: Backend
    ) -> None:
        store = await backend.node()
        backend.insert("order", 10)
        await store.skip_tags(1000)
        tag = (await store.read_tags(["order"]))["order"]
        assert (tag.max_id, tag.mark) == (1010, 1010)
        assert (await store.read_remembered(["order"])) == {"order": 1010}
        assert (await store.allocate("order", 5)).start == 1010

    async def test_r7_what_a_skip_leaves_of_a_limit_is_given(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order", limit=100_000))
        await store.skip_tags(99_990)
        assert await store.allocate("order", 5000) == Range("order", 99_991, 99_992)

    async def test_r7_a_limit_is_not_lowered_below_what_is_due_to_be_left_out(self, backend: Backend) -> None:
        store = await backend.node()
        await store.create_tag(NewTag("order", limit=10_000))
        await store.skip_tags(1000)
        with pytest.raises(InvalidCount, match="1001"):
            await store.change_tag("order", TagChange(limit=500))
        assert (await store.change_tag("order", TagChange(limit=2000))).mark == 1001
        assert (await store.allocate("order", 1)).start == 1001
        await store.skip_tags(5000)
        assert (await store.change_tag("order", TagChange(limit=2000))).mark == 2000
        assert (await store.change_tag("order", TagChange(limit=9000))).limit == 9000

    async def test_r7_a_skip_ends_at_the_limit(self, backend: Backend) -> None:
        store = await backend.node()
        await store.change_tag("default", TagChange(limit=100))
        await store.skip_tags(1000)
        with pytest.raises(TagUsedUp):
            await store.allocate("default", 1)

    async def test_r7_what_a_limit_cut_off_a_skip_is_left_out_once_it_is_raised(self, backend: Backend) -> None:
        """In the time that was lost, the limit may have been that high already, and numbers granted below it."""
        store = await backend.node()
        await store.change_tag("default", TagChange(limit=100))
        await store.skip_tags(1000)
        for _ in range(2):
            with pytest.raises(TagUsedUp, match="left out all numbers up to 1001; raise the limit above that"):
                await store.allocate("default", 1)
        tag = await store.change_tag("default", TagChange(limit=600))
        assert (tag.max_id, tag.mark) == (600, 600)
        for _ in range(2):
            with pytest.raises(TagUsedUp, match="up to 1001"):
                await store.allocate("default", 1)
        await store.change_tag("default", TagChange(limit=2000))
        assert [(await store.allocate("default", 1)).start for _ in range(2)] == [1001, 1002]
        await store.change_tag("default", TagChange(limit=9000))
        assert (await store.allocate("default", 1)).start == 1003

    async def test_r7_of_a_deleted_tag_what_its_limit_cut_off_is_left_out_when_it_is_made_again(
        self, backend: Backend
    ) -> None:
        store = await backend.node()
        await store.change_tag("default", TagChange(limit=100))
        await store.skip_tags(1000)
        with pytest.raises(TagUsedUp):
            await store.allocate("default", 1)
        await store.delete_tag("default")
        assert await store.read_remembered(["default"]) == {"default": 1001}
        assert (await store.create_tag(NewTag("default"))).max_id == 1001

    async def test_r6_a_space_is_not_registered_while_the_store_is_halted_but_by_a_repair(
        self, backend: Backend
    ) -> None:
        """One that a node registers behind a repair's back would begin below the floor which that raises."""
        store = await backend.node()
        await store.halt("somebody noticed")
        for space in (TWO, LEAF):
            with pytest.raises(StoreWentBackwards, match="somebody noticed") as caught:
                await store.open_space(space)
            assert caught.value.whole_store
        assert [space.name for space in await store.read_spaces()] == ["default"]
        repairing = await backend.node(repairing=True)
        await repairing.open_space(TWO)
        assert len(await store.read_spaces()) == 2
        await repairing.lift_halt()
        await store.open_space(TWO)

    async def test_r6_a_space_raised_gives_no_window_below_its_floor(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(TWO)
        old = await claimed(store, TWO, 100)
        for _ in range(2):
            await store.raise_floor("two", 50_000)
            await store.raise_floor("two", 40_000)
        # A window that begins later than now would end later than the next repair counts on.
        with pytest.raises(NoWorkerFree, match="rests for") as caught:
            await claimed(store, TWO, old.end)
        assert caught.value.lowest_floor == 50_000
        fresh, again = await claimed(store, TWO, 50_000), await claimed(store, TWO, 50_000)
        assert {fresh.worker, again.worker} == {0, 1}
        assert fresh.start == again.start == 50_000
        with pytest.raises(UnknownSpace):
            await store.raise_floor("nobody", 1)

    async def test_r6_fences_raised_end_the_windows_below_them(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(TWO)
        old = await claimed(store, TWO, 100)
        other = 1 - old.worker
        for _ in range(2):
            await store.raise_fences([Mark("worker", "two", 9, old.worker), Mark("worker", "two", 5, other)])
        with pytest.raises(WindowLost):
            await store.extend(old, old.end + 1)
        fences = {(await claimed(store, TWO, old.end)).fence for _ in range(2)}
        assert fences == {10, 6}

    async def test_r6_a_repair_ends_every_window_of_a_space_by_fences_above_all_that_were_claimed(
        self, backend: Backend
    ) -> None:
        store = await backend.node()
        for space in (TWO, FOUR):
            await store.open_space(space)
        ended, other = await claimed(store, TWO, 100), await claimed(store, FOUR, 100)
        await store.end_windows("two")
        with pytest.raises(WindowLost, match="a repair"):
            await store.extend(ended, ended.end + 1)
        assert (await store.extend(other, other.end + 1)).fence == 1
        again = await store.claim(a_claim(TWO, ended.end, workers=range(ended.worker, ended.worker + 1)))
        assert again.fence == 1 + FENCES_SKIPPED + 1

    async def test_r6_a_first_claim_that_the_store_forgot_is_ended_too(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(TWO)
        lost = await claimed(store, TWO, 100)
        backend.forget_worker("two", lost.worker)
        assert await store.read_fences("two", [lost.worker]) == {lost.worker: 0}
        await store.end_windows("two")
        assert await store.read_fences("two", [lost.worker, 5]) == {lost.worker: FENCES_SKIPPED, 5: FENCES_SKIPPED}
        again = await store.claim(a_claim(TWO, 100, workers=range(lost.worker, lost.worker + 1)))
        assert again.fence == FENCES_SKIPPED + 1
        await store.raise_fences([Mark("worker", "two", 3, 1 - lost.worker)])
        assert await store.read_fences("two", [0, 1]) == {
            lost.worker: FENCES_SKIPPED + 1,
            1 - lost.worker: FENCES_SKIPPED,
        }
        assert await store.read_fences("nobody", [0]) is None
        assert [space.fence for space in await store.read_spaces()] == [0, FENCES_SKIPPED]

    async def test_w6_the_longest_window_of_a_space_is_remembered(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(FOUR)
        for length in (100, 700, 50):
            await store.claim(a_claim(FOUR, 1000, length))
        assert [space.longest for space in await store.read_spaces()] == [0, 700]

    async def test_r6_a_halt_is_told_and_repairs_raise_a_number_each_by_another_amount(self, backend: Backend) -> None:
        """Or two repairs of one backup that was restored twice could not be told apart."""
        store = await backend.node()
        numbers = [await store.check_halt()]
        assert numbers == [0]
        for _ in range(3):
            await store.halt("a mark lies above it")
            with pytest.raises(StoreWentBackwards, match="a mark lies above it") as caught:
                await store.check_halt()
            assert caught.value.whole_store
            await store.lift_halt()
            numbers.append(await store.check_halt())
        steps = [after - before for before, after in pairwise(numbers)]
        assert all(step > 0 for step in steps)
        assert len(set(steps)) == 3

    async def test_the_spaces_are_told_with_their_layouts(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(HUGE)
        await store.raise_floor("huge", 7)
        default, huge = await store.read_spaces()
        assert (default.name, default.layout, default.floor) == ("default", Layout().describe(), 0)
        assert (huge.fingerprint, huge.floor) == (HUGE.layout.fingerprint, 7)
        assert huge.units(HUGE.layout.epoch_ms + 5001) == 6
        assert huge.units(HUGE.layout.epoch_ms + 5000) == HUGE.layout.units(HUGE.layout.epoch_ms + 5000) == 5
        assert huge.units(0) == 0

    async def test_those_who_held_worker_ids_are_told_the_latest_first(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(TWO)
        window = await store.claim(Claim(TWO, 5, 10, "a" * 32, "h" * 300, random.Random(1)))
        owners = await store.recent_owners()
        assert [(owner.space, owner.worker, owner.fence, owner.floor) for owner in owners] == [
            ("two", window.worker, 1, 15)
        ]
        assert owners[0].owner.startswith("h" * 255)
        assert owners[0].seen.tzinfo is not None


class WorkerContract:
    """Windows."""

    async def test_w1_a_window_starts_at_the_present_and_ends_after_its_length(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        claim = a_claim(LEAF, 5000, 600)
        window = await store.claim(claim)
        assert (window.space, window.fence, window.nonce, window.start, window.end) == (
            "default",
            1,
            claim.nonce,
            5000,
            5600,
        )
        assert 0 <= window.worker < 1024

    async def test_w1_a_window_never_starts_below_the_floor_whatever_the_clock_says(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(TWO)
        windows = [await claimed(store, TWO, 1000) for _ in range(2)]
        assert {window.worker for window in windows} == {0, 1}
        again = await claimed(store, TWO, 2000, 50)
        before = next(window for window in windows if window.worker == again.worker)
        assert (again.fence, again.start, again.end) == (2, before.end, before.end + 50)

    async def test_w1_nodes_that_claim_at_once_get_different_worker_ids(self, backend: Backend) -> None:
        space = Space("sixteen", Layout(41, 4, 12))
        stores = await backend.nodes(4)
        for store in stores:
            await store.open_space(space)
        claims = [claimed(store, space, 100) for store in stores for _ in range(4)]
        windows = await asyncio.gather(*claims)
        assert {window.worker for window in windows} == set(range(16))
        assert {window.fence for window in windows} == {1}

    async def test_w1_nodes_that_fight_for_ids_never_hold_overlapping_windows(self, backend: Backend) -> None:
        stores = await backend.nodes(4)
        for store in stores:
            await store.open_space(TWO)

        async def fight(store: WorkerStore, seed: int) -> list[Window]:
            rng, now, won = random.Random(seed), 0, []
            for _ in range(15):
                try:
                    won.append(await store.claim(a_claim(TWO, now, rng.randrange(1, 50))))
                except NoWorkerFree as busy:
                    now = busy.lowest_floor
                    continue
                now += rng.randrange(30)
            return won

        windows = [window for won in await asyncio.gather(*map(fight, stores, range(4))) for window in won]
        assert len(windows) >= 8
        for worker in (0, 1):
            held = sorted((window for window in windows if window.worker == worker), key=lambda window: window.fence)
            assert [window.fence for window in held] == list(range(1, len(held) + 1))
            for before, after in pairwise(held):
                assert before.end <= after.start

    @pytest.mark.parametrize("now", [-1, 1 << 41, (1 << 41) + 5])
    async def test_w2_a_time_outside_the_layout_is_refused(self, backend: Backend, now: int) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        with pytest.raises(TimeUsedUp):
            await claimed(store, LEAF, now)

    async def test_w2_the_last_window_is_cut_at_the_layouts_end(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        end = LEAF.layout.end_units
        window = await claimed(store, LEAF, end - 10, 1000)
        assert window.end == end
        with pytest.raises(TimeUsedUp):
            await store.extend(window, end + 1)
        assert (await store.extend(window, end)).end == end

    async def test_w3_extending_moves_the_end_and_may_be_repeated(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        window = await claimed(store, LEAF, 100)
        longer = await store.extend(window, 5000)
        assert longer == await store.extend(window, 5000)
        assert (longer.end, longer.fence, longer.nonce) == (5000, window.fence, window.nonce)
        assert (await store.extend(longer, 4000)).end == 5000
        found = await store.find_window("default", window.nonce)
        assert found == longer

    async def test_w3_whoever_lost_the_window_can_not_extend_it(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        for store in (first, second):
            await store.open_space(LEAF)
        window = await claimed(first, LEAF, 100)
        only = range(window.worker, window.worker + 1)
        taken = await second.claim(a_claim(LEAF, window.end, workers=only))
        with pytest.raises(WindowLost, match="fence 2"):
            await first.extend(window, window.end + 10_000)
        assert await second.find_window("default", taken.nonce) == taken

    async def test_w3_the_same_fence_under_another_nonce_means_that_the_store_went_backwards(
        self, backend: Backend
    ) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        window = await claimed(store, LEAF, 100)
        backend.set_worker("default", window.worker, nonce="f" * 32)
        with pytest.raises(StoreWentBackwards, match="twice") as caught:
            await store.extend(window, window.end + 1)
        assert not caught.value.whole_store, "the node's guard halts the store, and says so"

    async def test_w3_a_window_that_a_repair_ended_is_lost(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        window = await claimed(store, LEAF, 100)
        await store.raise_fences([Mark("worker", "default", window.fence, window.worker)])
        with pytest.raises(WindowLost, match="repair"):
            await store.extend(window, window.end + 1)

    async def test_w3_a_lower_fence_a_lower_floor_or_a_missing_row_mean_the_same(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        window = await claimed(store, LEAF, 100)
        backend.set_worker("default", window.worker, floor=window.end - 1)
        with pytest.raises(StoreWentBackwards, match="floor"):
            await store.extend(window, window.end + 1)
        backend.set_worker("default", window.worker, fence=0)
        with pytest.raises(StoreWentBackwards, match="fence 0"):
            await store.extend(window, window.end + 1)
        backend.forget_worker("default", window.worker)
        with pytest.raises(StoreWentBackwards, match="no longer knows"):
            await store.extend(window, window.end + 1)

    async def test_r6_a_window_whose_row_is_missing_is_merely_lost_where_the_space_begins_behind_it_anyway(
        self, backend: Backend
    ) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        window = await claimed(store, LEAF, 100)
        backend.forget_worker("default", window.worker)
        await store.raise_floor("default", window.end - 1)
        with pytest.raises(StoreWentBackwards, match="no longer knows"):
            await store.extend(window, window.end + 1)
        await store.raise_floor("default", window.end)
        with pytest.raises(WindowLost, match="repair"):
            await store.extend(window, window.end + 1)

    async def test_w4_a_window_is_found_by_its_nonce_and_by_no_other(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        await first.open_space(LEAF)
        window = await claimed(first, LEAF, 100)
        assert await second.find_window("default", window.nonce) == window
        assert await second.find_window("default", "0" * 32) is None
        assert await second.find_window("other", window.nonce) is None
        await first.release(window, window.start)
        assert await second.find_window("default", window.nonce) is None

    async def test_w1_an_id_is_not_claimed_while_its_owner_extends_a_past_window(self, backend: Backend) -> None:
        owner, other = await backend.nodes(2)
        space = Space("race", Layout())
        for store in (owner, other):
            await store.open_space(space)
        only, now = range(7, 8), 1000
        for number in range(60):
            held = await owner.claim(a_claim(space, now, 600, workers=only))

            async def extend(held: Window, pause: float) -> Window:
                await asyncio.sleep(pause)
                return await owner.extend(held, held.end + 600)

            async def claim(now: int, pause: float) -> Window:
                await asyncio.sleep(pause)
                return await other.claim(a_claim(space, now, 600, workers=only))

            pauses = (number % 5 / 1000, number // 5 % 5 / 1000)
            both = await asyncio.gather(extend(held, pauses[0]), claim(held.end, pauses[1]), return_exceptions=True)
            windows = [outcome for outcome in both if isinstance(outcome, Window)]
            for outcome in both:
                assert isinstance(outcome, Window | NoWindow | WindowLost | StoreUnavailable), outcome
            assert windows
            if len(windows) == 2:
                extended, claimed_ = windows
                assert extended.end <= claimed_.start or claimed_.end <= extended.start, windows
            now = max(window.end for window in windows)

    async def test_w5_a_released_window_frees_its_id_from_the_floor_on(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        window = await claimed(store, LEAF, 100)
        await store.release(window, 150)
        only = range(window.worker, window.worker + 1)
        again = await store.claim(a_claim(LEAF, 150, workers=only))
        assert (again.worker, again.start, again.fence) == (window.worker, 150, 2)

    async def test_w5_a_late_release_changes_nothing(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        window = await claimed(store, LEAF, 100)
        only = range(window.worker, window.worker + 1)
        taken = await store.claim(a_claim(LEAF, window.end, workers=only))
        await store.release(window, 101)
        assert await store.find_window("default", taken.nonce) == taken

    async def test_w5_a_release_below_the_windows_start_is_a_mistake(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        window = await claimed(store, LEAF, 100)
        with pytest.raises(ValueError, match="below the window's start"):
            await store.release(window, 99)

    async def test_w6_ids_never_used_come_first_in_no_order(self, backend: Backend) -> None:
        store = await backend.node()
        space = Space("sixty-four", Layout(41, 6, 12))
        await store.open_space(space)
        workers = [(await claimed(store, space, 1_000_000 * number, 10)).worker for number in range(64)]
        assert sorted(workers) == list(range(64))
        assert workers != sorted(workers)

    async def test_w6_the_last_id_never_used_is_found(self, backend: Backend) -> None:
        store = await backend.node()
        for last in (0, 511, 1023):
            space = Space(f"but-{last}", Layout())
            await store.open_space(space)
            backend.fill_workers(space.name, range(last), lambda worker: 10)
            backend.fill_workers(space.name, range(last + 1, 1024), lambda worker: 10)
            window = await claimed(store, space, 1000)
            assert (window.worker, window.fence) == (last, 1)

    async def test_w6_then_a_random_one_of_the_64_unused_longest(self, backend: Backend) -> None:
        store = await backend.node()
        space = Space("full", Layout(41, 8, 12))
        await store.open_space(space)
        backend.fill_workers(space.name, range(256), lambda worker: 1000 + worker)
        workers = {(await claimed(store, space, 1256, 5000)).worker for _ in range(24)}
        assert len(workers) == 24
        assert max(workers) < 64 + 24
        assert workers != set(range(24))

    async def test_w6_with_every_id_taken_the_first_free_moment_is_told(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(TWO)
        for now in (100, 300):
            await claimed(store, TWO, now)
        with pytest.raises(NoWorkerFree, match=r"all 2 worker ids.*0\.1 s") as caught:
            await claimed(store, TWO, 1000)
        assert caught.value.lowest_floor == 1100
        assert (await claimed(store, TWO, 1100)).start == 1100

    async def test_w6_the_windows_under_way_are_counted(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        await store.open_space(TWO)
        for worker, now in ((3, 100), (4, 100), (700, 500)):
            await store.claim(a_claim(LEAF, now, workers=range(worker, worker + 1)))
        assert await store.count_windows("default", 1099) == 3
        assert await store.count_windows("default", 1100) == 1
        assert await store.count_windows("default", 0, range(4, 700)) == 1
        assert await store.count_windows("two", 0) == 0

    async def test_w8_the_store_tells_when_its_clock_noted_a_claim_last(self, backend: Backend) -> None:
        store = await backend.node()
        assert await store.last_seen() is None
        await store.open_space(LEAF)
        await claimed(store, LEAF, 100)
        clock, noted = await store.clock(), await store.last_seen()
        if clock is None:
            assert noted is None
        else:
            assert noted is not None
            assert 0 <= clock - noted < 60_000

    async def test_w6_four_million_worker_ids_are_no_burden(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(HUGE)
        workers = {(await claimed(store, HUGE, 1000)).worker for _ in range(20)}
        assert len(workers) == 20
        assert max(workers) > 1 << 18

    async def test_w6_a_static_worker_id_under_way_is_refused_naming_its_holder(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        static = Space("default", LEAF.layout, static=True)
        await first.open_space(static)
        await second.open_space(static)
        window = await first.claim(a_claim(static, 100, workers=range(7, 8)))
        with pytest.raises(
            NoWorkerFree, match=r"worker id 7 of space 'default' is held by a test for 0\.6 s"
        ) as caught:
            await second.claim(a_claim(static, 500, workers=range(7, 8)))
        assert caught.value.lowest_floor == 1100
        assert (await second.claim(a_claim(static, 500, workers=range(8, 9)))).worker == 8
        after = await second.claim(a_claim(static, 1100, workers=range(7, 8)))
        assert (after.worker, after.start, after.fence) == (7, 1100, window.fence + 1)

    async def test_w6_static_and_pooled_worker_ids_do_not_meet_in_a_space(self, backend: Backend) -> None:
        pooled, static = await backend.nodes(2)
        mine = LEAF.other_way()
        await pooled.open_space(LEAF)
        window = await claimed(pooled, LEAF, 100)
        await static.open_space(mine)
        with pytest.raises(StoreRefused, match=r"are pooled, with 1 windows under way.*static ones \(spaces.default"):
            await static.claim(a_claim(mine, 1099, workers=range(9, 10)))
        await pooled.extend(window, 2000)
        assert (await static.claim(a_claim(mine, 2000, workers=range(9, 10)))).worker == 9
        await pooled.open_space(LEAF)
        with pytest.raises(StoreRefused, match=r"are static, with 1 windows under way.*pooled ones"):
            await claimed(pooled, LEAF, 2999)
        (space,) = (each for each in await pooled.read_spaces() if each.name == "default")
        assert space.layout.endswith("static worker ids")
        assert (await claimed(pooled, LEAF, 3000)).start == 3000

    async def test_w9_another_layout_is_refused_once_a_worker_id_was_claimed(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        changed = Space("default", Layout(unit_ms=10))
        await first.open_space(LEAF)
        await claimed(first, LEAF, 100)
        with pytest.raises(StoreRefused, match=r"'default'.*at 1 ms.*at 10 ms.*another name"):
            await second.open_space(changed)
        await second.open_space(LEAF)

    async def test_w9_a_space_without_claims_takes_the_new_layout_and_refuses_the_old(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        changed = Space("default", Layout(unit_ms=10))
        await first.open_space(LEAF)
        await second.open_space(changed)
        with pytest.raises(StoreRefused, match="at 10 ms"):
            await claimed(first, LEAF, 100)
        assert (await claimed(second, changed, 100)).start == 100

    async def test_a_space_that_was_not_opened_is_unknown(self, backend: Backend) -> None:
        first, second = await backend.nodes(2)
        with pytest.raises(UnknownSpace, match=r"\[spaces.four\]"):
            await claimed(first, FOUR, 100)
        await first.open_space(FOUR)
        window = await claimed(first, FOUR, 100)
        with pytest.raises(UnknownSpace):
            await second.extend(window, window.end + 1)

    async def test_w10_only_the_worker_ids_that_are_allowed_are_claimed(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        allowed = range(512, 515)
        workers = {(await store.claim(a_claim(LEAF, 100, workers=allowed))).worker for _ in range(3)}
        assert workers == set(allowed)
        with pytest.raises(NoWorkerFree, match="all 3"):
            await store.claim(a_claim(LEAF, 100, workers=allowed))
        assert (await store.claim(a_claim(LEAF, 1100, workers=allowed))).worker in allowed

    @pytest.mark.parametrize("workers", [range(1023, 1025), range(-1, 3), range(0), range(0, 10, 2)])
    async def test_w10_worker_ids_that_the_layout_lacks_are_a_mistake(self, backend: Backend, workers: range) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        with pytest.raises(ValueError, match="workers"):
            await store.claim(a_claim(LEAF, 100, workers=workers))

    async def test_a_window_without_length_is_a_mistake(self, backend: Backend) -> None:
        store = await backend.node()
        await store.open_space(LEAF)
        with pytest.raises(ValueError, match="0 units"):
            await store.claim(a_claim(LEAF, 100, 0))
