"""The rules of gRPC's wire that servers get wrong, each at the level of frames."""

import gzip
import struct
from base64 import b64encode
from collections.abc import Iterator

import grpc
import pytest

from server.grpc.echo import NAME, Echo, Stub, ask, message
from server.grpc.live import PATIENCE, LiveGrpc
from server.grpc.raw import (
    END_STREAM,
    HEADERS,
    NO_ERROR,
    PROTOCOL_ERROR,
    RST_STREAM,
    Answer,
    RawClient,
    call_fields,
    frame,
    prefixed,
)

ONCE, GATHER, SPREAD, CHAT = (f"/{NAME}/{method}" for method in ("Once", "Gather", "Spread", "Chat"))
LIMIT = 4 * 1024 * 1024
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 8, 12, 13


@pytest.fixture
def client(server: LiveGrpc) -> Iterator[RawClient]:
    with RawClient(server.port) as client:
        yield client


def whole(text: str = "hi", **more: object) -> bytes:
    return prefixed(ask(text, **more).SerializeToString())


def messages(answer: Answer) -> Iterator[tuple[int, bytes]]:
    """Give each message's flag and its octets as sent."""
    at = 0
    while at < len(answer.data):
        flag, size = struct.unpack_from(">BI", answer.data, at)
        yield flag, answer.data[at + 5 : at + 5 + size]
        at += 5 + size


def flags(answer: Answer) -> list[int]:
    return [flag for flag, _ in messages(answer)]


def texts(answer: Answer) -> list[str]:
    plain = [gzip.decompress(data) if flag else data for flag, data in messages(answer)]
    return [message("Answer").FromString(data).text for data in plain]


def test_an_answer_has_a_head_data_and_trailers(client: RawClient) -> None:
    answer = client.call(ONCE, whole())
    assert answer.head == [(":status", "200"), ("content-type", "application/grpc")]
    assert texts(answer) == ["hi"]
    assert answer.trailers == [("grpc-status", "0")]
    assert answer.reset is None


class TestHowManyMessages:
    @pytest.mark.parametrize("path", [ONCE, SPREAD])
    def test_no_message_where_one_is_due_is_unimplemented(self, client: RawClient, path: str) -> None:
        assert client.call(path, b"").status == UNIMPLEMENTED
        stream = client.open(call_fields(path), end=True)
        assert client.answer(stream).status == UNIMPLEMENTED

    @pytest.mark.parametrize("path", [ONCE, SPREAD])
    def test_two_messages_where_one_is_due_are_unimplemented(self, client: RawClient, path: str) -> None:
        assert client.call(path, whole() + whole()).status == UNIMPLEMENTED
        stream = client.open(call_fields(path))
        client.data(stream, whole()).data(stream, whole())
        assert client.answer(stream).status == UNIMPLEMENTED

    def test_an_empty_message_is_a_message(self, client: RawClient) -> None:
        assert client.call(ONCE, prefixed(b"")).status == OK

    def test_a_message_may_come_in_pieces_of_one_octet(self, client: RawClient) -> None:
        stream = client.open(call_fields(ONCE))
        for octet in whole("slowly"):
            client.data(stream, bytes((octet,)))
        client.data(stream, b"", end=True)
        assert texts(client.answer(stream)) == ["slowly"]

    def test_messages_of_a_stream_may_share_a_frame_or_span_several(self, client: RawClient) -> None:
        stream = client.open(call_fields(CHAT))
        client.data(stream, whole("a") + whole("b") + whole("c")[:3])
        client.data(stream, whole("c")[3:] + whole("d"), end=True)
        assert texts(client.answer(stream)) == ["a", "b", "c", "d"]


class TestDamage:
    @pytest.mark.parametrize("path", [ONCE, GATHER, CHAT])
    @pytest.mark.parametrize("size", [1, 4, 5, 8])
    def test_a_cut_prefix_or_message_is_internal(self, client: RawClient, path: str, size: int) -> None:
        assert client.call(path, whole()[:size]).status == INTERNAL

    def test_a_second_message_that_is_cut_is_internal_on_a_stream(self, client: RawClient) -> None:
        assert client.call(GATHER, whole() + whole()[:-1]).status == INTERNAL

    def test_a_flag_that_is_neither_0_nor_1_is_internal(self, client: RawClient) -> None:
        assert client.call(ONCE, prefixed(b"", flag=2)).status == INTERNAL

    def test_what_is_no_protobuf_is_internal(self, client: RawClient) -> None:
        assert client.call(ONCE, prefixed(b"\xff\xff")).status == INTERNAL

    @pytest.mark.parametrize(
        "timeout",
        ["", "5", "S", "-1S", "+1S", "1.5S", "123456789S", "1X", "5s", " 5S", "٣S".encode().decode("latin-1")],
    )
    def test_a_malformed_timeout_is_refused(self, client: RawClient, timeout: str) -> None:
        answer = client.call(ONCE, whole(), ("grpc-timeout", timeout))
        assert answer.status == INTERNAL or (answer.reset == PROTOCOL_ERROR and timeout.strip() != timeout)
        assert client.call(ONCE, whole()).status == OK

    def test_two_timeouts_are_refused(self, client: RawClient) -> None:
        assert client.call(ONCE, whole(), ("grpc-timeout", "1S"), ("grpc-timeout", "2S")).status == INTERNAL

    def test_a_timeout_of_nothing_has_passed(self, client: RawClient) -> None:
        assert client.call(ONCE, whole(), ("grpc-timeout", "0S")).status == DEADLINE_EXCEEDED

    @pytest.mark.parametrize("timeout", ["1H", "1M", "10S", "10000m", "10000000u", "99999999n", "99999999H"])
    def test_every_unit_of_timeouts_is_understood(self, client: RawClient, timeout: str) -> None:
        assert client.call(ONCE, whole(), ("grpc-timeout", timeout)).status == OK


class TestCompression:
    def test_an_unknown_encoding_is_unimplemented_and_says_what_is_accepted(self, client: RawClient) -> None:
        bystander = client.open(call_fields(ONCE))
        answer = client.call(ONCE, prefixed(b"zz", flag=1), ("grpc-encoding", "snappy"))
        assert answer.status == UNIMPLEMENTED
        assert "snappy" in answer.message
        assert ("grpc-accept-encoding", "identity,gzip") in answer.head
        client.data(bystander, whole("unharmed"), end=True)
        assert texts(client.answer(bystander)) == ["unharmed"]

    def test_a_compressed_flag_without_an_encoding_is_internal(self, client: RawClient) -> None:
        assert client.call(ONCE, prefixed(gzip.compress(b""), flag=1)).status == INTERNAL
        answer = client.call(ONCE, prefixed(gzip.compress(b""), flag=1), ("grpc-encoding", "identity"))
        assert answer.status == INTERNAL

    def test_with_an_encoding_messages_may_be_plain_or_compressed(self, client: RawClient) -> None:
        packed = prefixed(gzip.compress(ask("packed").SerializeToString()), flag=1)
        answer = client.call(CHAT, packed + whole("plain") + packed, ("grpc-encoding", "gzip"))
        assert texts(answer) == ["packed", "plain", "packed"]

    def test_gzip_of_several_members_is_one_message(self, client: RawClient) -> None:
        data = ask("members").SerializeToString()
        packed = gzip.compress(data[:4]) + gzip.compress(data[4:])
        assert texts(client.call(ONCE, prefixed(packed, flag=1), ("grpc-encoding", "gzip"))) == ["members"]

    @pytest.mark.parametrize(
        "damage",
        [b"", b"no gzip", gzip.compress(b"x", mtime=0)[:-3], gzip.compress(b"x", mtime=0) + b"junk"],
        ids=["empty", "plain", "cut", "junk behind"],
    )
    def test_damaged_gzip_is_internal(self, client: RawClient, damage: bytes) -> None:
        assert client.call(ONCE, prefixed(damage, flag=1), ("grpc-encoding", "gzip")).status == INTERNAL

    def test_a_large_answer_is_compressed_for_who_compresses_and_takes_it(self, client: RawClient) -> None:
        packed = prefixed(gzip.compress(ask("x" * 5000).SerializeToString()), flag=1)
        answer = client.call(ONCE, packed, ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity, gzip"))
        assert ("grpc-encoding", "gzip") in answer.head
        assert answer.data[0] == 1
        assert len(answer.data) < 1000
        assert texts(answer) == ["x" * 5000]
        answer = client.call(ONCE, packed, ("grpc-encoding", "gzip"))
        assert ("grpc-encoding", "gzip") not in answer.head
        assert texts(answer) == ["x" * 5000]

    @pytest.mark.parametrize("path", [SPREAD, CHAT])
    def test_each_large_answer_of_a_stream_is_compressed_and_its_head_says_so(
        self, client: RawClient, path: str
    ) -> None:
        takes_gzip = ("grpc-accept-encoding", "gzip")
        large, small = (
            prefixed(gzip.compress(ask(text, times=3).SerializeToString()), 1) for text in ("x" * 5000, "x")
        )
        answer = client.call(path, large, ("grpc-encoding", "gzip"), takes_gzip)
        assert ("grpc-encoding", "gzip") in answer.head
        assert flags(answer) == [1, 1, 1]
        assert texts(answer) == ["x" * 5000] * 3
        answer = client.call(path, small, ("grpc-encoding", "gzip"), takes_gzip)
        assert (flags(answer), texts(answer)) == ([0, 0, 0], ["x", "x", "x"])
        answer = client.call(path, large, ("grpc-encoding", "gzip"))
        assert ("grpc-encoding", "gzip") not in answer.head
        assert (flags(answer), texts(answer)) == ([0, 0, 0], ["x" * 5000] * 3)


class TestSizes:
    @staticmethod
    def sized(octets: int) -> bytes:
        """Give a request of just so many octets."""
        around = ask(body=b"z" * octets).ByteSize() - octets
        data: bytes = ask(body=b"z" * (octets - around)).SerializeToString()
        assert len(data) == octets
        return data

    def test_a_message_just_at_the_limit_passes(self, stub: Stub) -> None:
        request = message("Ask").FromString(self.sized(LIMIT))
        assert stub.gather(iter([request]), timeout=PATIENCE).number == 1

    def test_a_message_one_over_the_limit_is_resource_exhausted(self, stub: Stub) -> None:
        request = message("Ask").FromString(self.sized(LIMIT + 1))
        with pytest.raises(grpc.RpcError) as caught:
            stub.once(request, timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(LIMIT) in caught.value.details()

    @pytest.mark.parametrize(("over", "status"), [(0, OK), (1, RESOURCE_EXHAUSTED)])
    def test_the_limit_holds_for_the_inflated_size(self, client: RawClient, over: int, status: int) -> None:
        packed = prefixed(gzip.compress(self.sized(LIMIT + over)), flag=1)
        assert len(packed) < 10_000
        assert client.call(ONCE, packed, ("grpc-encoding", "gzip")).status == status

    @pytest.mark.parametrize("path", [ONCE, CHAT])
    @pytest.mark.parametrize("size", [LIMIT + 1, 2**32 - 1])
    def test_too_long_a_message_is_refused_by_its_prefix_alone(self, client: RawClient, path: str, size: int) -> None:
        stream = client.open(call_fields(path))
        client.data(stream, struct.pack(">BI", 0, size) + b"abc")
        assert client.answer(stream).status == RESOURCE_EXHAUSTED
        assert client.read_until(RST_STREAM, stream).payload == struct.pack(">I", NO_ERROR)
        client.data(stream, b"what was on its way" * 1000)
        assert client.call(ONCE, whole()).status == OK

    def test_fields_over_the_limit_are_refused_on_their_call_alone(self, client: RawClient) -> None:
        assert client.call(ONCE, whole(), ("x-big", "v" * 17_000)).status == RESOURCE_EXHAUSTED
        many = [(f"x-{number}", "") for number in range(130)]
        assert client.call(ONCE, whole(), *many).status == RESOURCE_EXHAUSTED
        assert client.call(ONCE, whole()).status == OK


class TestRoutes:
    @pytest.mark.parametrize(
        "path",
        ["/no.such.Service/Method", f"/{NAME}/Nothing", f"/{NAME}/", "/", f"/{NAME}", f"//{NAME}/Once", ONCE + "/"],
    )
    def test_an_unknown_method_or_service_is_unimplemented(self, client: RawClient, path: str) -> None:
        answer = client.call(path, whole())
        assert answer.status == UNIMPLEMENTED
        assert dict(answer.head)[":status"] == "200"

    @pytest.mark.parametrize("path", ["", "x", NAME + "/Once", "*"])
    def test_a_path_without_a_slash_is_malformed(self, client: RawClient, path: str) -> None:
        assert client.call(path, whole()).reset == PROTOCOL_ERROR
        assert client.call(ONCE, whole()).status == OK

    @pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "Application/gRPC; charset=utf-8"])
    def test_content_types_of_grpc_are_taken(self, client: RawClient, kind: str) -> None:
        assert client.call(ONCE, whole(), content_type=kind).status == OK

    @pytest.mark.parametrize(
        "kind", ["application/json", "application/grpc-web", "application/grpcx", "text/plain", ""]
    )
    def test_other_content_types_are_415(self, client: RawClient, kind: str) -> None:
        answer = client.call(ONCE, whole(), content_type=kind)
        assert dict(answer.head)[":status"] == "415"
        assert b"gRPC" in answer.data

    def test_another_encoding_of_messages_is_unimplemented(self, client: RawClient) -> None:
        answer = client.call(ONCE, whole(), content_type="application/grpc+json")
        assert answer.status == UNIMPLEMENTED
        assert "json" in answer.message

    def test_a_path_or_an_encoding_without_end_is_not_repeated(self, client: RawClient) -> None:
        for answer in (
            client.call("/" + "x" * 9000, b""),
            client.call(ONCE, b"", content_type="application/grpc+" + "x" * 9000),
        ):
            assert answer.status == UNIMPLEMENTED
            assert len(answer.message) < 200

    def test_head_is_answered_without_a_body(self, client: RawClient) -> None:
        fields = [(":method", "HEAD"), (":scheme", "http"), (":path", "/"), (":authority", "test")]
        answer = client.answer(client.open(fields, end=True))
        assert dict(answer.head)[":status"] == "405"
        assert answer.data == b""

    def test_other_methods_of_http_are_405(self, client: RawClient) -> None:
        stream = client.open([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")], end=True)
        answer = client.answer(stream)
        assert dict(answer.head)[":status"] == "405"
        assert dict(answer.head)["allow"] == "POST"
        assert dict(answer.head)["grpc-status"] == "2"
        assert len(answer.data) > 10


class TestMetadata:
    def test_repeated_names_keep_their_order(self, client: RawClient, echo: Echo) -> None:
        client.call(ONCE, whole(), ("x-a", "1"), ("x-b", "2"), ("x-a", "3"))
        assert [pair for pair in echo.metadata if pair[0].startswith("x-")] == [
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-a", "3"),
        ]

    @pytest.mark.parametrize("value", [b"", b"a", b"ab", b"abc", b"\x00\xff\xfe\x80"])
    def test_binary_values_come_with_or_without_padding(self, client: RawClient, echo: Echo, value: bytes) -> None:
        for text in (b64encode(value).decode(), b64encode(value).decode().rstrip("=")):
            client.call(ONCE, whole(), ("x-data-bin", text))
            assert ("x-data-bin", value) in echo.metadata

    def test_binary_values_joined_by_commas_are_several(self, client: RawClient, echo: Echo) -> None:
        client.call(ONCE, whole(), ("x-data-bin", "YQ,YmI="))
        assert [value for name, value in echo.metadata if name == "x-data-bin"] == [b"a", b"bb"]

    def test_what_is_not_base64_is_internal(self, client: RawClient) -> None:
        assert client.call(ONCE, whole(), ("x-data-bin", "a!b")).status == INTERNAL

    def test_the_protocols_own_fields_are_not_metadata(self, client: RawClient, echo: Echo) -> None:
        client.call(ONCE, whole(), ("grpc-timeout", "5S"), ("grpc-trace-bin", "AA"), ("user-agent", "me"))
        assert [name for name, _ in echo.metadata] == ["user-agent"]


class TestEndings:
    def test_a_call_answered_before_its_request_ended_is_closed_by_a_reset_without_error(
        self, client: RawClient
    ) -> None:
        stream = client.open(call_fields(GATHER))
        client.data(stream, whole("enough"))
        answer = client.answer(stream)
        assert (answer.status, texts(answer)) == (OK, ["enough"])
        assert client.read_until(RST_STREAM, stream).payload == struct.pack(">I", NO_ERROR)

    def test_a_call_answered_after_its_request_ended_gets_no_reset(self, client: RawClient) -> None:
        stream = client.open(call_fields(ONCE))
        client.data(stream, whole(), end=True)
        client.answer(stream)
        client.ping()
        assert client.answers[stream].reset is None

    def test_an_unknown_method_is_answered_while_its_request_is_still_sent(self, client: RawClient) -> None:
        stream = client.open(call_fields("/x.Y/Z"))
        assert client.answer(stream).status == UNIMPLEMENTED
        assert client.read_until(RST_STREAM, stream).payload == struct.pack(">I", NO_ERROR)

    def test_trailers_of_a_request_end_it(self, client: RawClient) -> None:
        stream = client.open(call_fields(ONCE))
        client.data(stream, whole("with trailers"))
        block = client.encoder.encode([("x-checksum", "1")])
        client.send(frame(HEADERS, END_STREAM | 4, stream, block))
        assert texts(client.answer(stream)) == ["with trailers"]

    def test_an_error_message_is_percent_encoded(self, client: RawClient) -> None:
        answer = client.call(ONCE, whole("a\n", fail=INVALID_ARGUMENT))
        assert answer.status == INVALID_ARGUMENT
        assert answer.message == "f%C3%A4il 100%25%0Aa%0A"

    def test_an_error_without_an_answer_is_one_block(self, client: RawClient) -> None:
        stream = client.open(call_fields(ONCE))
        client.data(stream, whole(fail=INVALID_ARGUMENT), end=True)
        answer = client.answer(stream)
        assert answer.trailers == []
        assert dict(answer.head)[":status"] == "200"
        assert answer.status == INVALID_ARGUMENT


def test_a_client_of_http_1_is_told_what_this_is(server: LiveGrpc) -> None:
    with RawClient(server.port, greet=False) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while piece := client.socket.recv(4096):
            data += piece
        assert data.startswith(b"HTTP/1.1 505 ")
        head, _, body = data.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"gRPC" in body
