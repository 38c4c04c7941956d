"""HPACK against RFC 7541: its own examples, its refusals, and the `hpack` library as the oracle."""

import hpack
import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import example, given, settings
from hypothesis import strategies as st

from goloves.wire.hpack import (
    FORGET_TABLE,
    HUFFMAN_LENGTHS,
    MAX_REMEMBERED_STRINGS,
    STATIC_TABLE,
    DamagedBlock,
    Decoder,
    Field,
    _plain,
    encode,
    list_size,
    spell,
)

names = st.sampled_from(
    [b":path", b"content-type", b"grpc-timeout", b"x-request-id", b"te", b"cookie", b"a"]
) | st.binary(max_size=12)
values = st.sampled_from([b"", b"application/grpc", b"trailers", b"1234567u"]) | st.binary(max_size=200)
field_lists = st.lists(st.tuples(names, values), max_size=12)


def oracle(limit: int = 4096) -> hpack.Decoder:
    decoder = hpack.Decoder(max_header_list_size=2**24)
    decoder.max_allowed_table_size = limit
    return decoder


def decoded_by_oracle(decoder: hpack.Decoder, block: bytes) -> list[Field] | None:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return None


def decoded(decoder: Decoder, block: bytes) -> list[Field] | None:
    try:
        return decoder.decode(block)
    except DamagedBlock:
        return None


def test_the_static_table_and_the_code_lengths_are_those_of_the_rfc() -> None:
    assert STATIC_TABLE[1:] == hpack.table.HeaderTable.STATIC_TABLE
    assert bytes(REQUEST_CODES_LENGTH) == HUFFMAN_LENGTHS


@pytest.mark.parametrize("symbol", range(256))
def test_each_octet_has_the_rfcs_code(symbol: int) -> None:
    length = REQUEST_CODES_LENGTH[symbol]
    padding = -length % 8
    code = REQUEST_CODES[symbol] << padding | (1 << padding) - 1
    assert spell(code.to_bytes((length + padding) // 8, "big")) == bytes((symbol,))


RFC_C4 = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
]
RFC_C3 = [
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
]


@pytest.mark.parametrize("blocks", [RFC_C3, RFC_C4], ids=["plain", "huffman"])
def test_the_rfcs_requests_decode_and_leave_the_table_that_it_shows(blocks: list[str]) -> None:
    decoder = Decoder()
    first = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
    assert decoder.decode(bytes.fromhex(blocks[0])) == first
    assert decoder.table_size == 57
    assert decoder.decode(bytes.fromhex(blocks[1])) == [*first, (b"cache-control", b"no-cache")]
    assert decoder.table_size == 110
    assert decoder.decode(bytes.fromhex(blocks[2])) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ]
    assert decoder.table_size == 164


def test_the_rfcs_responses_evict_what_does_not_fit() -> None:
    decoder = Decoder(256)
    decoder.decode(
        bytes.fromhex(
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3"
        )
    )
    assert decoder.table_size == 222
    assert decoder.decode(bytes.fromhex("4883640effc1c0bf"))[0] == (b":status", b"307")
    assert decoder.table_size == 222


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("80", "index 0"),
        ("be", "an entry of an empty table"),
        ("ff", "an integer that ends early"),
        ("ff8080808001", "an integer of more octets than allowed"),
        ("ffffffffff0f", "an integer beyond 28 bits"),
        ("7f8080808000", "an index lengthened by zeros"),
        ("00", "a name that is missing"),
        ("0001", "a name that ends early"),
        ("000161", "a value that is missing"),
        ("00016103", "a value that ends early"),
        ("0001610361", "a value cut short"),
        ("007fffffff7f", "a length of 256 MiB"),
        ("8220", "a size update after a field"),
        ("3fe21f", "a size update beyond the limit"),
        ("000181ff00", "a Huffman string of padding only, eight bits of it"),
        ("00016184ffffffff", "EOS inside a string"),
        ("0001618118", "padding of zeros"),
    ],
)
def test_a_damaged_block_is_refused(block: str, why: str) -> None:
    with pytest.raises(DamagedBlock):
        Decoder().decode(bytes.fromhex(block))


def test_a_field_larger_than_the_table_empties_it() -> None:
    decoder = Decoder(64)
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.table_size == 34
    assert decoder.decode(b"\x40\x01a\x28" + b"x" * 40) == [(b"a", b"x" * 40)]
    assert decoder.table_size == 0


def test_a_size_update_to_nothing_forgets_the_entries() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe") == [(b"a", b"b")]
    changes = decoder.changes
    assert decoder.decode(b"\x20\x40\x01a\x01b") == [(b"a", b"b")]
    assert decoder.table_size == 0
    assert decoder.changes == changes + 1
    assert decoder.decode(b"\x40\x01a\x01b") == [(b"a", b"b")]
    assert decoder.changes == changes + 1
    with pytest.raises(DamagedBlock):
        decoder.decode(b"\xbe")


def test_strings_of_a_hostile_peer_do_not_pile_up() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for number in range(MAX_REMEMBERED_STRINGS * 2):
        decoder.decode(encoder.encode([(b"n", b"%d" % number)]))
    assert 0 < len(_plain) <= MAX_REMEMBERED_STRINGS


@given(st.lists(st.tuples(field_lists, st.booleans(), st.none() | st.integers(0, 4096)), max_size=8))
@settings(deadline=None)
def test_whatever_the_oracle_encodes_is_decoded(blocks: list[tuple[list[Field], bool, int | None]]) -> None:
    encoder, decoder, other = hpack.Encoder(), Decoder(), oracle()
    for fields, coded, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=coded)
        assert decoder.decode(block) == fields
        assert decoded_by_oracle(other, block) == fields
        assert decoder.table_size == other.header_table._current_size


@st.composite
def _damaged(draw: st.DrawFn) -> list[bytes]:
    encoder = hpack.Encoder()
    blocks = []
    for _ in range(draw(st.integers(1, 4))):
        block = bytearray(encoder.encode(draw(field_lists), huffman=draw(st.booleans())))
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(block)))
            how = draw(st.sampled_from(["change", "cut", "insert"]))
            if how == "change" and at < len(block):
                block[at] = draw(st.integers(0, 255))
            elif how == "cut":
                del block[at:]
            else:
                block[at:at] = draw(st.binary(max_size=5))
        blocks.append(bytes(block))
    return blocks


def _has_long_integer(block: bytes) -> bool:
    """Tell whether five continuation octets stand in a row: the oracle reads integers without a limit."""
    run = 0
    for octet in block:
        run = run + 1 if octet & 0x80 else 0
        if run >= 4:
            return True
    return False


@given(_damaged() | st.lists(st.binary(max_size=60), max_size=4))
@example([b"\x3f\xe1\x1f\x40\x01a\x01b", b"\xbe"])
@example([b"\x20\x3f\xe1\x1f\x82"])
@settings(deadline=None, max_examples=400)
def test_a_damaged_block_is_refused_just_when_the_oracle_refuses_it(blocks: list[bytes]) -> None:
    decoder, other = Decoder(), oracle()
    for block in blocks:
        got, expected = decoded(decoder, block), decoded_by_oracle(other, block)
        if got != expected:
            assert got is None
            assert _has_long_integer(block)
        if got is None or expected is None:
            return
        assert decoder.table_size == other.header_table._current_size


@given(field_lists)
def test_what_is_encoded_is_decoded_by_the_oracle_and_leaves_no_state(fields: list[Field]) -> None:
    other = oracle()
    block = encode(fields)
    assert decoded_by_oracle(other, block) == fields
    assert other.header_table._current_size == 0
    assert decoded_by_oracle(other, FORGET_TABLE + block) == fields
    assert block == encode(fields)


@given(st.binary(max_size=100))
def test_huffman_codes_of_the_oracle_are_undone(text: bytes) -> None:
    code = hpack.huffman.HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)
    assert spell(code) == text
    assert spell(code) == _plain[code]


def test_static_fields_take_one_octet() -> None:
    assert encode([(b":status", b"200")]) == b"\x88"
    assert encode([(b"content-type", b"application/grpc")]) == b"\x0f\x10\x10application/grpc"


@given(field_lists)
def test_list_size_counts_32_octets_a_field(fields: list[Field]) -> None:
    assert list_size(fields) == sum(len(name) + len(value) + 32 for name, value in fields)
