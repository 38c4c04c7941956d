import re
from pathlib import Path

import click
import pytest

from goloves.cli import main

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def commands() -> list[str]:
    text = re.sub(r"\s+", " ", OPERATIONS.read_text())
    shown = re.findall(r"^    goloves (.+?)(?: +#.*)?$", OPERATIONS.read_text(), re.MULTILINE)
    return sorted({*shown, *re.findall(r"`goloves ([^`]+)`", text)})


def test_the_page_on_operations_names_commands() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize("line", commands())
def test_each_command_of_the_page_on_operations_can_be_given(line: str) -> None:
    words = line.replace("--limit N", "--limit 1").split()
    command: click.Command = main
    context = None
    while isinstance(command, click.Group):
        context = command.make_context(command.name or "goloves", words, parent=context)
        _, found, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command = found
    if words == [] and any(parameter.required for parameter in command.params):
        return  # named without what it is given
    command.make_context(command.name or "", words, parent=context)  # a usage error is raised here


def test_what_the_page_on_operations_quotes_is_what_is_said() -> None:
    source = " ".join(path.read_text() for path in (OPERATIONS.parents[1] / "src").rglob("*.py"))
    text = re.sub(r"\s+", " ", OPERATIONS.read_text())
    for said in (
        *("the store went backwards", "it is halted", "store_went_backwards", "clock_ahead"),
        *("the clock of the store stepped back", "worker ids of the space run short"),
        *("the tag's numbers run out", "the layout's time runs out"),
    ):
        assert said in text
        assert said in source, said
