"""The settings as a tree of names: what a dotted key leads to, what its type is called, what a typo likely meant."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from goloves.config.settings import LATER, Config, mask_url

Key = tuple[str, ...]
"""A setting's place: section, name, and for `spaces` the space's name between the two."""

ANY = "NAME"
"""Stands in a key for a name that people choose."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a key leads to."""

    kind: Literal["section", "names", "setting"]
    """A section holds fields; names hold whatever people call things; a setting holds a value."""
    type: Any
    """The Struct of a section, the type behind each name, or the setting's type."""


def find(key: Key) -> Node | None:
    """Say what a key leads to; None if there is no such setting."""
    node = Node("section", Config)
    for part in key:
        if node.kind == "section":
            field = next((f for f in msgspec.structs.fields(node.type) if f.name == part), None)
            if field is None:
                return None
            node = _node(field.type)
        elif node.kind == "names":
            node = _node(node.type)
        else:
            return None
    return node


def _node(kind: Any) -> Node:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return Node("section", kind)
    if get_origin(kind) is dict:
        return Node("names", get_args(kind)[1])
    return Node("setting", kind)


def settings(above: Key = ()) -> Iterator[Key]:
    """Give the key of every setting below `above`, with NAME where a name is chosen."""
    node = find(above)
    assert node is not None
    if node.kind == "section":
        for field in msgspec.structs.fields(node.type):
            yield from settings((*above, field.name))
    elif node.kind == "names":
        yield from settings((*above, ANY))
    else:
        yield above


def show(key: Key) -> str:
    """Write a key as TOML does, quoting what needs it."""
    return ".".join(part if _bare(part) else json.dumps(part, ensure_ascii=False) for part in key)


def _bare(part: str) -> bool:
    return part.isascii() and part.replace("_", "").replace("-", "").isalnum()


def show_value(value: object) -> str:
    """Write a value for a message: as JSON, without secrets, and short."""
    text = mask_url(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 80 else text[:77] + "…"


def type_name(kind: Any) -> str:
    """Say what a setting's value has to be."""
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    if origin in (Union, UnionType):
        choices = [choice for choice in get_args(kind) if choice is not type(None)]
        return " or ".join(type_name(choice).removeprefix("one of ") for choice in choices)
    if origin is list:
        return "a list of texts"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


def suggest(wrong: str, possible: Iterable[str]) -> str:
    """Give "; did you mean …?" if something possible is near, else nothing."""
    import difflib

    near = difflib.get_close_matches(wrong, list(possible), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def suggest_key(key: Key) -> str:
    """Suggest the setting that an unknown key was likely meant to be."""
    import difflib

    above, last = key[:-1], key[-1]
    node = find(above)
    beside = [f.name for f in msgspec.structs.fields(node.type)] if node and node.kind == "section" else []
    if not above:
        beside += LATER
    elsewhere = [show(other) for other in settings() if other[-1] == last]
    if elsewhere:
        return f"; did you mean {' or '.join(elsewhere)}?"
    near = difflib.get_close_matches(last, beside, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {show((*above, near[0]))}?"
    return suggest(show(key), (show(other) for other in settings()))
