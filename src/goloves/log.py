"""What the program says while it runs: structlog over logging, to standard error.

Rules:
1. One line an event, as text for people or as JSON for collectors. An event is a fixed sentence; what varies stands in
   its fields, so that events can be counted and searched.
2. What repeats is said once and then rarely: the same event with the same fields once a minute, and of one event at
   most `MOST_A_MINUTE` lines. The next line that passes tells how many did not. So a store that is away for a night
   fills no disk.
3. No event holds a secret. A store URL that slips into a field is masked all the same.
"""

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Literal

import structlog
from structlog.typing import EventDict, Processor

from goloves.config.settings import LogConfig, mask_url

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
        if record.levelno <= logging.DEBUG:
            return True
        fields = record.msg if isinstance(record.msg, dict) else {}
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
        if left_out and isinstance(record.msg, dict):
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


_VOLATILE = frozenset(["timestamp", "left_out", "reason", "_record", "_logger", "_from_structlog"])
"""Fields that differ from line to line without making it another message."""


def _mask(logger: object, name: str, event: EventDict) -> EventDict:
    for field, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[field] = "\n".join(map(mask_url, value.split("\n")))
    return event


def _name(node: int, logger: object, name: str, event: EventDict) -> EventDict:
    return {"node": node, **event}


def _order(logger: object, name: str, event: EventDict) -> EventDict:
    first = ("timestamp", "level", "logger", "node", "event")
    return {**{field: event[field] for field in first if field in event}, **event}


def set_up(config: LogConfig, stream: IO[str] | None = None, *, node: int | None = None) -> None:
    """Send everything that is logged, by structlog or by a library through logging, to `stream` (standard error).

    `node`: the number of this process among those that share the stream; each line names it.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if node is not None:
        shared.append(partial(_name, node))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(Repeats())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # A string, and not frames with their variables: those hold passwords.
                structlog.processors.format_exc_info,
                _mask,
                *_rendering(config.format, stream),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    for noisy in ("sqlalchemy", "alembic", "aiosqlite", "asyncio", "httpx2", "httpcore2", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _rendering(form: Literal["text", "json"], stream: IO[str]) -> list[Processor]:
    if form == "json":
        return [_order, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return [
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    ]
