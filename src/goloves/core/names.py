"""Names of tags and spaces: what may be one.

Rules:
1. A name is 1 to 128 bytes of UTF-8. It is compared byte for byte: no case folding, no normalization, no trimming.
2. It holds no control characters, no line or paragraph separators and no surrogates, so that it can stand in a log
   line, a header, a terminal and a database column as it is.
3. It neither begins nor ends with white space: databases that pad or trim would take two names for one.
"""

import re

from goloves.errors import InvalidName

MAX_NAME_BYTES = 128
"""Longest name in bytes of UTF-8: Leaf's column is varchar(128), and the narrowest reading of that counts bytes."""

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""C0 and C1 control characters with DEL, U+2028, U+2029, and surrogates, which have no UTF-8."""

_SHOWN = 40
"""Characters of a bad name that a message repeats: enough to recognise it, too few to flood a log."""


def check_name(name: str, what: str = "tag") -> str:
    """Give `name` back if it can be the name of a `what` ("tag", "space"); InvalidName says which rule it breaks."""
    if not name:
        raise InvalidName(f"the name of a {what} is empty; it has 1 to {MAX_NAME_BYTES} bytes of UTF-8")
    forbidden = _FORBIDDEN.search(name)
    if forbidden:
        place = f"U+{ord(forbidden[0]):04X} at character {forbidden.start() + 1}"
        raise InvalidName(
            f"the name {_shown(name)} of a {what} holds {place}; "
            "control characters, line separators and surrogates can't be part of a name"
        )
    size = len(name.encode())
    if size > MAX_NAME_BYTES:
        raise InvalidName(
            f"the name {_shown(name)} of a {what} has {size} bytes of UTF-8; at most {MAX_NAME_BYTES} are possible"
        )
    if name != name.strip():
        raise InvalidName(f"the name {_shown(name)} of a {what} begins or ends with white space; leave that out")
    return name


def _shown(name: str) -> str:
    return ascii(name) if len(name) <= _SHOWN else ascii(name[:_SHOWN]) + "…"
