"""What runs in a node's process: `python -m goloves.supervisor.inside FD NAME`, started by a supervisor only.

FD is the node's end of a socket pair, over which it learns what to do; NAME is there for people who list processes.

The node ends
- in an orderly way when the supervisor says so or SIGTERM comes (a second SIGTERM hastens it);
- when the supervisor is gone, within `ORPHAN_DRAIN` and the time that releasing windows takes: it closes its listeners
  at once, so that the next start can have the addresses, and an alarm of the kernel's ends what takes longer;
- when its loop hangs, by the same alarm, which each turn puts off: the supervisor ends it sooner if there is one, and
  without one nobody else would;
- at once when it is out of memory: some requests and refills would fail for ever, and others not.
"""

import asyncio
import contextlib
import json
import math
import mmap
import os
import signal
import socket
import sys
from typing import Any, NoReturn

import msgspec

from goloves import __version__
from goloves.config import Config
from goloves.config.settings import LogConfig
from goloves.errors import GolovesError
from goloves.log import set_up
from goloves.logger import get_logger
from goloves.server.assembly import Assembled, assemble, state_directory
from goloves.server.balance import LAYOUT, Balance
from goloves.server.node import LAST_ANSWER, raise_open_files
from goloves.server.stages import Stage
from goloves.stores.marks import Marks
from goloves.supervisor.child import FIRST_WORD, ORPHAN_END, OUT_OF_MEMORY
from goloves.supervisor.messages import (
    ORDERS,
    Drain,
    Failed,
    Hasten,
    Line,
    Ready,
    Reload,
    Report,
    Setup,
    Tell,
    decoded,
    read_setup,
)
from goloves.supervisor.passing import received

BEAT = 0.5
"""Seconds between two reports: often enough that a node that hangs is known after any bound that makes sense."""

WHOLE = 20
"""Reports of which one has counters: what a node counted since the last one is lost if it is killed."""

ORPHAN_DRAIN = 2.0
"""Seconds that a node without a supervisor waits for requests under way."""

ORDER_COMES = 0.1
"""Seconds between SIGTERM and its effect: a service manager that signals all processes of a service has reached the
supervisor as well, whose order tells that the whole of it stops."""

PR_SET_PDEATHSIG = 1
"""prctl(2)"""

SPARE = 1_048_576
"""Bytes that a node must be able to get, for a microsecond: what the interpreter asks for when it needs more memory."""

FAILED = 1
"""Exit code of a node that could not start; it has told the supervisor why."""

log = get_logger("goloves.node")


def main() -> None:
    """Be a node."""
    line = socket.socket(fileno=int(sys.argv[1]))
    # A terminal's Ctrl-C and its end are for the supervisor, which tells its nodes.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _wake_without_supervisor()
    try:
        setup = read_setup(line)
        config = received(setup.config, Config)
    except (EOFError, OSError):
        sys.exit(0)  # the supervisor ended before it could say anything
    except (TypeError, msgspec.MsgspecError) as error:
        failed = Failed("", f"a node of version {__version__} can't read what it is told: {error}")
        line.sendall(msgspec.json.encode(failed) + b"\n")
        sys.exit(FAILED)
    set_up(config.log, node=setup.number)
    _put_off_end(max(FIRST_WORD, config.server.unresponsive))

    import uvloop

    sys.exit(uvloop.run(_Inside(setup, config, line).live()))


class _Inside:
    def __init__(self, setup: Setup, config: Config, line: socket.socket) -> None:
        self._setup = setup
        self._config = config
        self._socket = line
        self._line = Line(self._heard, self._orphaned)
        self._stop = asyncio.Event()
        self._drain: float | None = None
        self._rest = LAST_ANSWER
        self._notice: float | None = None
        self._signals = 0
        self._hung_up = False
        self._is_orphan = False
        self._beats = 0
        self._assembled: Assembled | None = None
        self._starting: asyncio.Task[Assembled] | None = None
        self._words: asyncio.Task[None] | None = None
        self._listeners: list[socket.socket] = []
        self._last_words = _last_words(config.log, setup.number)

    async def live(self) -> int:
        """Live; gives the exit code."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unforeseen)
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        self._socket.setblocking(False)
        await loop.create_unix_connection(lambda: self._line, sock=self._socket)
        self._beat(loop)
        raise_open_files()
        with contextlib.ExitStack() as stack:
            by_kind: dict[str, list[socket.socket]] = {"http": [], "grpc": []}
            for inherited in self._setup.listeners:
                listener = socket.socket(fileno=inherited.fd)
                listener.setblocking(False)
                stack.callback(listener.close)
                self._listeners.append(listener)
                by_kind[inherited.kind].append(listener)
            balance = Balance(self._setup.memory, self._setup.place) if self._setup.layout == LAYOUT else None
            os.close(self._setup.memory)
            self._starting = asyncio.create_task(self._begin(by_kind, balance, stack))
            try:
                assembled = await self._starting
                assembled.started.set()
                self._report()
                await self._stop.wait()
            except asyncio.CancelledError:
                log.info("stopped before it had started")
            except Exception as error:
                return self._failed(error)
            finally:
                await self._finish()
        return 0

    async def _finish(self) -> None:
        """Go through the stages of a stop, and say so."""
        if self._words is not None:
            self._words.cancel()
        if self._assembled is not None:
            node = self._assembled.node
            if node.stage is Stage.SERVING:
                log.info("draining", connections=node.open)
            # As soon as it is not ready: if nobody has ordered this, another node is to take its place.
            asyncio.get_running_loop().call_soon(self._report)
            await node.stop(self._drain, self._rest, self._notice)
        self._report(whole=True)
        self._hung_up = True
        self._line.close()
        await asyncio.sleep(0)  # what was said leaves with the loop's next turn

    async def _begin(
        self, by_kind: dict[str, list[socket.socket]], balance: Balance | None, stack: contextlib.ExitStack
    ) -> Assembled:
        setup = self._setup
        marks = Marks()
        stack.callback(marks.close)
        lock = None if setup.lock is None else os.fdopen(setup.lock, "a")
        marks.open(state_directory(self._config, setup.number), lock)
        assembled = await assemble(
            self._config,
            setup.number,
            marks,
            http=by_kind["http"],
            grpc=by_kind["grpc"],
            balance=balance,
            create=setup.create,
            init=setup.init,
        )
        self._assembled = assembled
        self._words = asyncio.create_task(self._say_first_words(assembled))
        await assembled.node.start()
        return assembled

    async def _say_first_words(self, assembled: Assembled) -> None:
        words = await assembled.first_words()
        self._line.say(Ready(words.waits, words.tag))

    # --- what is heard ---

    def _heard(self, data: bytes) -> None:
        message = decoded(ORDERS, data)
        if isinstance(message, Drain):
            self._rest = LAST_ANSWER if message.rest is None else message.rest
            self._notice = message.notice
            self._end()
        elif isinstance(message, Hasten):
            self._end()
            self._hasten()
        elif isinstance(message, Tell):
            self._report(whole=True)
        elif isinstance(message, Reload):
            self._reload(message)

    def _reload(self, message: Reload) -> None:
        try:
            config = received(message.log, LogConfig)
        except msgspec.MsgspecError as error:
            log.error("this node can't log as it is told, and goes on as before", reason=str(error))
        else:
            set_up(config, node=self._setup.number)
            self._last_words = _last_words(config, self._setup.number)
        if self._assembled is not None:
            self._assembled.node.renew_certificates()

    def _orphaned(self) -> None:
        """Stop because the supervisor is gone; unless this is the end anyway."""
        if self._hung_up:
            return
        self._is_orphan = True
        signal.alarm(ORPHAN_END)
        log.warning("the supervisor is gone: this node stops")
        self._drain = min(self._config.server.drain, ORPHAN_DRAIN)
        self._end()
        # A stop that is under way already has a drain of its own.
        asyncio.get_running_loop().call_later(ORPHAN_DRAIN, self._hasten)
        if self._assembled is not None:
            self._assembled.node.stop_accepting()
        for listener in self._listeners:
            listener.close()

    def _terminate(self) -> None:
        self._signals += 1
        if self._signals > 1:
            self._hasten()
            self._end()
        else:
            asyncio.get_running_loop().call_later(ORDER_COMES, self._end)

    def _end(self) -> None:
        self._stop.set()
        # A start that still waits for a store has nothing to drain: it is broken off.
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()

    def _hasten(self) -> None:
        if self._assembled is not None:
            self._assembled.node.hasten()

    def _unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), MemoryError):
            self._end_without_memory()
        loop.default_exception_handler(context)

    def _end_without_memory(self) -> NoReturn:
        try:
            os.write(2, self._last_words)
        finally:
            os._exit(OUT_OF_MEMORY)

    # --- what is said ---

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_orphan:
            _put_off_end(self._config.server.unresponsive)
        try:
            # Asked of the kernel: what the allocator has put by would hide that there is no more.
            mmap.mmap(-1, SPARE).close()
        except OSError:
            self._end_without_memory()
        self._beats += 1
        self._report(whole=self._beats % WHOLE == 0)
        loop.call_later(BEAT, self._beat, loop)

    def _report(self, *, whole: bool = False) -> None:
        assembled = self._assembled
        if assembled is None:
            self._line.say(Report(Stage.STARTING, ["this node is starting"], version=__version__), important=False)
            return
        node = assembled.node
        counters = node.counters() if whole else None
        report = Report(node.stage, assembled.reasons(), node.open, counters, __version__)
        self._line.say(report, important=False)

    def _failed(self, error: Exception) -> int:
        if isinstance(error, GolovesError):
            self._line.say(Failed(error.code, error.message))
        elif isinstance(error, ModuleNotFoundError):
            self._line.say(Failed("", str(error), error.name or ""))
        else:
            log.exception("this node could not start")
            self._line.say(Failed("", f"{type(error).__name__}: {error}"))
        return FAILED


def _put_off_end(allowed: float) -> None:
    """Let the kernel end this process if nothing is heard of it for longer than is allowed, and nobody has noticed."""
    signal.alarm(math.ceil(allowed) + ORPHAN_END)


def _wake_without_supervisor() -> None:
    """Let the kernel wake this process, should it be stopped when its supervisor ends, so that it notices."""
    # A system that hardens processes may give `ctypes` no memory that it likes. What is left then is the kernel's own
    # rule, by which it wakes stopped groups that nobody could wake any more.
    with contextlib.suppress(ImportError, AttributeError, OSError, MemoryError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)


def _last_words(config: LogConfig, number: int) -> bytes:
    """Make what a node says that is out of memory, while there is memory to make it."""
    if config.format == "json":
        words = {"level": "error", "logger": "goloves.node", "node": number, "event": "out of memory: this node ends"}
        return json.dumps(words).encode() + b"\n"
    return f"node {number} is out of memory: it ends, and another one replaces it\n".encode()


if __name__ == "__main__":
    main()
