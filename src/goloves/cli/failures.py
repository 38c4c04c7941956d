"""How the command line fails: one message that says what is wrong and how to mend it, and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

import click

from goloves.errors import (
    ConfigError,
    GolovesError,
    InvalidRequest,
    LimitExceeded,
    NeedsMigration,
    NotFound,
    StoreWentBackwards,
    Unavailable,
)


class Exit(IntEnum):
    """What the process ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    NOT_FOUND = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


EXIT_CODES = {
    Exit.DONE: "done",
    Exit.FAILED: "failed; trying again won't help",
    Exit.USAGE: "the command line is wrong",
    Exit.CONFIG: "the configuration is wrong, or something is not installed; nothing was done",
    Exit.NOT_FOUND: "there is no such tag or space",
    Exit.UNAVAILABLE: "the store or the server is away; trying again can help",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}

CODES: tuple[tuple[type[GolovesError], Exit], ...] = (
    (ConfigError, Exit.CONFIG),
    (InvalidRequest, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (NeedsMigration, Exit.FAILED),
    (StoreWentBackwards, Exit.FAILED),
    (Unavailable, Exit.UNAVAILABLE),
    (LimitExceeded, Exit.UNAVAILABLE),
    (GolovesError, Exit.FAILED),
)
"""The first that fits decides."""

EXTRAS = {
    "aiosqlite": "server",
    "alembic": "server",
    "sqlalchemy": "server",
    "starlette": "server",
    "uvicorn": "server",
    "uvloop": "server",
    "asyncmy": "mysql",
    "cryptography": "mysql",
    "asyncpg": "postgres",
}
"""The extra of this package that brings a module."""


class Failure(Exception):
    """A message for a person, and the exit code that goes with it."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def end(self) -> NoReturn:
        """Write the message to standard error, further lines indented, and end the process with the code."""
        first, *more = self.message.splitlines() or [""]
        click.echo(click.style("error: ", fg="red", bold=True) + first, err=True)
        for line in more:
            click.echo(f"  {line}", err=True)
        raise click.exceptions.Exit(int(self.code)) from self


@contextmanager
def failing_well(*, debug: bool) -> Iterator[None]:
    """Turn whatever is raised into a message and an exit code; with `debug`, the unexpected keeps its traceback."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click ends the process for these; a broken pipe means that a reader such as `head` has seen enough
    except KeyboardInterrupt:
        Failure("interrupted", Exit.INTERRUPTED).end()
    except Failure as error:
        error.end()
    except GolovesError as error:
        failure(error).end()
    except Exception as error:
        missing = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
        if debug and missing is None:
            raise
        (missing or _unexpected(error)).end()


def failure(error: GolovesError) -> Failure:
    """Give the failure that an error becomes."""
    code = next(code for kind, code in CODES if isinstance(error, kind))
    message = error.message
    if isinstance(error, ConfigError):
        count = len(message.splitlines())
        message = f"the configuration can't be used; nothing was started\n{message}" if count > 1 else message
    return Failure(message, code)


def missing_extra(error: ModuleNotFoundError) -> Failure | None:
    """Name the extra that brings a missing module; None if none does."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    extra = EXTRAS[module]
    return Failure(f"this needs {module}, which is not installed: pip install 'goloves[{extra}]'", Exit.CONFIG)


def _unexpected(error: Exception) -> Failure:
    kind = type(error).__name__
    return Failure(f"unexpected: {kind}: {error}; give --debug before the command to see where it happened")
