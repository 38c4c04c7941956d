"""The calls of a connection: the streams that carry them, how they begin, what is answered on them, how they end.

This is what the layer above acts on; `connection.py` reads what the peer sends.
"""

from typing import Final

from goloves.wire.http2.events import ConnectionFailed, Event, RequestReceived, RequestTooLarge, StreamReset
from goloves.wire.http2.frames import (
    MAX_STREAM,
    Code,
    goaway_frame,
    ping_frame,
    reset_frame,
    window_frame,
)
from goloves.wire.http2.limits import Budget, Limits
from goloves.wire.http2.requests import Malformed, Quick, Request, TooLarge
from goloves.wire.http2.sending import Sender
from goloves.wire.http2.streams import TRANSITIONS, Fault, Input, State, Stream

NO_STREAM: Final = 1 << 32
"""A stream that no frame can name: the next one, when the last one has been used."""

DRAIN_PING: Final = b"goloves!"
"""Payload of the PING between the two GOAWAYs: its answer says that the peer has seen the first."""


class ConnectionFault(Exception):
    """The peer broke a rule of the connection (RFC 9113 §5.4.1). It never leaves this package."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Calls:
    """See the module's rules. All times are seconds of one clock that never steps back."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.failed = False
        """The connection is over: write the output, half-close, and drop what still comes."""
        self._limits = limits
        self._now = now
        self._events: list[Event] = []
        self._greeted = False
        self._receive_window = limits.connection_window
        self._uncredited = 0
        self._credit_due = (limits.connection_window + 1) // 2
        """Octets used at which the peer is told of them."""

        # Streams
        self._streams: dict[int, Stream] = {}
        self._next_stream = 1
        self._abandoned: dict[int, None] = {}
        self._cancelled: dict[int, None] = {}
        self._draining = False
        self._finishing = False
        """Whether no more calls are taken."""
        self._last_accepted = MAX_STREAM
        self._goodbye: list[bytes] = []
        """What announces the end, while our side's preface has not been sent."""

        self._sender = Sender()

        # What a peer may do only so often
        self._answers = 0
        self._octets = 0
        self._resets = Budget(limits.resets, now)
        self._chatter = Budget(limits.chatter, now)

    # --- the life of the connection ---

    @property
    def calls(self) -> int:
        """How many calls are under way."""
        return len(self._streams)

    @property
    def queued(self) -> int:
        """Octets of data that wait for the peer's windows."""
        return self._sender.queued

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen: one side went away, and no call is left."""
        return self._finishing and not self._streams

    @property
    def undisturbed(self) -> bool:
        """Whether no data waits for the peer's windows and no end was announced: `queued` is 0 and `finished` false."""
        return not self._sender.queued and not self._finishing

    def take_output(self) -> bytes:
        """Give what is to be written now; it is forgotten here."""
        out = self._sender.out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    def ping(self, payload: bytes) -> None:
        """Send a PING of eight octets; that the peer lives shows in `heard_at`."""
        self._sender.out.append(ping_frame(payload, ack=False))

    def drain(self, reason: str) -> None:
        """Announce the end (RFC 9113 §6.8): calls are still taken, until the peer has seen it and says so.

        If it doesn't within a second or so, call `finish`.
        """
        if not self._draining and not self.failed:
            self._draining = True
            self._goodbye += (goaway_frame(MAX_STREAM, Code.NO_ERROR, reason), ping_frame(DRAIN_PING, ack=False))
            self._say_goodbye()

    def finish(self, reason: str) -> None:
        """Take no more calls; those under way are finished. Once `finished` is true, close the connection."""
        if not self._finishing and not self.failed:
            self._draining = self._finishing = True
            self._last_accepted = self._latest_stream()
            self._goodbye.append(goaway_frame(self._last_accepted, Code.NO_ERROR, reason))
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Announce the end; SETTINGS have to go before that (RFC 9113 §3.4)."""
        if self._greeted:
            self._sender.out += self._goodbye
            self._goodbye.clear()

    def _latest_stream(self) -> int:
        """Give the latest stream that the peer has opened; 0 if it has opened none."""
        return min(max(self._next_stream - 2, 0), MAX_STREAM)

    def fail(self, code: Code, reason: str) -> None:
        """End the connection now, all calls with it."""
        if self.failed:
            return
        self.failed = True
        if self._greeted:
            self._sender.out.append(goaway_frame(self._latest_stream(), code, reason))
        for stream in self._streams.values():
            self._sender.forget(stream)
        self._streams.clear()
        self._events.append(ConnectionFailed(code, reason))

    # --- answering ---

    def start_answer(self, stream: int, head: bytes) -> bool:
        """Send the header block that begins an answer. False if the call is over; nothing is sent then."""
        if stream not in self._streams:
            return False
        self._sender.headers(stream, head, end_stream=False)
        return True

    def send_data(self, stream: int, data: bytes) -> bool:
        """Send data of an answer, or queue what the peer's windows don't take. False if the call is over."""
        sink = self._streams.get(stream)
        if sink is None:
            return False
        self._answers += 1
        self._octets += len(data)
        self._sender.data(sink, data)
        return True

    def answer_messages(self, stream: int, quick: Quick | None) -> None:
        """Let each frame of a call's data be answered with data as it comes, for as long as `quick` can; None: no more.

        For calls whose answer has begun, and of whose data the layer above has nothing left to use: it then hears
        only of the first frame that `quick` can't answer, and has to say this again to go on.
        """
        sink = self._streams.get(stream)
        if sink is not None:
            sink.quick = quick

    def end_answer(self, stream: int, trailers: bytes = b"") -> bool:
        """End an answer, behind what is queued, with a block of trailers or none (b""). False if the call is over."""
        sink = self._streams.get(stream)
        if sink is None:
            return False
        self._answers += 1
        sink.quick = None
        if self._sender.finish(sink, trailers):
            self._ended(sink)
        return True

    def reset(self, stream: int, code: Code) -> bool:
        """Give up a call. False if it is over already."""
        sink = self._streams.get(stream)
        if sink is None:
            return False
        self._abandon(sink, code)
        return True

    def is_queued(self, stream: int) -> bool:
        """Tell whether data of this call waits for a window; `Drained` comes when it no longer does."""
        sink = self._streams.get(stream)
        return sink is not None and bool(sink.queue)

    def credit(self, stream: int, octets: int) -> None:
        """Say that so many octets of a call's data are used up; the peer may send as many more."""
        source = self._streams.get(stream)
        if source is None:
            return  # its unused octets went back to the connection when it ended
        source.unused -= octets
        self._credit_connection(octets)
        if source.state is State.OPEN:
            self._credit_stream(source, octets)

    def _credit_stream(self, source: Stream, octets: int) -> None:
        source.uncredited += octets
        if source.uncredited * 2 >= self._limits.stream_window:
            self._sender.out.append(window_frame(source.id, source.uncredited))
            source.receive_window += source.uncredited
            source.uncredited = 0

    def _credit_connection(self, octets: int) -> None:
        self._uncredited += octets
        if self._uncredited >= self._credit_due:
            self._sender.out.append(window_frame(0, self._uncredited))
            self._receive_window += self._uncredited
            self._uncredited = 0

    # --- the beginning of streams ---

    def _count(self, stream: int) -> None:
        """Note that the peer has begun a call on this stream; the next one has a higher number (RFC 9113 §5.1.1)."""
        self._next_stream = stream + 2 if stream < MAX_STREAM else NO_STREAM

    def _open(
        self,
        stream: int,
        ended: bool,
        request: Request | None,
        varying: bytes | None,
        fault: Malformed | TooLarge | None,
    ) -> None:
        """Open a stream for a request that has been read, or refuse it."""
        limits = self._limits
        if stream > self._last_accepted:
            self._spend_chatter()
            return
        if request is not None and ended and request.content_length:
            fault = Malformed("content-length announces data that doesn't come")
        if isinstance(fault, Malformed):
            self._refuse(stream, Code.PROTOCOL_ERROR, str(fault))
            return
        if len(self._streams) >= limits.streams:
            self._refuse(stream, Code.REFUSED_STREAM, f"more than {limits.streams} calls at once")
            return
        length = None if request is None else request.content_length
        opened = Stream(stream, self._sender.initial_window, limits.stream_window, length)
        self._streams[stream] = opened
        if ended:
            self._advance(opened, Input.END_STREAM)
        if request is None:
            self._events.append(RequestTooLarge(stream, str(fault)))
        else:
            self._events.append(RequestReceived(stream, request, varying, ended))

    def _advance(self, stream: Stream, happened: Input) -> None:
        state = TRANSITIONS[stream.state][happened]
        assert isinstance(state, State)
        stream.state = state

    # --- the end of streams ---

    def _ended(self, stream: Stream) -> None:
        """Our side of a stream has ended."""
        if TRANSITIONS[stream.state][Input.SEND_END_STREAM] is State.ABANDONED:
            self._abandon(stream, Code.NO_ERROR)  # RFC 9113 §8.1: the rest of the request is of no use
        else:
            self._remove(stream)

    def _abandon(self, stream: Stream, code: Code) -> None:
        self._sender.out.append(reset_frame(stream.id, code))
        self._remember(self._abandoned, stream.id)
        self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._sender.forget(stream)
        if stream.unused:
            self._credit_connection(stream.unused)

    def _remember(self, memory: dict[int, None], stream: int) -> None:
        memory[stream] = None
        if len(memory) > self._limits.remembered:
            del memory[next(iter(memory))]

    def _state(self, stream: int) -> State:
        found = self._streams.get(stream)
        if found is not None:
            return found.state
        if stream >= self._next_stream or not stream & 1:
            return State.IDLE
        if stream in self._abandoned or stream > self._last_accepted:
            return State.ABANDONED
        return State.CANCELLED if stream in self._cancelled else State.CLOSED

    def _judge(self, fault: Fault, stream: int) -> None:
        if fault.fatal:
            raise ConnectionFault(fault.code, f"{fault.reason} (stream {stream})")
        self._refuse(stream, fault.code, fault.reason)

    def _refuse(self, stream: int, code: Code, reason: str) -> None:
        """End a stream for a fault of the peer's (RFC 9113 §5.4.2)."""
        known = self._streams.get(stream)
        if known is not None:
            self._abandon(known, code)
            self._events.append(StreamReset(stream, code, by_peer=False, reason=reason))
        else:
            self._sender.out.append(reset_frame(stream, code))
            self._cancelled.pop(stream, None)
            self._remember(self._abandoned, stream)
        self._spend_reset()

    # --- floods ---

    def _spend_reset(self) -> None:
        self._earn()
        if not self._resets.spend(self._now):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many calls were reset")

    def _spend_chatter(self, cost: float = 1) -> None:
        self._earn()
        if not self._chatter.spend(self._now, cost):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that move no call on")

    def _earn(self) -> None:
        if self._answers:
            self._resets.earn(self._answers)
            self._chatter.earn(self._answers + self._octets / self._limits.octets_as_answer)
            self._answers = self._octets = 0
