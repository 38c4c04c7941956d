import random
from itertools import pairwise

import pytest

from goloves.core.grants import Window
from goloves.core.layout import LEAF_EPOCH_MS, Layout, preset
from goloves.core.snowflake import LEAD_MS, SnowflakeGenerator, Why

LEAF = preset("leaf")
TINY = Layout(41, 3, 4, epoch_ms=LEAF_EPOCH_MS)
"""Sixteen ids a millisecond, so few that they run out."""

MAX_BACKWARD = 10_000


def no_bits(bits: int) -> int:
    return 0


def all_bits(bits: int) -> int:
    return (1 << bits) - 1


def window(start: int, end: int, *, worker: int = 5, fence: int = 1, nonce: str = "a") -> Window:
    return Window("default", worker, fence, nonce, start, end)


def generator(
    start: int = 1000, end: int = 601_000, *, layout: Layout = TINY, getrandbits: object = no_bits
) -> SnowflakeGenerator:
    made = SnowflakeGenerator(layout, max_backward=MAX_BACKWARD, getrandbits=getrandbits)  # type: ignore[arg-type]
    made.adopt(window(start, end))
    return made


def refused(made: SnowflakeGenerator, now: int) -> Why:
    """Give why there is no id at the reading `now`."""
    assert made.next(now) is None
    return made.why


def units(ids: list[range], layout: Layout = TINY) -> list[int]:
    return [layout.decode(id_).units for span in ids for id_ in span]


# --- inside the window ---


def test_w1_without_a_window_nothing_is_issued() -> None:
    empty = SnowflakeGenerator(TINY, max_backward=MAX_BACKWARD, getrandbits=no_bits)
    assert refused(empty, 5) is Why.NO_WINDOW
    assert empty.take_many(5, 10) == []
    assert empty.retire() is None


def test_w1_no_time_before_the_window_s_start_is_issued_though_the_clock_is_behind() -> None:
    made = generator(1000, 2000)
    ids = [made.next(900) for _ in range(20)]
    assert {TINY.decode(id_ or 0).units for id_ in ids} == {1000, 1001}


def test_w1_a_window_that_begins_further_ahead_than_the_lead_has_not_begun() -> None:
    made = generator(5000, 9000)
    assert refused(made, 5000 - LEAD_MS - 1) is Why.NOT_YET
    assert made.take_many(5000 - LEAD_MS - 1, 3) == []
    assert units(made.take_many(5000 - LEAD_MS, 16)) == [5000] * 16


@pytest.mark.parametrize("now", [2000, 2001, 10**9])
def test_w1_no_time_at_or_past_the_window_s_end_is_issued_whatever_the_clock_says(now: int) -> None:
    made = generator(1000, 2000)
    assert refused(made, now) is Why.WINDOW_ENDED
    assert made.take_many(now, 5) == []


def test_w1_the_last_unit_of_a_window_is_used_up_and_not_left() -> None:
    made = generator(1000, 2000)
    spans = made.take_many(1999, 100)
    assert units(spans) == [1999] * 16
    assert made.why is Why.WINDOW_ENDED
    assert made.next(1999) is None


def test_w1_an_adopted_window_replaces_the_one_before_with_all_its_times() -> None:
    made = generator(1000, 2000)
    made.take_many(1500, 1000)
    made.adopt(window(1200, 2200, worker=2, fence=9))
    id_ = made.next(1200)
    assert id_ is not None
    assert (TINY.decode(id_).worker, TINY.decode(id_).units) == (2, 1200)


def test_w2_a_window_past_the_layout_s_end_is_cut_to_it() -> None:
    end = TINY.end_units
    made = generator(end - 2, end + 1000)
    assert units(made.take_many(end - 1, 100)) == [end - 1] * 16
    assert made.next(end) is None
    made.extend(window(end - 2, end + 5000))
    assert refused(made, end) is Why.WINDOW_ENDED


def test_w2_a_clock_before_the_epoch_gives_nothing() -> None:
    made = generator(0, 1000)
    assert made.next(-1) is None
    assert made.take_many(-(10**15), 5) == []


def test_w3_an_extended_window_goes_on_where_it_stood() -> None:
    made = generator(1000, 2000)
    first = made.take_many(1999, 16)
    made.extend(window(1000, 3000))
    assert made.window == window(1000, 3000)
    assert units(made.take_many(1999, 1)) == [2000]
    assert units(first) == [1999] * 16


@pytest.mark.parametrize(
    "other", [window(1, 9, worker=4), window(1, 9, fence=2), window(1, 9, nonce="b")], ids=["worker", "fence", "nonce"]
)
def test_w3_only_the_window_that_is_held_can_be_extended(other: Window) -> None:
    made = generator()
    with pytest.raises(ValueError, match="only the window that is held"):
        made.extend(other)
    made.retire()
    with pytest.raises(ValueError, match="only the window that is held"):
        made.extend(window(1000, 9_000_000))


def test_w3_a_late_extension_does_not_shorten_the_window() -> None:
    made = generator(1000, 5000)
    made.extend(window(1000, 2000))
    assert made.next(4999) is not None


# --- giving back ---


def test_w5_the_floor_of_a_released_window_lies_just_after_the_last_unit_used() -> None:
    made = generator(1000, 2000)
    made.take_many(1500, 16 * 3)
    assert made.retire() == (window(1000, 2000), 1503)


def test_w5_a_window_that_was_never_used_is_released_at_its_start() -> None:
    assert generator(1000, 2000).retire() == (window(1000, 2000), 1000)


def test_w5_after_it_was_given_up_a_window_issues_nothing_and_is_given_back_once() -> None:
    made = generator()
    assert made.next(5000) is not None
    made.retire()
    assert made.retire() is None
    assert made.window is None
    assert made.next(5000) is None
    assert made.take_many(5001, 10) == []
    assert made.why is Why.NO_WINDOW


def test_w5_the_floor_is_the_window_s_own_and_not_that_of_one_before() -> None:
    made = generator(1000, 99_000)
    made.next(90_000)
    made.adopt(window(2000, 3000, fence=2))
    made.next(2500)
    assert made.retire() == (window(2000, 3000, fence=2), 2501)


# --- the lead, and the clock that steps back ---


def test_w7_a_full_sequence_moves_the_time_forward_by_one_unit() -> None:
    made = generator()
    assert units(made.take_many(5000, 40)) == [5000] * 16 + [5001] * 16 + [5002] * 8


@pytest.mark.parametrize(("unit_ms", "lead"), [(1, 1000), (10, 100), (100, 10), (1000, 1)])
def test_w7_the_time_runs_ahead_of_the_clock_by_a_second_at_most(unit_ms: int, lead: int) -> None:
    layout = Layout(39, 3, 4, unit_ms=unit_ms)
    made = generator(1000, 601_000, layout=layout)
    spans = made.take_many(5000, 1_000_000)
    assert max(units(spans, layout)) == 5000 + lead
    assert sum(map(len, spans)) == 16 * (lead + 1)
    assert made.why is Why.OVER_RATE
    assert made.next(5000) is None
    assert made.next(5001) is not None


def test_w7_the_lead_is_no_step_back_of_the_clock() -> None:
    made = generator()
    made.take_many(50_000, 1_000_000)
    assert refused(made, 50_000 - MAX_BACKWARD) is Why.OVER_RATE
    assert refused(made, 50_000 - MAX_BACKWARD - 1) is Why.CLOCK_BACKWARDS


def test_w7_a_step_back_of_max_backward_is_ridden_out_and_one_more_is_not() -> None:
    made = generator()
    before = made.next(50_000)
    after = made.next(50_000 - MAX_BACKWARD)
    assert before is not None
    assert after == before + 1
    assert refused(made, 50_000 - MAX_BACKWARD - 1) is Why.CLOCK_BACKWARDS
    assert made.take_many(0, 1) == []
    assert made.next(50_000 - MAX_BACKWARD) == before + 2


def test_w7_the_random_start_of_a_sequence_is_below_one_32nd_of_its_width() -> None:
    made = generator(layout=LEAF, getrandbits=all_bits)
    id_ = made.next(5000)
    assert id_ is not None
    assert LEAF.decode(id_).sequence == LEAF.sequences // 32 - 1


def test_w7_starts_are_spread_so_that_sharding_by_the_low_bits_is_even() -> None:
    made = generator(layout=LEAF, getrandbits=random.Random(1).getrandbits)
    starts = [LEAF.decode(made.next(now) or 0).sequence for now in range(5000, 9000)]
    assert set(starts) == set(range(LEAF.sequences // 32))


def test_w7_a_sequence_of_five_bits_or_fewer_starts_at_0() -> None:
    def asked(bits: int) -> int:
        raise AssertionError("nothing is to be drawn")

    made = generator(getrandbits=asked)
    assert TINY.decode(made.next(5000) or 0).sequence == 0


def test_w7_a_unit_that_was_entered_because_the_last_was_full_starts_at_0() -> None:
    made = generator(layout=LEAF, getrandbits=all_bits)
    spans = made.take_many(5000, LEAF.sequences)
    assert [LEAF.decode(span[0]).sequence for span in spans] == [LEAF.sequences // 32 - 1, 0]


# --- spans ---


def test_more_ids_of_a_unit_come_until_its_sequence_is_full() -> None:
    made, plain = generator(), generator()
    ids = [made.next(1500), *(made.more() for _ in range(20))]
    assert ids == [*(plain.next(1500) for _ in range(16)), *[None] * 5]
    assert made.next(1500) == plain.next(1500)


def test_w5_of_a_window_that_was_given_up_or_replaced_no_more_ids_come() -> None:
    made = generator()
    made.next(1500)
    made.retire()
    assert made.more() is None
    made.adopt(window(1000, 2000))
    made.next(1500)
    made.adopt(window(1000, 2000, worker=6))
    assert made.more() is None
    assert generator().more() is None


def test_the_ids_of_a_layout_with_the_worker_lowest_come_as_spans_with_a_stride() -> None:
    layout = preset("sonyflake")
    made = generator(layout=layout)
    (span,) = made.take_many(5000, 5)
    assert span.step == layout.workers
    assert [layout.decode(id_).sequence for id_ in span] == [0, 1, 2, 3, 4]
    assert {layout.decode(id_).worker for id_ in span} == {5}
    assert made.next(5000) == span[-1] + layout.workers


def test_no_ids_are_given_for_a_count_of_0() -> None:
    assert generator().take_many(5000, 0) == []


def test_ids_of_one_window_only_grow() -> None:
    made = generator(getrandbits=random.Random(2).getrandbits, layout=LEAF)
    rng = random.Random(3)
    ids: list[int] = []
    now = 5000
    for _ in range(2000):
        now += rng.randrange(-3, 5)
        ids += [id_ for span in made.take_many(now, rng.randrange(1, 5)) for id_ in span]
    assert len(ids) > 2000
    assert all(before < after for before, after in pairwise(ids))


@pytest.mark.parametrize(
    ("drawn", "now", "until"), [(0, 1500, 1500), (5, 1500, 1500), (40, 1500, 1700), (16_000, 5, 9)]
)
def test_w7_the_room_up_to_a_reading_is_what_can_be_drawn_until_then(drawn: int, now: int, until: int) -> None:
    made = generator(1000)
    made.take_many(now, drawn)
    room = made.room(now, until)
    ids = [made.take_many(reading, 10**9) for reading in range(now, until + 1)]
    assert sum(len(span) for spans in ids for span in spans) == room
    assert made.room(until, until) == 0
