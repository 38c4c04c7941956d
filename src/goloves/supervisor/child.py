"""One node as its supervisor sees it: a process, a line to it, what it last said, and how it ended."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from goloves.config import Config
from goloves.logger import get_logger
from goloves.server.balance import LAYOUT
from goloves.server.stages import Stage
from goloves.supervisor.messages import (
    ANSWERS,
    Drain,
    Failed,
    Hasten,
    Line,
    Listener,
    Order,
    Ready,
    Report,
    Setup,
    decoded,
)
from goloves.supervisor.passing import passed
from goloves.supervisor.seats import Seat, note_holder

FIRST_WORD = 30.0
"""Seconds in which a node has to say something for the first time: an interpreter that starts on a machine without
memory or processor left takes many times the usual half second."""

OWN_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What the service manager says to the supervisor alone."""

ORPHAN_END = 10
"""Seconds after which the kernel ends a node without a supervisor, whatever it does: the drain, the release of windows
and room for a machine that is busy. One that hangs, and so does not notice, has `server.unresponsive` more."""

OUT_OF_MEMORY = 70
"""Exit code of a node that was out of memory."""

REST = 1.5
"""Seconds for which a node that is replaced keeps connections at rest: nothing hurries then, and also a client that
stalls for a moment asks once more, is told to close, and meets no connection that closes under its request."""

NICE_TO_KILL = 200
"""Points by which the kernel rather ends a node than its supervisor when memory runs out: a node is replaced."""

log = get_logger("goloves.supervisor")


def node_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of a node."""
    return {name: value for name, value in environ.items() if name not in OWN_VARIABLES}


def interpreter() -> list[str]:
    """Give the command of an interpreter that finds modules where this one does.

    `-m` would look into the working directory first, where anything may lie; it does only if this one does.
    """
    return [sys.executable, *([] if {"", str(Path.cwd())} & set(sys.path) else ["-P"])]


class Child:
    """A node, from its start to its end."""

    def __init__(self, seat: Seat, place: int, unresponsive: float) -> None:
        """`place`: in the memory where connections are counted. `unresponsive`: seconds of silence that are allowed."""
        self.number = seat.number
        self.place = place
        self.pid = 0
        """0 before and after."""
        self.began = asyncio.get_running_loop().time()
        self.report = Report(Stage.STARTING, ["this node is starting"])
        self.counters: dict[str, int] = {}
        """What it had counted when it told so last."""
        self.told = 0
        """How often it has told so."""
        self.words: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        """What it says to a person at its start; cancelled if it ends before."""
        self.failed: Failed | None = None
        """Why it could not start."""
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """How it ended: the exit code, or minus the signal."""
        self.going: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when somebody has to take its place: it has ended, or it stops though this supervisor did not say so."""
        self.leaving = False
        """Whether it was told to stop."""
        self.killed_for = ""
        """Why the supervisor killed it."""
        self._drain = Drain()
        self._seat = seat
        self._unresponsive = unresponsive
        self._silent = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._line = Line(self._heard, lambda: None)
        self._listeners_of_news: list[Callable[[], None]] = []

    async def start(
        self,
        config: Config,
        listeners: Sequence[tuple[str, socket.socket]],
        memory: int,
        *,
        create: bool,
        init: bool,
    ) -> None:
        """Start the process and tell it what to do. `listeners`: each with its kind."""
        lock = self._seat.lock
        setup = Setup(
            passed(config),
            self.number,
            [Listener(listener.fileno(), kind) for kind, listener in listeners],
            None if lock is None else lock.fileno(),
            memory,
            self.place,
            create,
            init,
            LAYOUT,
        )
        own, theirs = socket.socketpair()
        with theirs:
            try:
                self._launch(theirs, setup)
            except BaseException:
                own.close()
                raise
            finally:
                # From here on the lock lives in the node alone.
                if lock is not None:
                    note_holder(lock, self.pid)
                    lock.close()
        own.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._line, sock=own)
        self._line.say(setup)
        if self.leaving:  # it was told so before it could hear
            self._line.say(self._drain)

    def _launch(self, line: socket.socket, setup: Setup) -> None:
        inherited = [line.fileno(), setup.memory, *(listener.fd for listener in setup.listeners)]
        if setup.lock is not None:
            inherited.append(setup.lock)
        self._process = subprocess.Popen(
            [*interpreter(), "-m", "goloves.supervisor.inside", str(line.fileno()), f"node-{self.number}"],
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            env=node_environment(os.environ),
            # A group of its own: a terminal's Ctrl-C is for the supervisor.
            process_group=0,
        )
        self.pid = self._process.pid
        with contextlib.suppress(OSError, ValueError):
            own = int(Path("/proc/self/oom_score_adj").read_text())
            Path(f"/proc/{self.pid}/oom_score_adj").write_text(str(min(1000, own + NICE_TO_KILL)))

    # --- how it is ---

    @property
    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return bool(self.pid) and self.report.stage == Stage.SERVING

    @property
    def reasons(self) -> list[str]:
        """Say why it can't serve; empty if it can."""
        if not self.pid:
            return ["this node has ended"]
        if self._silent > 2.0:
            return [f"this node has said nothing for {self._silent:.0f} s"]
        return self.report.reasons

    @property
    def is_ready(self) -> bool:
        """Whether it can serve."""
        return self.is_serving and not self.reasons

    def look(self, elapsed: float) -> None:
        """Note that time has passed, as far as this process had its turn; kill a node that hangs.

        Only `elapsed` counts and no clock: after a machine slept, its nodes have not been silent for as long.
        """
        if not self.pid:
            return
        self._silent += elapsed
        allowed = self._unresponsive if self.report.version else max(FIRST_WORD, self._unresponsive)
        if self._silent > allowed and not self.killed_for:
            self.kill(f"it said nothing for {self._silent:.0f} s")

    def on_news(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever something about it has changed."""
        self._listeners_of_news.append(listener)

    # --- what it is told ---

    def say(self, order: Order) -> None:
        """Tell it something."""
        self._line.say(order)

    def drain(self, *, replaced: bool = False, notice: float | None = None) -> None:
        """Let it stop in an orderly way; slower if somebody else serves in its place already.

        `notice`: the whole service stops; see `Drain`.
        """
        self.leaving = True
        self._drain = Drain(REST if replaced else None, notice)
        self.say(self._drain)

    def hasten(self) -> None:
        """Let it stop, and wait no longer for requests under way."""
        self.leaving = True
        self.say(Hasten())

    def kill(self, why: str) -> None:
        """End it at once."""
        self.killed_for = why
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    # --- what comes from it ---

    def _heard(self, data: bytes) -> None:
        self._silent = 0.0
        message = decoded(ANSWERS, data)
        if isinstance(message, Report):
            if self.report.stage == Stage.SERVING != message.stage and not self.leaving:
                self._goes()
            changed = (message.stage, message.reasons) != (self.report.stage, self.report.reasons)
            self.report = message
            if message.counters is not None:
                self.counters = message.counters
                self.told += 1
            if changed or message.counters is not None:
                self._tell()
        elif isinstance(message, Ready):
            if not self.words.done():
                self.words.set_result(message)
        elif isinstance(message, Failed):
            self.failed = message
            self._tell()

    def over(self, status: int) -> None:
        """Note that the process is no more; `status` as `os.waitpid` gives it."""
        code = os.waitstatus_to_exitcode(status)
        self.pid = 0  # which may be another process's soon
        if self._process is not None:
            self._process.returncode = code
        # Its last words may lie in the socket still: the end is told when they were read.
        asyncio.get_running_loop().call_later(0.05, self._over, code)

    def _over(self, code: int) -> None:
        self._line.close()
        self.words.cancel()
        if not self.ended.done():
            self.ended.set_result(code)
        self._goes()
        self._tell()

    def _goes(self) -> None:
        if not self.going.done():
            self.going.set_result(None)

    def _tell(self) -> None:
        for listener in self._listeners_of_news:
            listener()


def said_of_end(code: int) -> str:
    """Say how a process ended."""
    if code == OUT_OF_MEMORY:
        return "out of memory"
    if code == -signal.SIGALRM:
        return "ended by its alarm: it had no turn for too long"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"
    return f"exit code {code}"
