"""Nodes are replaced, and services taken over, while clients draw: nobody notices."""

import pytest

from goloves.cli.failures import Exit
from supervisor.load import Load
from supervisor.service import Start

pytestmark = pytest.mark.timeout(400)
"""200 clients in one interpreter take their time beside other tests."""

HTTP_CLIENTS = 160
GRPC_CLIENTS = 40


def test_a_rolling_restart_under_load_of_200_connections_fails_no_request_and_refuses_no_connect(start: Start) -> None:
    service = start("--nodes", "2")
    old = service.all_ready(2)
    with Load(service.urls[0], service.grpc, http_clients=HTTP_CLIENTS, grpc_clients=GRPC_CLIENTS) as load:
        load.wait_all_served(2)
        for _ in range(2):
            done = service.reload("--rolling")
            assert done.returncode == 0, done.stderr
            new = service.all_ready(2, without=old)
            assert "2 of 2: node " in done.stdout
            old = new
            load.wait_all_served(2)
    load.check()
    assert load.reconnects >= 2 * HTTP_CLIENTS
    assert len(load.numbers) >= 6 * (HTTP_CLIENTS + GRPC_CLIENTS)
    assert service.stop() == Exit.DONE


def test_a_takeover_under_load_of_200_connections_fails_no_request_and_refuses_no_connect(start: Start) -> None:
    first = start("--nodes", "2")
    old = first.all_ready(2)
    with Load(first.urls[0], first.grpc, http_clients=HTTP_CLIENTS, grpc_clients=GRPC_CLIENTS) as load:
        load.wait_all_served(2)
        second = start("--nodes", "2", "--takeover")
        second.says("took over")
        assert first.ended() == Exit.DONE
        assert "another supervisor has taken over" in first.said
        new = second.all_ready(2, without=old)
        assert new
        load.wait_all_served(2)
    load.check()
    assert load.reconnects >= HTTP_CLIENTS
    assert second.urls == first.urls
    assert second.admin == first.admin
    assert second.stop() == Exit.DONE
