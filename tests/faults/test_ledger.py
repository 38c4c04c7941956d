"""The checker catches what it is there for: what passes it would otherwise prove nothing."""

import re

import pytest

from faults.ground import Ground
from faults.ledger import Duplicate, Granted, Ledger, NumberGrant, WindowGrant
from faults.nodes import Life
from goloves.core.layout import Layout

LIVES = {number: Life(number, f"node-{number}", 100 + number, "") for number in range(3)}

LAYOUT = Layout()


def an_id(units: int, worker: int, sequence: int = 0) -> int:
    return units << LAYOUT.time_shift | worker << LAYOUT.worker_shift | sequence


def granted() -> Granted:
    made = Granted()
    made.numbers["order"] |= {NumberGrant(1, 11), NumberGrant(11, 21), NumberGrant(30, 40)}
    made.windows["default"] = {
        (7, 1, "a"): WindowGrant(7, 1, 1000, 2000, "host node 0 pid 100", last=1500),
        (7, 2, "b"): WindowGrant(7, 2, 1500, 2500, "host node 0 pid 101", last=2500),
        (8, 1, "c"): WindowGrant(8, 1, 1000, 2000, "host node 0 pid 102", last=2000),
    }
    return made


def check(ledger: Ledger, grants: Granted | None = None, *, set_back: bool = False) -> None:
    ledger.check(grants or granted(), LIVES, at_least=1, set_back=set_back)


def test_what_was_granted_and_received_once_passes() -> None:
    ledger = Ledger()
    ledger.numbers["order"] += [(1, 4, 0, False), (5, 11, 0, True), (30, 32, 1, False)]
    ledger.ids["default"] += [(an_id(1100, 7), 0), (an_id(1499, 7), 0), (an_id(1500, 7), 1), (an_id(1500, 8), 2)]
    check(ledger)
    check(ledger, set_back=True)


@pytest.mark.parametrize("set_back", [False, True])
@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([(1, 4, 0, False), (3, 4, 1, False)], "received from node-1 .* and from node-0"),
        ([(1, 2, 0, False), (1, 2, 0, False)], "received from node-0 .* and from node-0"),
        ([(22, 23, 0, False)], "was never granted|lies in no range"),
        ([(19, 22, 0, False)], "was never granted|lies in no range"),
        ([(0, 1, 0, False)], "was never granted|lies in no range"),
    ],
)
def test_a_number_twice_or_out_of_nowhere_is_caught(
    spans: list[tuple[int, int, int, bool]], says: str, set_back: bool
) -> None:
    ledger = Ledger()
    ledger.numbers["order"] += spans
    with pytest.raises(Duplicate, match=says):
        check(ledger, set_back=set_back)


def test_a_grant_that_served_two_lives_is_caught() -> None:
    ledger = Ledger()
    ledger.numbers["order"] += [(1, 4, 0, False), (5, 6, 1, False)]
    with pytest.raises(Duplicate, match=r"served node-0 .* and node-1"):
        check(ledger)


def test_a_range_put_together_from_two_grants_is_caught() -> None:
    ledger = Ledger()
    ledger.numbers["order"] += [(9, 13, 0, True)]
    with pytest.raises(Duplicate, match="put together"):
        check(ledger)


def test_overlapping_grants_are_caught_even_if_nothing_was_issued_twice() -> None:
    ledger, grants = Ledger(), granted()
    ledger.numbers["order"] += [(1, 2, 0, False)]
    grants.numbers["order"].add(NumberGrant(15, 25))
    with pytest.raises(Duplicate, match="the store granted"):
        check(ledger, grants)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([(an_id(1100, 7), 0), (an_id(1100, 7), 1)], "received from node-1 .* and node-0"),
        ([(an_id(1500, 7), 0)], "lies in no window of node-0"),
        ([(an_id(2100, 7), 0)], "lies in no window of node-0"),
        ([(an_id(1100, 7), 1)], "lies in no window of node-1"),
        ([(an_id(999, 8), 2)], "lies in no window"),
        ([(an_id(2000, 8), 2)], "lies in no window"),
        ([(an_id(1100, 9), 2)], "lies in no window"),
    ],
)
def test_an_id_twice_or_outside_of_its_owner_s_window_is_caught(ids: list[tuple[int, int]], says: str) -> None:
    ledger = Ledger()
    ledger.ids["default"] += ids
    with pytest.raises(Duplicate, match=says):
        check(ledger)


def test_a_window_granted_before_the_one_before_it_ended_is_caught() -> None:
    ledger, grants = Ledger(), granted()
    ledger.ids["default"] += [(an_id(1100, 8), 2)]
    grants.windows["default"][7, 1, "a"].last = 1501
    with pytest.raises(Duplicate, match="the store granted"):
        check(ledger, grants)


def test_a_check_that_saw_too_little_fails() -> None:
    ledger = Ledger()
    ledger.numbers["order"] += [(1, 4, 0, False)]
    with pytest.raises(AssertionError, match=re.escape("only 3 ids were received")):
        ledger.check(granted(), LIVES, at_least=4)


def test_the_witness_sees_each_move_of_a_number_and_of_a_floor(ground: Ground) -> None:
    ground.sql("UPDATE leaf_alloc SET max_id = max_id + 10 WHERE biz_tag = 'order'")
    ground.sql("UPDATE leaf_alloc SET max_id = 5 WHERE biz_tag = 'order'")
    ground.sql("UPDATE leaf_alloc SET max_id = max_id + 10, step = 7 WHERE biz_tag = 'order'")
    ground.sql("UPDATE leaf_alloc SET step = 8 WHERE biz_tag = 'order'")
    ground.backend.fill_workers("default", range(3, 4), lambda _: 50)
    ground.backend.set_worker("default", 3, floor=90)
    ground.backend.set_worker("default", 3, floor=70)
    ground.backend.set_worker("default", 3, fence=2, start=70, floor=120, nonce="n", owner="o")
    seen = ground.witness.gather()
    assert seen.numbers["order"] == {NumberGrant(0, 1, base=True), NumberGrant(1, 11), NumberGrant(5, 15)}
    assert seen.windows["default"] == {
        (3, 1, ""): WindowGrant(3, 1, 0, 90, "", last=70),
        (3, 2, "n"): WindowGrant(3, 2, 70, 120, "o", last=120),
    }
