import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from goloves.config import LogConfig
from goloves.log import MOST_A_MINUTE, QUIET, REMEMBERED, Repeats, set_up
from goloves.logger import Event, get_logger


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def record(event: str, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    return logging.LogRecord("goloves", level, "", 0, Event(event=event, **fields), (), None)


def left_out(line: logging.LogRecord) -> int:
    fields: Any = line.msg
    return int(fields.get("left_out", 0))


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_text_is_one_line_an_event_with_its_fields(out: io.StringIO) -> None:
    set_up(LogConfig(), out)
    get_logger("goloves.test").info("the store answers again", store="segments")
    [line] = out.getvalue().splitlines()
    assert line.endswith("Z [info     ] the store answers again [goloves.test] store=segments")


def test_whoever_sets_logging_up_otherwise_gets_an_event_and_its_fields_as_one_line(out: io.StringIO) -> None:
    handler = logging.StreamHandler(out)
    logging.getLogger().addHandler(handler)
    get_logger("goloves.test").warning("the store is away", store="segments", left=2)
    assert out.getvalue() == "the store is away store='segments' left=2\n"


def test_on_a_terminal_the_same_line_has_colors(monkeypatch: pytest.MonkeyPatch, out: io.StringIO) -> None:
    monkeypatch.setattr(out, "isatty", lambda: True)
    set_up(LogConfig(), out)
    get_logger("goloves.test").warning("the store is away", store="a b", tags=[1], node_name="")
    plain = re.sub(r"\x1b\[\d+m", "", out.getvalue())
    assert len(plain) < len(out.getvalue())
    assert plain.endswith("Z [warning  ] the store is away [goloves.test] node_name='' store='a b' tags=[1]\n")


@pytest.mark.parametrize(("form", "before"), [("text", "it failed [goloves.test]\n"), ("json", '"exception": "')])
def test_an_error_is_shown_with_its_traceback_and_no_variables(form: str, before: str, out: io.StringIO) -> None:
    set_up(LogConfig(format=form), out)  # type: ignore[arg-type]
    hidden = "geheim"
    try:
        raise ValueError(len(hidden))
    except ValueError as error:
        get_logger("goloves.test").error("it failed", exc_info=error)
    assert f"{before}Traceback (most recent call last):" in out.getvalue()
    assert "ValueError: 6" in out.getvalue()
    assert "geheim" not in out.getvalue()


def test_json_is_one_object_an_event_with_the_same_first_fields(out: io.StringIO) -> None:
    set_up(LogConfig(format="json"), out)
    get_logger("goloves.test").error("ö", tag="order")
    assert "ö" in out.getvalue()
    [line] = lines(out)
    assert list(line) == ["timestamp", "level", "logger", "event", "tag"]


def test_what_libraries_log_and_warn_of_comes_out_alike(out: io.StringIO) -> None:
    set_up(LogConfig(format="json"), out)
    logging.getLogger("somebody").warning("has %s", "spoken")
    logging.getLogger("sqlalchemy.engine").info("not of interest")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("careful", UserWarning, stacklevel=1)
    events = [line["event"] for line in lines(out)]
    assert events[0] == "has spoken"
    assert "careful" in str(events[1])
    assert len(events) == 2


def test_what_is_below_the_level_is_not_said(out: io.StringIO) -> None:
    set_up(LogConfig(level="warning"), out)
    get_logger("goloves.test").info("unheard")
    assert out.getvalue() == ""


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_holds_the_password_of_a_store_url_not_even_a_traceback(form: str, out: io.StringIO) -> None:
    set_up(LogConfig(format=form), out)  # type: ignore[arg-type]
    secret = "mysql://u:geheim@h/d"
    try:
        raise ValueError(f"can't use {secret}")
    except ValueError:
        get_logger("goloves.test").exception("it failed", store=secret)
    shown = out.getvalue()
    assert "mysql://u:***@h/d" in shown
    assert "ValueError: can't use" in shown
    assert "geheim" not in shown


def test_the_same_line_is_said_once_and_then_once_a_minute_with_the_number_left_out() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    passed = []
    for second in range(int(3 * QUIET)):
        clock.now = 1000.0 + second
        line = record("the store is away", store="segments", reason=f"refused {second}")
        if repeats.filter(line):
            passed.append((second, left_out(line)))
    assert passed == [(0, 0), (60, 59), (120, 59)]


def test_lines_that_differ_in_a_field_are_all_said_up_to_a_number_a_minute() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    assert sum(repeats.filter(record("the tag was halted", tag=f"t{n}")) for n in range(1000)) == MOST_A_MINUTE
    assert repeats.filter(record("another event", tag="t1"))
    clock.now += QUIET
    line = record("the tag was halted", tag="new")
    assert repeats.filter(line)
    assert left_out(line) == 1000 - MOST_A_MINUTE


def test_debugging_is_never_left_out() -> None:
    repeats = Repeats(Clock())
    assert all(repeats.filter(record("x", logging.DEBUG)) for _ in range(100))


def test_an_answer_to_an_order_is_never_left_out(out: io.StringIO) -> None:
    set_up(LogConfig(format="json"), out)
    for number in range(2 * MOST_A_MINUTE):
        get_logger("goloves.test", answers=True).error("reload failed", reason=f"fault {number // 2}")
    assert len(lines(out)) == 2 * MOST_A_MINUTE
    assert list(lines(out)[0]) == ["timestamp", "level", "logger", "event", "reason"]


def test_what_is_remembered_is_bounded() -> None:
    repeats = Repeats(Clock())
    for number in range(3 * REMEMBERED):
        assert repeats.filter(record(f"event {number}"))
    assert len(repeats._lines) == len(repeats._events) == REMEMBERED


def test_lines_of_libraries_that_differ_in_their_arguments_are_different_lines() -> None:
    repeats = Repeats(Clock())

    def line(number: int) -> logging.LogRecord:
        return logging.LogRecord("somebody", logging.WARNING, "", 0, "number %d", (number,), None)

    assert [repeats.filter(line(number)) for number in (1, 2, 1)] == [True, True, False]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_password_shows_nowhere_however_deep_it_lies(form: Literal["text", "json"], out: io.StringIO) -> None:
    set_up(LogConfig(format=form), out)
    url = "mysql://user:geheim@db/leaf"
    get_logger("goloves.test").info(f"what {url}", urls=[url], by_name={"a": {"b": (url,)}}, odd={url})
    assert "geheim" not in out.getvalue()
    assert out.getvalue().count("mysql://user:") >= 4


def test_what_json_lacks_is_said_in_words(out: io.StringIO) -> None:
    set_up(LogConfig(format="json"), out)
    get_logger("goloves.test").info("odd", by_pair={(1, 2): float("nan")}, path=Path("/a"), none=None, yes=True)
    [line] = lines(out)
    assert (line["by_pair"], line["path"], line["none"], line["yes"]) == (
        {"(1, 2)": "nan"},
        "PosixPath('/a')",
        None,
        True,
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_library_s_message_may_be_of_any_kind(form: Literal["text", "json"], out: io.StringIO) -> None:
    set_up(LogConfig(format=form), out)
    logging.getLogger("library").warning({"a": 1, 2: "b"})
    assert "{'a': 1, 2: 'b'}" in out.getvalue()


def test_a_value_can_t_begin_a_line_of_its_own_nor_paint_the_terminal(out: io.StringIO) -> None:
    set_up(LogConfig(), out)
    get_logger("goloves.test").info("said", peer="a\nb\x1b[31m\u2028c")
    assert out.getvalue().endswith(r" peer='a\nb\x1b[31m\u2028c'" + "\n")


def test_a_record_says_which_line_of_the_program_said_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        get_logger("goloves.test").info("here")
    assert caplog.records[0].filename == Path(__file__).name
