"""What a connection may hold and how long it may take, at the level of the server."""

import asyncio
import socket
import ssl
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import hpack
import pytest

from goloves.server.grpc.connection import DROPPED, GrpcConnection
from goloves.server.grpc.limits import GrpcLimits
from goloves.server.grpc.methods import Call, Method, Service
from goloves.server.grpc.routes import REFUSED_OCTETS
from goloves.server.grpc.shared import GrpcShared
from goloves.server.tls import Certificates
from goloves.wire.http2.frames import PREFACE, SETTINGS_ACK, settings_frame
from server.grpc.certificates import self_signed
from server.grpc.echo import NAME, Echo, ask
from server.grpc.live import LiveGrpc
from server.grpc.raw import (
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PING,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    GoneError,
    RawClient,
    call_fields,
    frame,
    prefixed,
)
from server.test_http_writes import Recorder

ONCE, GATHER, SPREAD, CHAT = (f"/{NAME}/{method}" for method in ("Once", "Gather", "Spread", "Chat"))
DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 4, 8, 14
WIDE = [(4, 2**31 - 1)]


def whole(text: str = "hi", **more: object) -> bytes:
    return prefixed(ask(text, **more).SerializeToString())


def calls(client: RawClient, first: int, count: int, body: bytes, path: str = ONCE) -> bytes:
    """Give many whole calls in one piece."""
    made = []
    for stream in range(first, first + 2 * count, 2):
        block = client.encoder.encode(call_fields(path))
        made.append(frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body))
    return b"".join(made)


class TestAnswers:
    def test_an_answer_that_took_time_leaves_at_once(self) -> None:
        """Nothing else is read and no tick comes that would take it along."""
        with LiveGrpc([Echo().service()], ticks=False) as server, RawClient(server.port) as client:
            for path in (ONCE, GATHER, SPREAD, CHAT):
                stream = client.open(call_fields(path))
                client.data(stream, whole(wait=0.05, times=1), end=True)
                assert client.answer(stream).status == 0

    def test_an_error_that_took_time_and_a_deadline_leave_at_once(self) -> None:
        with LiveGrpc([Echo().service()], ticks=False) as server, RawClient(server.port) as client:
            assert client.call(ONCE, whole(wait=0.05, fail=9)).status == 9
            assert client.call(ONCE, whole(wait=30.0), ("grpc-timeout", "50m")).status == DEADLINE_EXCEEDED


class TestDeadlines:
    """A client that has no timer of its own is told when its deadline has passed."""

    @pytest.mark.parametrize("path", [ONCE, GATHER, SPREAD, CHAT])
    def test_a_handler_that_works_on_is_cancelled_at_the_deadline(self, path: str) -> None:
        echo = Echo()
        with LiveGrpc([echo.service()], ticks=False) as server, RawClient(server.port) as client:
            assert client.call(path, whole("slow", wait=60.0), ("grpc-timeout", "1S")).status == DEADLINE_EXCEEDED
            server.wait_for(lambda: echo.seen == ["slow", "cancelled"])

    @pytest.mark.parametrize("path", [ONCE, GATHER, SPREAD, CHAT])
    def test_a_request_that_does_not_end_is_not_awaited_beyond_the_deadline(self, path: str) -> None:
        with LiveGrpc([Echo().service()], ticks=False) as server, RawClient(server.port) as client:
            stream = client.open(call_fields(path, ("grpc-timeout", "50m")))
            client.data(stream, whole())
            assert client.answer(stream).status == DEADLINE_EXCEEDED

    def test_a_stream_whose_deadline_passes_has_given_what_came_before(self) -> None:
        with LiveGrpc([Echo().service()], ticks=False) as server, RawClient(server.port) as client:
            answer = client.call(SPREAD, whole(times=3, wait=60.0), ("grpc-timeout", "1S"))
            assert answer.data.count(b"hi") == 3
            assert dict(answer.trailers)["grpc-status"] == str(DEADLINE_EXCEEDED)


class TestClientsThatDoNotTakeTheirAnswers:
    SIZE = 60_000

    @pytest.mark.parametrize("path", [ONCE, SPREAD, CHAT])
    def test_many_calls_in_one_read_queue_no_more_than_the_limit_and_one_answer(self, path: str) -> None:
        limits = GrpcLimits(max_queued=300_000)
        with (
            LiveGrpc([Echo().service()], limits) as server,
            RawClient(server.port, settings=[(4, 0)], credit=False) as client,
        ):
            client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535)))
            client.ping()
            if path == ONCE:
                count, body = 200, whole("x" * (self.SIZE // 100), times=100)
            else:
                count, body = 60, whole("x", times=1, body=b"x" * 15_000)
            client.send(calls(client, 1, count, body, path))
            server.wait_for(lambda: server.shared.unread > 300_000)
            client.ping()
            assert server.call(lambda: server.shared.unread) <= 300_000 + 2 * self.SIZE
            client.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**20)))
            answers = [client.answer(stream) for stream in range(1, 2 * count, 2)]
            assert {answer.status for answer in answers} == {0}
            server.wait_for(lambda: server.shared.unread == 0)

    def test_a_call_that_ends_while_it_waits_for_the_client_leaves_nothing(self) -> None:
        limits = GrpcLimits(max_queued=65_536)
        with (
            LiveGrpc([Echo().service()], limits) as server,
            RawClient(server.port, settings=[(4, 0)], credit=False) as client,
        ):
            for _ in range(2):
                client.data(client.open(call_fields(ONCE)), whole("x" * 600, times=100), end=True)
            client.ping()
            connection = server.call(server.shared.connections)[0]
            server.wait_for(lambda: connection.congested)
            parked = []
            for more in ([], [("grpc-timeout", "100m")]):
                parked.append(client.open(call_fields(ONCE, *more)))
                client.data(parked[-1], whole("waits"), end=True)
            client.ping()
            server.wait_for(lambda: len(connection._parked) == 1)  # the other one's deadline has passed
            assert server.call(lambda: server.shared.held) == len(whole("waits")) - 5
            client.send(frame(RST_STREAM, 0, parked[0], struct.pack(">I", 8)))
            server.wait_for(lambda: not connection._parked)
            assert server.call(lambda: server.shared.held) == 0

    def test_one_that_is_not_read_from_is_not_blamed_for_what_it_could_not_send(self) -> None:
        def hurry(shared: GrpcShared) -> None:
            shared.wire_limits = replace(shared.wire_limits, frame=1.0)

        limits = GrpcLimits(request_timeout=1.0)
        with (
            LiveGrpc([Echo().service()], limits, adjust=hurry) as server,
            RawClient(server.port, settings=WIDE, credit=False, buffers=4096) as client,
        ):
            client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535)))
            client.ping()
            block = client.encoder.encode(call_fields(ONCE))
            last = frame(HEADERS, END_HEADERS, 41, block) + frame(DATA, END_STREAM, 41, whole("last"))
            client.send(calls(client, 1, 20, whole("x" * 600, times=1000)) + last[:-3])
            connection = server.call(server.shared.connections)[0]
            server.wait_for(lambda: connection.wire.paused)
            paused_at = server.call(server.loop.time)
            server.wait_for(lambda: server.loop.time() > paused_at + 2.5)
            client.send(last[-3:])
            assert client.answer(41).status == 0

    def test_one_that_takes_nothing_is_cut_in_the_end(self) -> None:
        limits = GrpcLimits(write_timeout=1.0)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port, settings=[(4, 0)]) as client:
            client.open(call_fields(ONCE))
            client.data(1, whole(), end=True)
            assert isinstance(client.gone(), GoneError)
            assert server.call(lambda: server.shared.counters.cut_unread) == 1

    def test_too_much_unread_over_all_cuts_the_one_that_stalled_first(self) -> None:
        limits = GrpcLimits(max_queued=10_000_000, max_unread=1_048_576)
        with LiveGrpc([Echo().service()], limits) as server:
            clients = [RawClient(server.port, settings=[(4, 0)]) for _ in range(3)]
            for client in clients:
                for _ in range(7):
                    client.data(client.open(call_fields(ONCE)), whole("x" * 600, times=100), end=True)
                client.ping()
            server.wait_for(lambda: server.shared.counters.cut_too_much_unread)
            assert isinstance(clients[0].gone(), GoneError)
            assert server.call(lambda: server.shared.unread) <= 1_048_576
            for client in clients:
                client.socket.close()


class TestCallsThatCouldBeAnsweredAtOnce:
    """They wait like others while the client does not take what it gets."""

    @staticmethod
    def service() -> Service:
        async def large(request: bytes, call: Call) -> bytes:
            return bytes(100_000)

        async def never(request: bytes, call: Call) -> bytes:
            raise AssertionError(request)

        return Service(
            "a.B",
            {"Large": Method(bytes, bytes, large), "Quick": Method(bytes, bytes, never, quick=lambda asked: asked)},
        )

    async def test_while_the_transport_is_full(self) -> None:
        connection = GrpcConnection(GrpcShared([self.service()]))
        connection.connection_made(Recorder())
        connection.data_received(PREFACE + settings_frame([]) + SETTINGS_ACK)
        block = hpack.Encoder().encode(call_fields("/a.B/Quick"))

        def ask_on(stream: int) -> int:
            body = frame(DATA, END_STREAM, stream, prefixed(b""))
            connection.data_received(frame(HEADERS, END_HEADERS, stream, block) + body)
            return connection.served

        assert [ask_on(stream) for stream in (1, 3)] == [1, 2]
        connection.pause_writing()
        assert [ask_on(stream) for stream in (5, 7)] == [2, 2]
        connection.resume_writing()
        assert connection.served == 4
        assert ask_on(9) == 5
        assert connection.wire.quick_answers == 3

    def test_while_answers_before_them_wait_for_the_clients_windows(self) -> None:
        limits = GrpcLimits(max_queued=65_536)
        with (
            LiveGrpc([self.service()], limits) as server,
            RawClient(server.port, settings=[(4, 20_000)], credit=False) as client,
        ):
            client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535)))
            large = client.open(call_fields("/a.B/Large"))
            client.data(large, prefixed(b""), end=True).ping()
            (connection,) = server.call(server.shared.connections)
            server.wait_for(lambda: connection.wire.queued)
            client.send(calls(client, 3, 5, prefixed(b""), "/a.B/Quick")).ping()
            assert client.ended == set()
            client.send(frame(WINDOW_UPDATE, 0, large, struct.pack(">I", 100_000)))
            assert {client.answer(stream).status for stream in range(1, 13, 2)} == {0}
            client.send(calls(client, 13, 5, prefixed(b""), "/a.B/Quick"))
            assert {client.answer(stream).status for stream in range(13, 23, 2)} == {0}
            assert server.call(lambda: connection.wire.quick_answers) == 5


class TestRequestsThatAreNotWhole:
    def test_a_half_sent_message_ends_its_call_in_time(self) -> None:
        with LiveGrpc([Echo().service()], GrpcLimits(request_timeout=0.3)) as server:
            for path in (ONCE, GATHER, SPREAD, CHAT):
                with RawClient(server.port) as client:
                    stream = client.open(call_fields(path))
                    client.data(stream, whole()[:-1])
                    assert client.answer(stream).status == DEADLINE_EXCEEDED

    @pytest.mark.parametrize("path", [ONCE, SPREAD])
    @pytest.mark.parametrize("sent", [b"", whole()], ids=["nothing", "all but the end"])
    def test_a_call_whose_only_message_is_awaited_ends_in_time(self, path: str, sent: bytes) -> None:
        with (
            LiveGrpc([Echo().service()], GrpcLimits(request_timeout=0.2)) as server,
            RawClient(server.port) as client,
        ):
            stream = client.open(call_fields(path))
            if sent:
                client.data(stream, sent)
            assert client.answer(stream).status == DEADLINE_EXCEEDED
            assert "did not come whole" in client.answers[stream].message

    def test_a_request_of_plain_http_that_does_not_end_is_refused_in_time(self) -> None:
        with (
            LiveGrpc([Echo().service()], GrpcLimits(request_timeout=0.2)) as server,
            RawClient(server.port) as client,
        ):
            stream = client.open(call_fields(ONCE, content_type="text/plain"))
            client.data(stream, b"begun")
            assert dict(client.answer(stream).head)[":status"] == "415"

    def test_a_request_of_plain_http_is_not_read_without_end_before_it_is_refused(self) -> None:
        with LiveGrpc([Echo().service()]) as server, RawClient(server.port) as client:
            stream = client.open(call_fields(ONCE, content_type="text/plain"))
            client.data(stream, b"x" * REFUSED_OCTETS).ping()
            assert stream not in client.ended
            client.data(stream, b"x")
            assert dict(client.answer(stream).head)[":status"] == "415"

    def test_a_stream_between_messages_may_take_its_time(self) -> None:
        with (
            LiveGrpc([Echo().service()], GrpcLimits(request_timeout=0.1)) as server,
            RawClient(server.port) as client,
        ):
            stream = client.open(call_fields(CHAT))
            client.data(stream, whole("first"))
            client.read_until(DATA, stream)
            until = time.monotonic() + 0.6
            while time.monotonic() < until:
                client.socket.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    client.read_frame()
            client.socket.settimeout(20)
            client.data(stream, whole("last"), end=True)
            assert client.answer(stream).status == 0

    def test_what_the_calls_of_one_connection_hold_is_limited(self) -> None:
        limits = GrpcLimits(max_held=4_194_304, max_message=100_000)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
            streams = []
            for _ in range(15):
                stream = client.open(call_fields(ONCE))
                client.data(stream, struct.pack(">BI", 0, 90_000) + b"x" * 80_000)
                streams.append(stream)
            client.call("/after.All/Before", b"")
            refused = [stream for stream in streams if stream in client.ended]
            assert len(refused) == 12
            assert all(client.answers[stream].status == RESOURCE_EXHAUSTED for stream in refused)
            assert server.call(lambda: server.shared.held) <= 4_194_304 // 16
            for stream in streams:
                client.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
            server.wait_for(lambda: server.shared.held == 0)

    def test_two_messages_of_any_size_may_always_be_on_their_way(self) -> None:
        limits = GrpcLimits(max_held=1_048_576, max_message=200_000)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
            body = whole("x", body=b"x" * 190_000)
            streams = [client.open(call_fields(ONCE)) for _ in range(2)]
            for stream in streams:
                client.data(stream, body[:-1])
            for stream in streams:
                client.data(stream, body[-1:], end=True)
                assert client.answer(stream).status == 0

    def test_one_connection_that_holds_much_harms_no_stream_of_another(self) -> None:
        limits = GrpcLimits(max_held=1_048_576, max_message=20_000)
        with (
            LiveGrpc([Echo().service()], limits) as server,
            RawClient(server.port) as greedy,
            RawClient(server.port) as bystander,
        ):
            chat = bystander.open(call_fields(CHAT))
            for number in range(1, 100):
                half = greedy.open(call_fields(ONCE))
                greedy.data(half, struct.pack(">BI", 0, 20_000) + b"x" * 15_000)
                bystander.data(chat, whole(str(number)))
                bystander.read_until(DATA, chat)
            assert chat not in bystander.ended
            greedy.ping()
            assert [greedy.answers[stream].status for stream in sorted(greedy.ended)] == [RESOURCE_EXHAUSTED] * 95

    def test_too_much_over_all_ends_the_calls_of_those_that_hold_the_most(self) -> None:
        limits = GrpcLimits(max_held=1_048_576, max_message=20_000)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as modest:
            stream = modest.open(call_fields(ONCE))
            modest.data(stream, whole()[:-1]).ping()
            greedy = [RawClient(server.port) for _ in range(20)]
            for client in greedy:
                for _ in range(4):
                    half = client.open(call_fields(ONCE))
                    client.data(half, struct.pack(">BI", 0, 20_000) + b"x" * 15_000)
                client.ping()
                assert server.call(lambda: server.shared.held) <= 1_048_576
            ended = [client for client in greedy if client.ping().ended]
            assert ended
            assert {answer.status for client in ended for answer in client.answers.values()} == {RESOURCE_EXHAUSTED}
            assert not greedy[-1].ended
            assert modest.data(stream, whole()[-1:], end=True).answer(stream).status == 0
            for client in greedy:
                client.socket.close()
            server.wait_for(lambda: server.shared.held == 0)


class Full(Recorder):
    """A transport that holds as much as it is told."""

    left = 0

    def get_write_buffer_size(self) -> int:
        return self.left


def quiet(service: Service | None = None, **limits: Any) -> tuple[GrpcConnection, Full]:
    """Give a connection without a socket, on which nothing is sent by itself."""
    shared = GrpcShared([service or Echo().service()], GrpcLimits(keepalive=3600.0, **limits))
    connection, transport = GrpcConnection(shared), Full()
    connection.connection_made(transport)
    connection.data_received(PREFACE + settings_frame([]) + SETTINGS_ACK)
    return connection, transport


class TestUnread:
    async def test_few_octets_count_and_are_cut_in_time_too(self) -> None:
        connection, transport = quiet(write_timeout=10.0)
        shared, now = connection.shared, connection.shared.loop.time()
        transport.left = 100_000
        connection.look_after(now)
        assert shared.unread == 100_000
        connection.look_after(now + 9)
        assert not transport.aborted
        connection.look_after(now + 11)
        assert transport.aborted
        assert shared.counters.cut_unread == 1

    async def test_those_of_all_clients_together_have_a_limit(self) -> None:
        connection, transport = quiet(max_unread=2**20)
        others = [GrpcConnection(connection.shared) for _ in range(11)]
        transports = [transport, *(Full() for _ in others)]
        now = connection.shared.loop.time()
        for each, held in zip([connection, *others], transports, strict=True):
            if each is not connection:
                each.connection_made(held)
            held.left = 100_000
            each.look_after(now)
        assert [held.aborted for held in transports] == [True, True] + [False] * 10
        assert connection.shared.counters.cut_too_much_unread == 2

    async def test_who_takes_something_now_and_then_is_not_cut(self) -> None:
        connection, transport = quiet(write_timeout=10.0)
        begin = connection.shared.loop.time()
        transport.left = 400_000
        connection.pause_writing()
        for second in range(0, 100, 5):
            transport.left -= 1
            connection.look_after(begin + second)
        assert not transport.aborted
        connection.look_after(begin + 106)
        assert transport.aborted

    @pytest.mark.parametrize("takes", [True, False])
    async def test_who_takes_less_than_is_written_is_not_cut(self, takes: bool) -> None:
        connection, transport = quiet(write_timeout=10.0)
        begin = connection.shared.loop.time()
        transport.left = 1000
        for second in range(0, 40, 5):
            written = len(b"".join(transport.written))
            connection.data_received(frame(PING, 0, 0, bytes(8)) if second % 20 == 0 else b"")
            transport.left += len(b"".join(transport.written)) - written
            transport.left -= takes
            connection.look_after(begin + second)
        assert transport.aborted is not takes

    async def test_none_are_left_once_they_were_taken(self) -> None:
        connection, transport = quiet(write_timeout=10.0)
        now = connection.shared.loop.time()
        for second in (0, 100):
            transport.left = 1000
            connection.look_after(now + second)
            transport.left = 0
            connection.look_after(now + second + 1)
            assert connection.shared.unread == 0
        assert not transport.aborted


class TestTurns:
    async def test_who_sends_much_lets_others_go_first(self) -> None:
        connection, transport = quiet()
        unknown = frame(0xF1, 0, 0, b"")
        connection.data_received(unknown * 1000)
        assert transport.reading
        connection.data_received(unknown * 7500)
        assert not transport.reading
        await asyncio.sleep(0)
        assert transport.reading

    async def test_who_is_not_read_from_for_other_reasons_is_not_read_from_then(self) -> None:
        connection, transport = quiet()
        connection.data_received(frame(0xF1, 0, 0, b"") * 7500)
        connection.pause_writing()
        await asyncio.sleep(0)
        assert not transport.reading
        connection.resume_writing()
        assert transport.reading


class TestHeads:
    async def test_large_ones_are_held_as_long_as_their_calls(self) -> None:
        connection, _ = quiet(max_held=2**20)
        shared, encoder = connection.shared, hpack.Encoder()
        encoder.header_table_size = 0

        def head(number: int, octets: int) -> bytes:
            fields = call_fields(CHAT, ("x-large", f"{number:03}" + "v" * octets))
            return frame(HEADERS, END_HEADERS, 1 + 2 * number, encoder.encode(fields, huffman=False))

        connection.data_received(head(0, 1000))
        assert shared.held == 0
        for number in range(1, 4):
            connection.data_received(head(number, 10_000))
        assert 30_000 < shared.held < 33_000
        connection.data_received(frame(RST_STREAM, 0, 3, bytes(4)))
        assert 20_000 < shared.held < 22_000
        for number in range(4, 50):
            connection.data_received(head(number, 10_000))
        assert shared.held_share - 11_000 < shared.held <= shared.held_share
        assert connection.wire.calls == len(connection._calls) < 20
        connection.connection_lost(None)
        assert shared.held == 0


class TestSettings:
    """What an operator sets reaches the wire."""

    def test_more_calls_at_once_than_announced_are_refused(self) -> None:
        with LiveGrpc([Echo().service()], GrpcLimits(max_streams=2)) as server, RawClient(server.port) as client:
            streams = [client.open(call_fields(GATHER)) for _ in range(3)]
            assert client.answer(streams[2]).reset == REFUSED_STREAM
            assert client.settings[MAX_CONCURRENT_STREAMS] == 2
            for stream in streams[:2]:
                assert client.data(stream, b"", end=True).answer(stream).status == 0

    def test_fields_of_a_call_may_be_as_large_as_announced(self) -> None:
        limits = GrpcLimits(max_metadata=32_768)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
            assert client.call(ONCE, whole(), ("x-big", "v" * 30_000)).status == 0
            assert client.call(ONCE, whole(), ("x-big", "v" * 40_000)).status == RESOURCE_EXHAUSTED
            assert client.settings[MAX_HEADER_LIST_SIZE] == 32_768

    def test_a_lower_limit_of_fields_holds_for_what_they_say_and_for_what_is_sent(self) -> None:
        limits = GrpcLimits(max_metadata=1024)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
            assert client.call(ONCE, whole(), ("x-big", "v" * 1000)).status == RESOURCE_EXHAUSTED
            assert client.call(ONCE, whole()).status == 0
            client.open(call_fields(ONCE, ("x-big", "v" * 20_000)))
            assert client.gone().code == ENHANCE_YOUR_CALM

    def test_a_client_may_ping_as_often_as_is_set(self) -> None:
        for min_ping in (0.0, 300.0):
            limits = GrpcLimits(min_ping=min_ping)
            with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
                stream = client.open(call_fields(GATHER))
                if min_ping:
                    with pytest.raises(GoneError, match="too_many_pings"):
                        for _ in range(10):
                            client.ping()
                else:
                    for _ in range(10):
                        client.ping()
                    assert client.data(stream, b"", end=True).answer(stream).status == 0


def reads_why_while_it_sends(client: RawClient) -> None:
    """Break a rule in the middle of an upload."""
    stream = client.open(call_fields(GATHER))
    client.data(stream, whole())
    client.send(frame(DATA, 0, 0, b"on stream 0") + frame(DATA, 0, stream, b"x" * 16_000) * 200)
    gone = client.gone()
    assert (gone.code, gone.reset) == (PROTOCOL_ERROR, False)
    assert "stream 0" in gone.reason


class TestConnections:
    def test_calls_are_counted_on_open_and_closed_connections(self) -> None:
        with LiveGrpc([Echo().service()]) as server:
            with RawClient(server.port) as client:
                for _ in range(3):
                    client.call(ONCE, whole())
                assert server.call(lambda: server.shared.calls) == 3
            server.wait_for(lambda: server.shared.open == 0)
            assert server.call(lambda: server.shared.calls) == 3

    def test_one_without_a_call_is_let_go_in_time(self) -> None:
        with LiveGrpc([Echo().service()], GrpcLimits(idle_timeout=1.0)) as server, RawClient(server.port) as client:
            client.call(ONCE, whole())
            gone = client.gone()
            assert (gone.code, gone.reset) == (0, False)
            assert server.call(lambda: server.shared.counters.cut_idle) == 1

    def test_one_that_never_makes_a_call_is_let_go_in_time_too(self) -> None:
        with LiveGrpc([Echo().service()], GrpcLimits(idle_timeout=0.3)) as server, RawClient(server.port) as client:
            gone = client.gone()
            assert (gone.code, gone.reset) == (0, False)
            assert server.call(lambda: server.shared.counters.cut_idle) == 1

    async def test_one_whose_calls_are_all_answered_at_once_is_not_idle(self) -> None:
        async def never(request: bytes, call: Call) -> bytes:
            raise AssertionError(request)

        service = Service("a.B", {"Call": Method(bytes, bytes, never, quick=lambda message: message)})
        connection, _ = quiet(service, idle_timeout=60.0)
        shared = connection.shared
        block = hpack.Encoder().encode(call_fields("/a.B/Call"))
        begin = shared.loop.time()
        for number in range(5):
            body = frame(DATA, END_STREAM, 1 + 2 * number, prefixed(b""))
            connection.data_received(frame(HEADERS, END_HEADERS, 1 + 2 * number, block) + body)
            connection.look_after(begin + 50 * (number + 1))
        assert connection.served == 5
        assert not connection.retiring
        connection.look_after(begin + 311)
        assert connection.retiring
        assert shared.counters.cut_idle == 1

    def test_one_that_is_old_finishes_its_calls_and_goes(self) -> None:
        with LiveGrpc([Echo().service()], GrpcLimits(max_age=1.0)) as server, RawClient(server.port) as client:
            stream = client.open(call_fields(ONCE))
            client.data(stream, whole("long", wait=3.0), end=True)
            assert client.answer(stream).status == 0
            gone = client.gone()
            assert (gone.code, gone.reset) == (0, False)

    def test_one_that_is_old_has_its_endless_calls_cut_after_the_grace(self) -> None:
        limits = GrpcLimits(max_age=1.0, max_age_grace=0.2)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
            client.data(client.open(call_fields(ONCE)), whole(wait=60.0), end=True)
            assert client.gone().code == 0

    def test_one_that_is_old_lets_streams_go_at_rest_and_uploads_go_on(self) -> None:
        with LiveGrpc([Echo().service()], GrpcLimits(max_age=1.0)) as server, RawClient(server.port) as client:
            upload, chat = (client.open(call_fields(path)) for path in (GATHER, CHAT))
            client.data(upload, whole("one"))
            client.read_until(GOAWAY)
            connection = server.call(server.shared.connections)[0]
            assert server.call(lambda: connection.retiring)
            client.data(chat, whole("still taken"))
            client.read_until(DATA, chat)
            assert client.answer(chat).status == UNAVAILABLE
            assert server.call(lambda: connection.resting)
            client.data(upload, whole("two"))
            client.ping()
            client.data(upload, whole("three"), end=True)
            assert client.answer(upload).status == 0
            assert b"one,two,three" in client.answers[upload].data
            gone = client.gone()
            assert (gone.code, gone.reset) == (0, False)

    def test_one_whose_client_is_silent_is_pinged_and_cut(self) -> None:
        limits = GrpcLimits(keepalive=1.0, keepalive_timeout=0.3)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
            client.call(ONCE, whole())
            assert client.read_until(6).payload  # answered by the client, which so lives on
            client.socket.settimeout(20)
            buffer = b""
            while chunk := client.socket.recv(4096):  # reads and answers nothing any more
                buffer += chunk
            assert server.call(lambda: server.shared.counters.cut_silent) == 1

    @pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
    def test_one_that_never_begins_is_let_go(self, said: bytes) -> None:
        def hurry(shared: GrpcShared) -> None:
            shared.wire_limits = replace(shared.wire_limits, handshake=0.3)

        with LiveGrpc([Echo().service()], adjust=hurry) as server, RawClient(server.port, greet=False) as client:
            client.send(said)
            assert not client.gone().reset

    def test_one_too_many_is_closed_and_room_is_made_again(self) -> None:
        limits = GrpcLimits(max_connections=2)
        with LiveGrpc([Echo().service()], limits) as server:
            with RawClient(server.port) as first, RawClient(server.port) as second:
                first.ping()
                second.ping()
                with RawClient(server.port) as third:
                    assert isinstance(third.gone(), GoneError)
            server.wait_for(lambda: server.shared.open == 0)
            with RawClient(server.port) as again:
                again.ping()
            assert server.call(lambda: server.shared.counters.refused_connections) == 1

    def test_one_address_may_hold_only_its_share(self) -> None:
        limits = GrpcLimits(max_connections_per_address=1)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as first:
            first.ping()
            with RawClient(server.port) as second:
                assert isinstance(second.gone(), GoneError)
            assert server.call(lambda: server.shared.counters.refused_per_address) == 1

    def test_one_that_is_refused_while_it_sends_reads_why_and_gets_no_reset(self) -> None:
        with LiveGrpc([Echo().service()]) as server, RawClient(server.port) as client:
            reads_why_while_it_sends(client)

    def test_one_that_is_refused_over_tls_while_it_sends_reads_why_too(self, tmp_path: Path) -> None:
        files = self_signed().write(tmp_path, "server")
        context = ssl.create_default_context(cafile=str(files[0]))
        context.set_alpn_protocols(["h2"])
        with (
            LiveGrpc([Echo().service()], tls=Certificates(*files)) as server,
            RawClient(server.port, tls=context) as client,
        ):
            reads_why_while_it_sends(client)

    def test_one_that_was_refused_and_stays_is_cut_after_a_while(self) -> None:
        limits = GrpcLimits(linger_timeout=0.2)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
            client.send(frame(DATA, 0, 0, b"on stream 0"))
            assert client.gone().code == PROTOCOL_ERROR
            server.wait_for(lambda: server.shared.open == 0)

    def test_one_that_was_refused_and_sends_on_without_end_is_cut(self) -> None:
        limits = GrpcLimits(linger_timeout=600.0)
        with LiveGrpc([Echo().service()], limits) as server, RawClient(server.port) as client:
            client.send(frame(DATA, 0, 0, b"on stream 0"))
            assert client.gone().code == PROTOCOL_ERROR
            (connection,) = server.call(server.shared.connections)
            nearly = DROPPED - 100
            client.send(bytes(nearly))
            server.wait_for(lambda: connection._dropped >= nearly)
            assert server.call(lambda: server.shared.open) == 1
            client.send(bytes(200))
            server.wait_for(lambda: server.shared.open == 0)

    def test_one_whose_client_goes_away_is_closed_when_its_calls_are_answered(self) -> None:
        with LiveGrpc([Echo().service()]) as server, RawClient(server.port) as client:
            stream = client.open(call_fields(ONCE))
            client.data(stream, whole("last", wait=0.2), end=True)
            client.send(frame(GOAWAY, 0, 0, bytes(8)))
            assert client.answer(stream).status == 0
            gone = client.gone()
            assert (gone.code, gone.reset) == (0, False)

    def test_one_that_comes_while_the_node_stops_is_told_so_and_its_first_calls_are_answered(self) -> None:
        with LiveGrpc([Echo().service()]) as server:
            server.call(lambda: setattr(server.shared, "draining", True))
            with RawClient(server.port, greet=False) as client:
                client.send(PREFACE + settings_frame([]) + calls(client, 1, 2, whole()))
                assert client.read_until(GOAWAY).payload.endswith(b"this node is stopping")
                gone = client.gone()
                assert (gone.code, gone.reset) == (0, False)
                assert [client.answers[stream].status for stream in (1, 3)] == [0, 0]

    def test_half_a_request_of_a_client_that_half_closes_is_given_up_at_once(self) -> None:
        with LiveGrpc([Echo().service()]) as server, RawClient(server.port) as client:
            for path in (ONCE, GATHER, CHAT):
                client.data(client.open(call_fields(path)), whole()[:-1])
            client.ping()
            assert server.call(lambda: server.shared.held) == 3 * len(whole()[:-1])
            client.socket.shutdown(socket.SHUT_WR)
            gone = client.gone()
            assert (gone.code, gone.reset) == (0, False)
            assert server.call(lambda: server.shared.held) == 0

    def test_a_client_that_half_closes_still_gets_its_answer(self) -> None:
        with LiveGrpc([Echo().service()]) as server, RawClient(server.port) as client:
            stream = client.open(call_fields(ONCE))
            client.data(stream, whole("later", wait=0.2), end=True)
            client.socket.shutdown(socket.SHUT_WR)
            assert client.answer(stream).status == 0
            assert not client.gone().reset
