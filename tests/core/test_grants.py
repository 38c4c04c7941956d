import pytest

from goloves.core.grants import MAX_NUMBER, Range, Window


def test_a_range_is_half_open_and_knows_its_length() -> None:
    assert len(Range("order", 1, 11)) == 10
    assert len(Range("order", 0, 1)) == 1
    assert len(Range("order", MAX_NUMBER - 1, MAX_NUMBER)) == 1


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (6, 5), (0, MAX_NUMBER + 1)])
def test_what_is_empty_negative_or_over_63_bits_is_no_range(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        Range("order", start, end)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (6, 5)])
def test_what_is_empty_or_negative_is_no_window(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a window"):
        Window("default", 1, 1, "nonce", start, end)


def test_an_extended_window_keeps_fence_and_nonce_and_never_ends_sooner() -> None:
    window = Window("default", 1, 7, "nonce", 10, 20)
    assert window.extended(30) == Window("default", 1, 7, "nonce", 10, 30)
    assert window.extended(15) == window
