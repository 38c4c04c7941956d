"""What says events: fixed sentences with fields, over Python's logging. How they look, and where, is `log.py`'s affair.

Rules:
1. Until somebody sets logging up, nothing is said but what logging says by itself: a program that embeds Goloves
   decides what is written where.
2. An event below the level that is in force costs one look.
"""

import logging
from typing import Any

ANSWER = "is_answer"
"""The attribute of a record that answers somebody's order."""


class Event(dict[str, Any]):
    """The fields of an event, `event` among them; as text, for whoever knows no fields, they are one line."""

    def __str__(self) -> str:
        return " ".join([str(self["event"]), *(f"{name}={self[name]!r}" for name in self if name != "event")])


class Logger:
    """Says events under one name."""

    __slots__ = ("_extra", "_logger")

    def __init__(self, name: str, extra: dict[str, Any] | None = None) -> None:
        self._logger = logging.getLogger(name)
        self._extra = extra

    def debug(self, event: str, **fields: Any) -> None:
        """Say what helps who looks for a fault."""
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Say what went as it should."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Say what somebody should look at some day."""
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Say what somebody has to look at; `exc_info` is an error to show, True the one that is being handled."""
        self._say(logging.ERROR, event, fields, fields.pop("exc_info", None))

    def exception(self, event: str, **fields: Any) -> None:
        """Say an error, with the one that is being handled."""
        self._say(logging.ERROR, event, fields, True)

    def critical(self, event: str, **fields: Any) -> None:
        """Say what keeps this process from its work."""
        self._say(logging.CRITICAL, event, fields)

    def _say(self, level: int, event: str, fields: dict[str, Any], exc_info: Any = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Event(event=event, **fields), exc_info=exc_info, extra=self._extra, stacklevel=3)


def get_logger(name: str, *, answers: bool = False) -> Logger:
    """Give what says events under a name: `goloves.` and the part of the program.

    `answers`: each event answers somebody's order, so none is left out for having been said before.
    """
    return Logger(name, {ANSWER: True} if answers else None)
