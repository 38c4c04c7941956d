"""One HTTP connection: bytes in, answers out, in order.

Rules:
1. A request that repeats bytes seen before, or asks for a single id that is at hand, is answered within
   `data_received`: nothing is awaited, logged or formatted but the number (rule 4 of the one idea).
2. One request is answered at a time. While an answer is awaited, or a client does not take its answers, what arrives is
   kept, and beyond `KEPT` not read. So order needs no book-keeping, and a client holds a bounded amount of memory.
3. `prepared` is the shared cache only while the connection is at rest between two requests and shall go on; else it is
   empty, and everything takes the long way. That is the one check of the hot path.
4. A client that is gone cancels what it waited for; the service's refills go on without it.
5. Whoever is refused gets to read why: the connection is shut for writing, and what still arrives is dropped for a
   while.
"""

import asyncio
import random
import sys
from typing import cast

from goloves.errors import GolovesError, InvalidCount
from goloves.logger import get_logger
from goloves.server.http.answers import CLOSE, KEEP_ALIVE, NO_STORE, Answer, error_answer, problem
from goloves.server.http.draws import Draw
from goloves.server.http.shared import NOTHING, REFUSED_AT_ONCE, SEEN, HttpShared
from goloves.server.plane import Over
from goloves.wire.http1 import Refusal, Request, Requests

BATCH = 65_536
"""Bytes of answers that are gathered before they are written, and the other connections get their turn: 300 pipelined
requests, about a millisecond."""

KEPT = 65_536
"""Bytes that are kept from a client that sends on while it is to be answered; then it is not read from."""

TLS_AHEAD = 16_384
"""Octets that may gather over TLS: one record. The handshake's last words still do when a connection begins; with less
room than they take it would begin with a pause, and with nothing to write that would end it."""

CONTINUE_ANSWER = b"HTTP/1.1 100 Continue\r\n\r\n"

CODES = {
    400: "malformed",
    413: "body_too_large",
    414: "target_too_long",
    417: "expectation_failed",
    431: "head_too_large",
    501: "not_supported",
    505: "version_not_supported",
}
"""The code of each status with which a request is refused before anybody knows what it asks for; `HttpCounters` counts
each as `refused_` and this code."""

OVER = {
    Over.PER_ADDRESS: (429, "from your address now"),
    Over.IN_ALL: (503, "now"),
}
"""With what a connection is refused that is over a limit, and what it is told."""

log = get_logger("goloves.http")


class HttpConnection(asyncio.Protocol):
    """See the module's rules."""

    __slots__ = (
        "_amid",
        "_eof",
        "_expires",
        "_linger",
        "_paused",
        "_requests",
        "_retiring",
        "_shared",
        "_since",
        "_swept",
        "_transport",
        "_waiting",
        "prepared",
        "served",
    )

    def __init__(self, shared: HttpShared) -> None:
        # Of all connections
        self._shared = shared

        # Of this one
        self.prepared = NOTHING
        """See rule 3."""
        self.served = 0
        """Requests answered."""
        self._requests: Requests | None = None
        """What reads requests that take the long way; none while there is nothing for it to remember."""
        self._expires = 0.0
        self._swept = 0
        """`served` when it was last looked after."""
        self._since = 0.0
        """When what it does now began: rest, a request's arrival, a stall, the last words when they were taken."""
        self._amid = False
        """Whether a request has begun to arrive."""
        self._paused = False
        """Whether the client does not take its answers."""
        self._retiring = False
        """Whether the next answer shall be the last."""
        self._linger = False
        """Whether the last word is said, and what arrives is dropped."""
        self._eof = False
        """Whether the client will send no more."""

        # Of the request that is being answered
        self._waiting: asyncio.Task[None] | asyncio.Handle | None = None
        """What it waits for: ids, or its turn after the others'."""

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; or refuse, if there are too many connections."""
        self._transport = cast(asyncio.Transport, transport)
        # Nothing may gather in the transport: it writes at once, and says so when the kernel takes no more.
        self._transport.set_write_buffer_limits(high=0 if self._transport.can_write_eof() else TLS_AHEAD)
        peer = transport.get_extra_info("peername")
        address = sys.intern(str(peer[0])) if isinstance(peer, tuple) else ""
        shared = self._shared
        self._since = asyncio.get_running_loop().time()
        over = shared.enter(self, address)
        self._expires = random.choice(shared.ends)
        if over is not None:
            if len(shared.refused) > REFUSED_AT_ONCE:
                shared.counters.cut_untold += 1
                self.abort()
                return
            status, what = OVER[over]
            refusal = problem(status, "too_many_connections", f"there are too many connections {what}", retry_after=1.0)
            self._transport.write(refusal.encode(shared.date, CLOSE))
            self._close()
        elif shared.draining:
            self.retire()
        else:
            self.prepared = shared.prepared

    def connection_lost(self, exc: Exception | None) -> None:
        """End: whatever was awaited for this client is cancelled."""
        self.prepared = NOTHING
        if self._waiting is not None:
            self._waiting.cancel()
        self._shared.leave(self)

    def data_received(self, data: bytes) -> None:
        """Answer what can be answered."""
        hit = self.prepared.get(data)
        if hit is not None:
            take, heads, single = hit
            number = take()
            if number is not None:
                self.served += 1
                body = single % number
                self._transport.write(heads[len(body)] + body)
                return
        self._receive(data)

    def eof_received(self) -> bool:
        """Answer what was asked before the client fell silent, then close (RFC 9112 §9.6)."""
        self._eof = True
        if self._waiting is None and not self._paused:
            return False
        return not self._linger

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self._paused = True
        self.prepared = NOTHING
        self._since = asyncio.get_running_loop().time()
        if not self._linger:  # then what arrives is dropped, and has to be: the end would be a reset else
            self._transport.pause_reading()
        self._shared.stalling(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        self._shared.flowing(self)
        if self._linger:
            # The client has its answer only now: what it still sends is dropped for as long as any other's.
            self._since = asyncio.get_running_loop().time()
        elif self._waiting is None and not self._transport.is_closing():
            self._answer_on()

    # --- the way of a request ---

    def _receive(self, data: bytes) -> None:
        shared = self._shared
        if self.prepared is not NOTHING:
            # At rest: most often this is one request, all of it, and for an id that is at hand.
            plain = shared.plain(data)
            hit = shared.targets.get(plain.group(1, 3)) if plain is not None and len(data) <= shared.short else None
            if hit is not None:
                take, heads, single = hit
                number = take()
                if number is not None:
                    self.served += 1
                    body = single % number
                    self._transport.write(heads[len(body)] + body)
                    mark = hash(data)
                    if shared.seen[mark & SEEN - 1] == mark:
                        shared.admit(data, hit)
                    else:
                        shared.seen[mark & SEEN - 1] = mark
                    return
            self._reader().receive(data)
            self._answer_on()
        elif not self._linger:
            requests = self._reader()
            requests.receive(data)
            if self._waiting is None and not self._paused:
                self._answer_on()
            elif requests.waiting > KEPT:
                self._transport.pause_reading()

    def _reader(self) -> Requests:
        requests = self._requests
        if requests is None:
            requests = self._requests = Requests(self._shared.wire_limits)
        return requests

    def _answer_on(self) -> None:
        """Answer what has arrived, as far as that goes without waiting."""
        self.prepared = NOTHING
        requests = self._reader()
        gathered: list[bytes] = []
        size = 0
        while (event := requests.next()) is not None:
            if type(event) is Request:
                answer = self._answer(event)
                if answer is None:
                    self._put(gathered)
                    return
                gathered.append(answer)
                if not self._goes_on(event):
                    self._put(gathered)
                    self._close()
                    return
                size += len(answer)
                if size >= BATCH:
                    self._put(gathered)
                    if not self._paused:
                        self._transport.pause_reading()
                        self._waiting = asyncio.get_running_loop().call_soon(self._take_turn)
                    return
            elif type(event) is Refusal:
                code = CODES[event.status]
                self._shared.counters.count_refused(code)
                answer = problem(event.status, code, event.detail).encode(self._shared.date, CLOSE)
                gathered.append(answer)
                self._put(gathered)
                self._close()
                return
            else:
                gathered.append(CONTINUE_ANSWER)
        self._put(gathered)
        self._rest()

    def _take_turn(self) -> None:
        self._waiting = None
        if not self._paused:
            self._answer_on()

    def _answer(self, request: Request) -> bytes | None:
        """Give the answer's bytes; None if they have to be waited for, which a task then does."""
        shared = self._shared
        try:
            found = shared.routes.find(request.line, request.accept)
        except GolovesError as error:
            if isinstance(error, InvalidCount):
                shared.counters.refused_count += 1
            found = error_answer(error)
        except Exception:
            found = self._failed(request)
        if isinstance(found, Answer):
            self.served += 1
            return self._encode(request, found)
        hot = found.prepared()
        number = hot[0]() if hot is not None else None
        if hot is None or number is None:
            self._waiting = asyncio.get_running_loop().create_task(self._draw(request, found))
            return None
        self.served += 1
        _, heads, single = hot
        body = single % number
        if not self._goes_on(request) or not request.minor or request.line.startswith(b"HEAD "):
            return self._encode(request, Answer(200, heads.content_type, body, NO_STORE))
        shared.remember(request, hot)
        return heads[len(body)] + body

    async def _draw(self, request: Request, draw: Draw) -> None:
        """Wait for ids, then answer and go on."""
        try:
            answer = await draw.answer()
        except GolovesError as error:
            answer = error_answer(error)
        except Exception:
            answer = self._failed(request)
        self._waiting = None
        self.served += 1
        self._put([self._encode(request, answer)])
        if not self._goes_on(request):
            self._close()
        elif not self._paused:
            self._answer_on()

    def _failed(self, request: Request) -> Answer:
        self._shared.counters.failed += 1
        log.exception("a request failed: this is a fault in Goloves", request=ascii(request.line))
        return problem(500, "internal", "this node met a fault of its own; its log says more")

    def _goes_on(self, request: Request) -> bool:
        return request.keep_alive and not self._retiring

    def _encode(self, request: Request, answer: Answer) -> bytes:
        connection = CLOSE if not self._goes_on(request) else b"" if request.minor else KEEP_ALIVE
        return answer.encode(self._shared.date, connection, headless=request.line.startswith(b"HEAD "))

    def _put(self, answers: list[bytes]) -> None:
        if answers:
            self._transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
            if self._paused and not self._transport.is_closing():
                self._shared.stalling(self, self._transport.get_write_buffer_size())

    # --- rest, and the end ---

    def _rest(self) -> None:
        """Everything that has arrived is answered: wait for more."""
        if self._paused:
            return
        if self._eof:
            self._transport.close()
            return
        requests = self._reader()
        amid = requests.amid
        # Half an empty line is no request: whoever sends such lines now and then rests all the same.
        begun = amid and requests.begun
        if begun and not self._amid:
            self._since = asyncio.get_running_loop().time()
        self._amid = begun
        if not amid and not self._retiring:
            self.prepared = self._shared.prepared
        if not self._transport.is_reading():
            self._transport.resume_reading()

    def _close(self) -> None:
        """End after what is written, in stages, so that the client gets the answer and no reset (RFC 9112 §9.6)."""
        self.prepared = NOTHING
        if self._retiring and not self._shared.draining:
            if self.served >= self._shared.limits.max_requests:
                self._shared.counters.cut_requests += 1
            else:
                self._shared.counters.cut_age += 1
        if self._transport.is_closing():
            return
        if self._eof or not self._transport.can_write_eof():
            # Over TLS nobody can fall silent and listen on; the transport says goodbye after the answer.
            self._transport.close()
            return
        self._linger = True
        if not self._paused:
            self._since = asyncio.get_running_loop().time()
        self._transport.write_eof()
        if not self._transport.is_reading():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once, whatever is unwritten; the caller counts why."""
        self.prepared = NOTHING
        self._transport.abort()

    def retire(self) -> None:
        """Make the next answer the last."""
        self._retiring = True
        self.prepared = NOTHING

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way."""
        return not (self._amid or self._paused or self._linger or self._waiting is not None)

    def close_at_rest(self, before: float) -> None:
        """Close if no request is under way, nor the last word younger than `before` (seconds of the event loop).

        One that came after that and has asked nothing yet is about to.
        """
        old = self._since < before
        if (self.at_rest and (old or self.served)) or (self._linger and not self._paused and old):
            self._transport.close()

    def look_after(self, now: float) -> None:
        """Close what takes too long; called about once a second. `now`: seconds of the event loop."""
        limits = self._shared.limits
        counters = self._shared.counters
        if self.served != self._swept:
            self._swept = self.served
            if not self._paused and not self._linger:
                self._since = now
        elif self._requests is not None and not self._requests.amid and self.at_rest:
            # Connections rest for most of their time, and there are many.
            self._requests = None
        waited = now - self._since
        if self._paused:
            # Even if the last word is said: it is on its way for as long as the client has to take an answer.
            if waited > limits.write_timeout:
                counters.cut_unread += 1
                self.abort()
        elif self._linger:
            if waited > limits.linger_timeout:
                counters.cut_linger += 1
                self.abort()
        elif self._transport.is_closing():
            pass  # it says goodbye over TLS, for which the listener sets the time
        elif self._waiting is not None:
            pass
        elif self._amid:
            if waited > limits.request_timeout:
                counters.request_timeouts += 1
                detail = f"the request took longer than {limits.request_timeout:g} s to arrive"
                self._transport.write(problem(408, "request_timeout", detail).encode(self._shared.date, CLOSE))
                self._close()
        elif waited > limits.idle_timeout:
            counters.cut_idle += 1
            self._transport.close()
        if now > self._expires or self.served >= limits.max_requests:
            self.retire()
