"""gRPC over HTTP/2: messages, statuses, deadlines and metadata as bytes (gRPC's PROTOCOL-HTTP2 and its companions).

Rules:
1. What a peer sent wrongly raises `CallError` with the status that the call shall end with; nothing else is raised
   for it.
2. A message's size is bounded before its bytes are kept: by the length in its prefix, and again while it is inflated.
3. What the layer above passes wrongly (a name that metadata can't have) raises ValueError.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Hashable, Iterable, Sequence
from enum import IntEnum
from struct import Struct
from typing import Final
from urllib.parse import unquote

from goloves.wire.hpack import Field, Recognizer

Metadata = list[tuple[str, str | bytes]]
"""Names in lower case and their values, in order: bytes where the name ends in `-bin`, text elsewhere."""


class Status(IntEnum):
    """How a call ends."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


STATUS_OF_HTTP: Final = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}
"""What clients make of an answer's HTTP status when it carries no gRPC status; UNKNOWN for others."""

SHOWN: Final = 100
"""Characters of what a client sent that an error repeats to it: more than any right name has."""


class CallError(Exception):
    """Ends a call with a status other than OK.

    `details` is a serialized google.rpc.Status, sent as `grpc-status-details-bin`; `trailers` is metadata of one's own;
    `retry_after` (seconds) tells clients with a retry policy when to try again. All are sent together.
    """

    def __init__(
        self,
        status: Status,
        message: str = "",
        *,
        details: bytes | None = None,
        trailers: Metadata | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status.name}: {message}")
        self.status = status
        self.message = message
        self.details = details
        self.trailers: Metadata = trailers or []
        self.retry_after = retry_after

    def fields(self) -> list[Field]:
        """Give the fields that end the call, but for `trailers`."""
        fields = [(b"grpc-status", b"%d" % self.status)]
        if self.message:
            fields.append((b"grpc-message", percent_encode(self.message)))
        if self.details is not None:
            fields.append((b"grpc-status-details-bin", _base64(self.details)))
        if self.retry_after is not None:
            fields.append((b"grpc-retry-pushback-ms", b"%d" % round(self.retry_after * 1000)))
        return fields


# --- heads and trailers ---

_TYPE: Final = re.compile(rb"application/grpc(?:\+([a-z0-9.-]+))?(?:\s*;.*)?", re.IGNORECASE | re.DOTALL)


def is_grpc(content_type: bytes) -> bool:
    """Tell whether a request's content type is gRPC's; others get HTTP's 415."""
    return _TYPE.fullmatch(content_type) is not None


def subtype(content_type: bytes) -> bytes:
    """Give the encoding of messages that a content type of gRPC names; `proto` if it names none."""
    match = _TYPE.fullmatch(content_type)
    return ((match and match[1]) or b"proto").lower()


ENCODINGS: Final = (b"identity", b"gzip")
ACCEPTED: Final = (b"grpc-accept-encoding", b",".join(ENCODINGS))

HEAD: Final[tuple[Field, ...]] = ((b":status", b"200"), (b"content-type", b"application/grpc"))
OK_TRAILERS: Final[tuple[Field, ...]] = ((b"grpc-status", b"0"),)


_TO_ESCAPE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")


def percent_encode(message: str) -> bytes:
    """Encode a message for `grpc-message`: what is not printable ASCII, and %, as % and two hex digits of its UTF-8."""
    return _TO_ESCAPE.sub(lambda match: b"%%%02X" % match[0][0], message.encode(errors="replace"))


def percent_decode(value: bytes) -> str:
    """Undo `percent_encode`; what can't be undone stays as it is."""
    return unquote(value.decode("ascii", "replace"), errors="replace")


# --- deadlines ---

_UNITS: Final = {72: 3600.0, 77: 60.0, 83: 1.0, 109: 1e-3, 117: 1e-6, 110: 1e-9}
"""Octets H, M, S, m, u, n and the seconds that they stand for."""


def timeout_seconds(value: bytes) -> float | None:
    """Read a `grpc-timeout`: one to eight digits and a unit. None if it is something else."""
    digits = value[:-1]
    if 0 < len(digits) <= 8 and digits.isdigit():
        unit = _UNITS.get(value[-1])
        if unit is not None:
            return int(digits) * unit
    return None


def has_time(value: bytes) -> bool:
    """Tell whether a `grpc-timeout` is right and not 0."""
    digits = value[:-1]
    return 0 < len(digits) <= 8 and digits.isdigit() and value[-1] in _UNITS and digits.strip(b"0") != b""


def _timeout_step(state: Hashable, octet: int) -> Hashable | None:
    """Go on with a `grpc-timeout`: the state is how many digits there were, and whether all were 0; then its end."""
    if not isinstance(state, tuple):
        return None
    digits, nothing = state
    if 48 <= octet <= 57:
        return (digits + 1, nothing and octet == 48) if digits < 8 else None
    return "end" if octet in _UNITS and digits and not nothing else None


has_time_coded: Final = Recognizer((0, True), _timeout_step, lambda state: state == "end")
"""`has_time` of what a Huffman code spells; False also for what is no code."""


# --- metadata ---

_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[\x20-\x7e]*")
_RESERVED: Final = frozenset((b"te", b"content-type", b"content-length", b"host"))
"""Names that belong to the protocol, with those that begin with `grpc-`; the layer above doesn't see them."""


def read_metadata(fields: Iterable[Field]) -> Metadata:
    """Read a call's metadata, in order; raises CallError for a `-bin` value that is not base64."""
    metadata: Metadata = []
    for name, value in fields:
        if name in _RESERVED or name.startswith(b"grpc-"):
            continue
        if name.endswith(b"-bin"):
            # Values of one name may be joined by commas, which base64 doesn't use.
            metadata += [(name.decode(), _unbase64(name, piece)) for piece in value.split(b",")]
        else:
            metadata.append((name.decode(), value.decode("utf-8", "surrogateescape")))
    return metadata


def metadata_fields(metadata: Metadata) -> list[Field]:
    """Give metadata as header fields; raises ValueError for what metadata can't be."""
    fields = []
    for name, value in metadata:
        if not _NAME.fullmatch(name) or name.startswith("grpc-") or name.encode() in _RESERVED:
            raise ValueError(f"{name!r} is no name that metadata can have: use lower-case letters, digits, _ . and -")
        if name.endswith("-bin") != isinstance(value, bytes):
            raise ValueError(f"{name!r}: names of bytes end in -bin, and no others")
        if isinstance(value, bytes):
            fields.append((name.encode(), _base64(value)))
        elif _TEXT.fullmatch(value) and value.strip(" ") == value:
            fields.append((name.encode(), value.encode()))
        else:
            raise ValueError(f"{name!r} has a value that is not printable ASCII; a name ending in -bin takes any bytes")
    return fields


def _base64(value: bytes) -> bytes:
    return base64.b64encode(value).rstrip(b"=")


def _unbase64(name: bytes, value: bytes) -> bytes:
    try:
        return base64.b64decode(value.strip() + b"=" * (-len(value.strip()) % 4), validate=True)
    except binascii.Error:
        raise CallError(Status.INTERNAL, f"the value of {name.decode()} is not base64") from None


# --- messages ---

PREFIX: Final = Struct(">BI")
"""What stands before each message: whether it is compressed, and its length."""

COMPRESS_FROM: Final = 1024
"""Octets from which an answer to a client that compresses is compressed; below it gains less than a packet."""


def frame_message(message: bytes, *, compress: bool = False) -> bytes:
    """Put the prefix before a message, compressing it with gzip if that was asked for and is worth it."""
    if compress and len(message) >= COMPRESS_FROM:
        packer = zlib.compressobj(level=1, wbits=31)
        message = packer.compress(message) + packer.flush()
        return PREFIX.pack(1, len(message)) + message
    return PREFIX.pack(0, len(message)) + message


GZIP_SHARE: Final = 512
GZIP_OCTETS: Final = 64
"""What gzip may add to a message that it can't make smaller: this part of it (blocks that are stored, of 16 KB or more,
have 5 octets each), and so many octets of head and tail."""

GZIP_MEMBERS: Final = 16
"""Members that a compressed message may have. Clients send one; each more costs a copy of all that follow it."""


class MessageReader:
    """Cuts a call's data into messages.

    Feed it data with `feed` and its end with `close`, then take messages with `next` until that gives None. Each may
    raise CallError, after which the call has to end.
    """

    __slots__ = ("_buffer", "_closed", "_encoding", "_limit")

    def __init__(self, limit: int, encoding: bytes) -> None:
        """`limit` is the most octets of a message, inflated; `encoding` the request's `grpc-encoding`."""
        self._limit = limit
        self._encoding = encoding
        self._buffer = bytearray()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Octets that have come and were not taken yet."""
        return len(self._buffer)

    @property
    def incomplete(self) -> bool:
        """Whether the next message has begun and not come whole."""
        buffer = self._buffer
        if len(buffer) < PREFIX.size:
            return bool(buffer)
        _, length = PREFIX.unpack_from(buffer)
        return len(buffer) < PREFIX.size + int(length)

    def feed(self, data: bytes) -> None:
        """Take more data."""
        self._buffer += data

    def close(self) -> None:
        """Say that no more data comes."""
        self._closed = True

    def next(self) -> bytes | None:
        """Give the next message, inflated; None if it has not come whole, or if there is no more."""
        buffer = self._buffer
        if len(buffer) < PREFIX.size:
            if buffer and self._closed:
                raise CallError(Status.INTERNAL, "the request ends inside of a message's prefix")
            return None
        compressed, length = PREFIX.unpack_from(buffer)
        if compressed > 1:
            raise CallError(Status.INTERNAL, f"a message begins with {compressed}; 0 and 1 are known")
        if compressed and self._encoding == b"identity":
            raise CallError(Status.INTERNAL, "a message says that it is compressed, the call's grpc-encoding does not")
        limit = self._limit
        if length > limit and not (compressed and length <= limit + limit // GZIP_SHARE + GZIP_OCTETS):
            raise CallError(Status.RESOURCE_EXHAUSTED, f"a message of {length} octets; at most {limit} are accepted")
        end = PREFIX.size + length
        if len(buffer) < end:
            if self._closed:
                raise CallError(Status.INTERNAL, "the request ends inside of a message")
            return None
        message = bytes(buffer[PREFIX.size : end])
        del buffer[:end]
        return inflate(message, self._limit) if compressed else message


def inflate(data: bytes, limit: int) -> bytes:
    """Undo gzip, up to `limit` octets; several members in a row are one text (RFC 1952 §2.2)."""
    pieces: list[bytes] = []
    left = limit
    while len(pieces) < GZIP_MEMBERS:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            piece = unpacker.decompress(data, left + 1)
        except zlib.error as error:
            raise CallError(Status.INTERNAL, f"a compressed message can't be inflated: {error}") from None
        left -= len(piece)
        if left < 0:
            raise CallError(Status.RESOURCE_EXHAUSTED, f"a message inflates to more than {limit} octets")
        if not unpacker.eof:
            raise CallError(Status.INTERNAL, "a compressed message ends early")
        pieces.append(piece)
        data = unpacker.unused_data
        if not data:
            return b"".join(pieces)
    raise CallError(Status.RESOURCE_EXHAUSTED, f"a compressed message has more than {GZIP_MEMBERS} members")


def request_encoding(fields: Sequence[Field]) -> bytes:
    """Give a request's `grpc-encoding`; raises CallError, UNIMPLEMENTED, for one that is not accepted here."""
    encoding = next((value for name, value in fields if name == b"grpc-encoding"), b"identity")
    if encoding not in ENCODINGS:
        raise CallError(
            Status.UNIMPLEMENTED,
            f"grpc-encoding {encoding[:SHOWN].decode(errors='replace')!r} is not accepted; {ACCEPTED[1].decode()} are",
        )
    return encoding
