"""One gRPC call: cuts its data into messages, runs its handler, sends what that gives, and ends it, once.

Rules:
1. A call ends once, by `finish` (status and trailers), or because its stream or connection is gone (`abandon`); then
   its task is cancelled, its timer too, and what it held is given back.
2. A call of one request gets to its handler when that has come whole and ended, and not before the client has taken
   enough of what was written to it: until then it is parked.
3. What a call holds is bounded: by the limit of a message while one is on its way, and by the stream's window for those
   that its handler has not taken.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from goloves.errors import GolovesError
from goloves.logger import get_logger
from goloves.server.grpc.methods import Method
from goloves.server.grpc.statuses import call_error
from goloves.wire.grpc import (
    HEAD,
    OK_TRAILERS,
    PREFIX,
    CallError,
    MessageReader,
    Metadata,
    Status,
    frame_message,
    metadata_fields,
    read_metadata,
)
from goloves.wire.hpack import Field, encode
from goloves.wire.http2.requests import Quick

if TYPE_CHECKING:
    from goloves.server.grpc.connection import GrpcConnection

LONGEST_TIMER = 30 * 86_400.0
"""Seconds: deadlines beyond a month are none; a connection lasts an hour."""

SENDS_PER_TURN = 32
"""Answers that a stream sends before the others get their turn, if the client takes them as fast: about a
millisecond."""

HEAD_BLOCK = encode(HEAD)
OK_BLOCK = encode(OK_TRAILERS)

log = get_logger("goloves.grpc")


class Route:
    """Where a request leads, as far as its head alone says; shared by all calls with an equal head."""

    __slots__ = ("compress", "encoding", "fields", "method", "name")

    def __init__(
        self, name: str, method: Method, encoding: bytes, fields: tuple[Field, ...], *, compress: bool
    ) -> None:
        self.name = name
        self.method = method
        self.encoding = encoding
        self.fields = fields
        self.compress = compress
        """Whether the client compresses what it sends and takes what is compressed."""


class GrpcCall:
    """See the module's rules. To handlers it is a `methods.Call`."""

    __slots__ = (
        "_answered",
        "_connection",
        "_ended",
        "_expires",
        "_head",
        "_head_octets",
        "_held",
        "_message",
        "_reader",
        "_route",
        "_sends",
        "_task",
        "_timer",
        "_trailers",
        "_uncredited",
        "_waiter",
        "_writable",
        "done",
        "since",
        "stream",
    )

    def __init__(
        self, connection: "GrpcConnection", stream: int, route: Route, timeout: float | None, head_octets: int
    ) -> None:
        """`head_octets`: what the call holds of its head alone, and no other call with it."""
        self.stream = stream
        self.done = False
        self._connection = connection
        self._route = route
        shared = connection.shared
        self.since = now = shared.loop.time()
        """When what is awaited from the client began to be."""
        self._expires: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout is not None:
            self._expires = now + timeout
            if timeout < LONGEST_TIMER:
                self._timer = shared.loop.call_later(timeout, self._expire)

        # What came
        self._reader = MessageReader(shared.limits.max_message, route.encoding)
        self._message: bytes | None = None
        self._ended = False
        self._head_octets = head_octets
        self._held = 0
        self._uncredited = 0
        self._waiter: asyncio.Future[None] | None = None

        # What leaves
        self._head: Metadata | None = None
        self._answered = False
        """Whether the head of the answer has been sent."""
        self._trailers: Metadata = []
        self._sends = 0
        self._writable: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    # --- what handlers ask ---

    @property
    def method(self) -> str:
        """See `methods.Call`."""
        return self._route.name

    @property
    def metadata(self) -> Metadata:
        """See `methods.Call`."""
        return read_metadata(self._route.fields)

    @property
    def peer(self) -> str:
        """See `methods.Call`."""
        return self._connection.address

    def time_left(self) -> float | None:
        """See `methods.Call`."""
        if self._expires is None:
            return None
        return max(0.0, self._expires - self._connection.shared.loop.time())

    def send_metadata(self, metadata: Metadata) -> None:
        """See `methods.Call`."""
        if self._answered or self._head is not None:
            raise RuntimeError("metadata goes ahead of the first answer, once")
        metadata_fields(metadata)
        self._head = metadata
        if not self.done:
            self._send_head()
            self._connection.flush()

    def set_trailers(self, metadata: Metadata) -> None:
        """See `methods.Call`."""
        metadata_fields(metadata)
        self._trailers = metadata

    # --- what comes ---

    def begin(self, *, ended: bool) -> None:
        """Start: the head has come."""
        if self._head_octets:
            try:
                self._hold(0)
            except CallError as error:
                self.finish(error)
                return
        if self._route.method.many_requests:
            self._ended = ended
            if ended:
                self._reader.close()
            self._task = self._connection.shared.loop.create_task(self._run(_requests(self)))
        elif ended:
            self.finish(CallError(Status.UNIMPLEMENTED, "the request ended without a message; this method takes one"))

    def feed(self, data: bytes, *, ended: bool) -> None:
        """Take data, and the request's end."""
        reader = self._reader
        if data:
            if not reader.waiting:
                self.since = self._connection.shared.loop.time()
            reader.feed(data)
            self._uncredited += len(data)
        if ended:
            self._ended = True
            reader.close()
        try:
            if self._route.method.many_requests:
                self._feed_stream()
            else:
                self._feed_single()
            if not self.done:
                self._hold(reader.waiting + len(self._message or b""))
        except CallError as error:
            self.finish(error)

    def _feed_single(self) -> None:
        self._credit_all()
        if self._message is None:
            self._message = self._reader.next()
        if self._message is not None and self._reader.waiting:
            raise CallError(Status.UNIMPLEMENTED, "the request has more than one message; this method takes one")
        if self._ended:
            if self._message is None:
                self._reader.next()  # says so if the message is cut
                raise CallError(Status.UNIMPLEMENTED, "the request ended without a message; this method takes one")
            if self._connection.congested:
                self._connection.park(self)
            else:
                self.start()

    def start(self) -> None:
        """Give the only message to the method."""
        if self.done or self._message is None:
            return
        message, self._message = self._message, None
        self._hold(0)
        quick = self._route.method.quick
        if quick is not None:
            answer = quick(PREFIX.pack(0, len(message)) + message)
            if answer is not None:
                self._send(answer)
                self.finish(None)
                return
        try:
            request = self._route.method.read(message)
        except CallError as error:
            self.finish(error)
            return
        self._task = self._connection.shared.loop.create_task(self._run(request))

    def _feed_stream(self) -> None:
        quick = self._route.method.quick
        if quick is not None and self._waiter is not None:
            if self._answer_quickly(quick) and not self._ended:
                self._leave_to_wire(quick)
                return
            # The handler has something to do now: what comes before it wakes must not be answered ahead of that.
            self._connection.wire.answer_messages(self.stream, None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _leave_to_wire(self, quick: Quick) -> None:
        """Let what comes next be answered without this call, unless something of what came is left here."""
        waiter = self._waiter
        alone = waiter is not None and not waiter.done() and self._answered and not self._reader.waiting
        self._connection.wire.answer_messages(self.stream, quick if alone else None)

    def _answer_quickly(self, quick: Quick) -> bool:
        """Answer messages of a stream while its handler waits for the next one; False if there may be one for it.

        That is the first one that can't be answered so, or one whose answer would have to wait.
        """
        reader, connection = self._reader, self._connection
        while self._message is None and not connection.congested and not connection.wire.is_queued(self.stream):
            message = reader.next()
            if message is None:
                self._credit_all()
                return True
            answer = quick(PREFIX.pack(0, len(message)) + message)
            if answer is None:
                self._message = message
                return False
            self.since = connection.shared.loop.time()
            self._send(answer)
        return False

    def _hold(self, held: int) -> None:
        """Account for what is held of the request's messages, and of its head.

        Too much of that ends this call, or those that hold the most.
        """
        held += self._head_octets
        change = held - self._held
        if change:
            self._held = held
            self._connection.hold(change)

    def _credit_all(self) -> None:
        if self._uncredited:
            self._connection.wire.credit(self.stream, self._uncredited)
            self._uncredited = 0

    async def next_request(self) -> bytes | None:
        """Wait for the next message; None at the end."""
        while True:
            message, self._message = self._message, None
            if message is None:
                message = self._reader.next()
            if message is not None:
                self.since = self._connection.shared.loop.time()
                used = max(0, self._uncredited - self._reader.waiting)
                if used:
                    self._uncredited -= used
                    self._connection.wire.credit(self.stream, used)
                    self._connection.flush()
                self._hold(self._reader.waiting)
                return message
            if self._ended:
                return None
            if self._connection.resting and self._route.method.unary is None:
                raise CallError(Status.UNAVAILABLE, "this node is stopping, or the connection is too old; connect anew")
            if self._uncredited:
                self._credit_all()
                self._connection.flush()
            self._waiter = self._connection.shared.loop.create_future()
            quick = self._route.method.quick
            if quick is not None:
                self._leave_to_wire(quick)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if quick is not None:
                    self._connection.wire.answer_messages(self.stream, None)

    def look_after(self, now: float) -> None:
        """End the call if what it waits for from the client takes too long."""
        limit = self._connection.shared.limits.request_timeout
        waits = self._reader.incomplete or (not self._route.method.many_requests and not self._ended)
        if waits and now - self.since > limit:
            self.finish(CallError(Status.DEADLINE_EXCEEDED, f"the request did not come whole within {limit:g} s"))

    def rest_no_more(self) -> None:
        """End the call if its handler only waits for a next request: the connection is to end.

        Calls of one answer are spared: half of an upload is worth nothing.
        """
        if self._waiter is not None and not self._waiter.done() and self._route.method.unary is None:
            self._waiter.set_result(None)

    def end_unless_whole(self) -> None:
        """End the call unless its request has come to its end: no more of it comes."""
        if not self._ended:
            self.finish(CallError(Status.CANCELLED, "the connection ended inside of the request"))

    def let_go(self) -> None:
        """End the call if it holds something of its request: there is too much of that."""
        if self._held:
            self.finish(
                CallError(Status.RESOURCE_EXHAUSTED, "this node holds too much of unfinished requests; try again")
            )

    # --- what leaves ---

    async def _run(self, request: Any) -> None:
        method = self._route.method
        try:
            # One read may start many calls before any has answered: each looks again whether its answer is taken.
            while self._connection.congested and not method.many_requests:
                await self._until_writable()
            if method.unary is not None:
                answer = await method.unary(request, self)
                # And many may have waited for the same thing: what they got is small until it is written.
                while self._connection.congested:
                    await self._until_writable()
                self._send(frame_message(method.write(answer), compress=self._route.compress))
            elif method.streaming is not None:
                await self._stream(method.streaming(request, self))
            self.finish(None)
        except CallError as error:
            self.finish(error)
        except GolovesError as error:
            self.finish(call_error(error))
        except asyncio.CancelledError:
            # Somebody cancels this task when its call is over, or the loop is. Else something was cancelled that the
            # handler waited for, and not by the client: in gRPC's list of status codes CANCELLED is the caller's doing
            # as a rule, and INTERNAL what must not happen.
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self._fail()
            raise
        except Exception:
            self._fail()

    async def _stream(self, answers: AsyncIterator[Any]) -> None:
        method, connection = self._route.method, self._connection
        async with aclosing(answers):  # type: ignore[type-var]
            async for answer in answers:
                while connection.congested:
                    await self._until_writable()
                self._send(frame_message(method.write(answer), compress=self._route.compress))
                connection.flush()
                while connection.congested or connection.wire.is_queued(self.stream):
                    await self._until_writable()
                self._sends += 1
                if self._sends % SENDS_PER_TURN == 0:
                    await asyncio.sleep(0)

    async def _until_writable(self) -> None:
        self._writable = self._connection.shared.loop.create_future()
        try:
            await self._writable
        finally:
            self._writable = None

    def may_write(self) -> None:
        """Go on sending: what waited has left."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _send(self, data: bytes) -> None:
        if not self._answered:
            self._send_head()
        self._connection.wire.send_data(self.stream, data)

    def _send_head(self) -> None:
        self._answered = True
        block = HEAD_BLOCK
        if self._head is not None or self._route.compress:
            block = encode(self._head_fields())
        self._connection.wire.start_answer(self.stream, block)

    def _head_fields(self) -> list[Field]:
        fields = [*HEAD, *metadata_fields(self._head or [])]
        if self._route.compress:
            fields.append((b"grpc-encoding", b"gzip"))
        return fields

    # --- the end ---

    def finish(self, error: CallError | None) -> None:
        """End the call: with OK, or with an error's status."""
        if self.done:
            return
        fields: list[Field] = list(OK_TRAILERS) if error is None else error.fields()
        if error is not None:
            fields += _checked(error.trailers)
        fields += metadata_fields(self._trailers)
        if not self._answered:
            fields = [*self._head_fields(), *fields]
        self._connection.wire.end_answer(self.stream, OK_BLOCK if fields == list(OK_TRAILERS) else encode(fields))
        self.abandon()
        self._connection.ended(self)

    def abandon(self) -> None:
        """Let go of everything: the call is over."""
        self.done = True
        self._message = None
        self._connection.unpark(self)
        self._head_octets = 0
        self._hold(0)
        if self._timer is not None:
            self._timer.cancel()
        task = self._task
        if task is not None and task is not asyncio.current_task(self._connection.shared.loop):
            task.cancel()

    def _fail(self) -> None:
        """End the call, unless it is done, by the exception that is being handled: a fault in this program."""
        if not self.done:
            self._connection.shared.counters.failed += 1
            log.exception("a call failed: this is a fault in Goloves", method=self._route.name)
            self.finish(CallError(Status.INTERNAL, "this node met a fault of its own; its log says more"))

    def _expire(self) -> None:
        self.finish(CallError(Status.DEADLINE_EXCEEDED, "the call's deadline passed"))


async def _requests(call: GrpcCall) -> AsyncIterator[Any]:
    read = call._route.method.read
    while (message := await call.next_request()) is not None:
        yield read(message)


def _checked(metadata: Metadata) -> list[Field]:
    try:
        return metadata_fields(metadata)
    except ValueError:
        log.exception("an error's trailers can't be sent: this is a fault in Goloves")
        return []
