"""What a connection tells the layer above."""

from dataclasses import dataclass

from goloves.wire.hpack import Field
from goloves.wire.http2.frames import Code
from goloves.wire.http2.requests import Request


@dataclass(slots=True)
class RequestReceived:
    """A new call. Answer it with `answer`, or `start_answer`, `send_data` and `end_answer`, or `reset` it."""

    stream: int
    request: Request
    varying: bytes | None
    """Value of the field that changes from call to call."""
    ended: bool
    """Whether nothing more will come."""


@dataclass(slots=True)
class RequestTooLarge:
    """A new call whose fields are over the limits; they were not kept. Answer it, 431 being HTTP's word for it."""

    stream: int
    reason: str


@dataclass(slots=True)
class DataReceived:
    """Data of a call. When it is used up, say so with `credit(stream, len(data))`, or the peer stops sending."""

    stream: int
    data: bytes
    ended: bool


@dataclass(slots=True)
class TrailersReceived:
    """The request has ended with trailers."""

    stream: int
    fields: list[Field]


@dataclass(slots=True)
class StreamReset:
    """The call is over: the peer cancelled it, or broke a rule on it. Nothing can be sent on it any more."""

    stream: int
    code: Code | int
    """RFC 9113's codes, or an unknown number from the peer."""
    by_peer: bool
    reason: str = ""


@dataclass(slots=True)
class Drained:
    """What was queued on this stream for want of a window has been sent."""

    stream: int


@dataclass(slots=True)
class PeerGoesAway:
    """The peer's GOAWAY: it opens no more calls; those under way go on."""

    code: Code | int
    reason: str


@dataclass(slots=True)
class ConnectionFailed:
    """The connection is over, all calls with it. Write `take_output()`, half-close, and drop what still comes."""

    code: Code
    reason: str


Event = (
    RequestReceived
    | RequestTooLarge
    | DataReceived
    | TrailersReceived
    | StreamReset
    | Drained
    | PeerGoesAway
    | ConnectionFailed
)
