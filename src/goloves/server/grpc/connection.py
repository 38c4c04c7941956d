"""One gRPC connection: a socket, the HTTP/2 of `wire`, and the calls on it.

Rules:
1. All that one read brings is taken in, and what it gives is written at once, together. The calls that can be
   answered at once are, below this layer (`wire/http2`); whatever waits has a task of its own.
2. A client that does not read is not read from, no further call of its is begun (those are parked), and no answer is
   made that would have to wait with those before. So what is kept for it is one answer more than `max_queued` and what
   the transport holds (`WRITE_AHEAD`), its share of requests, and 2 to 4 KB for each call.
3. Whoever is refused gets to read why: GOAWAY, the connection is shut for writing, and what still arrives is dropped
   for a while. A close with unread input would be a reset, which can overtake the reason.
4. A client that sends much gets its turn like the others: what one read brings is bounded, and after a large one the
   others are read from first. libuv would read 32 times from one socket before it looked at another.
5. The end of a connection comes in stages: it announces that it takes no more calls, takes those that are on their way,
   finishes what is under way, closes.
"""

import asyncio
import random
import ssl
from typing import TYPE_CHECKING, cast

from goloves.logger import get_logger
from goloves.server.grpc.call import GrpcCall, Route
from goloves.server.grpc.routes import REFUSED_OCTETS, HttpRefusal
from goloves.server.tls import GRPC_PROTOCOLS
from goloves.wire.grpc import CallError, Status, timeout_seconds
from goloves.wire.http2 import (
    Code,
    Connection,
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

if TYPE_CHECKING:
    from goloves.server.grpc.shared import GrpcShared

KEEPALIVE_PING = b"keepaliv"

LAST_CALLS = 1.0
"""Seconds for the client to say that it knows of the end, before calls that it starts are ignored: a round trip."""

WRITE_AHEAD = 262_144
"""Octets that the transport may hold, beyond what the kernel takes, before the connection counts as congested: a few
of the largest answers, so that the kernel does not run dry while the next one is made."""

LARGE_READ = 65_536
"""Octets of a read after which others have their turn: a hundred and more of calls at once, and a tenth of a
millisecond's work or ten."""

DROPPED = 16_777_216
"""Octets that are still read and dropped from a client that was refused, before the connection is cut."""

log = get_logger("goloves.grpc")


class Refused:
    """A request that is no gRPC call, until it has come to its end."""

    __slots__ = ("octets", "refusal", "since")

    def __init__(self, refusal: HttpRefusal, since: float) -> None:
        self.refusal = refusal
        self.since = since
        self.octets = 0


class GrpcConnection(asyncio.Protocol):
    """See the module's rules."""

    __slots__ = (
        "_answered",
        "_buffered",
        "_calls",
        "_dropped",
        "_expires",
        "_finish_at",
        "_held",
        "_idle_since",
        "_linger",
        "_parked",
        "_pinged_at",
        "_quick_answers",
        "_reading",
        "_refused",
        "_stalled_at",
        "_stalled_with",
        "_transport",
        "_write",
        "_written",
        "address",
        "congested",
        "resting",
        "retiring",
        "shared",
        "wire",
    )

    def __init__(self, shared: "GrpcShared") -> None:
        # Of all connections
        self.shared = shared

        # Of this one
        now = shared.loop.time()
        self.wire = Connection(shared.reader, shared.wire_limits, now)
        self.address = ""
        """The client's; empty on a Unix socket."""
        self.congested = False
        """Whether the client does not take what is written."""
        self.retiring = False
        """Whether no more calls are wanted."""
        self.resting = False
        """Whether streams that only wait for their client are to end."""
        self._calls: dict[int, GrpcCall] = {}
        self._refused: dict[int, Refused] = {}
        self._parked: dict[int, GrpcCall] = {}
        self._held = 0
        """Octets of requests that can't be answered yet."""
        self._reading = False
        """Whether `data_received` is at work, which writes everything together when it is done."""
        self._expires = now + shared.limits.max_age * random.uniform(0.9, 1.1)
        self._finish_at = float("inf")
        """When the last stage of the end begins."""
        self._idle_since = now
        self._answered = 0
        self._quick_answers = 0
        """How many there were when the connection was last looked after."""
        self._pinged_at: float | None = None
        self._stalled_at = 0.0
        self._stalled_with = 0
        """Octets that the client had not taken when that was last noted, the transport's and those that wait for its
        windows."""
        self._buffered = 0
        """The transport's share of them."""
        self._written = 0
        """Octets written since then."""
        self._linger: float | None = None
        """Since when what arrives is dropped."""
        self._dropped = 0

    @property
    def served(self) -> int:
        """Calls answered."""
        return self._answered + self.wire.quick_answers

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; or close, if there are too many connections, or if TLS was not agreed upon for HTTP/2."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD, low=WRITE_AHEAD // 4)
        self._write = self._transport.write
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        if self.shared.enter(self, self.address) is not None:
            self.abort()
        elif not self._is_for_http2():
            reason = "the client did not offer h2 by ALPN"
            self.wire.fail(Code.PROTOCOL_ERROR, reason)
            self._on_failed(ConnectionFailed(Code.PROTOCOL_ERROR, reason))
        elif self.shared.draining:
            self.retire()

    def _is_for_http2(self) -> bool:
        """Tell whether HTTP/2 may be spoken: over TLS only if both sides said so by ALPN (RFC 9113 §3.2).

        Where nothing fits, a server should break the handshake off by an alert (RFC 7301 §3.2), but Python's ssl goes
        on without a protocol.
        """
        tls: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        return tls is None or tls.selected_alpn_protocol() in GRPC_PROTOCOLS

    def connection_lost(self, exc: Exception | None) -> None:
        """End: whatever was under way for this client is cancelled."""
        self._abandon_all()
        self.shared.leave(self)

    def data_received(self, data: bytes) -> None:
        """Take what came, answer what can be answered."""
        if self._linger is not None:
            self._dropped += len(data)
            if self._dropped > DROPPED:
                self.abort()
            return
        events = self.wire.receive(data, self.shared.loop.time())
        if events:
            self._reading = True
            for event in events:
                self._take(event)
            self._reading = False
        if self._stalled_with:
            self._relax()
        self._write_out()
        if len(data) >= LARGE_READ and not self._transport.is_closing():
            self._transport.pause_reading()
            self.shared.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Read again, after a large read, unless there is another reason not to."""
        if not self.wire.paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Close once what is under way is answered: a client that has said all may still read."""
        if self._linger is not None or not self._calls:
            return False
        self.wire.finish("the client ended its side")
        for call in list(self._calls.values()):
            call.end_unless_whole()
        self.flush()
        return True

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self.congested = self.wire.congested = True
        self._transport.pause_reading()
        now = self.shared.loop.time()
        self.wire.pause(now)
        self._stalled(now)

    def resume_writing(self) -> None:
        """Go on."""
        self._transport.resume_reading()
        pause = self.wire.resume(self.shared.loop.time())
        for call in self._calls.values():
            call.since += pause
        for refused in self._refused.values():
            refused.since += pause
        if self._pinged_at is not None:
            self._pinged_at += pause
        self._relax()

    # --- what comes ---

    def _take(self, event: Event) -> None:
        kind = type(event)
        if kind is RequestReceived:
            self._on_request(event)  # type: ignore[arg-type]
        elif kind is DataReceived:
            self._on_data(event)  # type: ignore[arg-type]
        elif kind is TrailersReceived:
            self._on_end(event.stream)  # type: ignore[union-attr]
        elif kind is StreamReset:
            self._refused.pop(event.stream, None)  # type: ignore[union-attr]
            call = self._calls.pop(event.stream, None)  # type: ignore[union-attr]
            if call is not None:
                call.abandon()
            self._rest()
        elif kind is Drained:
            self._relax()
            call = self._calls.get(event.stream)  # type: ignore[union-attr]
            if call is not None:
                call.may_write()
        elif kind is RequestTooLarge:
            self._refuse(event)  # type: ignore[arg-type]
        elif kind is PeerGoesAway:
            self.wire.finish("the client goes away")
        elif kind is ConnectionFailed:
            self._on_failed(event)  # type: ignore[arg-type]

    def _on_request(self, event: RequestReceived) -> None:
        route = event.request.route
        stream = event.stream
        if isinstance(route, HttpRefusal):
            if event.ended:
                route.answer(self.wire, stream)
            else:
                self._refused[stream] = Refused(route, self.shared.loop.time())
            return
        timeout = None
        if isinstance(route, Route):
            if event.varying is None or (timeout := timeout_seconds(event.varying)) is not None:
                call = self._calls[stream] = GrpcCall(self, stream, route, timeout, event.request.unshared)
                call.begin(ended=event.ended)
                return
            route = self.shared.bad_timeout
        assert isinstance(route, bytes)
        self.wire.end_answer(stream, route)

    def _on_data(self, event: DataReceived) -> None:
        call = self._calls.get(event.stream)
        if call is not None:
            call.feed(event.data, ended=event.ended)
            return
        self.wire.credit(event.stream, len(event.data))
        refused = self._refused.get(event.stream)
        if refused is not None:
            refused.octets += len(event.data)
            if event.ended or refused.octets > REFUSED_OCTETS:
                self._on_end(event.stream)

    def _on_end(self, stream: int) -> None:
        call = self._calls.get(stream)
        if call is not None:
            call.feed(b"", ended=True)
        refused = self._refused.pop(stream, None)
        if refused is not None:
            refused.refusal.answer(self.wire, stream)

    def _refuse(self, event: RequestTooLarge) -> None:
        self.wire.end_answer(event.stream, self.shared.refusal(CallError(Status.RESOURCE_EXHAUSTED, event.reason)))

    def _on_failed(self, event: ConnectionFailed) -> None:
        self.shared.failed(event.code, self.address, event.reason)
        self._abandon_all()
        self._last_word()

    # --- called by calls ---

    def hold(self, change: int) -> None:
        """Account for what calls hold of their requests; raises CallError if those of this connection hold too much."""
        shared = self.shared
        shared.held += change
        self._held += change
        if change > 0:
            if self._held > shared.held_share:
                raise CallError(Status.RESOURCE_EXHAUSTED, "this connection holds too much of unfinished requests")
            if shared.held > shared.limits.max_held:
                shared.make_room()

    @property
    def held(self) -> int:
        """Octets of requests that can't be answered yet."""
        return self._held

    def let_go(self) -> None:
        """End the calls that hold something of their requests."""
        for call in list(self._calls.values()):
            call.let_go()

    def park(self, call: GrpcCall) -> None:
        """Keep a call until the client has taken enough of what was written, or the call ends."""
        self._parked[call.stream] = call

    def unpark(self, call: GrpcCall) -> None:
        """Keep a call no longer, if it was kept."""
        self._parked.pop(call.stream, None)

    def ended(self, call: GrpcCall) -> None:
        """Take a call out that has ended, and write how."""
        self._calls.pop(call.stream, None)
        self._answered += 1
        self._rest()
        self.flush()

    def flush(self) -> None:
        """Write what there is, unless `data_received` is about to."""
        if not self._reading:
            self._write_out()

    def _write_out(self) -> None:
        wire = self.wire
        data = wire.take_output()
        if data:
            self._write(data)
            if self._stalled_with:
                self._written += len(data)
        if wire.undisturbed:
            return
        if wire.queued:
            self._measure()
        if wire.finished and not wire.failed:
            self._close_when_finished()

    # --- what the client does not take ---

    def _measure(self) -> None:
        """Look at what waits for the client's windows."""
        if self.wire.queued > self.shared.limits.max_queued:
            self.congested = self.wire.congested = True
        self._stalled(self.shared.loop.time())

    def _stalled(self, now: float) -> None:
        """Note how much the client leaves unread, and whether it has taken any of it since that was noted."""
        buffered, queued = self._transport.get_write_buffer_size(), self.wire.queued
        unread = buffered + queued
        # What waits for windows is not taken by a client that takes our answers to its pings alone.
        took = unread < self._stalled_with if queued else buffered < self._buffered + self._written
        if took or not self._stalled_with:
            self._stalled_at = now
        self._buffered, self._written, self._stalled_with = buffered, 0, unread
        self.shared.stalling(self, unread)

    def _relax(self) -> None:
        """Go on with what was parked, as far as the client takes it now."""
        if self._transport.get_write_buffer_size() > WRITE_AHEAD or self.wire.queued > self.shared.limits.max_queued:
            return
        self.congested = self.wire.congested = False
        for call in list(self._calls.values()):
            call.may_write()
        while self._parked and not self.congested:
            self._parked.pop(next(iter(self._parked))).start()
            self.flush()
        if not self.wire.queued and not self._transport.get_write_buffer_size():
            self._stalled_with = 0
            self.shared.flowing(self)

    # --- the end ---

    def _rest(self) -> None:
        if not self._calls:
            self._idle_since = self.shared.loop.time()

    def _abandon_all(self) -> None:
        for call in self._calls.values():
            call.abandon()
        self._calls.clear()
        self._refused.clear()

    def _last_word(self) -> None:
        """Write the reason, say that nothing more comes, and read on for a while (rule 3)."""
        data = self.wire.take_output()
        if data:
            self._write(data)
        if self._linger is None and not self._transport.is_closing():
            self._linger = self.shared.loop.time()
            if self._transport.can_write_eof():
                self._transport.write_eof()
                self._transport.resume_reading()
            else:
                self._transport.close()  # over TLS this says goodbye, and reads on until the client does

    def _close_when_finished(self) -> None:
        if not self._transport.is_closing() and self._linger is None:
            self._last_word()

    def abort(self) -> None:
        """Close at once, whatever is unwritten; the caller counts why."""
        self._transport.abort()

    def retire(self) -> None:
        """Announce the end; calls that are on their way are still taken."""
        if not self.retiring:
            self.retiring = True
            self._finish_at = self.shared.loop.time() + LAST_CALLS
            self.wire.drain("this node is stopping" if self.shared.draining else "the connection is old")
            self.flush()

    def close_at_rest(self, before: float) -> None:
        """Take no more calls, end streams that only wait for their client, and close when no call is left.

        A stream of requests that has one answer is an upload: it goes on.

        A last word younger than `before` (seconds of the event loop) is left to be read.
        """
        if self._linger is not None:
            if self._linger < before:
                self._transport.close()
            return
        self.resting = True
        self.wire.finish("the connection is closing")
        for call in list(self._calls.values()):
            call.rest_no_more()
        self.flush()

    def look_after(self, now: float) -> None:
        """Do what is due; called about once a second. `now`: seconds of the event loop."""
        limits, counters = self.shared.limits, self.shared.counters
        if self._linger is not None:
            if now - self._linger > limits.linger_timeout:
                self.abort()
            return
        for event in self.wire.tick(now):
            self._take(event)
        if self._linger is not None:
            return
        if not self.wire.paused:
            for call in list(self._calls.values()):
                call.look_after(now)
            for stream, refused in list(self._refused.items()):
                if now - refused.since > limits.request_timeout:
                    self._on_end(stream)
        if self._transport.get_write_buffer_size() or self.wire.queued:
            self._stalled(now)
        elif self._stalled_with:
            self._relax()
        if self._stalled_with and now - self._stalled_at > limits.write_timeout:
            counters.cut_unread += 1
            self.abort()
            return
        quiet = now - self.wire.heard_at
        if self._pinged_at is None or self.wire.heard_at >= self._pinged_at:
            self._pinged_at = None
            if quiet > limits.keepalive and not self.congested:
                self._pinged_at = now
                self.wire.ping(KEEPALIVE_PING)
        elif now - self._pinged_at > limits.keepalive_timeout and not self.wire.paused:
            counters.cut_silent += 1
            self.abort()
            return
        if self.wire.quick_answers != self._quick_answers:  # to calls that were never among `_calls`
            self._quick_answers = self.wire.quick_answers
            self._idle_since = now
        if not self._calls and now - self._idle_since > limits.idle_timeout and not self.retiring:
            counters.cut_idle += 1
            self.retire()
        if now > self._expires and not self.retiring:
            counters.cut_age += 1
            self.retire()
        if now > self._finish_at:
            self.close_at_rest(now)
            if now > self._finish_at + limits.max_age_grace and not self._transport.is_closing():
                self.wire.fail(Code.NO_ERROR, "the connection's time is over")
                self._abandon_all()
                self._last_word()
        self.flush()
