"""An echo server that the tests of a module share, and grpcio's channels to it."""

from collections.abc import Iterator

import grpc
import pytest

from goloves.server.grpc.limits import GrpcLimits
from server.grpc.echo import Echo, Stub
from server.grpc.live import LiveGrpc


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def server(echo: Echo) -> Iterator[LiveGrpc]:
    with LiveGrpc([echo.service()], GrpcLimits(max_message=4 * 1024 * 1024, max_held=256 * 1024 * 1024)) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: LiveGrpc) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)
