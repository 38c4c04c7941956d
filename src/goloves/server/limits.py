"""What the HTTP data plane allows a peer: section [http], beside where it listens. Times are seconds.

What a peer could otherwise have without end (bytes, headers, time, connections, memory for answers that it does not
read) ends at one of these numbers. Each says what becomes of whoever goes over it; the node counts how often.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

DAY = 86_400.0


class Bounds(NamedTuple):
    """The least and the most that a number may be."""

    low: float
    high: float
    unit: str
    why: str
    """What is wrong beyond the bounds; completes "…, for"."""


def beyond(limits: msgspec.Struct, bounds: Mapping[str, Bounds]) -> Iterator[str]:
    """Say which of these numbers are beyond their bounds, each by its name; nan is, too."""
    for name, (low, high, unit, why) in bounds.items():
        value = getattr(limits, name)
        if not low <= value <= high:
            yield f"{name} is {value}; it has to be {low:.15g} to {high:.15g}{unit and ' '}{unit}, for {why}"


FILES = 2**20
"""Files that Linux lets a process open at most, unless somebody has changed that (`fs.nr_open`)."""


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[http]: sizes, counts and times."""

    max_count: int = 10_000
    """Most ids of one request; more get 400. Higher: one request holds the node up for longer, in which
    nobody else is served, and its answer takes more memory (230 KB of JSON for 10,000)."""
    max_size: int = 1_000_000
    """Largest range of one request; more get 400. Higher: one careless client uses up more of a tag's numbers."""
    max_line: int = 8192
    """Bytes of a request line or header line, as in nginx; more get 414 or 431. A name of 128 bytes takes 384 when it
    is percent-encoded. Lower: clients behind proxies that add long headers are refused."""
    max_head: int = 16_384
    """Bytes of a request line and its headers together; more get 431. Higher: more memory for each slow client."""
    max_headers: int = 100
    """Header lines of a request, as in Apache; more get 431."""
    max_body: int = 65_536
    """Bytes of a request's body, which is read and dropped: no request needs one. More get 413."""
    request_timeout: float = 10.0
    """How long a request may take from its first byte to its last; slower ones get 408. Higher: clients that send a
    byte now and then hold connections for longer."""
    idle_timeout: float = 75.0
    """How long a connection may rest between two requests, as in nginx; then it is closed. Keep it above the idle time
    of the proxy in front, or that one meets connections that are just being closed."""
    write_timeout: float = 30.0
    """How long a client may leave an answer unread; then its connection is cut."""
    linger_timeout: float = 5.0
    """How long a connection that was refused is still read from, as in nginx, so that the client gets the answer and no
    reset. Lower: clients on slow lines see a reset instead of the reason."""
    max_age: float = 3600.0
    """After this time, less up to a tenth, a connection is closed with its next answer, so that clients find new nodes
    behind a load balancer; one that asks no more ends by `idle_timeout`. Lower: more connecting; higher: a new node
    stays without work for longer."""
    max_requests: int = 10_000_000
    """After this many requests a connection is closed with its next answer; looked at once a second. It only catches
    what never rests: `max_age` comes first for everyone else."""
    max_connections: int = 32_768
    """Connections at once; the next one gets 503 and is closed. Each takes memory and a file descriptor (`make bench
    ARGS='--only node'` says how much). Where the process may not open as many files, connections wait in the kernel
    instead."""
    max_connections_per_address: int = 16_384
    """Connections at once from one address; the next one gets 429 and is closed. Half of all, so that one address alone
    can't lock out the rest; a proxy in front is one address. Unix sockets are not counted."""
    max_unread: int = 67_108_864
    """Bytes of answers that clients leave unread, all connections together; over it, the one that has been unread for
    longest is cut. One connection holds up to 64 KB and one answer, and is not read from until they are gone."""

    def problems(self) -> list[str]:
        """Say which of these numbers can't be, each by its name."""
        found = list(beyond(self, BOUNDS))
        if self.max_head < self.max_line:
            found.append(f"max_head is {self.max_head}; it can't be below max_line ({self.max_line})")
        return found


_PATIENCE = "a peer needs a moment, and nobody waits for hours"
_HEADS = "every client needs some hundred bytes, and what is kept of a slow one has to end"
_CONNECTIONS = "somebody has to get in, and no process may have more files open"

BOUNDS = {
    "max_count": Bounds(1, 1_000_000, "", "a node can't do anything else meanwhile; bigger shares are ranges"),
    "max_size": Bounds(1, 2**40, "", "larger ranges use up 2^63 numbers in a few requests"),
    "max_line": Bounds(1024, 2**20, "", _HEADS),
    "max_head": Bounds(1024, 2**20, "", _HEADS),
    "max_headers": Bounds(16, 10_000, "", "browsers send more than ten, and each costs time of its own"),
    "max_body": Bounds(0, 2**30, "", "it is read for nothing"),
    "request_timeout": Bounds(0.1, 3600, "s", _PATIENCE),
    "idle_timeout": Bounds(1, DAY, "s", "clients keep connections for the next request, and leave some behind"),
    "write_timeout": Bounds(1, 3600, "s", _PATIENCE),
    "linger_timeout": Bounds(0.1, 600, "s", _PATIENCE),
    "max_age": Bounds(1, 365 * DAY, "s", "clients have to find new nodes some day"),
    "max_requests": Bounds(1, 2**53, "", "a connection is there for a request, and ends some day"),
    "max_connections": Bounds(1, FILES, "", _CONNECTIONS),
    "max_connections_per_address": Bounds(1, FILES, "", _CONNECTIONS),
    "max_unread": Bounds(2**20, 2**40, "", "answers have to be on their way, and no machine has more memory"),
}
"""What each of them may be: wide, and yet such that no number breaks the node or means the same as no limit."""
