"""Calls that come whole and can be answered at once (`Request.quick`): they never become streams.

A client repeats itself, so the head of a call is looked up rather than read, by what is known of the connection's
earlier calls, the fastest way first:

1. A call that repeats one that was answered, octet for octet but for the stream's number, one value of the head and
   what is asked, is compared with it (`Repeat`): nothing in it is taken apart.
2. A header block that is known, or differs from a known one in that value alone, leads to its request.
3. Any other is decoded.

What is known holds while the decoder's table is as it is. Each way gives on each stream the frames that the long way
gives, in which a call is a stream and the layer above answers it; `tests/wire/test_http2_quick.py` holds them equal.
And an answer counts as much: for its data and for its end.
"""

from struct import Struct
from typing import Final

from goloves.wire.hpack import DamagedBlock
from goloves.wire.http2.calls import ConnectionFault
from goloves.wire.http2.control import Control
from goloves.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADER_OCTETS,
    MAX_FRAME,
    MAX_STREAM,
    Code,
    Kind,
    frame_start,
)
from goloves.wire.http2.limits import LARGE_OCTETS, REFUSAL_COST, Limits
from goloves.wire.http2.requests import Malformed, Pattern, Quick, QuickWay, Request, RequestReader, TooLarge
from goloves.wire.http2.streams import State, Stream

QUICK_OCTETS: Final = 1_048_576
"""Octets that quick answers to one `receive` may take. It holds up to 256 KB of calls that may ask for 16 KB each;
beyond this they become calls like others, which wait until the peer has read what is there."""

KNOWN_BLOCKS: Final = 32
KNOWN_PATTERNS: Final = 4
KNOWN_OCTETS: Final = 512
"""Blocks whose meaning a connection remembers, those among them that differ in one value, and octets of the longest: a
client's methods, each field written out."""

KNOWN_REPEATS: Final = 8
VALUE_OCTETS: Final = 16
DATA_OCTETS: Final = 255
"""Kinds of calls that a connection expects to be repeated; the most octets of a value that may differ from call to
call, of which `grpc-timeout` has nine; and of a call's data, of which a request for an id of the longest tag has 138.
What is longer is read."""

_STREAM: Final = Struct(">I")
_START: Final = HEADER_OCTETS - _STREAM.size
"""A frame's header ends with its stream's number, which stands behind so many octets."""

_DATA_STARTS: Final = [frame_start(Kind.DATA, END_STREAM, octets) for octets in range(DATA_OCTETS + 1)]
_DATA_LENGTH: Final = HEADER_OCTETS - 2
"""How far before the payload of DATA the last octet of its length stands."""


class Repeat:
    """A call that was answered at once, cut up where its next one may differ: HEADERS, and DATA that ends the request.

    One whose value has another length is another `Repeat`, which this one knows.
    """

    __slots__ = (
        "_lengths",
        "_way",
        "after",
        "before",
        "body_at",
        "head",
        "length",
        "may_skip",
        "quick",
        "start",
        "value_at",
        "value_end",
    )

    def __init__(self, head: bytes, length: int | None, after: bytes, quick: Quick, way: QuickWay) -> None:
        """`length` is the first octet of the value's string (RFC 7541 §5.2), which stands between `head` and `after`.

        None says that nothing in the block may differ; `head` is all of it then.
        """
        octets = 0 if length is None else length & 0x7F
        self.head = head
        self.length = length
        self.after = after
        self.quick = quick
        self.may_skip = None if length is None else way.judge(length)
        """Says whether another value may be there."""
        self.before = head if length is None else head + bytes((length,))
        self.start = frame_start(Kind.HEADERS, END_HEADERS, len(self.before) + octets + len(after))
        # Places in a call:
        self.value_at = HEADER_OCTETS + len(self.before)
        self.value_end = self.value_at + octets
        self.body_at = self.value_end + len(after) + HEADER_OCTETS
        self._way = way
        self._lengths = {length: self}

    def of_length(self, length: int) -> "Repeat":
        """Give the same call with a value whose string begins with this octet; this one if that would be too long."""
        found = self._lengths.get(length)
        if found is None:
            if length & 0x7F > VALUE_OCTETS:
                return self
            found = self._lengths[length] = Repeat(self.head, length, self.after, self.quick, self._way)
            found._lengths = self._lengths
        return found


class QuickCalls(Control):
    """See the module's words."""

    def __init__(self, reader: RequestReader, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self.quick_answers = 0
        """Calls that were answered at once, so far."""
        self._reader = reader
        self._way = reader.way
        self._quick_left = QUICK_OCTETS
        self._known: dict[bytes, Request] = {}
        """What blocks mean while the table is as it is."""
        self._patterns: list[Pattern] = []
        """The same of blocks that differ in one value."""
        self._repeats: list[Repeat] = []
        """Calls that may be repeated, the one that was last first; none while the connection as a whole bars the quick
        way (`_is_barred`)."""
        self._known_at = 0
        """How often the table had changed when this was learnt."""

    def _answer_again(self, data: bytes, at: int) -> int:
        """Answer the call at `at` if it repeats an earlier one, and those behind it that do, too.

        Gives where the first one is that doesn't, or that has not come whole, or is too near to a limit.
        """
        repeats, way, sender = self._repeats, self._way, self._sender
        if (
            not repeats
            or way is None
            or self._decoder.changes != self._known_at
            or len(self._streams) >= self._limits.streams
        ):
            return at
        repeat, end, turned_at = repeats[0], len(data), -1
        first = stream = self._next_stream
        # What may be given and taken: nothing else that bars the quick way changes in here.
        given, left, window = 0, self._quick_left, sender.window - MAX_FRAME
        taken, room = 0, self._receive_window - MAX_FRAME
        while at < end and given < left and given <= window and taken <= room and stream < MAX_STREAM:
            value_at, body_at = at + repeat.value_at, at + repeat.body_at
            if repeat.length is not None and value_at <= end and data[value_at - 1] != repeat.length:
                repeats[0] = repeat = repeat.of_length(data[value_at - 1])
                body_at = at + repeat.body_at
            octets = data[body_at - _DATA_LENGTH] if body_at <= end else 0
            done = body_at + octets
            name = _STREAM.pack(stream)
            value = b"" if repeat.length is None else data[value_at : at + repeat.value_end]
            body = data[body_at:done]
            start, before, after = repeat.start, repeat.before, repeat.after
            if (
                done > end
                or data[at:done] != b"".join((start, name, before, value, after, _DATA_STARTS[octets], name, body))
                or not (repeat.may_skip is None or repeat.may_skip(value))
            ):
                if turned_at == at or not self._turn(data, at):
                    break
                repeat, turned_at = repeats[0], at
                continue
            answer = repeat.quick(body)
            if answer is None:
                break
            size = len(answer)
            sender.out += (way.head, name, way.data_heads[size], name, answer, way.tail, name, way.trailers)
            given += size
            taken += octets
            stream += 2
            at = done
        if stream != first:
            self._next_stream = stream
            self._account((stream - first) >> 1, given, taken)
        return at

    def _turn(self, data: bytes, at: int) -> bool:
        """Put another call first that begins as the one at `at` does; False if there is none."""
        repeats, start = self._repeats, data[at : at + _START]
        for place in range(1, len(repeats)):
            other = repeats[place]
            if (other.length is not None or other.start == start) and data.startswith(other.head, at + HEADER_OCTETS):
                repeats.insert(0, repeats.pop(place))
                return True
        return False

    def _on_call(self, data: bytes, at: int, payload: int, after: int, end: int) -> int:
        """Take the HEADERS of a new call, and its data if that is there and can be answered; give where they end."""
        stream = self._next_stream
        self._count(stream)
        block = data[payload:after]
        request, pattern = self._recall(block)
        if request is not None and (done := self._answer_at_once(request, stream, data, at, after, end)):
            if done - after - HEADER_OCTETS <= DATA_OCTETS:
                self._expect(block, pattern, request)
            return done
        varying: bytes | None = None
        if request is None or pattern is not None:
            changes = self._decoder.changes
            read = self._read(block)
            if not isinstance(read, tuple):
                self._open(stream, False, None, None, read)
                return after
            request, varying = read
            # A block that has put something into the table does so again when it comes again: it has to be decoded.
            if pattern is None and self._decoder.changes == changes:
                self._know(block, request, varying)
            if (
                pattern is None
                and (varying is None or (self._way is not None and self._way.may_skip(varying)))
                and (done := self._answer_at_once(request, stream, data, at, after, end))
            ):
                return done
        self._open(stream, False, request, varying, None)
        return after

    def _answer_at_once(self, request: Request, stream: int, data: bytes, at: int, after: int, end: int) -> int:
        """Answer a call whose data is there, if that can be; give where it ends, or 0."""
        quick, way = request.quick, self._way
        body = after + HEADER_OCTETS
        if quick is None or way is None or body > end or not self._may_be_quick():
            return 0
        head, flags, other = HEADER.unpack_from(data, after)
        done: int = body + (head >> 8)
        if other != stream or flags != END_STREAM or head & 0xFF != Kind.DATA or done > end:
            return 0
        answer = quick(data[body:done])
        if answer is None:
            return 0
        name = data[at + _START : at + HEADER_OCTETS]
        size = len(answer)
        self._sender.out += (way.head, name, way.data_heads[size], name, answer, way.tail, name, way.trailers)
        self._account(1, size, done - body)
        return done

    def _account(self, calls: int, given: int, taken: int) -> None:
        """Count calls that were answered at once, and the octets of their answers' data and of their own."""
        sender = self._sender
        self.quick_answers += calls
        self._answers += 2 * calls
        self._octets += given
        self._quick_left -= given
        sender.window -= given
        sender.spoke = True
        self._receive_window -= taken
        self._credit_connection(taken)

    def _answer_message(self, source: Stream, data: bytes) -> bool:
        """Answer a frame of a call's data with data, if that can be; see `answer_messages`."""
        sender, size = self._sender, len(data)
        if (
            source.quick is None
            or source.state is not State.OPEN
            or source.body_left is not None
            or source.queue
            or size > source.receive_window
            or size > self._receive_window
            or source.send_window < MAX_FRAME
            or sender.window < MAX_FRAME
            or self._quick_left <= 0
        ):
            return False
        answer = source.quick(data)
        if answer is None:
            return False
        given = len(answer)
        sender.out += (HEADER.pack(given << 8, 0, source.id), answer)
        sender.window -= given
        source.send_window -= given
        self._quick_left -= given
        self._answers += 1
        self._octets += given
        sender.spoke = True
        source.receive_window -= size
        self._credit_stream(source, size)
        self._receive_window -= size
        self._credit_connection(size)
        return True

    def _may_be_quick(self) -> bool:
        """Tell whether a call may be answered without becoming a stream: nothing is near a limit."""
        sender = self._sender
        return (
            self._quick_left > 0
            and sender.window >= MAX_FRAME
            and self._receive_window >= MAX_FRAME
            and len(self._streams) < self._limits.streams
            and not self._is_barred()
        )

    def _is_barred(self) -> bool:
        """Tell whether no call may be answered at once, by what either side has said of the connection as a whole."""
        sender = self._sender
        return sender.initial_window < MAX_FRAME or sender.must_forget_table or self._finishing

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        super()._on_settings(flags, stream, payload)
        if self._is_barred():
            self._repeats.clear()

    def finish(self, reason: str) -> None:
        """See `Calls.finish`."""
        super().finish(reason)
        self._repeats.clear()

    def _recall(self, block: bytes) -> tuple[Request | None, Pattern | None]:
        """Give the request of a known block, or of one that fits a pattern with a value that may be skipped."""
        if self._decoder.changes != self._known_at:
            return None, None
        request = self._known.get(block)
        if request is not None:
            return request, None
        for pattern in self._patterns:
            value = pattern.value(block)
            if value is not None and self._way is not None:
                return (pattern.request, pattern) if self._way.judge(value[0])(value[1:]) else (None, None)
        return None, None

    def _expect(self, block: bytes, pattern: Pattern | None, request: Request) -> None:
        """Remember a call that was answered at once, and whose block was known: it may come again."""
        way, quick, repeats = self._way, request.quick, self._repeats
        assert way is not None
        assert quick is not None
        length = None
        head, after = block, b""
        if pattern is not None:
            head, after = pattern.before, pattern.after
            length = block[len(head)]
        if not any(known.head == head and known.after == after for known in repeats):
            repeats.insert(0, Repeat(head, length, after, quick, way))
            del repeats[KNOWN_REPEATS:]

    def _know(self, block: bytes, request: Request, varying: bytes | None) -> None:
        """Remember what a block means, for as long as the table stays as it is."""
        decoder = self._decoder
        if decoder.changes != self._known_at:
            self._known.clear()
            self._patterns.clear()
            self._repeats.clear()
            self._known_at = decoder.changes
        if varying is None:
            if len(self._known) >= KNOWN_BLOCKS:
                self._known.clear()
            if len(block) <= KNOWN_OCTETS:
                self._known[block] = request
        elif request.quick is not None and request.seen > 1 and len(block) <= KNOWN_OCTETS:
            pattern = self._reader.find_pattern(decoder, block, request)
            if pattern is not None:
                if len(self._patterns) >= KNOWN_PATTERNS:
                    self._patterns.pop(0)
                self._patterns.append(pattern)

    def _read(self, block: bytes) -> tuple[Request, bytes | None] | Malformed | TooLarge:
        limits = self._limits
        try:
            return self._reader.read(self._decoder, block, limits.header_list, limits.header_fields)
        except DamagedBlock as damage:
            raise ConnectionFault(Code.COMPRESSION_ERROR, str(damage)) from None
        except Malformed as fault:
            return fault
        except TooLarge as fault:
            self._spend_chatter(REFUSAL_COST + len(block) / LARGE_OCTETS)
            return fault
