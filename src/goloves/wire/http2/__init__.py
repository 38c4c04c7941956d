"""The server side of HTTP/2 (RFC 9113) without I/O: bytes in, events and bytes out.

`connection.py` reads what the peer sends, `calls.py` holds the calls and what is answered on them, `quick.py` answers
what can be answered at once, `control.py` is about the connection itself, `sending.py` keeps to the peer's windows,
`streams.py` is the life of a stream as a table, `requests.py` reads and remembers requests, `limits.py` says what a
peer may do, `frames.py` knows the bits.
"""

from goloves.wire.http2.connection import Connection
from goloves.wire.http2.events import (
    ConnectionFailed,
    DataReceived,
    Drained,
    Event,
    PeerGoesAway,
    RequestReceived,
    RequestTooLarge,
    StreamReset,
    TrailersReceived,
)
from goloves.wire.http2.frames import Code
from goloves.wire.http2.limits import Allowance, Limits
from goloves.wire.http2.requests import QuickWay, Request, RequestReader

__all__ = [
    "Allowance",
    "Code",
    "Connection",
    "ConnectionFailed",
    "DataReceived",
    "Drained",
    "Event",
    "Limits",
    "PeerGoesAway",
    "QuickWay",
    "Request",
    "RequestReader",
    "RequestReceived",
    "RequestTooLarge",
    "StreamReset",
    "TrailersReceived",
]
