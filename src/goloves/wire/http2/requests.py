"""Header blocks read as requests, strictly (RFC 9113 §8), and remembered by what they say.

A client repeats itself: call after call has the same fields, but for one that may change each time (`grpc-timeout` for
gRPC). So a list of fields is checked once; when it comes again without that field, it leads to the same `Request`.

What is remembered is shared by all connections, so that a new one is warm at once; its number and size are bounded.
"""

from collections.abc import Callable, Sequence
from typing import Final

from goloves.wire.hpack import ENTRY_OVERHEAD, DamagedBlock, Decoder, Field, encode_string, list_size
from goloves.wire.http2.frames import END_HEADERS, END_STREAM, Kind, frame_start

MAX_REMEMBERED: Final = 1024
MAX_REMEMBERED_OCTETS: Final = 2048
"""Requests remembered, and octets of the longest list of fields (with 32 for each): as Python's objects, 10 MB at the
very most. When full, all are forgotten: those that are in use are back after one call each, and a peer that sends ever
new ones costs the others no more than that."""

_PROBE: Final = b"\x05probe"
"""A string that is no value of a varying field."""

_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
"""Octets of a field's name: tokens (RFC 9110 §5.6.2) without upper case (RFC 9113 §8.2.1)."""

MAX_REMEMBERED_NAMES: Final = 1024
_good_names: set[bytes] = set()
"""Names that were found to be right, of at most 64 octets each."""

CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
"""Fields that belong to HTTP/1.1 connections (RFC 9113 §8.2.2)."""


class Malformed(Exception):
    """A request or its trailers break RFC 9113 §8: a stream error, PROTOCOL_ERROR (§8.1.1)."""


class TooLarge(Exception):
    """A field list is over the limits; it was well-formed as far as the table is concerned."""


class Request:
    """A request's head, checked. It may be shared by many calls, so nobody changes it once it has been prepared."""

    __slots__ = (
        "authority",
        "content_length",
        "fields",
        "method",
        "path",
        "quick",
        "route",
        "scheme",
        "seen",
        "unshared",
    )

    def __init__(
        self,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        path: bytes,
        fields: tuple[Field, ...],
        content_length: int | None,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        """From `:authority`, or else from `host`; b"" if neither was there."""
        self.path = path
        """Begins with a slash, but for `*` with OPTIONS and b"" with CONNECT."""
        self.fields = fields
        """The fields in their order, without pseudo-headers and without the varying field if it was there once."""
        self.content_length = content_length
        self.route: object = None
        """Where the layer above sends it; set when the request is prepared."""
        self.quick: Quick | None = None
        """Answers a call that came whole at once, if that can be."""
        self.unshared = 0
        """Octets of its fields, with 32 for each, if it is too large to be remembered: then each call has its own."""
        self.seen = 0
        """How often its fields were read with a varying one among them."""


Quick = Callable[[bytes], bytes | None]
"""Takes a request's whole data and gives the answer's, at most MAX_FRAME octets, or None: then the call goes the long
way and nothing has happened."""


class QuickWay:
    """How calls are answered at once: by HEADERS, one DATA and trailers, of which only the data differs."""

    def __init__(
        self,
        prepare: Callable[[Request], None],
        may_skip: Callable[[bytes], bool],
        may_skip_coded: Callable[[bytes], bool],
        head: bytes,
        trailers: bytes,
    ) -> None:
        """`prepare` is called for each request that is read anew, and may set its `route` and `quick`.

        `may_skip` says whether a call with this value of the varying field may be answered without a look at it, and
        `may_skip_coded` the same of a value in Huffman code. `head` and `trailers` are the header blocks around the
        data.
        """
        self.prepare = prepare
        self.may_skip = may_skip
        self.may_skip_coded = may_skip_coded
        self.head = frame_start(Kind.HEADERS, END_HEADERS, len(head))
        """What stands before the stream's number in HEADERS, as `tail` in the trailers."""
        self.tail = frame_start(Kind.HEADERS, END_HEADERS | END_STREAM, len(trailers))
        self.trailers = trailers
        self.data_heads = _DataHeads(head)
        """What stands between the stream's numbers of HEADERS and of DATA, by the octets of that: at most MAX_FRAME."""

    def judge(self, length: int) -> Callable[[bytes], bool]:
        """Give what says whether a value may be skipped whose string begins with this octet (RFC 7541 §5.2)."""
        return self.may_skip_coded if length >= 0x80 else self.may_skip


class _DataHeads(dict[int, bytes]):
    """See `QuickWay.data_heads`; each is made when it is first asked for."""

    def __init__(self, block: bytes) -> None:
        super().__init__()
        self._block = block

    def __missing__(self, size: int) -> bytes:
        found = self[size] = self._block + frame_start(Kind.DATA, 0, size)
        return found


class Pattern:
    """A block up to the value of its varying field, and what follows that value."""

    __slots__ = ("after", "before", "request")

    def __init__(self, before: bytes, after: bytes, request: Request) -> None:
        self.before = before
        self.after = after
        self.request = request

    def value(self, block: bytes) -> bytes | None:
        """Give the value's string, with its length (RFC 7541 §5.2), if this is a block of the pattern."""
        before, after = self.before, self.after
        at = len(before)
        if len(block) <= at or not block.startswith(before):
            return None
        end = at + 1 + (block[at] & 0x7F)
        return block[at:end] if len(block) - end == len(after) and block.endswith(after) else None


class RequestReader:
    """Reads blocks for all connections of a server. See the module's rules.

    `varying` is the name of the field that changes from call to call.
    """

    def __init__(self, varying: bytes, way: QuickWay | None = None) -> None:
        self.varying = varying
        self.way = way
        self._names = (encode_string(varying), encode_string(varying, coded=True))
        self._remembered: dict[tuple[Field, ...], Request] = {}

    def read(self, decoder: Decoder, block: bytes, most_octets: int, most_fields: int) -> tuple[Request, bytes | None]:
        """Decode and check a block: the request, and the varying field's value if it is there once.

        Raises DamagedBlock (the connection must end), TooLarge, Malformed.
        """
        fields = decoder.decode(block)
        name = self.varying
        varying = None
        if fields and fields[-1][0] == name:
            varying = fields.pop()[1]
        else:
            places = [place for place, field in enumerate(fields) if field[0] == name]
            if len(places) == 1:
                place = places[0]
                varying = fields.pop(place)[1]
                if fields[place][0][:1] == b":":  # where it no longer is, the rest would look right (RFC 9113 §8.3)
                    raise Malformed(f"{_shown(fields[place][0])} after a regular field")
        key = tuple(fields)
        request = self._remembered.get(key)
        if request is None:
            request = self._read_anew(key, most_octets, most_fields)
        if varying is not None:
            check_value(name, varying)
            request.seen += 1
        return request, varying

    def find_pattern(self, decoder: Decoder, block: bytes, request: Request) -> Pattern | None:
        """Look for the pattern of a block that has just been read as this request with a varying field.

        Blocks are read from left to right. So if the block still gives the same fields with another value put where the
        value seems to stand, it does with any value there. Only where the decoder has no table, which the question
        would change.
        """
        if decoder.max_size:
            return None
        for name in self._names:
            at = block.find(name) + len(name)
            if at < len(name) or at >= len(block):
                continue
            pattern = Pattern(block[:at], block[at + 1 + (block[at] & 0x7F) :], request)
            try:
                fields = decoder.decode(pattern.before + _PROBE + pattern.after)
            except DamagedBlock:
                return None
            places = [place for place, field in enumerate(fields) if field[0] == self.varying]
            if len(places) == 1 and fields.pop(places[0])[1] == _PROBE[1:]:
                return pattern if self._remembered.get(tuple(fields)) is request else None
        return None

    def _read_anew(self, fields: tuple[Field, ...], most_octets: int, most_fields: int) -> Request:
        octets = check_size(fields, most_octets, most_fields)
        request = self._check(fields)
        request.unshared = 0 if octets <= MAX_REMEMBERED_OCTETS else octets
        if self.way is not None:
            self.way.prepare(request)
        if not request.unshared:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[fields] = request
        return request

    def _check(self, fields: tuple[Field, ...]) -> Request:
        """Check a request's fields and put them in order (RFC 9113 §8.3.1)."""
        pseudo: dict[bytes, bytes] = {}
        position = 0
        for name, value in fields:
            if name[:1] != b":":
                break
            if name in pseudo:
                raise Malformed(f"{_shown(name)} twice")
            if name not in _REQUEST_PSEUDO:
                raise Malformed(f"{_shown(name)} is no pseudo-header of requests")
            check_value(name, value)
            pseudo[name] = value
            position += 1
        regular = fields[position:]
        content_length: int | None = None
        host: bytes | None = None
        for name, value in regular:
            check_field(name, value)
            if name == b"content-length":
                if content_length is not None or not value.isdigit() or len(value) > 18:
                    raise Malformed("content-length is not one number")
                content_length = int(value)
            elif name == b"host":
                if host is not None:
                    raise Malformed("host twice")
                host = value
        method, scheme, path = pseudo.get(b":method", b""), pseudo.get(b":scheme", b""), pseudo.get(b":path", b"")
        authority = pseudo.get(b":authority")
        if not method:
            raise Malformed(":method is missing")
        if authority is not None and host is not None and authority != host:
            raise Malformed("host is not :authority")
        if b"@" in (authority or host or b""):
            raise Malformed("the authority names a user")
        if method == b"CONNECT":
            if not authority or scheme or path or b":path" in pseudo or b":scheme" in pseudo:
                raise Malformed("CONNECT takes :authority and neither :scheme nor :path")
        elif not scheme:
            raise Malformed(":scheme is missing")
        elif path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
            raise Malformed(":path does not begin with a slash")
        return Request(method, scheme, authority or host or b"", path, regular, content_length)


_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))


def check_size(fields: Sequence[Field], most_octets: int, most_fields: int) -> int:
    """Give a field list's octets; raise TooLarge if it is over the limits."""
    if len(fields) > most_fields:
        raise TooLarge(f"{len(fields)} header fields; at most {most_fields} are accepted")
    octets = list_size(fields)
    if octets > most_octets:
        raise TooLarge(
            f"{octets} octets of header fields, each counting {ENTRY_OVERHEAD} more; at most {most_octets} are accepted"
        )
    return octets


def check_field(name: bytes, value: bytes) -> None:
    """Raise Malformed unless this is a regular field that HTTP/2 allows (RFC 9113 §8.2)."""
    if name not in _good_names:
        _check_name(name)
    check_value(name, value)
    if name == b"te" and value != b"trailers":
        raise Malformed("te says something other than trailers")


def check_trailers(fields: Sequence[Field]) -> None:
    """Raise Malformed unless these are trailers that HTTP/2 allows (RFC 9113 §8.1)."""
    for name, value in fields:
        check_field(name, value)


def _check_name(name: bytes) -> None:
    if name[:1] == b":":
        raise Malformed(f"{_shown(name)} after a regular field, or in trailers")
    if not name or not _TOKEN.issuperset(name):
        raise Malformed(f"{_shown(name)} is no name of a field")
    if name in CONNECTION_SPECIFIC:
        raise Malformed(f"{_shown(name)} belongs to HTTP/1.1")
    if len(name) <= 64 and len(_good_names) < MAX_REMEMBERED_NAMES:
        _good_names.add(name)


def check_value(name: bytes, value: bytes) -> None:
    """Raise Malformed unless this is a value that HTTP/2 allows (RFC 9113 §8.2.1)."""
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise Malformed(f"a control character in the value of {_shown(name)}")
    if value.strip(b" \t") != value:
        raise Malformed(f"white space around the value of {_shown(name)}")


def _shown(name: bytes) -> str:
    return repr(name[:40])[1:]
