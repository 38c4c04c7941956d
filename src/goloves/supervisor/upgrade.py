"""A supervisor that starts its own successor, which then takes over (see `takeover.py`).

It is the same command in the same environment, with the code that is installed by then. So the successor is a process
of the service as the service manager sees it. One that is started in a shell takes over as well, but belongs to the
shell's session.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from goloves.errors import ConfigError, GolovesError
from goloves.logger import get_logger
from goloves.supervisor.child import said_of_end
from goloves.supervisor.supervisor import Supervisor

answers = get_logger("goloves.supervisor", answers=True)


class UpgradeFailed(GolovesError):
    """The successor ended before it took over; the service goes on."""

    code = "upgrade_failed"


def successor_command(started_as: Sequence[str]) -> list[str]:
    """Give the command of a successor; `started_as`: this process's own, as `sys.orig_argv` has it."""
    kept = [word for word in started_as[1:] if word not in ("--init", "--takeover")]
    return [sys.executable, *kept, "--takeover"]


async def upgrade(supervisor: Supervisor, say: Callable[[str], None]) -> None:
    """Start a successor, and wait until it has taken over. UpgradeFailed if it does not, ConfigError if it can't be."""
    if os.getpid() == 1:
        raise ConfigError("it is process 1, with which its container ends; start a new container instead")
    if supervisor.changing.locked() or supervisor.stopping.is_set() or not supervisor.announced:
        raise ConfigError("it starts, stops or replaces nodes at this moment; try again")
    try:
        pid = _launch()
    except OSError as error:
        raise UpgradeFailed(f"no successor can be started: {error}") from None
    ended = supervisor.watch(pid)
    answers.info("upgrading", successor=pid)
    say(f"the successor (pid {pid}) starts")
    await supervisor.until(lambda: ended.done() or supervisor.is_handed_over)
    if not supervisor.is_handed_over:
        how = said_of_end(ended.result()) if ended.done() else "the service stops"
        raise UpgradeFailed(f"the successor did not take over ({how}); its lines in the log say why; this one goes on")
    say(f"the successor (pid {pid}) has taken over")


def _launch() -> int:
    # The watchdog's process is this one; the service manager is told of the next.
    environment = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}
    process = subprocess.Popen(successor_command(sys.orig_argv), env=environment, stdin=subprocess.DEVNULL)
    process.returncode = 0  # the supervisor waits for all its children at once, and may end before this one
    return process.pid
