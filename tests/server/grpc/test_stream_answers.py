"""Messages of a stream that are answered as they come, by the wire or by the call, give the bytes that the handler
gives, in its order, and the same credit. Without sockets."""

import asyncio
import struct
from collections.abc import AsyncIterator

import hpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from goloves.server.grpc.connection import GrpcConnection
from goloves.server.grpc.ids import quick_next
from goloves.server.grpc.methods import Call, Method, Service
from goloves.server.grpc.shared import GrpcShared
from goloves.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    SETTINGS_ACK,
    Kind,
    Setting,
    frame,
    window_frame,
)
from server.test_http_writes import Recorder
from wire.h2peer import Got, data, parse, setting

TURNS = 20
"""Turns of the loop in which a handler gets through a message: it takes three."""

HEAD = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/Stream"), (":authority", "x")]
CALL = [*HEAD, ("te", "trailers"), ("content-type", "application/grpc")]


def prefixed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def answer(message: bytes) -> bytes:
    return b"<%d %b>" % (len(message), message[:4])


def quick(request: bytes) -> bytes | None:
    message = request[5:]
    return prefixed(answer(message)) if message[:1] == b"q" and request == prefixed(message) else None


class Peer:
    """A client of one stream on a connection of its own; `handled` is what its handler was given."""

    def __init__(self, *, quickly: bool) -> None:
        self.handled: list[bytes] = []
        method = Method(bytes, bytes, None, self._handle, many_requests=True, quick=quick if quickly else None)
        self.connection = GrpcConnection(GrpcShared([Service("a.B", {"Stream": method})]))
        self.transport = Recorder()
        self.connection.connection_made(self.transport)

    async def _handle(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for request in requests:
            self.handled.append(request)
            if request[:2] == b"sl":
                await asyncio.sleep(0)
            yield answer(request)

    async def begin(self, window: int) -> None:
        block = hpack.Encoder().encode(CALL, huffman=False)
        self.connection.data_received(PREFACE + setting(Setting.INITIAL_WINDOW_SIZE, window) + SETTINGS_ACK)
        await self.feed(frame(Kind.HEADERS, END_HEADERS, 1, block))

    async def feed(self, piece: bytes, turns: int = TURNS) -> None:
        self.connection.data_received(piece)
        for _ in range(turns):
            await asyncio.sleep(0)

    @property
    def got(self) -> list[Got]:
        return [got for got in parse(b"".join(self.transport.written)) if got.stream == 1]

    @property
    def answered(self) -> bytes:
        return b"".join(got.payload for got in self.got if got.kind is Kind.DATA)


messages = st.lists(st.sampled_from([b"q", b"q", b"quick", b"slow", b"s", b"", b"q" * 300, b"s" * 20_000]), max_size=12)
cuts = st.lists(st.integers(1, 400), max_size=8)


def pieces(asked: list[bytes], cuts: list[int], padded: bool, apart: bool) -> list[bytes]:
    """Give the reads in which a client's frames come: each message in its own, or all of them as one text, which is cut
    into frames; then the reads are cut."""
    bodies = [prefixed(message) for message in asked]
    if not apart:
        text, bodies = b"".join(bodies), []
        for cut in [*cuts, len(text)]:
            bodies.append(text[:cut])
            text = text[cut:]
    bodies = [body[at : at + 16_000] for body in bodies for at in range(0, len(body), 16_000)]
    padding = 3 if padded else 0
    frames = [
        frame(Kind.DATA, PADDED, 1, bytes([padding]) + body + bytes(padding)) if padded else data(1, body)
        for body in bodies
    ]
    reads = [b"".join(frames)] if cuts and cuts[0] % 2 else frames
    for cut in cuts[:3]:
        reads = [part for read in reads for part in (read[:cut], read[cut:]) if part]
    return reads


async def outcome(reads: list[bytes], window: int, turns: list[int], quickly: bool) -> tuple[bytes, int]:
    peer = Peer(quickly=quickly)
    await peer.begin(window)
    for number, read in enumerate(reads):
        await peer.feed(read, turns[number % len(turns)])
    await peer.feed(data(1, b"", end=True) + window_frame(0, 2**20) + window_frame(1, 2**20), 20 * TURNS)
    last, wire = peer.got[-1], peer.connection.wire
    assert (last.kind, last.flags & END_STREAM) == (Kind.HEADERS, END_STREAM)
    assert last.payload.endswith(b"grpc-status\x010")
    assert not wire.calls
    return peer.answered, wire._receive_window + wire._uncredited


@given(
    messages, cuts, st.booleans(), st.booleans(), st.sampled_from([65_535, 65_535, 30, 0]), st.lists(st.integers(0, 5))
)
@example([b"q", b"slow", b"q", b"q"], [1], False, True, 65_535, [0])
@example([b"q", b"slow", b"q", b"q"], [2], False, True, 65_535, [0, 4])
@settings(deadline=None, max_examples=100)
def test_whoever_answers_them_the_answers_are_the_same_bytes_in_the_same_order(
    asked: list[bytes], cuts: list[int], padded: bool, apart: bool, window: int, turns: list[int]
) -> None:
    reads = pieces(asked, cuts, padded, apart)
    expected = b"".join(prefixed(answer(message)) for message in asked)
    by_both = [asyncio.run(outcome(reads, window, turns or [TURNS], quickly)) for quickly in (True, False)]
    assert [answered for answered, _ in by_both] == [expected, expected]
    assert by_both[0][1] == by_both[1][1]


async def test_a_stream_of_single_messages_never_wakes_its_handler() -> None:
    peer = Peer(quickly=True)
    await peer.begin(65_535)
    for _ in range(5):
        await peer.feed(data(1, prefixed(b"quick")))
    assert peer.handled == []
    await peer.feed(data(1, prefixed(b"slow")) + data(1, prefixed(b"quick")))
    await peer.feed(data(1, prefixed(b"quick")))
    # What comes in one read behind a message for the handler is the handler's too.
    assert peer.handled == [b"slow", b"quick"]
    texts = [b"quick"] * 5 + [b"slow"] + [b"quick"] * 2
    assert peer.answered == b"".join(prefixed(answer(text)) for text in texts)


async def test_a_message_behind_one_that_waits_for_the_handler_is_not_answered_before_it() -> None:
    peer = Peer(quickly=True)
    await peer.begin(65_535)
    await peer.feed(data(1, prefixed(b"quick")))
    await peer.feed(data(1, prefixed(b"slow")) + data(1, prefixed(b"q")) + data(1, prefixed(b"q")))
    assert peer.answered == b"".join(prefixed(answer(text)) for text in (b"quick", b"slow", b"q", b"q"))


MISLEADING = prefixed(b"s" + prefixed(b"q"))
"""A message whose end looks like a whole one."""


@pytest.mark.parametrize(
    ("first", "then"), [(prefixed(b"slow"), prefixed(b"qq")), (MISLEADING[:6], MISLEADING[6:])], ids=["whole", "cut"]
)
async def test_what_comes_before_the_handler_is_awake_is_not_answered_ahead_of_what_woke_it(
    first: bytes, then: bytes
) -> None:
    peer = Peer(quickly=True)
    await peer.begin(65_535)
    # Both in one read, as the stream's first, and the rest in the same turn of the loop.
    await peer.feed(data(1, prefixed(b"quick")) + data(1, first), 0)
    await peer.feed(data(1, then))
    texts = [b"quick", b"slow", b"qq"] if first == prefixed(b"slow") else [b"quick", MISLEADING[5:]]
    assert peer.answered == b"".join(prefixed(answer(text)) for text in texts)


@pytest.mark.parametrize("octets", range(6))
async def test_less_than_a_message_is_nothing_that_the_quick_way_of_a_node_answers(octets: int) -> None:
    class Source:
        def take(self) -> int:
            return 1

    whole = quick_next({"": Source()}, "")
    assert whole(bytes(5)) is not None
    assert (whole(bytes(octets)) is None) == (octets < 5)


@pytest.mark.parametrize("body", [prefixed(b"quick")[:-1], prefixed(b"quick") + b"\0", b"\1" + prefixed(b"quick")[1:]])
async def test_what_is_not_one_whole_message_goes_the_long_way(body: bytes) -> None:
    peer = Peer(quickly=True)
    await peer.begin(65_535)
    await peer.feed(data(1, prefixed(b"quick")))
    before = peer.answered
    await peer.feed(data(1, body))
    expected = before + prefixed(answer(b"quick")) if len(body) > 10 else before
    assert peer.answered == expected
