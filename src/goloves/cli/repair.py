"""`goloves repair`: shows what a store that went backwards lost, says what it will do, asks, and does it."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import time as now
from typing import TYPE_CHECKING, Any

import click

from goloves.cli.failures import Failure
from goloves.cli.opening import address_of_store, run, stores_by_url
from goloves.cli.options import json_option, store_configuration, store_options
from goloves.cli.output import write_json, write_table
from goloves.config import Config
from goloves.core.grants import MAX_NUMBER
from goloves.errors import ConfigError, UnknownTag
from goloves.repair import MARGIN, Behind, Findings, Plan, look, node_of, plan_repair, repair
from goloves.server.assembly import node_name
from goloves.stores.base import Mark, Place, RegisteredSpace, Space

if TYPE_CHECKING:
    from goloves.stores.sql import SqlStore

SHOWN = 20
"""Tags of a list that people are shown; the JSON has all."""

MOST_MARGIN = 2**53
"""Numbers that a repair may skip: beyond that even the widest tag would be used up in a few repairs."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line."""

    margin: int
    tags: tuple[str, ...]
    restored: bool


@dataclass(slots=True)
class Case:
    """A store, what was found there, and what is to be done."""

    address: str
    store: "SqlStore"
    data_dir: Path
    """Where the state directories are that count."""
    spaces: dict[str, Space]
    """Those that the configuration has in this store."""
    findings: Findings
    plan: Plan
    now_ms: int
    notes: list[str] = field(default_factory=list)
    """What could not be read or does not fit, in sentences."""


@click.command("repair")
@click.option("--tag", "tags", multiple=True, metavar="NAME", help="Repair only this halted tag; may be repeated.")
@click.option(
    "--margin",
    type=click.IntRange(0, MOST_MARGIN),
    default=MARGIN,
    show_default=True,
    help="Numbers that every tag leaves out above the highest that anybody remembers.",
)
@click.option("--restored", is_flag=True, help="The store was set back, even if nothing here shows it.")
@click.option("--dry-run", is_flag=True, help="Show what was found and what would be done, and change nothing.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@store_options
@json_option
def repair_command(
    tags: tuple[str, ...],
    margin: int,
    restored: bool,
    dry_run: bool,
    yes: bool,
    config_file: Path | None,
    store: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Go on after a store went backwards, failed over or was moved.

    Shows what was found, says in numbers what will be done, and asks. Everything is only ever raised, so it may be
    repeated, and interrupted. Nodes may run meanwhile; they go on by themselves. Give it the configuration of the
    nodes: the pause of Snowflake ids follows from the windows there.
    """
    if tags and restored:
        raise click.UsageError("--tag repairs single tags, --restored the whole store; give one of the two")
    config = store_configuration(config_file, store, data_dir).config
    wish = Wish(margin, tags, restored)
    cases = run(config, lambda: _examine(config, wish))
    busy = [case for case in cases if not case.plan.empty]
    if not as_json:
        for case in cases:
            _show(case)
    if busy and not dry_run:
        if not yes:
            click.confirm("Do this?", abort=True, err=True)
        run(config, lambda: _do(config, wish, [case.address for case in busy]))
    if as_json:
        write_json([_object(case, done=not dry_run and case in busy) for case in cases])
    elif busy and not dry_run:
        click.echo("Done. Nodes that run go on by themselves within seconds; `goloves check` looks at the store.")
        if not all(case.findings.has_marks for case in busy):
            click.echo("Where only Leaf's table exists, nodes that halted by themselves go on when they are restarted.")


async def _examine(config: Config, wish: Wish, only: list[str] | None = None) -> list[Case]:
    """Look at each store and let go of it again: a person may think for long before the repair."""
    cases = []
    for case in _stores(config):
        if only is not None and case.address not in only:
            continue
        await case.store.open()
        try:
            await _look(config, wish, case)
        finally:
            await case.store.close()
        cases.append(case)
    return cases


async def _do(config: Config, wish: Wish, addresses: list[str]) -> None:
    """Look once more, for nodes may have written marks since, and repair."""
    for case in _stores(config):
        if case.address not in addresses:
            continue
        await case.store.open()
        try:
            await _look(config, wish, case)
            if case.plan.whole and case.store.has_marks:
                registered = {space.name: space.fingerprint for space in await case.store.read_spaces()}
                for name, space in case.spaces.items():
                    if name not in registered:
                        await case.store.open_space(space)
            await repair(case.store, case.findings, case.plan)
        finally:
            await case.store.close()


def _stores(config: Config) -> list[Case]:
    cases = []
    for url, store in stores_by_url(config, repairing=True).items():
        spaces = {name: Space(name, each.layout(), each.worker is not None) for name, each in config.spaces.items()}
        served = spaces if url == config.windows_url else {}
        data_dir = Path(config.server.data_dir)
        cases.append(Case(address_of_store(url), store, data_dir, served, Findings("", {}), Plan({}), 0))
    return cases


async def _look(config: Config, wish: Wish, case: Case) -> None:
    store = case.store
    findings = case.findings = await look(store, _state_directories(config, store, case.notes))
    if config.stores.failover == "ignore":
        findings.place = Place(machine=findings.place.machine, known_machine=findings.place.known_machine)
    _add_spaces(case)
    clock = await store.clock()
    case.now_ms = max(round(now() * 1000), clock or 0)
    if wish.tags:
        _keep_only(findings, wish.tags)
    windows = {name: space.window for name, space in config.spaces.items()}
    case.plan = plan_repair(
        findings,
        now_ms=case.now_ms,
        windows=windows,
        longest_window=max(windows.values()),
        max_forward=config.snowflake.max_forward,
        margin=wish.margin,
        whole=False if wish.tags else wish.restored or None,
    )
    if wish.tags:
        await _check_tags(store, wish.tags, findings)


def _state_directories(config: Config, store: "SqlStore", notes: list[str]) -> dict[str, list[Mark]]:
    """Read what nodes of this machine remember that don't run; those that run write it into the store themselves."""
    from goloves.stores.marks import Marks

    found: dict[str, list[Mark]] = {}
    for directory in sorted(Path(config.server.data_dir).glob("node-*")):
        number = directory.name.removeprefix("node-")
        try:
            marks = Marks.of_stopped_node(directory)
        except (OSError, ConfigError) as error:
            why = error.message if isinstance(error, ConfigError) else error.strerror
            notes.append(f"the marks in {directory} can't be read: {why}; they are covered by the margin only")
            continue
        if marks is None:
            continue
        marks.carry(store.address, store.identity)
        if some := marks.all(store.identity):
            found[node_name(number)] = some
    return found


def _add_spaces(case: Case) -> None:
    """Add the spaces that nodes have and the store lost; name those that it has otherwise."""
    if not case.findings.has_marks:
        return
    registered = {space.name: space for space in case.findings.spaces}
    for name, space in case.spaces.items():
        layout = space.layout
        if name not in registered:
            case.findings.spaces.append(
                RegisteredSpace(name, space.describe(), space.fingerprint, layout.epoch_ms, layout.unit_ms, 0)
            )
        elif registered[name].fingerprint not in (space.fingerprint, space.other_way().fingerprint):
            case.notes.append(
                f"the space {name!r} is {registered[name].layout} in the store and {layout.describe()} in this"
                " configuration; nodes with the latter are refused"
            )


def _keep_only(findings: Findings, tags: tuple[str, ...]) -> None:
    if findings.halt:
        raise Failure("the whole store is halted, and single tags can't go on alone; leave out --tag")
    findings.halted = [tag for tag in findings.halted if tag.name in tags]
    findings.behind = [behind for behind in findings.behind if behind.name in tags]


async def _check_tags(store: "SqlStore", tags: tuple[str, ...], findings: Findings) -> None:
    known = {behind.name for behind in findings.behind}
    for at in range(0, len(tags), 1000):
        known |= (await store.read_tags(tags[at : at + 1000])).keys()
    for name in tags:
        if name not in known:
            raise UnknownTag(f"there is no tag {name!r}; `goloves check` names those that are halted")


# --- what people read ---


def _show(case: Case) -> None:
    findings, plan = case.findings, case.plan
    click.echo(click.style(case.address, bold=True))
    for line in [*_found(findings), *case.notes]:
        click.echo(f"  {line}")
    _show_tags(findings)
    if plan.empty:
        click.echo("  nothing to repair: no halt, and nothing stands below what is remembered of it")
        if not findings.marks:
            click.echo("  If a backup was restored and no node is left that could know: goloves repair --restored")
        return
    click.echo("  What will be done:")
    for line in _steps(case):
        click.echo(f"    - {line}")
    if plan.whole:
        click.echo(
            f"  Of nodes that don't run, only those with a state directory in {case.data_dir} are counted. Where others"
            " have theirs, run `goloves repair` too before any node starts: what they were granted beyond the margin"
            " comes twice else"
        )


def _found(findings: Findings) -> list[str]:
    lines = []
    if not findings.has_marks:
        lines.append(
            "only Leaf's table exists: there are no halts, no marks of other nodes and no windows here, only numbers to"
            " raise. Stop all nodes first, on each machine that has some: those that run keep their marks to"
            " themselves, and go on when they are started after the repair. `goloves migrate` repairs nothing"
        )
    if findings.halt:
        lines.append(f"halted: {findings.halt}")
    place = findings.place
    if place.other_server:
        lines.append(f"the database server is another one: {place.server}; it was {place.known_server}")
    if place.other_machine:
        lines.append(
            "the file belongs to another machine: repair it only if its original is gone for good, for both together"
            " repeat ids"
        )
    if findings.marks:
        lines.append(f"{_count(len(findings.marks), 'node')} told what they remember:")
        for node, marks in sorted(findings.marks.items()):
            tags = sum(mark.kind == "tag" for mark in marks)
            lines.append(f"  {node}: {_count(tags, 'tag')}, {_count(len(marks) - tags, 'worker id')}")
    if findings.silent and findings.went_backwards:
        lines.append("nodes seen within the last day of this store that told nothing:")
        lines += [
            f"  {node_of(owner)} (last seen {_moment(owner.seen.timestamp() * 1000)})" for owner in findings.silent
        ]
        lines.append("  Those that run tell within a minute after a halt: wait for them. The margin covers the others.")
    if findings.fences_behind:
        lines.append(f"{_count(len(findings.fences_behind), 'worker id')} were claimed more often than the store knows")
    return lines


def _show_tags(findings: Findings) -> None:
    rows = [
        (behind.name, "unknown" if behind.stands is None else str(behind.stands), str(behind.remembered), _why(behind))
        for behind in findings.behind
    ]
    behind = {each.name for each in findings.behind}
    rows += [
        (tag.name, str(tag.max_id), str(tag.mark), f"halted: {tag.halted}" if tag.halted else "its number was lowered")
        for tag in findings.halted
        if tag.name not in behind
    ]
    if rows:
        write_table(("tag", "next number", "remembered", "why"), rows[:SHOWN], right=("next number", "remembered"))
    if len(rows) > SHOWN:
        click.echo(f"  and {len(rows) - SHOWN} more tags (--json shows all)")


def _why(behind: Behind) -> str:
    return "made after the backup, or removed by hand" if behind.stands is None else "nodes were granted more"


def _steps(case: Case) -> list[str]:
    findings, plan = case.findings, case.plan
    steps = [
        f"the tag {name!r} goes on at {min(number + plan.margin, MAX_NUMBER)} or above"
        for name, number in list(plan.numbers.items())[:SHOWN]
    ]
    if len(plan.numbers) > SHOWN:
        steps.append(f"and {len(plan.numbers) - SHOWN} more tags likewise")
    lost = [behind.name for behind in findings.behind if behind.stands is None]
    if lost:
        named = ", ".join(map(repr, lost[:SHOWN])) + (" …" if len(lost) > SHOWN else "")
        steps.append(f"not in the store any more: {named}; made again by `goloves tag create`, they go on above that")
    if not plan.whole:
        return [*steps, "these tags' halts are lifted"]
    if plan.margin:
        steps.append(f"every tag, deleted ones too, leaves out {plan.margin:,} numbers (--margin; counted in above)")
    if plan.used_up:
        named = ", ".join(map(repr, plan.used_up[:SHOWN])) + (" …" if len(plan.used_up) > SHOWN else "")
        steps.append(f"that uses up {named}: raise their limits (`goloves tag set`), or give a smaller --margin")
    for name, until in plan.floors.items():
        wait = (until - case.now_ms) / 1000
        steps.append(f"the space {name!r} gives no id until {_moment(until)}, {_duration(wait)} from now")
    if plan.floors:
        steps.append("all windows end, and the halt is lifted")
    if findings.place.other_server:
        steps.append("the database server is taken for the right one")
    if findings.place.other_machine:
        steps.append("the file belongs to this machine from then on")
        if plan.margin and not findings.set_back:
            steps.append("if its nodes were stopped before it was moved: --margin 0 leaves it at that, without a pause")
    return steps


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _moment(unix_ms: float) -> str:
    return datetime.fromtimestamp(unix_ms / 1000).astimezone().isoformat(" ", "seconds")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- what programs read ---


def _object(case: Case, *, done: bool) -> dict[str, Any]:
    """Give a case as data; numbers that may exceed 2^53 are strings, as in the HTTP API."""
    findings, plan = case.findings, case.plan
    place = findings.place
    return {
        "store": case.address,
        "halted": findings.halt or None,
        "only_leaf": not findings.has_marks,
        "other_server": {"was": place.known_server, "is": place.server} if place.other_server else None,
        "other_machine": place.other_machine,
        "nodes": {
            node: {
                "tags": sum(mark.kind == "tag" for mark in marks),
                "workers": sum(mark.kind == "worker" for mark in marks),
            }
            for node, marks in findings.marks.items()
        },
        "silent_nodes": [{"node": node_of(owner), "seen": owner.seen.isoformat()} for owner in findings.silent],
        "tags_behind": [
            {
                "tag": behind.name,
                "next_number": None if behind.stands is None else str(behind.stands),
                "remembered": str(behind.remembered),
            }
            for behind in findings.behind
        ],
        "tags_halted": [
            {"tag": tag.name, "next_number": str(tag.max_id), "remembered": str(tag.mark), "halted": tag.halted or None}
            for tag in findings.halted
        ],
        "workers_behind": len(findings.fences_behind),
        "notes": case.notes,
        "plan": None
        if plan.empty
        else {
            "tags": {name: str(number) for name, number in plan.numbers.items()},
            "whole_store": plan.whole,
            "margin": str(plan.margin),
            "spaces_pause_until": {name: _moment(until) for name, until in plan.floors.items()},
            "used_up": list(plan.used_up),
        },
        "done": done,
    }
