"""Every way to break RFC 9113, and the code that it ends in: on its stream, or for the connection."""

import struct
from collections.abc import Callable

import pytest

from goloves.wire.http2 import Code, ConnectionFailed, Limits, RequestReceived, StreamReset
from goloves.wire.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_FRAME,
    PADDED,
    PREFACE,
    PRIORITY,
    Kind,
    Setting,
    ping_frame,
    reset_frame,
    settings_frame,
)
from goloves.wire.http2.streams import TRANSITIONS, Fault, Ignored, Input, State
from wire.h2peer import REQUEST, Fields, Peer, data, frame, setting, window_frame

FATAL: list[tuple[str, Code, Callable[[Peer], bytes]]] = [
    ("a frame over the size that we accept", Code.FRAME_SIZE_ERROR, lambda p: data(1, b"x" * (MAX_FRAME + 1))),
    ("DATA on stream 0", Code.PROTOCOL_ERROR, lambda p: data(0)),
    ("DATA on an idle stream", Code.PROTOCOL_ERROR, lambda p: data(5)),
    ("DATA with more padding than it is long", Code.PROTOCOL_ERROR, lambda p: frame(Kind.DATA, PADDED, 1, b"\x05abc")),
    ("DATA with padding as long as it is", Code.PROTOCOL_ERROR, lambda p: frame(Kind.DATA, PADDED, 1, b"\x04abc")),
    ("padded DATA without a length", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.DATA, PADDED, 1, b"")),
    ("HEADERS on stream 0", Code.PROTOCOL_ERROR, lambda p: p.headers(0)),
    ("HEADERS on an even stream", Code.PROTOCOL_ERROR, lambda p: p.headers(4)),
    (
        "HEADERS with padding over its length",
        Code.PROTOCOL_ERROR,
        lambda p: frame(Kind.HEADERS, PADDED | END_HEADERS, 3, b"\x09\x82"),
    ),
    (
        "HEADERS too short for its priority",
        Code.FRAME_SIZE_ERROR,
        lambda p: frame(Kind.HEADERS, PRIORITY | END_HEADERS, 3, b"\0\0\0\0"),
    ),
    ("a block that can't be decoded", Code.COMPRESSION_ERROR, lambda p: frame(Kind.HEADERS, END_HEADERS, 3, b"\x80")),
    (
        "trailers that can't be decoded",
        Code.COMPRESSION_ERROR,
        lambda p: frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff"),
    ),
    ("PRIORITY on stream 0", Code.PROTOCOL_ERROR, lambda p: frame(Kind.PRIORITY, 0, 0, b"\0\0\0\0\1")),
    ("PRIORITY of a wrong size, idle", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.PRIORITY, 0, 9, b"\0\0\0\0")),
    (
        "PRIORITY of an idle stream on itself",
        Code.PROTOCOL_ERROR,
        lambda p: frame(Kind.PRIORITY, 0, 9, b"\0\0\0\x09\1"),
    ),
    ("RST_STREAM on stream 0", Code.PROTOCOL_ERROR, lambda p: reset_frame(0, Code.CANCEL)),
    ("RST_STREAM on an idle stream", Code.PROTOCOL_ERROR, lambda p: reset_frame(7, Code.CANCEL)),
    ("RST_STREAM on an even stream", Code.PROTOCOL_ERROR, lambda p: reset_frame(2, Code.CANCEL)),
    ("RST_STREAM of a wrong size", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.RST_STREAM, 0, 1, b"\0\0\0")),
    ("SETTINGS on a stream", Code.PROTOCOL_ERROR, lambda p: frame(Kind.SETTINGS, 0, 1, b"")),
    ("SETTINGS of a wrong size", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.SETTINGS, 0, 0, b"\0\0\0")),
    ("an acknowledgement with a payload", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.SETTINGS, ACK, 0, b"\0" * 6)),
    ("ENABLE_PUSH of 2", Code.PROTOCOL_ERROR, lambda p: setting(Setting.ENABLE_PUSH, 2)),
    ("an initial window of 2^31", Code.FLOW_CONTROL_ERROR, lambda p: setting(Setting.INITIAL_WINDOW_SIZE, 2**31)),
    ("MAX_FRAME_SIZE too small", Code.PROTOCOL_ERROR, lambda p: setting(Setting.MAX_FRAME_SIZE, 16383)),
    ("MAX_FRAME_SIZE too large", Code.PROTOCOL_ERROR, lambda p: setting(Setting.MAX_FRAME_SIZE, 2**24)),
    ("too many settings at once", Code.ENHANCE_YOUR_CALM, lambda p: settings_frame([(Setting.ENABLE_PUSH, 0)] * 33)),
    (
        "an initial window that makes a stream's too large",
        Code.FLOW_CONTROL_ERROR,
        lambda p: window_frame(1, 1) + setting(Setting.INITIAL_WINDOW_SIZE, 2**31 - 1),
    ),
    ("PUSH_PROMISE", Code.PROTOCOL_ERROR, lambda p: frame(Kind.PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2")),
    ("PING on a stream", Code.PROTOCOL_ERROR, lambda p: frame(Kind.PING, 0, 1, b"12345678")),
    ("PING of a wrong size", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.PING, 0, 0, b"1234567")),
    ("GOAWAY on a stream", Code.PROTOCOL_ERROR, lambda p: frame(Kind.GOAWAY, 0, 1, b"\0" * 8)),
    ("GOAWAY of a wrong size", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.GOAWAY, 0, 0, b"\0" * 7)),
    ("WINDOW_UPDATE of a wrong size", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.WINDOW_UPDATE, 0, 0, b"\0\0\1")),
    ("WINDOW_UPDATE by 0", Code.PROTOCOL_ERROR, lambda p: window_frame(0, 0)),
    ("WINDOW_UPDATE on an idle stream", Code.PROTOCOL_ERROR, lambda p: window_frame(3, 1)),
    ("too large a window", Code.FLOW_CONTROL_ERROR, lambda p: window_frame(0, 2**31 - 1)),
    ("CONTINUATION of nothing", Code.PROTOCOL_ERROR, lambda p: frame(Kind.CONTINUATION, END_HEADERS, 1, b"")),
    (
        "CONTINUATION on another stream",
        Code.PROTOCOL_ERROR,
        lambda p: frame(Kind.HEADERS, 0, 3, b"") + frame(Kind.CONTINUATION, END_HEADERS, 1, b""),
    ),
    ("a frame inside of a block", Code.PROTOCOL_ERROR, lambda p: frame(Kind.HEADERS, 0, 3, b"") + data(1)),
    (
        "an unknown frame inside of a block",
        Code.PROTOCOL_ERROR,
        lambda p: frame(Kind.HEADERS, 0, 3, b"") + b"\0\0\0\x63" + bytes(5),
    ),
    ("a new stream inside of a block", Code.PROTOCOL_ERROR, lambda p: frame(Kind.HEADERS, 0, 3, b"") + p.headers(5)),
    ("a lower stream than before", Code.PROTOCOL_ERROR, lambda p: p.headers(9) + p.headers(3)),
]


@pytest.mark.parametrize(("code", "make"), [fault[1:] for fault in FATAL], ids=[fault[0] for fault in FATAL])
def test_a_fault_of_the_connection_ends_it_with_goaway(code: Code, make: Callable[[Peer], bytes]) -> None:
    peer = Peer()
    peer.open(1)
    events = peer.feed(make(peer))
    assert peer.goaway is code
    assert peer.sent[-1].kind is Kind.GOAWAY
    failed = events[-1]
    assert isinstance(failed, ConnectionFailed)
    assert failed.reason
    assert peer.sent[-1].payload[8:].decode() == failed.reason
    assert peer.feed(peer.headers(11)) == []
    assert not peer.connection.start_answer(1, b"")


ONE_CALL: list[tuple[str, Code, Callable[[Peer], bytes]]] = [
    ("more data than content-length says", Code.PROTOCOL_ERROR, lambda p: data(1, b"abcd")),
    ("less data than content-length says", Code.PROTOCOL_ERROR, lambda p: data(1, b"ab", end=True)),
    (
        "trailers before content-length is reached",
        Code.PROTOCOL_ERROR,
        lambda p: p.headers(1, [(b"x", b"y")], end=True),
    ),
    ("trailers that don't end the request", Code.PROTOCOL_ERROR, lambda p: p.headers(1, [(b"x", b"y")])),
    ("trailers with a pseudo-header", Code.PROTOCOL_ERROR, lambda p: p.headers(1, [(b":path", b"/")], end=True)),
    ("WINDOW_UPDATE by 0", Code.PROTOCOL_ERROR, lambda p: window_frame(1, 0)),
    ("too large a window", Code.FLOW_CONTROL_ERROR, lambda p: window_frame(1, 2**31 - 1)),
    ("PRIORITY of a wrong size", Code.FRAME_SIZE_ERROR, lambda p: frame(Kind.PRIORITY, 0, 1, b"\0\0\0\0")),
    ("PRIORITY of a stream on itself", Code.PROTOCOL_ERROR, lambda p: frame(Kind.PRIORITY, 0, 1, b"\0\0\0\1\1")),
]


@pytest.mark.parametrize(("code", "make"), [fault[1:] for fault in ONE_CALL], ids=[fault[0] for fault in ONE_CALL])
def test_a_fault_of_a_call_resets_it_and_harms_no_other(code: Code, make: Callable[[Peer], bytes]) -> None:
    peer = Peer()
    peer.open(1, more=[(b"content-length", b"3")])
    peer.feed(make(peer))
    assert peer.resets == [(1, code)]
    assert peer.goaway is None
    reset = peer.events[-1]
    assert isinstance(reset, StreamReset)
    assert (reset.stream, reset.code, reset.by_peer) == (1, code, False)
    assert not peer.connection.send_data(1, b"late")
    peer.open(3, end=True)
    peer.answer(3)
    assert peer.of(Kind.HEADERS)


def without(name: bytes) -> Fields:
    return [field for field in REQUEST if field[0] != name]


MALFORMED: list[tuple[str, Fields]] = [
    ("no :method", without(b":method")),
    ("no :scheme", without(b":scheme")),
    ("no :path", without(b":path")),
    ("an empty :path", [*without(b":path")[:2], (b":path", b"")]),
    (":path without a slash", [*without(b":path")[:2], (b":path", b"pkg.Service/Method")]),
    (":path of * for POST", [*without(b":path")[:2], (b":path", b"*")]),
    (":method twice", [(b":method", b"POST"), *REQUEST]),
    ("a pseudo-header of answers", [(b":status", b"200"), *REQUEST]),
    ("an unknown pseudo-header", [(b":protocol", b"websocket"), *REQUEST]),
    ("a pseudo-header after a field", [*REQUEST, (b":authority", b"x")]),
    ("an upper-case name", [*REQUEST, (b"X-Upper", b"y")]),
    ("a name with a space", [*REQUEST, (b"x y", b"z")]),
    ("an empty name", [*REQUEST, (b"", b"z")]),
    ("a name beyond ASCII", [*REQUEST, (b"x\xc3\xa4", b"z")]),
    ("a name with a colon", [*REQUEST, (b"x:y", b"z")]),
    ("a value with a line feed", [*REQUEST, (b"x", b"a\nb")]),
    ("a value with a carriage return", [*REQUEST, (b"x", b"a\rb")]),
    ("a value with NUL", [*REQUEST, (b"x", b"a\0b")]),
    ("a value with a space before", [*REQUEST, (b"x", b" a")]),
    ("a value with a tab behind", [*REQUEST, (b"x", b"a\t")]),
    ("a varying value with a line feed", [*REQUEST, (b"grpc-timeout", b"1\nS")]),
    ("connection", [*REQUEST, (b"connection", b"close")]),
    ("keep-alive", [*REQUEST, (b"keep-alive", b"1")]),
    ("proxy-connection", [*REQUEST, (b"proxy-connection", b"x")]),
    ("transfer-encoding", [*REQUEST, (b"transfer-encoding", b"chunked")]),
    ("upgrade", [*REQUEST, (b"upgrade", b"h2c")]),
    ("te other than trailers", [*without(b"te"), (b"te", b"gzip")]),
    ("content-length that is no number", [*REQUEST, (b"content-length", b"+5")]),
    ("content-length twice", [*REQUEST, (b"content-length", b"5"), (b"content-length", b"5")]),
    ("a host that is not the authority", [*REQUEST, (b"host", b"elsewhere")]),
    ("an authority with a user", [(b":authority", b"user@x"), *without(b":authority")]),
    ("a host with a user and a password", [*without(b":authority"), (b"host", b"user:password@x:1")]),
    ("host twice", [*without(b":authority"), (b"host", b"x"), (b"host", b"x")]),
    ("a timeout ahead of a pseudo-header", [(b"grpc-timeout", b"1S"), *REQUEST]),
    ("a timeout amid the pseudo-headers", [*REQUEST[:2], (b"grpc-timeout", b"1S"), *REQUEST[2:]]),
    ("CONNECT with a path", [(b":method", b"CONNECT"), *REQUEST[1:]]),
]


@pytest.mark.parametrize("fields", [fields for _, fields in MALFORMED], ids=[what for what, _ in MALFORMED])
@pytest.mark.parametrize("end", [True, False])
def test_a_malformed_request_is_reset_and_never_seen(fields: Fields, end: bool) -> None:
    peer = Peer()
    for stream in (1, 3):  # a second time, should the first have been remembered
        events = peer.feed(peer.headers(stream, fields, end=end))
        assert events == []
        assert peer.resets[-1] == (stream, Code.PROTOCOL_ERROR)
    assert peer.goaway is None
    peer.open(5)


def test_a_request_that_depends_on_itself_is_reset() -> None:
    peer = Peer()
    block = peer.encoder.encode(REQUEST)
    peer.feed(frame(Kind.HEADERS, END_HEADERS | PRIORITY, 1, b"\0\0\0\1\0" + block))
    assert peer.resets == [(1, Code.PROTOCOL_ERROR)]


def test_a_request_with_content_length_and_no_data_is_reset() -> None:
    peer = Peer()
    peer.feed(peer.headers(1, more=[(b"content-length", b"3")], end=True))
    assert peer.resets == [(1, Code.PROTOCOL_ERROR)]
    peer.feed(peer.headers(3, more=[(b"content-length", b"0")], end=True))
    assert isinstance(peer.events[-1], RequestReceived)


class TestClosedStreams:
    def test_frames_after_both_sides_ended_end_the_connection(self) -> None:
        for late in (data(1), lambda p: p.headers(1)):
            peer = Peer()
            peer.open(1, end=True)
            peer.answer(1)
            peer.feed(late if isinstance(late, bytes) else late(peer))
            assert peer.goaway is Code.STREAM_CLOSED

    def test_frames_after_the_requests_end_reset_the_call(self) -> None:
        for late in (data(1), lambda p: p.headers(1, [(b"x", b"y")], end=True)):
            peer = Peer()
            peer.open(1, end=True)
            peer.feed(late if isinstance(late, bytes) else late(peer))
            assert peer.resets == [(1, Code.STREAM_CLOSED)]
            assert peer.goaway is None

    def test_frames_after_the_peers_reset_are_a_fault_of_the_stream_once(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.feed(reset_frame(1, Code.CANCEL))
        peer.feed(data(1))
        assert peer.resets == [(1, Code.STREAM_CLOSED)]
        peer.feed(data(1) + data(1, end=True))
        assert peer.resets == [(1, Code.STREAM_CLOSED)]
        assert peer.goaway is None

    def test_frames_after_our_reset_are_ignored_but_counted_and_decoded(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.connection.reset(1, Code.CANCEL)
        peer.collect()
        trailers = peer.headers(1, [(b"x-new", b"inserted")], end=True)
        peer.feed(data(1, b"x" * 1000) + window_frame(1, 5) + trailers + reset_frame(1, Code.CANCEL))
        assert peer.resets == [(1, Code.CANCEL)]
        assert peer.goaway is None
        peer.feed(peer.headers(3, more=[(b"x-new", b"inserted")]))
        opened = peer.events[-1]
        assert isinstance(opened, RequestReceived)
        assert opened.request.fields[-1] == (b"x-new", b"inserted")

    def test_window_updates_and_resets_on_closed_streams_are_ignored(self) -> None:
        peer = Peer()
        peer.open(1, end=True)
        peer.answer(1)
        peer.feed(window_frame(1, 10) + reset_frame(1, Code.CANCEL) + frame(Kind.PRIORITY, 0, 1, b"\0\0\0\0\1"))
        assert peer.goaway is None
        assert peer.resets == []

    def test_streams_that_were_skipped_are_closed(self) -> None:
        peer = Peer()
        peer.open(9)
        peer.feed(window_frame(3, 1) + reset_frame(3, Code.CANCEL))
        assert peer.goaway is None

    def test_more_ended_streams_than_are_remembered_cost_no_memory(self) -> None:
        peer = Peer(limits=Limits(remembered=10))
        for stream in range(1, 201, 4):
            peer.open(stream)
            peer.feed(reset_frame(stream, Code.CANCEL))
            peer.open(stream + 2)
            peer.connection.reset(stream + 2, Code.CANCEL)
        assert len(peer.connection._cancelled) == len(peer.connection._abandoned) == 10


class TestThePreface:
    @pytest.mark.parametrize("size", range(1, 24))
    def test_it_may_come_in_pieces(self, size: int) -> None:
        peer = Peer(greet=False)
        peer.feed(PREFACE[:size])
        assert peer.sent == []
        peer.feed(PREFACE[size:] + settings_frame([])[:5])
        peer.feed(settings_frame([])[5:])
        assert [got.kind for got in peer.sent] == [Kind.SETTINGS, Kind.WINDOW_UPDATE, Kind.SETTINGS]

    @pytest.mark.parametrize("wrong", [b"X", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\x01", b"PRI * HTTP/1.1\r\n\r\n"])
    def test_another_one_fails_without_a_word_of_http2(self, wrong: bytes) -> None:
        peer = Peer(greet=False)
        assert isinstance(peer.feed(wrong)[0], ConnectionFailed)
        assert peer.connection.failed
        assert peer.sent == []

    def test_a_request_of_http_1_gets_an_answer_of_http_1(self) -> None:
        peer = Peer(greet=False)
        peer.connection.receive(b"POST /x HTTP/1.1\r\n", peer.now)
        assert peer.connection.take_output().startswith(b"HTTP/1.1 505 ")

    @pytest.mark.parametrize("first", [ping_frame(b"12345678", ack=False), settings_frame([])[:4] + b"\x01" + bytes(4)])
    def test_settings_have_to_come_first(self, first: bytes) -> None:
        peer = Peer(greet=False)
        peer.feed(PREFACE + first)
        assert peer.goaway is Code.PROTOCOL_ERROR


class TestTheTable:
    def test_every_state_says_what_each_frame_means(self) -> None:
        frames = {Input.HEADERS, Input.DATA, Input.RST_STREAM, Input.WINDOW_UPDATE}
        assert set(TRANSITIONS) == set(State)
        for state, inputs in TRANSITIONS.items():
            assert frames <= set(inputs), state

    def test_only_living_streams_can_be_ended_by_us(self) -> None:
        for state, inputs in TRANSITIONS.items():
            alive = state in (State.OPEN, State.HALF_CLOSED)
            assert (Input.SEND_END_STREAM in inputs) is alive
            assert (Input.SEND_RST_STREAM in inputs) is alive

    def test_faults_say_why(self) -> None:
        outcomes = [outcome for inputs in TRANSITIONS.values() for outcome in inputs.values()]
        assert all(outcome.reason for outcome in outcomes if isinstance(outcome, Fault))
        assert any(isinstance(outcome, Ignored) for outcome in outcomes)


def test_unknown_frames_flags_and_settings_are_ignored() -> None:
    peer = Peer()
    peer.feed(frame(Kind.PING, 0, 0, b"12345678")[:3] + b"\xfa\xff" + bytes(4) + b"12345678")
    peer.feed(struct.pack(">IBI", 6 << 8 | 4, 0, 0) + b"\xf0\xf0\0\0\0\1")
    peer.feed(struct.pack(">IBI", 8 << 8 | 6, 0xFE, 1 << 31) + b"12345678")
    assert peer.goaway is None
    peer.open(1)


def test_the_reserved_bit_of_a_stream_is_ignored() -> None:
    peer = Peer()
    head = peer.headers(1)
    peer.feed(head[:5] + bytes((head[5] | 0x80,)) + head[6:])
    assert isinstance(peer.events[-1], RequestReceived)
    assert peer.events[-1].stream == 1
