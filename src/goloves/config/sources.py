"""The three sources of settings, each turned into entries: what was set, to what, and where that stands.

A later source beats an earlier one: file, environment, flags. Nothing is read that was not named.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goloves.config.lines import key_lines
from goloves.config.problems import Problem
from goloves.config.schema import ANY, Key, find, settings, show, show_value, suggest_key
from goloves.config.settings import LATER

DEFAULT, FILE, ENVIRONMENT, FLAG = range(4)
"""Ranks of the sources: the higher one beats the lower one."""

SHORT_VARIABLES = {"GOLOVES_STORE": ("stores", "url"), "GOLOVES_STORE_FILE": ("stores", "url_file")}
"""Variables with a name of their own, beside GOLOVES_SECTION__KEY."""

OTHER_VARIABLES = ("GOLOVES_CONFIG", "GOLOVES_SERVER", "GOLOVES_DEBUG")
"""Variables that the command line reads, not the configuration."""

FLAGS: dict[Key, str] = {
    ("stores", "url"): "--store",
    ("http", "listen"): "--http",
    ("grpc", "listen"): "--grpc",
    ("admin", "listen"): "--admin",
    ("server", "nodes"): "--nodes",
    ("server", "data_dir"): "--data-dir",
}
"""The flag that sets a setting."""

_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")
"""Kubernetes gives each pod variables like GOLOVES_PORT_8080_TCP_ADDR for a Service named goloves."""

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting as a source has it."""

    value: Any
    source: str
    """`goloves.toml:12`, the variable, or the flag."""
    rank: int
    text: bool = False
    """Whether the value is text that stands for another type, as in the environment."""


@dataclass(slots=True)
class Entries:
    """What one source holds."""

    values: dict[Key, Entry] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)
    """Where sections and names without any setting of their own stand, e.g. an empty [spaces.orders]."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_file(path: Path) -> Entries:
    """Read a TOML file; what can't be read or understood is a problem, never an exception."""
    entries = Entries()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        entries.problems.append(Problem(str(path), "there is no such configuration file"))
        return entries
    except OSError as error:
        entries.problems.append(Problem(str(path), f"the configuration file can't be read: {error.strerror}"))
        return entries
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        entries.problems.append(Problem(f"{path}:{line}", "not UTF-8, which TOML files are"))
        return entries
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        entries.problems.append(_syntax(path, text, str(error)))
        return entries
    lines = key_lines(text.replace("\r\n", "\n"))
    _walk(document, (), entries, lambda key: f"{path}:{_line(lines, key)}")
    return entries


def _syntax(path: Path, text: str, message: str) -> Problem:
    place = _TOML_PLACE.search(message)
    what = message[: place.start()] if place else message
    if place and place[1]:
        return Problem(f"{path}:{place[1]}", f"not TOML at column {place[2]}: {what}")
    return Problem(f"{path}:{text.rstrip().count(chr(10)) + 1}", f"not TOML at the end of the file: {what}")


def _line(lines: dict[Key, int], key: Key) -> int:
    return next((lines[key[:depth]] for depth in range(len(key), 0, -1) if key[:depth] in lines), 1)


def _walk(table: dict[str, Any], above: Key, entries: Entries, place: Any) -> None:
    for name, value in table.items():
        key = (*above, name)
        _take(key, value, place(key), FILE, entries, text=False)
        node = find(key)
        if node is not None and node.kind != "setting" and isinstance(value, dict):
            entries.places.setdefault(key, place(key))
            _walk(value, key, entries, place)


def _take(key: Key, value: Any, source: str, rank: int, entries: Entries, *, text: bool) -> None:
    """Enter one value, or say why it can't be."""
    if key[0] in LATER:
        if value != {}:
            later = f"{LATER[key[0]]} ({show(key)}) will come with a later version; leave it out"
            entries.problems.append(Problem(source, later))
        return
    node = find(key)
    if node is None:
        entries.problems.append(Problem(source, f"there is no setting {show(key)}{suggest_key(key)}"))
    elif node.kind == "setting":
        entries.values[key] = Entry(value, source, rank, text)
    elif not isinstance(value, dict):
        form = f"[{show(key)}]" if node.kind == "section" else f"[{show((*key, ANY))}]"
        entries.problems.append(Problem(source, f"{show(key)} is {show_value(value)}; it is a table, written {form}"))


def read_environment(environ: Mapping[str, str], names: Mapping[Key, set[str]]) -> Entries:
    """Read the variables GOLOVES_SECTION__KEY; an empty one counts as not set.

    `names` are the names that the file has, by section, so that GOLOVES_SPACES__ORDERS__WINDOW finds the
    space `orders`: a name that the file has is found whatever its case; another in capitals only is put in lower case.
    """
    entries = Entries()
    for variable in sorted(environ):
        value = environ[variable]
        if not variable.startswith("GOLOVES_") or not value or variable in OTHER_VARIABLES:
            continue
        if variable in SHORT_VARIABLES:
            key: Key = SHORT_VARIABLES[variable]
        elif "__" in variable:
            key = _variable_key(variable, names)
        else:
            _unknown_variable(variable, entries)
            continue
        before = entries.values.get(key)
        if before is not None and before.value != value:
            entries.problems.append(
                Problem(variable, f"{before.source} sets {show(key)} to something else; keep one of the two")
            )
        _take(key, value, variable, ENVIRONMENT, entries, text=True)
    return entries


def _variable_key(variable: str, names: Mapping[Key, set[str]]) -> Key:
    key: Key = ()
    for part in variable.removeprefix("GOLOVES_").split("__"):
        node = find(key)
        if node is None or node.kind != "names":
            key = (*key, part.lower())
            continue
        known = names.get(key, set())
        alike = [name for name in known if name.lower() == part.lower()]
        chosen = part if part in known or not alike else alike[0]
        key = (*key, chosen if alike or not part.isupper() else part.lower())
    return key


def _unknown_variable(variable: str, entries: Entries) -> None:
    import difflib

    if _SERVICE_LINK.search(variable):
        return
    known = {variable_of(key): key for key in settings()} | dict.fromkeys((*SHORT_VARIABLES, *OTHER_VARIABLES))
    near = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
    if near:
        entries.problems.append(Problem(variable, f"there is no such variable; did you mean {near[0]}?"))
    else:
        entries.notes.append(f"the variable {variable} sets nothing in Goloves and is ignored")


def variable_of(key: Key) -> str:
    """Give the variable that sets a setting."""
    return "GOLOVES_" + "__".join(part if part == ANY else part.upper() for part in key)


def read_flags(flags: Mapping[Key, Any]) -> Entries:
    """Read the flags that were given."""
    entries = Entries()
    for key, value in flags.items():
        _take(key, value, FLAGS[key], FLAG, entries, text=False)
    return entries
