"""Listeners: sockets bound to addresses, and the acceptor that takes connections from one.

Rules:
1. A socket is bound without `SO_REUSEPORT`: two services on one port would share its connections without a word (P1).
   Looking whether anybody listens on a Unix socket and taking its place happens under a lock of its directory: of two
   that start at once on the file that a killed process left, one gets it. Whoever ends removes only the file that is
   its own still: once its listener was shut, the next service may have taken its place.
2. The acceptor takes connections itself. Where no file descriptor is left it pauses: the connections that are there go
   on, new ones wait in the kernel and come when there is room. (libuv would accept and drop them.)
3. Several nodes accept from one listener: one that has more connections than another leaves the next one to it for a
   moment (see `balance.py`).
4. Handshakes of TLS count from the moment that they are accepted: against the limits, and as something to wait for.
5. Whoever stops a whole service shuts its listeners (`shut`), which acts on every copy that a process holds: a connect
   is refused then, which a client can safely repeat elsewhere, and never waits for nobody.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from goloves.config.addresses import Address
from goloves.errors import ConfigError
from goloves.logger import get_logger
from goloves.server.balance import LEAVE

BACKLOG = 1024
"""Connections that may wait to be accepted: a burst of clients at a restart. The kernel may cut it
(`net.core.somaxconn`)."""

ACCEPTED_AT_ONCE = 32
"""Connections accepted before the others get their turn: about a millisecond."""

PAUSE = 0.1
"""Seconds before the next attempt when no file descriptor was left."""

QUIET = 60.0
"""Seconds in which that is logged once."""

LOCKED = 5.0
"""Seconds that a start waits for another one that is just taking a socket's place: a thousand times what it takes."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds for the handshake of TLS: two round trips and a signature."""

SHUTDOWN_TIMEOUT = 2.0
"""Seconds for the peer's side of TLS's goodbye; most clients don't send one."""

CHOICES = 8
"""Ports that the system may choose before it is given up that one is free at all addresses of a host."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_SHUT = errno.EINVAL
"""Nothing comes from this listener any more: it was shut, by whichever process."""

log = get_logger("goloves.listener")


def listen(address: Address, setting: str = "http.listen") -> list[socket.socket]:
    """Bind and listen: one socket, or one for each address that a host name stands for.

    Raises ConfigError, which says what is wrong and how to mend it; `setting` is where the address came from.
    """
    if address.path:
        return [_listen_unix(address, setting)]
    # As bytes where they say it all: for a text Python loads its tables of international names, half a megabyte.
    host = address.host.encode() if address.host.isascii() else address.host
    try:
        found = socket.getaddrinfo(
            host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"can't listen on {address}: {address.host!r} is no host ({error}); see {setting}") from None
    places = list(dict.fromkeys((family, str(sockaddr[0])) for family, _, _, _, sockaddr in found))
    if not address.port and len(places) > 1:
        for _ in range(CHOICES - 1):  # what it chooses for the first may be taken at another
            with contextlib.suppress(ConfigError):
                return _listen_all(places, address, setting)
    return _listen_all(places, address, setting)


def address_of(listener: socket.socket) -> Address:
    """Say where a listener stands."""
    name = listener.getsockname()
    return Address(host=name[0], port=name[1]) if isinstance(name, tuple) else Address(path=str(name))


class UnixListener(socket.socket):
    """A listener that knows its file (rule 1)."""

    file: tuple[int, int] | None = None
    """Device and inode of the file by which it is reached; None: it is not known, and never removed."""

    def learn_file(self) -> None:
        """Take what stands at its path for its file: true while it listens."""
        with contextlib.suppress(OSError):
            self.file = _file_at(address_of(self).path)


def received_listener(fd: int) -> socket.socket:
    """Make a listener of a descriptor that another process handed over, which listens still."""
    made = socket.socket(fileno=fd)
    if made.family == socket.AF_UNIX:
        made = UnixListener(fileno=made.detach())
        made.learn_file()
    made.setblocking(False)
    made.set_inheritable(False)
    return made


def close_listener(listener: socket.socket, *, keep_file: bool = False) -> None:
    """Close it, and remove the file of a Unix socket if it is this listener's still."""
    with listener:
        if isinstance(listener, UnixListener) and listener.file is not None and not keep_file:
            # Before it is closed: as long as it is open, no other file can have its file's number.
            with contextlib.suppress(ConfigError, OSError):
                _remove_own(address_of(listener), listener.file)


def shut(listener: socket.socket) -> None:
    """Refuse connects from now on, in all processes that hold the listener; what was not accepted yet is reset.

    The address stays taken until the last of them has closed it.
    """
    with contextlib.suppress(OSError):  # another one was quicker
        listener.shutdown(socket.SHUT_RDWR)


def _listen_all(places: Sequence[tuple[int, str]], address: Address, setting: str) -> list[socket.socket]:
    """Listen at each of these places, on one port: where the system chooses it, it chooses one for all."""
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, where in places:
            sockets.append(_listen_tcp(family, where, port, address, setting))
            port = port or sockets[0].getsockname()[1]
    except BaseException:
        for made in sockets:
            made.close()
        raise
    return sockets


def _listen_tcp(family: int, host: str, port: int, address: Address, setting: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise ConfigError(_why(error, address, setting)) from None
    return made


def _listen_unix(address: Address, setting: str) -> socket.socket:
    with _directory_locked(address):
        _remove_stale(address, setting)
        made = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(address.path)
            made.learn_file()
            made.listen(BACKLOG)
            made.setblocking(False)
        except OSError as error:
            made.close()
            raise ConfigError(_why(error, address, setting)) from None
        return made


@contextlib.contextmanager
def _directory_locked(address: Address) -> Iterator[None]:
    """Hold the lock of a socket's directory, which everybody holds for an instant only."""
    try:
        directory = os.open(Path(address.path).parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield  # what follows says what is wrong with it
        return
    try:
        until = time.monotonic() + LOCKED
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise ConfigError(f"can't listen on {address}: some process keeps its directory locked") from None
                time.sleep(0.01)
            except OSError:
                break  # a file system without locks
            else:
                break
        yield
    finally:
        os.close(directory)


def _remove_stale(address: Address, setting: str) -> None:
    """Remove the socket file that a killed process left; a file that is none, or that somebody listens on, stays."""
    path = Path(address.path)
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(
                f"can't listen on {address}: a file that is no socket is there; choose another ({setting})"
            )
    except OSError:
        return  # nothing is there, or the bind that follows says what is wrong
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            raise ConfigError(_in_use(address, setting)) from None
        else:
            raise ConfigError(_in_use(address, setting))


def _remove_own(address: Address, file: tuple[int, int]) -> None:
    with _directory_locked(address):
        if _file_at(address.path) == file:
            Path(address.path).unlink()


def _file_at(path: str) -> tuple[int, int]:
    found = Path(path).lstat()
    return found.st_dev, found.st_ino


def _in_use(address: Address, setting: str) -> str:
    busy = f"can't listen on {address}: another process listens there already"
    return f"{busy}; stop it, or choose another address ({setting})"


def _why(error: OSError, address: Address, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return _in_use(address, setting)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "ports below 1024 need a privilege" if address.port else "the directory can't be written"
        return f"can't listen on {address}: not permitted, {hint}; choose another address ({setting})"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"can't listen on {address}: this machine has no such address; 0.0.0.0 or [::] are all it has ({setting})"
        )
    if error.errno == errno.ENOENT:
        return f"can't listen on {address}: its directory does not exist; make it, or choose another ({setting})"
    return f"can't listen on {address}: {error.strerror or error}; see {setting}"


class Handshakes:
    """Connections that were accepted and have no protocol yet; of all listeners of one kind together."""

    def __init__(self, has_room: Callable[[str, int, int], bool] = lambda *_: True) -> None:
        """`has_room` judges a new one by its address, by how many wait from there, and by how many wait in all."""
        self.open = 0
        self._has_room = has_room
        self._per_address: dict[str, int] = {}

    def enter(self, address: str) -> bool:
        """Count a new one; False if it is one too many, and was not counted. `address`: empty for a Unix socket."""
        held = self._per_address.get(address, 0)
        if not self._has_room(address, held, self.open):
            return False
        self.open += 1
        if address:
            self._per_address[address] = held + 1
        return True

    def leave(self, address: str) -> None:
        """Take one out that has a protocol now, or is gone."""
        self.open -= 1
        if address:
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]


class Acceptor:
    """Takes connections from one listener and gives each a protocol."""

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[], asyncio.Protocol],
        paused: Callable[[], None],
        tls: Callable[[], ssl.SSLContext] | None = None,
        is_due: Callable[[], bool] | None = None,
        handshakes: Handshakes | None = None,
    ) -> None:
        """`connect` makes the protocol of a new connection; `paused` is called when no file descriptor is left.

        `tls` gives the context of the next connection; it is another one after a renewal. `is_due` says whether this
        node is to take the next connection or others are. `handshakes` counts what was taken and has no protocol yet.
        """
        self._listener = listener
        self._connect = connect
        self._paused = paused
        self._is_due = is_due
        self._handshakes = handshakes or Handshakes()
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._logged_at = float("-inf")
        self._running = False

    def start(self) -> None:
        """Begin to accept."""
        self._running = True
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more; the listener stays open, and what waits there is for whoever accepts from it next."""
        if not self._running:
            return
        self._running = False
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)

    def drain(self) -> None:
        """Accept what waits, whosever turn it is, then shut the listener: for the end of a whole service."""
        # Between the last look and the end lie microseconds, in which a connect would be reset: no system call does
        # both.
        for _ in range(BACKLOG):
            if not self._accept_one():
                break
        self.stop()
        shut(self._listener)

    def cut(self) -> None:
        """Break off the handshakes that are under way."""
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if self._is_due is not None and not self._is_due():
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(LEAVE, self._insist)
                return
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept a connection; False if there was none, or no room for it."""
        try:
            accepted, peer = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._pause(error)
            elif error.errno == _SHUT:
                self.stop()
            # Else there was none, or it is gone: Linux passes on what the network said of it (accept(2): EPROTO,
            # EHOSTUNREACH, EPERM of a firewall and others).
            return False
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._handshakes.enter(address):
            accepted.close()
            return True
        accepted.setblocking(False)
        task = self._loop.create_task(self._take(accepted, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _insist(self) -> None:
        """Take the connection that was left to others, if it is still there."""
        if self._running:
            self._loop.add_reader(self._listener, self._accept)
            self._accept_one()

    async def _take(self, accepted: socket.socket, address: str) -> None:
        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(self._connect, accepted)
            else:
                await self._loop.connect_accepted_socket(
                    self._connect,
                    accepted,
                    ssl=self._tls(),
                    ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
                    ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
                )
        except OSError:
            accepted.close()  # the client was gone before it was taken in, or its handshake failed
        except asyncio.CancelledError:
            accepted.close()
        finally:
            self._handshakes.leave(address)

    def _pause(self, error: OSError) -> None:
        self._loop.remove_reader(self._listener)
        self._paused()
        now = self._loop.time()
        if now - self._logged_at >= QUIET:
            self._logged_at = now
            log.warning(
                "no room for new connections: they wait; raise the limit of open files (ulimit -n)",
                listener=str(address_of(self._listener)),
                reason=error.strerror,
            )
        self._retry = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if self._running:
            self._loop.add_reader(self._listener, self._accept)
