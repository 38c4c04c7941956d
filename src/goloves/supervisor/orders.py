"""The socket through which `goloves reload` and a next supervisor talk to this one: `control` in the data directory.

Whoever may write the data directory may give orders, and nobody else: the socket's file is its owner's only. A request
is one JSON object on a line; answers are lines of the same kind, the last of which says `done`.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from goloves.errors import GolovesError, Unavailable
from goloves.logger import get_logger

NAME = "control"

LONGEST = 65_536
"""Bytes of a request."""

PATIENCE = 10.0
"""Seconds within which whoever connects has to say what it wants."""

UNANSWERED = "the supervisor does not answer; nothing was ordered"

log = get_logger("goloves.supervisor")


class Request(msgspec.Struct, frozen=True):
    """What is wanted."""

    do: str
    """`reload`, `roll`, `upgrade`, `takeover`, or `alive`, which asks for nothing but an answer."""
    protocol: int = 1
    stores: list[str] = []
    """Of a takeover: where its stores are."""
    nodes: int = 0
    """Of a takeover: how many it starts."""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """How it goes."""

    say: str = ""
    done: bool = False
    error: str = ""
    code: str = ""
    """`code` of the error, if there was one."""


Handler = Callable[[Request, socket.socket, Callable[[str], None]], Awaitable[None]]
"""Does what is wanted; may use the connection for more, and tells how it goes on."""


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Give a path of a socket by which it can be bound and reached however long it is (at most 107 bytes may be)."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class Orders:
    """Listens for orders until it is closed."""

    def __init__(self, data_dir: Path, handle: Handler) -> None:
        self.path = data_dir / NAME
        self.keep_file = False
        """Whether the socket's file is another supervisor's by now."""
        self._handle = handle
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen; a socket that somebody else has there is replaced: the data directory is this service's."""
        listener = socket.socket(socket.AF_UNIX)
        new = self.path.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                with short_path(new) as short:
                    listener.bind(short)
            finally:
                os.umask(before)
            listener.listen(8)
            listener.setblocking(False)
            new.replace(self.path)
        except OSError as error:
            listener.close()
            log.warning("orders can't be taken: there is no goloves reload", file=str(self.path), reason=str(error))
            return
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def close(self) -> None:
        """Listen no more."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._listener = None
        if not self.keep_file:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        task = asyncio.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                async with asyncio.timeout(PATIENCE):
                    request = msgspec.json.decode(await read_line(connection), type=Request)
            except (TimeoutError, OSError, EOFError, msgspec.DecodeError, msgspec.ValidationError):
                return
            try:
                await self._handle(request, connection, lambda words: _send(connection, Reply(say=words)))
            except GolovesError as error:
                _send(connection, Reply(done=True, error=error.message, code=error.code))
            except OSError:
                return  # whoever asked has gone
            else:
                _send(connection, Reply(done=True))


def _send(connection: socket.socket, reply: Reply) -> None:
    with contextlib.suppress(OSError):  # whoever asked may have gone; what was ordered goes on
        connection.send(msgspec.json.encode(reply) + b"\n")


async def read_line(connection: socket.socket) -> bytes:
    """Read up to the end of a line; EOFError if there is none."""
    loop = asyncio.get_running_loop()
    data = b""
    while not data.endswith(b"\n"):
        more = await loop.sock_recv(connection, LONGEST)
        if not more or len(data) > LONGEST:
            raise EOFError
        data += more
    return data


def connect(data_dir: Path, timeout: float | None = None) -> socket.socket | None:
    """Connect to the supervisor that has this data directory; None if none runs.

    Raises Unavailable if there is one that takes no more connections.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        with short_path(data_dir / NAME) as short:
            connection.connect(short)
    except BlockingIOError:  # so many wait already
        connection.close()
        raise Unavailable(UNANSWERED) from None
    except OSError:
        connection.close()
        return None
    return connection


def check_alive(data_dir: Path, patience: float = PATIENCE) -> bool:
    """Find out whether a supervisor runs and answers, before it is given an order that it might carry out much later.

    False if none runs. Raises Unavailable if it does not answer. One of a version that knows no such question answers
    that it does not.
    """
    connection = connect(data_dir, patience)
    if connection is None:
        return False
    with connection:
        try:
            connection.sendall(msgspec.json.encode(Request("alive")) + b"\n")
            connection.recv(1)
        except TimeoutError:
            raise Unavailable(UNANSWERED) from None
        except OSError:
            return False  # it has just ended
    return True
