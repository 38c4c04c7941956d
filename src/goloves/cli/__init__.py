"""The command line: `goloves`. Nothing else parses arguments.

Rules:
1. `goloves --help` and what it needs load in an instant: each command's module is loaded when it is called, and what a
   command needs beyond click is loaded inside of it.
2. What a program may read goes to standard output, the rest to standard error.
3. A person never meets a traceback, unless with --debug (see `failures`).
"""

import importlib
import signal
from types import FrameType
from typing import Any, NoReturn

import click

from goloves import __version__
from goloves.cli.failures import EXIT_CODES, Exit, failing_well

COMMANDS = {
    "serve": ("goloves.cli.serve", "Serve ids over HTTP and gRPC."),
    "next": ("goloves.cli.ids", "Ask a running server for ids."),
    "decode": ("goloves.cli.ids", "Say when and by whom a Snowflake id was made."),
    "tag": ("goloves.cli.tags", "Create, list, show, change and delete tags."),
    "reload": ("goloves.cli.serve", "Let a running service read its settings again."),
    "check": ("goloves.cli.stores", "Check the configuration and the store, and say what was found."),
    "migrate": ("goloves.cli.stores", "Make or renew Goloves' tables in the store."),
    "repair": ("goloves.cli.repair", "Go on after a store went backwards, failed over or was moved."),
    "config": ("goloves.cli.settings", "Show what is configured, and what can be."),
    "completion": ("goloves.cli.completion", "Print the shell's completion script."),
}
"""Where each command lives, and what it is for, in the order of the help."""


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End at SIGTERM, as long as there is nothing that has to be stopped in an orderly way."""
    raise SystemExit(int(Exit.DONE))


class LazyCommands(click.Group):
    """A group whose commands are loaded when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name == "serve":
            # Before what takes its time to load: process 1 never hears of a signal that nobody handles.
            signal.signal(signal.SIGTERM, _end)
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was likely meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from goloves.config.schema import suggest  # only here: it loads the whole configuration

            hint = suggest(args[0], COMMANDS) or f"; there are {', '.join(COMMANDS)}"
            ctx.fail(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command is for, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), what) for code, what in EXIT_CODES.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as `goloves`, however it was started."""
        return super().main(*args, **{"prog_name": "goloves"} | kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong becomes a message and an exit code."""
        with failing_well(debug=ctx.params["debug"]):
            return super().invoke(ctx)


@click.group(
    "goloves", cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="goloves %(version)s")
@click.option("--debug", is_flag=True, envvar="GOLOVES_DEBUG", help="Show tracebacks of unexpected errors.")
def main(debug: bool) -> None:
    """Goloves: unique 64-bit ids over HTTP and gRPC, never the same id twice.

    \b
    First steps:
      goloves serve                                          # SQLite under ./data, HTTP on 127.0.0.1:8080
      curl localhost:8080/api/segment/get/default
      goloves tag create order --description 'orders'
      goloves next order --count 3
    """  # noqa: D301 - click reads the character that a raw text would not have
