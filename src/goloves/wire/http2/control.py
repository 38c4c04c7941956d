"""The frames that are about a connection and not about one call: SETTINGS, PING, GOAWAY, PRIORITY (RFC 9113 §6)."""

from goloves.wire.hpack import Decoder
from goloves.wire.http2.calls import DRAIN_PING, Calls, ConnectionFault
from goloves.wire.http2.events import Drained, PeerGoesAway
from goloves.wire.http2.frames import (
    ACK,
    MAX_FRAME,
    MAX_STREAM,
    MAX_WINDOW,
    SETTINGS_ACK,
    Code,
    Setting,
    code_of,
    number,
    ping_frame,
    read_settings,
)
from goloves.wire.http2.limits import Limits
from goloves.wire.http2.streams import State, Stream


class Control(Calls):
    """See the module's words. Each handler takes a frame's flags, stream and payload."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self._acknowledged = False
        self._decoder = Decoder()
        self._pinged_at = float("-inf")
        self._strikes = 0

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement of settings has no payload")
            self._spend_chatter()
            self._acknowledged = True
            return
        if len(payload) % 6:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "settings have six octets each")
        settings = read_settings(payload)
        if len(settings) > self._limits.settings:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"more than {self._limits.settings} settings at once")
        self._spend_chatter(1 + len(self._streams) / 8)  # a new initial window changes each stream
        # Before the data that a larger window lets go: until it has read this, gRPC's C core counts by the old one.
        self._sender.out.append(SETTINGS_ACK)
        for name, value in settings:
            self._apply(name, value)
        windows = [value for name, value in settings if name == Setting.INITIAL_WINDOW_SIZE]
        if windows:
            self._change_windows(windows)

    def _change_windows(self, initial: list[int]) -> None:
        """Take the values that a frame gives to INITIAL_WINDOW_SIZE (RFC 9113 §6.9.2).

        All but the last only have to be possible: each would walk through all streams, and nothing can come in between.
        """
        before, last = self._sender.initial_window, initial[-1]
        self._sender.initial_window = last
        for sink in list(self._streams.values()):
            if sink.send_window + max(initial) - before > MAX_WINDOW or not self._open_window(sink, last - before):
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, f"a call's window exceeds {MAX_WINDOW}")

    def _apply(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, f"an initial window of more than {MAX_WINDOW}")
        elif name == Setting.HEADER_TABLE_SIZE:
            self._sender.limit_table(value)
        elif name == Setting.ENABLE_PUSH:
            if value > 1:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        elif name == Setting.MAX_FRAME_SIZE and not MAX_FRAME <= value < 1 << 24:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is between {MAX_FRAME} and {(1 << 24) - 1}")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING has eight octets")
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING on a stream")
        self._spend_chatter()
        if flags & ACK:
            if payload == DRAIN_PING and self._draining:
                self.finish("the connection is closing")
            return
        limits = self._limits
        interval = limits.ping_interval if self._streams else limits.ping_interval_idle
        if self._sender.spoke:
            self._strikes = 0
        elif self._now < self._pinged_at + interval:
            self._strikes += 1
        self._sender.spoke = False
        self._pinged_at = self._now
        self._sender.out.append(ping_frame(payload, ack=True))
        if self._strikes > limits.ping_strikes:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too_many_pings")

    def _on_goaway(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY has eight octets or more")
        self._spend_chatter()
        self._events.append(PeerGoesAway(code_of(payload[4:8]), payload[8:264].decode(errors="replace")))

    def _on_priority(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._spend_chatter()
        if len(payload) != 5:
            self._blame(stream, Code.FRAME_SIZE_ERROR, "PRIORITY has five octets")
        elif number(payload[:4])[0] & MAX_STREAM == stream:
            self._blame(stream, Code.PROTOCOL_ERROR, "a stream that depends on itself")

    def _blame(self, stream: int, code: Code, reason: str) -> None:
        """End a stream for a frame that streams in any state can get; one that was never opened can't be reset."""
        if self._state(stream) is State.IDLE:
            raise ConnectionFault(code, reason)
        self._refuse(stream, code, reason)

    def _on_push_promise(self, flags: int, stream: int, payload: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a client can't push")

    def _open_window(self, sink: Stream, octets: int) -> bool:
        waited = bool(sink.queue)
        if not self._sender.open_stream(sink, octets):
            return False
        if waited and not sink.queue:
            self._drained(sink)
        return True

    def _drained(self, sink: Stream) -> None:
        """All that waited on a stream has been sent."""
        if self._sender.finish_when_sent(sink):
            self._ended(sink)
        else:
            self._events.append(Drained(sink.id))
