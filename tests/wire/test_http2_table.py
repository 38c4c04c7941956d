"""Calls of clients that put fields into the header table in all ways that RFC 7541 has; `hpack` says what they mean."""

from dataclasses import dataclass, field

import hpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from goloves.wire.hpack import encode, encode_string
from goloves.wire.http2 import Connection, DataReceived, Limits, QuickWay, Request, RequestReader, RequestReceived
from goloves.wire.http2.frames import END_HEADERS, PREFACE, SETTINGS_ACK, Kind, frame, settings_frame
from wire.h2peer import HEAD, REQUEST, TRAILERS, Fields, data, is_coded_number, is_number

VARYING = b"grpc-timeout"
START = encode(REQUEST)


def inserted(name: bytes, value: bytes) -> bytes:
    """Write a field that is to be put into the table, as a client does that never looks whether it is there."""
    return b"\x40" + encode_string(name) + encode_string(value)


def indexed(place: int) -> bytes:
    """Name the field that was put into the table as the `place`th last, from 1 on."""
    return bytes((0x80 | (61 + place),))


@dataclass
class Reader:
    """Takes calls, by the quick way or the long one, and notes what fields each had."""

    quick: bool
    read: dict[int, Fields] = field(default_factory=dict)
    stream: int = -1

    def __post_init__(self) -> None:
        way = QuickWay(self.prepare, is_number, is_coded_number, HEAD, TRAILERS) if self.quick else None
        self.connection = Connection(RequestReader(VARYING, way), Limits(), 0.0)
        self.connection.receive(PREFACE + settings_frame([]) + SETTINGS_ACK, 0.0)

    def prepare(self, request: Request) -> None:
        def answer(body: bytes) -> bytes:
            self.read[self.stream] = [*request.fields]
            return b"answer"

        request.quick = answer

    def take(self, block: bytes) -> Fields | None:
        """Give the regular fields of a call with this block, but for the varying one; None if the connection failed."""
        self.stream += 2
        call = frame(Kind.HEADERS, END_HEADERS, self.stream, block) + data(self.stream, b"body", end=True)
        for event in self.connection.receive(call, 0.0):
            if isinstance(event, RequestReceived):
                self.read[event.stream] = [*event.request.fields]
            elif isinstance(event, DataReceived):
                self.connection.credit(event.stream, len(event.data))
                self.connection.start_answer(event.stream, HEAD)
                self.connection.end_answer(event.stream, TRAILERS)
        self.connection.take_output()
        return self.read.get(self.stream)


@pytest.mark.parametrize("quick", [False, True])
def test_a_block_that_fills_the_table_does_so_each_time_it_comes(quick: bool) -> None:
    reader = Reader(quick)
    reader.take(START + inserted(b"a", b"y"))
    for _ in range(3):
        reader.take(START + inserted(b"a", b"z"))
    fields = reader.take(START + indexed(2))
    assert fields is not None
    assert fields[-1] == (b"a", b"z")


def test_a_block_that_only_reads_the_table_is_decoded_once_while_the_table_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = Reader(quick=True)
    reader.take(START + inserted(b"a", b"y"))
    reader.take(START + indexed(1))
    decoded: list[bytes] = []
    monkeypatch.setattr(reader.connection._decoder, "decode", decoded.append)
    fields = reader.take(START + indexed(1))
    assert fields is not None
    assert fields[-1] == (b"a", b"y")
    assert not decoded


pairs = st.tuples(st.sampled_from([b"a", b"b", VARYING]), st.sampled_from([b"1", b"2", b"3"]))
pieces = st.one_of(
    st.builds(lambda pair: inserted(*pair), pairs),
    st.builds(lambda pair: b"\0" + encode_string(pair[0]) + encode_string(pair[1], coded=True), pairs),
    st.builds(indexed, st.integers(1, 4)),
)
sizes = st.sampled_from([b"", b"", b"", b"\x20", b"\x3f\x21", b"\x3f\xe1\x1f"])  # none, 0, 64, 4096
blocks = st.lists(st.builds(lambda size, rest: size + START + b"".join(rest), sizes, st.lists(pieces, max_size=3)))
choices = st.lists(st.integers(0, 5), max_size=24)


@given(blocks, choices)
@example([START + inserted(b"a", b"1"), START + inserted(b"a", b"2"), START + indexed(2)], [0, 1, 1, 2])
@settings(deadline=None, max_examples=400)
def test_blocks_mean_what_hpack_says_however_often_they_come(kinds: list[bytes], order: list[int]) -> None:
    readers = Reader(quick=True), Reader(quick=False)
    oracle = hpack.Decoder()
    for choice in order:
        if not kinds:
            return
        block = kinds[choice % len(kinds)]
        got = [reader.take(block) for reader in readers]
        try:
            fields = [(bytes(name), bytes(value)) for name, value in oracle.decode(block, raw=True)]
        except hpack.HPACKError:
            assert [reader.connection.failed for reader in readers] == [True, True]
            return
        regular = [pair for pair in fields if pair[0][:1] != b":"]
        if regular[-1][0] == VARYING:
            regular.pop()
        elif [name for name, _ in regular].count(VARYING) == 1:
            regular = [pair for pair in regular if pair[0] != VARYING]
        assert got == [regular, regular]
