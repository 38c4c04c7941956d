import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goloves.core.names import MAX_NAME_BYTES, check_name
from goloves.errors import InvalidName


@pytest.mark.parametrize(
    "name", ["order", "o", "a b", "订单", "é" * 64, "x" * 128, "😀" * 32, "a/b?c#d%20", "\u200b", "'; drop"]
)
def test_a_name_of_1_to_128_bytes_is_given_back_as_it_is(name: str) -> None:
    assert check_name(name) is name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is empty; it has 1 to 128 bytes"),
        ("x" * 129, "has 129 bytes of UTF-8; at most 128"),
        ("é" * 64 + "x", "has 129 bytes of UTF-8"),
        ("😀" * 33, "has 132 bytes of UTF-8"),
        ("a\x00b", "U+0000 at character 2"),
        ("a\n", "U+000A at character 2"),
        ("\x7f", "U+007F"),
        ("a\x85b", "U+0085"),
        ("a\x9fb", "U+009F"),
        ("a\u2028b", "U+2028"),
        ("a\u2029b", "U+2029"),
        ("a\ud800b", "U+D800"),
        (" a", "begins or ends with white space"),
        ("a ", "begins or ends with white space"),
        ("\u3000a", "begins or ends with white space"),
        ("a\xa0", "begins or ends with white space"),
        (" ", "begins or ends with white space"),
    ],
)
def test_a_name_that_breaks_a_rule_is_refused_saying_which(name: str, says: str) -> None:
    with pytest.raises(InvalidName) as caught:
        check_name(name)
    assert says in caught.value.message
    assert "tag" in caught.value.message


def test_the_message_speaks_of_what_is_named_and_does_not_repeat_a_long_name() -> None:
    with pytest.raises(InvalidName) as caught:
        check_name("q" * 1_000_000, "space")
    assert "of a space" in caught.value.message
    assert len(caught.value.message) < 200


def test_the_message_holds_no_control_character_of_the_name() -> None:
    with pytest.raises(InvalidName) as caught:
        check_name("\x1b[31m\u2028")
    assert caught.value.message.isprintable()


def test_names_that_unicode_holds_equal_stay_two_names() -> None:
    composed, decomposed = "é", "e\u0301"
    assert check_name(composed) != check_name(decomposed)


@given(st.text(alphabet=st.characters(codec=None), max_size=200))
def test_whatever_is_accepted_keeps_every_rule(name: str) -> None:
    try:
        check_name(name)
    except InvalidName:
        return
    assert 1 <= len(name.encode("utf-8")) <= MAX_NAME_BYTES
    assert name == name.strip()
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)


@given(st.text(alphabet=st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=32))
def test_every_short_name_of_visible_characters_is_accepted(name: str) -> None:
    assert check_name(name) == name
