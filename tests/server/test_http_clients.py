"""Clients as people have them, against a node."""

import asyncio
import http.client
import shutil
import subprocess

import httpx2
import pytest

from server.live import LiveNode


def test_httpx_draws_over_one_connection(node: LiveNode) -> None:
    before = node.call(lambda: node.node.http.counters.connections)
    with httpx2.Client(base_url=f"http://127.0.0.1:{node.port}") as client:
        numbers = [int(client.get("/api/segment/get/order").text) for _ in range(20)]
        batch = client.post("/v1/segments/order/ids", params={"count": 3}).json()["ids"]
        assert client.post("/v1/segments/nothing/ids").json()["code"] == "unknown_tag"
        assert client.post("/api/segment/get/order", json={"a": 1}).status_code == 200
    assert numbers == list(range(numbers[0], numbers[0] + 20))
    assert batch == [str(numbers[-1] + n) for n in (1, 2, 3)]
    assert node.call(lambda: node.node.http.counters.connections) == before + 1


async def test_many_clients_at_once_get_distinct_ids(node: LiveNode) -> None:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{node.port}") as client:
        answers = await asyncio.gather(*(client.get("/api/segment/get/order") for _ in range(200)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 200


def test_the_standard_library_sends_chunked_bodies(node: LiveNode) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=20)
    try:
        for _ in range(2):
            connection.request("POST", "/api/segment/get/order", body=iter([b"a", b"bc"]), encode_chunked=True)
            response = connection.getresponse()
            assert (response.status, response.read().isdigit()) == (200, True)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-0"],
        ["--http2"],
        ["-X", "POST"],
        ["-d", "x=1"],
        ["-H", "Expect: 100-continue", "-d", "x=1"],
        ["-H", "Transfer-Encoding: chunked", "-d", "x=1"],
        ["-H", "Connection: close"],
    ],
    ids=" ".join,
)
def test_curl_gets_an_id_however_it_asks(node: LiveNode, options: list[str]) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    url = f"http://127.0.0.1:{node.port}/api/segment/get/order"
    run = subprocess.run([curl, "-sS", "-m", "20", *options, url, url], capture_output=True, text=True, check=True)
    assert run.stdout.isdigit()
    assert run.stderr == ""
