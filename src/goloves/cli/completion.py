"""`goloves completion`: the shell's completion script, made by click."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion_command(shell: str | None) -> None:
    """Print the completion script of SHELL (bash, zsh or fish; yours, if none is named).

    \b
    bash: goloves completion bash > ~/.local/share/bash-completion/completions/goloves
    zsh:  goloves completion zsh > "${fpath[1]}/_goloves"
    fish: goloves completion fish > ~/.config/fish/completions/goloves.fish
    """  # noqa: D301 - click reads the character that a raw text would not have
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise click.UsageError(f"name the shell: {', '.join(SHELLS)}")
    kind = get_completion_class(name)
    assert kind is not None
    root = click.get_current_context().find_root()
    click.echo(_script(kind, root.command))


def _script(kind: type, command: click.Command) -> str:
    completion = kind(command, {}, "goloves", "_GOLOVES_COMPLETE")
    # click's own method asks the installed bash for its version; the script is the same for each that it supports.
    source: str = completion.source_template % completion.source_vars()
    return source
