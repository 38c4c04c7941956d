"""The whole of `wire/http2` against the `h2` library as a server, over generated sequences of frames, right and wrong.

What both take gives the same events. What one refuses the other refuses too, be it by a reset or by GOAWAY: h2 ends the
connection for many faults that concern one call only. Where they differ by intent stands in `DIFFERENT`.
"""

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from goloves.wire.http2 import DataReceived, RequestReceived, StreamReset, TrailersReceived
from goloves.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    SETTINGS_ACK,
    Code,
    Kind,
    Setting,
    frame,
    ping_frame,
    reset_frame,
    settings_frame,
    window_frame,
)
from wire.h2peer import REQUEST, Peer, data, parse

DIFFERENT = """
- h2 refuses calls that a client starts after its own GOAWAY; we answer them.
- h2 ignores RST_STREAM on a stream that was never opened; RFC 9113 §6.4 makes that a fault of the connection.
- h2 ignores PRIORITY's faults on idle streams; we follow RFC 7540 there, as h2spec wants it.
- h2 does not compare host with :authority, nor look at a path's slash, nor at te in every case.
- h2 reads PUSH_PROMISE without END_HEADERS as the start of a block; for us a client can't push at all (RFC 9113 §8.4).
- h2 takes a settings acknowledgement that nothing asked for as a fault; we count it against a budget.
- h2 ignores DATA on a stream that was skipped; for us it is closed.
"""


def differs(operation: tuple[object, ...], opened: set[int]) -> bool:
    """Tell whether both may differ on this, by intent: a frame on a stream that was skipped, a reset of an idle one."""
    name, *parts = operation
    if name == "raw":
        kind, flags, stream, _ = parts
        pushes = kind == Kind.PUSH_PROMISE
        return pushes or (kind == Kind.RST_STREAM and stream not in opened) or (kind == Kind.SETTINGS and flags == 1)
    if name == "headers" or not parts or not isinstance(parts[0], int):
        return False
    highest = max(opened, default=0)
    return (parts[0] not in opened and highest > parts[0]) or (name == "reset" and parts[0] > highest)


Event = tuple[object, ...]

streams = st.sampled_from([1, 3, 5, 7])
sizes = st.sampled_from([0, 1, 100, 16_384])


def simple(name: str, *parts: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.tuples(st.just(name), *parts)


operations = st.lists(
    st.one_of(
        simple("headers", streams, st.booleans()),
        simple("headers", streams, st.booleans()),
        simple("data", streams, sizes, st.booleans()),
        simple("data", streams, sizes, st.booleans()),
        simple("padded", streams, st.integers(0, 20), st.booleans()),
        simple("trailers", streams),
        simple("length", streams, st.integers(0, 3)),
        simple("split", streams, st.booleans()),
        simple("priority", streams),
        simple("reset", streams),
        simple("window", st.sampled_from([0, 1, 3]), st.sampled_from([0, 1, 1000, 2**31 - 1])),
        simple("ping", st.sampled_from([8, 8, 7])),
        simple("setting", st.sampled_from(list(Setting)), st.sampled_from([0, 1, 2, 16_384, 65_535, 2**31])),
        simple("continuation", streams),
        simple("push", streams),
        simple("unknown"),
        simple("raw", st.integers(0, 9), st.integers(0, 255), streams, st.binary(max_size=12)),
    ),
    max_size=14,
)


def write(operation: tuple[object, ...], encoder: hpack.Encoder) -> bytes:
    """Give the frames of an operation."""
    name, *parts = operation
    stream = parts[0] if parts and isinstance(parts[0], int) else 0
    end = END_STREAM if parts and parts[-1] is True else 0
    if name == "headers":
        return frame(Kind.HEADERS, END_HEADERS | end, stream, encoder.encode(REQUEST))
    if name == "length":
        fields = [*REQUEST, (b"content-length", b"%d" % int(str(parts[1])))]
        return frame(Kind.HEADERS, END_HEADERS, stream, encoder.encode(fields)) + data(stream, b"ab", end=True)
    if name == "data":
        return data(stream, b"x" * int(str(parts[1])), end=bool(end))
    if name == "padded":
        return frame(Kind.DATA, PADDED | end, stream, bytes((int(str(parts[1])),)) + b"x" * 10)
    if name == "trailers":
        return frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode([(b"x-checksum", b"1")]))
    if name == "split":
        block = encoder.encode(REQUEST)
        rest = frame(Kind.CONTINUATION, 0, stream, block[4:6]) + frame(
            Kind.CONTINUATION, END_HEADERS, stream, block[6:]
        )
        return frame(Kind.HEADERS, end, stream, block[:4]) + rest
    if name == "priority":
        return frame(Kind.PRIORITY, 0, stream, b"\0\0\0\x0b\x10")
    if name == "reset":
        return reset_frame(stream, Code.CANCEL)
    if name == "window":
        return window_frame(stream, int(str(parts[1])))
    if name == "ping":
        return frame(Kind.PING, 0, 0, b"12345678"[:stream]) if stream < 8 else ping_frame(b"12345678", ack=False)
    if name == "setting":
        return settings_frame([(Setting(stream), int(str(parts[1])))])
    if name == "continuation":
        return frame(Kind.CONTINUATION, END_HEADERS, stream, b"")
    if name == "push":
        return frame(Kind.PUSH_PROMISE, END_HEADERS, stream, b"\0\0\0\2")
    if name == "unknown":
        return b"\0\0\3\xbb\xff\0\0\0\1abc"
    kind, flags, where, payload = parts
    assert isinstance(payload, bytes)
    return frame(Kind(int(str(kind))), int(str(flags)), int(str(where)), payload)


class Theirs:
    """An h2 server."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 262_144})
        self.connection.increment_flow_control_window(1_048_576 - 65_535)
        self.connection.clear_outbound_data_buffer()
        self.refused: set[int] = set()
        self.failed = False

    def feed(self, piece: bytes) -> list[Event]:
        found: list[Event] = []
        try:
            events = self.connection.receive_data(piece)
        except h2.exceptions.ProtocolError:
            self.failed = True
            return found
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                found.append(("request", event.stream_id))
            elif isinstance(event, h2.events.DataReceived) and event.data:
                found.append(("data", event.stream_id, len(event.data)))
            elif isinstance(event, h2.events.TrailersReceived):
                found.append(("trailers", event.stream_id))
            elif isinstance(event, h2.events.StreamEnded):
                found.append(("ended", event.stream_id))
            elif isinstance(event, h2.events.StreamReset):
                if event.remote_reset:
                    found.append(("reset", event.stream_id))
                else:
                    self.refused.add(event.stream_id)
        sent = parse(self.connection.data_to_send())
        self.refused |= {got.stream for got in sent if got.kind is Kind.RST_STREAM}
        return found


class Ours:
    """A connection of ours, its events in the same words."""

    def __init__(self) -> None:
        self.peer = Peer()
        self.refused: set[int] = set()

    @property
    def failed(self) -> bool:
        return self.peer.connection.failed

    def feed(self, piece: bytes) -> list[Event]:
        found: list[Event] = []
        for event in self.peer.feed(piece):
            if isinstance(event, RequestReceived):
                found.append(("request", event.stream))
                if event.ended:
                    found.append(("ended", event.stream))
            elif isinstance(event, DataReceived):
                if event.data:
                    found.append(("data", event.stream, len(event.data)))
                if event.ended:
                    found.append(("ended", event.stream))
            elif isinstance(event, TrailersReceived):
                found += [("trailers", event.stream), ("ended", event.stream)]
            elif isinstance(event, StreamReset):
                if event.by_peer:
                    found.append(("reset", event.stream))
                else:
                    self.refused.add(event.stream)
        self.refused |= {stream for stream, _ in self.peer.resets}
        return found


@given(operations)
@settings(deadline=None, max_examples=500)
def test_what_both_take_means_the_same_and_what_one_refuses_both_refuse(operations: list[tuple[object, ...]]) -> None:
    ours, theirs = Ours(), Theirs()
    theirs.feed(PREFACE + settings_frame([]) + SETTINGS_ACK)
    encoder = hpack.Encoder()
    opened: set[int] = set()
    for operation in operations:
        if differs(operation, opened):
            continue
        piece = write(operation, encoder)
        mine, other = ours.feed(piece), theirs.feed(piece)
        if theirs.failed or theirs.refused:
            assert ours.failed or ours.refused, (operations, operation, "only h2 refuses")
            return
        if ours.failed or ours.refused:
            raise AssertionError((operations, operation, "only we refuse", ours.peer.sent, ours.peer.events))
        assert mine == other, operation
        opened |= {int(str(event[1])) for event in mine if event[0] == "request"}
