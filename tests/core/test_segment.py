import pytest
from hypothesis import given
from hypothesis import strategies as st

from goloves.core.grants import Range
from goloves.core.segment import SegmentBuffer, StepPolicy


class Dues:
    """Counts how often the buffer said that a refill is due."""

    def __init__(self) -> None:
        self.said = 0
        self.buffer = SegmentBuffer(self._say)

    def _say(self) -> None:
        self.said += 1

    def put(self, start: int, end: int) -> None:
        self.buffer.put(Range("order", start, end))


def taken(buffer: SegmentBuffer, count: int) -> list[int]:
    return [number for span in buffer.take_many(count) for number in span]


# --- what it gives ---


def test_numbers_come_once_and_in_order_across_ranges() -> None:
    dues = Dues()
    dues.put(1, 4)
    dues.put(10, 12)
    assert [dues.buffer.take() for _ in range(6)] == [1, 2, 3, 10, 11, None]
    assert dues.buffer.left == 0


def test_an_empty_buffer_gives_nothing_and_says_at_each_asking_that_a_refill_is_due() -> None:
    dues = Dues()
    assert dues.buffer.take() is None
    assert dues.buffer.take_many(5) == []
    assert dues.buffer.take_range(1) is None
    assert dues.buffer.due
    assert dues.said == 2


def test_many_numbers_may_span_ranges_and_are_as_many_as_are_left() -> None:
    dues = Dues()
    dues.put(0, 5)
    dues.put(50, 53)
    assert dues.buffer.take_many(100) == [range(5), range(50, 53)]


def test_ranges_that_meet_come_as_one_span() -> None:
    dues = Dues()
    dues.put(0, 100)
    dues.put(100, 200)
    assert dues.buffer.take_many(150) == [range(150)]
    assert dues.buffer.left == 50


def test_a_range_of_one_number_is_given_whole() -> None:
    dues = Dues()
    dues.put(7, 8)
    assert dues.buffer.take() == 7
    assert dues.buffer.take() is None


def test_a_refill_that_comes_while_the_buffer_says_that_it_is_due_is_used_by_the_same_request() -> None:
    buffer = SegmentBuffer(lambda: buffer.put(Range("order", 5, 6)))
    assert buffer.take() == 5


def test_r5_what_is_forgotten_is_never_given() -> None:
    dues = Dues()
    dues.put(1, 100)
    dues.put(100, 200)
    dues.buffer.take_many(50)
    dues.buffer.clear()
    assert dues.buffer.left == 0
    assert dues.buffer.take() is None
    dues.put(500, 502)
    assert taken(dues.buffer, 10) == [500, 501]


# --- when a refill is due ---


@pytest.mark.parametrize(("length", "tenth"), [(1000, 100), (10, 1), (11, 2), (19, 2), (5, 1), (2, 1)])
def test_a_refill_is_due_once_when_a_tenth_is_used(length: int, tenth: int) -> None:
    dues = Dues()
    dues.put(0, length)
    for _ in range(tenth):
        dues.buffer.take()
    assert (dues.said, dues.buffer.due) == (0, False)
    for _ in range(length - tenth):
        dues.buffer.take()
    assert (dues.said, dues.buffer.due) == (1, True)


def test_no_refill_is_due_while_another_range_lies_ahead() -> None:
    dues = Dues()
    dues.put(0, 100)
    dues.put(100, 200)
    for _ in range(100):
        dues.buffer.take()
    assert dues.said == 0
    for _ in range(11):
        dues.buffer.take()
    assert dues.said == 1


def test_the_next_range_is_prefetched_when_it_becomes_the_last() -> None:
    dues = Dues()
    dues.put(0, 100)
    taken(dues.buffer, 50)
    assert dues.said == 1
    dues.put(100, 200)
    assert not dues.buffer.due
    taken(dues.buffer, 61)
    assert dues.said == 2


def test_a_batch_over_the_tenth_makes_a_refill_due() -> None:
    dues = Dues()
    dues.put(0, 1000)
    assert taken(dues.buffer, 500) == list(range(500))
    assert dues.said == 1


# --- ranges out of the buffer ---


def test_a_range_is_cut_out_of_the_current_one() -> None:
    dues = Dues()
    dues.put(0, 100)
    assert dues.buffer.take_range(5) == range(5)
    assert dues.said == 0
    assert dues.buffer.take() == 5
    assert dues.buffer.take_range(50) == range(6, 56)
    assert dues.said == 1
    assert dues.buffer.take_range(44) == range(56, 100)
    assert dues.buffer.take_range(1) is None
    assert dues.said == 1


def test_a_range_longer_than_what_the_current_one_has_left_is_not_pieced_together() -> None:
    dues = Dues()
    dues.put(0, 100)
    dues.put(100, 200)
    assert dues.buffer.take_range(101) is None
    assert dues.buffer.take() == 0


def test_a_range_taken_while_another_lies_ahead_makes_no_refill_due() -> None:
    dues = Dues()
    dues.put(0, 100)
    dues.put(100, 200)
    assert dues.buffer.take_range(60) == range(60)
    assert dues.buffer.take_range(40) == range(60, 100)
    assert dues.said == 0
    assert taken(dues.buffer, 5) == list(range(100, 105))


# --- the step ---

TARGET = 900.0


def policy(own: int = 1000, max_step: int = 1_000_000) -> StepPolicy:
    return StepPolicy(own, target=TARGET, max_step=max_step)


def test_the_first_refill_asks_for_the_tag_s_own_step() -> None:
    assert policy().next(5.0, wanted=0) == 1000


def test_the_step_doubles_when_a_range_lasted_less_than_the_target() -> None:
    steps = policy()
    assert [steps.next(at, wanted=0) for at in (0, 899.9, 1000, 1001)] == [1000, 2000, 4000, 8000]
    assert steps.step == 8000


def test_the_step_stays_when_a_range_lasted_between_the_target_and_twice_that() -> None:
    steps = policy()
    steps.next(0, wanted=0)
    steps.next(1, wanted=0)
    assert [steps.next(at, wanted=0) for at in (901, 2700.9)] == [2000, 2000]


def test_the_step_halves_when_a_range_lasted_twice_the_target_and_never_falls_below_its_own() -> None:
    steps = policy()
    for at in (0, 1, 2, 3):
        steps.next(at, wanted=0)
    assert [steps.next(3 + 1800.0 * n, wanted=0) for n in (1, 2, 3, 4)] == [4000, 2000, 1000, 1000]


def test_the_step_grows_to_the_maximum_and_no_further() -> None:
    steps = policy(max_step=5000)
    assert [steps.next(at, wanted=0) for at in range(5)] == [1000, 2000, 4000, 5000, 5000]


def test_a_tag_s_own_step_beats_the_maximum() -> None:
    steps = policy(own=7000, max_step=5000)
    assert [steps.next(at, wanted=10_000) for at in range(3)] == [7000, 7000, 7000]


def test_what_is_waited_for_makes_the_step_grow_fourfold_and_at_least_to_that() -> None:
    steps = policy(own=10)
    assert steps.next(0.0, wanted=64) == 64
    assert steps.next(0.01, wanted=1) == 256
    assert steps.next(0.02, wanted=5000) == 5000
    assert steps.next(0.03, wanted=5_000_000) == 1_000_000


def test_a_tag_of_step_10_reaches_50_000_ids_a_second_within_ten_refills() -> None:
    steps = policy(own=10)
    now, asked = 0.0, 0
    while steps.next(now, wanted=64) < 50_000:
        now += 0.005
        asked += 1
    assert asked <= 10


def test_a_changed_own_step_counts_from_the_next_refill_on() -> None:
    steps = policy()
    steps.next(0, wanted=0)
    steps.own = 50_000
    assert steps.next(1000, wanted=0) == 50_000
    steps.own = 10
    assert steps.next(1000 + 1800, wanted=0) == 25_000


@pytest.mark.parametrize("own", [0, -5])
def test_a_step_that_somebody_wrote_into_the_table_as_less_than_1_counts_as_1(own: int) -> None:
    assert policy(own=own).next(0, wanted=0) == 1


@given(
    st.integers(-3, 3_000_000),
    st.lists(st.tuples(st.floats(0, 5000), st.integers(0, 10**9)), max_size=30),
)
def test_the_step_stays_between_the_tag_s_own_and_the_larger_of_that_and_the_maximum(
    own: int, refills: list[tuple[float, int]]
) -> None:
    steps = policy(own=own)
    now = 0.0
    for lasted, wanted in refills:
        now += lasted
        step = steps.next(now, wanted=wanted)
        assert max(own, 1) <= step <= max(own, 1_000_000)
        assert step >= min(wanted, max(own, 1_000_000))
