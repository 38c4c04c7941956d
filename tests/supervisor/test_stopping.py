"""How a service stops towards those who connect: an answer or a refusal, and never a wait for nobody."""

import contextlib
import os
import signal
import socket
import ssl
from pathlib import Path

import pytest

from faults.nodes import wait_for
from goloves.cli.failures import Exit
from server.grpc.certificates import self_signed
from supervisor.service import Start, gone, nodes_of
from system.serving import PATIENCE, socket_address

LONG = {"GOLOVES_SERVER__DRAIN": "600", "GOLOVES_HTTP__REQUEST_TIMEOUT": "600"}

HALF = b"GET /api/segment/get/default HTTP/1.1\r\n"

RESET = b"reset"


def asked(where: tuple[str, int]) -> bytes:
    """Connect anew, as a health check does, and ask; empty if the connect is refused.

    Who connects between a node's last look at its listener and the listener's end is reset: few can be.
    """
    try:
        with socket.create_connection(where, PATIENCE) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            return client.recv(4096) or b"closed without an answer"
    except ConnectionRefusedError:
        return b""
    except ConnectionResetError:
        return RESET


@pytest.mark.parametrize("nodes", [0, 2])
def test_while_a_slow_client_holds_the_drain_whoever_connects_is_answered_or_refused(start: Start, nodes: int) -> None:
    service = start("--nodes", str(nodes), GOLOVES_SERVER__NOTICE="2", **LONG)
    service.ready()
    where = service.address
    with socket.create_connection(where, PATIENCE) as slow:
        slow.sendall(HALF)
        assert asked(where).startswith(b"HTTP/1.1 200 ")  # so that the slow one was accepted before
        service.process.send_signal(signal.SIGTERM)
        service.says("stopping .*signal=SIGTERM")
        answers: list[bytes] = []

        def refused() -> bool:
            answers.append(asked(where))
            return not answers[-1]

        wait_for(refused, "connects are refused")
        # The first may be from before its nodes knew.
        told = [answer for answer in answers[:-1] if answer.startswith(b"HTTP/1.1 503 ")]
        assert told
        assert answers.count(RESET) <= max(1, nodes)
        assert len(told) >= len(answers) - 10
        assert all(b"\r\nConnection: close\r\n" in answer for answer in told)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(socket_address(service.grpc), PATIENCE)
        assert service.process.poll() is None, "the slow client is waited for"
        slow.sendall(b"Host: a\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert service.ended() == Exit.DONE


def test_a_unix_socket_refuses_connects_while_the_service_drains(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    service = start("--http", "127.0.0.1:0", "--http", f"unix:{path}", **LONG)
    service.all_ready(1)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(PATIENCE)
        slow.connect(str(path))
        slow.sendall(HALF)
        wait_for(lambda: service.nodes()[0]["connections"], "the slow request is seen")
        service.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(str(path)) != 0

        wait_for(refused, "connects are refused")
        slow.sendall(b"Host: a\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert service.ended() == Exit.DONE
    assert not path.exists()


@pytest.mark.parametrize("nodes", [0, 1])
def test_a_service_that_drains_leaves_the_unix_socket_alone_that_another_one_put_in_its_place(
    start: Start, tmp_path: Path, nodes: int
) -> None:
    path = tmp_path / "http.sock"
    words = ("--http", "127.0.0.1:0", "--http", f"unix:{path}")
    first = start(*words, "--nodes", str(nodes), **LONG)
    first.ready()
    with socket.create_connection(first.address, PATIENCE) as slow:
        slow.sendall(HALF)
        assert asked(first.address).startswith(b"HTTP/1.1 200 ")  # so that the slow one was accepted before
        first.process.send_signal(signal.SIGTERM)
        first.says("stopping .*signal=SIGTERM")
        wait_for(lambda: not asked(first.address), "connects are refused")
        second = start(*words, "--data-dir", "other", "--store", "sqlite:///other.db")
        second.ready()
        slow.sendall(b"Host: a\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert first.ended() == Exit.DONE
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(HALF + b"Host: a\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert second.stop() == Exit.DONE
    assert not path.exists()


def test_a_node_that_hangs_leaves_nobody_waiting_when_the_service_stops(start: Start) -> None:
    service = start(GOLOVES_SERVER__UNRESPONSIVE="600", **LONG)
    [frozen] = service.all_ready(1)
    where = service.address
    os.kill(frozen, signal.SIGSTOP)
    with socket.create_connection(where, PATIENCE) as waiting:
        service.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                socket.create_connection(where, PATIENCE).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(refused, "connects are refused")
        with contextlib.suppress(ConnectionResetError):
            assert waiting.recv(1) == b""
    for _ in range(2):
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not pending(service.process.pid, signal.SIGTERM), "the signal was taken")
    # The third one kills nodes; by itself the service would wait for ten minutes, after the second one for seconds.
    assert service.ended() == Exit.INTERRUPTED
    assert gone(frozen)
    assert "did not stop in time" not in service.said


def pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a process that it has not taken yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_a_manager_that_signals_every_process_of_the_service_cuts_nothing(start: Start) -> None:
    service = start("--nodes", "2", **LONG)
    service.all_ready(2)
    where = service.address
    with socket.create_connection(where, PATIENCE) as slow:
        slow.sendall(HALF)
        wait_for(lambda: sum(node["connections"] for node in service.nodes()), "the slow request is seen")
        for pid in [*nodes_of(service.process.pid), service.process.pid]:
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not asked(where), "connects are refused")
        slow.sendall(b"Host: a\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 "), "one signal each is no second one"
    assert service.ended() == Exit.DONE
    assert "cut" not in service.said


def test_a_handshake_that_is_under_way_is_waited_for(start: Start, tmp_path: Path) -> None:
    certificate, key = self_signed().write(tmp_path, "server")
    service = start(GOLOVES_TLS__CERTIFICATE=str(certificate), GOLOVES_TLS__KEY=str(key), **LONG)
    service.says("window claimed")
    host, port = service.says(r"listens on https?://([^\s:]+):(\d+)").groups()
    with socket.create_connection((host, int(port)), PATIENCE) as slow:
        wait_for(lambda: service.nodes()[0]["connections"], "the handshake is seen")
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: service.nodes()[0]["stage"] == "waiting", "the node drains")
        assert request_over_tls(slow).startswith(b"HTTP/1.1 200 ")
    assert service.ended() == Exit.DONE


def request_over_tls(plain: socket.socket) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(plain) as secured:
        secured.sendall(HALF + b"Host: a\r\n\r\n")
        return secured.recv(4096)


def test_http_is_served_over_tls_before_and_after_nodes_are_replaced(start: Start, tmp_path: Path) -> None:
    certificate, key = self_signed().write(tmp_path, "server")
    service = start(GOLOVES_TLS__CERTIFICATE=str(certificate), GOLOVES_TLS__KEY=str(key))
    service.says("window claimed")
    host, port = service.says(r"listens on https?://([^\s:]+):(\d+)").groups()

    def draw() -> bytes:
        with socket.create_connection((host, int(port)), PATIENCE) as plain:
            return request_over_tls(plain)

    assert draw().startswith(b"HTTP/1.1 200 ")
    old = service.all_ready(1)
    done = service.reload("--rolling")
    assert done.returncode == Exit.DONE, done.stderr
    service.all_ready(1, without=old)
    assert draw().startswith(b"HTTP/1.1 200 ")
    assert service.stop() == Exit.DONE
