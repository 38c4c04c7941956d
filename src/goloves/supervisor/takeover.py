"""Taking a service over from a supervisor that runs, listeners and all, so that no connection is refused in between.

1. The new supervisor asks at the old one's socket for orders. They must use the same stores: with two of them, both
   would hand out the same numbers.
2. The old one sends the listeners and the lock of the data directory (descriptors over a Unix socket). It changes
   nothing: should the new one end now, all goes on as before.
3. The new one starts its nodes, which accept beside the old ones. Each takes a state directory that is free, as always.
4. When they are ready, the new one says `commit`. The old one drains its nodes and ends.

If the old one is stopped or killed before that, the new one goes on all the same: it has everything.

Two supervisors, and the nodes of both, run at the same time for some seconds. What each node issues comes out of its
own grants, as with nodes on two machines.
"""

import asyncio
import os
import socket
from pathlib import Path
from typing import TextIO

import msgspec

from goloves.config import Config
from goloves.errors import ConfigError
from goloves.logger import get_logger
from goloves.server.listener import received_listener
from goloves.supervisor.changes import stores_of
from goloves.supervisor.open_listeners import Opened, OpenListeners
from goloves.supervisor.orders import Reply, Request, connect, read_line
from goloves.supervisor.rolling import short_space
from goloves.supervisor.supervisor import Supervisor, how_many

PROTOCOL = 1
"""Of what two supervisors say to each other; another one is refused before anything has changed."""

MOST_SOCKETS = 250
"""Descriptors in one message: Linux takes 253."""

PATIENCE = 30.0
"""Seconds for the old supervisor to hand over."""

COMMITTED = 5.0
"""Seconds for its last word; without it, it ends when it gets to read what was said."""

COMMIT = b"commit\n"

UNKNOWN = "the running service hands over what this version does not understand; stop it and start this one"

answers = get_logger("goloves.supervisor", answers=True)


class Given(msgspec.Struct, frozen=True):
    """One address that is handed over."""

    kind: str
    text: str
    sockets: int


class Estate(msgspec.Struct, frozen=True):
    """What is handed over; the descriptors come beside it, the lock's first, then the sockets in this order."""

    listeners: list[Given] = []
    has_lock: bool = False
    error: str = ""


class Inheritance:
    """What the new supervisor was given, and the line on which it says that it serves."""

    def __init__(self, connection: socket.socket, listeners: OpenListeners, lock: TextIO | None) -> None:
        self.listeners = listeners
        self.lock = lock
        self._connection = connection

    @classmethod
    def ask(cls, config: Config) -> "Inheritance":
        """Ask the supervisor that runs; ConfigError if there is none, or if it refuses."""
        data_dir = Path(config.server.data_dir)
        connection = connect(data_dir, PATIENCE)
        if connection is None:
            raise ConfigError(f"no service runs on {data_dir} that could be taken over; start without --takeover")
        try:
            request = Request("takeover", PROTOCOL, stores_of(config), how_many(config))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            data, descriptors, _, _ = socket.recv_fds(connection, 65_536, MOST_SOCKETS + 1)
            if not data:
                raise ConfigError("the running service hung up; its log says why")
            if not data.startswith(b'{"listeners"'):
                reply = msgspec.json.decode(data, type=Reply)
                raise ConfigError(f"the running service refuses: {reply.error or reply.say}")
            listeners, lock = _received(msgspec.json.decode(data, type=Estate), descriptors)
        except OSError as error:
            connection.close()
            raise ConfigError(f"the running service does not answer: {error}") from None
        except msgspec.MsgspecError:
            connection.close()
            raise ConfigError(UNKNOWN) from None
        except BaseException:
            connection.close()
            raise
        return cls(connection, listeners, lock)

    async def commit(self) -> None:
        """Let the old supervisor end: everything is this one's now."""
        self._connection.setblocking(False)
        with self._connection:
            try:
                self._connection.send(COMMIT)
                async with asyncio.timeout(COMMITTED):
                    await read_line(self._connection)
            except TimeoutError:
                answers.warning("the supervisor that was taken over does not answer: it ends when it does")
            except (OSError, EOFError):
                answers.warning("the supervisor that was taken over has ended by itself")


def _received(estate: Estate, descriptors: list[int]) -> tuple[OpenListeners, TextIO | None]:
    """Make listeners and the lock of what came; ConfigError if it is not what was announced."""
    if len(descriptors) != estate.has_lock + sum(given.sockets for given in estate.listeners):
        for fd in descriptors:
            os.close(fd)
        raise ConfigError(UNKNOWN)
    left = iter(descriptors)
    lock = os.fdopen(next(left), "a") if estate.has_lock else None
    listeners = OpenListeners()
    listeners.keep_files = True
    for given in estate.listeners:
        sockets = tuple(received_listener(next(left)) for _ in range(given.sockets))
        listeners.opened.append(Opened(given.kind, given.text, sockets))
    return listeners, lock


async def hand_over(supervisor: Supervisor, request: Request, connection: socket.socket) -> None:
    """Give everything to the supervisor at the other end of the connection; then let this one's life end.

    Raises ConfigError if it can't be. Returns, with nothing changed, when the other one ends before it serves.
    """
    if request.protocol != PROTOCOL:
        raise ConfigError("its version is too far from this one's; stop this service and start the other")
    mine = stores_of(supervisor.config)
    if request.stores != mine:
        raise ConfigError(f"it uses other stores than this one, which uses {', '.join(dict.fromkeys(mine))}")
    if os.getpid() == 1:
        raise ConfigError("it is process 1, with which its container ends; start a new container instead")
    short = short_space(supervisor.config, len(supervisor.posts) + request.nodes)
    if short:
        raise ConfigError(
            f"the space {short} has no worker ids for the nodes of both; take new nodes by goloves reload --rolling,"
            " or stop this service and start the other"
        )
    if supervisor.changing.locked() or supervisor.stopping.is_set() or not supervisor.serving.is_set():
        raise ConfigError("it starts, stops or replaces nodes at this moment; try again")
    async with supervisor.changing:
        opened = supervisor.listeners.opened
        sockets = [each.fileno() for one in opened for each in one.sockets]
        if len(sockets) > MOST_SOCKETS:
            raise ConfigError(f"{len(sockets)} listeners are more than can be handed over ({MOST_SOCKETS})")
        lock = [] if supervisor.lock is None else [supervisor.lock.fileno()]
        estate = Estate([Given(one.kind, one.text, len(one.sockets)) for one in opened], bool(lock))
        socket.send_fds(connection, [msgspec.json.encode(estate)], [*lock, *sockets])
        answers.info("another supervisor takes over")
        kept, supervisor.listeners.keep_files = supervisor.listeners.keep_files, True
        try:
            committed = await read_line(connection) == COMMIT
        except (OSError, EOFError):
            committed = False
        if committed:
            supervisor.handed_over()
            return
        supervisor.listeners.keep_files = kept
        if not supervisor.stopping.is_set():
            answers.warning("the supervisor that was to take over has ended; this one goes on")
            if supervisor.announced:  # it may have said that it is the main process
                supervisor.notifier.ready(supervisor.status())
