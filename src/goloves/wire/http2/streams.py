"""The life of a stream as a table (RFC 9113 §5.1), as a server sees it.

    idle ── HEADERS ──> open ── END_STREAM ──> half-closed (remote) ── our END_STREAM ──> closed
                         │                               │
                         ├── our END_STREAM, then our RST_STREAM(NO_ERROR) ─────────────> abandoned
                         └── our RST_STREAM, or the peer's, in any of these ────────────> abandoned, or cancelled

A server that has answered before its request ended has no use for the rest, so half-closed (local) lasts for no time
here: the end of the answer is followed by RST_STREAM(NO_ERROR) at once (RFC 9113 §8.1). What is called closed there is
three states here, since it depends on how a stream came to its end what a late frame on it means:

- closed: both sides ended it; the peer has nothing more to say.
- abandoned: we reset it; the peer may not know yet, so its frames are ignored for a while.
- cancelled: the peer reset it; a frame after that is a fault of that stream.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from goloves.wire.http2.frames import Code
from goloves.wire.http2.requests import Quick


class State(Enum):
    """Where a stream stands."""

    IDLE = auto()
    OPEN = auto()
    HALF_CLOSED = auto()
    """The peer has ended its side: RFC 9113's half-closed (remote)."""
    CLOSED = auto()
    ABANDONED = auto()
    CANCELLED = auto()


class Input(Enum):
    """What can happen to a stream. END_STREAM is an input of its own, after that of the frame that carried it."""

    HEADERS = auto()
    DATA = auto()
    END_STREAM = auto()
    RST_STREAM = auto()
    WINDOW_UPDATE = auto()
    SEND_END_STREAM = auto()
    SEND_RST_STREAM = auto()


class Fault(NamedTuple):
    """What a wrong input costs: a stream error, or a connection error (RFC 9113 §5.4)."""

    code: Code
    fatal: bool
    """Whether it ends the connection."""
    reason: str


class Ignored(NamedTuple):
    """An input that is legal and means nothing any more."""


IGNORED: Final = Ignored()

_IDLE = Fault(Code.PROTOCOL_ERROR, True, "a frame on a stream that was never opened")
_ENDED = Fault(Code.STREAM_CLOSED, False, "a frame on a stream whose request has ended")
_CLOSED = Fault(Code.STREAM_CLOSED, True, "a frame on a closed stream")
_CANCELLED = Fault(Code.STREAM_CLOSED, False, "a frame on a stream after its RST_STREAM")

TRANSITIONS: Final[dict[State, dict[Input, State | Fault | Ignored]]] = {
    State.IDLE: {
        Input.HEADERS: State.OPEN,
        Input.DATA: _IDLE,
        Input.RST_STREAM: _IDLE,
        Input.WINDOW_UPDATE: _IDLE,
    },
    State.OPEN: {
        Input.HEADERS: State.OPEN,  # trailers; that they end the request is checked with them
        Input.DATA: State.OPEN,
        Input.END_STREAM: State.HALF_CLOSED,
        Input.RST_STREAM: State.CANCELLED,
        Input.WINDOW_UPDATE: State.OPEN,
        Input.SEND_END_STREAM: State.ABANDONED,
        Input.SEND_RST_STREAM: State.ABANDONED,
    },
    State.HALF_CLOSED: {
        Input.HEADERS: _ENDED,
        Input.DATA: _ENDED,
        Input.RST_STREAM: State.CANCELLED,
        Input.WINDOW_UPDATE: State.HALF_CLOSED,
        Input.SEND_END_STREAM: State.CLOSED,
        Input.SEND_RST_STREAM: State.ABANDONED,
    },
    State.CLOSED: {
        Input.HEADERS: _CLOSED,
        Input.DATA: _CLOSED,
        Input.RST_STREAM: IGNORED,  # may have crossed our END_STREAM, as WINDOW_UPDATE may
        Input.WINDOW_UPDATE: IGNORED,
    },
    State.ABANDONED: {
        Input.HEADERS: IGNORED,
        Input.DATA: IGNORED,
        Input.RST_STREAM: IGNORED,
        Input.WINDOW_UPDATE: IGNORED,
    },
    State.CANCELLED: {
        Input.HEADERS: _CANCELLED,
        Input.DATA: _CANCELLED,
        Input.RST_STREAM: IGNORED,
        Input.WINDOW_UPDATE: IGNORED,
    },
}
"""State and input to the next state, or to what a wrong input costs."""


class Stream:
    """A stream that is open or half-closed."""

    __slots__ = (
        "body_left",
        "ending",
        "id",
        "queue",
        "quick",
        "receive_window",
        "send_window",
        "state",
        "uncredited",
        "unused",
    )

    def __init__(self, stream: int, send_window: int, receive_window: int, body_left: int | None) -> None:
        self.id = stream
        self.state = State.OPEN
        self.send_window = send_window
        """Octets that the peer takes; below 0 when it has lowered its setting meanwhile (RFC 9113 §6.9.2)."""
        self.receive_window = receive_window
        """Octets that we take."""
        self.unused = 0
        """Octets of data received that the layer above has not used yet."""
        self.uncredited = 0
        """Octets used that the peer has not been told of."""
        self.body_left = body_left
        """Octets that `content-length` announces and that have not come; None if it announces none."""
        self.queue = bytearray()
        """Data that waits for a window."""
        self.ending: bytes | None = None
        """What ends the stream once the queue has been sent: a block of trailers, or b"" for none; None: not yet."""
        self.quick: Quick | None = None
        """Answers the next frame of data at once, if that can be; see `Calls.answer_messages`."""
