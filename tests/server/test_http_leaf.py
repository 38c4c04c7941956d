"""Leaf's routes, held to what Leaf was seen to answer."""

import time

import pytest

from goloves.core.layout import Layout, preset
from server.live import LiveNode
from server.raw import Client

LEAF_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


@pytest.mark.parametrize("method", LEAF_METHODS)
def test_every_method_that_leaf_takes_gives_the_next_id_as_text(client: Client, method: str) -> None:
    first = client.ask(method=method)
    second = client.ask(method=method)
    assert first.status == second.status == 200
    assert int(second.body) == int(first.body) + 1
    assert first.headers["content-type"] == "text/plain;charset=UTF-8"
    assert "connection" not in first.headers


def test_head_uses_up_an_id_and_shows_its_length_only(client: Client) -> None:
    before = int(client.ask().body)
    head = client.ask(method="HEAD")
    assert head.status == 200
    assert int(head.headers["content-length"]) == len(str(before + 1))
    assert int(client.ask().body) == before + 2


def test_options_names_the_methods_in_leafs_order(client: Client) -> None:
    response = client.ask(method="OPTIONS")
    assert response.status == 200
    assert response.headers["allow"] == "GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS"


@pytest.mark.parametrize(
    "target", ["/api/segment/get/order/", "/api/segment/get/order?a=b", "/api/segment/get/order?%zz&&="]
)
def test_a_trailing_slash_and_any_query_change_nothing(client: Client, target: str) -> None:
    before = int(client.ask().body)
    assert client.ask(target).body == b"%d" % (before + 1)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/api/segment/get/order.json", ""),
        ("/api/segment/get/order", "Accept: application/json\r\n"),
        ("/api/segment/get/order", "Accept: application/json, text/plain, */*\r\n"),
        ("/api/snowflake/get/any.json", ""),
    ],
)
def test_json_is_the_same_number_under_another_content_type(client: Client, target: str, headers: str) -> None:
    response = client.ask(target, headers=headers)
    assert response.headers["content-type"] == "application/json;charset=UTF-8"
    assert response.body.isdigit()


@pytest.mark.parametrize(
    "accept", ["*/*", "text/html, */*;q=0.8", "image/png", "text/plain, application/json", "nonsense"]
)
def test_who_does_not_prefer_json_gets_text(client: Client, accept: str) -> None:
    assert client.ask(headers=f"Accept: {accept}\r\n").headers["content-type"] == "text/plain;charset=UTF-8"


@pytest.mark.parametrize("key", ["whatever", "%E8%AE%A2", "%20", "a%2Fb"])
def test_any_key_draws_from_the_default_space(client: Client, node: LiveNode, key: str) -> None:
    response = client.ask(f"/api/snowflake/get/{key}")
    age = time.time() * 1000 - Layout().decode(int(response.body)).unix_ms
    assert abs(age) < 60_000


def test_a_key_that_the_configuration_maps_draws_from_its_space() -> None:
    spaces = {"small": preset("js53")}
    with LiveNode(spaces=spaces, leaf_spaces={"order": "small"}) as node, Client(node.address) as client:
        assert int(client.ask("/api/snowflake/get/order").body) < 2**53
        assert int(client.ask("/api/snowflake/get/other").body) > 2**53


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/api/segment/get/unknown", 404, "unknown_tag"),
        ("/api/segment/get/%20", 400, "invalid_name"),
        ("/api/segment/get/%FF", 400, "invalid_name"),
        ("/api/segment/get/%zz", 400, "invalid_name"),
        ("/api/segment/get/", 404, "no_such_path"),
        ("/api/segment/get", 404, "no_such_path"),
        ("/api/snowflake/get/", 404, "no_such_path"),
        ("/api/segment/get/a/b", 404, "no_such_path"),
    ],
)
def test_errors_say_what_to_do_where_leaf_says_500(client: Client, target: str, status: int, code: str) -> None:
    response = client.ask(target)
    assert (response.status, response.json["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


def test_an_unknown_tag_is_told_with_the_one_that_was_likely_meant(client: Client) -> None:
    assert "did you mean 'order'?" in str(client.ask("/api/segment/get/ordr").json["detail"])


@pytest.mark.parametrize(
    ("id_", "body"),
    [
        ("2124934442597220395", '{"workerId":"0","sequenceId":"43","timestamp":"1795458825145(%s.145)"}'),
        ("1", '{"workerId":"0","sequenceId":"1","timestamp":"1288834974657(%s.657)"}'),
    ],
)
def test_decode_is_byte_for_byte_leafs_in_the_servers_time_zone(client: Client, id_: str, body: str) -> None:
    seconds = (int(id_) >> 22) // 1000 if id_ == "1" else 1795458825
    seconds = 1288834974 if id_ == "1" else seconds
    local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    response = client.ask(f"/decodeSnowflakeId?snowflakeId={id_}")
    assert response.body.decode() == body % local
    assert response.headers["content-type"] == "application/json;charset=UTF-8"


@pytest.mark.parametrize(
    "query", ["?snowflakeId=abc", "?snowflakeId=-1", "?snowflakeId=9223372036854775808", "?snowflakeId="]
)
def test_an_id_that_is_none_is_400(client: Client, query: str) -> None:
    response = client.ask(f"/decodeSnowflakeId{query}")
    assert (response.status, response.json["code"]) == (400, "invalid_id")


@pytest.mark.parametrize("query", ["", "?", "?snowflakeid=1", "?snowflakeId=1&snowflakeId=2"])
def test_decode_wants_its_parameter_once(client: Client, query: str) -> None:
    assert client.ask(f"/decodeSnowflakeId{query}").status == 400


@pytest.mark.parametrize(
    "target", ["/api/segment/get/order", "/api/snowflake/get/x", "/decodeSnowflakeId?snowflakeId=1"]
)
def test_no_proxy_may_keep_an_answer(client: Client, target: str) -> None:
    assert client.ask(target).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("body", ["Content-Length: 0\r\n\r\n", "Content-Length: 2\r\n\r\n{}"])
def test_a_body_changes_nothing(client: Client, body: str) -> None:
    before = int(client.ask().body)
    client.send(f"POST /api/segment/get/order HTTP/1.1\r\nHost: x\r\n{body}".encode())
    assert client.read().body == b"%d" % (before + 1)
    assert client.ask().body == b"%d" % (before + 2)
