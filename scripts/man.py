"""Makes the manual pages from the commands, or checks that they are current: `python scripts/man.py [--check]`.

One page for `goloves` and one for each command below it, in man/man1; the wheel installs them as share/man. (click-man
was tried: it does not find commands that are loaded when they are called, nor does it keep lines that must not be
joined.)
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from goloves import __version__  # noqa: E402
from goloves.cli import COMMANDS, main  # noqa: E402
from goloves.cli.failures import EXIT_CODES  # noqa: E402

PAGES = ROOT / "man" / "man1"

KEPT = "\b"
"""How click marks a paragraph whose lines are kept."""


def plain(text: str) -> str:
    """Write text for troff: nothing in it is a request or an escape."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in escaped.splitlines())


def paragraphs(help_text: str) -> Iterator[str]:
    """Write a command's help, paragraph by paragraph."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text)):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == KEPT:
            yield f".PP\n.nf\n{plain(chr(10).join(lines[1:]))}\n.fi"
        else:
            yield f".PP\n{plain(' '.join(line.strip() for line in lines))}"


def commands(context: click.Context) -> list[tuple[str, click.Command]]:
    """Give a group's commands, in the order of its help."""
    group = context.command
    if not isinstance(group, click.Group):
        return []
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [(name, command) for name, command in found if command is not None and not command.hidden]


def short(name: str, command: click.Command) -> str:
    """Say in a few words what a command is for."""
    first = inspect.cleandoc(command.help or "").split("\n\n")[0].replace("\n", " ")
    return (COMMANDS[name][1] if COMMANDS.get(name, ("", ""))[1] else first).rstrip(".")


def page(context: click.Context, what: str) -> str:
    """Write the page of one command."""
    command = context.command
    title = context.command_path.replace(" ", "-")
    parts = [
        f'.TH "{title.upper()}" "1" "" "Goloves {__version__}" "Goloves"',
        f".SH NAME\n{plain(title)} \\- {plain(what)}",
        f".SH SYNOPSIS\n.B {plain(context.command_path)}\n{plain(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *paragraphs(command.help or what),
    ]
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context)) is not None]
    options = [f".TP\n.B {plain(name)}\n{plain(text)}" for name, text in records if name.startswith("-")]
    parts += [".SH OPTIONS", *options] if options else []
    below = commands(context)
    if below:
        parts += [".SH COMMANDS"]
        for name, each in below:
            parts.append(f".TP\n.BR {plain(title)}\\-{plain(name)} (1)\n{plain(short(name, each))}.")
    if context.parent is None:
        parts.append(".SH EXIT STATUS")
        parts += [f".TP\n.B {int(code)}\n{plain(text)}." for code, text in EXIT_CODES.items()]
        parts.append(
            ".SH ENVIRONMENT\n.TP\n.B GOLOVES_CONFIG\nThe configuration file, where no \\-\\-config names one.\n"
            ".TP\n.B GOLOVES_STORE\nThe store's URL, where no \\-\\-store names one.\n"
            ".TP\n.BR GOLOVES_ SECTION __ KEY\nAny setting; `goloves config show` says which are in force."
        )
    else:
        parts.append(f".SH SEE ALSO\n.BR {plain(context.parent.command_path.replace(' ', '-'))} (1)")
    return "\n".join(parts) + "\n"


def pages(context: click.Context, what: str) -> Iterator[tuple[str, str]]:
    """Give the name and the text of each page, from a command downwards."""
    yield f"{context.command_path.replace(' ', '-')}.1", page(context, what)
    for name, command in commands(context):
        yield from pages(click.Context(command, info_name=name, parent=context), short(name, command))


def made() -> dict[str, str]:
    """Give all pages."""
    return dict(
        pages(click.Context(main, info_name="goloves", **main.context_settings), "unique 64-bit ids over HTTP and gRPC")
    )


def outdated() -> list[str]:
    """Name the pages that are not what the commands say."""
    there = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.1")}
    now = made()
    return sorted(name for name in there.keys() | now.keys() if there.get(name) != now.get(name))


def write() -> None:
    """Write all pages."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for path in PAGES.glob("*.1"):
        path.unlink()
    for name, text in made().items():
        (PAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if outdated():
            sys.exit(f"not current, run `make man`: {', '.join(outdated())}")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        write()
