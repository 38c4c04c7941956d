"""A service from its start to its end: signals, stages, service managers, containers, terminals."""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2
import pytest

from faults.nodes import wait_for
from goloves.cli.failures import Exit
from goloves.supervisor.post import LOOP
from supervisor.service import Notified, Start, gone, nodes_of
from system.serving import FREE_PORTS, PATIENCE

LENIENT = {"GOLOVES_SERVER__UNRESPONSIVE": "600"}
"""For tests that freeze a node and want it back."""

TERMINATES = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
"""
"""Loaded by Python before anything else: with it, a process is sent SIGTERM when it begins to load MODULE."""


def test_a_service_manager_hears_when_it_serves_reloads_lives_and_stops(start: Start, notified: Notified) -> None:
    service = start("--nodes", "2", NOTIFY_SOCKET=str(notified.path), WATCHDOG_USEC="2000000", **LENIENT)
    ready = notified.wait(READY="1")
    assert ready["MAINPID"] == str(service.process.pid)
    service.all_ready(2)
    assert {node["stage"] for node in service.nodes()} == {"serving"}, "ready means that all nodes serve"
    notified.wait(WATCHDOG="1")
    frozen = min(service.pids())
    os.kill(frozen, signal.SIGSTOP)
    notified.wait(STATUS="1 of 2 nodes ready")
    os.kill(frozen, signal.SIGCONT)
    service.all_ready(2)
    notified.said.clear()
    service.process.send_signal(signal.SIGHUP)
    assert int(notified.wait(RELOADING="1")["MONOTONIC_USEC"]) > 0
    notified.wait(READY="1")
    assert service.stop(signal.SIGTERM) == Exit.DONE
    notified.wait(STOPPING="1")


def test_the_last_thing_that_a_service_manager_hears_is_that_it_stops(start: Start, notified: Notified) -> None:
    service = start(NOTIFY_SOCKET=str(notified.path), GOLOVES_SERVER__DRAIN="600", GOLOVES_HTTP__REQUEST_TIMEOUT="600")
    service.all_ready(1)
    with service.slow_request():
        service.process.send_signal(signal.SIGTERM)
        notified.wait(STOPPING="1")
        service.process.send_signal(signal.SIGHUP)
        service.says("reloaded")
    assert service.ended() == Exit.DONE
    assert "STOPPING" in notified.said[-1]


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
    admin = service.admin
    with service.slow_request() as slow, httpx2.Client(timeout=PATIENCE) as monitor:
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
    again = start("--nodes", "2", "--data-dir", "few", GOLOVES_SPACES__DEFAULT__WORKERS="0-1")
    again.all_ready(2)
    assert again.stop() == Exit.DONE
    again = start("--nodes", "2", "--data-dir", "few", GOLOVES_SPACES__DEFAULT__WORKERS="0-1")
    again.all_ready(2)
    assert again.stop() == Exit.DONE


def test_a_second_signal_hastens_cuts_what_is_under_way_and_still_gives_windows_back(start: Start) -> None:
    few = {"GOLOVES_SPACES__DEFAULT__WORKERS": "5", "GOLOVES_SPACES__DEFAULT__WINDOW": "600"}
    service = start(GOLOVES_SERVER__DRAIN="600", GOLOVES_HTTP__REQUEST_TIMEOUT="600", **few)
    service.all_ready(1)
    with service.slow_request() as slow:
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


def test_sigterm_to_the_only_node_drains_it_and_another_takes_its_place_meanwhile(start: Start) -> None:
    service = start(GOLOVES_SERVER__DRAIN="600", GOLOVES_HTTP__REQUEST_TIMEOUT="600")
    [old] = service.all_ready(1)
    with service.slow_request() as slow:
        os.kill(old, signal.SIGTERM)
        wait_for(lambda: len(service.pids() - {old}) == 1, "another node serves")
        assert service.ids(10)
        assert not gone(old), "the slow request is waited for"
        slow.sendall(b"Host: a\r\n\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
    service.all_ready(1, without={old})
    service.says("a node stops by itself and is replaced")
    for _ in range(LOOP):
        [old] = service.all_ready(1)
        os.kill(old, signal.SIGTERM)
        service.all_ready(1, without={old})
    assert service.state()["counters"]["node_restarts"] == 1 + LOOP
    assert service.stop() == Exit.DONE
    assert "again and again" not in service.said, "it was asked for by somebody"


def test_every_line_of_a_node_names_it_in_the_one_stream(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_LOG__FORMAT="json")
    wait_for(lambda: service.said.count('"window claimed"') == 2, "both nodes have a window")
    assert service.stop() == Exit.DONE
    lines = [json.loads(line) for line in service.said.splitlines()]
    nodes = {line["node"] for line in lines if line["logger"] != "goloves.supervisor" and "node" in line}
    assert nodes == {0, 1}
    assert all("node" in line for line in lines if line["logger"] in ("goloves.node", "goloves.snowflake"))


class InTerminal:
    """A service that was started in a terminal, which is its controlling one."""

    def __init__(self, directory: Path, *words: str) -> None:
        self.main, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "goloves", "serve", "--http", "127.0.0.1:0", *words],
            cwd=directory,
            env={**os.environ, **FREE_PORTS},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # which makes it the controlling one
        )
        os.close(terminal)
        self._said = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(60)
        self.hang_up()

    def hang_up(self) -> None:
        """Let the terminal end."""
        if self.main >= 0:
            os.close(self.main)
            self.main = -1

    @property
    def said(self) -> str:
        """What was read so far, without colors."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self._said.decode())

    def says(self, words: str, times: int = 1) -> None:
        """Read until it has said this."""
        while self.said.count(words) < times:
            self._said += os.read(self.main, 65_536)

    def ended(self) -> int:
        """Read up to the end; the exit code."""
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while chunk := os.read(self.main, 65_536):
                self._said += chunk
        assert "Traceback" not in self.said
        return self.process.wait(60)


def test_ctrl_c_in_a_terminal_stops_everything_once(tmp_path: Path) -> None:
    with InTerminal(tmp_path, "--nodes", "2") as service:
        service.says("window claimed", 2)
        nodes = nodes_of(service.process.pid)
        assert len(nodes) == 2
        os.write(service.main, b"\x03")
        assert service.ended() == Exit.DONE
    assert "stopping" in service.said
    assert "signal=SIGINT" in service.said
    assert service.said.count("draining") == 2
    assert all(map(gone, nodes))


def test_the_end_of_its_terminal_ends_it(tmp_path: Path) -> None:
    with InTerminal(tmp_path) as service:
        service.says("window claimed")
        service.hang_up()
        service.process.wait(60)
    assert service.process.returncode in (Exit.DONE, Exit.FAILED), "it ended by itself, though it could tell nobody"


def test_in_a_terminal_that_lives_sighup_reloads_and_sigterm_stops(tmp_path: Path) -> None:
    with InTerminal(tmp_path) as service:
        service.says("window claimed")
        for times in (1, 2):
            service.process.send_signal(signal.SIGHUP)
            service.says("reloaded", times)
        assert "stopping" not in service.said
        service.process.send_signal(signal.SIGTERM)
        assert service.ended() == Exit.DONE
    assert "signal=SIGTERM" in service.said
    assert "signal=SIGHUP" not in service.said


@pytest.mark.parametrize(
    ("nodes", "module"),
    [("1", "goloves.cli.serve"), ("1", "goloves.supervisor.service"), ("0", "goloves.cli.serve"), ("0", "uvloop")],
)
def test_sigterm_is_heard_from_the_beginning(start: Start, tmp_path: Path, nodes: str, module: str) -> None:
    """As process 1 it would be lost otherwise, and elsewhere end it by the signal."""
    (tmp_path / "sitecustomize.py").write_text(f"MODULE = {module!r}\n{TERMINATES}")
    service = start("--nodes", nodes, PYTHONPATH=str(tmp_path))
    assert service.ended() == Exit.DONE
    assert service.said == ""
    assert not (tmp_path / "data").exists()


def test_as_process_1_it_reaps_what_is_nobody_s_and_stops_at_sigterm(tmp_path: Path) -> None:
    # As root without, else in a name space of users, which most machines give to everybody.
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    isolated = ["unshare", *as_root, "--pid", "--fork", "--mount-proc", "--kill-child"]
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
        own = ["--user", "--preserve-credentials"] if as_root else []
        nodes = nodes_of(inside)
        with subprocess.Popen(
            ["nsenter", "-t", first, *own, "-p", "sh", "-c", "sleep 1000 & true"], stdin=subprocess.DEVNULL
        ) as shell:
            assert shell.wait(60) == 0
            wait_for(lambda: children_of(inside) > nodes, "the orphan is process 1's")
            [orphan] = children_of(inside) - nodes
            os.kill(orphan, signal.SIGKILL)
            wait_for(lambda: children_of(inside) == nodes, "nothing is left of it, and no zombie")
        done = subprocess.run(
            [sys.executable, "-m", "goloves", "reload", "--upgrade"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == Exit.CONFIG
        assert "it is process 1, with which its container ends; start a new container instead" in done.stderr
        os.kill(inside, signal.SIGTERM)
        assert process.wait(60) == Exit.DONE
    finally:
        process.kill()
        process.wait(60)
    assert "stopping" in log.read_text()
    assert "Traceback" not in log.read_text()


def children_of(pid: int) -> set[int]:
    """The children of a process, zombies included."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


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
    config.write_text("[segment]\ndefault_step = 0\n")
    service.process.send_signal(signal.SIGHUP)
    service.says("reload failed: all goes on as before .*segment.default_step")
    service.process.send_signal(signal.SIGHUP)
    service.wait(lambda: service.said.count("reload failed") == 3, "each order is answered, also by the same words")
    done = service.reload("--config", "g.toml")
    assert done.returncode == Exit.CONFIG
    assert done.stderr.startswith("error: the configuration can't be used; a service that runs goes on as before\n")
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
    answer = httpx2.post(f"{service.urls[0]}/v1/segments/default/ids?count=8", timeout=PATIENCE)
    assert answer.status_code == 400
    assert service.stop() == Exit.DONE


def test_reload_after_a_rolling_restart_that_was_not_finished_says_that_some_nodes_have_the_settings_of_before(
    start: Start, tmp_path: Path
) -> None:
    config = tmp_path / "g.toml"
    config.write_text("")
    service = start("--config", "g.toml", "--nodes", "2")
    old = service.all_ready(2)
    config.write_text("[http]\nmax_count = 7\n")
    with ThreadPoolExecutor(1) as second:
        rolling = second.submit(service.reload, "--rolling")
        first_new = int(service.says(r"rolling .*1 of 2: node \d \(pid (\d+)\) serves")[1])
        wait_for(lambda: nodes_of(service.process.pid) - old - {first_new}, "the second new node starts")
        for pid in nodes_of(service.process.pid) - old - {first_new}:
            os.kill(pid, signal.SIGKILL)
        assert rolling.result(60).returncode == Exit.FAILED
    warned = "some nodes may still have the settings of before: goloves reload --rolling"
    assert warned in service.reload().stdout
    assert service.reload("--rolling").returncode == Exit.DONE
    assert warned not in service.reload().stdout
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
    with contextlib.ExitStack() as stack:
        slow: list[socket.socket] = []

        def each_has_one() -> bool:
            # On a busy machine the node whose turn it is may come too late for it.
            counts: list[int] = [node["connections"] for node in service.nodes()]
            if sum(counts) >= len(slow) and min(counts) == 0:
                slow.append(stack.enter_context(socket.create_connection(service.address, 60)))
                slow[-1].sendall(b"GET /api/segment/get/default HTTP/1.1\r\n")
            return min(counts) > 0

        wait_for(each_has_one, "each node has a request")
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


def test_reload_of_a_frozen_supervisor_says_so_and_orders_nothing(start: Start) -> None:
    service = start()
    service.all_ready(1)
    service.process.send_signal(signal.SIGSTOP)
    done = service.reload()
    assert done.returncode == Exit.UNAVAILABLE
    assert "the supervisor does not answer; nothing was ordered" in done.stderr
    service.process.send_signal(signal.SIGCONT)
    assert service.reload().returncode == Exit.DONE
    assert service.stop() == Exit.DONE
    assert service.said.count("reloaded") == 1


def test_a_rolling_restart_without_room_goes_back_to_the_old_settings_when_the_new_ones_can_t_start(
    start: Start, tmp_path: Path
) -> None:
    config = tmp_path / "g.toml"
    config.write_text("[spaces.default]\nworker = '7'\n")
    service = start("--config", "g.toml")
    old = service.all_ready(1)
    config.write_text("[spaces.default]\nworker = '7'\n[tls]\ncertificate = 'none.pem'\nkey = 'none.pem'\n")
    done = service.reload("--rolling")
    assert done.returncode == Exit.FAILED
    assert "the new node did not become ready: [tls]" in done.stderr
    assert "one with the old configuration takes its place" in done.stderr
    service.all_ready(1, without=old)
    assert len(service.ids(10)) == 10
    assert service.stop() == Exit.DONE
