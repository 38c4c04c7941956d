"""What all gRPC connections of a node share: the methods, limits over all of them, counters."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from goloves.logger import get_logger
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.grpc.methods import Service
from goloves.server.grpc.routes import Routes, refusal
from goloves.server.plane import Plane
from goloves.wire.grpc import CallError, Status
from goloves.wire.http2 import Code, Limits

if TYPE_CHECKING:
    from goloves.server.grpc.connection import GrpcConnection

HELD_SHARE = 16
"""One connection may hold this part of `max_held`: so nobody alone, nor a few, can have others' calls refused."""

QUIET = 60.0
"""Seconds between two log lines about connections that were ended for a fault of the peer's."""

log = get_logger("goloves.grpc")


class GrpcCounters:
    """What happened since the node started; plain integers, gathered when somebody asks."""

    __slots__ = (
        "accept_paused",
        "calls_ended",
        "connections",
        "cut_age",
        "cut_calm",
        "cut_drain",
        "cut_idle",
        "cut_silent",
        "cut_too_much_unread",
        "cut_unread",
        "cut_wrong",
        "failed",
        "refused_connections",
        "refused_per_address",
    )

    def __init__(self) -> None:
        self.connections = 0
        """Accepted."""
        self.calls_ended = 0
        """Calls answered on connections that are closed; `GrpcShared.calls` has all."""
        self.failed = 0
        """Calls that ended in INTERNAL because of a fault in this program."""
        self.cut_age = 0
        """Connections ended because of their age."""
        self.cut_idle = 0
        """Connections ended because they had no calls."""
        self.cut_silent = 0
        """Connections cut because a ping was not answered."""
        self.cut_calm = 0
        """Connections ended for doing too much of something: ENHANCE_YOUR_CALM."""
        self.cut_wrong = 0
        """Connections ended for breaking HTTP/2's rules in other ways."""
        self.cut_unread = 0
        """Connections cut because answers were left unread for too long."""
        self.cut_too_much_unread = 0
        """Connections cut because all connections together left too much unread."""
        self.cut_drain = 0
        """Connections cut because the node stopped, and `server.drain` was over."""
        self.refused_connections = 0
        """Connections over `max_connections`."""
        self.refused_per_address = 0
        """Connections over `max_connections_per_address`."""
        self.accept_paused = 0
        """Times that no file descriptor was left to accept with."""


class GrpcShared(Plane["GrpcConnection"]):
    """See the module's text."""

    def __init__(self, services: Iterable[Service], limits: GrpcLimits | None = None) -> None:
        self.limits = limits or GrpcLimits()
        self.counters = GrpcCounters()
        super().__init__(self.limits, self.counters)
        self.services = {service.name: service for service in services}
        self.reader = Routes(self.services).reader()
        self.wire_limits = Limits(
            streams=self.limits.max_streams,
            header_list=self.limits.max_metadata,
            header_block=2 * self.limits.max_metadata,
            ping_interval=self.limits.min_ping,
        )
        self.bad_timeout = refusal(CallError(Status.INTERNAL, "grpc-timeout is not one to eight digits and a unit"))
        self.held = 0
        """Bytes of requests that can't be answered yet."""
        self.held_share = max(self.limits.max_held // HELD_SHARE, 2 * self.limits.max_message)
        """How many of them may be of one connection; two messages of any size always may."""
        self._said_at = float("-inf")

    @staticmethod
    def refusal(error: CallError) -> bytes:
        """Give the header block that answers a call with an error and nothing else."""
        return refusal(error)

    @property
    def calls(self) -> int:
        """Calls answered since the node started."""
        return self.counters.calls_ended + sum(connection.served for connection in self.connections())

    def leave(self, connection: "GrpcConnection") -> None:
        """Take a connection out that was closed."""
        super().leave(connection)
        self.counters.calls_ended += connection.served

    def make_room(self) -> None:
        """End calls that wait for the rest of their requests, on the connections that hold the most of such."""
        # So much that it takes a while until all connections have to be looked at again.
        enough = self.limits.max_held - self.limits.max_held // HELD_SHARE
        for connection in sorted(self.connections(), key=lambda connection: connection.held, reverse=True):
            connection.let_go()
            if self.held <= enough:
                break

    def failed(self, code: Code, address: str, reason: str) -> None:
        """Note that a connection was ended for a fault of its peer's."""
        if code is Code.ENHANCE_YOUR_CALM:
            self.counters.cut_calm += 1
        else:
            self.counters.cut_wrong += 1
        now = self.loop.time()
        if now - self._said_at >= QUIET:
            self._said_at = now
            log.info("a gRPC connection was ended for what its client did", peer=address, code=code.name, reason=reason)
