"""What the connections of one protocol have in common on a node, whatever they speak.

Rules:
1. Who is over a limit is counted apart: it takes no place from anybody, neither of all nor of its address.
2. Connections are looked after in slices, one at a time, so that 10,000 of them never hold the node up for long.
3. Answers that clients leave unread have one limit over all; beyond it, the client that stalls for longest is cut.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

SLICES = 16
"""Connections are looked after in as many groups, one group at a time, each once a second: so that 10,000 of them
never hold the node up for more than a fraction of a millisecond."""


class Over(Enum):
    """Which limit a new connection is over."""

    PER_ADDRESS = "max_connections_per_address"
    IN_ALL = "max_connections"


class PlaneLimits(Protocol):
    """What a plane asks of its settings; their own text says what each is."""

    @property
    def max_connections(self) -> int:
        """Connections at once."""

    @property
    def max_connections_per_address(self) -> int:
        """Connections at once from one address."""

    @property
    def max_unread(self) -> int:
        """Bytes of answers that clients leave unread, all connections together."""


class PlaneCounters(Protocol):
    """What a plane counts; plain integers that only rise."""

    connections: int
    refused_connections: int
    refused_per_address: int
    cut_too_much_unread: int
    cut_drain: int


class Member(Protocol):
    """A connection of a plane."""

    def abort(self) -> None:
        """Close at once, whatever is unwritten; the caller counts why."""

    def look_after(self, now: float) -> None:
        """Do what is due; called about once a second. `now`: seconds of the event loop."""


C = TypeVar("C", bound=Member)


class Plane(Generic[C]):
    """Connections come and go by `enter` and `leave`; `tick` looks after them."""

    def __init__(self, limits: PlaneLimits, counters: PlaneCounters) -> None:
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.open = 0
        """Connections, refused ones included."""
        self.refused: set[C] = set()
        """Those over a limit, until they are closed."""
        self.unread = 0
        """Bytes of answers that clients have not taken."""
        self.stalled: dict[C, int] = {}
        """Connections with unread answers, and how much each, the longest stalled first."""
        self.counted: Callable[[int], None] = lambda _: None
        """Told how many connections there are whenever one came or went."""
        self._plane_limits = limits
        self._plane_counters = counters
        self._per_address: dict[str, int] = {}
        self._slices: list[dict[C, str]] = [{} for _ in range(SLICES)]
        """All connections, each with the address that it came from."""
        self._turn = 0

    def connections(self) -> list[C]:
        """Give all connections."""
        return [connection for connections in self._slices for connection in connections]

    def over(self, address: str, held: int = 0, pending: int = 0) -> Over | None:
        """Say which limit one more connection from an address would be over, and count that.

        `pending`: others that are about to enter, `held` of them from the same address. Unix sockets have no address.
        """
        if address and self._per_address.get(address, 0) + held >= self._plane_limits.max_connections_per_address:
            self._plane_counters.refused_per_address += 1
            return Over.PER_ADDRESS
        if self.open - len(self.refused) + pending >= self._plane_limits.max_connections:
            self._plane_counters.refused_connections += 1
            return Over.IN_ALL
        return None

    def enter(self, connection: C, address: str) -> Over | None:
        """Take a new connection in; gives the limit that it is over, for which it is to be closed."""
        over = self.over(address)
        self._plane_counters.connections += 1
        self.open += 1
        self.counted(self.open)
        self._slices[self._plane_counters.connections % SLICES][connection] = address
        if over is not None:
            self.refused.add(connection)
        elif address:
            self._per_address[address] = self._per_address.get(address, 0) + 1
        return over

    def leave(self, connection: C) -> None:
        """Take a connection out that was closed."""
        self.open -= 1
        self.counted(self.open)
        address = ""
        for connections in self._slices:
            address = connections.pop(connection, address)
        self.flowing(connection)
        if connection in self.refused:
            self.refused.discard(connection)
        elif address:
            held = self._per_address[address] - 1
            if held:
                self._per_address[address] = held
            else:
                del self._per_address[address]

    def stalling(self, connection: C, unread: int) -> None:
        """Note that a client does not take its answers; cut those stalled longest while all is too much."""
        self.unread += unread - self.stalled.get(connection, 0)
        self.stalled[connection] = unread
        while self.unread > self._plane_limits.max_unread:
            longest = next(iter(self.stalled))
            self._plane_counters.cut_too_much_unread += 1
            self.flowing(longest)
            longest.abort()

    def flowing(self, connection: C) -> None:
        """Note that a client has taken its answers, or is gone."""
        self.unread -= self.stalled.pop(connection, 0)

    def abort_all(self) -> int:
        """Close all connections at once, whatever is unwritten: the node's patience is over. Gives how many."""
        left = self.connections()
        self._plane_counters.cut_drain += len(left)
        for connection in left:
            connection.abort()
        return len(left)

    def tick(self, now: float) -> None:
        """Look after one slice of the connections; call it `SLICES` times a second while there are any.

        `now`: seconds of the event loop.
        """
        self._turn = (self._turn + 1) % SLICES
        for connection in list(self._slices[self._turn]):
            connection.look_after(now)
