"""Windows both ways, and the calls that wait for them (RFC 9113 §5.2, §6.9); the ends of a connection."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from goloves.wire.http2 import (
    Code,
    DataReceived,
    Drained,
    Limits,
    PeerGoesAway,
    RequestReceived,
    RequestTooLarge,
    StreamReset,
    TrailersReceived,
)
from goloves.wire.http2.calls import DRAIN_PING
from goloves.wire.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_FRAME,
    MAX_STREAM,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    Kind,
    Setting,
    goaway_frame,
    ping_frame,
    reset_frame,
    settings_frame,
)
from wire.h2peer import HEAD, TRAILERS, Peer, data, frame, setting, window_frame


def sent_data(peer: Peer, stream: int) -> bytes:
    return b"".join(got.payload for got in peer.of(Kind.DATA) if got.stream == stream)


class TestSending:
    def test_data_waits_for_the_streams_window_and_trailers_wait_for_data(self) -> None:
        peer = Peer()
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 3))
        peer.open(1, end=True)
        peer.answer(1, b"abcdefgh")
        assert sent_data(peer, 1) == b"abc"
        assert len(peer.of(Kind.HEADERS)) == 1
        assert peer.connection.queued == 5
        peer.feed(window_frame(1, 4))
        assert sent_data(peer, 1) == b"abcdefg"
        peer.feed(window_frame(1, 4))
        assert sent_data(peer, 1) == b"abcdefgh"
        assert peer.sent[-1].flags & END_STREAM
        assert peer.connection.queued == peer.connection.calls == 0

    def test_streams_take_turns_at_the_connections_window(self) -> None:
        peer = Peer()
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 2**20))
        for stream in (1, 3, 5):
            peer.open(stream, end=True)
            peer.connection.start_answer(stream, HEAD)
            peer.connection.send_data(stream, b"x" * 70_000)
        peer.collect()
        peer.sent.clear()
        peer.feed(window_frame(0, 3 * MAX_FRAME))
        assert [got.stream for got in peer.of(Kind.DATA)] == [1, 3, 5, 3]  # of stream 1 only a rest was left
        peer.sent.clear()
        peer.feed(window_frame(0, 1))
        assert [len(got.payload) for got in peer.of(Kind.DATA)] == [1]
        peer.feed(window_frame(0, 2**20))
        assert peer.connection.queued == 0
        assert {event.stream for event in peer.events if isinstance(event, Drained)} == {1, 3, 5}

    def test_a_lowered_initial_window_can_make_a_streams_window_negative(self) -> None:
        peer = Peer()
        peer.open(1, end=True)
        peer.connection.start_answer(1, HEAD)
        peer.connection.send_data(1, b"x" * 1000)
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 0))
        peer.connection.send_data(1, b"yy")
        peer.collect()
        peer.feed(window_frame(1, 1000))
        assert sent_data(peer, 1) == b"x" * 1000
        peer.feed(window_frame(1, 1))
        assert sent_data(peer, 1) == b"x" * 1000 + b"y"
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 1))
        assert sent_data(peer, 1) == b"x" * 1000 + b"yy"

    def test_of_several_initial_windows_in_one_frame_the_last_one_counts(self) -> None:
        peer = Peer()
        peer.open(1, end=True)
        peer.open(3, end=True)
        peer.answer(1, b"x" * 100)
        names = [Setting.INITIAL_WINDOW_SIZE] * 3
        peer.feed(settings_frame(list(zip(names, (MAX_WINDOW, 0, 65_540), strict=True))))
        assert peer.goaway is None
        assert peer.connection._streams[3].send_window == 65_540

    def test_no_initial_window_in_between_may_be_too_large_for_a_call(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.feed(window_frame(1, 1))
        peer.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW), (Setting.INITIAL_WINDOW_SIZE, 10)]))
        assert peer.goaway is Code.FLOW_CONTROL_ERROR

    def test_settings_are_acknowledged_before_the_data_that_they_let_go(self) -> None:
        peer = Peer()
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 0))
        peer.open(1, end=True)
        peer.answer(1, b"abc")
        peer.sent.clear()
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 1000))
        assert [(got.kind, got.flags) for got in peer.sent[:2]] == [(Kind.SETTINGS, ACK), (Kind.DATA, 0)]

    def test_large_data_is_cut_into_frames_that_every_peer_takes(self) -> None:
        peer = Peer()
        peer.open(1, end=True)
        peer.answer(1, b"z" * 60_000)
        assert [len(got.payload) for got in peer.of(Kind.DATA)] == [MAX_FRAME] * 3 + [60_000 - 3 * MAX_FRAME]

    def test_a_large_block_continues_without_a_gap(self) -> None:
        peer = Peer()
        peer.open(1, end=True)
        peer.connection.start_answer(1, b"h" * 40_000)
        peer.collect()
        assert [(got.kind, got.flags) for got in peer.sent] == [
            (Kind.HEADERS, 0),
            (Kind.CONTINUATION, 0),
            (Kind.CONTINUATION, END_HEADERS),
        ]

    def test_what_waits_on_a_call_that_is_reset_is_dropped(self) -> None:
        peer = Peer()
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 0))
        for stream in (1, 3):
            peer.open(stream, end=True)
            peer.answer(stream, b"x" * 100)
        peer.feed(reset_frame(1, Code.CANCEL))
        assert peer.connection.queued == 100
        peer.connection.reset(3, Code.CANCEL)
        assert peer.connection.queued == 0
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 1000))
        assert peer.of(Kind.DATA) == []

    def test_an_answer_without_trailers_ends_with_an_empty_frame(self) -> None:
        peer = Peer()
        peer.open(1, end=True)
        peer.connection.start_answer(1, HEAD)
        peer.connection.send_data(1, b"body")
        peer.connection.end_answer(1)
        peer.collect()
        assert (peer.sent[-1].kind, peer.sent[-1].flags, peer.sent[-1].payload) == (Kind.DATA, END_STREAM, b"")

    def test_a_peer_that_lowers_its_table_hears_once_that_ours_is_empty(self) -> None:
        peer = Peer()
        peer.feed(setting(Setting.HEADER_TABLE_SIZE, 8192) + setting(Setting.HEADER_TABLE_SIZE, 4096))
        peer.open(1, end=True)
        peer.answer(1)
        assert peer.of(Kind.HEADERS)[0].payload == HEAD
        peer.feed(setting(Setting.HEADER_TABLE_SIZE, 100))
        peer.feed(setting(Setting.HEADER_TABLE_SIZE, 0))
        peer.open(3, end=True)
        peer.answer(3)
        assert [got.payload for got in peer.of(Kind.HEADERS)] == [b"\x20" + HEAD, TRAILERS]

    def test_a_call_answered_before_its_request_ended_is_reset_without_error(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.answer(1)
        assert [got.kind for got in peer.sent] == [Kind.HEADERS, Kind.DATA, Kind.HEADERS, Kind.RST_STREAM]
        assert peer.resets == [(1, Code.NO_ERROR)]
        assert peer.connection.calls == 0

    @given(st.lists(st.tuples(st.sampled_from(["send", "stream", "connection", "initial"]), st.integers(0, 40))))
    @settings(deadline=None)
    def test_no_window_is_ever_overdrawn_and_nothing_is_lost(self, steps: list[tuple[str, int]]) -> None:
        peer = Peer()
        peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, 20))
        streams = (1, 3, 5)
        for stream in streams:
            peer.open(stream, end=True)
            peer.connection.start_answer(stream, HEAD)
        window, initial = 65_535, 20
        windows = dict.fromkeys(streams, 20)
        given_to: dict[int, bytes] = dict.fromkeys(streams, b"")
        for number, (what, size) in enumerate(steps):
            stream = streams[number % 3]
            if what == "send" and size:
                piece = bytes((number % 256,)) * size
                given_to[stream] += piece
                peer.connection.send_data(stream, piece)
                peer.collect()
            elif what == "stream" and size:
                windows[stream] += size
                peer.feed(window_frame(stream, size))
            elif what == "connection" and size:
                window += size
                peer.feed(window_frame(0, size))
            elif what == "initial":
                for each in streams:
                    windows[each] += size - initial
                initial = size
                peer.feed(setting(Setting.INITIAL_WINDOW_SIZE, size))
            total = 0
            for each in streams:
                got = sent_data(peer, each)
                total += len(got)
                assert got == given_to[each][: len(got)]
                assert len(got) == min(len(given_to[each]), max(windows[each], len(got)))
            assert total <= window


class TestReceiving:
    def test_data_beyond_a_calls_window_resets_it(self) -> None:
        limits = Limits(stream_window=65_535, connection_window=200_000)
        peer = Peer(limits=limits)
        peer.open(1)
        for _ in range(4):
            peer.feed(data(1, b"x" * MAX_FRAME))
        assert peer.resets == [(1, Code.FLOW_CONTROL_ERROR)]
        peer.open(3)

    def test_data_beyond_the_connections_window_ends_it(self) -> None:
        peer = Peer(limits=Limits(stream_window=65_535, connection_window=65_535))
        peer.open(1)
        peer.open(3)
        for _ in range(2):
            peer.feed(data(1, b"x" * MAX_FRAME) + data(3, b"x" * MAX_FRAME))
        assert peer.goaway is Code.FLOW_CONTROL_ERROR

    def test_credit_is_given_back_when_half_a_window_is_used(self) -> None:
        peer = Peer(limits=Limits(stream_window=65_536, connection_window=65_536))
        peer.open(1)
        peer.feed(data(1, b"x" * MAX_FRAME) * 2)
        assert peer.of(Kind.WINDOW_UPDATE) == []
        peer.connection.credit(1, MAX_FRAME)
        peer.collect()
        assert peer.of(Kind.WINDOW_UPDATE) == []
        peer.connection.credit(1, MAX_FRAME)
        peer.collect()
        updates = [(got.stream, struct.unpack(">I", got.payload)[0]) for got in peer.of(Kind.WINDOW_UPDATE)]
        assert updates == [(0, 2 * MAX_FRAME), (1, 2 * MAX_FRAME)]

    def test_padding_is_credited_by_itself(self) -> None:
        peer = Peer(limits=Limits(stream_window=65_536, connection_window=65_536))
        peer.open(1)
        for _ in range(200):
            peer.feed(frame(Kind.DATA, PADDED, 1, b"\xff" + b"x" + bytes(255)))
            peer.connection.credit(1, 1)
        peer.collect()
        assert peer.resets == []
        assert peer.goaway is None

    def test_what_a_dead_call_did_not_use_goes_back_to_the_connection(self) -> None:
        peer = Peer(limits=Limits(stream_window=65_536, connection_window=65_536))
        for stream in range(1, 41, 2):
            peer.open(stream)
            peer.feed(data(stream, b"x" * MAX_FRAME))
            if stream % 4 == 1:
                peer.feed(reset_frame(stream, Code.CANCEL))
            else:
                peer.connection.reset(stream, Code.CANCEL)
                peer.feed(data(stream, b"x" * MAX_FRAME))
            peer.connection.credit(stream, MAX_FRAME)
            peer.collect()
        assert peer.goaway is None

    def test_events_come_in_the_order_of_the_frames(self) -> None:
        peer = Peer()
        peer.feed(
            peer.headers(1)
            + data(1, b"a")
            + data(1, b"b")
            + peer.headers(1, [(b"x-t", b"1")], end=True)
            + peer.headers(3, end=True)
        )
        assert [type(event) for event in peer.events] == [
            RequestReceived,
            DataReceived,
            DataReceived,
            TrailersReceived,
            RequestReceived,
        ]

    def test_a_request_in_pieces_is_the_same_request(self) -> None:
        whole, pieces = Peer(), Peer()
        stream = whole.headers(1, more=[(b"x-long", b"y" * 300)]) + data(1, b"abc", end=True)
        whole.feed(stream)
        for at in range(len(stream)):
            pieces.feed(stream[at : at + 1])
        assert [type(event) for event in whole.events] == [type(event) for event in pieces.events]
        first, second = whole.events[0], pieces.events[0]
        assert isinstance(first, RequestReceived)
        assert isinstance(second, RequestReceived)
        assert first.request.fields == second.request.fields

    def test_a_block_over_several_frames_is_one_block(self) -> None:
        peer = Peer()
        head = peer.headers(1, more=[(b"x-long", b"y" * 300)])[9:]
        peer.feed(frame(Kind.HEADERS, END_STREAM, 1, head[:5]))
        peer.feed(frame(Kind.CONTINUATION, 0, 1, head[5:9]) + frame(Kind.CONTINUATION, END_HEADERS, 1, head[9:]))
        event = peer.events[-1]
        assert isinstance(event, RequestReceived)
        assert event.ended
        assert event.request.fields[-1] == (b"x-long", b"y" * 300)

    def test_the_varying_field_is_told_apart_and_the_rest_is_shared(self) -> None:
        peer = Peer()
        got = []
        for number in range(4):
            peer.feed(peer.headers(2 * number + 1, more=[(b"grpc-timeout", b"%dS" % number)]))
            event = peer.events[-1]
            assert isinstance(event, RequestReceived)
            got.append(event)
        assert [event.varying for event in got] == [b"0S", b"1S", b"2S", b"3S"]
        assert len({id(event.request) for event in got}) == 1
        assert all(name != b"grpc-timeout" for name, _ in got[0].request.fields)

    def test_fields_over_the_limits_are_told_and_the_table_stays_right(self) -> None:
        peer = Peer(limits=Limits(header_list=1000, header_fields=20))
        peer.feed(peer.headers(1, more=[(b"x-new", b"inserted"), (b"x-big", b"y" * 1000)]))
        assert isinstance(peer.events[-1], RequestTooLarge)
        peer.feed(peer.headers(3, more=[(b"x", b"%d" % number) for number in range(20)]))
        assert isinstance(peer.events[-1], RequestTooLarge)
        assert peer.connection.calls == 2
        peer.feed(peer.headers(5, more=[(b"x-new", b"inserted")]))
        event = peer.events[-1]
        assert isinstance(event, RequestReceived)
        assert event.request.fields[-1] == (b"x-new", b"inserted")

    def test_more_calls_at_once_than_allowed_are_refused(self) -> None:
        peer = Peer(limits=Limits(streams=2))
        peer.open(1)
        peer.open(3)
        peer.feed(peer.headers(5))
        assert peer.resets == [(5, Code.REFUSED_STREAM)]
        peer.connection.reset(1, Code.CANCEL)
        peer.open(7)

    def test_a_reset_by_the_peer_is_told_with_its_code(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.feed(frame(Kind.RST_STREAM, 0, 1, b"\0\0\x12\x34"))
        event = peer.events[-1]
        assert isinstance(event, StreamReset)
        assert (event.code, event.by_peer) == (0x1234, True)


class TestTheEnd:
    def test_it_comes_in_two_stages(self) -> None:
        peer = Peer()
        peer.open(1)
        peer.connection.drain("maintenance")
        peer.collect()
        first, ping = peer.sent
        assert (first.kind, first.code) == (Kind.GOAWAY, Code.NO_ERROR)
        assert first.payload[:4] == struct.pack(">I", MAX_STREAM)
        assert first.payload[8:] == b"maintenance"
        assert ping.kind is Kind.PING
        peer.open(3)
        peer.feed(frame(Kind.PING, ACK, 0, DRAIN_PING))
        assert peer.sent[-1].payload[:4] == struct.pack(">I", 3)
        peer.feed(peer.headers(5, more=[(b"x-new", b"inserted")]))
        assert isinstance(peer.events[-1], RequestReceived)
        assert peer.events[-1].stream == 3
        assert not peer.connection.finished
        peer.answer(1)
        peer.feed(peer.headers(7) + data(7, b"x") + data(3, end=True))
        peer.answer(3)
        assert peer.connection.finished
        assert not peer.connection.failed

    def test_calls_after_it_cost_the_client_nothing_but_are_limited(self) -> None:
        peer = Peer()
        peer.connection.finish("now")
        for number in range(11_000):
            peer.feed(peer.headers(2 * number + 1))
        assert peer.connection.failed

    def test_a_connection_that_never_had_a_call_names_stream_0(self) -> None:
        peer = Peer()
        peer.connection.finish("now")
        peer.collect()
        assert peer.sent[0].payload[:4] == bytes(4)
        assert peer.connection.finished

    def test_it_is_announced_behind_our_settings(self) -> None:
        for stages in (["drain"], ["drain", "finish"], ["finish"]):
            peer = Peer(greet=False)
            for stage in stages:
                getattr(peer.connection, stage)("the end")
            peer.collect()
            assert not peer.sent
            peer.feed(PREFACE)
            assert [got.kind for got in peer.sent[:2]] == [Kind.SETTINGS, Kind.WINDOW_UPDATE]
            assert [got.kind for got in peer.sent if got.kind is Kind.GOAWAY] == [Kind.GOAWAY] * len(stages)

    def test_it_comes_once_when_the_last_stream_of_all_has_been_used(self) -> None:
        peer = Peer()
        peer.open(MAX_STREAM, end=True)
        peer.connection.finish("the end")
        peer.connection.finish("the end")
        peer.answer(MAX_STREAM)
        assert peer.connection.finished
        assert [struct.unpack_from(">I", got.payload)[0] for got in peer.of(Kind.GOAWAY)] == [MAX_STREAM]

    def test_no_stream_follows_the_last_one(self) -> None:
        peer = Peer()
        peer.open(MAX_STREAM - 2)
        peer.open(MAX_STREAM)
        peer.feed(peer.headers(MAX_STREAM + 2))  # stream 1 with the reserved bit
        assert peer.goaway is Code.PROTOCOL_ERROR
        assert peer.connection.calls == 0

    def test_a_peer_that_goes_away_is_heard(self) -> None:
        peer = Peer()
        peer.feed(goaway_frame(0, Code.NO_ERROR, "bye"))
        event = peer.events[-1]
        assert isinstance(event, PeerGoesAway)
        assert (event.code, event.reason) == (Code.NO_ERROR, "bye")

    def test_pings_are_answered_with_their_payload(self) -> None:
        peer = Peer()
        peer.feed(ping_frame(b"abcdefgh", ack=False))
        assert [(got.flags, got.payload) for got in peer.sent] == [(ACK, b"abcdefgh")]
