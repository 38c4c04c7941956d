"""The requests on a connection, without a connection."""

import re
import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.http1.cases import CASES, Case
from goloves.wire import http1
from goloves.wire.http1 import Continue, Limits, Refusal, Request, Requests, plain_head

Event = Request | Refusal | Continue


def events(pieces: Iterable[bytes], limits: Limits | None = None, *, prompts: bool = False) -> list[Event]:
    """What comes out of these pieces."""
    requests = Requests(limits or Limits())
    found: list[Event] = []
    for piece in pieces:
        requests.receive(piece)
        while (event := requests.next()) is not None:
            if prompts or not isinstance(event, Continue):
                found.append(event)
    return found


def only(raw: bytes, limits: Limits | None = None) -> Event:
    [event] = events([raw], limits)
    return event


def test_a_request_says_what_matters_of_it() -> None:
    raw = b"GET /a?b HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
    assert only(raw) == Request(b"GET /a?b", 1, keep_alive=False, accept=b"text/plain, text/html", bare=True)


def test_an_absolute_target_becomes_its_path() -> None:
    for target, line in (
        (b"http://x/a?b", b"GET /a?b"),
        (b"http://x", b"GET /"),
        (b"https://x?b", b"GET /?b"),
    ):
        assert only(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target) == Request(line)
    assert only(b"OPTIONS http://x HTTP/1.1\r\nHost: x\r\n\r\n") == Request(b"OPTIONS *")


def test_accept_is_told_without_the_white_space_around_it() -> None:
    for line in (b"Accept: a/b, */*", b"ACCEPT:a/b, */*", b"accept: \t a/b, */* "):
        assert only(b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % line) == Request(b"GET /", accept=b"a/b, */*")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_however_a_case_is_cut_into_two_reads_the_same_comes_out(case: Case) -> None:
    raw = case.raw
    whole = events([raw])
    # A body of 64 KB is the same at each of its bytes; the ends are what counts.
    places = range(1, len(raw)) if len(raw) < 2000 else [*range(1, 300), *range(len(raw) - 300, len(raw))]
    assert all(events([raw[:at], raw[at:]]) == whole for at in places)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.raw) < 20_000], ids=lambda case: case.name)
def test_a_case_that_comes_byte_by_byte_is_the_same(case: Case) -> None:
    raw = case.raw
    assert events(raw[at : at + 1] for at in range(len(raw))) == events([raw])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_quick_way_and_the_general_way_agree(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = events([case.raw])
    monkeypatch.setattr(http1, "plain_head", lambda _: re.compile(rb"(?!)"))
    assert events([case.raw]) == quick


PARTS = [
    b"GET", b"POST", b"CONNECT", b"OPTIONS", b"get", b" ", b"  ", b"\t", b"/", b"/a", b"*", b"http://a/b",
    b"?q=1", b"#", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"\r\n", b"\n", b"\r", b"\r\n\r\n",
    b"\x00", b"\x80", b"\x7f", b"Host: a", b"host:b", b"Host: ", b"Content-Length: 3", b"Content-Length: 0",
    b"content-length: -1", b"abc", b"0", b"3", b"Transfer-Encoding: chunked", b"transfer-encoding: gzip",
    b"Connection: close", b"Connection: keep-alive", b"connection: Keep-Alive", b"Expect: 100-continue",
    b"Accept: */*", b"Accept: text/plain", b"X: 1", b"X : 1", b" X: 1", b":", b";a=b", b'"',
    b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
]  # fmt: skip
noise = st.lists(st.sampled_from(PARTS) | st.binary(max_size=3), max_size=14).map(b"".join)
headers = st.lists(
    st.sampled_from([part for part in PARTS if b": " in part or b":" in part]) | st.binary(max_size=4), max_size=6
).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
heads = st.builds(
    b"%b %b %b\r\n%b\r\n%b".__mod__,
    st.tuples(
        st.sampled_from([b"GET", b"POST", b"CONNECT", b"OPTIONS", b"A!"]),
        st.sampled_from([b"/", b"/a?b", b"*", b"http://a/", b"a:1", b"/\xff"]),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.3", b"HTTP/2.0"]),
        headers,
        st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n"]),
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(noise | heads | st.binary(max_size=40), min_size=1, max_size=4), st.data())
def test_no_bytes_raise_and_no_cut_changes_what_comes_out(pieces: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(pieces)
    whole = events([raw])
    assert events(pieces) == whole
    if raw:
        at = data.draw(st.integers(0, len(raw)))
        assert events([raw[:at], raw[at:]]) == whole
    refusals = [event for event in whole if isinstance(event, Refusal)]
    assert refusals == whole[-1:] or not refusals


@settings(max_examples=400, deadline=None)
@given(heads | noise)
def test_the_quick_way_and_the_general_way_agree_on_anything(raw: bytes) -> None:
    quick = events([raw])
    alone = plain_head(Limits().headers).fullmatch(raw)
    if alone is not None:
        assert quick == [Request(alone[1], accept=alone[3])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, "plain_head", lambda _: re.compile(rb"(?!)"))
        assert events([raw]) == quick


@pytest.mark.parametrize(
    "fault", [b"GET / HTTP/1.1\r\nHost: a\nX", b"GET / HTTP/1.1\r\nX : 1\r\n", b"\x16\x03\x01", b"G\x00"]
)
def test_a_fault_shows_before_the_head_is_complete(fault: bytes) -> None:
    assert isinstance(only(fault), Refusal)


def test_a_line_or_head_without_end_is_refused_when_it_passes_its_limit() -> None:
    limits = Limits(line=100, head=200)
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    assert events([b"G" * 100], limits) == []
    assert only(b"G" * 101, limits) == Refusal(414, "the request line is longer than 100 bytes")
    assert events([start + b"a" * 100], limits) == []
    assert isinstance(only(start + b"a" * 101, limits), Refusal)
    assert events([start + b"X: 1\r\n" * 29], limits) == []
    refusal = only(start + b"X: 1\r\n" * 30, limits)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 431


@pytest.mark.parametrize("count", [16, 17])
def test_the_number_of_header_lines_has_its_limit_to_the_line(count: int) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * (count - 1) + b"\r\n"
    event = only(raw, Limits(headers=16))
    assert isinstance(event, Request if count <= 16 else Refusal)


def test_a_prompt_comes_once_when_the_body_has_not_begun() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    request = Request(b"POST /", bare=False)
    assert events([head, b"h", b"i"], prompts=True) == [Continue(), request]
    assert events([head + b"h", b"i"], prompts=True) == [request]
    assert events([head[:-1], head[-1:], b"hi"], prompts=True) == [Continue(), request]


@pytest.mark.parametrize("head", [b"", b"Connection: keep-alive\r\n", b"Host: a\r\n"])
def test_a_client_of_http_1_0_is_not_prompted(head: bytes) -> None:
    head = b"POST / HTTP/1.0\r\n%bExpect: 100-continue\r\nContent-Length: 2\r\n\r\n" % head
    [event] = events([head, b"hi"], prompts=True)
    assert isinstance(event, Request)


def test_nothing_is_kept_of_a_body() -> None:
    requests = Requests(Limits())
    requests.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n")
    for _ in range(59):
        assert requests.next() is None
        requests.receive(b"x" * 1000)
        assert requests.next() is None
        assert requests.waiting == 0
        assert requests.amid
        assert requests.in_body


def test_after_a_refusal_nothing_comes_and_nothing_is_kept() -> None:
    requests = Requests(Limits())
    requests.receive(b"\x00")
    assert isinstance(requests.next(), Refusal)
    requests.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert requests.next() is None
    assert requests.waiting == 0


FIELDS = [b"X: 1", b"Accept: a/b", b"Connection: keep-alive", b"Cookie: a", b"Etag: b", b"Accept-Encoding: c", b"Te: d"]
ENDLESS = [
    *(
        b"GET / HTTP/1.1\r\n" + (field + b"\r\n") * 90 + b"Host: a\r\n" + end
        for field in FIELDS
        for end in (b"", b"\x00\r\n")
    ),
    *(b"GET / HTTP/1.1\r\n" + field + b"\r\n" + b"Host: a\r\n" * 90 + b"\r\n" for field in FIELDS),
    b"GET / HTTP/1.1\r\nHost: " + b"a%41" * 2000 + b"\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAccept: " + b"a " * 4000 + b"\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + b'"\\' * 4000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + b"a" * 8000 + b'"\r\n\r\n',
    b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b" \t" * 4000 + b"\x00\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1" + b";a" * 4000 + b"\x00\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1" + b' ; a="\\"' * 1000 + b"\x00\r\n",
]


@pytest.mark.parametrize("raw", ENDLESS, ids=range(len(ENDLESS)))
def test_no_head_takes_time_out_of_proportion(raw: bytes) -> None:
    begun = time.process_time()
    events([raw])
    events([raw + b"\r\n"])
    assert time.process_time() - begun < 0.5, "some milliseconds are expected; going back and forth takes years"
