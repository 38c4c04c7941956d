"""What commands write: tables for people, JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click


def write_json(data: Any) -> None:
    """Write one JSON value."""
    click.echo(json.dumps(data, ensure_ascii=False, indent=2))


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Write a table; the columns in `right` hold numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console(Console).print(table)


def write_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Write names and values, one pair a line."""
    facts = list(facts)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {value}")


def _console(kind: Any) -> Any:
    """Give a console that, where nobody looks at it, cuts and folds nothing."""
    console = kind(highlight=False)
    return console if console.is_terminal else kind(highlight=False, width=10_000)
