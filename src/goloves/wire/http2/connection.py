"""The server's side of an HTTP/2 connection (RFC 9113): bytes in, events and bytes out.

    connection = Connection(reader, Limits(), now)
    for event in connection.receive(data, now): ...
    write(connection.take_output())

Rules:
1. `receive` and `tick` never raise, whatever a peer sends: a fault of a stream becomes RST_STREAM, one of the
   connection GOAWAY, with the code that the RFC names; then `failed` is set and nothing more is read.
2. After a call of any method `take_output()` must be written: answers, acknowledgements and resets wait there.
3. Nothing that a peer can grow is without a limit; see `limits.py`.
4. A call that arrives whole and can be answered at once is, without becoming a stream; see `quick.py`.
"""

import re
from collections import deque
from collections.abc import Callable
from typing import Final

from goloves.wire.hpack import DamagedBlock, Field
from goloves.wire.http2.calls import ConnectionFault
from goloves.wire.http2.events import (
    DataReceived,
    Event,
    StreamReset,
    TrailersReceived,
)
from goloves.wire.http2.frames import (
    ACK,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADER_OCTETS,
    MAX_FRAME,
    MAX_STREAM,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    Code,
    Kind,
    Setting,
    code_of,
    number,
    settings_frame,
    window_frame,
)
from goloves.wire.http2.limits import LARGE_OCTETS, Limits
from goloves.wire.http2.quick import QUICK_OCTETS, QuickCalls
from goloves.wire.http2.requests import Malformed, RequestReader, TooLarge, check_size, check_trailers
from goloves.wire.http2.streams import TRANSITIONS, Fault, Input, State, Stream

WRONG_PROTOCOL: Final = b"This port speaks gRPC over HTTP/2 and nothing else: call it with a gRPC client.\n"
NOT_HTTP2: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(WRONG_PROTOCOL), WRONG_PROTOCOL)
)

WISHED_TABLE: Final = 0
"""Octets of header table that clients are asked to use (SETTINGS_HEADER_TABLE_SIZE). Without one, a call takes 250
octets where it could take 20; but call after call brings the same ones, save the digits of its deadline, and they are
compared instead of decoded. Who uses the table of 4,096 octets that HTTP/2 begins with is understood all the same."""

HEADERS: Final = int(Kind.HEADERS)

HTTP1: Final = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE) ")
"""How a request of HTTP/1 begins."""


class _OpenBlock:
    """A header block of which more is to come."""

    __slots__ = ("continuations", "ended", "fault", "pieces", "since", "size", "stream")

    def __init__(self, stream: int, ended: bool, piece: bytes, fault: str | None, since: float) -> None:
        self.stream = stream
        self.ended = ended
        self.fault = fault
        self.pieces = [piece]
        self.size = len(piece)
        self.continuations = 0
        self.since = since


class Connection(QuickCalls):
    """See the module's rules. All times are seconds of one clock that never steps back."""

    def __init__(self, reader: RequestReader, limits: Limits, now: float) -> None:
        super().__init__(reader, limits, now)
        self.heard_at = now
        """When the peer last sent anything."""
        self.congested = False
        """Set by the layer above while what was written before has not left: no call is answered at once then."""
        self._started_at = now
        self._rest = b""
        self._rest_since = now
        self._settled = False
        self._block: _OpenBlock | None = None
        self._skipped: deque[range] = deque(maxlen=64)
        self._paused_at: float | None = None
        self._handlers: tuple[Callable[[int, int, bytes], None], ...] = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )

    # --- receiving ---

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take what the peer sent. Never raises. Afterwards `take_output()` must be written."""
        if self.failed:
            return []
        self._now = self.heard_at = now
        events: list[Event] = []
        self._events = events
        self._quick_left = 0 if self.congested else QUICK_OCTETS
        at = 0
        if self._rest:
            data = self._rest + data
        else:
            self._rest_since = now
            if self._block is None:
                at = self._answer_again(data, 0)
                if at == len(data):
                    return events
        try:
            if not self._settled:
                data = self._settle(data)
            if self._settled:
                at = self._read_frames(data, at)
        except ConnectionFault as fault:
            self.fail(fault.code, fault.reason)
            return events
        if at:
            self._rest_since = now
            data = data[at:]
        self._rest = data
        return events

    def _settle(self, data: bytes) -> bytes:
        """Look for the preface and for SETTINGS after it (RFC 9113 §3.4); give what stands after the preface."""
        if not self._greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                if HTTP1.match(data):
                    self._sender.out.append(NOT_HTTP2)
                raise ConnectionFault(Code.PROTOCOL_ERROR, "this is not HTTP/2: its preface is missing")
            if len(data) < len(PREFACE):
                return data
            self._greet()
            data = data[len(PREFACE) :]
        if len(data) >= HEADER_OCTETS:
            head, flags, _ = HEADER.unpack_from(data)
            if head & 0xFF != Kind.SETTINGS or flags & ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the preface is not followed by SETTINGS")
            self._settled = True
        return data

    def _greet(self) -> None:
        """Send our side's preface. It waits for the peer's, so that one that speaks HTTP/1.1 gets words it can read."""
        self._greeted = True
        limits = self._limits
        settings = [
            (Setting.HEADER_TABLE_SIZE, WISHED_TABLE),
            (Setting.MAX_CONCURRENT_STREAMS, limits.streams),
            (Setting.INITIAL_WINDOW_SIZE, limits.stream_window),
            (Setting.MAX_HEADER_LIST_SIZE, limits.header_list),
        ]
        self._sender.out += (settings_frame(settings), window_frame(0, limits.connection_window - DEFAULT_WINDOW))
        self._say_goodbye()

    def _read_frames(self, data: bytes, at: int) -> int:
        """Take the whole frames from `at` on; give where the first incomplete one starts."""
        end, tried = len(data), at
        unpack, handlers = HEADER.unpack_from, self._handlers
        while end - at >= HEADER_OCTETS:
            head, flags, stream = unpack(data, at)
            payload = at + HEADER_OCTETS
            after = payload + (head >> 8)
            if after > end or head >> 8 > MAX_FRAME:
                if head >> 8 > MAX_FRAME:
                    raise ConnectionFault(
                        Code.FRAME_SIZE_ERROR, f"a frame has {head >> 8} octets, more than {MAX_FRAME}"
                    )
                break
            kind = head & 0xFF
            if kind == HEADERS and flags == END_HEADERS and stream == self._next_stream and self._block is None:
                if at != tried:
                    tried = self._answer_again(data, at)
                at = tried if at != tried else self._on_call(data, at, payload, after, end)
                continue
            if self._block is not None and kind != Kind.CONTINUATION:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame came inside of a header block")
            if kind < len(handlers):
                handlers[kind](flags, stream & MAX_STREAM, data[payload:after])
            else:
                self._spend_chatter()
            if self.failed:
                break
            at = after
        return at

    def tick(self, now: float) -> list[Event]:
        """Look at what takes too long: call it about once a second. Never raises; write `take_output()`."""
        events: list[Event] = []
        self._events = events
        if self.failed or self._paused_at is not None:
            return events
        self._now = now
        limits = self._limits
        if not self._acknowledged and now - self._started_at > limits.handshake:
            what = "its settings were not acknowledged" if self._settled else "the connection's preface did not come"
            self.fail(Code.SETTINGS_TIMEOUT, f"{what} within {limits.handshake:g} s")
        elif self._rest and now - self._rest_since > limits.frame:
            self.fail(Code.ENHANCE_YOUR_CALM, f"a frame did not arrive whole within {limits.frame:g} s")
        elif self._block is not None and now - self._block.since > limits.frame:
            self.fail(Code.ENHANCE_YOUR_CALM, f"a header block did not arrive whole within {limits.frame:g} s")
        return events

    @property
    def paused(self) -> bool:
        """Whether nothing is read from the peer; see `pause`."""
        return self._paused_at is not None

    def pause(self, now: float) -> None:
        """Say that nothing is read from the peer from now on: nothing that it owes comes to be due meanwhile."""
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> float:
        """Say that the peer is read from again; give for how long it was not."""
        if self._paused_at is None:
            return 0.0
        pause = now - self._paused_at
        self._paused_at = None
        self._started_at += pause
        self._rest_since += pause
        if self._block is not None:
            self._block.since += pause
        return pause

    # --- frames that carry calls ---

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & PADDED:
            payload = _unpadded(payload)
        fault = None
        if flags & PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if number(payload[:4])[0] & MAX_STREAM == stream:
                fault = "a stream that depends on itself"  # RFC 7540 §5.3.1
            payload = payload[5:]
        ended = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._on_block(stream, ended, payload, fault)
        else:
            self._block = _OpenBlock(stream, ended, payload, fault, self._now)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        block, limits = self._block, self._limits
        if block is None or block.stream != stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION that continues nothing")
        block.continuations += 1
        block.size += len(payload)
        if block.continuations > limits.continuations:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"more than {limits.continuations} CONTINUATIONs in a row")
        if block.size > limits.header_block:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"a header block of over {limits.header_block} octets")
        block.pieces.append(payload)
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream, block.ended, b"".join(block.pieces), block.fault)

    def _on_block(self, stream: int, ended: bool, block: bytes, fault: str | None) -> None:
        state = self._state(stream)
        if state is State.IDLE:
            self._on_request(stream, ended, block, fault)
            return
        outcome = TRANSITIONS[state][Input.HEADERS]
        if state is State.CLOSED and any(stream in skipped for skipped in self._skipped):
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"stream {stream} is opened after a higher one")
        try:
            fields = self._decoder.decode(block)
        except DamagedBlock as damage:
            raise ConnectionFault(Code.COMPRESSION_ERROR, str(damage)) from None
        self._spend_chatter(len(block) / LARGE_OCTETS)
        if isinstance(outcome, Fault):
            self._judge(outcome, stream)
        elif isinstance(outcome, State):
            self._on_trailers(self._streams[stream], ended, fields, fault)
        else:
            self._spend_chatter()

    def _on_request(self, stream: int, ended: bool, block: bytes, fault: str | None) -> None:
        if not stream & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"a client opened stream {stream}, which has an even number")
        if stream != self._next_stream:
            self._skipped.append(range(self._next_stream, stream, 2))
        self._count(stream)
        read = self._read(block)
        if fault is not None:
            self._open(stream, ended, None, None, Malformed(fault))
        elif isinstance(read, tuple):
            self._open(stream, ended, *read, None)
        else:
            self._open(stream, ended, None, None, read)

    def _on_trailers(self, stream: Stream, ended: bool, fields: list[Field], fault: str | None) -> None:
        limits = self._limits
        try:
            check_trailers(fields)
            check_size(fields, limits.header_list, limits.header_fields)
        except (Malformed, TooLarge) as malformed:
            fault = str(malformed)
        if not ended:
            fault = "trailers that don't end the request"
        elif stream.body_left:
            fault = "content-length announces data that doesn't come"
        if fault is not None:
            self._refuse(stream.id, Code.PROTOCOL_ERROR, fault)
            return
        self._advance(stream, Input.END_STREAM)
        self._events.append(TrailersReceived(stream.id, fields))

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on stream 0")
        source = self._streams.get(stream)
        if source is not None and source.quick is not None:
            if not flags and self._answer_message(source, payload):
                return
            source.quick = None
        size = len(payload)
        if size > self._receive_window:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more data than the connection's window takes")
        self._receive_window -= size
        data = _unpadded(payload) if flags & PADDED else payload
        outcome = TRANSITIONS[self._state(stream)][Input.DATA]
        if not isinstance(outcome, State):
            self._credit_connection(size)
            self._spend_chatter()
            if isinstance(outcome, Fault):
                self._judge(outcome, stream)
            return
        assert source is not None
        source.unused += size
        if size > source.receive_window:
            self._refuse(stream, Code.FLOW_CONTROL_ERROR, "more data than the call's window takes")
            return
        source.receive_window -= size
        ended = bool(flags & END_STREAM)
        if source.body_left is not None:
            source.body_left -= len(data)
            if source.body_left < 0 or (ended and source.body_left):
                self._refuse(stream, Code.PROTOCOL_ERROR, "content-length is not the length of the data")
                return
        if size != len(data):
            self.credit(stream, size - len(data))
        if ended:
            self._advance(source, Input.END_STREAM)
        elif not data:
            self._spend_chatter()
        self._events.append(DataReceived(stream, data, ended))

    def _on_rst_stream(self, flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "RST_STREAM has four octets")
        if not stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM on stream 0")
        self._spend_reset()
        outcome = TRANSITIONS[self._state(stream)][Input.RST_STREAM]
        if isinstance(outcome, Fault):
            self._judge(outcome, stream)
        elif outcome is State.CANCELLED:
            self._remove(self._streams[stream])
            self._remember(self._cancelled, stream)
            self._events.append(StreamReset(stream, code_of(payload), by_peer=True))

    def _on_window_update(self, flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four octets")
        self._spend_chatter()
        octets = number(payload)[0] & MAX_WINDOW
        if not stream:
            if not octets:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            emptied = self._sender.open_connection(octets)
            if emptied is None:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, f"the connection's window exceeds {MAX_WINDOW}")
            for sink in emptied:
                self._drained(sink)
            return
        outcome = TRANSITIONS[self._state(stream)][Input.WINDOW_UPDATE]
        if isinstance(outcome, Fault):
            self._judge(outcome, stream)
        elif isinstance(outcome, State):
            sink = self._streams[stream]
            if not octets:
                self._refuse(stream, Code.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            elif not self._open_window(sink, octets):
                self._refuse(stream, Code.FLOW_CONTROL_ERROR, f"the call's window exceeds {MAX_WINDOW}")


def _unpadded(payload: bytes) -> bytes:
    """Take the padding off (RFC 9113 §6.1)."""
    if not payload:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame without the length of its padding")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - padding]
