"""Options that several commands share, and the configuration that they lead to."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from goloves.config import Loaded, load
from goloves.config.schema import Key

F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """Add --config."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        envvar="GOLOVES_CONFIG",
        metavar="FILE",
        help="Read settings from this TOML file (or set GOLOVES_CONFIG). None is read that isn't named.",
    )(command)


def store_options(command: F) -> F:
    """Add --config, --store and --data-dir."""
    command = click.option(
        "--data-dir", metavar="DIR", help="Directory of the embedded store and the node's marks. [default: ./data]"
    )(command)
    command = click.option(
        "--store",
        metavar="URL",
        help="sqlite:///file, mysql://user:password@host/database or postgresql://… [default: SQLite in the data "
        "directory; or set GOLOVES_STORE]",
    )(command)
    return config_option(command)


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")(command)


def configuration(config_file: Path | None, flags: dict[Key, Any]) -> Loaded:
    """Load the configuration; flags that were not given are None or empty. What was noted is said on standard error."""
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    loaded = load(config_file, os.environ, given)
    for note in loaded.notes:
        click.echo(f"note: {note}", err=True)
    return loaded


def store_configuration(config_file: Path | None, store: str | None, data_dir: str | None) -> Loaded:
    """Load the configuration of a command that has `store_options`."""
    return configuration(config_file, {("stores", "url"): store, ("server", "data_dir"): data_dir})
