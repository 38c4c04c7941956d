"""`goloves config`: what is in force, and what can be set."""

from pathlib import Path

import click

from goloves.cli.options import json_option, store_configuration, store_options
from goloves.cli.output import write_json, write_table
from goloves.config import mask_url
from goloves.config.load import effective
from goloves.config.schema import show, show_value


@click.group("config", invoke_without_command=True)
@click.pass_context
def config_command(ctx: click.Context) -> None:
    """Show what is configured (`show`, the default), and what can be (`template`, `reference`)."""
    if ctx.invoked_subcommand is None:
        # Not ctx.invoke: that would leave out what the options read from the environment.
        with config_show.make_context("show", [], parent=ctx) as show_ctx:
            config_show.invoke(show_ctx)


@config_command.command("show")
@store_options
@json_option
@click.option("--set", "only_set", is_flag=True, help="Leave out what is at its default.")
def config_show(
    config_file: Path | None, store: str | None, data_dir: str | None, as_json: bool, only_set: bool
) -> None:
    """Print the configuration in force and where each setting comes from. Passwords are shown as ***."""
    loaded = store_configuration(config_file, store, data_dir)
    rows = [row for row in effective(loaded) if not only_set or row[2] != "default"]
    masked = [(key, mask_url(value) if isinstance(value, str) else value, source) for key, value, source in rows]
    if as_json:
        write_json({show(key): {"value": value, "source": source} for key, value, source in masked})
    else:
        cells = [(show(key), "" if value is None else show_value(value), source) for key, value, source in masked]
        write_table(("setting", "value", "source"), cells)


@config_command.command("template")
def config_template() -> None:
    """Print a configuration file with every setting, explained, at its default."""
    from goloves.config.document import template

    click.echo(template(), nl=False)


@config_command.command("reference")
def config_reference() -> None:
    """Print the reference of all settings in Markdown."""
    from goloves.config.document import reference

    click.echo(reference(), nl=False)
