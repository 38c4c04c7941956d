"""What leaves a connection, and when the peer's windows let it (RFC 9113 §5.2, §6.9).

Rules:
1. Header blocks, resets and the like leave at once; data leaves as far as both windows allow, the rest waits in its
   stream's queue. What ends a stream waits behind its data.
2. Streams that wait for the connection's window take turns, one frame each.
3. A stream that waits for its own window is not looked at until that opens, so that a peer that opens the connection's
   window byte by byte makes work for one frame at a time and not for all that waits.
"""

from goloves.wire.hpack import DEFAULT_TABLE_SIZE, FORGET_TABLE
from goloves.wire.http2.frames import (
    DEFAULT_WINDOW,
    END_STREAM,
    HEADER,
    MAX_FRAME,
    MAX_WINDOW,
    Kind,
    frame,
    header_frames,
)
from goloves.wire.http2.streams import Stream


class Sender:
    """See the module's rules."""

    __slots__ = ("_ready", "_table", "initial_window", "must_forget_table", "out", "queued", "spoke", "window")

    def __init__(self) -> None:
        self.out: list[bytes] = []
        """What is to be written, in order."""
        self.window = DEFAULT_WINDOW
        """Octets that the peer takes on the connection."""
        self.initial_window = DEFAULT_WINDOW
        """Octets that the peer takes on a new stream."""
        self.queued = 0
        """Octets that wait, on all streams."""
        self.must_forget_table = False
        """The next header block has to begin with a size update, since the peer lowered its table's limit."""
        self.spoke = False
        """Whether something of an answer has left since that was last asked."""
        self._table = DEFAULT_TABLE_SIZE
        self._ready: dict[int, Stream] = {}
        """Streams that wait for the connection's window alone, the next to send first."""

    def limit_table(self, size: int) -> None:
        """Take the peer's limit for the table of our header blocks. It expects to hear of one that is lower."""
        if size < self._table:
            self._table = 0  # ours is empty for ever, so this is said once
            self.must_forget_table = True

    def headers(self, stream: int, block: bytes, *, end_stream: bool) -> None:
        """Send a header block."""
        self.spoke = True
        if self.must_forget_table:
            self.must_forget_table = False
            block = FORGET_TABLE + block
        self.out.append(header_frames(stream, block, end_stream=end_stream))

    def data(self, stream: Stream, data: bytes) -> None:
        """Send data, or queue what the windows don't take."""
        size = len(data)
        if stream.queue or size > self.window or size > stream.send_window:
            stream.queue += data
            self.queued += size
            self._push(stream)
            return
        self.spoke = True
        self.window -= size
        stream.send_window -= size
        if size <= MAX_FRAME:
            self.out += (HEADER.pack(size << 8, 0, stream.id), data)
            return
        for at in range(0, size, MAX_FRAME):
            piece = data[at : at + MAX_FRAME]
            self.out += (HEADER.pack(len(piece) << 8, 0, stream.id), piece)

    def finish(self, stream: Stream, trailers: bytes) -> bool:
        """End a stream with a block of trailers, or without if it is b""; False if that has to wait for its data."""
        stream.ending = trailers
        return self.finish_when_sent(stream)

    def finish_when_sent(self, stream: Stream) -> bool:
        """End a stream if its end is known and its data has been sent; tell whether that happened."""
        if stream.ending is None or stream.queue:
            return False
        if stream.ending:
            self.headers(stream.id, stream.ending, end_stream=True)
        else:
            self.out.append(frame(Kind.DATA, END_STREAM, stream.id))
        return True

    def open_stream(self, stream: Stream, octets: int) -> bool:
        """Let a stream's window grow by `octets` (or shrink); False if that is more than the RFC allows (§6.9.1)."""
        stream.send_window += octets
        if stream.send_window > MAX_WINDOW:
            return False
        self._push(stream)
        return True

    def open_connection(self, octets: int) -> list[Stream] | None:
        """Let the connection's window grow; None if that is more than the RFC allows.

        Gives the streams of which all that waited has been sent.
        """
        self.window += octets
        if self.window > MAX_WINDOW:
            return None
        emptied = []
        while self._ready and self.window > 0:
            stream = self._ready.pop(next(iter(self._ready)))
            if stream.send_window > 0:
                self._send_piece(stream)
            if not stream.queue:
                emptied.append(stream)
            elif stream.send_window > 0:
                self._ready[stream.id] = stream
        return emptied

    def forget(self, stream: Stream) -> None:
        """Drop what waits on a stream that is over."""
        if stream.queue:
            self.queued -= len(stream.queue)
            stream.queue.clear()
            self._ready.pop(stream.id, None)

    def _push(self, stream: Stream) -> None:
        """Send what the windows take of a stream's queue; put it in line if the connection's window is the smaller."""
        if stream.id in self._ready:
            return
        while stream.queue and stream.send_window > 0:
            if self.window <= 0:
                self._ready[stream.id] = stream
                return
            self._send_piece(stream)

    def _send_piece(self, stream: Stream) -> None:
        size = min(len(stream.queue), stream.send_window, self.window, MAX_FRAME)
        self.spoke = True
        self.window -= size
        stream.send_window -= size
        self.queued -= size
        self.out += (HEADER.pack(size << 8, 0, stream.id), bytes(stream.queue[:size]))
        del stream.queue[:size]
