"""Behind each example of a load balancer, nodes are restarted and killed under load: ids go on, and none repeats.

HTTP clients repeat nothing here. nginx repeats no gRPC call that it began to send, as it does not keep what it sent:
its gRPC clients have the retry policy that the example names.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx2
import pytest

from databases import Server, free_port
from deploy.proxies import Proxy
from goloves.v1 import goloves_pb2, goloves_pb2_grpc
from system.serving import PATIENCE, Serving, Start

LOST = 9
"""Requests that may fail: for each of three clients, one at each of three ends of a node. A request that meets a
connection just as the node closes it is not always repeated by the load balancers, HAProxy 2.6 above all."""

PACE = 0.005
"""Seconds between two requests of one client: two hundred a second, far below what anything here can do."""


RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""gRPC's own retries, as clients configure them: safe, since a call that is repeated burns ids and repeats none."""


class Load:
    """Clients that draw ids until they are stopped. HTTP is never retried, gRPC only with these `options`."""

    def __init__(self, proxy: Proxy, options: list[tuple[str, str | int]]) -> None:
        self.tags: list[int] = []
        self.snowflakes: list[int] = []
        self.failures: list[str] = []
        self._proxy = proxy
        self._options = options
        self._stop = threading.Event()
        clients: list[Callable[[], None]] = [self._post, self._leaf, self._grpc]
        self._threads = [threading.Thread(target=client) for client in clients]
        for thread in self._threads:
            thread.start()

    def grown(self, more: int = 200) -> None:
        """Wait until so many more ids were drawn."""
        before = len(self.tags)
        deadline = time.monotonic() + PATIENCE
        while len(self.tags) < before + more:
            assert time.monotonic() < deadline, f"the load stands still; failures: {self.failures[:5]}"
            time.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _post(self) -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{self._proxy.http}", timeout=PATIENCE) as client:
            while not self._stop.wait(PACE):
                with self._watched("POST"):
                    answer = client.post("/v1/segments/default/ids", params={"count": 3})
                    if answer.status_code != 200:
                        raise AssertionError(f"{answer.status_code} {answer.text}")
                    self.tags += map(int, answer.json()["ids"])

    def _leaf(self) -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{self._proxy.http}", timeout=PATIENCE) as client:
            while not self._stop.wait(PACE):
                with self._watched("GET"):
                    answer = client.get("/api/snowflake/get/any")
                    if answer.status_code != 200:
                        raise AssertionError(f"{answer.status_code} {answer.text}")
                    self.snowflakes.append(int(answer.text))

    def _grpc(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._proxy.grpc}", options=self._options) as channel:
            segments = goloves_pb2_grpc.SegmentServiceStub(channel)
            request = goloves_pb2.SegmentNextRequest(tag="default", count=2)
            while not self._stop.wait(PACE):
                with self._watched("gRPC"):
                    self.tags += segments.Next(request, timeout=PATIENCE).ids

    def _watched(self, what: str) -> "_Watched":
        return _Watched(what, self.failures)


class _Watched:
    def __init__(self, what: str, failures: list[str]) -> None:
        self._what, self._failures = what, failures

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            self._failures.append(f"{self._what}: {error!r}"[:500])
        return isinstance(error, Exception)


@pytest.fixture(params=["haproxy", "nginx"])
def cluster(
    request: pytest.FixtureRequest, start: Start, mariadb: Server, tmp_path: Path
) -> Iterator[tuple[Proxy, Callable[[int], Serving]]]:
    """A load balancer before two nodes on one store, and how to start a node anew on its ports."""
    url = mariadb.fresh()
    ports = [(free_port(), free_port()) for _ in range(2)]

    def begin(number: int, *words: str) -> Serving:
        http, grpc_ = (f"127.0.0.1:{port}" for port in ports[number])
        where = ("--data-dir", f"node {number}", "--http", http, "--grpc", grpc_)
        serving = start("--store", url, *where, *words, GOLOVES_SEGMENT__DEADLINE="2", GOLOVES_SNOWFLAKE__DEADLINE="2")
        serving.ready()
        return serving

    nodes = [begin(0, "--init"), begin(1)]
    proxy = Proxy(request.param, tmp_path, ports)

    def again(number: int) -> Serving:
        nodes[number] = begin(number)
        return nodes[number]

    try:
        yield proxy, lambda number: again(number) if nodes[number].process.poll() is not None else nodes[number]
    finally:
        proxy.stop()


@pytest.mark.timeout(300)
def test_nodes_that_are_restarted_or_killed_under_load_cost_hardly_a_request_and_repeat_no_id(
    cluster: tuple[Proxy, Callable[[int], Serving]],
) -> None:
    proxy, node = cluster
    load = Load(proxy, [("grpc.service_config", RETRIES)] if proxy.name == "nginx" else [("grpc.enable_retries", 0)])
    try:
        load.grown()
        for number, how in ((0, signal.SIGTERM), (1, signal.SIGTERM), (0, signal.SIGKILL)):
            assert node(number).stop(how) == (0 if how is signal.SIGTERM else -signal.SIGKILL)
            load.grown()
            node(number)
            load.grown()
    finally:
        load.stop()
    assert len(load.failures) <= LOST, load.failures
    assert len(load.tags) == len(set(load.tags)) > 1000
    assert len(load.snowflakes) == len(set(load.snowflakes)) > 100
