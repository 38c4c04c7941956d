"""What the control plane and the nodes say of themselves, and to whom."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from faults.nodes import wait_for
from goloves.admin.access import LEAST, Access
from goloves.cli.failures import Exit
from goloves.errors import ConfigError
from supervisor.service import Service, Start
from system.serving import PATIENCE

TOKEN = "correct-horse-battery"


def told(service: Service, path: str, token: str = "") -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx2.get(f"{service.admin}{path}", headers=headers, timeout=PATIENCE)
    found: dict[str, Any] = answer.json()
    return answer.status_code, found


def health(service: Service) -> int:
    """The answer of `grpc.health.v1` for all that a node serves."""
    with grpc.insecure_channel(service.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True).status)


def test_a_service_whose_store_is_away_says_so_for_the_whole_and_over_grpc(start: Start) -> None:
    service = start("--store", "mysql://root@127.0.0.1:1/x")
    service.says("health ")

    def reasons() -> list[str]:
        status, body = told(service, "/readyz")
        return body["reasons"] if status == 503 and "can't be reached" in str(body) else []

    found = service.wait(reasons, "the reason")
    assert any(reason.startswith("node 0: ") and "mysql://127.0.0.1:1/x can't be reached" in reason for reason in found)
    assert told(service, "/healthz")[1]["status"] == "degraded"
    assert health(service) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert service.stop() == Exit.DONE


def test_a_supervised_node_tells_over_grpc_that_it_serves(start: Start) -> None:
    service = start()
    service.all_ready(1)
    assert health(service) == health_pb2.HealthCheckResponse.SERVING
    assert service.stop() == Exit.DONE


def test_without_its_token_others_learn_whether_it_is_ready_and_nothing_else(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    service = start("--init", "--nodes", "2", "--admin", "0.0.0.0:0", GOLOVES_ADMIN__TOKEN_FILE="token")
    service.says("health ")
    wait_for(lambda: told(service, "/readyz") == (200, {"status": "ready"}), "it is ready")
    wait_for(lambda: told(service, "/healthz") == (200, {"status": "ok"}), "both nodes serve")
    refused = httpx2.get(f"{service.admin}/nodes", timeout=PATIENCE)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="goloves"'
    assert told(service, "/nodes", TOKEN[:-1])[0] == 401
    wait_for(lambda: len(told(service, "/nodes", TOKEN)[1]["nodes"]) == 2, "both nodes are shown")
    assert told(service, "/readyz", TOKEN)[1]["reasons"] == []
    # Another token takes its place without a restart; and what is told stays told while the file is away.
    file.unlink()
    assert told(service, "/nodes", TOKEN)[0] == 200
    file.write_text("quite-another-token")
    assert told(service, "/nodes", TOKEN)[0] == 401
    assert told(service, "/nodes", "quite-another-token")[0] == 200
    assert service.stop() == Exit.DONE
    assert TOKEN not in service.said


def test_other_addresses_than_loopback_take_a_token_and_a_token_takes_a_file(start: Start, tmp_path: Path) -> None:
    bare = start("--admin", "0.0.0.0:0")
    assert bare.ended() == Exit.CONFIG
    assert "only this machine may reach it without a token; set admin.token_file" in bare.said
    missing = start("--admin", "0.0.0.0:0", GOLOVES_ADMIN__TOKEN_FILE=TOKEN)
    assert missing.ended() == Exit.CONFIG
    assert "the file of admin.token_file can't be read" in missing.said
    assert TOKEN not in missing.said, "people write the token itself there"
    assert not (tmp_path / "data").exists()


def test_a_token_is_long_enough_and_compared_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text("x" * (LEAST - 1))
    with pytest.raises(ConfigError, match="too short"):
        Access(file)
    file.write_text("  " + "x" * LEAST + "\n")
    access = Access(file)
    assert access.allows("Bearer " + "x" * LEAST)
    assert access.allows("bearer  " + "x" * LEAST)
    for shown in (None, "", "Bearer", "Bearer ", "Basic " + "x" * LEAST, "Bearer " + "x" * (LEAST + 1), "Bearer é"):
        assert not access.allows(shown)
    assert Access(None).allows(None)
    with caplog.at_level(logging.INFO):
        file.write_text("")
        assert not access.allows("Bearer "), "an emptied file lets nobody in"
        assert access.allows("Bearer " + "x" * LEAST)


def test_a_frozen_node_is_named_and_the_others_keep_the_service_ready(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_SERVER__UNRESPONSIVE="600")
    frozen = min(service.all_ready(2))
    os.kill(frozen, signal.SIGSTOP)
    wait_for(lambda: told(service, "/healthz")[1]["status"] == "degraded", "it is noticed")
    status, body = told(service, "/readyz")
    assert status == 200
    assert any("has said nothing for" in reason for reason in body["reasons"])
    os.kill(frozen, signal.SIGCONT)
    service.all_ready(2)
    assert service.stop() == Exit.DONE
