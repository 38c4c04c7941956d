"""A node that has no file descriptor left: who is connected is served, and the database is found again afterwards."""

import contextlib
import socket

import pytest

from faults.conftest import Note
from faults.ground import BRISK, TAGS, Ground
from faults.ledger import Ledger
from faults.load import Load, all_routes
from faults.nodes import Cluster, Node, wait_for
from faults.proxy import Proxy

MOST = 100
"""Descriptors that the node may have: some thirty are its own."""


def connect(node: Node) -> socket.socket | None:
    """Connect and say nothing; None once nobody accepts and the line is full."""
    assert node.life is not None
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        client.connect(node.life.address)
    except BlockingIOError:
        client.close()
        return None
    return client


def hog(node: Node, stack: contextlib.ExitStack) -> int:
    """Take every descriptor that the node has left, and some places in its line; gives how many connections."""
    taken = 0
    while taken < 2 * MOST and (client := connect(node)) is not None:
        stack.enter_context(client)
        taken += 1
    return taken


@pytest.mark.supervised("postgresql", nodes=1)
@pytest.mark.full
def test_a_node_without_descriptors_serves_whom_it_has_and_finds_its_database_again_when_it_has_some(
    served: Ground, note: Note
) -> None:
    ledger = Ledger()
    with (
        Proxy(served.server.port, connecting_commits=served.server.name == "postgresql") as proxy,
        Cluster(served.through(proxy.port), settings=BRISK) as cluster,
    ):
        node = cluster.add(open_files=MOST)
        node.start()
        with Load([node], ledger, routes=all_routes(TAGS), calls=0) as load:
            load.wait_served(500)
            with contextlib.ExitStack() as stack:
                taken = hog(node, stack)
                node.says("no room for new connections")
                load.wait_served(200, "segment")
                load.wait_served(50, "snowflake")
                # What the database's connections leave behind is taken by those who stand in line.
                proxy.refusing = True
                proxy.cut()
                load.wait_refused("segment", count=20)
                load.wait_served(50, "snowflake")
                proxy.refusing = False
            recovery = load.wait_served(200, "segment")
            wait_for(lambda: node.readiness()[0], "it is ready, and accepts")
        served.check(ledger, cluster)
        assert node.stop() == 0
    note(taken=taken, received=ledger.received, back_after=recovery)
    assert taken >= MOST // 2
