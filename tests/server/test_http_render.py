"""Many ids as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goloves.server.http.render import join_ids

starts = st.integers(0, 5000) | st.integers(0, 2**63 - 10_000)
spans = st.builds(
    lambda start, count, step: range(start, start + count * step, step),
    starts,
    st.integers(0, 3000),
    st.sampled_from([1, 1, 1, 2, 256]),
)


@given(st.lists(spans, max_size=4), st.sampled_from([b"\n", b'","']))
def test_ids_are_written_as_if_one_by_one(given_spans: list[range], separator: bytes) -> None:
    expected = separator.join(b"%d" % number for span in given_spans for number in span)
    assert join_ids(given_spans, separator) == expected


@pytest.mark.parametrize("start", [0, 1, 998, 999, 1000, 1001, 2**63 - 1002])
@pytest.mark.parametrize("count", [1, 2, 1000, 1001])
def test_the_ends_of_a_thousand_are_right(start: int, count: int) -> None:
    assert join_ids([range(start, start + count)], b",") == ",".join(map(str, range(start, start + count))).encode()
