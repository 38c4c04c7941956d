"""The messages of ids and of health in protobuf's encoding, by hand: protobuf would cost more than the ids.

It also takes 3 MB of a node, and nothing else that a node is asked every day needs it.

Tests hold them equal to protobuf's own reading and writing, octet for octet, over generated input.

Rules:
1. Reading is what a proto3 parser does: of several values the last one counts, unknown fields are stepped over whatever
   they hold, a known number with another wire type is an unknown field, uint32 takes the low 32 bits, text is UTF-8.
2. What no parser could read raises `DamagedMessage`, and nothing else is raised. No loop is longer than the message.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from struct import Struct
from typing import Final


class DamagedMessage(Exception):
    """A message is not protobuf, or its text is not UTF-8."""


MAX_NESTING: Final = 100
"""Groups inside of groups that are stepped over: protobuf's own limit. Groups are a relic that nobody sends."""

MAX_VARINT: Final = 10
"""Octets of a number: 64 bits in groups of seven."""

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)

_FIXED: Final = Struct("<q")
_TAG_OF_TEXT: Final = 1 << 3 | _BYTES
_TAG_OF_NUMBER: Final = 2 << 3 | _VARINT
_TAG_OF_FIXED: Final = 2 << 3 | _FIXED64


# --- reading ---


def read_next(message: bytes) -> tuple[str, int]:
    """Read a SegmentNextRequest or SnowflakeNextRequest: the name, and the count as it was sent (0 if it wasn't)."""
    name, count = _read(message, _TAG_OF_NUMBER)
    return name, count & 0xFFFFFFFF


def read_lease(message: bytes) -> tuple[str, int]:
    """Read a SegmentLeaseRequest: tag and size."""
    return _read(message, _TAG_OF_NUMBER)


def read_decode(message: bytes) -> tuple[str, int]:
    """Read a DecodeRequest: space and id."""
    return _read(message, _TAG_OF_FIXED)


def read_health(message: bytes) -> str:
    """Read a HealthCheckRequest: the service."""
    return _read(message, _TAG_OF_NUMBER)[0]


def read_nothing(message: bytes) -> None:
    """Read a message without fields, such as HealthListRequest."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        at = _skip(message, at, tag, 0)


def _read(message: bytes, tag_of_second: int) -> tuple[str, int]:
    """Read field 1 as text and field 2 as a number."""
    text, number = "", 0
    at, end = 0, len(message)
    while at < end:
        tag, at = _number(message, at)
        if tag == _TAG_OF_TEXT:
            start, at = _skip_bytes(message, at)
            try:
                text = message[start:at].decode()
            except UnicodeDecodeError:
                raise DamagedMessage("a name is not UTF-8") from None
        elif tag == tag_of_second:
            if tag == _TAG_OF_NUMBER:
                number, at = _number(message, at)
            else:
                start, at = at, _skip_fixed(message, at, 8)
                number = _FIXED.unpack_from(message, start)[0]
        else:
            at = _skip(message, at, tag, 0)
    return text, number


def _number(message: bytes, at: int) -> tuple[int, int]:
    """Read a varint, its low 64 bits; give it and where the next thing starts."""
    value = 0
    for shift, octet in enumerate(message[at : at + MAX_VARINT]):
        value |= (octet & 0x7F) << 7 * shift
        if octet < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + shift + 1
    raise DamagedMessage(f"a number is cut, or longer than {MAX_VARINT} octets")


def _skip_bytes(message: bytes, at: int) -> tuple[int, int]:
    """Give where a string of octets starts and ends."""
    size, at = _number(message, at)
    if size > len(message) - at:
        raise DamagedMessage("a field is longer than its message")
    return at, at + size


def _skip_fixed(message: bytes, at: int, size: int) -> int:
    if at + size > len(message):
        raise DamagedMessage("a field is longer than its message")
    return at + size


def _skip(message: bytes, at: int, tag: int, depth: int) -> int:
    """Step over an unknown field whose tag has been read; give where the next one starts."""
    kind = tag & 7
    if not 0 < tag >> 3 < 1 << 29:
        raise DamagedMessage("a field's number is 0, or longer than 29 bits")
    if kind == _VARINT:
        return _number(message, at)[1]
    if kind == _FIXED64:
        return _skip_fixed(message, at, 8)
    if kind == _BYTES:
        return _skip_bytes(message, at)[1]
    if kind == _FIXED32:
        return _skip_fixed(message, at, 4)
    if kind != _GROUP or depth == MAX_NESTING:
        raise DamagedMessage("a group that ends without a beginning, is nested too deeply, or an unknown wire type")
    while True:
        inner, at = _number(message, at)
        if inner == (tag & ~7 | _GROUP_END):
            return at
        at = _skip(message, at, inner, depth + 1)


# --- writing ---

ONE_ID: Final = b"\x0a\x08"
"""What stands before the eight octets of the only id in an IdsResponse: field 1, packed, eight octets."""

pack_id = _FIXED.pack
"""Give an id's eight octets."""


@cache
def _two_lowest() -> tuple[bytes, bytes]:
    """Give the lowest octets of 0, 1, … 65,535, and their second ones; made when first asked for, by a batch."""
    return bytes(range(256)) * 256, b"".join([bytes((octet,)) * 256 for octet in range(256)])


def ids_response(spans: Iterable[range]) -> bytes:
    """Write an IdsResponse: the ids of all spans in order."""
    packed = b"".join([pack_span(span) for span in spans])
    return b"\x0a" + varint(len(packed)) + packed if packed else b""


def pack_span(span: range) -> bytes:
    """Give the ids of a span, eight octets each.

    65,536 ids in a row differ in their two lowest octets alone: the others are repeated, and those two put into every
    eighth place out of a table, which is ten times as fast as packing each.
    """
    if span.step != 1:
        return Struct(f"<{len(span)}q").pack(*span)
    lowest, second = _two_lowest()
    packed = bytearray()
    at, stop = span.start, span.stop
    while at < stop:
        low = at & 0xFFFF
        end = min(stop, at - low + 0x10000)
        high = low + end - at
        part = bytearray(_FIXED.pack(at) * (end - at))
        part[::8] = lowest[low:high]
        part[1::8] = second[low:high]
        packed += part
        at = end
    return bytes(packed)


def range_response(start: int, end: int) -> bytes:
    """Write a RangeResponse."""
    return _fixed_field(b"\x09", start) + _fixed_field(b"\x11", end)


def decode_response(unix_ms: int, worker: int, sequence: int) -> bytes:
    """Write a DecodeResponse."""
    fields = ((b"\x08", unix_ms & 0xFFFFFFFFFFFFFFFF), (b"\x10", worker), (b"\x18", sequence))
    return b"".join([tag + varint(value) for tag, value in fields if value])


def health_response(status: int) -> bytes:
    """Write a HealthCheckResponse."""
    return b"\x08" + varint(status) if status else b""


def health_list_response(statuses: Mapping[str, int]) -> bytes:
    """Write a HealthListResponse: the status of each service, by its name."""
    return b"".join(
        [
            _bytes_field(b"\x0a", _bytes_field(b"\x0a", name.encode()) + _bytes_field(b"\x12", health_response(status)))
            for name, status in statuses.items()
        ]
    )


def error_details(code: int, message: str, reason: str, retry_after: float | None) -> bytes:
    """Write a google.rpc.Status with an ErrorInfo (`reason`, domain "goloves") and, if given, a RetryInfo (seconds)."""
    info = _bytes_field(b"\x0a", reason.encode()) + _bytes_field(b"\x12", b"goloves")
    details = [_any(b"type.googleapis.com/google.rpc.ErrorInfo", info)]
    if retry_after is not None:
        seconds, rest = divmod(round(retry_after * 1_000_000_000), 1_000_000_000)
        delay = b"".join([tag + varint(value) for tag, value in ((b"\x08", seconds), (b"\x10", rest)) if value])
        details.append(_any(b"type.googleapis.com/google.rpc.RetryInfo", _bytes_field(b"\x0a", delay)))
    text = _bytes_field(b"\x12", message.encode()) if message else b""
    return b"".join([b"\x08" + varint(code), text, *(_bytes_field(b"\x1a", detail) for detail in details)])


def _any(url: bytes, value: bytes) -> bytes:
    return _bytes_field(b"\x0a", url) + _bytes_field(b"\x12", value)


def _bytes_field(tag: bytes, value: bytes) -> bytes:
    return tag + varint(len(value)) + value


def _fixed_field(tag: bytes, value: int) -> bytes:
    return tag + _FIXED.pack(value) if value else b""


def varint(value: int) -> bytes:
    """Write a number of 64 bits or less, 0 or above."""
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
