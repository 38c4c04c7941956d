"""gRPC's framing, statuses, deadlines and metadata, by themselves."""

import gzip
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from goloves.wire.grpc import (
    PREFIX,
    STATUS_OF_HTTP,
    CallError,
    MessageReader,
    Metadata,
    Status,
    frame_message,
    has_time,
    has_time_coded,
    inflate,
    is_grpc,
    metadata_fields,
    percent_decode,
    percent_encode,
    read_metadata,
    request_encoding,
    subtype,
    timeout_seconds,
)
from goloves.wire.hpack import DamagedBlock, encode_string, spell


class TestStatuses:
    def test_they_are_the_seventeen_of_grpc(self) -> None:
        grpc = pytest.importorskip("grpc")
        assert {status.name: int(status) for status in Status} == {code.name: code.value[0] for code in grpc.StatusCode}

    def test_http_statuses_mean_what_grpc_says(self) -> None:
        assert {http: status.name for http, status in STATUS_OF_HTTP.items()} == {
            400: "INTERNAL",
            401: "UNAUTHENTICATED",
            403: "PERMISSION_DENIED",
            404: "UNIMPLEMENTED",
            429: "UNAVAILABLE",
            502: "UNAVAILABLE",
            503: "UNAVAILABLE",
            504: "UNAVAILABLE",
        }

    def test_an_error_says_all_it_has(self) -> None:
        error = CallError(Status.NOT_FOUND, "a%b", details=b"\x01", retry_after=0.25)
        assert error.fields() == [
            (b"grpc-status", b"5"),
            (b"grpc-message", b"a%25b"),
            (b"grpc-status-details-bin", b"AQ"),
            (b"grpc-retry-pushback-ms", b"250"),
        ]


@given(st.text())
def test_messages_survive_percent_encoding_as_printable_ascii(message: str) -> None:
    encoded = percent_encode(message)
    assert all(0x20 <= octet <= 0x7E for octet in encoded)
    assert percent_decode(encoded) == message


def test_a_message_that_was_wrongly_encoded_is_shown_as_it_is() -> None:
    assert percent_decode(b"100% %zz") == "100% %zz"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600.0), (b"2M", 120.0), (b"3S", 3.0), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"0S", 0.0)],
)
def test_a_timeout_is_read(value: bytes, seconds: float) -> None:
    assert timeout_seconds(value) == pytest.approx(seconds)
    assert has_time(value) is (seconds > 0)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"123456789S", b"-1S", b"1 S", "١S".encode(), b"1_0S"])
def test_what_is_no_timeout_is_refused(value: bytes) -> None:
    assert timeout_seconds(value) is None
    assert not has_time(value)


@given(st.binary(max_size=10))
def test_both_readings_of_a_timeout_agree(value: bytes) -> None:
    seconds = timeout_seconds(value)
    assert has_time(value) is (seconds is not None and seconds > 0)


def test_content_types() -> None:
    assert [is_grpc(kind) for kind in (b"application/grpc", b"application/grpc+proto;x=y", b"application/grpcx")] == [
        True,
        True,
        False,
    ]
    assert subtype(b"application/grpc") == b"proto"
    assert subtype(b"application/grpc+JSON") == b"json"


class TestMetadata:
    names = st.from_regex(r"[0-9a-z_.-]{1,9}", fullmatch=True).filter(
        lambda name: not name.startswith("grpc-") and name not in ("te", "host")
    )
    texts = st.from_regex(r"[\x21-\x7e]{0,9}", fullmatch=True)

    @given(st.lists(st.tuples(names.filter(lambda name: not name.endswith("-bin")), texts)))
    def test_text_survives_in_order(self, metadata: Metadata) -> None:
        assert read_metadata(metadata_fields(metadata)) == metadata

    @given(st.lists(st.tuples(names.map("{}-bin".format), st.binary(max_size=20))))
    def test_bytes_survive_in_order(self, metadata: Metadata) -> None:
        assert read_metadata(metadata_fields(metadata)) == metadata

    @pytest.mark.parametrize(
        "pair",
        [
            *(("Upper", "x"), ("", "x"), ("a b", "x"), ("grpc-status", "0"), ("te", "x"), ("a", b"x"), ("a-bin", "x")),
            *(("a", "line\n"), ("a", "ä"), ("a", " x")),
        ],
    )
    def test_what_metadata_cannot_be_is_refused_here(self, pair: tuple[str, str | bytes]) -> None:
        with pytest.raises(ValueError, match=r"name|value|-bin"):
            metadata_fields([pair])


class TestMessages:
    @given(st.lists(st.binary(max_size=3000), max_size=5), st.booleans(), st.integers(1, 4000))
    def test_they_survive_framing_however_the_data_is_cut(
        self, messages: list[bytes], compress: bool, size: int
    ) -> None:
        data = b"".join(frame_message(message, compress=compress) for message in messages)
        reader = MessageReader(4000, b"gzip")
        got = []
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
            while (message := reader.next()) is not None:
                got.append(message)
        reader.close()
        assert reader.next() is None
        assert got == messages
        assert reader.waiting == 0

    def test_a_reader_knows_whether_a_message_is_on_its_way(self) -> None:
        reader = MessageReader(100, b"identity")
        assert not reader.incomplete
        for octet in frame_message(b"abc")[:-1]:
            reader.feed(bytes((octet,)))
            assert reader.incomplete
        reader.feed(b"c")
        assert not reader.incomplete

    def test_small_messages_are_not_compressed(self) -> None:
        assert frame_message(b"x" * 100, compress=True)[0] == 0
        assert frame_message(b"x" * 2000, compress=True)[0] == 1

    @pytest.mark.parametrize("level", [0, 1, 9])
    def test_what_gzip_makes_larger_passes_just_at_the_limit(self, level: int) -> None:
        for size in (1, 1000, 65_536):
            packed = gzip.compress(random.Random(size).randbytes(size), level)
            assert len(packed) > size
            reader = MessageReader(size, b"gzip")
            reader.feed(PREFIX.pack(1, len(packed)) + packed)
            assert len(reader.next() or b"") == size

    def test_what_gzip_cannot_have_made_is_refused_by_its_prefix(self) -> None:
        reader = MessageReader(1000, b"gzip")
        reader.feed(PREFIX.pack(1, 1100))
        with pytest.raises(CallError, match="1100 octets"):
            reader.next()

    def test_a_message_has_few_members(self) -> None:
        member = gzip.compress(b"")
        assert inflate(member * 15 + gzip.compress(b"x"), 10) == b"x"
        with pytest.raises(CallError) as caught:
            inflate(member * 17, 10)
        assert caught.value.status is Status.RESOURCE_EXHAUSTED

    def test_an_error_repeats_no_more_than_a_line_of_what_came(self) -> None:
        with pytest.raises(CallError) as caught:
            request_encoding([(b"grpc-encoding", b"x" * 10_000)])
        assert len(caught.value.message) < 200

    def test_a_bomb_costs_no_more_than_the_limit(self) -> None:
        bomb = gzip.compress(bytes(100_000_000))
        with pytest.raises(CallError) as caught:
            inflate(bomb, 1000)
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        assert inflate(gzip.compress(b"x" * 1000), 1000) == b"x" * 1000


@given(st.one_of(st.from_regex(rb"[0-9]{0,9}[HMSmunx]?", fullmatch=True), st.binary(max_size=9)))
@example(b"0u")
@example(b"00000001u")
@example(b"000000001u")
@example(b"1uu")
@example(b"u")
def test_a_timeout_in_huffman_code_is_judged_as_its_text(value: bytes) -> None:
    assert has_time_coded(encode_string(value, coded=True)[1:]) is has_time(value)


@given(st.binary(max_size=8))
def test_any_code_is_judged_as_what_it_spells(code: bytes) -> None:
    try:
        expected = has_time(spell(code))
    except DamagedBlock:
        expected = False
    assert has_time_coded(code) is expected
