"""Clients that draw ids through a load balancer until they are stopped, and what became of each request."""

import json
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import httpx2

from deploy.proxies import Proxy
from goloves.v1 import goloves_pb2, goloves_pb2_grpc
from system.serving import PATIENCE

PACE = 0.05
"""Seconds between two requests of one client: some four hundred a second in all, which leaves two cores at rest."""

LONGEST = 10.0
"""Seconds for which a client waits for an answer: far more than one takes, and less than anybody waits for a client."""

STREAM = 20
"""Requests of a stream: it lasts a second, so that many begin and end beside a node's end."""

SENT_ON = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""How a stream ends that rests when its node stops: the node says UNAVAILABLE, and the client goes on with another
stream. HAProxy 2.6 may drop what the node says, and reset the stream instead."""

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

Draw = Callable[[], list[int]]
"""Sends one request; gives its ids, or raises what it failed with."""


class Client:
    """One client, with connections of its own."""

    def __init__(self, kind: str, work: Callable[["Client"], None]) -> None:
        self.kind = kind
        self.ids: list[int] = []
        self.failures: list[str] = []
        self.sent_on = 0
        """Streams that a node ended because it stops."""
        self.thread = threading.Thread(target=work, args=(self,), name=kind)

    def draw(self, one: Draw) -> None:
        """Send a request and note what became of it."""
        try:
            self.ids += one()
        except (httpx2.HTTPError, grpc.RpcError, AssertionError) as error:
            self.failures.append(f"{self.kind} at {time.monotonic():.3f}: {error!r}"[:500])


class Load:
    """Clients of all kinds. HTTP is never repeated by a client; gRPC where `retries` says so, by the policy above."""

    def __init__(self, proxy: Proxy, *, retries: bool, posts: int = 6, gets: int = 6, calls: int = 8) -> None:
        self._proxy = proxy
        # A subchannel is shared by all channels of a process with the same arguments, unless this says otherwise.
        policy = ("grpc.service_config", RETRIES) if retries else ("grpc.enable_retries", 0)
        self._options = [policy, ("grpc.use_local_subchannel_pool", 1)]
        self._stop = threading.Event()
        self.clients = [Client("POST", self._post) for _ in range(posts)]
        self.clients += [Client("GET", self._leaf) for _ in range(gets)]
        self.clients += [Client("gRPC", self._call) for _ in range(calls)]
        self.clients += [Client("stream", self._stream) for _ in range(2)]
        for client in self.clients:
            client.thread.start()

    @property
    def failures(self) -> list[str]:
        """What failed so far."""
        return [failure for client in self.clients for failure in client.failures]

    @property
    def sent_on(self) -> int:
        """How often a node ended a stream because it stops."""
        return sum(client.sent_on for client in self.clients)

    def ids(self, *kinds: str) -> list[int]:
        """Give what these kinds of clients drew."""
        return [id_ for client in self.clients if client.kind in kinds for id_ in client.ids]

    def grown(self, more: int = 10) -> None:
        """Wait until every client has drawn so many more ids."""
        due = {client: len(client.ids) + more for client in self.clients}
        deadline = time.monotonic() + 2 * PATIENCE
        while behind := [client.kind for client, count in due.items() if len(client.ids) < count]:
            assert time.monotonic() < deadline, f"{behind} stand still; failures: {self.failures[:5]}"
            time.sleep(0.01)

    def stop(self) -> None:
        """Let every client end."""
        self._stop.set()
        for client in self.clients:
            client.thread.join(PATIENCE)
            assert not client.thread.is_alive(), f"{client.kind} does not end"

    def _post(self, client: Client) -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{self._proxy.http}", timeout=LONGEST) as http:

            def one() -> list[int]:
                answer = http.post("/v1/segments/default/ids", params={"count": 3})
                assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
                return [int(each) for each in answer.json()["ids"]]

            while not self._stop.wait(PACE):
                client.draw(one)

    def _leaf(self, client: Client) -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{self._proxy.http}", timeout=LONGEST) as http:

            def one() -> list[int]:
                answer = http.get("/api/snowflake/get/any")
                assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
                return [int(answer.text)]

            while not self._stop.wait(PACE):
                client.draw(one)

    def _call(self, client: Client) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._proxy.grpc}", options=self._options) as channel:
            segments = goloves_pb2_grpc.SegmentServiceStub(channel)
            request = goloves_pb2.SegmentNextRequest(tag="default", count=2)
            while not self._stop.wait(PACE):
                client.draw(lambda: list(segments.Next(request, timeout=LONGEST).ids))

    def _stream(self, client: Client) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._proxy.grpc}", options=self._options) as channel:
            segments = goloves_pb2_grpc.SegmentServiceStub(channel)

            def requests() -> Iterator[goloves_pb2.SegmentNextRequest]:
                for _ in range(STREAM):
                    if self._stop.wait(PACE):
                        return
                    yield goloves_pb2.SegmentNextRequest(tag="default", count=1)

            def one() -> list[int]:
                try:
                    for answer in segments.Stream(requests(), timeout=LONGEST):
                        client.ids += answer.ids
                except grpc.RpcError as error:
                    if error.code() not in SENT_ON:
                        raise
                    client.sent_on += 1
                return []

            while not self._stop.is_set():
                client.draw(one)
