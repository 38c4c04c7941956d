"""How a connection behaves: order, waiting, half-closing, slow and greedy clients, the caches, the end."""

import random
import re
import socket
import struct
from functools import partial
from itertools import pairwise

import pytest

from goloves.config import SegmentConfig
from goloves.server.http.shared import PREPARED_KEPT, TARGETS_KEPT
from goloves.wire.http1 import Request
from server.live import LiveNode
from server.raw import Client, ClosedError

GET = b"GET /api/segment/get/order HTTP/1.1\r\nHost: a\r\n\r\n"
RANGE = b"POST /v1/segments/order/ranges?size=%d HTTP/1.1\r\nHost: a\r\n\r\n"
BATCH = b"POST /v1/segments/order/ids?count=1000 HTTP/1.1\r\nHost: a\r\n\r\n"


def reset(client: Client) -> None:
    """Close by a reset, as a client that was killed does."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


# --- order ---


def test_a_pipeline_is_answered_in_order(client: Client) -> None:
    client.send(GET * 500)
    numbers = [int(client.read().body) for _ in range(500)]
    assert all(high == low + 1 for low, high in pairwise(numbers))


def test_a_pipeline_mixed_of_quick_and_slow_requests_is_answered_in_order(client: Client) -> None:
    kinds = [GET, BATCH, RANGE % 7, GET, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"]
    chosen = [random.Random(1).choice(kinds) for _ in range(200)]
    client.send(b"".join(chosen))
    for request in chosen:
        body = client.read().body
        assert body.isdigit() == (request is GET)
        assert (b"ids" in body) == (request is BATCH)
        assert (b"start" in body) == (request is RANGE % 7 or b"ranges" in request)
        assert (b"alive" in body) == (b"healthz" in request)


def test_what_follows_a_request_that_waits_is_answered_after_it() -> None:
    with LiveNode(tags=["order", "slow"]) as node, Client(node.address) as client:
        client.ask()
        node.call(node.store.flowing.clear)
        client.send(GET.replace(b"order", b"slow") + GET * 3)
        node.wait_for(lambda: node.node.service.tags.get("slow"))
        node.call(node.store.flowing.set)
        assert [int(client.read().body) for _ in range(4)] == [1, 2, 3, 4]


def test_a_client_that_half_closes_gets_every_answer_and_then_the_end() -> None:
    with LiveNode(tags=["order", "slow"]) as node, Client(node.address) as client:
        node.call(node.store.flowing.clear)
        client.send(GET.replace(b"order", b"slow") + GET * 3).half_close()
        node.wait_for(lambda: node.node.service.tags.get("slow"))
        node.call(node.store.flowing.set)
        assert [client.read().status for _ in range(4)] == [200] * 4
        assert client.closes()


def test_a_client_that_half_closes_within_a_request_gets_the_answers_before_it(client: Client) -> None:
    client.send(GET + GET[:-3]).half_close()
    assert client.read().status == 200
    assert client.closes()


def test_a_client_that_is_gone_cancels_its_request_and_not_the_refill() -> None:
    with LiveNode(tags=["slow"], step=10) as node:
        node.call(node.store.flowing.clear)
        gone = Client(node.address).send(GET.replace(b"order", b"slow"))
        node.wait_for(lambda: node.node.service.tags.get("slow"))
        reset(gone)
        node.wait_for(lambda: node.node.http.open == 0)
        node.call(node.store.flowing.set)
        with Client(node.address) as client:
            assert client.ask("/api/segment/get/slow").body == b"1"
        assert node.call(lambda: node.node.http.counters.failed) == 0


def test_a_request_that_waits_too_long_gets_503_and_when_to_try_again() -> None:
    with LiveNode(tags=["slow"], segment=SegmentConfig(deadline=0.05)) as node, Client(node.address) as client:
        node.call(node.store.flowing.clear)
        response = client.ask("/api/segment/get/slow")
        node.call(node.store.flowing.set)
        assert (response.status, response.json["code"]) == (503, "no_range")
        assert int(response.headers["retry-after"]) >= 1
        assert "connection" not in response.headers


def test_the_prompt_comes_and_then_the_answer(client: Client) -> None:
    client.send(b"POST /api/segment/get/order HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert client.read().status == 100
    assert client.send(b"{}").read().status == 200


def test_a_body_too_large_is_refused_without_a_prompt(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 65537\r\n\r\n")
    assert client.read().status == 413


def test_a_refused_client_that_goes_on_sending_reads_why_and_meets_no_reset(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n")
    for _ in range(100):
        client.send(b"x" * 10_000)
    response = client.read()
    assert (response.status, response.headers["connection"]) == (413, "close")
    assert client.closes()


# --- slow and greedy clients ---


def test_a_client_that_does_not_read_is_not_read_from_and_gets_everything_once_it_does(node: LiveNode) -> None:
    shared = node.node.http
    with Client(node.address, buffers=4096) as client:
        client.socket.settimeout(0.2)
        wanted = BATCH * 200_000  # more than the kernel holds between the two, however far it lets its buffers grow
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < len(wanted):
                sent += client.socket.send(wanted[sent : sent + 100_000])
        client.socket.settimeout(20)
        node.wait_for(lambda: len(shared.stalled) == 1)
        # One batch of answers, one answer over it, and what is never counted twice.
        assert 0 < node.call(lambda: shared.unread) < 200_000
        whole = sent // len(BATCH)
        assert whole > 100
        last = 0
        for _ in range(whole):
            ids = client.read().json["ids"]
            assert isinstance(ids, list)
            assert int(ids[0]) > last
            last = int(ids[-1])
        node.wait_for(lambda: shared.unread == 0 and not shared.stalled)


# --- caches ---

SHAPES = [
    (method, target, headers)
    for method, target in (
        ("GET", "/api/segment/get/order"),
        ("HEAD", "/api/segment/get/order"),
        ("POST", "/api/segment/get/order"),
        ("GET", "/api/segment/get/order?x=1"),
        ("GET", "/api/segment/get/order.json"),
        ("GET", "/api/snowflake/get/a"),
        ("POST", "/v1/segments/order/ids"),
        ("POST", "/v1/segments/order/ids?count=1"),
        ("POST", "/v1/segments/order/ids?count=2"),
        ("POST", "/v1/snowflakes/default/ids"),
        ("GET", "/v1/segments/order/ids"),
        ("GET", "/healthz"),
        ("GET", "/nothing"),
        ("OPTIONS", "/v1/segments/order/ids"),
    )
    for headers in (
        "",
        "Accept: text/plain\r\n",
        "Accept: application/json\r\n",
        "Accept: image/png\r\n",
        "Content-Length: 0\r\n",
        "Connection: close\r\n",
        "User-Agent: x\r\nconnection: keep-alive\r\n",
    )
]


def plain(answer: bytes) -> bytes:
    """An answer without what differs from one to the next: the time, and an id with how long it is."""
    head, _, body = answer.partition(b"\r\n\r\n")
    told = re.search(rb"\r\nContent-Length: (\d+)", head)
    if told and (not body or int(told[1]) == len(body)):
        answer = answer.replace(told[0], b"\r\nContent-Length: right", 1)
    return re.sub(rb"\d{2}:\d{2}:\d{2}", b"time", re.sub(rb"(?<=[\n\"])\d+", b"id", answer))


def test_what_comes_from_the_caches_is_what_comes_the_long_way(node: LiveNode) -> None:
    shared = node.node.http
    cached = 0
    for method, target, headers in SHAPES:
        request = f"{method} {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode()
        answers = []
        for _ in range(4):
            with Client(node.address) as client:
                answers.append(plain(client.send(request).half_close().read_to_end()))
        cached += node.call(partial(shared.prepared.__contains__, request))
        node.call(shared.forget)
        with Client(node.address) as client:
            long_way = plain(client.send(b"\r\n" + request).half_close().read_to_end())
        assert answers == [long_way] * 4
    assert cached >= 20


def test_a_repeated_request_is_served_from_the_cache_of_whole_requests(node: LiveNode, client: Client) -> None:
    shared = node.node.http
    numbers = [int(client.ask().body) for _ in range(5)]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    request = b"GET /api/segment/get/order HTTP/1.1\r\nHost: test\r\n\r\n"
    assert node.call(lambda: request in shared.prepared)


def test_requests_that_all_differ_do_not_fill_the_cache_of_whole_requests(node: LiveNode, client: Client) -> None:
    shared = node.node.http
    node.call(shared.forget)
    for number in range(300):
        client.ask(headers=f"X-Request-Id: {number}\r\n")
    assert node.call(lambda: len(shared.prepared)) < 30
    assert node.call(lambda: len(shared.targets)) == 1


def test_queries_that_all_differ_do_not_fill_the_cache_of_targets(node: LiveNode, client: Client) -> None:
    shared = node.node.http
    node.call(shared.forget)
    for number in range(100):
        client.ask(f"/api/segment/get/order?{number}")
    assert node.call(lambda: len(shared.targets)) == 0


def test_a_full_cache_begins_anew(node: LiveNode) -> None:
    shared = node.node.http
    way = (lambda: None, shared.forms.text.heads, b"%d")

    def fill() -> tuple[int, int]:
        for number in range(TARGETS_KEPT + 10):
            data = b"%d" % number
            shared.remember(Request(data), way)
            shared.admit(data, way)
        return len(shared.targets), len(shared.prepared)

    targets, prepared = node.call(fill)
    assert 0 < targets <= TARGETS_KEPT
    assert 0 < prepared <= PREPARED_KEPT
    node.call(shared.forget)


def test_a_tag_that_was_deleted_leaves_the_caches_and_is_unknown() -> None:
    with (
        LiveNode(tags=["order"], segment=SegmentConfig(refresh=0.05, deadline=5.0)) as node,
        Client(node.address) as client,
    ):
        shared = node.node.http
        for _ in range(5):
            assert client.ask().status == 200
        assert node.call(lambda: len(shared.prepared)) == 1
        node.delete_tag("order")
        node.wait_for(lambda: not node.node.service.tags)
        assert node.call(lambda: (len(shared.prepared), len(shared.targets))) == (0, 0)
        assert client.ask().status == 404


# --- the end ---


def test_a_stopping_node_answers_what_is_under_way_and_says_close() -> None:
    with LiveNode(tags=["order", "slow"]) as node:
        resting, busy = Client(node.address), Client(node.address)
        assert resting.ask().status == 200
        node.call(node.store.flowing.clear)
        busy.send(GET.replace(b"order", b"slow"))
        node.wait_for(lambda: node.node.service.tags.get("slow"))
        node.begin_stop()
        node.wait_for(lambda: node.node.http.draining)
        ready = resting.ask("/readyz")
        assert (ready.status, ready.headers["connection"]) == (503, "close")
        assert resting.closes()
        with pytest.raises(OSError, match="refused"):
            # The test keeps the listener, so only its backlog could answer; close it to see that nobody accepts.
            node.close_listeners()
            Client(node.address)
        node.call(node.store.flowing.set)
        response = busy.read()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert busy.closes()
        resting.socket.close()
        busy.socket.close()


def test_a_stopping_node_closes_connections_at_rest_and_stops_at_once() -> None:
    with LiveNode() as node:
        clients = [Client(node.address) for _ in range(20)]
        assert [client.ask().status for client in clients] == [200] * 20
        node.begin_stop()
        assert all(client.closes() for client in clients)
        for client in clients:
            client.socket.close()


def test_a_request_that_outlasts_the_drain_is_cut() -> None:
    with LiveNode(tags=["slow"], drain=0.1) as node, Client(node.address) as client:
        node.call(node.store.flowing.clear)
        client.send(GET.replace(b"order", b"slow"))
        node.wait_for(lambda: node.node.service.tags.get("slow"))
        node.begin_stop()
        with pytest.raises(ClosedError):
            client.read()
        node.release_store()


def test_a_fault_of_our_own_is_500_and_logged_and_the_node_goes_on(
    node: LiveNode, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    routes = node.node.http.routes
    find = routes.find
    node.call(lambda: setattr(routes, "find", lambda *_: 1 / 0))
    response = client.ask("/api/segment/get/order?fault")
    node.call(lambda: setattr(routes, "find", find))
    assert (response.status, response.json["code"]) == (500, "internal")
    logged = [line for line in caplog.records if line.name == "goloves.http"]
    assert [(line.levelname, line.exc_info is not None) for line in logged] == [("ERROR", True)]
    assert client.ask().status == 200
