"""Field values: lists and Accept."""

import time

import pytest

from goloves.wire.fields import choose, members

JSON, TEXT = b"application/json", b"text/plain"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b" a , b\t,c", [b"a", b"b", b"c"]),
        (b",, a,,", [b"a"]),
        (b'a="x,y", b', [b'a="x,y"', b"b"]),
        (b'a="x\\",y", b', [b'a="x\\",y"', b"b"]),
    ],
)
def test_a_list_splits_at_commas_outside_quotes(value: bytes, expected: list[bytes]) -> None:
    assert members(value) == expected


@pytest.mark.parametrize("value", [b'a="x,y', b'"', b'a,"', b'\\",b', b'"' * 1000, b'",' * 1000])
def test_a_list_with_an_open_quote_ends_somehow(value: bytes) -> None:
    assert isinstance(members(value), list)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        (b"", JSON),
        (b"*/*", JSON),
        (b"application/json", JSON),
        (b"APPLICATION/JSON", JSON),
        (b"text/plain", TEXT),
        (b"text/*", TEXT),
        (b"text/plain, application/json", TEXT),
        (b"application/json, text/plain, */*", JSON),
        (b"text/plain;q=0.5, application/json;q=0.4", TEXT),
        (b"text/plain;q=0.5, */*;q=0.8", JSON),
        (b"text/plain, */*", TEXT),
        (b"application/json;q=0, */*", TEXT),
        (b"text/html, */*;q=0.1", JSON),
        (b"text/html", None),
        (b"*/*;q=0", None),
        (b"text/plain;q=0.0, application/json;q=0.000", None),
        (b"nonsense", JSON),
        (b"*/plain", None),
        (b"text/plain;charset=utf-8;q=0.9, application/json;q=0.8", TEXT),
        (b"text/plain;q=2", TEXT),
    ],
)
def test_the_best_liked_offer_is_chosen(accept: bytes | None, expected: bytes | None) -> None:
    assert choose(accept, (JSON, TEXT)) == expected


@pytest.mark.parametrize(
    "value", [b'"\\' * 4000, b"a" * 8000 + b'"', b"a/b" + b" ;" * 4000 + b"\x00", b"a/b;q=0." * 1000]
)
def test_no_value_takes_time_out_of_proportion(value: bytes) -> None:
    begun = time.process_time()
    members(value)
    choose(value, (JSON, TEXT))
    assert time.process_time() - begun < 0.5, "some milliseconds are expected; going back and forth takes seconds"
