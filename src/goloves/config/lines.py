"""The line on which each key of a TOML document stands, for messages; tomllib itself does not tell.

The document is cut into statements (a table header, or a key with its value, over as many lines as it takes) by asking
tomllib after each line whether what was gathered is a whole statement. So no second grammar could disagree.
"""

import tomllib
from typing import Any

Path = tuple[str, ...]


def key_lines(text: str) -> dict[Path, int]:
    """Give the line (from 1) of each table and key of `text`, which tomllib has parsed without an error before."""
    found: dict[Path, int] = {}
    table: Path = ()
    gathered: list[str] = []
    start = 1
    for number, line in enumerate(text.split("\n"), 1):
        if not gathered:
            start = number
        gathered.append(line)
        try:
            statement = tomllib.loads("\n".join(gathered))
        except tomllib.TOMLDecodeError:
            continue
        header = "\n".join(gathered).lstrip().startswith("[")
        gathered.clear()
        if header:
            table = _innermost(statement)
            for depth in range(1, len(table) + 1):
                found.setdefault(table[:depth], start)
        else:
            for path in _paths(statement, table):
                found.setdefault(path, start)
    return found


def _innermost(statement: dict[str, Any]) -> Path:
    path: Path = ()
    inner: Any = statement
    while inner:
        if isinstance(inner, list):
            inner = inner[0]
            continue
        [(key, inner)] = inner.items()
        path += (key,)
    return path


def _paths(table: dict[str, Any], above: Path) -> list[Path]:
    found: list[Path] = []
    for key, value in table.items():
        path = (*above, key)
        found.append(path)
        if isinstance(value, dict):
            found += _paths(value, path)
    return found
