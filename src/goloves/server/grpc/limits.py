"""What the gRPC data plane allows a peer: section [grpc], beside where it listens. Times are seconds.

The limits of the wire itself (floods, frames, header blocks) stand in `wire/http2/limits.py`; those here are the ones
that an operator may have reason to change.
"""

import msgspec

from goloves.server.limits import DAY, FILES, Bounds, beyond


class GrpcLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[grpc]: sizes, counts and times."""

    max_count: int = 10_000
    """Most ids of one request; more get INVALID_ARGUMENT. Higher: one answer takes more memory (8 bytes an id)."""
    max_size: int = 1_000_000
    """Largest range of one Lease; more get INVALID_ARGUMENT. Higher: one careless client uses up more of a tag's
    numbers."""
    max_message: int = 65_536
    """Bytes of a request's message, inflated; more get RESOURCE_EXHAUSTED. No request of Goloves needs 300. Higher:
    more memory for each call that is half sent."""
    max_metadata: int = 16_384
    """Bytes of a call's header fields, each counting 32 more; more get RESOURCE_EXHAUSTED. Lower: clients behind
    proxies that add long headers are refused."""
    max_streams: int = 1000
    """Calls of one connection at once; clients keep more waiting by themselves. Lower: clients need more connections;
    higher: one connection can hold more of the node's memory."""
    request_timeout: float = 30.0
    """How long a message may take from its first byte to its last, and a call until its only message; slower ones get
    DEADLINE_EXCEEDED. Higher: clients that send a byte now and then hold memory for longer."""
    keepalive: float = 60.0
    """After this time without a byte from a client it is sent a ping. Higher: connections whose client is gone
    without a word are found later."""
    keepalive_timeout: float = 20.0
    """How long the answer to that ping may take; then the connection is cut."""
    min_ping: float = 300.0
    """A client may ping this often while it has calls and hears nothing, and every two hours without calls; the third
    ping too early ends the connection with ENHANCE_YOUR_CALM, "too_many_pings", as grpc does. Clients whose own
    keepalive is shorter need a lower number here."""
    idle_timeout: float = 1800.0
    """How long a connection may be without calls; then it is closed, as grpc does. Lower: clients that ask rarely
    connect anew each time."""
    max_age: float = 3600.0
    """After this time, give or take a tenth, a connection takes no more calls, so that clients find new nodes behind a
    load balancer. Lower: more connecting; higher: a new node stays without work for longer."""
    max_age_grace: float = 60.0
    """How long after that its calls may go on; then they are cut. Streams end by then."""
    write_timeout: float = 60.0
    """How long a client may leave an answer unread without taking a byte of it; then its connection is cut."""
    linger_timeout: float = 5.0
    """How long a connection that was refused is still read from, so that the client gets the reason and no reset; over
    TLS two seconds at the most."""
    max_queued: int = 1_048_576
    """Bytes of answers that one connection may leave unread before its further calls wait. Lower: large answers wait
    for one another; higher: more memory for each client that does not read."""
    max_connections: int = 16_384
    """Connections at once; the next one is closed. Each takes a file descriptor, and more memory than
    one over HTTP."""
    max_connections_per_address: int = 8192
    """Connections at once from one address; the next one is closed. Half of all, so that one address alone can't lock
    out the rest; a proxy in front is one address. Unix sockets are not counted."""
    max_unread: int = 67_108_864
    """Bytes of answers that clients leave unread, all connections together; over it, the one that has been unread for
    longest is cut."""
    max_held: int = 67_108_864
    """Bytes of requests that have come and can't be answered yet, and of heads above 2 KB of calls that are open, all
    connections together. Calls of a connection that holds more than a sixteenth get RESOURCE_EXHAUSTED; so do, over the
    whole, those of the connections that hold the most."""

    def problems(self) -> list[str]:
        """Say which of these numbers can't be, each by its name."""
        return list(beyond(self, BOUNDS))


_PATIENCE = "a peer needs a moment, and nobody waits for hours"
_CONNECTIONS = "somebody has to get in, and no process may have more files open"
_MEMORY = "what is on its way needs room, and no machine has more memory"

BOUNDS = {
    "max_count": Bounds(1, 100_000, "", "a node can't do anything else meanwhile; bigger shares are for Lease"),
    "max_size": Bounds(1, 2**40, "", "larger ranges use up 2^63 numbers in a few calls"),
    "max_message": Bounds(1024, 2**24, "", "a name has to fit, and no request needs more"),
    "max_metadata": Bounds(1024, 2**20, "", "every client needs some hundred bytes, and nobody a million"),
    "max_streams": Bounds(1, 2**20, "", "a client needs a call, and each holds memory of the node"),
    "request_timeout": Bounds(0.1, 3600, "s", _PATIENCE),
    "keepalive": Bounds(1, DAY, "s", "pings cost both sides, and clients that are gone hold memory"),
    "keepalive_timeout": Bounds(0.1, 3600, "s", _PATIENCE),
    "min_ping": Bounds(0, DAY, "s", "clients have to find out some day that a node is gone"),
    "idle_timeout": Bounds(1, 365 * DAY, "s", "clients keep connections for the next call, and leave some behind"),
    "max_age": Bounds(1, 365 * DAY, "s", "clients have to find new nodes some day"),
    "max_age_grace": Bounds(0, DAY, "s", "streams would keep a connection for ever"),
    "write_timeout": Bounds(1, 3600, "s", _PATIENCE),
    "linger_timeout": Bounds(0.1, 600, "s", _PATIENCE),
    "max_queued": Bounds(65_536, 2**30, "", "an answer has to fit, and one client is not everybody"),
    "max_connections": Bounds(1, FILES, "", _CONNECTIONS),
    "max_connections_per_address": Bounds(1, FILES, "", _CONNECTIONS),
    "max_unread": Bounds(2**20, 2**40, "", _MEMORY),
    "max_held": Bounds(2**20, 2**40, "", _MEMORY),
}
"""What each of them may be: wide, and yet such that no number breaks the node or means the same as no limit."""
