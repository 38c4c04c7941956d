"""Goloves' own routes."""

from itertools import pairwise

import pytest

from goloves.core.layout import Layout, preset
from goloves.server.limits import HttpLimits
from server.live import LiveNode
from server.raw import Client


def ids(client: Client, count: int, kind: str = "segments/order") -> list[int]:
    response = client.ask(f"/v1/{kind}/ids?count={count}", "POST")
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    given = response.json["ids"]
    assert isinstance(given, list)
    assert all(isinstance(id_, str) for id_ in given)
    return [int(id_) for id_ in given]


def test_ids_come_as_strings_and_one_without_a_count(client: Client) -> None:
    [first] = ids(client, 1)
    response = client.ask("/v1/segments/order/ids", "POST")
    assert response.body == b'{"ids":["%d"]}' % (first + 1)


@pytest.mark.parametrize("count", [2, 999, 1000, 1001, 10_000])
def test_a_batch_holds_just_the_next_ids_in_order(client: Client, count: int) -> None:
    [last] = ids(client, 1)
    assert ids(client, count) == list(range(last + 1, last + 1 + count))


def test_a_batch_of_a_space_holds_distinct_ascending_ids(client: Client) -> None:
    given = ids(client, 10_000, "snowflakes/default")
    assert len(given) == 10_000
    assert all(low < high for low, high in pairwise(given))


def test_a_batch_of_a_space_whose_worker_stands_lowest_strides_over_it() -> None:
    layout = preset("sonyflake")
    with LiveNode(spaces={"sony": layout}) as node, Client(node.address) as client:
        given = ids(client, 600, "snowflakes/sony")
        assert len(set(given)) == 600
        assert len({layout.decode(id_).worker for id_ in given}) == 1


def test_text_is_one_id_a_line(client: Client) -> None:
    [last] = ids(client, 1)
    response = client.ask("/v1/segments/order/ids?count=3", "POST", "Accept: text/plain\r\n")
    assert response.body == b"%d\n%d\n%d\n" % (last + 1, last + 2, last + 3)
    assert response.headers["content-type"] == "text/plain;charset=UTF-8"
    assert client.ask("/v1/segments/order/ids", "POST", "Accept: text/plain\r\n").body == b"%d\n" % (last + 4)


def test_a_range_belongs_to_whoever_asked(client: Client) -> None:
    response = client.ask("/v1/segments/order/ranges?size=1000", "POST")
    start, end = int(str(response.json["start"])), int(str(response.json["end"]))
    assert end - start == 1000
    assert response.body == b'{"start":"%d","end":"%d"}' % (start, end)
    after = ids(client, 1000)
    assert not set(after) & set(range(start, end))


@pytest.mark.parametrize(
    "parameter", ["0", "-1", "10001", "%D9%A1%D9%A2", "1" * 1000, "", "+1", "1.0", "0x10", "1e3", "%31%zz"]
)
def test_a_count_that_is_none_is_400_and_says_what_is_possible(client: Client, parameter: str) -> None:
    response = client.ask(f"/v1/segments/order/ids?count={parameter}", "POST")
    assert response.status == 400
    if "%zz" not in parameter:
        assert response.json["code"] == "invalid_count"
        assert "1 to 10000" in str(response.json["detail"])
    assert len(response.body) < 300


@pytest.mark.parametrize("parameter", ["?size=0", "?size=1000001", "", "?size="])
def test_a_size_is_needed_and_has_its_limit(client: Client, parameter: str) -> None:
    response = client.ask(f"/v1/segments/order/ranges{parameter}", "POST")
    assert (response.status, response.json["code"]) == (400, "invalid_count")


@pytest.mark.parametrize(
    ("query", "named"), [("?n=3", "'n'"), ("?count=1&count=2", "count"), ("?count=1&Count=1", "'Count'")]
)
def test_a_parameter_that_is_unknown_or_repeated_is_named(client: Client, query: str, named: str) -> None:
    response = client.ask(f"/v1/segments/order/ids{query}", "POST")
    assert (response.status, response.json["code"]) == (400, "invalid_request")
    assert named in str(response.json["detail"])


def test_limits_of_count_and_size_are_settings() -> None:
    with LiveNode(limits=HttpLimits(max_count=5, max_size=7)) as node, Client(node.address) as client:
        assert len(ids(client, 5)) == 5
        assert client.ask("/v1/segments/order/ids?count=6", "POST").status == 400
        assert client.ask("/v1/segments/order/ranges?size=7", "POST").status == 200
        assert client.ask("/v1/segments/order/ranges?size=8", "POST").status == 400


def test_an_id_decodes_to_what_it_was_made_of(client: Client) -> None:
    [id_] = ids(client, 1, "snowflakes/default")
    decoded = Layout().decode(id_)
    body = client.ask(f"/v1/snowflakes/default/ids/{id_}").json
    assert body["id"] == str(id_)
    assert (body["unix_ms"], body["worker"], body["sequence"]) == (
        str(decoded.unix_ms),
        decoded.worker,
        decoded.sequence,
    )
    assert client.ask("/v1/snowflakes/default/ids/1").json["time"] == "2010-11-04T01:42:54.657Z"


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("POST", "/v1/segments/unknown/ids", 404, "unknown_tag"),
        ("POST", "/v1/segments/unknown/ranges?size=1", 404, "unknown_tag"),
        ("POST", "/v1/snowflakes/unknown/ids", 404, "unknown_space"),
        ("GET", "/v1/snowflakes/unknown/ids/1", 404, "unknown_space"),
        ("GET", "/v1/snowflakes/default/ids/abc", 400, "invalid_id"),
        ("GET", "/v1/snowflakes/default/ids/9223372036854775808", 400, "invalid_id"),
        ("GET", "/v1/snowflakes/default/ids/1?x=1", 400, "invalid_request"),
        ("POST", "/v1/segments//ids", 400, "invalid_name"),
        ("POST", f"/v1/segments/{'a' * 129}/ids", 400, "invalid_name"),
        ("POST", "/v1/segments/%00/ids", 400, "invalid_name"),
        ("POST", "/v1/segments/%C3/ids", 400, "invalid_name"),
        ("POST", "/v1/segments/order/ids/", 404, "no_such_path"),
        ("POST", "/v1/segments/order", 404, "no_such_path"),
        ("POST", "/v1", 404, "no_such_path"),
        ("GET", "/", 404, "no_such_path"),
        ("GET", "/v2/segments/order/ids", 404, "no_such_path"),
        ("GET", "/healthz/", 404, "no_such_path"),
    ],
)
def test_what_is_not_there_is_told_by_a_stable_code(
    client: Client, method: str, target: str, status: int, code: str
) -> None:
    response = client.ask(target, method)
    assert (response.status, response.json["code"], response.json["status"]) == (status, code, status)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("GET", "/v1/segments/order/ids", "POST,OPTIONS"),
        ("HEAD", "/v1/segments/order/ids", "POST,OPTIONS"),
        ("PUT", "/v1/snowflakes/default/ids", "POST,OPTIONS"),
        ("DELETE", "/v1/segments/order/ranges?size=1", "POST,OPTIONS"),
        ("POST", "/v1/snowflakes/default/ids/1", "GET,HEAD,OPTIONS"),
        ("POST", "/healthz", "GET,HEAD,OPTIONS"),
        ("TRACE", "/api/segment/get/order", "GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS"),
    ],
)
def test_a_method_that_a_path_has_not_is_405_and_names_those_it_has(
    client: Client, method: str, target: str, allow: str
) -> None:
    response = client.ask(target, method)
    assert (response.status, response.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_and_readiness_answer_get_and_head(client: Client, method: str) -> None:
    assert client.ask("/healthz", method).status == 200
    assert client.ask("/readyz", method).status == 200


def test_a_node_without_a_store_is_alive_but_not_ready_and_says_why(node: LiveNode, client: Client) -> None:
    service = node.node.service
    node.call(lambda: setattr(service, "_stopping", True))
    try:
        assert client.ask("/healthz").status == 200
        response = client.ask("/readyz")
    finally:
        node.call(lambda: setattr(service, "_stopping", False))
    assert (response.status, response.json["code"]) == (503, "not_ready")
    assert response.json["reasons"] == ["this node is stopping; ask another one"]
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("target", "method", "accept"),
    [
        ("/v1/segments/order/ids", "POST", "image/png"),
        ("/v1/segments/order/ids", "POST", "application/json;q=0, text/plain;q=0"),
        ("/v1/segments/order/ranges?size=1", "POST", "text/plain"),
        ("/v1/snowflakes/default/ids/1", "GET", "text/*"),
    ],
)
def test_an_accept_that_takes_nothing_offered_is_406(client: Client, target: str, method: str, accept: str) -> None:
    response = client.ask(target, method, f"Accept: {accept}\r\n")
    assert (response.status, response.json["code"]) == (406, "not_acceptable")


def test_a_slash_in_a_name_is_written_as_an_escape() -> None:
    with LiveNode(tags=["a/b", "订单", "a b"]) as node, Client(node.address) as client:
        assert client.ask("/v1/segments/a%2Fb/ids", "POST").status == 200
        assert client.ask("/api/segment/get/a%2fb").body == b"2"
        assert client.ask("/api/segment/get/a/b").status == 404
        assert client.ask("/api/segment/get/%E8%AE%A2%E5%8D%95").body == b"1"
        assert client.ask("/api/segment/get/订单").body == b"2"
        assert client.ask("/v1/segments/a%20b/ids", "POST").status == 200
        assert client.ask("/v1/segments/a+b/ids", "POST").status == 404
