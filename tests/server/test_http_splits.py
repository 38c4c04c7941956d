"""Each row of the conformance list, cut at each of its bytes, through a whole connection: the same bytes are answered
however they come, whether the caches know the request or not. No sockets."""

import asyncio
import gc
import re

import pytest

from conformance.http1.cases import CASES, Case
from goloves.server.http.protocol import CONTINUE_ANSWER, HttpConnection
from goloves.server.http.shared import HttpShared
from goloves.server.limits import HttpLimits
from goloves.wire.http1 import Requests
from server.test_http_writes import Recorder, share

TAG = "o"
"""The tag that the rows name."""

Outcome = tuple[bytes, bool]
"""What was written, and whether the connection has ended."""


async def outcome(shared: HttpShared, pieces: list[bytes]) -> Outcome:
    """Feed a new connection; an id becomes `id`, whatever its digits, and prompts are left out: whether a body has
    begun to arrive is a matter of the cut."""
    connection, transport = HttpConnection(shared), Recorder()
    connection.connection_made(transport)
    for piece in pieces:
        connection.data_received(piece)
        if isinstance(connection._waiting, asyncio.Task):
            await connection._waiting
        # The first look sees that something was answered since the last one; the second lets go of what rests.
        for _ in range(2):
            connection.look_after(shared.loop.time())
    connection.connection_lost(None)
    written = b"".join(transport.written).replace(CONTINUE_ANSWER, b"")
    written = re.sub(rb"Date: [^\r]+", b"Date: now", written)
    written = re.sub(rb"(text/plain(?:[^\r]+\r\n)+?Content-Length: )\d+\r\n\r\n\d*", rb"\1some\r\n\r\nid", written)
    return written, transport.ended


def places(raw: bytes) -> list[int]:
    # What is longer repeats itself; the parser's own test cuts it everywhere.
    return [at for at in range(1, len(raw)) if at < 120 or at >= len(raw) - 60]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_however_a_request_is_cut_its_answers_are_the_same_bytes(case: Case) -> None:
    shared = await share(HttpLimits(), TAG)
    raw = case.raw
    whole = await outcome(shared, [raw])
    assert whole[0].count(b"HTTP/1.1 ") == sum(status != 100 for status in case.statuses)
    assert whole[1] is not case.stays
    for at in places(raw):
        shared.forget()
        shared.seen[:] = [0] * len(shared.seen)
        assert await outcome(shared, [raw[:at], raw[at:]]) == whole, f"cut at {at}, nothing remembered"
    for _ in range(3):
        assert await outcome(shared, [raw]) == whole
    for at in places(raw):
        assert await outcome(shared, [raw[:at], raw[at:]]) == whole, f"cut at {at}, all remembered"


async def test_a_connection_that_rests_keeps_nothing_of_its_requests_and_one_amid_a_request_does() -> None:
    shared = await share(HttpLimits(), TAG)
    connection, transport = HttpConnection(shared), Recorder()
    connection.connection_made(transport)
    long_way = b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

    def readers() -> int:
        return sum(isinstance(held, Requests) for held in gc.get_referents(connection))

    for cut in (len(long_way), 20):
        connection.data_received(long_way[:cut])
        for _ in range(2):
            connection.look_after(shared.loop.time())
        assert readers() == (cut < len(long_way))
    connection.data_received(long_way[20:])
    assert b"".join(transport.written).count(b"HTTP/1.1 200 OK") == 2


async def test_some_of_the_rows_are_answered_from_the_caches() -> None:
    shared = await share(HttpLimits(), TAG)
    for case in CASES:
        for _ in range(3):
            await outcome(shared, [case.raw])
    assert sum(case.raw in shared.prepared for case in CASES) >= 20
