from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from goloves.core.layout import (
    JS53_EPOCH_MS,
    LEAF_EPOCH_MS,
    MAX_EPOCH_MS,
    SONYFLAKE_EPOCH_MS,
    Layout,
    preset,
)
from goloves.errors import ConfigError, InvalidId, TimeUsedUp

PRESETS = [preset("leaf"), preset("js53"), preset("sonyflake"), preset("uid", 1_700_000_000_000)]


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    worker_bits = draw(st.integers(1, 22))
    sequence_bits = draw(st.integers(1, min(24, 63 - 24 - worker_bits)))
    return Layout(
        time_bits=draw(st.integers(24, min(48, 63 - worker_bits - sequence_bits))),
        worker_bits=worker_bits,
        sequence_bits=sequence_bits,
        worker_first=draw(st.booleans()),
        unit_ms=draw(st.sampled_from([1, 10, 100, 1000])),
        epoch_ms=draw(st.integers(0, MAX_EPOCH_MS - 1)),
    )


any_layout = st.sampled_from(PRESETS) | layouts()


# --- what a layout is ---


@pytest.mark.parametrize(
    ("name", "bits", "unit_ms", "epoch_ms", "worker_first", "ends"),
    [
        ("leaf", (41, 10, 12), 1, 1_288_834_974_657, True, 2080),
        ("js53", (38, 7, 8), 10, 1_735_689_600_000, True, 2112),
        ("sonyflake", (39, 16, 8), 10, 1_735_689_600_000, False, 2199),
    ],
)
def test_a_preset_has_the_bits_unit_and_epoch_of_its_model(
    name: str, bits: tuple[int, int, int], unit_ms: int, epoch_ms: int, worker_first: bool, ends: int
) -> None:
    layout = preset(name)
    assert (layout.time_bits, layout.worker_bits, layout.sequence_bits) == bits
    assert (layout.unit_ms, layout.epoch_ms, layout.worker_first) == (unit_ms, epoch_ms, worker_first)
    assert datetime.fromtimestamp(layout.end_unix_ms / 1000, UTC).year == ends


def test_the_preset_uid_has_baidu_s_bits_and_asks_for_an_epoch() -> None:
    assert preset("uid", 5) == Layout(28, 22, 13, unit_ms=1000, epoch_ms=5)
    with pytest.raises(ConfigError, match="'uid' asks for an epoch: set epoch_ms"):
        preset("uid")


def test_an_unknown_preset_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="'laef'; there are leaf, js53, sonyflake, uid"):
        preset("laef")


def test_a_preset_at_another_epoch_differs_in_nothing_else() -> None:
    assert preset("js53", 0) == Layout(38, 7, 8, unit_ms=10, epoch_ms=0)
    assert preset("sonyflake", 7) == Layout(39, 16, 8, worker_first=False, unit_ms=10, epoch_ms=7)
    assert preset("leaf", LEAF_EPOCH_MS) is preset("leaf")
    assert (preset("js53").epoch_ms, preset("sonyflake").epoch_ms) == (JS53_EPOCH_MS, SONYFLAKE_EPOCH_MS)


def test_every_id_of_js53_is_exact_in_javascript() -> None:
    layout = preset("js53")
    assert layout.compose(layout.end_units - 1, layout.workers - 1, layout.sequences - 1) == 2**53 - 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"time_bits": 42}, "take 64 bits together; an id has at most 63"),
        ({"time_bits": 23}, "time_bits is 23; between 24 and 48"),
        ({"time_bits": 49, "worker_bits": 1}, "time_bits is 49; between 24 and 48"),
        ({"time_bits": 40, "worker_bits": 0}, "worker_bits is 0; between 1 and 22"),
        ({"time_bits": 24, "worker_bits": 23}, "worker_bits is 23; between 1 and 22"),
        ({"sequence_bits": 0}, "sequence_bits is 0; between 1 and 24"),
        ({"time_bits": 24, "sequence_bits": 25}, "sequence_bits is 25; between 1 and 24"),
        ({"time_bits": -100}, "take -78 bits together"),
        ({"unit_ms": 2}, "unit_ms is 2; 1, 10, 100 or 1000"),
        ({"epoch_ms": -1}, "epoch_ms is -1"),
        ({"epoch_ms": MAX_EPOCH_MS}, "before the year 10000"),
    ],
)
def test_bits_units_and_epochs_that_make_no_id_are_refused(fields: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Layout(**fields)  # type: ignore[arg-type]
    assert says in caught.value.message


def test_a_layout_describes_itself_in_the_order_of_its_fields() -> None:
    assert preset("leaf").describe() == "time 41, worker 10, sequence 12 bits at 1 ms since 1288834974657"
    assert preset("sonyflake").describe() == "time 39, sequence 8, worker 16 bits at 10 ms since 1735689600000"


@given(layouts(), layouts())
def test_fingerprints_differ_exactly_if_layouts_do(one: Layout, other: Layout) -> None:
    assert (one.fingerprint == other.fingerprint) == (one == other)
    assert len(one.fingerprint) == 64


@pytest.mark.parametrize(
    "other",
    [
        Layout(40, 10, 12),
        Layout(41, 9, 12),
        Layout(41, 10, 11),
        Layout(41, 12, 10),
        Layout(worker_first=False),
        Layout(unit_ms=10),
        Layout(epoch_ms=LEAF_EPOCH_MS + 1),
    ],
)
def test_w9_every_field_of_a_layout_counts_in_its_fingerprint(other: Layout) -> None:
    assert other.fingerprint != Layout().fingerprint


def test_w9_the_fingerprint_of_the_default_layout_never_changes() -> None:
    assert Layout().fingerprint == "580d4612399c0bb0a254c062e217c11b93c1461a301ed6c4ce507b48f743729f"


# --- ids ---


@given(any_layout, st.data())
def test_an_id_is_taken_apart_into_what_it_was_put_together_from(layout: Layout, data: st.DataObject) -> None:
    units = data.draw(st.integers(0, layout.end_units - 1))
    worker = data.draw(st.integers(0, layout.workers - 1))
    sequence = data.draw(st.integers(0, layout.sequences - 1))
    id_ = layout.compose(units, worker, sequence)
    decoded = layout.decode(id_)
    assert (decoded.units, decoded.worker, decoded.sequence) == (units, worker, sequence)
    assert decoded.unix_ms == layout.epoch_ms + units * layout.unit_ms == layout.unix_ms(units)
    assert 0 <= id_ < 2**63


@given(any_layout, st.data())
def test_every_number_within_the_bits_is_an_id_that_goes_together_again(layout: Layout, data: st.DataObject) -> None:
    id_ = data.draw(st.integers(0, 2**layout.bits - 1))
    decoded = layout.decode(id_)
    assert layout.compose(decoded.units, decoded.worker, decoded.sequence) == id_


@given(any_layout)
def test_the_first_and_the_last_id_fill_the_bits(layout: Layout) -> None:
    assert layout.compose(0, 0, 0) == 0
    assert layout.compose(layout.end_units - 1, layout.workers - 1, layout.sequences - 1) == 2**layout.bits - 1


@given(any_layout, st.data())
def test_ids_sort_by_time_whatever_their_other_fields(layout: Layout, data: st.DataObject) -> None:
    units = data.draw(st.integers(1, layout.end_units - 1))
    assert layout.compose(units - 1, layout.workers - 1, layout.sequences - 1) < layout.compose(units, 0, 0)


def test_the_lower_fields_stand_in_the_order_that_the_layout_names() -> None:
    assert Layout(41, 10, 12).compose(1, 2, 3) == 1 << 22 | 2 << 12 | 3
    assert Layout(41, 10, 12, worker_first=False).compose(1, 2, 3) == 1 << 22 | 3 << 10 | 2


@given(any_layout, st.data())
def test_w2_a_field_that_does_not_fit_is_refused_and_never_wrapped(layout: Layout, data: st.DataObject) -> None:
    for place, limit in enumerate((layout.end_units, layout.workers, layout.sequences)):
        fields = [0, 0, 0]
        fields[place] = data.draw(st.integers(max_value=-1) | st.integers(min_value=limit))
        with pytest.raises(ValueError, match=f"{('time', 'worker', 'sequence')[place]} .* does not fit"):
            layout.compose(*fields)


@given(any_layout, st.integers(min_value=1))
def test_a_negative_number_is_no_id(layout: Layout, number: int) -> None:
    with pytest.raises(InvalidId, match="not negative"):
        layout.decode(-number)


@given(any_layout, st.integers(min_value=0))
def test_a_number_over_the_bits_is_no_id_and_a_long_one_is_not_repeated(layout: Layout, more: int) -> None:
    with pytest.raises(InvalidId, match=f"more than the {layout.bits} bits") as caught:
        layout.decode(2**layout.bits + more)
    assert len(caught.value.message) < 100


def test_a_number_of_a_thousand_digits_is_answered_shortly() -> None:
    with pytest.raises(InvalidId, match="the id has more than the 63 bits of this layout"):
        Layout().decode(10**1000)


# --- time ---


@given(any_layout, st.data())
def test_w2_a_unit_holds_its_milliseconds_and_no_other(layout: Layout, data: st.DataObject) -> None:
    units = data.draw(st.integers(0, layout.end_units - 1))
    begins = layout.unix_ms(units)
    assert layout.units(begins) == layout.units(begins + layout.unit_ms - 1) == units
    if units:
        assert layout.units(begins - 1) == units - 1


@given(any_layout)
def test_w2_before_the_epoch_and_past_the_last_unit_there_is_no_time(layout: Layout) -> None:
    assert layout.units(layout.epoch_ms) == 0
    assert layout.units(layout.end_unix_ms - 1) == layout.end_units - 1
    with pytest.raises(TimeUsedUp, match=r"before the layout's epoch .* set the clock right"):
        layout.units(layout.epoch_ms - 1)
    with pytest.raises(TimeUsedUp, match=r"ran out at .* make a new space"):
        layout.units(layout.end_unix_ms)


@given(any_layout, st.integers(0, 10**9))
def test_a_span_of_time_is_covered_by_whole_units(layout: Layout, milliseconds: int) -> None:
    units = layout.span_units(milliseconds)
    assert units >= 1
    assert units * layout.unit_ms >= milliseconds
    assert units == 1 or (units - 1) * layout.unit_ms < milliseconds


SMALL = Layout(24, 1, 1, unit_ms=10, epoch_ms=1000)


@given(st.integers(-200, 1500), st.integers(-200, 1500))
def test_the_id_span_of_a_time_span_holds_just_the_ids_of_units_that_begin_in_it(begin: int, end: int) -> None:
    span = SMALL.id_span(begin, end)
    ids = range(SMALL.compose(60, 0, 0))
    expected = [id_ for id_ in ids if begin <= SMALL.decode(id_).unix_ms < end]
    assert [id_ for id_ in ids if id_ in span] == expected
    assert len(span) == len(expected)


@given(any_layout, st.integers(0, 2**60), st.integers(0, 2**60))
def test_an_id_span_is_cut_to_the_layout(layout: Layout, begin: int, end: int) -> None:
    span = layout.id_span(begin, end)
    assert 0 <= span.start <= span.stop <= 2**layout.bits
    assert span.step == 1


@given(any_layout)
def test_the_id_span_of_all_time_is_all_ids_and_that_of_none_is_none(layout: Layout) -> None:
    assert layout.id_span(0, 2**70) == range(2**layout.bits)
    assert len(layout.id_span(layout.end_unix_ms, 2**70)) == 0
    assert len(layout.id_span(layout.epoch_ms + 1, layout.epoch_ms + 1)) == 0
    assume(layout.epoch_ms > 0)
    assert len(layout.id_span(0, layout.epoch_ms)) == 0
