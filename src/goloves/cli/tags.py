"""`goloves tag`: tags in the store that the configuration names. It needs no server; running ones notice."""

import difflib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from goloves.cli.opening import run, segments
from goloves.cli.options import json_option, store_configuration, store_options
from goloves.cli.output import write_facts, write_json, write_table
from goloves.core.grants import MAX_NUMBER
from goloves.core.names import check_name
from goloves.errors import UnknownTag
from goloves.stores.base import DEFAULT_STEP, NewTag, Tag, TagChange

if TYPE_CHECKING:
    from goloves.stores.base import SegmentStore

T = TypeVar("T")

LISTED = 100
"""Tags of a list, unless more are asked for: a few screens."""

SUGGESTED_FROM = 1000
"""Tags among which a misspelt name is looked for."""

Work = Callable[["SegmentStore"], Coroutine[Any, Any, T]]


@click.group("tag")
def tag_command() -> None:
    """Create, list, show, change and delete tags in the store."""


@tag_command.command("create")
@click.argument("name")
@click.option("--step", type=int, default=DEFAULT_STEP, show_default=True, help="Least numbers that a refill asks for.")
@click.option("--start", type=int, help="First number.  [default: 1, or above what a failover or a repair left out]")
@click.option("--limit", type=int, help="No number at or above this is given.  [default: none below 2^63]")
@click.option("--description", default="", help="What it is for.")
@store_options
@json_option
def tag_create(
    name: str,
    step: int,
    start: int | None,
    limit: int | None,
    description: str,
    config_file: Path | None,
    store: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Create a tag. One that was deleted goes on above its old numbers."""
    new = NewTag(check_name(name), step, start, description, MAX_NUMBER if limit is None else limit)
    made = _with_store((config_file, store, data_dir), lambda segments: segments.create_tag(new))
    if as_json:
        write_json(_object(made))
    elif made.max_id > (1 if start is None else start):
        why = "it existed before" + (", or a failover or a repair left numbers out" if start is None else "")
        click.echo(f"created the tag {name!r}; {why}, so its first number is {made.max_id}")
    else:
        click.echo(f"created the tag {name!r}; its first number is {made.max_id}")


@tag_command.command("list")
@click.option("--prefix", default="", metavar="TEXT", help="Only tags that begin with this.")
@click.option("--after", default="", metavar="NAME", help="Only tags after this one: where the last list ended.")
@click.option("--most", type=click.IntRange(min=1), default=LISTED, show_default=True, help="At most so many.")
@store_options
@json_option
def tag_list(
    prefix: str,
    after: str,
    most: int,
    config_file: Path | None,
    store: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """List tags in the order of their names."""
    found = _with_store(
        (config_file, store, data_dir), lambda segments: _list(segments, prefix, after, most + 1), only_look=True
    )
    shown, more = found[:most], len(found) > most
    if as_json:
        write_json([_object(tag) for tag in shown])
    elif not shown:
        click.echo("no tags" + (" here; `goloves tag create` makes one" if not prefix and not after else ""), err=True)
    else:
        rows = [(tag.name, str(tag.max_id), str(tag.step), tag.description, _state(tag)) for tag in shown]
        write_table(("tag", "next number", "step", "description", "state"), rows, right=("next number", "step"))
    if more:
        last = shown[-1].name
        click.echo(f"there are more: goloves tag list --after {last!r} goes on, --most shows more at once", err=True)


@tag_command.command("show")
@click.argument("name")
@store_options
@json_option
def tag_show(name: str, config_file: Path | None, store: str | None, data_dir: str | None, as_json: bool) -> None:
    """Show a tag."""
    tag = _with_store(
        (config_file, store, data_dir), lambda segments: _find(segments, check_name(name)), only_look=True
    )
    if as_json:
        write_json(_object(tag))
    else:
        write_facts(
            (field.replace("_", " "), "" if value is None else str(value)) for field, value in _object(tag).items()
        )


@tag_command.command("set")
@click.argument("name")
@click.option("--step", type=int, help="Least numbers that a refill asks for.")
@click.option("--limit", type=int, help="No number at or above this is given.")
@click.option("--description", help="What it is for.")
@store_options
@json_option
def tag_set(
    name: str,
    step: int | None,
    limit: int | None,
    description: str | None,
    config_file: Path | None,
    store: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Change a tag; nodes notice within a minute."""
    change = TagChange(step, description, limit)
    if change == TagChange():
        raise click.UsageError("say what to change: --step, --limit or --description")

    async def work(segments: "SegmentStore") -> Tag:
        await _find(segments, check_name(name))
        return await segments.change_tag(name, change)

    tag = _with_store((config_file, store, data_dir), work)
    if as_json:
        write_json(_object(tag))
    else:
        click.echo(f"changed the tag {name!r}; running nodes notice within a minute")


@tag_command.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask.")
@store_options
def tag_delete(name: str, yes: bool, config_file: Path | None, store: str | None, data_dir: str | None) -> None:
    """Delete a tag. Its numbers stay used: created again, it goes on above them."""
    where = (config_file, store, data_dir)
    if not yes:
        tag = _with_store(where, lambda segments: _find(segments, check_name(name)))
        click.confirm(f"Delete the tag {tag.name!r}, whose next number is {tag.max_id}?", abort=True, err=True)

    async def work(segments: "SegmentStore") -> None:
        await _find(segments, check_name(name))
        await segments.delete_tag(name)

    _with_store(where, work)
    click.echo(f"deleted the tag {name!r}; running nodes drop it within a minute")


def _with_store(where: tuple[Path | None, str | None, str | None], work: Work[T], *, only_look: bool = False) -> T:
    config = store_configuration(*where).config

    async def opened() -> T:
        async with segments(config, only_look=only_look) as store:
            return await work(store)

    return run(config, opened)


async def _list(segments: "SegmentStore", prefix: str, after: str, most: int) -> list[Tag]:
    """Read a list of any length, in pieces of what a store gives at once."""
    found: list[Tag] = []
    while len(found) < most:
        piece = await segments.list_tags(prefix=prefix, after=after, most=min(1000, most - len(found)))
        if not piece:
            break
        found += piece
        after = piece[-1].name
    return found


async def _find(segments: "SegmentStore", name: str) -> Tag:
    """Read a tag; UnknownTag names those that were likely meant."""
    found = await segments.read_tags([name])
    if name in found:
        return found[name]
    beside = await segments.list_tags(prefix=name[:1], most=SUGGESTED_FROM)
    near = difflib.get_close_matches(name, [tag.name for tag in beside], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`goloves tag list` shows those that exist"
    raise UnknownTag(f"there is no tag {name!r}; {hint}")


def _object(tag: Tag) -> dict[str, Any]:
    """Give a tag as data; numbers that may exceed 2^53 are strings, as in the HTTP API."""
    return {
        "tag": tag.name,
        "next_number": str(tag.max_id),
        "step": tag.step,
        "limit": None if tag.limit == MAX_NUMBER else str(tag.limit),
        "left": None if tag.limit == MAX_NUMBER else str(max(0, tag.limit - tag.max_id)),
        "description": tag.description,
        "updated": None if tag.updated is None else tag.updated.isoformat(),
        "halted": tag.halted or None,
    }


def _state(tag: Tag) -> str:
    if tag.halted:
        return f"halted: {tag.halted}"
    if tag.max_id >= tag.limit:
        return "used up"
    return f"{tag.limit - tag.max_id} numbers left" if tag.nearly_used_up else ""
