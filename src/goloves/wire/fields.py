"""What HTTP's field values are made of (RFC 9110 §5.6), as pieces of expressions, and the two that are read here."""

import re

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""One character of a token (§5.6.2)."""

VALUE = rb"[\t\x20-\x7e\x80-\xff]"
"""One byte of a field value (§5.5), white space included."""

AUTHORITY = (
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]++|\[(?:[0-9A-Fa-f:.]++|[vV][0-9A-Fa-f]++\.[A-Za-z0-9\-._~!$&'()*+,;=:]++)\])"
    rb"(?::[0-9]{0,5}+)?"
)
"""Host and port of a URI without user information (RFC 3986 §3.2), the host not empty."""

_QUOTED = re.compile(rb'"(?:[^"\\]|\\.?)*(?:"|\Z)')


def members(value: bytes) -> list[bytes]:
    """Split a comma-separated list (§5.6.1); empty members are left out, commas in quoted strings don't count.

    A quoted string that is left open reaches to the end.
    """
    if b'"' in value:
        hidden = _QUOTED.sub(lambda quoted: b'"' + b"x" * (len(quoted[0]) - 1), value)
        ends = [at for at, byte in enumerate(hidden) if byte == 0x2C]
        parts = [value[start + 1 : end] for start, end in zip([-1, *ends], [*ends, len(value)], strict=True)]
    else:
        parts = value.split(b",")
    return [member for part in parts if (member := part.strip(b" \t"))]


_RANGE = re.compile(rb"(" + TOKEN + rb"++)/(" + TOKEN + rb"++)((?:[ \t]*;[^;]*)*)\Z")
_WEIGHT = re.compile(rb"(?i:;[ \t]*+q=)(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*+(?=;|\Z)")


def choose(accept: bytes | None, offers: tuple[bytes, ...]) -> bytes | None:
    """Give the media type of `offers` that an Accept field likes best (§12.5.1); None if it accepts none.

    Of those equally liked, the one that it names more precisely, then the one that it names first, then the one offered
    first. A member that can't be read counts for nothing; a field in which none can be read accepts everything.
    """
    ranges: list[tuple[bytes, bytes, float]] = []
    for member in members(accept or b"*/*"):
        parts = _RANGE.match(member)
        if parts is not None:
            weight = _WEIGHT.search(parts[3])
            ranges.append((parts[1].lower(), parts[2].lower(), float(weight[1]) if weight else 1.0))
    if not ranges:
        return offers[0]
    ranked: list[tuple[float, int, int, int]] = []
    for place, offer in enumerate(offers):
        kind, _, subtype = offer.partition(b"/")
        fitting = [
            (2 if sub == subtype else 1 if top == kind else 0, -at, weight)
            for at, (top, sub, weight) in enumerate(ranges)
            if top in (kind, b"*") and sub in (subtype, b"*") and (top != b"*" or sub == b"*")
        ]
        if fitting:
            precision, at, liking = max(fitting)
            ranked.append((liking, precision, at, -place))
    best = max(ranked, default=(0.0, 0, 0, 0))
    return offers[-best[3]] if best[0] > 0 else None
