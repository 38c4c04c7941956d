"""Behind each example of a load balancer nodes are restarted and killed under load: ids go on, and none repeats.

HTTP clients repeat nothing here. nginx repeats no gRPC call that it began to send, as it does not keep what it sent:
its gRPC clients have the retry policy that the example names.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx2
import pytest

from databases import Server
from deploy.load import Load
from deploy.proxies import Proxy, lasting_ports
from goloves.v1 import goloves_pb2, goloves_pb2_grpc
from system.serving import PATIENCE, Serving


class Cluster:
    """A load balancer before two nodes on one store; `stack` ends them."""

    def __init__(self, name: str, url: str, directory: Path, stack: contextlib.ExitStack) -> None:
        self._directory, self._url, self._stack = directory, url, stack
        http1, grpc1, http2, grpc2 = lasting_ports(4)
        self._ports = [(http1, grpc1), (http2, grpc2)]
        self._nodes = [self._start(0, "--init"), self._start(1)]
        self.proxy = Proxy(name, directory, self._ports)
        stack.callback(self.proxy.stop)

    def _start(self, number: int, *words: str) -> Serving:
        http, grpc_ = (f"127.0.0.1:{port}" for port in self._ports[number])
        where = ("--store", self._url, "--data-dir", f"node {number}", "--http", http, "--grpc", grpc_)
        # Shorter than the proxies wait, longer than a busy machine needs.
        deadlines = {"GOLOVES_SEGMENT__DEADLINE": "4", "GOLOVES_SNOWFLAKE__DEADLINE": "4"}
        serving = Serving(self._directory, (*where, *words), deadlines)
        self._stack.callback(serving.remove)
        serving.ready()
        return serving

    def node(self, number: int) -> Serving:
        """Give the service that runs, or else a new one in its place."""
        if self._nodes[number].process.poll() is not None:
            self._nodes[number] = self._start(number)
        return self._nodes[number]

    def load(self) -> Load:
        """Start clients, before both nodes."""
        for number in range(len(self._nodes)):
            self.node(number)
        return Load(self.proxy, retries=self.proxy.name == "nginx")


@pytest.fixture(params=["haproxy", "nginx"], scope="module")
def cluster(
    request: pytest.FixtureRequest, mariadb: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(request.param, mariadb.fresh(), tmp_path_factory.mktemp(request.param), stack)


def kill(serving: Serving) -> None:
    """End a service as a machine does that is switched off: the supervisor and its nodes at once."""
    first = serving.process.pid
    children = Path(f"/proc/{first}/task/{first}/children").read_text("ascii").split()
    for pid in (first, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert serving.ended() == -signal.SIGKILL


def unique(load: Load) -> None:
    tags, snowflakes = load.ids("POST", "gRPC", "stream"), load.ids("GET")
    assert len(tags) == len(set(tags)) > 500
    assert len(snowflakes) == len(set(snowflakes)) > 200


@pytest.mark.timeout(300)
def test_a_node_that_is_restarted_under_load_costs_no_request(cluster: Cluster) -> None:
    load = cluster.load()
    try:
        load.grown()
        for number in (0, 1, 0, 1):
            assert cluster.node(number).stop(signal.SIGTERM) == 0
            load.grown()
            cluster.node(number)
            if cluster.proxy.name == "haproxy":  # it sends nothing to a node before it has seen it come back
                load.grown()
    finally:
        load.stop()
    assert load.failures == []
    streams = sum(client.kind == "stream" for client in load.clients)
    # Once at each restart, and once more where it was opened anew before the proxy had noticed.
    assert load.sent_on <= 4 * 2 * streams
    unique(load)


@pytest.mark.timeout(300)
def test_a_node_that_is_killed_under_load_costs_at_most_what_was_under_way(cluster: Cluster) -> None:
    load = cluster.load()
    try:
        load.grown()
        for number in (0, 1):
            kill(cluster.node(number))
            load.grown()
            cluster.node(number)
            load.grown()
    finally:
        load.stop()
    # Each client has one request under way; each of the two deaths can cost that.
    assert len(load.failures) <= 2 * len(load.clients), load.failures
    unique(load)


def test_a_stream_may_ask_for_more_than_a_request_is_large(cluster: Cluster) -> None:
    cluster.node(0)
    # A field that the contract does not have, 60 KB of it, is skipped by whoever reads the message.
    padding = b"\xfa\x01" + b"\xe0\xd4\x03" + b"x" * 60_000
    request = goloves_pb2.SegmentNextRequest(tag="default", count=1).SerializeToString() + padding
    with grpc.insecure_channel(f"127.0.0.1:{cluster.proxy.grpc}") as channel:
        stream = channel.stream_stream("/goloves.v1.SegmentService/Stream")
        answers = list(stream(iter([request] * 40), timeout=PATIENCE))
    assert len(answers) == 40


def test_with_no_node_left_clients_are_told_to_try_again(cluster: Cluster) -> None:
    for number in (0, 1):
        cluster.node(number).stop(signal.SIGTERM)
    with grpc.insecure_channel(f"127.0.0.1:{cluster.proxy.grpc}", options=[("grpc.enable_retries", 0)]) as channel:
        segments = goloves_pb2_grpc.SegmentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            segments.Next(goloves_pb2.SegmentNextRequest(tag="default"), timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    answer = httpx2.get(f"http://127.0.0.1:{cluster.proxy.http}/api/segment/get/default", timeout=PATIENCE)
    assert answer.status_code in (502, 503)
