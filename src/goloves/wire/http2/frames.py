"""Frames: their names, their bits, and the bytes of those that a server sends (RFC 9113 §4, §6)."""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 §3.4)."""

HEADER: Final = Struct(">IBI")
"""A frame's header: length and type in the first number (`length << 8 | type`), flags, stream."""

HEADER_OCTETS: Final = HEADER.size

DEFAULT_WINDOW: Final = 65_535
"""Octets of each flow-control window until somebody says otherwise (RFC 9113 §6.9.2)."""

MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM: Final = 2**31 - 1

MAX_FRAME: Final = 16_384
"""Octets of payload that this side accepts, and the least that every peer accepts (RFC 9113 §4.2). Larger frames would
only make calls wait for one another."""


class Kind(IntEnum):
    """Types of frames (RFC 9113 §6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


END_STREAM: Final = 0x01
ACK: Final = 0x01
END_HEADERS: Final = 0x04
PADDED: Final = 0x08
PRIORITY: Final = 0x20


class Setting(IntEnum):
    """Settings (RFC 9113 §6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113 §7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


_NUMBER: Final = Struct(">I")
_SETTING: Final = Struct(">HI")
_GOAWAY: Final = Struct(">II")

number = _NUMBER.unpack
"""Read a 32-bit number from four octets."""


def code_of(payload: bytes) -> Code | int:
    """Read an error code; unknown ones are legal and have no special meaning (RFC 9113 §7)."""
    value: int = number(payload)[0]
    try:
        return Code(value)
    except ValueError:
        return value


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Give a whole frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def frame_start(kind: Kind, flags: int, size: int) -> bytes:
    """Give a frame's header up to where the stream's number begins."""
    return HEADER.pack(size << 8 | kind, flags, 0)[:5]


def settings_frame(settings: Iterable[tuple[Setting, int]]) -> bytes:
    """Give a SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join([_SETTING.pack(name, value) for name, value in settings]))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Read the settings of a frame whose length is a multiple of 6."""
    return list(_SETTING.iter_unpack(payload))


SETTINGS_ACK: Final = frame(Kind.SETTINGS, ACK, 0)


def ping_frame(payload: bytes, *, ack: bool) -> bytes:
    """Give a PING of eight octets."""
    return frame(Kind.PING, ACK if ack else 0, 0, payload)


def reset_frame(stream: int, code: Code) -> bytes:
    """Give a RST_STREAM."""
    return frame(Kind.RST_STREAM, 0, stream, _NUMBER.pack(code))


def window_frame(stream: int, octets: int) -> bytes:
    """Give a WINDOW_UPDATE; stream 0 is the connection."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, _NUMBER.pack(octets))


def goaway_frame(last: int, code: Code, reason: str) -> bytes:
    """Give a GOAWAY with the reason as its debug data, for people."""
    return frame(Kind.GOAWAY, 0, 0, _GOAWAY.pack(last, code) + reason.encode()[:256])


def header_frames(stream: int, block: bytes, *, end_stream: bool) -> bytes:
    """Give a header block as HEADERS and as many CONTINUATIONs as it takes; nothing may come between them."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= MAX_FRAME:
        return frame(Kind.HEADERS, flags | END_HEADERS, stream, block)
    pieces = [frame(Kind.HEADERS, flags, stream, block[:MAX_FRAME])]
    for at in range(MAX_FRAME, len(block), MAX_FRAME):
        last = at + MAX_FRAME >= len(block)
        pieces.append(frame(Kind.CONTINUATION, END_HEADERS if last else 0, stream, block[at : at + MAX_FRAME]))
    return b"".join(pieces)
