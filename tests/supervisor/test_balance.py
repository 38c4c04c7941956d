"""Connections are shared out evenly among the nodes of one listener."""

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from faults.nodes import wait_for
from goloves.cli.failures import Exit
from goloves.server.balance import PLACES, Balance, Kind, make_memory
from supervisor.load import REQUEST
from supervisor.service import Service, Start
from system.serving import PATIENCE

CONNECTIONS = 200

UNEVEN = 20
"""Connections that one node may have more than the other. Left alone it is all of them, and with ten times as much to
run as there are cores it was two at most; a node that has no turn for 2 ms lets the other one take one."""


def shares(service: Service, total: int) -> list[int]:
    """How many connections each node has, as soon as they have told of all."""

    def found() -> list[int]:
        counts = [node["connections"] for node in service.nodes()]
        return counts if sum(counts) == total else []

    return service.wait(found, f"{total} connections")


@pytest.mark.parametrize("burst", [False, True], ids=["one by one", "all at once"])
def test_200_connections_are_even_over_two_nodes(start: Start, burst: bool) -> None:
    service = start("--nodes", "2")
    service.all_ready(2)
    with contextlib.ExitStack() as stack:
        clients: list[socket.socket] = []
        for _ in range(CONNECTIONS):
            client = stack.enter_context(socket.create_connection(service.address, PATIENCE))
            clients.append(client)
            client.sendall(REQUEST)
            if not burst:
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        counts = shares(service, CONNECTIONS)
        assert max(counts) - min(counts) <= UNEVEN
        # Those that leave make room where they were.
        for client in clients[: CONNECTIONS // 2]:
            client.close()
        shares(service, CONNECTIONS // 2)
        for _ in range(CONNECTIONS // 2):
            client = stack.enter_context(socket.create_connection(service.address, PATIENCE))
            client.sendall(REQUEST)
            if not burst:
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        counts = shares(service, CONNECTIONS)
        assert max(counts) - min(counts) <= UNEVEN
    assert service.stop() == Exit.DONE


def test_a_node_that_hangs_keeps_no_connection_waiting_for_long(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_SERVER__UNRESPONSIVE="600")
    frozen = min(service.all_ready(2))
    os.kill(frozen, signal.SIGSTOP)
    # Until it is: a node that is just to be stopped may take one still.
    wait_for(lambda: "T" in Path(f"/proc/{frozen}/stat").read_text().rpartition(")")[2][:3], "it is stopped")
    with contextlib.ExitStack() as stack:
        for _ in range(50):  # all but the first are more than the frozen node has
            client = stack.enter_context(socket.create_connection(service.address, PATIENCE))
            client.sendall(REQUEST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    os.kill(frozen, signal.SIGCONT)
    wait_for(lambda: len(service.pids()) == 2, "the node is back")
    assert service.stop() == Exit.DONE


def test_whose_turn_it_is_is_judged_among_those_that_take_part() -> None:
    memory = make_memory()
    try:
        first, second, third = (Balance(memory, place) for place in (0, 5, PLACES - 1))
    finally:
        os.close(memory)
    first.begin()
    assert first.is_due(Kind.HTTP, 1_000), "nobody else is there"
    second.begin()
    second.publish(Kind.HTTP, 10)
    assert first.is_due(Kind.HTTP, 10)
    assert not first.is_due(Kind.HTTP, 11)
    assert not first.is_due(Kind.GRPC, 11), "each kind is shared out by itself"
    third.publish(Kind.HTTP, 3)
    assert first.is_due(Kind.HTTP, 10), "the third does not take part yet"
    third.begin()
    assert not first.is_due(Kind.HTTP, 10)
    first.clear(PLACES - 1)
    assert first.is_due(Kind.HTTP, 10)
    second.end()
    assert first.is_due(Kind.HTTP, 11)
