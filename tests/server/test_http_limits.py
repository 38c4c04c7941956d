"""What becomes of a client that goes over a limit, and what counts it: each limit of [http], and the rest of the
refusals. `docs/http-api.md` has the table; a test holds it to the settings and the counters."""

import contextlib
import re
import socket
import time
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest

from goloves.server.http.protocol import CODES
from goloves.server.http.shared import REFUSED_AT_ONCE, HttpCounters
from goloves.server.limits import BOUNDS, HttpLimits
from goloves.server.plane import SLICES
from server.live import PATIENCE, LiveNode
from server.raw import Client, ClosedError

GET = b"GET /api/segment/get/order HTTP/1.1\r\nHost: a\r\n\r\n"
BATCH = b"POST /v1/segments/order/ids?count=1000 HTTP/1.1\r\nHost: a\r\n\r\n"
BAD = b"\x00"
PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"


def count(node: LiveNode, name: str) -> int:
    return node.call(lambda: int(getattr(node.node.http.counters, name)))


# --- what is asked ---

REFUSED = [
    (b"GET / HTTP/1.1\r\n\r\n", 400, "refused_malformed"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", 413, "refused_body_too_large"),
    (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 8192), 414, "refused_target_too_long"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n", 417, "refused_expectation_failed"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"a" * 8192), 431, "refused_head_too_large"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % (b"X: 1\r\n" * 100), 431, "refused_head_too_large"),
    (b"GET / HTTP/1.1\r\n%b\r\n" % (b"X: %b\r\n" % (b"a" * 4000) * 5), 431, "refused_head_too_large"),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501, "refused_not_supported"),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "refused_version_not_supported"),
]


@pytest.mark.parametrize(("raw", "status", "counter"), REFUSED)
def test_a_request_that_is_refused_is_told_why_and_counted(
    node: LiveNode, client: Client, raw: bytes, status: int, counter: str
) -> None:
    before = count(node, counter)
    response = client.send(raw).read()
    assert (response.status, response.json["code"], counter) == (status, CODES[status], f"refused_{CODES[status]}")
    assert count(node, counter) == before + 1


def test_each_refusal_has_a_counter_and_a_test() -> None:
    assert {counter for _, _, counter in REFUSED} == {f"refused_{code}" for code in CODES.values()}


@pytest.mark.parametrize("target", ["ids?count=10001", "ids?count=0", "ranges?size=1000001"])
def test_more_than_may_be_asked_for_at_once_is_400_and_counted(node: LiveNode, client: Client, target: str) -> None:
    before = count(node, "refused_count")
    assert client.ask(f"/v1/segments/order/{target}", "POST").status == 400
    assert count(node, "refused_count") == before + 1
    assert client.ask().status == 200


# --- time, and answers left unread ---


def test_a_client_that_never_reads_is_cut() -> None:
    with LiveNode(limits=HttpLimits(write_timeout=0.1)) as node, Client(node.address, buffers=4096) as client:
        client.send(BATCH * 500)
        node.wait_for(lambda: node.node.http.counters.cut_unread == 1)
        node.wait_for(lambda: node.node.http.open == 0 and node.node.http.unread == 0)


def test_a_client_that_leaves_more_unread_than_there_is_room_for_is_cut() -> None:
    with LiveNode(limits=HttpLimits(max_unread=1)) as node, Client(node.address, buffers=4096) as client:
        client.send(BATCH * 500)
        node.wait_for(lambda: node.node.http.counters.cut_too_much_unread == 1)
        node.wait_for(lambda: node.node.http.open == 0 and node.node.http.unread == 0)


def test_an_answer_is_on_its_way_for_as_long_as_any_other_even_if_it_is_the_last_word() -> None:
    limits = HttpLimits(linger_timeout=0.1, max_count=1_000_000)
    with LiveNode(limits=limits) as node, Client(node.address, buffers=4096) as client:
        client.send(b"POST /v1/segments/order/ids?count=1000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        node.wait_for(lambda: node.node.http.stalled)
        with ExitStack() as stack:
            # One in each group of connections: when all are cut, the first one was looked after, too.
            for _ in range(SLICES):
                stack.enter_context(Client(node.address)).send(BAD)
            node.wait_for(lambda: node.node.http.counters.cut_linger == SLICES)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
        ids = client.read().json["ids"]
        assert isinstance(ids, list)
        assert len(ids) == 1_000_000
        assert client.closes()
        assert count(node, "cut_unread") == 0


@pytest.mark.parametrize(
    "start", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"]
)
def test_a_request_that_does_not_arrive_in_time_is_408(start: bytes) -> None:
    with LiveNode(limits=HttpLimits(request_timeout=0.1)) as node, Client(node.address) as client:
        assert client.send(GET + start).read().status == 200
        response = client.read()
        assert (response.status, response.headers["connection"]) == (408, "close")
        assert client.closes()
        assert node.call(lambda: node.node.http.counters.request_timeouts) == 1


def test_a_connection_at_rest_is_closed_after_a_while_without_a_word() -> None:
    with LiveNode(limits=HttpLimits(idle_timeout=0.1)) as node, Client(node.address) as client:
        client.ask()
        assert client.closes()
        assert node.call(lambda: node.node.http.counters.cut_idle) == 1


@pytest.mark.parametrize("said", [(b"\r\n",), (b"\r", b"\n"), (b"\r\n\r", b"\n")])
def test_who_sends_empty_lines_and_never_asks_rests_all_the_same(said: tuple[bytes, ...]) -> None:
    with LiveNode(limits=HttpLimits(idle_timeout=0.2)) as node, Client(node.address) as client:
        client.socket.settimeout(0.02)
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ConnectionError):
            for piece in cycle(said):
                assert time.monotonic() < deadline
                client.send(piece)
                with contextlib.suppress(TimeoutError):
                    assert client.socket.recv(100) == b""
                    break
        node.wait_for(lambda: node.node.http.open == 0)
        assert count(node, "cut_idle") == 1
        assert count(node, "request_timeouts") == 0


@pytest.mark.parametrize(
    ("limits", "counter"),
    [(HttpLimits(max_age=0.01), "cut_age"), (HttpLimits(max_requests=1), "cut_requests")],
)
def test_an_old_connection_ends_with_an_answer_that_says_so(limits: HttpLimits, counter: str) -> None:
    with LiveNode(limits=limits) as node, Client(node.address) as client:
        answers = [client.ask()]
        while answers[-1].headers.get("connection") != "close":
            answers.append(client.ask())
        assert client.closes()
        assert [int(answer.body) for answer in answers] == list(range(1, len(answers) + 1))
        assert count(node, counter) == 1


def test_what_is_under_way_when_the_drain_is_over_is_cut_and_counted() -> None:
    with LiveNode(tags=["slow"], drain=0.1) as node, Client(node.address) as client:
        node.call(node.store.flowing.clear)
        client.send(GET.replace(b"order", b"slow"))
        node.wait_for(lambda: node.node.service.tags.get("slow"))
        node.begin_stop()
        with pytest.raises(ClosedError):
            client.read()
        node.release_store()
    assert node.node.http.counters.cut_drain == 1


# --- how many ---


def test_connections_over_the_limit_get_503_and_room_comes_with_those_that_go() -> None:
    with LiveNode(limits=HttpLimits(max_connections=2)) as node:
        first, second = Client(node.address), Client(node.address)
        assert first.ask().status == second.ask().status == 200
        with Client(node.address) as third:
            response = third.read()
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            assert third.closes()
        assert first.ask().status == 200
        first.socket.close()
        node.wait_for(lambda: node.node.http.open == 1)
        with Client(node.address) as fourth:
            assert fourth.ask().status == 200
        second.socket.close()
        assert node.call(lambda: node.node.http.counters.refused_connections) == 1


def test_connections_from_one_address_have_a_limit_of_their_own() -> None:
    with LiveNode(limits=HttpLimits(max_connections_per_address=1)) as node, Client(node.address) as first:
        assert first.ask().status == 200
        with Client(node.address) as second:
            response = second.read()
            assert (response.status, response.json["code"]) == (429, "too_many_connections")
        assert first.ask().status == 200
        assert node.call(lambda: node.node.http.counters.refused_per_address) == 1


def test_who_is_refused_takes_no_place_from_anybody() -> None:
    limits = HttpLimits(max_connections=8, max_connections_per_address=4, linger_timeout=60)
    with LiveNode(limits=limits) as node, ExitStack() as stack:

        def connect(source: str) -> Client:
            return stack.enter_context(Client(node.address, source=source))

        crowd = [connect("127.0.0.2") for _ in range(20)]
        assert [client.ask().status for client in crowd[:4]] == [200] * 4
        assert [client.read().status for client in crowd[4:]] == [429] * 16
        others = [connect("127.0.0.3") for _ in range(4)]
        assert [client.ask().status for client in others] == [200] * 4
        assert connect("127.0.0.4").read().status == 503
        # A place that becomes free is anybody's, though those who were refused are still there.
        crowd[0].socket.close()
        node.wait_for(lambda: node.node.http.open == 24)
        assert connect("127.0.0.2").ask().status == 200
        assert count(node, "refused_per_address") == 16
        assert count(node, "refused_connections") == 1


def test_of_many_who_are_refused_at_once_some_are_told_and_the_rest_are_cut() -> None:
    with LiveNode(limits=HttpLimits(max_connections=1, linger_timeout=60)) as node, ExitStack() as stack:

        def connect() -> Client:
            return stack.enter_context(Client(node.address))

        first = connect()
        assert first.ask().status == 200
        assert [connect().read().status for _ in range(REFUSED_AT_ONCE)] == [503] * REFUSED_AT_ONCE
        with pytest.raises(ClosedError):
            connect().read()
        assert first.ask().status == 200
        assert count(node, "cut_untold") == 1
        assert count(node, "refused_connections") == REFUSED_AT_ONCE + 1


# --- the page ---


def test_the_page_names_each_limit_and_each_counter_and_no_other() -> None:
    rows = re.findall(
        r"^\| ((?:`http\.\w+`(?:, )?)+|) \| [^|]+ \| ((?:`http_\w+`(?:, )?)+) \|$", PAGE.read_text(), re.MULTILINE
    )
    settings = [name for cells, _ in rows for name in re.findall(r"http\.(\w+)", cells)]
    counters = [name for _, cells in rows for name in re.findall(r"http_(\w+)", cells)]
    assert set(settings) == set(BOUNDS) == set(HttpLimits.__struct_fields__)
    plain = {"connections", "requests_ended"}
    assert sorted(counters) == sorted(set(HttpCounters.__slots__) - plain)
