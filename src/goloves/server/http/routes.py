"""What can be asked for over HTTP: Leaf's routes as Leaf answers them, Goloves' own, and health.

Rules:
1. A path is cut at its slashes before it is decoded, so that `%2F` is part of a name.
2. Leaf's routes take every method, a trailing slash and any query, as Leaf's do. Goloves' own are strict: what they
   don't know is refused, so that a typo shows.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

import msgspec

from goloves.core.layout import Decoded
from goloves.errors import InvalidCount, InvalidId, InvalidName, InvalidRequest
from goloves.server.http.answers import JSON, LEAF_JSON, NO_STORE, Answer, problem
from goloves.server.http.draws import Draw, Forms, RangeDraw, SegmentDraw, SnowflakeDraw
from goloves.server.limits import HttpLimits
from goloves.service import IdService
from goloves.wire.fields import choose

DEFAULT_SPACE = "default"
"""The space that Leaf's routes serve."""

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"QUERY")
"""The methods that this server has heard of; the rest is 501 (RFC 9110 §15.6.2)."""

READ = (b"GET", b"HEAD", b"OPTIONS")
DRAW = (b"POST", b"OPTIONS")
LEAF = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")

NOTHING_HERE = (
    "there is nothing at this path; ids are at POST /v1/segments/{tag}/ids, POST /v1/snowflakes/{space}/ids, "
    "/api/segment/get/{tag} and /api/snowflake/get/{key}"
)

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NUMBER = re.compile(r"[0-9]{1,19}\Z")


class Routes:
    """Finds what a request asks for."""

    def __init__(self, service: IdService, limits: HttpLimits, leaf_spaces: Mapping[str, str], forms: Forms) -> None:
        self._service = service
        self._limits = limits
        self._leaf_spaces = leaf_spaces
        self._forms = forms
        self.stopping = False
        """Whether this node is about to stop: it is not ready any more, and answers nevertheless."""

    def find(self, line: bytes, accept: bytes | None) -> Answer | Draw:
        """Give the answer to a request line (method, space, target), or what has to be drawn for it.

        Raises the errors of `goloves.errors`.
        """
        method, _, target = line.partition(b" ")
        if method not in METHODS:
            return problem(501, "unknown_method", f"this server knows no method {_shown(method)}")
        if target == b"*":
            return _options(LEAF)
        path, _, query = target.partition(b"?")
        parts = path.split(b"/")[1:]
        if parts[0] == b"v1":
            return self._own(method, parts[1:], query, accept)
        if parts[-1] == b"" and len(parts) > 1:
            parts.pop()
        match parts:
            case [b"api", b"segment", b"get", key]:
                return _allowed(method, LEAF) or self._leaf_segment(key, accept)
            case [b"api", b"snowflake", b"get", key]:
                return _allowed(method, LEAF) or self._leaf_snowflake(key, accept)
            case [b"decodeSnowflakeId"]:
                return _allowed(method, LEAF) or self._leaf_decode(query)
            case [b"healthz"] if not path.endswith(b"/"):
                return _allowed(method, READ) or Answer(200, JSON, b'{"alive":true}', NO_STORE)
            case [b"readyz"] if not path.endswith(b"/"):
                return _allowed(method, READ) or self._ready()
        return problem(404, "no_such_path", NOTHING_HERE)

    # --- Leaf's ---

    def _leaf_segment(self, key: bytes, accept: bytes | None) -> Draw:
        json = key.endswith(b".json")
        form = self._forms.leaf_json if json or _prefers_json(accept) else self._forms.leaf_text
        return SegmentDraw(self._service, _decoded(key.removesuffix(b".json"), "tag"), 1, form)

    def _leaf_snowflake(self, key: bytes, accept: bytes | None) -> Draw:
        json = key.endswith(b".json")
        form = self._forms.leaf_json if json or _prefers_json(accept) else self._forms.leaf_text
        name = _decoded(key.removesuffix(b".json"), "key")
        return SnowflakeDraw(self._service, self._leaf_spaces.get(name, DEFAULT_SPACE), 1, form)

    def _leaf_decode(self, query: bytes) -> Answer:
        values = [value for name, value in _parameters(query) if name == "snowflakeId"]
        if len(values) != 1:
            raise InvalidRequest("say which id to decode, once: /decodeSnowflakeId?snowflakeId=…")
        decoded = self._service.decode(DEFAULT_SPACE, _id(values[0]))
        local = _time(decoded).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return Answer(
            200,
            LEAF_JSON,
            b'{"workerId":"%d","sequenceId":"%d","timestamp":"%d(%b.%03d)"}'
            % (decoded.worker, decoded.sequence, decoded.unix_ms, local.encode(), decoded.unix_ms % 1000),
            NO_STORE,
        )

    # --- Goloves' own ---

    def _own(self, method: bytes, parts: list[bytes], query: bytes, accept: bytes | None) -> Answer | Draw:
        draw: SegmentDraw | SnowflakeDraw
        match parts:
            case [b"segments", name, b"ids"]:
                if refused := _allowed(method, DRAW):
                    return refused
                count = self._number(query, "count", self._limits.max_count)
                draw = SegmentDraw(self._service, _decoded(name, "tag"), count, self._forms.json)
            case [b"snowflakes", name, b"ids"]:
                if refused := _allowed(method, DRAW):
                    return refused
                count = self._number(query, "count", self._limits.max_count)
                draw = SnowflakeDraw(self._service, _decoded(name, "space"), count, self._forms.json)
            case [b"segments", name, b"ranges"]:
                if refused := _allowed(method, DRAW) or _json_only(accept):
                    return refused
                size = self._number(query, "size", self._limits.max_size, needed=True)
                return RangeDraw(self._service, _decoded(name, "tag"), size)
            case [b"snowflakes", name, b"ids", number]:
                if refused := _allowed(method, READ) or _json_only(accept):
                    return refused
                _known(query, ())
                return self._decode(_decoded(name, "space"), _decoded(number, "id"))
            case _:
                return problem(404, "no_such_path", NOTHING_HERE)
        kind = choose(accept, (b"application/json", b"text/plain"))
        if kind is None:
            return _not_acceptable("application/json and text/plain")
        return draw if kind == b"application/json" else msgspec.structs.replace(draw, form=self._forms.text)

    def _number(self, query: bytes, name: str, most: int, *, needed: bool = False) -> int:
        text = _known(query, (name,)).get(name)
        if text is None:
            if needed:
                raise InvalidCount(f"say the {name} of the range: ?{name}=1000")
            return 1
        if not _NUMBER.match(text) or not 1 <= int(text) <= most:
            raise InvalidCount(f"{name} is {_shown(text)}; it is a number from 1 to {most}")
        return int(text)

    def _decode(self, space: str, number: str) -> Answer:
        id_ = _id(number)
        decoded = self._service.decode(space, id_)
        body = {
            "id": str(id_),
            "time": _time(decoded).strftime("%Y-%m-%dT%H:%M:%S") + f".{decoded.unix_ms % 1000:03}Z",
            "unix_ms": str(decoded.unix_ms),
            "worker": decoded.worker,
            "sequence": decoded.sequence,
        }
        return Answer(200, JSON, msgspec.json.encode(body), NO_STORE)

    def _ready(self) -> Answer:
        reasons = ["this node is stopping; ask another one"] if self.stopping else self._service.readiness()
        if reasons:
            return problem(503, "not_ready", "; ".join(reasons), retry_after=1.0, reasons=reasons)
        return Answer(200, JSON, b'{"ready":true}', NO_STORE)


def _allowed(method: bytes, methods: tuple[bytes, ...]) -> Answer | None:
    """Give the answer that ends the matter: to OPTIONS, and to a method that the path does not have."""
    if method == b"OPTIONS":
        return _options(methods)
    if method in methods:
        return None
    names = b",".join(methods)
    detail = f"this path has no {method.decode()}; it has {names.decode()}"
    return problem(405, "method_not_allowed", detail, headers=b"Allow: %b\r\n" % names)


def _options(methods: tuple[bytes, ...]) -> Answer:
    return Answer(200, headers=b"Allow: %b\r\n" % b",".join(methods))


def _prefers_json(accept: bytes | None) -> bool:
    """Leaf writes the same number as JSON for who asks for it; who accepts neither gets text, not 406."""
    return accept is not None and choose(accept, (b"text/plain", b"application/json")) == b"application/json"


def _json_only(accept: bytes | None) -> Answer | None:
    return _not_acceptable("application/json") if choose(accept, (b"application/json",)) is None else None


def _not_acceptable(kinds: str) -> Answer:
    return problem(406, "not_acceptable", f"this path has {kinds}, and Accept takes none of it")


def _decoded(raw: bytes, what: str) -> str:
    """Decode a part of a path or query (RFC 3986 §2.1), which is UTF-8."""
    if _BAD_ESCAPE.search(raw):
        raise InvalidName(f"there is a % in the {what} that two hexadecimal digits don't follow")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidName(f"the {what} is not UTF-8") from None


def _parameters(query: bytes) -> list[tuple[str, str]]:
    """Take a query apart; as in forms, + is a space."""
    pairs = [pair.partition(b"=") for pair in query.replace(b"+", b" ").split(b"&") if pair]
    return [(_decoded(name, "query"), _decoded(value, "query")) for name, _, value in pairs]


def _known(query: bytes, names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _parameters(query):
        if name not in names:
            takes = f"it takes {' and '.join(names)}" if names else "it takes none"
            raise InvalidRequest(f"this path has no parameter {_shown(name)}; {takes}")
        if name in found:
            raise InvalidRequest(f"the parameter {name} is there twice")
        found[name] = value
    return found


def _id(text: str) -> int:
    if not _NUMBER.match(text):
        raise InvalidId(f"{_shown(text)} is no id; an id is a number of up to 19 digits")
    return int(text)


def _time(decoded: Decoded) -> datetime:
    try:
        return datetime.fromtimestamp(decoded.unix_ms // 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidId("the id's time lies beyond the year 9999") from None


def _shown(text: str | bytes) -> str:
    """Repeat what a peer sent, short and printable."""
    plain = ascii(text).removeprefix("b")
    return plain if len(plain) <= 40 else plain[:40] + "…"
