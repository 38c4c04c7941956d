"""How answers look on the wire: status, headers, and problems (RFC 9457).

Rules:
1. Every answer says its length and date, and every answer with an id says `Cache-Control: no-store` (SAFETY P5): a
   proxy that keeps it, or joins two requests into one, would give an id twice.
2. Which error becomes which status stands in `STATUS`, and nowhere else.
"""

import math
from email.utils import formatdate
from http import HTTPStatus

import msgspec

from goloves.errors import Exhausted, GolovesError, InvalidRequest, LimitExceeded, NotFound, Unavailable

TEXT = b"text/plain;charset=UTF-8"
"""As Leaf spells it."""
JSON = b"application/json"
LEAF_JSON = b"application/json;charset=UTF-8"
PROBLEM = b"application/problem+json"

NO_STORE = b"Cache-Control: no-store\r\n"
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"

STATUS: tuple[tuple[type[GolovesError], int], ...] = (
    (InvalidRequest, 400),
    (NotFound, 404),
    (LimitExceeded, 429),
    (Exhausted, 500),
    (Unavailable, 503),
    (GolovesError, 500),
)
"""The first that fits decides."""

LONGEST_SINGLE = 32
"""Bytes of the longest body with a single id: `{"ids":["` and `"]}` around 19 digits, and one more for a newline."""

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    413: b"Content Too Large",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
}


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An answer, but for what depends on the connection and the moment."""

    status: int
    content_type: bytes = b""
    """Empty if there is no body."""
    body: bytes = b""
    headers: bytes = b""
    """Further header lines, each with its CRLF."""

    def encode(self, date: bytes, connection: bytes = b"", *, headless: bool = False) -> bytes:
        """Put the bytes together; `headless` leaves out the body, as HEAD wants it (RFC 9110 §9.3.2)."""
        kind = b"Content-Type: %b\r\n" % self.content_type if self.content_type else b""
        return b"HTTP/1.1 %d %b\r\n%b%b%bDate: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            self.status,
            _REASONS[self.status],
            kind,
            self.headers,
            connection,
            date,
            len(self.body),
            b"" if headless else self.body,
        )


class Heads(list[bytes]):
    """The heads of answers with a single id, by the length of their bodies; renewed in place each second."""

    def __init__(self, content_type: bytes) -> None:
        super().__init__()
        self.content_type = content_type

    def renew(self, date: bytes) -> None:
        """Put this date into all of them."""
        ids = Answer(200, self.content_type, b"", NO_STORE).encode(date)
        start = ids.removesuffix(b"0\r\n\r\n")
        self[:] = [b"%b%d\r\n\r\n" % (start, length) for length in range(LONGEST_SINGLE + 1)]


def http_date(unix_seconds: float) -> bytes:
    """Write a time as HTTP does (RFC 9110 §5.6.7)."""
    return formatdate(unix_seconds, usegmt=True).encode()


def problem(
    status: int, code: str, detail: str, *, retry_after: float | None = None, headers: bytes = b"", **more: object
) -> Answer:
    """Give an error as problem details; `code` is stable, `detail` is for people."""
    title = _REASONS[status].decode()
    body = msgspec.json.encode({"title": title, "status": status, "code": code, "detail": detail, **more})
    if retry_after is not None:
        headers += b"Retry-After: %d\r\n" % max(1, math.ceil(retry_after))
    return Answer(status, PROBLEM, body, headers + NO_STORE)


def error_answer(error: GolovesError) -> Answer:
    """Give the answer that an error becomes."""
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    return problem(status, error.code, error.message, retry_after=error.retry_after)
