"""Calls of all four kinds, with grpcio as the client, synchronous and asyncio."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from server.grpc.echo import DETAILS, TRAILERS, Echo, Stub, ask
from server.grpc.live import PATIENCE, LiveGrpc

MEGABYTE = 1024 * 1024


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what():  # noqa: ASYNC110 - another thread's loop makes it true
            await asyncio.sleep(0.005)


STREAMS = ("gather", "spread", "chat")


def begin(stub: Stub, kind: str, *asks: object, timeout: float = PATIENCE) -> Any:
    """Begin a stream with these requests; a kind that takes only one gets the last."""
    if kind == "spread":
        return stub.spread(asks[-1], timeout=timeout)
    return (stub.gather.future if kind == "gather" else stub.chat)(iter(asks), timeout=timeout)


def trailers_of(call: Any) -> list[tuple[str, str | bytes]]:
    return [tuple(pair) for pair in call.trailing_metadata()]


class TestSynchronous:
    def test_a_unary_call_is_answered(self, stub: Stub) -> None:
        assert stub.once(ask("hello"), timeout=PATIENCE).text == "hello"

    def test_a_client_stream_is_gathered_into_one_answer(self, stub: Stub) -> None:
        answer = stub.gather(iter([ask("a"), ask("b"), ask("c")]), timeout=PATIENCE)
        assert (answer.text, answer.number) == ("a,b,c", 3)

    def test_an_empty_client_stream_is_answered_too(self, stub: Stub) -> None:
        assert stub.gather(iter([]), timeout=PATIENCE).number == 0

    def test_a_server_stream_gives_its_answers_in_order(self, stub: Stub) -> None:
        answers = stub.spread(ask("x", times=1000), timeout=PATIENCE)
        assert [answer.number for answer in answers] == list(range(1000))

    def test_a_server_stream_may_be_empty(self, stub: Stub) -> None:
        assert list(stub.spread(ask("x", times=0), timeout=PATIENCE)) == []

    def test_both_sides_of_a_stream_take_turns(self, stub: Stub) -> None:
        heard = threading.Semaphore(0)

        def asks() -> Iterator[object]:
            for number in range(50):
                yield ask(str(number))
                assert heard.acquire(timeout=PATIENCE)

        for number, answer in enumerate(stub.chat(asks(), timeout=PATIENCE)):
            assert answer.text == str(number)
            heard.release()

    def test_metadata_and_trailers_come_and_go_in_order(self, stub: Stub, echo: Echo) -> None:
        sent = (("x-one", "1"), ("x-two", "2"), ("x-one", "3"), ("x-data-bin", b"\x00\xff\x80"), ("x-empty-bin", b""))
        answer, call = stub.once.with_call(ask("head"), metadata=sent, timeout=PATIENCE)
        assert answer.text == "head"
        assert [pair for pair in echo.metadata if pair[0].startswith("x-")] == list(sent)
        assert ("x-head", "early") in call.initial_metadata()
        assert ("x-head-bin", b"\x01\x02") in call.initial_metadata()
        _, call = stub.once.with_call(ask("trailers"), timeout=PATIENCE)
        assert [tuple(pair) for pair in call.trailing_metadata()] == [
            ("x-trailer", "one"),
            ("x-trailer", "two"),
            ("x-trailer-bin", b"\x00\xff"),
        ]

    def test_an_error_carries_its_message_details_and_trailers_together(self, stub: Stub) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            stub.once(ask("wrong", fail=9), timeout=PATIENCE)
        error = caught.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == "fäil 100%\nwrong"
        trailers = [tuple(pair) for pair in error.trailing_metadata()]
        assert ("grpc-status-details-bin", DETAILS) in trailers
        assert [pair for pair in trailers if pair[0].startswith("x-")] == [
            ("x-trailer", "one"),
            ("x-trailer", "two"),
            ("x-trailer-bin", b"\x00\xff"),
        ]

    def test_a_stream_that_fails_late_has_given_what_came_before(self, stub: Stub) -> None:
        answers = stub.spread(ask("x", times=3, fail=11), timeout=PATIENCE)
        assert [next(answers).number for _ in range(3)] == [0, 1, 2]
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE

    @pytest.mark.parametrize("kind", STREAMS)
    def test_a_late_error_of_a_stream_carries_its_message_details_and_trailers_together(
        self, stub: Stub, kind: str
    ) -> None:
        call = begin(stub, kind, ask("well"), ask("wrong", times=1, fail=9))
        if kind != "gather":
            assert next(call).number == 0
        with pytest.raises(grpc.RpcError):
            call.result()
        assert call.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert call.details() == "fäil 100%\nwrong"
        assert trailers_of(call) == [("grpc-status-details-bin", DETAILS), *TRAILERS]

    @pytest.mark.parametrize("kind", STREAMS)
    def test_trailers_that_a_handler_sets_follow_a_stream_that_goes_well_and_one_that_fails(
        self, stub: Stub, kind: str
    ) -> None:
        call = begin(stub, kind, ask("trailers", times=1))
        if kind != "gather":
            assert list(call)
        assert call.code() is grpc.StatusCode.OK
        assert trailers_of(call) == TRAILERS
        call = begin(stub, kind, ask("well"), ask("trailers", times=1, fail=9))
        if kind != "gather":
            assert next(call).number == 0
        with pytest.raises(grpc.RpcError):
            call.result()
        assert trailers_of(call) == [("grpc-status-details-bin", DETAILS), *TRAILERS, *TRAILERS]

    def test_a_fault_of_a_handler_is_internal_and_tells_the_client_nothing(self, stub: Stub, server: LiveGrpc) -> None:
        before = server.call(lambda: server.shared.counters.failed)
        with pytest.raises(grpc.RpcError) as caught:
            stub.once(ask("fault"), timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "division" not in caught.value.details().lower()
        assert server.call(lambda: server.shared.counters.failed) == before + 1

    @pytest.mark.parametrize("kind", ["once", "gather", "spread", "chat"])
    def test_a_handler_that_meets_the_cancellation_of_another_ends_its_call(
        self, stub: Stub, server: LiveGrpc, kind: str
    ) -> None:
        before = server.call(lambda: server.shared.counters.failed)
        request = ask("another's end", times=2)
        with pytest.raises(grpc.RpcError) as caught:
            list(getattr(stub, kind)(iter([request]) if kind in ("gather", "chat") else request, timeout=PATIENCE))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert server.call(lambda: server.shared.counters.failed) == before + 1
        server.wait_for(lambda: all(not connection._calls for connection in server.shared.connections()))

    def test_a_deadline_reaches_the_handler_and_ends_the_call(self, stub: Stub, echo: Echo, server: LiveGrpc) -> None:
        stub.once(ask("quick"), timeout=5)
        assert echo.time_left is not None
        assert 3 < echo.time_left < 5.1
        stub.once(ask("none"))
        assert echo.time_left is None
        echo.seen.clear()
        with pytest.raises(grpc.RpcError) as caught:
            stub.once(ask("slow", wait=PATIENCE), timeout=1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_for(lambda: "cancelled" in echo.seen)

    @pytest.mark.parametrize("kind", STREAMS)
    def test_a_streams_deadline_reaches_its_handler_and_ends_it(
        self, stub: Stub, echo: Echo, server: LiveGrpc, kind: str
    ) -> None:
        call = begin(stub, kind, ask("quick", times=1))
        assert call.result() is not None if kind == "gather" else list(call)
        assert echo.time_left is not None
        assert 0 < echo.time_left < PATIENCE + 1  # as grpcio rounds it
        echo.seen.clear()
        call = begin(stub, kind, ask("slow", wait=PATIENCE), timeout=1)
        with pytest.raises(grpc.RpcError):
            call.result()
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_for(lambda: echo.seen == ["slow", "cancelled"])

    def test_a_cancelled_call_cancels_its_handler(self, stub: Stub, echo: Echo, server: LiveGrpc) -> None:
        echo.seen.clear()
        future = stub.once.future(ask("slow", wait=PATIENCE))
        server.wait_for(lambda: echo.seen)
        future.cancel()
        server.wait_for(lambda: "cancelled" in echo.seen)
        server.wait_for(lambda: all(not connection._calls for connection in server.shared.connections()))

    def test_messages_of_four_megabytes_pass_both_ways(self, stub: Stub) -> None:
        body = bytes(range(256)) * (4 * MEGABYTE // 256 - 1)
        assert stub.once(ask(body=body), timeout=PATIENCE).body == body
        answers = list(stub.chat(iter([ask(body=body), ask(body=body)]), timeout=PATIENCE))
        assert [answer.body == body for answer in answers] == [True, True]

    def test_big_metadata_passes_and_too_big_is_refused_by_name(self, stub: Stub, echo: Echo) -> None:
        stub.once(ask(), metadata=[("x-big", "v" * 12_000)], timeout=PATIENCE)
        assert ("x-big", "v" * 12_000) in echo.metadata
        stub.once(ask(), metadata=[(f"x-{number}", "v" * 50) for number in range(100)], timeout=PATIENCE)
        assert sum(name.startswith("x-") for name, _ in echo.metadata) == 100
        with pytest.raises(grpc.RpcError) as caught:
            stub.once(ask(), metadata=[("x-big", "v" * 20_000)], timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.once(ask("next"), timeout=PATIENCE).text == "next"

    @pytest.mark.parametrize("kind", STREAMS)
    def test_a_cancelled_stream_cancels_its_handler(self, stub: Stub, echo: Echo, server: LiveGrpc, kind: str) -> None:
        echo.seen.clear()
        call = begin(stub, kind, ask("slow", wait=PATIENCE))
        server.wait_for(lambda: echo.seen == ["slow"])
        call.cancel()
        server.wait_for(lambda: "cancelled" in echo.seen)
        server.wait_for(lambda: all(not connection._calls for connection in server.shared.connections()))

    def test_a_client_that_pings_too_often_is_told_so(self, server: LiveGrpc) -> None:
        hurried = [
            ("grpc.keepalive_time_ms", 50),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        before = server.call(lambda: server.shared.counters.cut_calm)
        with grpc.insecure_channel(server.target, options=hurried) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                Stub(channel).once(ask(wait=PATIENCE), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "too_many_pings" in (caught.value.details() or "") + str(caught.value.debug_error_string())
        assert server.call(lambda: server.shared.counters.cut_calm) > before

    def test_compressed_requests_are_answered_compressed(self, server: LiveGrpc) -> None:
        with grpc.insecure_channel(server.target, compression=grpc.Compression.Gzip) as channel:
            stub = Stub(channel)
            body = b"abc" * 500_000
            assert stub.once(ask(body=body), timeout=PATIENCE).body == body
            assert [answer.body for answer in stub.chat(iter([ask(body=body)] * 3), timeout=PATIENCE)] == [body] * 3

    def test_a_thousand_calls_at_once_are_all_answered(self, server: LiveGrpc) -> None:
        with grpc.insecure_channel(server.target) as channel:
            stub = Stub(channel)
            futures = [stub.once.future(ask(str(number), wait=0.2), timeout=PATIENCE) for number in range(1000)]
            assert [future.result().text for future in futures] == [str(number) for number in range(1000)]

    def test_calls_from_many_threads_get_their_own_answers(self, stub: Stub) -> None:
        with ThreadPoolExecutor(16) as pool:
            texts = [str(number) for number in range(2000)]
            assert list(pool.map(lambda text: stub.once(ask(text), timeout=PATIENCE).text, texts)) == texts


class TestAsyncio:
    async def test_all_four_kinds_are_answered(self, server: LiveGrpc) -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = Stub(channel)
            assert (await stub.once(ask("hello"), timeout=PATIENCE)).text == "hello"
            answer = await stub.gather(iter([ask("a"), ask("b")]), timeout=PATIENCE)
            assert answer.text == "a,b"
            numbers = [answer.number async for answer in stub.spread(ask(times=500), timeout=PATIENCE)]
            assert numbers == list(range(500))
            chat = stub.chat(timeout=PATIENCE)
            for number in range(20):
                await chat.write(ask(str(number)))
                assert (await chat.read()).text == str(number)
            await chat.done_writing()
            assert await chat.read() is grpc.aio.EOF

    async def test_a_thousand_calls_at_once_are_all_answered(self, server: LiveGrpc) -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = Stub(channel)
            calls = [stub.once(ask(str(number), wait=0.1), timeout=PATIENCE) for number in range(1000)]
            assert [answer.text for answer in await asyncio.gather(*calls)] == [str(number) for number in range(1000)]

    async def test_big_metadata(self, server: LiveGrpc, echo: Echo) -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = Stub(channel)
            await stub.once(ask(), metadata=[("x-big", "v" * 12_000)], timeout=PATIENCE)
            assert ("x-big", "v" * 12_000) in echo.metadata
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.once(ask(), metadata=[("x-big", "v" * 20_000)], timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_a_cancelled_stream_cancels_its_handler(self, server: LiveGrpc, echo: Echo) -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            chat = Stub(channel).chat()
            echo.seen.clear()
            await chat.write(ask("slow", wait=PATIENCE))
            await _until(lambda: echo.seen == ["slow"])
            chat.cancel()
            await _until(lambda: "cancelled" in echo.seen)

    async def test_errors_deadlines_and_cancellation(self, server: LiveGrpc, echo: Echo) -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = Stub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.once(ask("x", fail=5), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert dict(caught.value.trailing_metadata())["grpc-status-details-bin"] == DETAILS
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.once(ask("x", wait=PATIENCE), timeout=0.1)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            echo.seen.clear()
            call = stub.once(ask("x", wait=PATIENCE))
            await _until(lambda: bool(echo.seen))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await _until(lambda: "cancelled" in echo.seen)

    async def test_gzip_and_large_messages(self, server: LiveGrpc) -> None:
        async with grpc.aio.insecure_channel(server.target, compression=grpc.Compression.Gzip) as channel:
            stub = Stub(channel)
            body = b"xyz" * MEGABYTE
            assert (await stub.once(ask(body=body), timeout=PATIENCE)).body == body

    async def test_messages_of_four_megabytes_pass_both_ways(self, server: LiveGrpc) -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = Stub(channel)
            body = bytes(range(256)) * (4 * MEGABYTE // 256 - 1)
            assert (await stub.once(ask(body=body), timeout=PATIENCE)).body == body
            answers = [answer.body async for answer in stub.chat(iter([ask(body=body)] * 2), timeout=PATIENCE)]
            assert [answer == body for answer in answers] == [True, True]
            assert (await stub.gather(iter([ask(body=body)] * 2), timeout=PATIENCE)).number == 2


def test_a_stream_is_not_read_further_than_its_handler_goes(stub: Stub, echo: Echo, server: LiveGrpc) -> None:
    """The handler stops at the first request; the client can't push more than the windows take."""
    sent = 0
    body = b"x" * 65_536

    def asks() -> Iterator[object]:
        nonlocal sent
        yield ask("slow", wait=PATIENCE)
        for _ in range(1000):
            yield ask(body=body)
            sent += 1

    echo.seen.clear()
    call = stub.gather.future(asks())
    server.wait_for(lambda: echo.seen)
    server.wait_for(lambda: server.shared.held > 100_000)
    assert sent < 200
    assert server.call(lambda: server.shared.held) <= 2 * 1_048_576
    call.cancel()
    server.wait_for(lambda: server.shared.held == 0)


def test_a_server_stream_waits_for_a_client_that_does_not_read(server: LiveGrpc) -> None:
    with grpc.insecure_channel(server.target) as channel:
        answers = Stub(channel).spread(ask("x", body=b"y" * 65_536, times=2000), timeout=PATIENCE)
        next(answers)
        server.wait_for(lambda: server.shared.unread)
        assert server.call(lambda: server.shared.unread) < 2 * 1_048_576
        assert sum(1 for _ in answers) == 1999


def test_an_answer_before_the_requests_end_reaches_the_client(stub: Stub, server: LiveGrpc) -> None:
    def asks() -> Iterator[object]:
        yield ask("enough")
        for _ in range(100_000):
            yield ask("more")

    assert stub.gather(asks(), timeout=PATIENCE).text == "enough"
    assert stub.once(ask("still here"), timeout=PATIENCE).text == "still here"
