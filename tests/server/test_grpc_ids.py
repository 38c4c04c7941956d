"""A node's own services over gRPC: ids, health, reflection, and the end of a node."""

from collections.abc import Callable, Iterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from goloves.core.layout import Layout
from goloves.v1 import goloves_pb2 as pb
from goloves.v1.goloves_pb2_grpc import SegmentServiceStub, SnowflakeServiceStub
from server.grpc.raw import GOAWAY, RawClient, call_fields, prefixed
from server.live import PATIENCE, LiveNode

DEADLINE_EXCEEDED, UNAVAILABLE = 4, 14
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
OWN = ["goloves.v1.SegmentService", "goloves.v1.SnowflakeService"]


@pytest.fixture(scope="module")
def channel(node: LiveNode) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(node.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def segments(channel: grpc.Channel) -> SegmentServiceStub:
    return SegmentServiceStub(channel)


@pytest.fixture(scope="module")
def snowflakes(channel: grpc.Channel) -> SnowflakeServiceStub:
    return SnowflakeServiceStub(channel)


class TestSegments:
    def test_next_gives_one_id_after_another(self, segments: SegmentServiceStub) -> None:
        got = [segments.Next(pb.SegmentNextRequest(tag="order"), timeout=PATIENCE).ids for _ in range(100)]
        first = got[0][0]
        assert [list(ids) for ids in got] == [[first + number] for number in range(100)]

    @pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 10_000])
    def test_next_gives_just_as_many_as_are_asked_for(self, segments: SegmentServiceStub, count: int) -> None:
        ids = list(segments.Next(pb.SegmentNextRequest(tag="order", count=count), timeout=PATIENCE).ids)
        assert len(set(ids)) == count
        assert ids == sorted(ids)

    def test_ids_over_http_and_grpc_are_never_the_same(self, node: LiveNode, segments: SegmentServiceStub) -> None:
        from server.raw import Client

        with Client(node.address) as http:
            got = []
            for _ in range(50):
                got.append(int(http.ask().body))
                got += segments.Next(pb.SegmentNextRequest(tag="order"), timeout=PATIENCE).ids
        assert len(set(got)) == 100

    def test_a_lease_is_a_range_of_its_own(self, segments: SegmentServiceStub) -> None:
        leases = [segments.Lease(pb.SegmentLeaseRequest(tag="order", size=500), timeout=PATIENCE) for _ in range(3)]
        numbers = {number for lease in leases for number in range(lease.start, lease.end)}
        numbers |= set(segments.Next(pb.SegmentNextRequest(tag="order", count=1000), timeout=PATIENCE).ids)
        assert len(numbers) == 2500

    def test_a_stream_gives_one_answer_to_each_request_in_order(self, segments: SegmentServiceStub) -> None:
        counts = [1, 5, 0, 300, 1, 1, 10_000, 2] * 20
        asks = (pb.SegmentNextRequest(tag="default", count=count) for count in counts)
        answers = [list(answer.ids) for answer in segments.Stream(asks, timeout=PATIENCE)]
        assert [len(ids) for ids in answers] == [count or 1 for count in counts]
        flat = [number for ids in answers for number in ids]
        assert flat == sorted(set(flat))

    def test_a_stream_ends_with_the_error_of_the_request_that_fails(self, segments: SegmentServiceStub) -> None:
        asks = iter([pb.SegmentNextRequest(tag="order"), pb.SegmentNextRequest(tag="nowhere")])
        answers = segments.Stream(asks, timeout=PATIENCE)
        assert len(next(answers).ids) == 1
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


class TestSnowflakes:
    @pytest.mark.parametrize("space", ["", "default"])
    def test_an_empty_space_means_default(self, snowflakes: SnowflakeServiceStub, space: str) -> None:
        ids = [snowflakes.Next(pb.SnowflakeNextRequest(space=space), timeout=PATIENCE).ids[0] for _ in range(50)]
        assert ids == sorted(set(ids))

    def test_many_at_once_are_distinct(self, snowflakes: SnowflakeServiceStub) -> None:
        ids = snowflakes.Next(pb.SnowflakeNextRequest(count=10_000), timeout=PATIENCE).ids
        assert len(set(ids)) == 10_000

    def test_an_id_is_decoded_as_its_layout_says(self, snowflakes: SnowflakeServiceStub) -> None:
        number = snowflakes.Next(pb.SnowflakeNextRequest(), timeout=PATIENCE).ids[0]
        got = snowflakes.Decode(pb.DecodeRequest(id=number), timeout=PATIENCE)
        want = Layout().decode(number)
        assert (got.unix_ms, got.worker, got.sequence) == (want.unix_ms, want.worker, want.sequence)

    def test_a_stream_gives_one_answer_to_each_request(self, snowflakes: SnowflakeServiceStub) -> None:
        asks = (pb.SnowflakeNextRequest(count=count) for count in (1, 2, 3))
        assert [len(answer.ids) for answer in snowflakes.Stream(asks, timeout=PATIENCE)] == [1, 2, 3]


ERRORS = [
    ("Next", pb.SegmentNextRequest(tag="ordre"), "NOT_FOUND", "unknown_tag", "order"),
    ("Next", pb.SegmentNextRequest(tag=""), "INVALID_ARGUMENT", "invalid_name", "is empty"),
    ("Next", pb.SegmentNextRequest(tag="a\nb"), "INVALID_ARGUMENT", "invalid_name", "U+000A"),
    ("Next", pb.SegmentNextRequest(tag="x" * 200), "INVALID_ARGUMENT", "invalid_name", "at most 128"),
    ("Next", pb.SegmentNextRequest(tag="order", count=10_001), "INVALID_ARGUMENT", "invalid_count", "10000"),
    ("Next", pb.SegmentNextRequest(tag="order", count=2**32 - 1), "INVALID_ARGUMENT", "invalid_count", "10000"),
    ("Lease", pb.SegmentLeaseRequest(tag="order"), "INVALID_ARGUMENT", "invalid_count", "between 1 and"),
    ("Lease", pb.SegmentLeaseRequest(tag="order", size=2**64 - 1), "INVALID_ARGUMENT", "invalid_count", "1000000"),
    ("Lease", pb.SegmentLeaseRequest(tag="nowhere", size=5), "NOT_FOUND", "unknown_tag", "nowhere"),
]


@pytest.mark.parametrize(("method", "request_", "status", "reason", "words"), ERRORS)
def test_an_error_has_its_status_a_stable_reason_and_words_that_help(
    segments: SegmentServiceStub, method: str, request_: object, status: str, reason: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(segments, method)(request_, timeout=PATIENCE)
    assert caught.value.code().name == status
    assert words in caught.value.details()
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    rich = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert rich.details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason, "goloves")
    assert rich.message == caught.value.details()


def test_errors_of_spaces_and_ids(snowflakes: SnowflakeServiceStub) -> None:
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: snowflakes.Next(pb.SnowflakeNextRequest(space="nowhere"), timeout=PATIENCE), "NOT_FOUND"),
        (lambda: snowflakes.Decode(pb.DecodeRequest(id=-1), timeout=PATIENCE), "INVALID_ARGUMENT"),
        (lambda: snowflakes.Decode(pb.DecodeRequest(space="nowhere", id=1), timeout=PATIENCE), "NOT_FOUND"),
    ]
    for call, status in wrong:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code().name == status


def test_a_store_that_does_not_answer_is_unavailable_and_says_when_to_try_again() -> None:
    from goloves.config import SegmentConfig

    with LiveNode(step=10, segment=SegmentConfig(deadline=0.1)) as node, grpc.insecure_channel(node.grpc) as channel:
        stub = SegmentServiceStub(channel)
        stub.Next(pb.SegmentNextRequest(tag="order"), timeout=PATIENCE)
        node.call(node.store.flowing.clear)
        try:
            with pytest.raises(grpc.RpcError) as caught:
                for _ in range(1000):
                    stub.Next(pb.SegmentNextRequest(tag="order", count=10_000), timeout=PATIENCE)
        finally:
            node.release_store()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        trailers = dict(caught.value.trailing_metadata())
        assert int(trailers["grpc-retry-pushback-ms"]) == 1000
        rich = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        retry = error_details_pb2.RetryInfo()
        assert rich.details[1].Unpack(retry)
        assert retry.retry_delay.seconds == 1


class TestDeadlines:
    def test_a_clients_deadline_is_kept_while_a_refill_is_awaited(self) -> None:
        """The client has no timer of its own."""
        count = prefixed(pb.SegmentNextRequest(tag="order", count=10_000).SerializeToString())
        path = "/goloves.v1.SegmentService/Next"
        with LiveNode(step=10) as node, RawClient(int(node.grpc.rpartition(":")[2])) as client:
            node.call(node.store.flowing.clear)
            try:
                answer = client.call(path, count, ("grpc-timeout", "200m"))
                assert answer.status in (DEADLINE_EXCEEDED, UNAVAILABLE)
            finally:
                node.release_store()
            assert client.call(path, prefixed(pb.SegmentNextRequest(tag="order").SerializeToString())).status == 0

    @pytest.mark.parametrize(
        ("asked", "method", "request_"),
        [
            ("segment_ids", "SegmentService/Next", pb.SegmentNextRequest(tag="order", count=2)),
            ("segment_ids", "SegmentService/Stream", pb.SegmentNextRequest(tag="order", count=2)),
            ("segment_range", "SegmentService/Lease", pb.SegmentLeaseRequest(tag="order", size=2)),
            ("snowflake_ids", "SnowflakeService/Next", pb.SnowflakeNextRequest(count=2)),
            ("snowflake_ids", "SnowflakeService/Stream", pb.SnowflakeNextRequest(count=2)),
        ],
    )
    def test_what_is_left_of_it_is_all_the_time_that_the_service_gets(
        self, node: LiveNode, monkeypatch: pytest.MonkeyPatch, asked: str, method: str, request_: Message
    ) -> None:
        service = node.node.service
        answer, got = getattr(service, asked), []

        async def ask(*what: object, timeout: float | None = None) -> object:
            got.append(timeout)
            return await answer(*what)

        monkeypatch.setattr(service, asked, ask)
        with RawClient(int(node.grpc.rpartition(":")[2])) as client:
            body = prefixed(request_.SerializeToString())
            for timeout in ([("grpc-timeout", "7S")], []):
                assert client.call(f"/goloves.v1.{method}", body, *timeout).status == 0
        limited, unlimited = got
        assert limited is not None
        assert 0 < limited <= 7
        assert unlimited is None


class TestHealth:
    @pytest.mark.parametrize("name", ["", *OWN])
    def test_what_can_be_called_is_serving(self, channel: grpc.Channel, name: str) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE).status == SERVING

    def test_an_unknown_service_is_not_found(self, channel: grpc.Channel) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x"), timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    def test_a_name_without_end_is_not_repeated(self, channel: grpc.Channel) -> None:
        asked = health_pb2.HealthCheckRequest(service="x" * 60_000)
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(asked, timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert len(caught.value.details() or "") < 200

    def test_an_unknown_service_can_be_watched(self, channel: grpc.Channel) -> None:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="x"), timeout=PATIENCE)
        assert next(watch).status == SERVICE_UNKNOWN
        watch.cancel()

    def test_all_services_are_listed(self, channel: grpc.Channel) -> None:
        listed = health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest(), timeout=PATIENCE)
        assert {name: status.status for name, status in listed.statuses.items()} == dict.fromkeys(["", *OWN], SERVING)

    def test_a_node_without_a_store_serves_nothing(self) -> None:
        with LiveNode() as node, grpc.insecure_channel(node.grpc) as channel:
            node.call(lambda: setattr(node.node._health, "_reasons", lambda: ["no store"]))
            stub = health_pb2_grpc.HealthStub(channel)
            for name in ("", *OWN):
                checked = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
                assert checked.status == NOT_SERVING
            listed = stub.List(health_pb2.HealthListRequest(), timeout=PATIENCE)
            assert {name: status.status for name, status in listed.statuses.items()} == dict.fromkeys(
                ["", *OWN], NOT_SERVING
            )

    def test_a_node_that_stops_says_so_on_connections_that_are_open(self) -> None:
        with LiveNode(drain=PATIENCE) as node, RawClient(int(node.grpc.rpartition(":")[2])) as client:
            check, listing = (client.open(call_fields(f"/grpc.health.v1.Health/{name}")) for name in ("Check", "List"))
            client.ping()
            node.begin_stop()
            client.read_until(GOAWAY)
            checked = client.data(check, prefixed(b""), end=True).answer(check)
            listed = client.data(listing, prefixed(b""), end=True).answer(listing)
        assert health_pb2.HealthCheckResponse.FromString(checked.data[5:]).status == NOT_SERVING
        statuses = health_pb2.HealthListResponse.FromString(listed.data[5:]).statuses
        assert {name: status.status for name, status in statuses.items()} == dict.fromkeys(["", *OWN], NOT_SERVING)

    def test_watchers_hear_of_a_node_that_is_not_ready_and_of_its_end(self) -> None:
        with LiveNode() as node, grpc.insecure_channel(node.grpc) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert next(watch).status == SERVING
            service = node.node.service
            ready = service.readiness
            node.call(lambda: setattr(node.node._health, "_reasons", lambda: ["no store"]))
            assert next(watch).status == NOT_SERVING
            node.call(lambda: setattr(node.node._health, "_reasons", ready))
            assert next(watch).status == SERVING
            node.begin_stop()
            assert next(watch).status == NOT_SERVING
            with pytest.raises(grpc.RpcError) as caught:
                next(watch)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    def test_however_many_watch_one_looks(self) -> None:
        looks = 0

        def reasons() -> list[str]:
            nonlocal looks
            looks += 1
            return ["no store"] if looks > 6 else []

        with LiveNode() as node, grpc.insecure_channel(node.grpc) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE) for _ in range(50)]
            assert {next(watch).status for watch in watches} == {SERVING}
            node.call(lambda: setattr(node.node._health, "_reasons", reasons))
            assert {next(watch).status for watch in watches} == {NOT_SERVING}
            # Six that found nothing new, the seventh, and one more to say what it found; each watcher by itself would
            # have looked twice or more.
            assert 7 <= node.call(lambda: looks) <= 12
            for watch in watches:
                watch.cancel()
            node.wait_for(lambda: not node.node._health._watchers)

    def test_a_watch_begins_with_what_is_true_now(self) -> None:
        with LiveNode() as node, grpc.insecure_channel(node.grpc) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            first = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert next(first).status == SERVING
            node.call(lambda: setattr(node.node._health, "_reasons", lambda: ["no store"]))
            second = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert next(second).status == NOT_SERVING
            assert next(first).status == NOT_SERVING
            for watch in (first, second):
                watch.cancel()


class TestReflection:
    @pytest.mark.parametrize("version", ["v1", "v1alpha"])
    def test_both_versions_tell_the_same_of_files_symbols_and_extensions(
        self, channel: grpc.Channel, version: str
    ) -> None:
        """Their messages differ in nothing but the package."""
        request = reflection_pb2.ServerReflectionRequest
        extension = reflection_pb2.ExtensionRequest
        asks = [
            request(file_by_filename="goloves/v1/goloves.proto"),
            request(file_containing_symbol="goloves.v1.IdsResponse"),
            request(file_containing_symbol=f"grpc.reflection.{version}.ServerReflection"),
            request(all_extension_numbers_of_type="goloves.v1.IdsResponse"),
            request(file_containing_extension=extension(containing_type="goloves.v1.IdsResponse", extension_number=1)),
            request(file_containing_extension=extension(containing_type="no.Such", extension_number=1)),
        ]
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            _registered_method=True,
        )
        answers = list(ask(iter(asks), timeout=PATIENCE))
        assert [answer.original_request for answer in answers] == asks
        files = [
            [
                FileDescriptorProto.FromString(file).name
                for file in answer.file_descriptor_response.file_descriptor_proto
            ]
            for answer in answers[:3]
        ]
        own = ["goloves/v1/goloves.proto"]
        assert files == [own, own, [f"grpc/reflection/{version}/reflection.proto"]]
        assert answers[3].all_extension_numbers_response.base_type_name == "goloves.v1.IdsResponse"
        assert list(answers[3].all_extension_numbers_response.extension_number) == []
        assert [answer.error_response.error_code for answer in answers[4:]] == [5, 5]
        assert all("file_containing_extension" in answer.error_response.error_message for answer in answers[4:])

    def test_tools_find_all_services_and_their_messages(self, channel: grpc.Channel) -> None:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(OWN) | {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= set(
            database.get_services()
        )
        file = database.FindFileContainingSymbol("goloves.v1.SegmentService")
        assert [message.name for message in file.message_type][:2] == ["SegmentNextRequest", "SnowflakeNextRequest"]
        assert database.FindFileByName("goloves/v1/goloves.proto").package == "goloves.v1"

    def test_what_is_not_there_is_told_and_the_stream_goes_on(self, channel: grpc.Channel) -> None:
        request = reflection_pb2.ServerReflectionRequest
        asks = iter(
            [
                request(file_containing_symbol="no.Such"),
                request(file_by_filename="no.proto"),
                request(all_extension_numbers_of_type="no.Such"),
                request(),
                request(host="me", list_services=""),
            ]
        )
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = list(stub.ServerReflectionInfo(asks, timeout=PATIENCE))
        assert [answer.error_response.error_code for answer in answers] == [5, 5, 5, 3, 0]
        assert answers[-1].valid_host == "me"
        assert answers[-1].original_request.host == "me"
        assert len(answers[-1].list_services_response.service) == 5


class TestTheEnd:
    def test_a_node_that_stops_lets_clients_go_without_an_error(self) -> None:
        with LiveNode() as node, grpc.insecure_channel(node.grpc) as channel:
            stub = SegmentServiceStub(channel)
            stub.Next(pb.SegmentNextRequest(tag="order"), timeout=PATIENCE)
            node.begin_stop()
            node.close_listeners()  # else a client that connects anew waits for whoever accepts next
            with pytest.raises(grpc.RpcError) as caught:
                for _ in range(100_000):
                    stub.Next(pb.SegmentNextRequest(tag="order"), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    def test_an_idle_stream_does_not_hold_up_the_end(self) -> None:
        import queue

        asks: queue.Queue[object] = queue.Queue()
        asks.put(pb.SegmentNextRequest(tag="order"))
        with LiveNode(drain=PATIENCE) as node, grpc.insecure_channel(node.grpc) as channel:
            answers = SegmentServiceStub(channel).Stream(iter(asks.get, None), timeout=PATIENCE)
            next(answers)
            node.begin_stop()
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            asks.put(None)
