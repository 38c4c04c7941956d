"""How what the program says while it runs looks, and where it goes: to standard error. `logger.py` says it.

Rules:
1. One line an event, as text for people or as JSON for collectors. An event is a fixed sentence; what varies stands in
   its fields, so that events can be counted and searched.
2. What repeats is said once and then rarely: the same event with the same fields once a minute, and of one event at
   most `MOST_A_MINUTE` lines. The next line that passes tells how many did not. So a store that is away for a night
   fills no disk. What answers a person's order is always said: whoever orders the same again wants to know again.
3. No event holds a secret. A store URL that slips into a field is masked all the same.
"""

import json
import logging
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, Final

from goloves.config.settings import LogConfig, mask_url
from goloves.logger import ANSWER, Event

QUIET = 60.0
"""Seconds for which the same line is not said again: an operator who looks sees it, a night of it is 500 lines."""

MOST_A_MINUTE = 20
"""Lines of one event a minute, whatever their fields: enough to see which tags are concerned, and bounded."""

REMEMBERED = 1000
"""Different lines that are remembered, some 300 KB; older ones are forgotten first."""


@dataclass(slots=True)
class _Said:
    at: float
    left_out: int = 0


class Repeats(logging.Filter):
    """Lets a line pass unless it was said a short while ago; see rule 2. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lines: OrderedDict[tuple[str, str], _Said] = OrderedDict()
        self._events: OrderedDict[str, tuple[float, int, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is written; one that follows on others left out gets their number."""
        if record.levelno <= logging.DEBUG or hasattr(record, ANSWER):
            return True
        fields = record.msg if isinstance(record.msg, Event) else {}
        event = str(fields.get("event", record.msg))
        now = self._clock()
        line = (event, repr([fields[name] for name in sorted(fields) if name not in _VOLATILE] or record.args))
        said = self._lines.get(line)
        if said is not None and now - said.at < QUIET:
            said.left_out += 1
            return False
        since, count, left_out = self._events.get(event, (now, 0, 0))
        if now - since >= QUIET:
            since, count = now, 0
        if count >= MOST_A_MINUTE:
            self._events[event] = (since, count, left_out + 1)
            return False
        left_out += said.left_out if said is not None else 0
        if left_out and isinstance(record.msg, Event):
            record.msg["left_out"] = left_out
        self._remember(line, event, now, (since, count + 1, 0))
        return True

    def _remember(self, line: tuple[str, str], event: str, now: float, count: tuple[float, int, int]) -> None:
        self._lines[line] = _Said(now)
        self._lines.move_to_end(line)
        self._events[event] = count
        self._events.move_to_end(event)
        for memory in (self._lines, self._events):
            while len(memory) > REMEMBERED:
                memory.popitem(last=False)


_VOLATILE = frozenset(["left_out", "reason"])
"""Fields that differ from line to line without making it another message."""

_QUOTED: Final = frozenset(" =\"'")
"""Characters with which a value in a line of text is put into quotes, so that one sees where it ends; what can't be
printed is never left bare, for it could begin a line of its own."""

_LEVEL_WIDTH: Final = 9

_COLORS: Final = {"debug": 32, "info": 32, "warning": 33, "error": 31, "critical": 31}
"""Colors of levels on a terminal, by their numbers there: green, yellow, red."""

_BOLD, _DIM, _CYAN = 1, 2, 36


class _Lines(logging.Formatter):
    """Makes a line of a record, of an event or of what a library logged; `node`: as `set_up` says."""

    def __init__(self, node: int | None) -> None:
        super().__init__()
        self._node = node

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if self._node is not None:
            fields["node"] = self._node
        fields |= record.msg if isinstance(record.msg, Event) else {"event": record.getMessage()}
        if record.exc_info:
            # A string, and not frames with their variables: those hold passwords.
            fields["exception"] = self.formatException(record.exc_info)
        return fields


class _Json(_Lines):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_plain(self._fields(record)), ensure_ascii=False)


class _Text(_Lines):
    """Text for people; an error's traceback on the lines that follow."""

    def __init__(self, node: int | None, *, colors: bool) -> None:
        super().__init__(node)
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields(record)
        timestamp, level, logger, event = (fields.pop(name) for name in ("timestamp", "level", "logger", "event"))
        exception = fields.pop("exception", None)
        paint = self._paint
        words = [
            paint(_DIM, timestamp),
            f"[{paint(_COLORS.get(level, _BOLD), level.ljust(_LEVEL_WIDTH))}]",
            paint(_BOLD, _masked(str(event))),
            f"[{paint(_BOLD, logger)}]",
            *(f"{paint(_CYAN, name)}={_shown(fields[name])}" for name in sorted(fields)),
        ]
        return " ".join(words) + ("" if exception is None else f"\n{_masked(exception)}")

    def _paint(self, color: int, text: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self._colors else text


def _masked(text: str) -> str:
    """Take the passwords out of the URLs that a text may hold (rule 3)."""
    return "\n".join(map(mask_url, text.split("\n"))) if "://" in text else text


def _plain(value: Any) -> Any:
    """Give what JSON has for a value, and for all that is in it."""
    if isinstance(value, str):
        return _masked(value)
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _masked(repr(value))


def _shown(value: Any) -> str:
    bare = isinstance(value, str) and value.isprintable() and not _QUOTED & set(value) and value != ""
    return _masked(value if bare else repr(value))


def set_up(config: LogConfig, stream: IO[str] | None = None, *, node: int | None = None) -> None:
    """Send everything that is logged, by this program or by a library, to `stream` (standard error).

    `node`: the number of this process among those that share the stream; each line names it.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.addFilter(Repeats())
    handler.setFormatter(_Json(node) if config.format == "json" else _Text(node, colors=stream.isatty()))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    for noisy in ("sqlalchemy", "alembic", "aiosqlite", "asyncio", "httpx2", "httpcore2", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
