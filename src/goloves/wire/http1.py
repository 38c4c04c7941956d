"""HTTP/1.1 requests, server side, without I/O (RFC 9110, RFC 9112): bytes in; requests, refusals and prompts out.

Rules:
1. Nothing that a peer sends raises. A fault is a `Refusal`, after which the connection has no further requests.
2. Strict where leniency lets two readers of one byte stream disagree: framing, line ends, white space, Host. What is
   accepted beyond the RFCs, and why, is listed in `tests/conformance/EXCEPTIONS.md`.
3. Whatever the peer chooses has a limit (`Limits`), and a fault shows with the first byte that makes it certain, not
   at the end of a head that may never come.
4. What comes out does not depend on how the bytes were cut into reads, but for prompts, which are left out once the
   body has begun to arrive.
5. The content of a body is dropped as it arrives: no request of this service has one that means anything.

Most requests are read by `_PLAIN`, one expression at the speed of C. What it matches means what the general way, line
by line and then `_meaning`, would have made of it; a test holds the two to each other.
"""

import functools
import re
from typing import Final

import msgspec

from goloves.wire.fields import AUTHORITY, TOKEN, VALUE, members


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may take of this side."""

    line: int = 8192
    """Bytes of the request line, and of one header line."""
    head: int = 16384
    """Bytes of the request line and all header lines together."""
    headers: int = 100
    """Header lines of one request."""
    body: int = 65536
    """Bytes of a body, which is read and dropped."""
    framing: int = 16384
    """Bytes of chunk sizes, chunk extensions and trailers of one body: an overhead without end would be free else."""

    @property
    def short(self) -> int:
        """Bytes up to which a head is within its limits whatever its lines."""
        return min(self.line, self.head)


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request whose bytes have all arrived."""

    line: bytes
    """Method, a space, and the target in origin form or `*`."""
    minor: int = 1
    """0 if the peer speaks HTTP/1.0, else 1."""
    keep_alive: bool = True
    """Whether the peer wants to send more on this connection (RFC 9112 §9.3)."""
    accept: bytes | None = None
    """The Accept field, its lines joined."""
    bare: bool = True
    """Whether it came without a body: an empty one of known length counts as none."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """What the peer sent can't be answered. Answer with `status`, then close the connection."""

    status: int
    detail: str
    """What is wrong, for the person who wrote the client."""


class Continue(msgspec.Struct, frozen=True, gc=False):
    """The peer waits before it sends the body: write `100 Continue` (RFC 9110 §10.1.1)."""


CONTINUE: Final = Continue()

_METHOD = rb"(?:" + TOKEN + rb"++)"
_TARGET = rb"[\x21\x22\x24-\x7e\x80-\xff]"  # visible, no fragment; raw UTF-8 as people type it into curl
_PLAIN = (
    rb"((?!CONNECT )" + _METHOD + rb" /" + _TARGET + rb"*+) HTTP/1\.1\r\n(?:"
    # A field whose name begins like none of those that mean something here needs no further look.
    rb"[!#$%&'*+\-.^_`|~0-9BDFGI-SU-Zbdfgi-su-z]" + TOKEN + rb"*+:" + VALUE + rb"*+\r\n"
    # These may be there once: the condition fails where the group has matched before.
    rb"|(?(2)(?!)|[Hh]ost: (" + AUTHORITY + rb")\r\n)"
    rb"|[Cc]onnection: [Kk]eep-[Aa]live\r\n"
    rb"|(?!(?i:host|connection|content-length|transfer-encoding|expect|accept):)"
    rb"[ACEHTaceht]" + TOKEN + rb"*+:" + VALUE + rb"*+\r\n"
    rb"|(?(3)(?!)|[Aa]ccept: ([\x21-\x7e]++(?: [\x21-\x7e]++)*)\r\n)"
    rb"|(?(4)(?!)|[Cc]ontent-[Ll]ength: (0)\r\n)"
    rb"){1,HEADERS}(?(2)|(?!))\r\n"
)  # fmt: skip
"""A request without a body by a client that keeps the connection, in the spelling of nearly all clients; group 1 is the
request line, 3 Accept; HEADERS stands for the most header lines.

No group here repeats possessively: Python 3.11.2 matches those wrongly. The alternatives exclude each other instead, so
that there is one way to match a line, and going back finds nothing in no time."""
_REQUEST_LINE = re.compile(rb"(" + _METHOD + rb") (" + _TARGET + rb"++) HTTP/([0-9])\.[0-9]\Z")
_FIELD = re.compile(TOKEN + rb"++:" + VALUE + rb"*+\Z")
_ILLEGAL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")
_ILLEGAL_IN_REQUEST_LINE = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")
_TELLING = re.compile(rb"(?i:\n(host|connection|content-length|transfer-encoding|expect|accept):)([^\r\n]*+)")
_ABSOLUTE = re.compile(rb"(?i:https?)://(" + AUTHORITY + rb")([/?]" + _TARGET + rb"*+|)\Z")
_HOST = re.compile(AUTHORITY + rb"\Z")
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSION = rb"[ \t]*+;[ \t]*+" + TOKEN + rb"++(?:[ \t]*+=[ \t]*+(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*\Z")


@functools.cache
def plain_head(headers: int) -> re.Pattern[bytes]:
    """Give the expression for the head of a plain request with up to `headers` header lines (see `_PLAIN`).

    Who uses it instead of `Requests` compares the length with `Limits.short` as well.
    """
    return re.compile(_PLAIN.replace(b"HEADERS", b"%d" % headers))


_IN_HEAD, _IN_BODY, _AT_CHUNK, _IN_CHUNK, _AFTER_CHUNK, _IN_TRAILERS, _OVER = range(7)


class Requests:
    """The requests on one connection.

    Call `receive` with what was read, then `next` until it gives None. Answer each request before asking for the next:
    nothing else keeps answers in order.
    """

    __slots__ = (
        "_buffer",
        "_checked",
        "_framing",
        "_left",
        "_limits",
        "_lines",
        "_pending",
        "_plain",
        "_pos",
        "_prompt",
        "_short",
        "_size",
        "_state",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._plain = plain_head(limits.headers)
        self._short = limits.short
        self._buffer = b""
        self._pos = 0
        """Where the unread part of the buffer begins."""
        self._state = _IN_HEAD
        self._checked = 0
        """Offset from `_pos` of the first line of an unfinished head that was not found good yet."""
        self._lines = 0
        """Lines of the unfinished head that were found good."""
        self._pending: Request | None = None
        """The request whose body is being dropped."""
        self._prompt = False
        """Whether that request's peer has to be told `100 Continue`."""
        self._left = 0
        """Bytes that are missing of the body or chunk."""
        self._size = 0
        """Bytes of the chunked body so far."""
        self._framing = 0
        """Bytes of its framing so far."""

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and belong to no request that was given out."""
        return len(self._buffer) - self._pos

    @property
    def amid(self) -> bool:
        """Whether a request has begun to arrive and is not complete."""
        return self._state != _IN_HEAD or self._pos < len(self._buffer)

    @property
    def begun(self) -> bool:
        """Whether a byte of a request has arrived that is not complete: a CR alone may belong to an empty line."""
        return self._state != _IN_HEAD or self._buffer[self._pos :] not in (b"", b"\r")

    @property
    def in_body(self) -> bool:
        """Whether a head is complete and its body is not."""
        return _IN_HEAD < self._state < _OVER

    def receive(self, data: bytes) -> None:
        """Take what was read from the peer."""
        if self._pos < len(self._buffer):
            self._buffer = self._buffer[self._pos :] + data
        else:
            self._buffer = data
        self._pos = 0

    def next(self) -> Request | Refusal | Continue | None:
        """Give what comes next; None: nothing before more bytes arrive. After a Refusal, None for ever."""
        if self._state == _IN_HEAD and not self._checked:
            if self._pos == len(self._buffer):
                return None
            plain = self._plain.match(self._buffer, self._pos)
            if plain is not None and plain.end() - self._pos <= self._short:
                self._pos = plain.end()
                return Request(plain[1], accept=plain[3])
        return self._next()

    def _next(self) -> Request | Refusal | Continue | None:
        if self._state == _OVER:
            self._pos = len(self._buffer)
            return None
        if self._state == _IN_HEAD:
            fault = self._read_head()
            if fault is not None:
                return self._refuse(fault)
            if self._state == _IN_HEAD:
                return None
        fault = self._read_body()
        if fault is not None:
            return self._refuse(fault)
        if self._state == _IN_HEAD:
            request, self._pending = self._pending, None
            return request
        if self._prompt:
            self._prompt = False
            return CONTINUE
        return None

    def _refuse(self, fault: Refusal) -> Refusal:
        self._state = _OVER
        self._pending = None
        self._pos = len(self._buffer)
        return fault

    # --- head (RFC 9112 §2.2, §3, §5) ---

    def _read_head(self) -> Refusal | None:
        """Read on in the head; when it is complete, the state is another."""
        buffer, limits = self._buffer, self._limits
        if not self._lines:
            # An empty line before the request line is what old clients send after a body; skipped as nginx does.
            while buffer.startswith(b"\r\n", self._pos):
                self._pos += 2
            self._checked = 0
        while True:
            start = self._pos + self._checked
            room = min(limits.line, limits.head - self._checked)
            newline = buffer.find(b"\n", start, start + room + 1)
            end = len(buffer) if newline < 0 else newline + 1
            line = buffer[start : min(end, start + room + 1)]
            illegal = (_ILLEGAL if self._lines else _ILLEGAL_IN_REQUEST_LINE).search(line, 0, room)
            if illegal:
                return _illegal(illegal[0])
            if len(line) > room:
                if not self._lines:
                    return Refusal(414, f"the request line is longer than {limits.line} bytes")
                return Refusal(431, f"a header line has over {limits.line} bytes, or the whole head over {limits.head}")
            if newline < 0:
                return None
            if line == b"\r\n":
                return self._end_head(end)
            fault = self._check_line(line[:-2])
            if fault is not None:
                return fault
            self._lines += 1
            self._checked += len(line)

    def _check_line(self, line: bytes) -> Refusal | None:
        """Check a complete line of the head, without its CRLF."""
        if not self._lines:
            return _check_request_line(line)
        if self._lines > self._limits.headers:
            return Refusal(431, f"there are more than {self._limits.headers} header lines")
        if _FIELD.match(line):
            return None
        if line[:1] in (b" ", b"\t"):
            return Refusal(400, "a header line begins with white space; folding is obsolete (RFC 9112 section 5.2)")
        name, colon, _ = line.partition(b":")
        if not colon:
            return Refusal(400, "a header line has no colon")
        if name.rstrip(b" \t") != name:
            return Refusal(400, "there is white space before the colon of a header line (RFC 9112 section 5.1)")
        return Refusal(400, "the name of a header is empty or has characters that no name has (RFC 9110 section 5.1)")

    def _end_head(self, end: int) -> Refusal | None:
        head = self._buffer[self._pos : end]
        self._pos = end
        self._checked = self._lines = 0
        meaning = _meaning(head, self._limits)
        if isinstance(meaning, Refusal):
            return meaning
        self._pending, self._left, waits = meaning
        self._prompt = waits and end == len(self._buffer)
        self._state = _AT_CHUNK if self._left < 0 else _IN_BODY
        self._size = self._framing = 0
        return None

    # --- body (RFC 9112 §6, §7) ---

    def _read_body(self) -> Refusal | None:
        """Drop what has arrived of the body; when it is complete, the state is `_IN_HEAD`."""
        while True:
            if self._state == _IN_BODY or self._state == _IN_CHUNK:
                dropped = min(self._left, len(self._buffer) - self._pos)
                self._pos += dropped
                self._left -= dropped
                if self._left:
                    return None
                if self._state == _IN_BODY:
                    self._state = _IN_HEAD
                    return None
                self._state = _AFTER_CHUNK
            if self._state == _AFTER_CHUNK:
                end = self._buffer[self._pos : self._pos + 2]
                if not b"\r\n".startswith(end):
                    return Refusal(400, "a chunk does not end where its size says (RFC 9112 section 7.1)")
                if len(end) < 2:
                    return None
                self._pos += 2
                self._framing += 2
                self._state = _AT_CHUNK
            line = self._framing_line()
            if line is None or isinstance(line, Refusal):
                return line
            if self._state == _AT_CHUNK:
                chunk = _CHUNK.match(line)
                if chunk is None:
                    return Refusal(400, "the size of a chunk can't be read (RFC 9112 section 7.1)")
                self._left = int(chunk[1], 16)
                self._size += self._left
                if self._size > self._limits.body:
                    return _too_large(self._limits)
                self._state = _IN_CHUNK if self._left else _IN_TRAILERS
            elif not line:
                self._state = _IN_HEAD
                return None
            elif not _FIELD.match(line):
                return Refusal(400, "a trailer is no header line (RFC 9112 section 7.1.2)")

    def _framing_line(self) -> bytes | Refusal | None:
        """Give the next line of chunk framing without its CRLF; None if it is not complete."""
        buffer, start = self._buffer, self._pos
        room = min(self._limits.line, max(0, self._limits.framing - self._framing))
        newline = buffer.find(b"\n", start, start + room + 1)
        line = buffer[start : newline + 1 if newline >= 0 else start + room + 1]
        illegal = _ILLEGAL.search(line, 0, room)
        if illegal:
            return _illegal(illegal[0])
        if len(line) > room:
            return Refusal(431, f"the chunk sizes, extensions and trailers take more than {self._limits.framing} bytes")
        if newline < 0:
            return None
        self._pos = newline + 1
        self._framing += len(line)
        return line[:-2]


def _illegal(byte: bytes) -> Refusal:
    if byte in b"\r\n":
        return Refusal(400, "there is a CR or LF alone; lines end in CRLF (RFC 9112 section 2.2)")
    return Refusal(400, "there is a control character in the head (RFC 9110 section 5.5)")


def _check_request_line(line: bytes) -> Refusal | None:
    """Check a complete request line (RFC 9112 §3)."""
    parts = _REQUEST_LINE.match(line)
    if parts is None:
        return Refusal(400, "the request line is not a method, a target and a version with single spaces between them")
    method, target, major = parts.groups()
    if major != b"1":
        return Refusal(505, "this server speaks HTTP/1.1")
    if method == b"CONNECT":
        return Refusal(501, "this server is no proxy; it has no CONNECT")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS") or _ABSOLUTE.match(target):
        return None
    return Refusal(400, "the target is neither a path nor an http URI (RFC 9112 section 3.2)")


def _meaning(head: bytes, limits: Limits) -> tuple[Request, int, bool] | Refusal:
    """Give the request of a head of good lines, the length of its body (-1: chunked), and whether to prompt for it."""
    first, _, _ = head.partition(b"\r\n")
    line, _, version = first.rpartition(b" ")
    minor = 0 if version == b"HTTP/1.0" else 1
    fields: dict[bytes, list[bytes]] = {}
    for name, value in _TELLING.findall(head):
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))

    fault = _check_host(fields.get(b"host", []), minor)
    if fault is not None:
        return fault
    length = _body_length(fields, minor, limits)
    if isinstance(length, Refusal):
        return length
    expected = {member.lower() for value in fields.get(b"expect", []) for member in members(value)} if minor else set()
    if expected - {b"100-continue"}:
        return Refusal(417, "the only expectation that this server meets is 100-continue")

    options = {option.lower() for value in fields.get(b"connection", []) for option in members(value)}
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    accept = b", ".join(fields[b"accept"]) if b"accept" in fields else None
    method, _, target = line.partition(b" ")
    if target[:1] not in (b"/", b"*"):
        line = method + b" " + _origin_form(method, target)
    return Request(line, minor, keep_alive, accept, length == 0), length, bool(expected) and length != 0


def _origin_form(method: bytes, target: bytes) -> bytes:
    """Give the origin form of an absolute target (RFC 9112 §3.2.2)."""
    absolute = _ABSOLUTE.match(target)
    rest = absolute[2] if absolute is not None else target
    if rest.startswith(b"/"):
        return bytes(rest)
    return b"*" if method == b"OPTIONS" and not rest else b"/" + rest


def _check_host(hosts: list[bytes], minor: int) -> Refusal | None:
    """RFC 9112 §3.2: one valid Host in HTTP/1.1; HTTP/1.0 knew none."""
    if not hosts:
        return Refusal(400, "there is no Host header (RFC 9112 section 3.2)") if minor else None
    if len(hosts) > 1:
        return Refusal(400, "there are several Host headers (RFC 9112 section 3.2)")
    if not _HOST.match(hosts[0]):
        return Refusal(400, "the Host header names no host (RFC 9112 section 3.2)")
    return None


def _body_length(fields: dict[bytes, list[bytes]], minor: int, limits: Limits) -> int | Refusal:
    """Give the length of the body, -1 if it is chunked (RFC 9112 §6.3)."""
    lengths = fields.get(b"content-length", [])
    codings = fields.get(b"transfer-encoding", [])
    if codings:
        if lengths:
            return Refusal(400, "there are both Content-Length and Transfer-Encoding (RFC 9112 section 6.3)")
        if not minor:
            return Refusal(400, "HTTP/1.0 knows no Transfer-Encoding (RFC 9112 section 6.1)")
        named = [coding.strip(b" \t").lower() for coding in codings[0].split(b",")]
        if len(codings) > 1 or named[-1] != b"chunked" or b"chunked" in named[:-1]:
            return Refusal(400, "the last and only the last transfer coding is chunked (RFC 9112 section 6.3)")
        if len(named) > 1:
            return Refusal(501, "the only transfer coding that this server knows is chunked")
        return -1
    if not lengths:
        return 0
    if len(lengths) > 1:
        return Refusal(400, "there are several Content-Length headers (RFC 9112 section 6.3)")
    if not _LENGTH.match(lengths[0]):
        return Refusal(400, "Content-Length is no length (RFC 9110 section 8.6)")
    length = int(lengths[0])
    return _too_large(limits) if length > limits.body else length


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the body is larger than {limits.body} bytes; no request of this service needs one")
