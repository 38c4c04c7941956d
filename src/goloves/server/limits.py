"""What the HTTP data plane allows a peer: section [http], beside where it listens. Times are seconds.

What a peer could otherwise have without end (bytes, headers, time, connections, memory for answers that it does not
read) ends at one of these numbers. Each says what becomes of whoever goes over it; the node counts how often.
"""

import msgspec


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[http]: sizes, counts and times."""

    max_count: int = 10_000
    """Most ids of one request; more get 400. Higher: one request holds the node up for longer (10,000 take about 0.2
    ms) and its answer takes more memory (230 KB as JSON)."""
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
    behind a load balancer. Lower: more connecting; higher: a new node stays without work for longer."""
    max_requests: int = 10_000_000
    """After this many requests a connection is closed with its next answer; looked at once a second. It only catches
    what never rests: `max_age` comes first for everyone else."""
    max_connections: int = 32_768
    """Connections at once; the next one gets 503 and is closed. Each takes about 2 KB and a file descriptor. Where the
    process may not open as many files, connections wait in the kernel instead."""
    max_connections_per_address: int = 16_384
    """Connections at once from one address; the next one gets 429 and is closed. Half of all, so that one address alone
    can't lock out the rest; a proxy in front is one address. Unix sockets are not counted."""
    max_unread: int = 67_108_864
    """Bytes of answers that clients leave unread, all connections together; over it, the one that has been unread for
    longest is cut. One connection holds up to 64 KB and one answer, and is not read from until they are gone."""

    def problems(self) -> list[str]:
        """Say which of these numbers can't be, each by its name."""
        least = {
            "max_count": 1, "max_size": 1, "max_line": 1024, "max_head": 1024, "max_headers": 16, "max_body": 0,
            "max_requests": 1, "max_connections": 1, "max_connections_per_address": 1, "max_unread": 1_048_576,
            "request_timeout": 0.1, "idle_timeout": 1.0, "write_timeout": 1.0, "linger_timeout": 0.1, "max_age": 1.0,
        }  # fmt: skip
        found = [
            f"{name} is {getattr(self, name):g}; at least {low:g} is possible"
            for name, low in least.items()
            if not getattr(self, name) >= low
        ]
        if self.max_head < self.max_line:
            found.append(f"max_head is {self.max_head}; it can't be below max_line ({self.max_line})")
        if self.max_count > 1_000_000:
            found.append(
                f"max_count is {self.max_count}; at most 1,000,000 is possible, for bigger shares there are ranges"
            )
        return found
