from hypothesis import given
from hypothesis import strategies as st

from goloves.core.clock import HOLD_NS, SLEW_NS, SteadyClock

SECOND = 1_000_000_000
WALL = 1_700_000_000 * SECOND


class Machine:
    """A wall clock and a monotonic clock, looked at every quarter of a second."""

    def __init__(self) -> None:
        self.monotonic = 5 * SECOND
        self.wall = WALL
        self.steady = SteadyClock(self.wall, self.monotonic)

    def pass_by(self, ns: int = SECOND // 4) -> int:
        self.monotonic += ns
        self.wall += ns
        return self.steady.observe(self.wall, self.monotonic)

    def judge(self, store: int) -> bool:
        return self.steady.judge(store, self.wall, self.monotonic, 10 * SECOND)

    @property
    def present(self) -> int:
        return self.monotonic + self.steady.offset


def test_a_quiet_clock_is_the_system_s() -> None:
    machine = Machine()
    for _ in range(10):
        assert machine.pass_by() == 0
    assert machine.present == machine.wall


@given(st.integers(-SLEW_NS, SLEW_NS))
def test_slewing_is_followed_at_once(drift: int) -> None:
    machine = Machine()
    machine.wall += drift
    assert machine.pass_by() == 0
    assert machine.present == machine.wall


@given(st.integers(SLEW_NS + 1, 10**18), st.sampled_from([-1, 1]))
def test_a_jump_reaches_no_id_before_it_was_examined(size: int, direction: int) -> None:
    machine = Machine()
    before = machine.wall
    machine.wall += direction * size
    assert machine.pass_by() == direction * size
    assert machine.present == before + SECOND // 4


def test_a_jump_of_which_nothing_is_known_is_followed_after_its_time() -> None:
    machine = Machine()
    machine.wall += 3600 * SECOND
    waited = 0
    assert machine.pass_by() == 3600 * SECOND
    while machine.pass_by() != 0:
        waited += SECOND // 4
        assert machine.present == machine.wall - 3600 * SECOND
    assert waited == HOLD_NS - SECOND // 4
    assert machine.present == machine.wall


def test_a_blip_is_forgotten_and_the_next_jump_is_held_for_its_whole_time() -> None:
    machine = Machine()
    machine.wall -= 60 * SECOND
    for _ in range(20):
        assert machine.pass_by() == -60 * SECOND
    machine.wall += 60 * SECOND
    assert machine.pass_by() == 0
    assert machine.present == machine.wall
    machine.wall -= 60 * SECOND
    for _ in range(HOLD_NS // (SECOND // 4)):
        assert machine.pass_by() == -60 * SECOND
    assert machine.pass_by() == 0


def test_a_jump_that_the_store_s_clock_confirms_is_followed_at_once() -> None:
    machine = Machine()
    machine.wall += 30 * SECOND
    machine.pass_by()
    assert machine.judge(machine.wall + SECOND)
    assert machine.present == machine.wall
    assert machine.pass_by() == 0


def test_a_jump_that_the_store_s_clock_contradicts_is_held_off_for_as_long_as_it_does() -> None:
    machine = Machine()
    right = machine.wall
    machine.wall += 30 * SECOND
    for second in range(1, 61):
        for _ in range(4):
            assert machine.pass_by() == 30 * SECOND
        assert not machine.judge(right + second * SECOND)
    assert machine.present == right + 60 * SECOND


def test_a_clock_too_far_ahead_of_the_store_s_gives_way_to_one_that_is_further_behind_it() -> None:
    machine = Machine()
    machine.wall -= 30 * SECOND
    machine.pass_by()
    assert not machine.judge(machine.present - 10 * SECOND)
    assert machine.judge(machine.present - 11 * SECOND)
    assert machine.present == machine.wall


def test_a_clock_that_is_too_far_ahead_as_well_is_followed_only_if_it_is_nearer() -> None:
    machine = Machine()
    machine.wall += 30 * SECOND
    machine.pass_by()
    assert not machine.judge(machine.present - 11 * SECOND)


def test_a_store_as_far_from_both_clocks_does_not_confirm_a_jump() -> None:
    machine = Machine()
    machine.wall += 2 * SECOND
    machine.pass_by()
    assert not machine.judge(machine.present + SECOND)


def test_a_confirmation_of_no_jump_is_none() -> None:
    machine = Machine()
    assert not machine.judge(machine.wall)
    assert machine.present == machine.wall


def test_the_drift_says_how_far_the_system_s_clock_is_ahead() -> None:
    machine = Machine()
    assert machine.steady.drift(machine.wall + 7, machine.monotonic) == 7
    assert machine.steady.drift(machine.wall - 7, machine.monotonic) == -7
