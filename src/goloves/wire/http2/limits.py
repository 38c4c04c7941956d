"""What a peer may do to a connection, and how often (DESIGN rule 6). Each number says why it is that one.

Counts that can't harm when they are rare are budgets: so many at once, so many a second, and some more for each call
that was really answered, so that a busy honest client never runs out and one that only makes work does.
"""

from dataclasses import dataclass, field
from typing import Final

REFUSAL_COST: Final = 8
LARGE_OCTETS: Final = 64
"""What a request with too many fields costs of `Limits.chatter`: this much, twice what its refusal earns as an answer,
and 1 for so many octets of its block. That ends a connection after twenty of the largest in a row, each of which takes
5 ms to read, and one that sends 17 KB of cookies with each call after forty. Trailers, which gRPC's clients never send,
cost the latter, too."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """A budget's size and growth."""

    burst: float
    per_second: float
    per_answer: float
    """How much each answered call adds; what is answered was worth its cost."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one connection. Octets, counts, seconds."""

    streams: int = 1000
    """Calls at once (SETTINGS_MAX_CONCURRENT_STREAMS). nghttp2 and Go default to 100 and 250; calls here last
    microseconds, and a client with a thousand threads on one connection is common. A parked call costs 2 KB."""
    header_list: int = 16_384
    """Octets of one request's fields: grpc's own hard limit. Above it the request is refused (`RequestTooLarge`)."""
    header_fields: int = 128
    """Fields of one request. Names of one letter would let 480 into the list above; Envoy allows 100."""
    header_block: int = 32_768
    """Octets of a block as sent, twice the list: what is only too large can still be read, to keep the table right and
    to be answered; beyond this the connection ends unread. Reading it takes 5 ms if each octet is a field."""
    continuations: int = 8
    """CONTINUATION frames of one block: nghttp2's limit. The block above fits into three (CVE-2024-27316)."""
    stream_window: int = 262_144
    """Octets of one request that may be under way unread: at 10 ms of round trip a stream still does 25 MB/s."""
    connection_window: int = 1_048_576
    """Octets of all requests that may be under way unread. What the layer above takes and keeps, such as half a
    message, it has to bound itself."""
    settings: int = 32
    """Settings in one frame: nghttp2's limit; six are defined."""
    remembered: int = 1024
    """Ended streams that are remembered for late frames, of each kind. A peer has resets by us in flight for one round
    trip; at 10,000 calls a second answered early that is 100 ms."""

    resets: Allowance = field(default=Allowance(burst=1000, per_second=33, per_answer=1))
    """RST_STREAM by the peer, and by us for the peer's faults: nghttp2's numbers (CVE-2023-44487, CVE-2025-8671). An
    answered call pays for one cancelled one, so that a client that hedges its calls stays within."""
    chatter: Allowance = field(default=Allowance(burst=10_000, per_second=330, per_answer=4))
    """Frames that move no call on: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, unknown types. nghttp2's
    numbers for such glitches; each costs about a microsecond. Honest clients send at most two window updates and a
    ping for each small message that they get, and for large ones see below. Requests that are too large are paid from
    here, too, by their size."""
    octets_as_answer: int = 8192
    """Octets of an answer's data that earn as much of `chatter` as one more answer: a client may then give credit, of
    the call and of the connection, for each 4 KB of what it gets. grpc's clients do for 16 KB or more."""

    ping_interval: float = 300.0
    """Seconds between two PINGs of a client without anything sent to it in between, as grpc specifies (gRFC A8)."""
    ping_interval_idle: float = 7200.0
    """The same while it has no call."""
    ping_strikes: int = 2
    """PINGs that may come too early before the connection ends in ENHANCE_YOUR_CALM, "too_many_pings"."""

    handshake: float = 10.0
    """Seconds from the connection's start to the whole preface, and from our SETTINGS to their acknowledgement."""
    frame: float = 10.0
    """Seconds for a whole frame, and for all frames of a header block, to arrive: 16 KB at 2 KB/s."""


class Budget:
    """A bucket of tokens: full at first, refilled by time and by answers, emptied by what the peer does."""

    __slots__ = ("_allowance", "_at", "_level")

    def __init__(self, allowance: Allowance, now: float) -> None:
        self._allowance = allowance
        self._level = allowance.burst
        self._at = now

    def spend(self, now: float, cost: float = 1) -> bool:
        """Take `cost`; False if there is not that much left. `now` is in seconds."""
        if self._level < cost:
            allowance = self._allowance
            self._level = min(allowance.burst, self._level + (now - self._at) * allowance.per_second)
            self._at = now
            if self._level < cost:
                return False
        self._level -= cost
        return True

    def earn(self, answers: float) -> None:
        """Add what so many answered calls are worth."""
        allowance = self._allowance
        self._level = min(allowance.burst, self._level + answers * allowance.per_answer)
