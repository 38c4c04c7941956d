"""The commented file and the reference page, made from the settings and their docstrings: neither can go stale."""

import ast
import inspect
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from goloves.config.rules import BOUNDS, values
from goloves.config.schema import ANY, Key, find, settings, type_name
from goloves.config.settings import DEFAULT_SPACE, LATER, Config, SpaceConfig
from goloves.config.sources import FLAGS, variable_of

WIDTH = 100


def template() -> str:
    """Write the commented TOML file: every setting with what it does and its default."""
    lines = [
        *_comment("Every setting of Goloves with its default: `goloves serve --config goloves.toml` reads this file."),
        *_comment(
            "Variables (GOLOVES_SECTION__KEY) beat what stands here, and flags beat those. Times are seconds. An "
            "unknown setting, a wrong type or an impossible value is named with its line, and nothing starts. Settings "
            "that have no default are commented out."
        ),
    ]
    for section in sections():
        shown = tuple(DEFAULT_SPACE if part == ANY and section[0] == "spaces" else part for part in section)
        lines += ["", "", *_comment(_summary(section)), f"[{'.'.join(shown)}]"]
        for key in fields(section):
            lines += ["", *_comment(docstring(key))]
            actual = tuple(DEFAULT_SPACE if part == ANY else part for part in key)
            default = _default(key)
            if key[-1] == ANY:
                lines.append('# "orders" = "orders"')
            elif default is None:
                lines.append(f"# {actual[-1]} = {_example(key)}")
            else:
                lines.append(f"{actual[-1]} = {json.dumps(default)}")
    return "\n".join(lines) + "\n"


def reference() -> str:
    """Write the reference page in Markdown."""
    parts = [_INTRODUCTION]
    for section in sections():
        parts.append(f"## `[{'.'.join(section)}]`\n\n{_summary(section)}\n")
        parts += [_entry(key) for key in fields(section)]
    later = "\n".join(f"- `[{name}]`: {what}" for name, what in LATER.items())
    parts.append(
        f"## Reserved\n\nThese sections come with later versions; until then they have to be empty.\n\n{later}\n"
    )
    return "\n".join(parts)


def _entry(key: Key) -> str:
    name = ".".join(key)
    default = _default(key)
    node = find(key)
    assert node is not None
    facts = [type_name(node.type).replace('"', "`")]
    bounds = next((bounds for bounds in BOUNDS if bounds.key == key), None)
    if bounds:
        facts.append(str(bounds))
    facts.append("no default" if default is None else f"default `{json.dumps(default)}`")
    ways = [f"`{variable_of(key)}`"]
    if key in FLAGS:
        ways.append(f"`{FLAGS[key]}`")
    body = "\n".join(textwrap.wrap(docstring(key), 120, break_long_words=False, break_on_hyphens=False))
    return f"### `{name}`\n\n{', '.join(facts)}. Also {' or '.join(ways)}.\n\n{body}\n"


def sections() -> Iterator[Key]:
    """Give the sections in the order of the settings."""
    yield from dict.fromkeys(key[:-1] for key in settings())


def fields(section: Key) -> Iterator[Key]:
    """Give the settings of a section: its own, then those that it has from what it is made of."""
    node = find(section)
    assert node is not None
    own = node.type.__annotations__ if node.kind == "section" else {}
    below = [key for key in settings() if key[:-1] == section]
    yield from sorted(below, key=lambda key: key[-1] not in own)


def docstring(key: Key) -> str:
    """Give what stands below a setting in the code, in one line."""
    owner: Any = Config
    field = key[0]
    for depth in range(1, len(key)):
        node = find(key[:depth])
        assert node is not None
        if node.kind == "section":
            owner, field = node.type, key[depth]
        elif key[depth] == ANY:
            inner = find(key[: depth + 1])
            if inner is not None and inner.kind == "section":
                owner = inner.type
    return _documented(owner)[field]


def _documented(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Read the docstrings of a Struct's fields out of its source; the language keeps none at run time."""
    found: dict[str, str] = {}
    for part in reversed(struct.__mro__):
        if part.__module__.partition(".")[0] != "goloves":
            continue
        tree = ast.parse(inspect.getsource(sys.modules[part.__module__]))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == part.__name__)
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                text = str(below.value.value) if documented else ""  # type: ignore[attr-defined]
                found[field.target.id] = re.sub(r"\s+", " ", text).strip()
    return found


def _summary(section: Key) -> str:
    node = find(section)
    if node is not None and node.kind == "section":
        text = inspect.getdoc(node.type) or ""
        text = re.sub(r"^\[[^]]*\]: ", "", text)
        return text[:1].upper() + text[1:]
    return docstring((*section, ANY))


def _default(key: Key) -> Any:
    if key[-1] == ANY:
        return None
    return next((value for _, value in values(Config(), key)), None)


def _example(key: Key) -> str:
    if key[-1] == "workers":
        return '"512-1023"'
    if key[-1] == "worker":
        return '"600"'
    if key[0] == "spaces":
        return json.dumps(getattr(SpaceConfig().layout(), key[-1]))
    return '"…"'


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


_INTRODUCTION = """# Configuration

This page is made from the code by `goloves config reference`, and the commented file `configs/goloves.toml` by `goloves
config template`. `goloves config show` prints what is in force on your machine, and where each value was set.

Settings come from four places; each beats those before it:

1. the defaults below;
2. the file that `--config FILE` or `GOLOVES_CONFIG` names (TOML). No file is read that was not named;
3. variables: `GOLOVES_SECTION__KEY`, two underscores between the parts, lists with commas. `GOLOVES_STORE` and
   `GOLOVES_STORE_FILE` are short for `GOLOVES_STORES__URL` and `GOLOVES_STORES__URL_FILE`. An empty variable counts as
   not set. A name of your own (a space's) is found whatever its case if the file has it, else capitals become lower
   case;
4. flags: `--store`, `--http`, `--data-dir` and so on.

A store URL from a later place replaces `segments` and `windows` of an earlier one, too: `--store` is the whole store.

An unknown setting, a wrong type, or values that can't be true together are named with file and line, all at once, and
nothing starts (exit code 3). Times are seconds unless the name says otherwise.

Passwords belong into files: `url_file` holds a whole store URL, `password_file` only its password. No log, message or
output of `goloves config` shows a password: it is written as `***`.
"""
