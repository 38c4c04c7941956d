"""The hand-written messages against protobuf's own, octet for octet."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from goloves.server.grpc import descriptors
from goloves.v1 import goloves_pb2
from goloves.wire import messages
from goloves.wire.messages import (
    DamagedMessage,
    decode_response,
    error_details,
    health_list_response,
    health_response,
    ids_response,
    pack_span,
    range_response,
    read_decode,
    read_health,
    read_lease,
    read_next,
    read_nothing,
    varint,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
READERS: list[tuple[Callable[[bytes], tuple[str, int]], type[Message], str, str]] = [
    (read_next, goloves_pb2.SegmentNextRequest, "tag", "count"),
    (read_next, goloves_pb2.SnowflakeNextRequest, "space", "count"),
    (read_lease, goloves_pb2.SegmentLeaseRequest, "tag", "size"),
    (read_decode, goloves_pb2.DecodeRequest, "space", "id"),
]


def by_protobuf(kind: type[Message], text: str, number: str, data: bytes) -> tuple[str, int] | None:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    return getattr(message, text), getattr(message, number)


def by_hand(read: Callable[[bytes], tuple[str, int]], data: bytes) -> tuple[str, int] | None:
    try:
        return read(data)
    except DamagedMessage:
        return None


def key(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


numbers = st.integers(0, 2**64 - 1).map(varint)
small = st.integers(0, 300).map(varint)
field_numbers = st.sampled_from([1, 2, 3, 15, 16, 2047, 2**29 - 1])
leaves = st.one_of(
    st.builds(lambda n, v: key(n, 0) + v, field_numbers, numbers | small),
    st.builds(lambda n, v: key(n, 1) + v, field_numbers, st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, v: key(n, 2) + varint(len(v)) + v, field_numbers, st.text(max_size=9).map(str.encode)),
    st.builds(lambda n, v: key(n, 2) + varint(len(v)) + v, field_numbers, st.binary(max_size=9)),
    st.builds(lambda n, v: key(n, 5) + v, field_numbers, st.binary(min_size=4, max_size=4)),
)
fields = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda n, parts: key(n, 3) + b"".join(parts) + key(n, 4), field_numbers, st.lists(inner, max_size=3)
    ),
    max_leaves=5,
)
whole = st.lists(fields, max_size=5).map(b"".join)
damaged = st.builds(
    lambda data, at, junk: data[:at] + junk + data[at:], whole, st.integers(0, 40), st.binary(max_size=3)
)
cut = st.builds(lambda data, at: data[:at], whole, st.integers(0, 40))


@pytest.mark.parametrize(("read", "kind", "text", "number"), READERS)
@given(data=whole | damaged | cut | st.binary(max_size=30))
@example(data=b"\x0a\x05order\x10\x03")
@example(data=b"\xff" * 11)
@example(data=b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(data=b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")
@example(data=b"\x0a\x02\xc3\x28")
@example(data=b"\x00\x01")
@example(data=b"\x0b" * 200)
@example(data=b"\x1b" * 99 + b"\x1c" * 99)
@example(data=b"\x1b" * 101 + b"\x1c" * 101)
@settings(deadline=None)
def test_whatever_protobuf_reads_is_read_alike_and_what_it_refuses_is_refused(
    read: Callable[[bytes], tuple[str, int]], kind: type[Message], text: str, number: str, data: bytes
) -> None:
    assert by_hand(read, data) == by_protobuf(kind, text, number, data)


spans = st.builds(
    lambda start, count, step: range(start, start + count * step, step),
    st.integers(0, 2**62),
    st.integers(0, 700),
    st.sampled_from([1, 1, 1, 2, 65536]),
)


@given(st.lists(spans, max_size=4))
@example([range(1)])
@example([range(250, 260)])
@example([range(255, 256), range(256, 257)])
@example([range(2**63 - 300, 2**63 - 1)])
def test_ids_are_written_as_protobuf_writes_them(given_spans: list[range]) -> None:
    ids = [number for span in given_spans for number in span]
    assert ids_response(given_spans) == goloves_pb2.IdsResponse(ids=ids).SerializeToString()


def test_one_id_is_written_as_protobuf_writes_it() -> None:
    assert messages.ONE_ID + messages.pack_id(-5) == goloves_pb2.IdsResponse(ids=[-5]).SerializeToString()


@given(st.integers(0, 2**62), st.integers(1, 1000))
def test_a_span_packs_to_eight_octets_an_id(start: int, count: int) -> None:
    packed = pack_span(range(start, start + count))
    assert [int.from_bytes(packed[at : at + 8], "little") for at in range(0, len(packed), 8)] == list(
        range(start, start + count)
    )


@given(INT64, INT64)
def test_a_range_is_written_as_protobuf_writes_it(start: int, end: int) -> None:
    assert range_response(start, end) == goloves_pb2.RangeResponse(start=start, end=end).SerializeToString()


@given(INT64, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_decoded_id_is_written_as_protobuf_writes_it(unix_ms: int, worker: int, sequence: int) -> None:
    expected = goloves_pb2.DecodeResponse(unix_ms=unix_ms, worker=worker, sequence=sequence)
    assert decode_response(unix_ms, worker, sequence) == expected.SerializeToString()


def of_health(name: str) -> type[Message]:
    kind: type[Message] = GetMessageClass(descriptors.pool().FindMessageTypeByName(f"grpc.health.v1.{name}"))
    return kind


@given(data=whole | damaged | cut | st.binary(max_size=30))
@example(data=b"\x0a\x05order")
@example(data=b"\x0a\x02\xc3\x28")
@settings(deadline=None)
def test_requests_of_health_are_read_as_protobuf_reads_them(data: bytes) -> None:
    check: Any = of_health("HealthCheckRequest")()
    try:
        check.ParseFromString(data)
    except DecodeError:
        with pytest.raises(DamagedMessage):
            read_health(data)
    else:
        assert read_health(data) == check.service
    try:
        of_health("HealthListRequest")().ParseFromString(data)
    except DecodeError:
        with pytest.raises(DamagedMessage):
            read_nothing(data)
    else:
        read_nothing(data)


@given(st.dictionaries(st.text(max_size=9), st.integers(0, 3), max_size=4))
def test_answers_of_health_are_what_protobuf_reads_out_of_them(statuses: dict[str, int]) -> None:
    for status in statuses.values():
        assert health_response(status) == of_health("HealthCheckResponse")(status=status).SerializeToString()
    found: Any = of_health("HealthListResponse").FromString(health_list_response(statuses))
    assert {name: response.status for name, response in found.statuses.items()} == statuses


def test_error_details_are_a_google_rpc_status_with_the_reason_and_the_delay() -> None:
    status = status_pb2.Status.FromString(error_details(14, "no range", "no_range", 1.5))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert (status.code, status.message) == (14, "no range")
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("no_range", "goloves")
    assert status.details[1].Unpack(retry)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 500_000_000)
    assert len(status_pb2.Status.FromString(error_details(5, "", "unknown_tag", None)).details) == 1
