"""What all HTTP connections of a node share: caches, counters, the date, limits over all of them.

Caches: `targets` leads from a request line (and Accept) to a prepared way of answering, `prepared` from the whole
bytes of a request to the same. Rules:
1. They hold only requests for a single id of a tag or space in use, made by HTTP/1.1 clients that keep the connection,
   and `prepared` only such as have no body. What is in them answers with the bytes that the long way would answer with.
2. A request's bytes enter `prepared` when they are seen again, so that clients whose requests all differ don't flush
   it.
3. Both are emptied when they are full and when a tag is dropped.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from goloves.server.http.answers import http_date
from goloves.server.http.draws import Forms, Prepared
from goloves.server.http.routes import Routes
from goloves.server.limits import HttpLimits
from goloves.server.plane import Over, Plane
from goloves.service import IdService
from goloves.wire.http1 import Limits, Request, plain_head

if TYPE_CHECKING:
    from goloves.server.http.protocol import HttpConnection

TARGETS_KEPT = 8192
"""Request lines kept: 8,000 tags in use at once stay fast, at about 3 MB."""

PREPARED_KEPT = 4096
"""Whole requests kept: some clients times some tags, at about 2 MB."""

PREPARED_BYTES = 1024
"""Longest request kept whole: browsers' cookies make longer ones, and browsers don't ask often."""

SEEN = 4096
"""Places for hashes of requests seen once; a power of two. As many as are kept."""

ENDS = 64
"""Moments at which connections that came in the same second end, over a tenth of `max_age`. Connections share the
moments, for one of its own would be 32 bytes of each."""

REFUSED_AT_ONCE = 256
"""Connections over a limit that are told so at once; the next ones are cut without a word. They count against no limit
but this one: who comes too often takes no place from anybody."""

NOTHING: dict[bytes, Prepared] = {}
"""What a connection knows that must take the long way."""


class HttpCounters:
    """What happened since the node started; plain integers, gathered when somebody asks."""

    __slots__ = (
        "accept_paused",
        "connections",
        "cut_age",
        "cut_drain",
        "cut_idle",
        "cut_linger",
        "cut_requests",
        "cut_too_much_unread",
        "cut_unread",
        "cut_untold",
        "failed",
        "refused_body_too_large",
        "refused_connections",
        "refused_count",
        "refused_expectation_failed",
        "refused_head_too_large",
        "refused_malformed",
        "refused_not_supported",
        "refused_per_address",
        "refused_target_too_long",
        "refused_version_not_supported",
        "request_timeouts",
        "requests_ended",
    )

    def __init__(self) -> None:
        self.connections = 0
        """Accepted."""
        self.requests_ended = 0
        """Answered on connections that are closed; `HttpShared.requests` has all."""
        self.refused_malformed = 0
        """Requests that are not HTTP: 400."""
        self.refused_body_too_large = 0
        """Requests over `max_body`: 413."""
        self.refused_target_too_long = 0
        """Request lines over `max_line`: 414."""
        self.refused_expectation_failed = 0
        """Requests that expect something else than 100-continue: 417."""
        self.refused_head_too_large = 0
        """Requests over `max_headers`, `max_head`, or with a header line over `max_line`; framing of chunks without
        end: 431."""
        self.refused_not_supported = 0
        """CONNECT, and codings of transfer but chunked: 501."""
        self.refused_version_not_supported = 0
        """Other versions of HTTP: 505."""
        self.refused_count = 0
        """Requests whose `count` or `size` is no number that they may ask for, most often one over `max_count` or
        `max_size`: 400."""
        self.failed = 0
        """Answers 500 because of a fault in this program."""
        self.request_timeouts = 0
        """Requests that took longer than `request_timeout` to arrive: 408."""
        self.cut_idle = 0
        """Connections closed because they rested for `idle_timeout`."""
        self.cut_age = 0
        """Connections closed, with an answer, because of `max_age`."""
        self.cut_requests = 0
        """Connections closed, with an answer, because of `max_requests`."""
        self.cut_unread = 0
        """Connections cut because an answer was left unread for `write_timeout`."""
        self.cut_too_much_unread = 0
        """Connections cut because all together left more than `max_unread` unread."""
        self.cut_linger = 0
        """Connections that were told their last word and were not closed by the client within `linger_timeout`."""
        self.cut_drain = 0
        """Connections cut because the node stopped, and `server.drain` was over."""
        self.refused_connections = 0
        """Connections over `max_connections`: 503."""
        self.refused_per_address = 0
        """Connections over `max_connections_per_address`: 429."""
        self.cut_untold = 0
        """Those among them that were closed without a word, for many others were just being told."""
        self.accept_paused = 0
        """Times that no file descriptor was left to accept with."""

    def count_refused(self, code: str) -> None:
        """Count a request that could not be read, by its code."""
        name = f"refused_{code}"
        setattr(self, name, getattr(self, name) + 1)


class HttpShared(Plane["HttpConnection"]):
    """See the module's rules."""

    def __init__(self, service: IdService, limits: HttpLimits, leaf_spaces: Mapping[str, str] | None = None) -> None:
        self.counters = HttpCounters()
        super().__init__(limits, self.counters)
        self.limits = limits
        self.wire_limits = Limits(
            line=limits.max_line, head=limits.max_head, headers=limits.max_headers, body=limits.max_body
        )
        self.forms = Forms()
        self.routes = Routes(service, limits, leaf_spaces or {}, self.forms)
        self.plain = plain_head(limits.max_headers).fullmatch
        """What tells the request line (group 1) and Accept (3) of bytes that are one plain request as a whole."""
        self.short = self.wire_limits.short
        """Bytes of the longest request for which that holds."""
        self.targets: dict[object, Prepared] = {}
        self.prepared: dict[bytes, Prepared] = {}
        self.date = b""
        self.ends: list[float] = []
        """When connections that come now are to end, by the event loop's clock: one of these, drawn at random."""
        self.seen = [0] * SEEN
        """Hashes of requests seen once, each in its place."""
        self._second = -1
        self.renew_date()
        service.on_drop(self.forget)

    @property
    def requests(self) -> int:
        """Requests answered since the node started."""
        return self.counters.requests_ended + sum(connection.served for connection in self.connections())

    def forget(self) -> None:
        """Empty the caches: a tag was dropped, and what is prepared may lead to it."""
        self.targets.clear()
        self.prepared.clear()

    def remember(self, request: Request, prepared: Prepared) -> None:
        """Keep the way to answer a request line; queries that change with each request would fill the place."""
        line, accept = request.line, request.accept
        if (b"?" in line and not line.endswith(b"?count=1")) or len(line) + len(accept or b"") > PREPARED_BYTES:
            return
        if len(self.targets) >= TARGETS_KEPT:
            self.targets.clear()
        self.targets[line, accept] = prepared

    def admit(self, data: bytes, prepared: Prepared) -> None:
        """Keep the way to answer these bytes, which were seen before."""
        if len(data) <= PREPARED_BYTES:
            if len(self.prepared) >= PREPARED_KEPT:
                self.prepared.clear()
            self.prepared[data] = prepared

    def enter(self, connection: "HttpConnection", address: str) -> Over | None:
        """Take a new connection in; see `Plane.enter`."""
        if not self.open:
            self.renew_date()
        return super().enter(connection, address)

    def leave(self, connection: "HttpConnection") -> None:
        """Take a connection out that was closed."""
        super().leave(connection)
        self.counters.requests_ended += connection.served

    def renew_date(self) -> None:
        """Put the present second into all answers from now on, and into the ends of connections that come."""
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self.date = http_date(now)
            self.forms.renew(self.date)
            begun, age = self.loop.time(), self.limits.max_age
            self.ends = [begun + age * (0.9 + 0.1 * part / ENDS) for part in range(ENDS)]

    def tick(self, now: float) -> None:
        """Put the present second into answers, then look after connections; see `Plane.tick`."""
        self.renew_date()
        super().tick(now)
