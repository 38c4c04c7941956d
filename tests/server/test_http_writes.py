"""How often a connection writes, and which one is cut when too much is unread: driven without sockets."""

import asyncio
from typing import Any

from goloves.config import SegmentConfig
from goloves.core.layout import Layout
from goloves.server.http.protocol import BATCH, HttpConnection
from goloves.server.http.shared import ENDS, HttpShared
from goloves.server.limits import HttpLimits
from goloves.service import IdService, ServedSpace
from goloves.stores.base import NewTag, Space
from goloves.stores.memory import MemoryStore

GET = b"GET /api/segment/get/order HTTP/1.1\r\nHost: a\r\n\r\n"


class Recorder(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.reading = True
        self.ended = False
        self.aborted = False
        self.closing = False
        self.tls = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def can_write_eof(self) -> bool:
        return not self.tls

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted = True


async def share(limits: HttpLimits, tag: str = "order") -> HttpShared:
    store = MemoryStore()
    await store.open()
    await store.create_tag(NewTag(tag, step=100_000))
    patient = SegmentConfig(deadline=20.0)  # a busy machine may stall for longer than a node makes anybody wait
    service = IdService(store, store, segment=patient, spaces=[ServedSpace(Space("default", Layout()))])
    await service.start()
    await service.segment_ids(tag, 1)
    return HttpShared(service, limits)


async def connect(shared: HttpShared | None = None) -> tuple[HttpConnection, Recorder]:
    connection, transport = HttpConnection(shared or await share(HttpLimits())), Recorder()
    connection.connection_made(transport)
    return connection, transport


async def test_the_answers_of_one_read_leave_in_one_write() -> None:
    connection, transport = await connect()
    connection.data_received(GET * 100)
    assert len(transport.written) == 1
    assert transport.written[0].count(b"HTTP/1.1 200 OK") == 100


async def test_one_request_is_one_read_and_one_write_however_it_is_answered() -> None:
    connection, transport = await connect()
    for _ in range(5):
        connection.data_received(GET)
    connection.data_received(GET[:20])
    connection.data_received(GET[20:])
    assert [answer.count(b"HTTP/1.1 200 OK") for answer in transport.written] == [1] * 6
    assert connection.served == 6


async def test_a_long_pipeline_gives_the_others_their_turn_and_is_not_read_from_meanwhile() -> None:
    connection, transport = await connect()
    connection.data_received(GET * 2000)
    assert len(transport.written) == 1
    assert BATCH <= len(transport.written[0]) < BATCH + 1000
    assert not transport.reading
    connection.data_received(GET * 3)
    assert len(transport.written) == 1
    for _ in range(100):
        await asyncio.sleep(0)
    assert transport.reading
    assert b"".join(transport.written).count(b"HTTP/1.1 200 OK") == 2003
    assert all(len(answers) < BATCH + 1000 for answers in transport.written)


async def test_the_answers_before_a_refusal_leave_with_it_and_the_connection_ends() -> None:
    connection, transport = await connect()
    connection.data_received(GET * 2 + b"\x00" + GET)
    assert len(transport.written) == 1
    assert transport.written[0].count(b"HTTP/1.1 200 OK") == 2
    assert transport.written[0].count(b"HTTP/1.1 400") == 1
    assert transport.ended
    connection.data_received(GET)
    assert len(transport.written) == 1


async def test_connections_that_came_together_end_one_after_another_and_share_the_moments_of_it() -> None:
    shared = await share(HttpLimits(max_age=1000))
    before = shared.loop.time()
    connections = [(await connect(shared))[0] for _ in range(1000)]
    took = shared.loop.time() - before
    seconds = 2 + round(took)
    ends = [connection._expires - before for connection in connections]
    assert len({id(connection._expires) for connection in connections}) <= ENDS * seconds
    # They were worked out when the second began.
    assert 900 - seconds <= min(ends) < 910
    assert 990 < max(ends) < 1000 + took


async def test_a_last_word_may_be_unread_for_as_long_as_any_answer_and_lingers_from_when_it_was_read() -> None:
    connection, transport = await connect()
    now = asyncio.get_running_loop().time
    connection.data_received(b"\x00")
    connection.pause_writing()
    assert transport.reading, "what a refused client sends on is dropped, or it would meet a reset"
    connection.look_after(now() + 29)
    assert not transport.aborted
    connection.resume_writing()
    connection.look_after(now() + 4)
    assert not transport.aborted
    connection.look_after(now() + 6)
    assert transport.aborted
    assert connection._shared.counters.cut_linger == 1

    connection, transport = await connect()
    connection.data_received(b"\x00")
    connection.pause_writing()
    connection.look_after(now() + 31)
    assert transport.aborted
    assert connection._shared.counters.cut_unread == 1


async def test_a_connection_that_is_saying_goodbye_over_tls_is_told_nothing_more() -> None:
    connection, transport = await connect()
    transport.tls = True
    now = asyncio.get_running_loop().time
    connection.data_received(b"GET / HT")
    for seconds in (11, 12, 13):
        connection.look_after(now() + seconds)
    assert transport.closing
    assert [b"HTTP/1.1 408" in answer for answer in transport.written] == [True]
    assert connection._shared.counters.request_timeouts == 1


async def test_when_too_much_is_unread_those_stalled_longest_are_cut() -> None:
    shared = await share(HttpLimits(max_unread=100))
    pairs = [await connect(shared) for _ in range(4)]
    for connection, _ in pairs:
        shared.stalling(connection, 40)
    assert [transport.aborted for _, transport in pairs] == [True, True, False, False]
    assert shared.unread == 80
    shared.stalling(pairs[2][0], 50)
    assert shared.unread == 90
    shared.flowing(pairs[2][0])
    shared.flowing(pairs[3][0])
    assert shared.unread == 0
    assert shared.counters.cut_too_much_unread == 2
