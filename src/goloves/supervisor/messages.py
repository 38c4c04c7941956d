"""What a supervisor and its nodes say to each other over a socket pair: one JSON object a line.

Both may be of different versions, one step apart: a field of a message that its reader does not know is left out, and
one that it misses has a default. So a field may be added, and none may be given another meaning. The settings within
are the exception: one that the node does not know it names, and does not start (see `passing.py`).
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, cast

import msgspec

SILENT_AT = 262_144
"""Bytes that may wait to be sent before reports are left out: a supervisor that is stopped for a day must not fill the
memory of its nodes."""

LONGEST = 4_194_304
"""Bytes of a line: a thousand times a report, four times a configuration of ten thousand spaces."""


class Listener(msgspec.Struct, frozen=True):
    """A listener that the node inherited."""

    fd: int
    kind: str
    """`http` or `grpc`."""


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """The first thing that a node is told, and all that it has to know. It holds the passwords of stores."""

    config: msgspec.Raw
    """As `passing.py` makes it."""
    number: int
    """Of its state directory."""
    listeners: list[Listener]
    lock: int | None
    """File descriptor that holds the lock of the state directory; None if that can't be written."""
    memory: int
    """File descriptor of the memory in which connections are counted."""
    place: int
    """The node's place in it."""
    create: bool = False
    init: bool = False
    layout: int = 1
    """Of that memory; a node that knows another one leaves it alone."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Stop in an orderly way."""

    rest: float | None = None
    """Seconds for which connections at rest are kept, if not the usual moment."""
    notice: float | None = None
    """The whole service stops: seconds for which new connections are still taken, before the listeners are shut."""


class Hasten(msgspec.Struct, frozen=True, tag="hasten"):
    """Wait no longer for requests under way."""


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Look at the certificate's files; log like this from now on."""

    log: msgspec.Raw


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """Report now, counters and all: somebody asked."""


Order = Setup | Drain | Hasten | Reload | Tell
"""What a supervisor says."""


class Report(msgspec.Struct, frozen=True, tag="report"):
    """How the node is; said twice a second, which shows that it does not hang."""

    stage: str
    reasons: list[str]
    """Why it can't serve; empty if it can."""
    connections: int = 0
    counters: dict[str, int] | None = None
    """Everything that is counted; None in most reports, since adding up takes its time with many connections."""
    version: str = ""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """What a person is to be told at the start."""

    waits: list[str]
    tag: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The node could not start, and why."""

    code: str
    """`code` of the error, or empty if it was none of Goloves' own."""
    message: str
    module: str = ""
    """The module that is missing."""


Answer = Report | Ready | Failed
"""What a node says."""

ORDERS = msgspec.json.Decoder(Order)
ANSWERS = msgspec.json.Decoder(Answer)

Message = Order | Answer


class Line(asyncio.Protocol):
    """One end of the socket pair."""

    def __init__(self, heard: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        """`heard` gets each line; `lost` is called when the other end is gone."""
        self._heard = heard
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what came, line by line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST:
            self.close()
            return
        for line in lines:
            self._heard(line)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._lost()

    def say(self, message: Message, *, important: bool = True) -> None:
        """Send a message; one that is not important is left out while the other end does not listen."""
        transport = self._transport
        if transport is None or (not important and transport.get_write_buffer_size() > SILENT_AT):
            return
        transport.write(msgspec.json.encode(message) + b"\n")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


def read_setup(line: socket.socket) -> Setup:
    """Wait for the first message; the socket is blocking. EOFError if the supervisor is gone."""
    data = b""
    while b"\n" not in data:
        # Byte for byte what belongs to it: what follows is read by somebody else.
        peeked = line.recv(65_536, socket.MSG_PEEK)
        if not peeked or len(data) > LONGEST:
            raise EOFError
        end = peeked.find(b"\n")
        data += line.recv(len(peeked) if end < 0 else end + 1)
    message = ORDERS.decode(data)
    if not isinstance(message, Setup):
        raise TypeError(f"a node is told its setup first, not {type(message).__name__}")
    return message


def decoded(decoder: "msgspec.json.Decoder[Any]", line: bytes) -> Any:
    """Read a message; None for one that another version added."""
    with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
        return decoder.decode(line)
    return None
