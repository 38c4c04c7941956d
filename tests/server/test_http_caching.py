"""P5: no proxy in between may give one answer to two requests."""

import pytest

from server.raw import Client

ANSWERS_WITH_IDS = [
    ("GET", "/api/segment/get/order", ""),
    ("POST", "/api/segment/get/order", ""),
    ("GET", "/api/segment/get/order.json", ""),
    ("HEAD", "/api/segment/get/order", ""),
    ("GET", "/api/snowflake/get/anything", ""),
    ("POST", "/v1/segments/order/ids", ""),
    ("POST", "/v1/segments/order/ids?count=2", ""),
    ("POST", "/v1/segments/order/ids", "Accept: text/plain\r\n"),
    ("POST", "/v1/segments/order/ranges?size=10", ""),
    ("POST", "/v1/snowflakes/default/ids", ""),
    ("POST", "/v1/snowflakes/default/ids?count=2", ""),
]


@pytest.mark.parametrize(("method", "target", "headers"), ANSWERS_WITH_IDS)
def test_p5_every_answer_with_an_id_forbids_to_store_it(client: Client, method: str, target: str, headers: str) -> None:
    for repeat in range(3):  # the first takes the long way, later ones the short ones
        response = client.ask(target, method, headers)
        assert response.status == 200
        assert response.headers["cache-control"] == "no-store", f"repeat {repeat}"
