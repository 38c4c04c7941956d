"""The generators against a model that knows all that was ever granted and issued."""

import random
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from goloves.core.grants import Range, Window
from goloves.core.layout import Layout
from goloves.core.segment import SegmentBuffer
from goloves.core.snowflake import LEAD_MS, SnowflakeGenerator, Why

STABLE = settings(derandomize=True, deadline=None, max_examples=150, stateful_step_count=40)

LAYOUTS = [
    Layout(24, 2, 3, unit_ms=100, epoch_ms=0),
    Layout(24, 2, 7, unit_ms=100, epoch_ms=0),
    Layout(24, 2, 6, unit_ms=1000, epoch_ms=0),
    Layout(24, 1, 8, unit_ms=10, epoch_ms=0, worker_first=False),
]

MAX_BACKWARD = 30


@dataclass
class Reference:
    """Rules 1, 3, 4 and 5 of `core/snowflake.py`, one id after another, as plainly as they can be said."""

    layout: Layout
    draw: random.Random
    window: Window | None = None
    t: int = -1
    sequence: int = 0
    highest: int = -1

    def next(self, now: int) -> int | Why:
        window = self.window
        if window is None:
            return Why.NO_WINDOW
        entered = window.start <= self.t
        if now < self.highest - MAX_BACKWARD or now < 0:
            return Why.CLOCK_BACKWARDS
        if entered and now <= self.t and self.sequence < self.layout.sequences:
            return self._issue()
        self.highest = max(self.highest, now)
        ahead = now <= self.t
        t = self.t + 1 if ahead else now
        if t - self.highest > self.layout.span_units(LEAD_MS):
            return Why.NOT_YET if not entered else Why.OVER_RATE
        if t >= min(window.end, self.layout.end_units):
            return Why.WINDOW_ENDED
        bits = self.layout.sequence_bits - 5
        self.t = t
        self.sequence = self.draw.getrandbits(bits) if bits > 0 and not ahead else 0
        return self._issue()

    def _issue(self) -> int:
        assert self.window is not None
        self.sequence += 1
        return self.layout.compose(self.t, self.window.worker, self.sequence - 1)

    def adopt(self, window: Window) -> None:
        self.window, self.t, self.sequence, self.highest = window, window.start - 1, 0, -1


class SnowflakeMachine(RuleBasedStateMachine):
    """One node with the readings of an arbitrary clock; the store is a floor per worker id."""

    @initialize(layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 99))
    def begin(self, layout: Layout, seed: int) -> None:
        self.layout = layout
        self.one = SnowflakeGenerator(layout, max_backward=MAX_BACKWARD, getrandbits=random.Random(seed).getrandbits)
        self.many = SnowflakeGenerator(layout, max_backward=MAX_BACKWARD, getrandbits=random.Random(seed).getrandbits)
        self.model = Reference(layout, random.Random(seed))
        self.now = 1000
        self.floors = [0] * layout.workers
        self.fences = [0] * layout.workers
        self.issued: set[int] = set()
        self.last = -1
        self.readings: list[int] = []

    @rule(worker=st.integers(0, 1), length=st.integers(1, 60))
    def claim(self, worker: int, length: int) -> None:
        start = max(self.floors[worker], self.now, 0)
        self.fences[worker] += 1
        window = Window("default", worker, self.fences[worker], f"{len(self.issued)}", start, start + length)
        self.floors[worker] = window.end
        for each in (self.one, self.many, self.model):
            each.adopt(window)
        self.last = -1
        self.readings = []

    @rule(more=st.integers(-20, 60))
    def extend(self, more: int) -> None:
        held = self.model.window
        if held is not None:
            asked = replace(held, end=max(held.start + 1, held.end + more))
            self.one.extend(asked)
            self.many.extend(asked)
            self.model.window = held.extended(asked.end)
            assert self.one.window == self.model.window
            self.floors[held.worker] = max(self.floors[held.worker], asked.end)

    @rule()
    def retire(self) -> None:
        held = self.model.window
        given = self.one.retire()
        assert self.many.retire() == given
        self.model.window = None
        if held is None:
            assert given is None
        else:
            assert given is not None
            window, floor = given
            assert window == held
            assert held.start <= floor <= held.end
            assert all(decoded < floor for decoded in self.times(held.worker))
            self.floors[held.worker] = floor

    @rule(by=st.integers(-3, 12) | st.integers(-60, 100) | st.sampled_from([-5000, 5000]))
    def time_passes(self, by: int) -> None:
        self.now += by

    @rule(count=st.integers(1, 5) | st.integers(1, 2000))
    def take(self, count: int) -> None:
        spans = self.many.take_many(self.now, count)
        ids = [id_ for span in spans for id_ in span]
        assert len(ids) <= count
        for id_ in ids:
            assert self.one.next(self.now) == id_
            assert self.model.next(self.now) == id_
            self.note(id_)
        if len(ids) < count:
            why = self.model.next(self.now)
            assert self.one.next(self.now) is None
            assert self.one.why is self.many.why is why
        self.readings.append(self.now)

    def note(self, id_: int) -> None:
        window, decoded = self.model.window, self.layout.decode(id_)
        assert window is not None
        assert id_ not in self.issued
        assert id_ > self.last or self.last == -1
        assert decoded.worker == window.worker
        assert window.start <= decoded.units < window.end
        highest = max([*self.readings, self.now])
        lead = self.layout.span_units(LEAD_MS)
        assert decoded.units - highest <= lead
        assert self.now >= highest - MAX_BACKWARD - lead
        if self.last != -1 and self.layout.decode(self.last).units < decoded.units:
            assert decoded.sequence <= max(0, self.layout.sequences // 32 - 1)
        self.issued.add(id_)
        self.last = id_

    def times(self, worker: int) -> list[int]:
        held = self.model.window
        start = held.start if held is not None else 0
        decoded = [self.layout.decode(id_) for id_ in self.issued]
        return [each.units for each in decoded if each.worker == worker and each.units >= start]

    @invariant()
    def both_ways_hold_the_same_window(self) -> None:
        if hasattr(self, "one"):
            assert self.one.window == self.many.window == self.model.window


class BufferMachine(RuleBasedStateMachine):
    """A buffer beside the list of all numbers that it holds."""

    refills = Bundle("refills")

    def __init__(self) -> None:
        super().__init__()
        self.said = 0
        self.buffer = SegmentBuffer(self.say)
        self.held: list[list[int]] = []
        self.begun = 0
        self.end = 0
        self.pending = False

    def say(self) -> None:
        assert not self.pending or not self.held, "said twice that a refill is due, with numbers left"
        assert len(self.held) <= 1, "a refill is due though another range lies ahead"
        if self.held:
            assert 10 * (self.begun - len(self.held[0])) >= self.begun, "due before a tenth was used"
        self.pending = True
        self.said += 1

    @rule(target=refills, gap=st.integers(0, 5), length=st.integers(1, 45))
    def ask(self, gap: int, length: int) -> Range:
        granted = Range("order", self.end + gap, self.end + gap + length)
        self.end = granted.end
        return granted

    @rule(granted=consumes(refills))
    def put(self, granted: Range) -> None:
        self.pending = False
        self.buffer.put(granted)
        self.held.append(list(range(granted.start, granted.end)))
        if len(self.held) == 1:
            self.begun = len(granted)

    @rule()
    def take(self) -> None:
        expected = self.first(1)
        number = self.buffer.take()
        assert ([] if number is None else [number]) == expected
        self.drop(expected)

    @rule(count=st.integers(0, 120))
    def take_many(self, count: int) -> None:
        expected = self.first(count)
        self.drop(expected)
        spans = self.buffer.take_many(count)
        assert [number for span in spans for number in span] == expected
        assert all(before.stop != after.start for before, after in pairwise(spans))

    @rule(size=st.integers(1, 50))
    def take_range(self, size: int) -> None:
        current = self.held[0] if self.held else []
        fits = len(current) >= size
        expected = current[:size] if fits else None
        if expected:
            self.drop(expected)
        span = self.buffer.take_range(size)
        assert (None if span is None else list(span)) == expected

    @rule()
    def clear(self) -> None:
        self.held.clear()
        self.pending = False
        self.buffer.clear()

    def first(self, count: int) -> list[int]:
        return [number for held in self.held for number in held][:count]

    def drop(self, numbers: list[int]) -> None:
        for _ in numbers:
            self.held[0].pop(0)
            if not self.held[0]:
                self.held.pop(0)
                if self.held:
                    self.begun = len(self.held[0])

    @invariant()
    def what_is_left_is_what_was_put_and_not_taken(self) -> None:
        assert self.buffer.left == sum(map(len, self.held))


TestSnowflake = SnowflakeMachine.TestCase
TestSnowflake.settings = STABLE
TestBuffer = BufferMachine.TestCase
TestBuffer.settings = STABLE
