"""A service from its start to its end: signals, stages, service managers, containers, terminals."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from faults.nodes import wait_for
from goloves.cli.failures import Exit
from supervisor.load import REQUEST
from supervisor.service import Start, gone, nodes_of
from system.serving import FREE_PORTS


class Notified:
    """A service manager's socket: what is said to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.said: list[dict[str, str]] = []

    def wait(self, **words: str) -> dict[str, str]:
        """Wait until something is said that holds these words."""

        def found() -> dict[str, str] | None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    text = self.socket.recv(65_536).decode()
                    self.said.append(dict(line.split("=", 1) for line in text.splitlines()))
            return next((said for said in self.said if words.items() <= said.items()), None)

        wait_for(found, f"{words} is said, and not only {self.said}")
        message = found()
        assert message is not None
        return message


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    made = Notified(tmp_path / "notify")
    yield made
    made.socket.close()


def test_a_service_manager_hears_when_it_serves_reloads_lives_and_stops(start: Start, notified: Notified) -> None:
    service = start("--nodes", "2", NOTIFY_SOCKET=str(notified.path), WATCHDOG_USEC="2000000")
    ready = notified.wait(READY="1")
    assert ready["MAINPID"] == str(service.process.pid)
    service.all_ready(2)
    assert {node["stage"] for node in service.nodes()} == {"serving"}, "ready means that all nodes serve"
    notified.wait(WATCHDOG="1")
    notified.said.clear()
    service.process.send_signal(signal.SIGHUP)
    assert int(notified.wait(RELOADING="1")["MONOTONIC_USEC"]) > 0
    notified.wait(READY="1")
    assert service.stop(signal.SIGTERM) == Exit.DONE
    notified.wait(STOPPING="1")


def test_a_name_in_the_abstract_name_space_is_understood(start: Start) -> None:
    name = f"goloves-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(60)
        service = start(NOTIFY_SOCKET=f"@{name}")
        said = b""
        while b"READY=1" not in said:
            said = listener.recv(4096)
        assert service.stop() == Exit.DONE


def test_a_stop_goes_through_its_stages_and_gives_the_windows_back(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_SERVER__DRAIN="30", GOLOVES_HTTP__REQUEST_TIMEOUT="60")
    service.all_ready(2)
    host, port = service.urls[0].removeprefix("http://").rsplit(":", 1)
    admin = service.admin
    with socket.create_connection((host, int(port)), 30) as slow, httpx2.Client() as monitor:
        slow.sendall(b"GET /api/segment/get/default HTTP/1.1\r\n")
        wait_for(lambda: sum(node["connections"] for node in service.nodes()), "the slow request is seen")
        assert monitor.get(f"{admin}/readyz").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        service.says("stopping .*signal=SIGTERM")
        wait_for(lambda: {"waiting"} == {node["stage"] for node in service.nodes()}, "the idle node is gone")
        answer = monitor.get(f"{admin}/readyz")
        assert answer.status_code == 503
        assert answer.json()["reasons"] == ["the service is stopping"]
        slow.sendall(b"Host: a\r\n\r\n")
        received = slow.recv(4096)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in received
    assert service.ended() == Exit.DONE
    # Both worker ids can be claimed at once: their windows have ended.
    again = start("--nodes", "2", GOLOVES_SPACES__DEFAULT__WORKERS="0-1", GOLOVES_STORE="sqlite:///few.db")
    again.all_ready(2)
    assert again.stop() == Exit.DONE
    again = start("--nodes", "2", GOLOVES_SPACES__DEFAULT__WORKERS="0-1", GOLOVES_STORE="sqlite:///few.db")
    again.all_ready(2)
    assert again.stop() == Exit.DONE


def test_a_second_signal_hastens_cuts_what_is_under_way_and_still_gives_windows_back(start: Start) -> None:
    few = {"GOLOVES_SPACES__DEFAULT__WORKERS": "5", "GOLOVES_SPACES__DEFAULT__WINDOW": "600"}
    service = start(GOLOVES_SERVER__DRAIN="600", GOLOVES_HTTP__REQUEST_TIMEOUT="600", **few)
    service.all_ready(1)
    host, port = service.urls[0].removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), 30) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        wait_for(lambda: service.nodes()[0]["connections"], "the slow request is seen")
        service.process.send_signal(signal.SIGTERM)
        service.says("stopping")
        wait_for(lambda: service.nodes()[0]["stage"] == "waiting", "the node drains")
        assert service.stop(signal.SIGTERM) == Exit.INTERRUPTED
        assert slow.recv(100) == b""
    again = start(**few)
    again.all_ready(1)  # which it could not be for ten minutes if the window had not been given back
    assert again.stop() == Exit.DONE


def test_a_node_that_does_not_stop_is_killed_and_the_stop_ends(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_SERVER__DRAIN="0", GOLOVES_SERVER__UNRESPONSIVE="600")
    frozen = min(service.all_ready(2))
    os.kill(frozen, signal.SIGSTOP)
    assert service.stop(signal.SIGTERM) == Exit.DONE
    assert "a node did not stop in time and is killed" in service.said
    assert gone(frozen)


def test_sigterm_to_a_single_node_drains_it_and_another_takes_its_place(start: Start) -> None:
    service = start("--nodes", "2")
    old = service.all_ready(2)
    os.kill(min(old), signal.SIGTERM)
    service.all_ready(2, without={min(old)})
    service.says("a node stopped by itself and is replaced")
    assert service.stop() == Exit.DONE


def test_every_line_of_a_node_names_it_in_the_one_stream(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_LOG__FORMAT="json")
    wait_for(lambda: service.said.count('"window claimed"') == 2, "both nodes have a window")
    assert service.stop() == Exit.DONE
    lines = [json.loads(line) for line in service.said.splitlines()]
    nodes = {line["node"] for line in lines if line["logger"] != "goloves.supervisor" and "node" in line}
    assert nodes == {0, 1}
    assert all("node" in line for line in lines if line["logger"] in ("goloves.node", "goloves.snowflake"))


def test_ctrl_c_in_a_terminal_stops_everything_once(tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    environment = {**os.environ, **FREE_PORTS}
    process = subprocess.Popen(
        [sys.executable, "-m", "goloves", "serve", "--nodes", "2", "--http", "127.0.0.1:0"],
        cwd=tmp_path,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # which makes it the controlling one
    )
    os.close(terminal)
    said = b""
    try:
        while said.count(b"window claimed") < 2:
            said += os.read(main, 65_536)
        nodes = nodes_of(process.pid)
        assert len(nodes) == 2
        os.write(main, b"\x03")
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while chunk := os.read(main, 65_536):
                said += chunk
        assert process.wait(60) == Exit.DONE
    finally:
        process.kill()
        process.wait(60)
        os.close(main)
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.decode())
    assert "stopping" in text
    assert "signal=SIGINT" in text
    assert "Traceback" not in text
    assert text.count("draining") == 2
    assert all(map(gone, nodes))


def test_the_end_of_its_terminal_ends_it(tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "goloves", "serve", "--http", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, **FREE_PORTS},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )
    os.close(terminal)
    try:
        said = b""
        while b"window claimed" not in said:
            said += os.read(main, 65_536)
        os.close(main)
        process.wait(60)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode in (Exit.DONE, Exit.FAILED), "it ended by itself, though it could say so to nobody"


def test_as_process_1_it_reaps_what_is_nobody_s_and_stops_at_sigterm(tmp_path: Path) -> None:
    isolated = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], check=False).returncode != 0:
        pytest.skip("this machine gives no process namespace (unshare)")
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*isolated, sys.executable, "-m", "goloves", "serve", "--nodes", "2", "--http", "127.0.0.1:0"],
            cwd=tmp_path,
            env={**os.environ, **FREE_PORTS},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(lambda: log.read_text().count("window claimed") == 2, "both nodes serve")
        [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        inside = int(first)
        assert len(nodes_of(inside)) == 2
        # A process whose parent has ended becomes process 1's, and has to be waited for by it.
        left = subprocess.run(
            ["nsenter", "-t", first, "-p", "sh", "-c", "sleep 0.3 & true"], capture_output=True, check=True
        )
        assert left.returncode == 0
        begun = time.monotonic()
        wait_for(lambda: time.monotonic() - begun > 1, "the process has ended")
        children = Path(f"/proc/{inside}/task/{inside}/children").read_text().split()
        assert len(children) == 2, "a zombie is left"
        os.kill(inside, signal.SIGTERM)
        assert process.wait(60) == Exit.DONE
    finally:
        process.kill()
        process.wait(60)
    assert "stopping" in log.read_text()
    assert "Traceback" not in log.read_text()


# --- reload ---


def test_sighup_takes_over_the_log_s_settings_and_names_what_needs_more(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "g.toml"
    config.write_text("[log]\nlevel = 'warning'\n")
    service = start("--config", "g.toml", "--nodes", "2")
    old = service.all_ready(2)
    config.write_text("[log]\nlevel = 'info'\n[segment]\ndefault_step = 5\n[stores]\nurl = 'sqlite:///other.db'\n")
    service.process.send_signal(signal.SIGHUP)
    service.says(r"reloaded .*applied=\['log.level'\] restart=\['stores.url'\] rolling=\['segment.default_step'\]")
    assert service.pids() == old
    config.write_text("[log]\nlevel = 'loud'\n")
    service.process.send_signal(signal.SIGHUP)
    service.says("reload failed: all goes on as before .*log.level")
    assert service.stop() == Exit.DONE
    assert "draining" in service.said, "the nodes log at the new level, too"


def test_reload_says_what_is_in_force_and_what_is_not(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "g.toml"
    config.write_text("")
    service = start("--config", "g.toml")
    service.all_ready(1)
    config.write_text("[segment]\ndefault_step = 5\n[http]\nmax_count = 7\n")
    done = service.reload("--config", "g.toml")
    assert done.returncode == Exit.DONE, done.stderr
    assert "not in force yet: segment.default_step, http.max_count; goloves reload --rolling" in done.stdout
    assert len(service.ids(8)) == 8
    done = service.reload("--rolling", "--config", "g.toml")
    assert done.returncode == Exit.DONE, done.stderr
    answer = httpx2.post(f"{service.urls[0]}/v1/segments/default/ids?count=8")
    assert answer.status_code == 400
    assert service.stop() == Exit.DONE


def test_a_rolling_restart_changes_how_many_nodes_there_are(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "g.toml"
    config.write_text("[server]\nnodes = 1\n")
    service = start("--config", "g.toml")
    service.all_ready(1)
    for count in (3, 2):
        config.write_text(f"[server]\nnodes = {count}\n")
        assert service.reload("--rolling").returncode == Exit.DONE
        service.all_ready(count)
    assert service.stop() == Exit.DONE


def test_a_rolling_restart_that_can_t_start_a_node_leaves_the_old_ones_alone(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "g.toml"
    config.write_text("")
    service = start("--config", "g.toml", "--nodes", "2")
    old = service.all_ready(2)
    config.write_text("[tls]\ncertificate = 'none.pem'\nkey = 'none.pem'\n")
    done = service.reload("--rolling")
    assert done.returncode == Exit.FAILED
    assert "the new node did not become ready: [tls]" in done.stderr
    assert "the old ones serve on" in done.stderr
    assert service.all_ready(2) == old
    config.write_text("[stores]\nurl = 'sqlite:///other.db'\n")
    done = service.reload("--rolling")
    assert done.returncode == Exit.CONFIG
    assert "stores.url changed, which takes a stop and a start; nothing was done" in done.stderr
    assert service.all_ready(2) == old
    assert service.stop() == Exit.DONE


def test_a_stop_in_the_middle_of_a_rolling_restart_cuts_nothing(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_SERVER__DRAIN="60", GOLOVES_HTTP__REQUEST_TIMEOUT="60")
    service.all_ready(2)
    host, port = service.urls[0].removeprefix("http://").rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(2)]
        for connection in slow:
            connection.sendall(b"GET /api/segment/get/default HTTP/1.1\r\n")
        wait_for(lambda: {node["connections"] for node in service.nodes()} == {1}, "each node has one request")
        reloading = stack.enter_context(ThreadPoolExecutor(1)).submit(service.reload, "--rolling")
        wait_for(lambda: "waiting" in [node["stage"] for node in service.nodes()], "an old node drains")
        service.process.send_signal(signal.SIGTERM)
        service.says("stopping .*signal=SIGTERM")
        wait_for(lambda: [node["stage"] for node in service.nodes()] == ["waiting"] * 2, "the old nodes drain")
        for connection in slow:
            connection.sendall(b"Host: a\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert reloading.result(60).returncode != Exit.DONE
    assert service.ended() == Exit.DONE
    assert "killed" not in service.said


def test_with_no_worker_id_to_spare_nodes_are_replaced_one_for_one(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_SPACES__DEFAULT__WORKERS="3-4")
    old = service.all_ready(2)
    done = service.reload("--rolling")
    assert done.returncode == Exit.DONE, done.stderr
    assert "each node stops before the next one starts" in done.stdout
    service.all_ready(2, without=old)
    assert service.stop() == Exit.DONE


def test_reload_without_a_service_says_so(start: Start, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "goloves", "reload"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.UNAVAILABLE
    assert "no service runs on the data directory ./data" in done.stderr


# --- takeover ---


def test_a_takeover_by_one_that_can_t_serve_changes_nothing(start: Start) -> None:
    first = start("--nodes", "2")
    old = first.all_ready(2)
    other = start("--takeover", "--store", "sqlite:///other.db")
    assert other.ended() == Exit.CONFIG
    assert "the running service refuses: it uses other stores" in other.said
    failing = start("--takeover", GOLOVES_TLS__CERTIFICATE="none.pem", GOLOVES_TLS__KEY="none.pem")
    assert failing.ended() == Exit.CONFIG
    assert "[tls]" in failing.said
    killed = start("--takeover", "--nodes", "2")
    first.says("another supervisor takes over")
    killed.process.kill()
    first.says("the supervisor that was to take over has ended; this one goes on")
    assert first.all_ready(2) == old
    assert len(first.ids(10)) == 10
    assert first.stop() == Exit.DONE


def test_a_takeover_without_a_service_says_so(start: Start) -> None:
    service = start("--takeover")
    assert service.ended() == Exit.CONFIG
    assert "no service runs on data that could be taken over; start without --takeover" in service.said


def test_unix_sockets_survive_takeovers_and_are_gone_at_the_end(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    words = ("--http", "127.0.0.1:0", "--http", f"unix:{path}")
    service = start(*words)
    service.all_ready(1)
    for _ in range(2):
        next_one = start(*words, "--takeover")
        next_one.says("took over")
        assert service.ended() == Exit.DONE
        service = next_one
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(path))
            client.sendall(REQUEST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert service.reload().returncode == Exit.DONE
    assert service.stop() == Exit.DONE
    assert not path.exists()
    assert not (tmp_path / "data" / "control").exists()
