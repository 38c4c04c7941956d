"""What is released: packages that are the same bytes wherever they are built, and manual pages of every command."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from goloves.cli import main

ROOT = Path(__file__).parents[1]

man = importlib.import_module("scripts.man")


@pytest.mark.timeout(600)
def test_two_builds_are_the_same_bytes_and_the_source_package_builds_the_same_wheel() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("a source package does not know which files belong to the repository; run this in a clone")
    script = ROOT / "scripts" / "release-check.py"
    done = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^[0-9a-f]{64}  goloves-", done.stdout, re.MULTILINE)) == 2


def test_the_manual_pages_are_what_the_commands_say() -> None:
    assert man.outdated() == [], "run `make man`"


def every_command(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from every_command(below, click.Context(below, info_name=name, parent=context))


def test_every_command_has_a_manual_page_with_each_of_its_options() -> None:
    contexts = list(every_command(main, click.Context(main, info_name="goloves")))
    assert len(contexts) > 15
    for context in contexts:
        page = (ROOT / "man" / "man1" / f"{context.command_path.replace(' ', '-')}.1").read_text(encoding="utf-8")
        for parameter in context.command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0].replace("-", "\\-") in page, (context.command_path, parameter.opts)


def test_a_manual_page_keeps_lines_that_belong_apart_and_hides_nothing_from_troff() -> None:
    page = (ROOT / "man" / "man1" / "goloves.1").read_text(encoding="utf-8")
    assert re.search(r"^\.nf\nFirst steps:\n  goloves serve .*\n  curl localhost:8080", page, re.MULTILINE)
    assert man.plain(".dot\n'quote\na\\b") == "\\&.dot\n\\&'quote\na\\eb"


def test_no_help_shows_the_mark_that_keeps_lines_apart() -> None:
    for context in every_command(main, click.Context(main, info_name="goloves")):
        assert "\\b" not in context.command.get_help(context)
