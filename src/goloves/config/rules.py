"""What must hold for the settings, each by itself and among one another, as tables.

A rule names the settings that it speaks of, so that the message can say where they were set, and gives a reason. Each
condition is written so that it fails for nan.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from goloves.config.addresses import Address, parse_address
from goloves.config.schema import ANY, Key, find, show, show_value, suggest
from goloves.config.settings import Config, SpaceConfig, StoresConfig
from goloves.core.layout import Layout
from goloves.core.names import check_name
from goloves.errors import ConfigError, InvalidName

DAY = 86_400.0

MOST_NODES = 64
"""Nodes of one supervisor: one for each core of the machines that there are."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the most that a number may be."""

    key: Key
    low: float
    high: float
    unit: str
    why: str
    """What is wrong beyond the bounds; completes "…, for"."""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{_number(self.low)} to {_number(self.high)}{unit}"


BOUNDS = (
    Bounds(("server", "drain"), 0, 600, "s", "service managers kill what takes longer to stop"),
    Bounds(("server", "notice"), 0, 60, "s", "whoever checks more rarely is not helped by this"),
    Bounds(("server", "unresponsive"), 2, 600, "s", "a busy machine keeps a node from its turn for moments"),
    Bounds(("stores", "timeout"), 0.05, 60, "s", "a call needs a round trip, and nobody waits for minutes"),
    Bounds(("stores", "pool"), 1, 1000, "", "a node needs a connection, and no database likes thousands"),
    Bounds(("stores", "failover_gap"), 1, 2**53, "", "a gap has to skip something, and not all numbers that there are"),
    Bounds(("segment", "deadline"), 0.001, 60, "s", "a request has to wait for a refill, and not for ever"),
    Bounds(("segment", "target"), 1, DAY, "s", "a range that lasts longer is lost whole at each restart"),
    Bounds(("segment", "max_step"), 1, 2**40, "", "larger steps use up 2^63 numbers in a few restarts"),
    Bounds(("segment", "default_step"), 1, 2**31 - 1, "", "Leaf's table keeps the step in 31 bits"),
    Bounds(("segment", "refresh"), 1, 3600, "s", "each reading costs the store, and deleted tags go on until then"),
    Bounds(("segment", "max_waiting"), 1, 1_000_000, "", "each request that waits costs memory"),
    Bounds(("snowflake", "deadline"), 0.001, 60, "s", "a request has to wait for a window, and not for ever"),
    Bounds(("snowflake", "max_backward"), 0, 3600, "s", "ids would carry a time that is off by as much"),
    Bounds(
        ("snowflake", "max_forward"), 0.1, 3600, "s", "a node whose clock is that wrong needs mending, not patience"
    ),
    Bounds(("spaces", ANY, "window"), 1, DAY, "s", "a worker id rests for a window after a crash"),
)


@dataclass(frozen=True, slots=True)
class Relation:
    """What must hold between settings."""

    keys: tuple[Key, ...]
    holds: Callable[[Config], bool]
    says: str


RELATIONS = (
    Relation(
        (("stores", "failover_gap"), ("segment", "max_step")),
        lambda c: c.stores.failover != "skip" or c.stores.failover_gap >= c.segment.max_step,
        "failover_gap is smaller than max_step, so that one lost refill reaches beyond it; raise failover_gap",
    ),
    Relation(
        (("server", "nodes"),),
        lambda c: c.server.nodes == "auto" or 0 <= c.server.nodes <= MOST_NODES,
        f"there can be 0 to {MOST_NODES} nodes, or as many as cores: auto",
    ),
    Relation(
        (("tls", "key"), ("tls", "certificate")),
        lambda c: (c.tls.key is None) == (c.tls.certificate is None),
        "a certificate and its key are set together; set the other one too, or neither",
    ),
    Relation(
        (("tls", "client_authorities"), ("tls", "certificate")),
        lambda c: c.tls.client_authorities is None or c.tls.certificate is not None,
        "client certificates need TLS; set tls.certificate and tls.key",
    ),
    Relation(
        (("segment", "default_step"), ("segment", "max_step")),
        lambda c: c.segment.default_step <= c.segment.max_step,
        "default_step is larger than max_step, which the step never exceeds; raise max_step or lower default_step",
    ),
)


@dataclass(frozen=True, slots=True)
class SpaceRelation:
    """What must hold for each space; its keys are relative to the space unless they name a section."""

    keys: tuple[Key, ...]
    holds: Callable[[Config, SpaceConfig, Layout], bool]
    says: str


SPACE_RELATIONS = (
    SpaceRelation(
        (("window",), ("snowflake", "max_backward")),
        lambda c, space, layout: space.window > c.snowflake.max_backward,
        "window is not longer than snowflake.max_backward: a clock that steps back that far would leave every window; "
        "make the window longer",
    ),
    SpaceRelation(
        (("window",), ("snowflake", "max_forward")),
        lambda c, space, layout: space.window > c.snowflake.max_forward,
        "window is not longer than snowflake.max_forward: one node with such a clock would block a worker id for "
        "longer than a window; make the window longer",
    ),
    SpaceRelation(
        (("window",), ("unit_ms",)),
        lambda c, space, layout: space.window * 1000 >= 10 * layout.unit_ms,
        "window is too short for its unit: it is extended every tenth of its length, and a tenth has to hold a unit; "
        "make it ten units long or more",
    ),
    SpaceRelation(
        (("window",), ("time_bits",), ("unit_ms",), ("preset",)),
        lambda c, space, layout: space.window * 1000 <= layout.unit_ms * layout.end_units // 2,
        "window is longer than half of the layout's whole time",
    ),
    SpaceRelation(
        (("worker",), ("server", "nodes")),
        lambda c, space, layout: space.worker is None or c.server.nodes in (0, 1),
        "a worker id by hand is one node's; start one node, or leave worker out: the store chooses",
    ),
)

Finding = tuple[tuple[Key, ...], str]
"""The settings that a message is about, the chief one first, and the message."""


def findings(config: Config) -> Iterator[Finding]:
    """Say everything that is impossible in a configuration whose types are right."""
    for bounds in BOUNDS:
        for key, value in values(config, bounds.key):
            if not bounds.low <= value <= bounds.high:
                yield (key,), f"{show(key)} is {value}; it has to be {bounds}, for {bounds.why}"
    for relation in RELATIONS:
        if not relation.holds(config):
            yield relation.keys, f"{_said(config, relation.keys)}: {relation.says}"
    for name, space in config.spaces.items():
        yield from _space(config, name, space)
    for leaf_key, name in config.leaf.spaces.items():
        if name not in config.spaces:
            key = ("leaf", "spaces", leaf_key)
            yield (key,), f"{show(key)} names the space {name!r}, which does not exist{suggest(name, config.spaces)}"
    for problem in config.http.problems():
        yield (("http", problem.partition(" ")[0]),), f"http.{problem}"
    for problem in config.grpc.problems():
        yield (("grpc", problem.partition(" ")[0]),), f"grpc.{problem}"
    yield from _listeners(config)
    yield from _admin(config)
    yield from _stores(config)


def values(config: Config, key: Key) -> Iterator[tuple[Key, Any]]:
    """Give the values of a setting with their keys, one for each name where the key holds NAME."""
    found: list[tuple[Key, Any]] = [((), config)]
    for part in key:
        below: list[tuple[Key, Any]] = []
        for above, holder in found:
            if isinstance(holder, dict):
                chosen = holder if part == ANY else [part]
                below += [((*above, name), holder[name]) for name in chosen]
            else:
                below.append(((*above, part), getattr(holder, part)))
        found = below
    yield from found


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _said(config: Config, keys: tuple[Key, ...]) -> str:
    return " and ".join(f"{show(key)} = {show_value(value)}" for each in keys for key, value in values(config, each))


def _space(config: Config, name: str, space: SpaceConfig) -> Iterator[Finding]:
    here: Key = ("spaces", name)
    try:
        check_name(name, "space")
    except InvalidName as error:
        yield (here,), error.message
        return
    try:
        layout = space.layout()
    except ConfigError as error:
        fields = ("time_bits", "worker_bits", "sequence_bits", "unit_ms", "epoch_ms", "preset")
        chief = [field for field in fields if field in error.message]
        keys = tuple((*here, field) for field in dict.fromkeys([*chief, *fields]))
        yield keys, f"{show(here)}: {error.message}"
        return
    try:
        space.worker_ids()
    except ConfigError as error:
        key = (*here, "workers" if error.message.startswith("workers ") else "worker")
        yield (key,), f"{show(key)} is {show_value(next(values(config, key))[1])}: {error.message}"
    for relation in SPACE_RELATIONS:
        if not relation.holds(config, space, layout):
            keys = tuple(key if find(key) else (*here, *key) for key in relation.keys)
            shown = tuple(key for key in keys if next(values(config, key))[1] is not None)
            yield keys, f"{_said(config, shown)}: {relation.says}"


def _listeners(config: Config) -> Iterator[Finding]:
    if not config.http.listen:
        key = ("http", "listen")
        yield (key,), f"{show(key)} is empty; a server without an address serves nobody"
    before: list[Address] = []
    listens = (
        (("http", "listen"), config.http.listen),
        (("grpc", "listen"), config.grpc.listen),
        (("admin", "listen"), [config.admin.listen] if config.admin.listen and config.server.nodes != 0 else []),
    )
    for key, texts in listens:
        for text in texts:
            try:
                address = parse_address(text)
            except ValueError as error:
                yield (key,), f"{show(key)} holds {show_value(text)}: {error}"
                continue
            for other in before:
                if address.overlaps(other):
                    clash = f"{address} and {other}, which can't both be listened on; leave one out"
                    yield (key,), f"{show(key)} names {clash}"
            before.append(address)


def _admin(config: Config) -> Iterator[Finding]:
    key = ("admin", "listen")
    with contextlib.suppress(ValueError):  # which is said where all addresses are read
        local = not config.admin.listen or parse_address(config.admin.listen).is_local
        if not local and config.admin.token_file is None:
            shown = f"{show(key)} is {show_value(config.admin.listen)}"
            yield (
                (key,),
                f"{shown}: only this machine may reach it without a token; set admin.token_file, or use 127.0.0.1,"
                " [::1] or unix:/path",
            )


def _stores(config: Config) -> Iterator[Finding]:
    from goloves.stores.urls import parse_store_url  # loads ssl, which a command without a store can do without

    for field in ("url", "segments", "windows"):
        url = getattr(config.stores, field)
        if url is None or url == StoresConfig.url:
            continue
        try:
            parse_store_url(url)
        except ConfigError as error:
            yield (("stores", field),), f"stores.{field} is {show_value(url)}: {error.message}"
