"""The whole of a supervised service: listeners, nodes, control plane, orders; from its start to its end."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from goloves.admin.access import Access
from goloves.config import Config
from goloves.errors import ConfigError, GolovesError
from goloves.logger import get_logger
from goloves.supervisor.changes import Changes, changes
from goloves.supervisor.child import ORPHAN_END
from goloves.supervisor.messages import Ready
from goloves.supervisor.open_listeners import OpenListeners
from goloves.supervisor.orders import Orders, Request
from goloves.supervisor.rolling import READY_WITHIN, Say, ready_within, roll
from goloves.supervisor.seats import lock_service, seats_in_use
from goloves.supervisor.supervisor import Supervisor
from goloves.supervisor.takeover import Inheritance, hand_over
from goloves.supervisor.upgrade import upgrade

if TYPE_CHECKING:
    from goloves.admin.app import ControlPlane

ORPHANS = 5.0
"""Seconds beyond `server.unresponsive` and `ORPHAN_END` that a start waits for addresses which nodes of a killed
supervisor hold still: they let go of them at once unless they are frozen or hang, and end within that time."""

log = get_logger("goloves.supervisor")

answers = get_logger("goloves.supervisor", answers=True)

Greet = Callable[[OpenListeners, Ready], None]


class Service:
    """See the module's text."""

    def __init__(self, config: Config, reread: Callable[[], Config], greet: Greet) -> None:
        """`reread` loads the configuration anew; `greet` says the first words to a person."""
        self._config = config
        self._reread = reread
        self._greet = greet
        self._supervisor: Supervisor
        self._plane: ControlPlane | None = None

    async def run(self, *, init: bool = False, takeover: bool = False) -> None:
        """Serve until told to stop.

        `init`: make a new store first. `takeover`: from the service that runs, instead of starting anew.
        Raises ConfigError if it can't begin, and what `Supervisor.run` raises.
        """
        token_file = self._config.admin.token_file
        access = Access(Path(token_file) if token_file is not None else None)
        inherited = Inheritance.ask(self._config) if takeover else None
        with contextlib.ExitStack() as stack:
            listeners = OpenListeners()
            listeners.keep_files = takeover
            stack.callback(listeners.close)
            await self._open(listeners, inherited)
            lock = inherited.lock if inherited is not None else lock_service(Path(self._config.server.data_dir))
            if lock is not None:
                stack.callback(lock.close)
            await self._supervise(listeners, lock, inherited, access, init)

    async def _open(self, listeners: OpenListeners, inherited: Inheritance | None) -> None:
        """Open the listeners; wait for addresses that only nodes without a supervisor hold."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._config.server.unresponsive + ORPHAN_END + ORPHANS
        told = False
        while True:
            try:
                listeners.open(self._config, inherited.listeners if inherited is not None else None)
                return
            except ConfigError as error:
                orphans = self._orphans() if inherited is None else {}
                if not orphans:
                    raise
                pids = ", ".join(filter(None, orphans.values())) or "unknown"
                if loop.time() >= until:
                    raise ConfigError(
                        f"{error}; nodes of a supervisor that was killed have not ended: pids {pids}"
                    ) from None
            if not told:
                told = True
                log.warning("nodes of a supervisor that was killed still run: waiting for them to end", pids=pids)
            await asyncio.sleep(0.05)

    def _orphans(self) -> dict[int, str]:
        """Give the nodes that run on the data directory without a supervisor, as `seats_in_use`."""
        data_dir = Path(self._config.server.data_dir)
        found = seats_in_use(data_dir)
        if found:
            try:
                lock = lock_service(data_dir)
            except ConfigError:
                return {}
            if lock is not None:
                lock.close()
        return found

    async def _supervise(
        self,
        listeners: OpenListeners,
        lock: TextIO | None,
        inherited: Inheritance | None,
        access: Access,
        init: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        supervisor = self._supervisor = Supervisor(self._config, listeners, lock)
        orders = Orders(Path(self._config.server.data_dir), self._handle)
        hang_up = HangUp()
        if hang_up.is_wanted:
            loop.add_signal_handler(signal.SIGHUP, self._hung_up, hang_up)

        def load() -> None:
            # Loaded here, while the first node starts in a process of its own; and before a takeover is settled, which
            # a package that is missing must not meet half done.
            from goloves.admin.app import ControlPlane

            self._plane = ControlPlane(supervisor, access, [each for _, each in listeners.of("admin")])

        def open_to_others() -> None:
            if self._plane is None:
                load()
            assert self._plane is not None
            self._plane.start()
            orders.open()

        async def take_over() -> None:
            assert inherited is not None
            if await self._can_take_over():
                load()
                # Before the old one may end: a service manager must not take its end for the service's.
                supervisor.notifier.main_process()
                await inherited.commit()
                listeners.settle()
                answers.info("took over")
                open_to_others()

        greet = partial(self._greet, listeners)
        try:
            if inherited is None:
                # Whoever asks while the first node starts gets an answer, too.
                await supervisor.run(init=init, greet=greet, launched=open_to_others)
            else:
                await supervisor.run(create=False, greet=greet, begun=take_over, within=READY_WITHIN)
        finally:
            orders.keep_file = supervisor.is_handed_over
            orders.close()
            await self._stop_plane()

    async def _can_take_over(self) -> bool:
        """Wait for all nodes to be ready; False if it is to stop meanwhile. ConfigError if they don't get ready."""
        supervisor = self._supervisor
        ready = await supervisor.until(
            lambda: all(post.child is not None and post.child.is_ready for post in supervisor.posts),
            ready_within(2 * len(supervisor.posts), supervisor.config),  # the old service's are still there
        )
        if not ready and not supervisor.stopping.is_set():
            raise ConfigError(
                "the new nodes did not become ready, so nothing was taken over and the old service goes on: "
                + ("; ".join(supervisor.troubles()) or "they ended")
            )
        return not supervisor.stopping.is_set()

    async def _stop_plane(self) -> None:
        plane, self._plane = self._plane, None
        if plane is not None:
            await plane.stop()

    # --- orders ---

    async def _handle(self, request: Request, connection: socket.socket, say: Say) -> None:
        if request.do == "reload":
            self._say_changes(self._reload(), say)
        elif request.do == "roll":
            await self._roll(say)
        elif request.do == "upgrade":
            await upgrade(self._supervisor, say)
        elif request.do == "takeover":
            await hand_over(self._supervisor, request, connection)
            if self._supervisor.is_handed_over:
                await self._stop_plane()  # who asks from now on is answered by the other one
        elif request.do != "alive":
            raise ConfigError(f"the running service knows no order {request.do!r}; it is of version {_version()}")

    def _hung_up(self, hang_up: "HangUp") -> None:
        if hang_up.terminal_is_gone():
            log.info("stopping", signal="SIGHUP", reason="the terminal that it was started in is gone")
            self._supervisor.stop()
            return
        try:
            self._say_changes(self._reload(), lambda words: answers.info("reload", result=words))
        except GolovesError as error:
            answers.error("reload failed: all goes on as before", reason=error.message)

    def _reload(self) -> Changes:
        """Take over what running processes can; ConfigError if the configuration is wrong."""
        supervisor = self._supervisor
        self._say_reloading()
        try:
            new = self._reread()
            found = changes(supervisor.config, new)
            supervisor.relog(new.log)
            answers.info("reloaded", applied=found.live, rolling=found.rolling, restart=found.restart)
            return found
        finally:
            self._say_ready()

    def _say_reloading(self) -> None:
        # `ready` would have to follow, which a service that stops does not say.
        if self._supervisor.announced and not self._supervisor.stopping.is_set():
            self._supervisor.notifier.reloading()

    def _say_ready(self) -> None:
        supervisor = self._supervisor
        if supervisor.announced and not supervisor.stopping.is_set():
            supervisor.notifier.ready(supervisor.status())

    def _say_changes(self, found: Changes, say: Say) -> None:
        say("certificates and [log] are in force" + (f" (changed: {', '.join(found.live)})" if found.live else ""))
        if found.rolling:
            say(f"not in force yet: {', '.join(found.rolling)}; goloves reload --rolling takes new nodes")
        elif self._supervisor.half_rolled:
            say("some nodes may still have the settings of before: goloves reload --rolling takes new ones")
        if found.restart:
            say(f"not in force yet: {', '.join(found.restart)}; stop the service and start it")

    async def _roll(self, say: Say) -> None:
        self._say_reloading()
        try:
            new = self._reread()

            def tell(words: str) -> None:
                answers.info("rolling", progress=words)
                say(words)

            await roll(self._supervisor, new, tell)
        except GolovesError as error:
            answers.error("rolling stopped", reason=error.message)
            raise
        finally:
            self._say_ready()


class HangUp:
    """What SIGHUP means: that the terminal is gone, if there was one; else that the configuration has changed."""

    def __init__(self) -> None:
        self.is_wanted = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        """False under `nohup`, which asks that nothing happens."""
        self._had_terminal = _has_terminal()

    def terminal_is_gone(self) -> bool:
        """Whether there was a terminal and there is none any more."""
        return self._had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _version() -> str:
    from goloves import __version__

    return __version__
