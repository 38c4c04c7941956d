"""The quick way of a call that comes whole gives the very bytes of the long way."""

from dataclasses import dataclass

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goloves.wire.http2 import Limits
from goloves.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    SETTINGS_ACK,
    Code,
    Kind,
    Setting,
    frame,
    reset_frame,
    settings_frame,
    window_frame,
)
from wire.h2peer import REQUEST, data, setting
from wire.h2server import Server


@dataclass(frozen=True)
class Step:
    """Something that a client does: the bytes depend on the stream and the encoder's state."""

    what: str
    body: bytes = b""
    timeout: bytes | None = None
    extra: int = 0
    huffman: bool = True


bodies = st.sampled_from([b"q", b"quick", b"q" * 300, b"slow", b""])
timeouts = st.sampled_from([None, None, b"1", b"1000", b"12345678", b"bad", b"1 ", b"1\n", b""])
CONTROL = ("window", "stream window", "initial", "table", "reset")
CALLS = ("call", "call", "call", "call", "split", "length", "wrong length", "open", "ended", "padded", "malformed")
kinds = st.sampled_from([*CALLS, *CONTROL, "skip", "continued", "trailers"])
steps = st.lists(st.builds(Step, kinds, bodies, timeouts, st.integers(0, 3), st.booleans()), max_size=16)


def write(steps: list[Step], table: int = 0) -> list[bytes]:
    """Give the client's bytes, a piece for each step."""
    encoder = hpack.Encoder()
    encoder.header_table_size = table
    stream = -1
    pieces = [PREFACE + settings_frame([]) + SETTINGS_ACK]
    for step in steps:
        if step.what not in CONTROL:
            stream += 4 if step.what == "skip" else 2
        fields = [*REQUEST, (b"x-extra", b"%d" % step.extra)]
        if step.timeout is not None:
            fields.append((b"grpc-timeout", step.timeout))
        if step.what == "malformed":
            fields.append((b"Upper", b""))
        if step.what.endswith("length"):
            wrong = step.what != "length"
            fields.append((b"content-length", b"%d" % (len(step.body) + wrong)))
        block = b"" if step.what in CONTROL else encoder.encode(fields, huffman=step.huffman)
        head = b"" if step.what in CONTROL else frame(Kind.HEADERS, END_HEADERS, stream, block)
        if step.what in ("call", "skip", "malformed", "length", "wrong length"):
            pieces.append(head + data(stream, step.body, end=True))
        elif step.what == "split":
            pieces.append(head + data(stream, step.body[:1]) + data(stream, step.body[1:], end=True))
        elif step.what == "open":
            pieces.append(head + data(stream, step.body))
        elif step.what == "ended":
            pieces.append(frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream, block))
        elif step.what == "padded":
            pieces.append(head + frame(Kind.DATA, END_STREAM | 8, stream, b"\2" + step.body + b"\0\0"))
        elif step.what == "continued":
            pieces.append(
                frame(Kind.HEADERS, 0, stream, block[:3])
                + frame(Kind.CONTINUATION, END_HEADERS, stream, block[3:])
                + data(stream, step.body, end=True)
            )
        elif step.what == "trailers":
            trailers = frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode([(b"x-t", b"1")]))
            pieces.append(head + data(stream, step.body) + trailers)
        elif step.what == "window":
            pieces.append(window_frame(0, 1 + 20_000 * step.extra))
        elif step.what == "stream window" and stream > 0:
            pieces.append(window_frame(stream, 100))
        elif step.what == "initial":
            pieces.append(setting(Setting.INITIAL_WINDOW_SIZE, (0, 10, 65_535, 1_000_000)[step.extra]))
        elif step.what == "table":
            pieces.append(setting(Setting.HEADER_TABLE_SIZE, (0, 100, 4096, 8192)[step.extra]))
        elif step.what == "reset" and stream > 0:
            pieces.append(reset_frame(stream, Code.CANCEL))
    return pieces


@given(steps, st.lists(st.integers(1, 200), max_size=6), st.booleans(), st.sampled_from([0, 0, 4096]))
@settings(deadline=None, max_examples=300)
def test_both_ways_give_each_call_the_same_frames(
    steps: list[Step], cuts: list[int], together: bool, table: int
) -> None:
    # What else comes in one read is read before the long way answers: then only calls can be compared.
    apart = write(steps, table)
    pieces = [b"".join(write([step for step in steps if step.what not in CONTROL], table))] if together else apart
    for cut in cuts:
        pieces = [part for piece in pieces for part in (piece[:cut], piece[cut:]) if part]
    quick, long = (Server(Limits(), quick=way) for way in (True, False))
    for piece in pieces:
        quick.feed(piece)
        long.feed(piece)
    assert quick.connection.failed == long.connection.failed
    assert quick.by_stream() == long.by_stream()
    assert quick.credited() == long.credited()
    assert quick.connection.calls == long.connection.calls
    assert long.connection.quick_answers == 0


def test_the_quick_way_keeps_to_the_number_of_calls_at_once() -> None:
    server = Server(Limits(streams=1), quick=True)
    for piece in write([Step("open"), Step("call", b"quick")]):
        server.feed(piece)
    assert server.by_stream()[3] == [(Kind.RST_STREAM, 0, Code.REFUSED_STREAM.to_bytes(4, "big"))]
    assert server.connection.quick_answers == 0


def test_plain_calls_do_take_the_quick_way() -> None:
    server = Server(Limits(), quick=True)
    calls = [Step("call", b"quick", timeout) for timeout in (None, None, b"1", b"2", b"3")]
    for piece in write(calls):
        server.feed(piece)
    assert server.connection.quick_answers == len(calls)
    assert [len(frames) for frames in server.by_stream().values()] == [3] * len(calls)


def test_blocks_that_differ_in_one_value_are_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Limits(), quick=True)
    values = [b"%d" % number for number in range(1, 100)]
    pieces = write([Step("call", b"quick", value, huffman=len(value) > 1) for value in values])
    for piece in pieces[:20]:
        server.feed(piece)
    decoded: list[bytes] = []
    monkeypatch.setattr(server.connection._decoder, "decode", decoded.append)
    for piece in pieces[20:]:
        server.feed(piece)
    assert server.connection.quick_answers == len(values)
    assert not decoded


def test_a_value_that_may_not_be_skipped_is_read_though_its_block_is_known() -> None:
    server = Server(Limits(), quick=True)
    values = [b"1", b"2", b"3", b"4", b"soon", b"5"]
    for piece in write([Step("call", b"quick", value) for value in values]):
        server.feed(piece)
    assert server.connection.quick_answers == 5
    assert server.by_stream()[9] == [(Kind.RST_STREAM, 0, Code.INTERNAL_ERROR.to_bytes(4, "big"))]


def test_no_call_is_answered_quickly_while_what_was_written_has_not_left() -> None:
    server = Server(Limits(), quick=True)
    pieces = write([Step("call", b"quick")] * 2)
    server.feed(pieces[0])
    server.connection.congested = True
    server.feed(pieces[1])
    assert server.connection.quick_answers == 0
    server.connection.congested = False
    server.feed(pieces[2])
    assert server.connection.quick_answers == 1


def test_what_quick_answers_take_of_one_read_is_limited() -> None:
    server = Server(Limits(), quick=True)
    server.connection.receive(PREFACE + settings_frame([(Setting.INITIAL_WINDOW_SIZE, 2**31 - 1)]), 0.0)
    server.connection.receive(window_frame(0, 2**31 - 1 - 65_535), 0.0)
    server.connection.take_output()
    calls = write([Step("call", b"Q")] * 300)[1:]
    server.connection.receive(b"".join(calls), 0.0)
    assert 100 <= server.connection.quick_answers <= 110
    assert server.connection.calls == 300 - server.connection.quick_answers
