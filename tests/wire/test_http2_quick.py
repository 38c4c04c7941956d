"""The quick way of a call that comes whole gives the very bytes of the long way."""

from collections.abc import Sequence
from dataclasses import dataclass

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goloves.wire.hpack import encode
from goloves.wire.http2 import Allowance, Limits
from goloves.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    MAX_FRAME,
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
from goloves.wire.http2.quick import DATA_OCTETS, KNOWN_REPEATS, VALUE_OCTETS
from wire.h2peer import REQUEST, data, setting
from wire.h2server import ANSWER, Server


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
step = st.builds(Step, kinds, bodies, timeouts, st.integers(0, 3), st.booleans())
steps = st.lists(st.tuples(step, st.integers(1, 5)), max_size=12).map(
    lambda several: [step for step, times in several for _ in range(times)]
)


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
    assert quick.room() == long.room()
    assert quick.connection.calls == long.connection.calls
    assert long.connection.quick_answers == 0


@pytest.mark.parametrize("before", [0, 3])
def test_the_quick_way_keeps_to_the_number_of_calls_at_once(before: int) -> None:
    server = Server(Limits(streams=1), quick=True)
    for piece in write([*[Step("call", b"quick")] * before, Step("open"), Step("call", b"quick")]):
        server.feed(piece)
    assert server.by_stream()[3 + 2 * before] == [(Kind.RST_STREAM, 0, Code.REFUSED_STREAM.to_bytes(4, "big"))]
    assert server.connection.quick_answers == before


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
    values = [b"1000", b"2000", b"3000", b"4000", b"soon", b"5000"]
    for piece in write([Step("call", b"quick", value) for value in values]):
        server.feed(piece)
    assert server.connection.quick_answers == 5
    assert server.by_stream()[9] == [(Kind.RST_STREAM, 0, Code.INTERNAL_ERROR.to_bytes(4, "big"))]


def test_no_call_is_answered_quickly_while_what_was_written_has_not_left() -> None:
    server = Server(Limits(), quick=True)
    pieces = write([Step("call", b"quick")] * 8)
    server.feed(pieces[0])
    for number, piece in enumerate(pieces[1:]):
        server.connection.congested = number % 2 == 0
        server.feed(piece)
        assert server.connection.quick_answers == (number + 1) // 2


def warm(steps: list[Step], limits: Limits | None = None) -> tuple[Server, list[bytes]]:
    """Give a server that has answered the first three steps, which are alike, and the bytes of the others."""
    server = Server(limits or Limits(), quick=True)
    pieces = write(steps)
    for piece in pieces[:4]:
        server.feed(piece)
    assert server.connection.quick_answers == 3
    return server, pieces[4:]


def list_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a list that gets the stream of each call from now on that is not merely compared with an earlier one."""
    read: list[int] = []
    on_call = server.connection._on_call

    def listed(data: bytes, at: int, payload: int, after: int, end: int) -> int:
        read.append(server.connection._next_stream)
        return on_call(data, at, payload, after, end)

    monkeypatch.setattr(server.connection, "_on_call", listed)
    return read


VALUES = (b"1000", b"1000", b"1000", b"1001", b"9999", b"1234", b"12345678", b"2", b"3")


@pytest.mark.parametrize("values", [[None] * 9, VALUES])
@pytest.mark.parametrize("huffman", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_calls_that_repeat_are_compared_and_not_read(
    values: Sequence[bytes | None], huffman: bool, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = (b"quick", b"quack, and more of it")
    server, pieces = warm([Step("call", bodies[at & 1], value, huffman=huffman) for at, value in enumerate(values)])
    read = list_read(server, monkeypatch)
    for piece in [b"".join(pieces)] if together else pieces:
        server.feed(piece)
    assert read == []
    assert server.connection.quick_answers == len(values)
    assert [got.payload for got in server.out[-6:] if got.kind is Kind.DATA] == [ANSWER + bodies[1], ANSWER + bodies[0]]


@pytest.mark.parametrize("together", [False, True])
def test_calls_of_several_kinds_in_turn_are_compared_too(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [Step("call", b"quick", value, extra) for value in (None, b"1000") for extra in range(3)]
    pieces = write(kinds * 5)
    server = Server(Limits(), quick=True)
    for piece in pieces[: 1 + 3 * len(kinds)]:
        server.feed(piece)
    read = list_read(server, monkeypatch)
    rest = pieces[1 + 3 * len(kinds) :]
    for piece in [b"".join(rest)] if together else rest:
        server.feed(piece)
    assert read == []
    assert server.connection.quick_answers == len(kinds) * 5


@pytest.mark.parametrize("timeout", [None, b"1000"])
def test_a_call_that_is_cut_anywhere_is_answered_once_it_is_whole(timeout: bytes | None) -> None:
    calls = [Step("call", b"quick", timeout)] * 5
    *_, last, another = write(calls)
    for cut in range(1, len(last)):
        for pieces in ([last[:cut], last[cut:] + another], [last + another[:cut], another[cut:]]):
            server, _ = warm(calls)
            server.feed(pieces[0])
            assert server.connection.quick_answers == (4 if len(pieces[0]) > len(last) else 3)
            server.feed(pieces[1])
            assert not server.connection.failed
            assert [len(frames) for frames in server.by_stream().values()] == [3] * 5
            assert [got.payload for got in server.out if got.kind is Kind.DATA] == [ANSWER + b"quick"] * 5


def test_frames_in_the_data_of_a_call_stay_data() -> None:
    # A prefix that names fewer octets than come, and a read that ends behind those: the rest is no frame.
    prefix = b"q" + bytes(4)
    body = prefix + reset_frame(7, Code.CANCEL)
    server, pieces = warm([*[Step("call", prefix)] * 3, Step("open", b"slow"), Step("call", body)])
    server.feed(pieces[0])
    server.feed(pieces[1][: -len(body) + len(prefix)])
    server.feed(pieces[1][-len(body) + len(prefix) :])
    assert server.connection.calls == 1
    assert server.by_stream()[9][1] == (Kind.DATA, 0, ANSWER + body)


def test_what_is_known_of_a_call_is_gone_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = hpack.Encoder()
    server = Server(Limits(), quick=True)
    server.feed(PREFACE + settings_frame([]) + SETTINGS_ACK)

    def call(stream: int, block: bytes) -> bytes:
        return frame(Kind.HEADERS, END_HEADERS, stream, block) + data(stream, b"quick", end=True)

    for stream in range(1, 11, 2):
        block = encoder.encode([*REQUEST, (b"x-extra", b"1")])
        server.feed(call(stream, block))
    read = list_read(server, monkeypatch)
    server.feed(call(11, block))
    assert read == []
    # The same octets, but they stand for something else: what is last in the table now is a field that may not be.
    server.feed(call(13, encoder.encode([*REQUEST, (b"te", b"gzip")])))
    server.feed(call(15, block))
    assert server.by_stream()[15] == [(Kind.RST_STREAM, 0, Code.PROTOCOL_ERROR.to_bytes(4, "big"))]
    for stream in range(17, 23, 2):
        server.feed(call(stream, encoder.encode(REQUEST)))
    server.feed(call(23, block))
    assert read == [13, 15, 17, 19, 23]
    assert server.by_stream()[23] == server.by_stream()[15]


def test_the_last_calls_of_a_connection_are_counted_right() -> None:
    quick, long = (Server(Limits(), quick=way) for way in (True, False))
    last = 2**31 - 1
    block = encode(REQUEST)
    for server in (quick, long):
        server.feed(PREFACE + settings_frame([]) + SETTINGS_ACK)
        for stream in (*range(last - 12, last + 4, 2), last):
            server.feed(frame(Kind.HEADERS, END_HEADERS, stream, block) + data(stream, b"quick", end=True))
    assert quick.by_stream() == long.by_stream()
    assert quick.connection.quick_answers == 6
    assert quick.connection.failed
    assert long.connection.failed


@pytest.mark.parametrize("together", [False, True])
def test_calls_that_repeat_keep_to_the_peers_window(together: bool) -> None:
    quick, long = (Server(Limits(), quick=way) for way in (True, False))
    pieces = write([Step("call", b"q" * 60)] * 900)
    for piece in [*pieces[:4], b"".join(pieces[4:])] if together else pieces:
        quick.feed(piece)
        long.feed(piece)
    assert quick.by_stream() == long.by_stream()
    assert quick.connection.queued == long.connection.queued > 0
    assert 500 < quick.connection.quick_answers < 700


@pytest.mark.parametrize(("window", "quickly"), [(1000, 3), (MAX_FRAME, 4)])
@pytest.mark.parametrize("together", [False, True])
def test_calls_that_repeat_keep_to_our_window(window: int, quickly: int, together: bool) -> None:
    calls = [Step("call", b"q" * 250)] * 100
    quick, pieces = warm(calls)
    long = Server(Limits(), quick=False)
    for piece in write(calls)[:4]:
        long.feed(piece)
    for server in (quick, long):
        server.connection._receive_window = window  # as if other calls held the rest
        for piece in [b"".join(pieces)] if together else pieces:
            server.feed(piece)
        assert server.out[-1].kind is Kind.GOAWAY
        assert server.out[-1].code is Code.FLOW_CONTROL_ERROR
    assert quick.connection.quick_answers == quickly
    assert together or quick.by_stream() == long.by_stream()


@pytest.mark.parametrize("timeout", [None, b"1000"])
def test_a_call_that_differs_in_any_octet_is_no_repeat(timeout: bytes | None) -> None:
    calls = [Step("call", b"quick", timeout, huffman=False)] * 4
    for at in range(len(write(calls)[-1])):
        server, (call,) = warm(calls)
        long = Server(Limits(), quick=False)
        changed = call[:at] + bytes([call[at] ^ 1]) + call[at + 1 :]
        for piece in [*write(calls)[:4], changed]:
            long.feed(piece)
        server.feed(changed)
        assert server.by_stream() == long.by_stream()
        assert server.connection.failed == long.connection.failed
        assert server.connection.calls == long.connection.calls


@pytest.mark.parametrize("start", [b"\0\0\1", frame(Kind.HEADERS, 0, 7, b"\x82")])
def test_what_looks_like_a_call_behind_what_has_begun_is_none(start: bytes) -> None:
    calls = [Step("call", b"quick")] * 4
    server, (call,) = warm(calls)
    long = Server(Limits(), quick=False)
    for piece in write(calls)[:4]:
        long.feed(piece)
    for each in (server, long):
        each.feed(start)
        each.feed(call)
    assert server.by_stream() == long.by_stream()
    assert server.connection.failed == long.connection.failed
    assert server.connection.calls == long.connection.calls
    assert server.connection.quick_answers == 3


@pytest.mark.parametrize("change", [Step("initial", extra=1), Step("table", extra=0)])
def test_calls_that_repeat_heed_what_the_peer_has_set_meanwhile(change: Step) -> None:
    call = Step("call", b"quick")
    steps = [call, call, call, change, call, call]
    server, pieces = warm(steps)
    long = Server(Limits(), quick=False)
    for piece in write(steps):
        long.feed(piece)
    for piece in pieces:
        server.feed(piece)
    assert server.by_stream() == long.by_stream()


def test_calls_that_repeat_count_as_answers() -> None:
    call = Step("call", b"quick")
    server, pieces = warm([call] * 43, Limits(chatter=Allowance(burst=3, per_second=0, per_answer=2)))
    for piece in pieces:
        server.feed(piece)
        server.feed(window_frame(0, 1))
        server.feed(ping_frame(b"are you?", ack=False))  # one too many if nothing was sent between two of them
    assert server.connection.quick_answers == 43
    assert not server.connection.failed


def test_quick_answers_are_worth_as_much_as_others() -> None:
    quick, long = (Server(Limits(), quick=way) for way in (True, False))
    for piece in write([Step("call", b"quick")] * 9):
        quick.feed(piece)
        long.feed(piece)
        assert quick.connection._answers == long.connection._answers
        assert quick.connection._octets == long.connection._octets
    assert quick.connection.quick_answers == 9


def test_what_is_expected_again_is_little() -> None:
    server = Server(Limits(), quick=True)
    repeats = server.connection._repeats
    for piece in write([Step("call", b"q" * (DATA_OCTETS + 1))] * 3):
        server.feed(piece)
    assert not repeats
    server = Server(Limits(), quick=True)
    repeats = server.connection._repeats
    for piece in write([Step("call", b"q", b"1", extra) for extra in range(20) for _ in range(3)]):
        server.feed(piece)
    assert len(repeats) == KNOWN_REPEATS
    repeat = repeats[0]
    assert repeat.length == 0x81
    assert all(repeat.of_length(length) is repeat.of_length(length) for length in range(256))
    assert repeat.of_length(0x82).of_length(0x81) is repeat
    assert len(repeat._lengths) <= 2 * (VALUE_OCTETS + 1)
    assert repeat.of_length(VALUE_OCTETS + 1) is repeat


def test_a_call_that_came_in_two_reads_is_not_expected_twice() -> None:
    server, pieces = warm([Step("call", b"quick")] * 6)
    for piece in pieces:
        server.feed(piece[:20])
        server.feed(piece[20:])
    assert server.connection.quick_answers == 6
    assert len(server.connection._repeats) == 1


def test_calls_whose_heads_begin_alike_are_told_apart() -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    quick, long = (Server(Limits(), quick=way) for way in (True, False))
    pieces = [PREFACE + settings_frame([]) + SETTINGS_ACK]
    for number in range(30):
        more = [(b"grpc-timeout", b"%d" % (number + 10)), (b"x-extra", b"%d" % (number % 3))]
        block = encoder.encode([*REQUEST, *more])
        stream = 1 + 2 * number
        pieces.append(frame(Kind.HEADERS, END_HEADERS, stream, block) + data(stream, b"quick", end=True))
    for piece in pieces:
        quick.feed(piece)
        long.feed(piece)
    assert len(quick.connection._repeats) == 3
    assert quick.connection.quick_answers == 30
    assert quick.by_stream() == long.by_stream()


def test_a_block_that_fits_a_pattern_is_no_new_one() -> None:
    server = Server(Limits(), quick=True)
    calls = [Step("call", b"quick", b"1000"), Step("call", b"quick", b"2000"), *[Step("split", b"slow", b"3000")] * 5]
    for piece in write(calls):
        server.feed(piece)
    assert len(server.connection._patterns) == 1


def test_no_call_is_answered_behind_the_end() -> None:
    server, pieces = warm([Step("call", b"quick")] * 4)
    server.connection.finish("enough")
    server.feed(pieces[0])
    assert server.connection.quick_answers == 3
    assert 7 not in server.by_stream()


def test_what_quick_answers_take_of_one_read_is_limited() -> None:
    server = Server(Limits(), quick=True)
    server.connection.receive(PREFACE + settings_frame([(Setting.INITIAL_WINDOW_SIZE, 2**31 - 1)]), 0.0)
    server.connection.receive(window_frame(0, 2**31 - 1 - 65_535), 0.0)
    server.connection.take_output()
    calls = write([Step("call", b"Q")] * 300)[1:]
    server.connection.receive(b"".join(calls), 0.0)
    assert 100 <= server.connection.quick_answers <= 110
    assert server.connection.calls == 300 - server.connection.quick_answers
