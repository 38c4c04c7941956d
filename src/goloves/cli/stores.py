"""`goloves check` and `goloves migrate`: whether a store can be used, and its tables."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import time as now
from typing import TYPE_CHECKING, Literal

import click

from goloves.cli.failures import Failure
from goloves.cli.opening import address_of_store, run, store_exists, stores_by_url
from goloves.cli.options import json_option, store_configuration, store_options
from goloves.cli.output import write_json
from goloves.config import Config, Loaded
from goloves.errors import GolovesError, StoreRefused
from goloves.repair import OWNERS_READ
from goloves.server.assembly import may_create
from goloves.stores.base import Place, Space
from goloves.stores.rules import other_layout

if TYPE_CHECKING:
    from goloves.stores.sql import SqlStore


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    state: Literal["ok", "warning", "failed"]
    what: str
    detail: str


MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


@click.command("check")
@store_options
@json_option
def check_command(config_file: Path | None, store: str | None, data_dir: str | None, as_json: bool) -> None:
    """Check the configuration and the stores as a start would, change nothing, and say what was found."""
    loaded = store_configuration(config_file, store, data_dir)
    found = [_configuration(loaded), *_data_directory(loaded.config)]
    found += run(loaded.config, lambda: _stores(loaded.config))
    failed = [finding for finding in found if finding.state == "failed"]
    if as_json:
        write_json(
            {
                "ok": not failed,
                "findings": [{"state": each.state, "what": each.what, "detail": each.detail} for each in found],
            }
        )
    else:
        for finding in found:
            mark, color = MARKS[finding.state]
            click.echo(f"{click.style(mark, fg=color)} {click.style(finding.what, bold=True)}: {finding.detail}")
    if failed:
        raise Failure("this can't be started as it is; what is wrong stands above")


def _configuration(loaded: Loaded) -> Finding:
    spaces = "; ".join(f"{name}: {space.layout().describe()}" for name, space in loaded.config.spaces.items())
    return Finding("ok", "configuration", f"{len(loaded.sources)} settings are not at their default; spaces: {spaces}")


def _data_directory(config: Config) -> Iterator[Finding]:
    directory = Path(config.server.data_dir)
    there = directory if directory.exists() else next(above for above in directory.absolute().parents if above.exists())
    if directory.exists() and not directory.is_dir():
        yield Finding("failed", "data directory", f"{directory} is no directory; name another with --data-dir")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Finding("failed", "data directory", f"{there} can't be written by this user; change its owner or mode")
    else:
        yield Finding(
            "ok", "data directory", f"{directory.absolute()}{'' if directory.exists() else ' (not made yet)'}"
        )


async def _stores(config: Config) -> list[Finding]:
    found: list[Finding] = []
    # As for a repair: nothing may be bound, recorded or halted by a look.
    for url, store in stores_by_url(config, repairing=True).items():
        uses = [use for use in ("segments", "windows") if getattr(config, f"{use}_url") == url]
        what = f"store of {' and '.join(uses)}"
        if may_create(config) and not store_exists(url):
            found.append(Finding("ok", what, f"{address_of_store(url)} (the first start makes it)"))
            continue
        try:
            await store.open()
            found += await _opened(config, store, what, address_of_store(url), uses)
        except StoreRefused as error:
            found.append(Finding("failed", what, error.message))
        except GolovesError as error:
            found.append(Finding("failed", what, f"{error.message} (a node would start, and wait for it)"))
        finally:
            await store.close()
    return found


async def _opened(config: Config, store: "SqlStore", what: str, address: str, uses: list[str]) -> list[Finding]:
    found = [Finding("ok", what, address)]
    if not store.has_marks:
        segments_only = "only Leaf's table exists: ranges are served, Snowflake ids and new tags need `goloves migrate`"
        found.append(Finding("failed" if uses == ["windows"] else "warning", what, segments_only))
    if halted := await store.read_halt():
        found.append(Finding("failed", what, f"it is halted: {halted}; look into it, then run: goloves repair"))
    found += _place(config, what, await store.read_place())
    if "windows" in uses and store.has_marks:
        found += await _spaces(config, store)
    before = now()
    clock = await store.clock()
    if clock is not None:
        ahead = (before + now()) / 2 - clock / 1000
        agrees = abs(ahead) <= config.snowflake.max_forward
        words = f"this machine's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the store's"
        hint = "" if agrees else "; set the wrong one right (NTP)"
        found.append(Finding("ok" if agrees else "warning", "clock", f"{words}{hint}"))
    if "segments" in uses:
        tags = await store.list_tags(most=1000)
        some = f"{len(tags)}{' or more' if len(tags) == 1000 else ''} tags"
        found.append(Finding("ok", "tags", some if tags else "none yet; make one with: goloves tag create NAME"))
        found += [Finding("warning", f"tag {tag.name}", f"halted: {tag.halted}") for tag in tags if tag.halted]
    return found


def _place(config: Config, what: str, place: Place) -> Iterator[Finding]:
    """Say whether the store is still where nodes know it to be (R7, R8)."""
    if place.other_machine:
        moved = (
            "it belongs to another machine: a copy that runs beside its original would repeat its ids; if it was moved"
            " on purpose, and the original is gone for good, run: goloves repair"
        )
        yield Finding("failed", what, moved)
    if place.other_server and config.stores.failover != "ignore":
        effect = {"halt": "the next node to connect halts it", "skip": "the next node to connect skips failover_gap"}
        changed = f"its server is {place.server}, it was {place.known_server}: {effect[config.stores.failover]}"
        yield Finding("failed" if config.stores.failover == "halt" else "warning", what, changed)


async def _spaces(config: Config, store: "SqlStore") -> list[Finding]:
    """Compare the layouts that are configured with those in the store, which never change once ids were issued (W9)."""
    registered = {space.name: space for space in await store.read_spaces()}
    used = {owner.space for owner in await store.recent_owners(most=OWNERS_READ)}
    found = []
    for name, space in config.spaces.items():
        mine, there = Space(name, space.layout(), space.worker is not None), registered.get(name)
        what = f"space {name}"
        if there is None:
            found.append(Finding("ok", what, "the first start registers it"))
        elif there.fingerprint == mine.fingerprint:
            found.append(Finding("ok", what, there.layout))
        elif there.fingerprint == mine.other_way().fingerprint:
            ways = f"it is {there.layout} in the store and {mine.describe()} in this configuration"
            change = "the first node changes it over once no window of the space is under way"
            found.append(Finding("warning" if name in used else "ok", what, f"{ways}: {change}"))
        elif name in used or there.floor > 0:
            found.append(Finding("failed", what, other_layout(name, there.layout, mine.describe()).message))
        else:
            found.append(Finding("ok", what, f"no id was issued yet: it becomes {mine.describe()}"))
    return found


DONE = {
    "made": "has the tables of this version now",
    "added": "has Goloves' tables beside leaf_alloc now; restart the nodes that use it",
    "renewed": "has the tables of this version now; restart the nodes that use it",
    "nothing": "has the newest tables already; nothing was changed",
}
"""What a migration says that it did."""


@click.command("migrate")
@store_options
def migrate_command(config_file: Path | None, store: str | None, data_dir: str | None) -> None:
    """Make Goloves' tables in the store, or bring them to the newest form; may be repeated.

    An existing leaf_alloc stays as it is: Goloves' own tables are added beside it.
    """
    config = store_configuration(config_file, store, data_dir).config
    for line in run(config, lambda: _migrate(config)):
        click.echo(line)


async def _migrate(config: Config) -> list[str]:
    lines: list[str] = []
    for url, store in stores_by_url(config).items():
        lines.append(f"{address_of_store(url)} {DONE[await store.migrate()]}")
    return lines
