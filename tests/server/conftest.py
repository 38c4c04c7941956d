"""A node that the tests of a module share, and a connection to it."""

from collections.abc import Iterator

import pytest

from server.live import LiveNode
from server.raw import Client


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with LiveNode() as node:
        yield node


@pytest.fixture
def client(node: LiveNode) -> Iterator[Client]:
    with Client(node.address) as client:
        yield client
