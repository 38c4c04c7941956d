"""`goloves next` and `goloves decode`: ids from a server, and what ids say."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from goloves.cli.failures import Exit, Failure
from goloves.cli.options import config_option, configuration, json_option
from goloves.cli.output import write_facts, write_json, write_table
from goloves.config.schema import suggest
from goloves.config.settings import DEFAULT_SPACE, SpaceConfig
from goloves.core.layout import PRESETS, Decoded, Layout
from goloves.core.names import check_name
from goloves.errors import InvalidId, UnknownSpace

DEFAULT_SERVER = "http://127.0.0.1:8080"

TIMEOUT = 10.0
"""Seconds: a server answers within its own deadline, a fraction of a second; the rest is the network's."""


@click.command("next")
@click.argument("tag", required=False)
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many ids.")
@click.option("--space", metavar="NAME", help="Snowflake ids of this space, instead of a tag's numbers.")
@click.option(
    "--server",
    envvar="GOLOVES_SERVER",
    default=DEFAULT_SERVER,
    show_default=True,
    metavar="URL",
    help="http://host:port or unix:/path (or set GOLOVES_SERVER).",
)
@json_option
def next_command(tag: str | None, count: int, space: str | None, server: str, as_json: bool) -> None:
    """Ask a running server for the next ids of TAG, or of a space; one a line."""
    if (tag is None) == (space is None):
        raise click.UsageError("name a tag (goloves next order), or a space (goloves next --space default)")
    if tag is not None:
        path = f"/v1/segments/{quote(check_name(tag), safe='')}/ids"
    else:
        path = f"/v1/snowflakes/{quote(check_name(space or '', 'space'), safe='')}/ids"
    ids = _ask(server, path, count)
    if as_json:
        write_json({"ids": ids})
    else:
        click.echo("\n".join(ids))


def _ask(server: str, path: str, count: int) -> list[str]:
    import httpx2

    socket = server.removeprefix("unix:") if server.startswith("unix:") else None
    if socket is None and "://" not in server:
        server = f"http://{server}"
    if socket is not None and not Path(socket).exists():
        raise _unreachable(server, "there is no such socket")
    base = "http://localhost" if socket is not None else server.rstrip("/")
    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=socket), timeout=TIMEOUT) as client:
            answer = client.post(f"{base}{path}", params={"count": count}, headers={"Accept": "application/json"})
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise Failure(
            f"{server!r} is no server to ask: {error}; write http://host:port or unix:/path", Exit.USAGE
        ) from None
    except httpx2.TransportError as error:
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        raise _unreachable(server, reason) from None
    try:
        body: Any = answer.json()
        if answer.status_code == 200:
            return [str(id_) for id_ in body["ids"]]
        detail, code = str(body["detail"]), str(body["code"])
    except (ValueError, KeyError, TypeError):
        raise Failure(
            f"{server} answered {answer.status_code}, but not as Goloves does; is it a Goloves server?"
        ) from None
    raise Failure(_with_hint(detail, code), _exit_code(answer.status_code))


def _unreachable(server: str, reason: str) -> Failure:
    hint = "start one with `goloves serve`, or name another with --server"
    return Failure(f"the server at {server} can't be reached: {reason}; {hint}", Exit.UNAVAILABLE)


def _with_hint(detail: str, code: str) -> str:
    if code == "unknown_tag" and "goloves tag create" not in detail:
        return f"{detail}; `goloves tag list` shows those that exist, `goloves tag create` makes one"
    return detail


def _exit_code(status: int) -> Exit:
    return {400: Exit.USAGE, 404: Exit.NOT_FOUND, 429: Exit.UNAVAILABLE, 503: Exit.UNAVAILABLE}.get(status, Exit.FAILED)


@click.command("decode")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@config_option
@click.option("--space", metavar="NAME", help="Use the layout of this space of the configuration.  [default: default]")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Use this layout, and no configuration.")
@click.option("--epoch-ms", type=int, help="Another epoch than the preset's, ms since 1970.")
@json_option
def decode_command(
    ids: tuple[str, ...],
    config_file: Path | None,
    space: str | None,
    preset: Any,
    epoch_ms: int | None,
    as_json: bool,
) -> None:
    """Say when each ID was made, by which worker, and as the how manyth of its unit of time. Needs no server."""
    if preset is not None or epoch_ms is not None:
        if space is not None:
            raise click.UsageError("--space takes the layout from the configuration; leave out --preset and --epoch-ms")
        layout = SpaceConfig(preset=preset or "leaf", epoch_ms=epoch_ms).layout()
    else:
        layout = _layout(config_file, space or DEFAULT_SPACE)
    decoded = [(text, layout.decode(_number(text))) for text in ids]
    if as_json:
        objects = [
            {
                "id": text,
                "time": _rfc3339(each),
                "unix_ms": str(each.unix_ms),
                "worker": each.worker,
                "sequence": each.sequence,
            }
            for text, each in decoded
        ]
        write_json(objects[0] if len(objects) == 1 else objects)
    elif len(decoded) == 1:
        [(_, each)] = decoded
        write_facts(
            [
                ("time", _rfc3339(each)),
                ("ms", str(each.unix_ms)),
                ("worker", str(each.worker)),
                ("sequence", str(each.sequence)),
            ]
        )
    else:
        columns = ("id", "time", "ms", "worker", "sequence")
        rows = [
            (text, _rfc3339(each), str(each.unix_ms), str(each.worker), str(each.sequence)) for text, each in decoded
        ]
        write_table(columns, rows, right=("id", "ms", "worker", "sequence"))


def _layout(config_file: Path | None, name: str) -> Layout:
    spaces = configuration(config_file, {}).config.spaces
    if name not in spaces:
        raise UnknownSpace(f"there is no space {name!r} in the configuration{suggest(name, spaces)}")
    return spaces[name].layout()


def _number(text: str) -> int:
    # 19 digits write every id; a few more are let through so that the layout can say what is wrong with them.
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 30):
        raise InvalidId(f"{text[:40]!r} is no id; an id is a whole number of up to 19 digits")
    return int(text)


def _rfc3339(decoded: Decoded) -> str:
    try:
        moment = datetime.fromtimestamp(decoded.unix_ms // 1000, UTC)
    except (ValueError, OverflowError):
        raise InvalidId("the id's time lies beyond the year 9999; it is an id of another layout") from None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{decoded.unix_ms % 1000:03}Z"
