"""Nodes and supervisors that die, hang or run out of memory: what is left serves on, and what is missing comes back."""

import os
import re
import resource
import signal
import socket
import time
from pathlib import Path

import httpx2
import pytest

from faults.nodes import wait_for
from goloves.cli.failures import Exit
from goloves.stores.marks import lock_directory
from supervisor.load import Load
from supervisor.service import Service, Start, gone, nodes_of
from system.serving import PATIENCE

ORPHANS_END = 15.0
"""Seconds within which nodes whose supervisor was killed have ended; see `supervisor/inside.py`."""

HANGS = """
import signal, time

def hang(*_):
    while True:
        time.sleep(1)

signal.signal(signal.SIGUSR1, hang)
"""
"""Loaded by Python before anything else: with it, SIGUSR1 keeps a node from all other work."""

SILENCE = "8"
"""Seconds of silence that are allowed: a machine that runs other tests keeps a node from its turn for some."""


def draw(service: Service, count: int = 1) -> list[int]:
    """Draw ids over a connection of its own."""
    return service.ids(count)


def test_a_killed_node_is_replaced_and_the_others_serve_on(start: Start) -> None:
    service = start("--nodes", "2")
    old = service.all_ready(2)
    victim = min(old)
    drawn = draw(service)
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):
        drawn += draw(service)
    new = service.all_ready(2, without={victim})
    assert len(new & old) == 1
    service.says(r"a node died and is replaced .*how='killed by SIGKILL'")
    drawn += draw(service, 50)
    assert len(set(drawn)) == len(drawn)
    assert service.state()["counters"]["node_restarts"] == 1
    assert service.stop() == Exit.DONE


@pytest.mark.timeout(300)
def test_a_death_under_200_connections_costs_at_most_the_requests_that_the_node_held(start: Start) -> None:
    service = start("--nodes", "2")
    old = service.all_ready(2)
    with Load(service.urls[0], service.grpc, http_clients=160, grpc_clients=40) as load:
        load.wait_all_served(1)
        wait_for(lambda: sum(node["connections"] for node in service.nodes()) >= 200, "all are told")
        victim = service.nodes()[0]
        os.kill(victim["pid"], signal.SIGKILL)
        service.all_ready(2, without={victim["pid"]})
        load.wait_all_served(2, despite_failures=True)
    assert not [what for what in load.failures if what.startswith("connect")], load.failures
    # It may have been given some more between being asked and being killed.
    assert load.failures.total() <= victim["connections"] + 5, load.failures
    assert len(set(load.numbers)) == len(load.numbers) >= 3 * 200
    assert len(service.pids() & old) == 1
    assert service.stop() == Exit.DONE


def test_all_nodes_killed_at_once_come_back_and_connections_wait_meanwhile(start: Start) -> None:
    service = start("--nodes", "2")
    old = service.all_ready(2)
    drawn = draw(service, 100)
    for victim in old:
        os.kill(victim, signal.SIGKILL)
    wait_for(lambda: all(map(gone, old)), "the nodes are gone")
    drawn += draw(service, 100)  # it waits in the kernel until a node accepts
    service.all_ready(2, without=old)
    assert len(set(drawn)) == len(drawn)
    assert service.stop() == Exit.DONE


def test_a_node_that_hangs_is_killed_and_replaced(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_SERVER__UNRESPONSIVE=SILENCE)
    old = service.all_ready(2)
    victim = min(old)
    os.kill(victim, signal.SIGSTOP)
    new = service.all_ready(2, without={victim})
    assert len(new & old) == 1
    assert gone(victim)
    service.says(r"a node died and is replaced .*reason='it said nothing for \d+ s'")
    assert draw(service, 10)
    assert service.stop() == Exit.DONE


def test_a_frozen_supervisor_costs_no_node_its_life_when_it_wakes(start: Start) -> None:
    service = start("--nodes", "2", GOLOVES_SERVER__UNRESPONSIVE=SILENCE)
    old = service.all_ready(2)
    service.process.send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    wait_for(lambda: time.monotonic() - frozen > float(SILENCE) + 2, "more than the silence that is allowed")
    assert draw(service, 10), "nodes serve without a supervisor that looks"
    service.process.send_signal(signal.SIGCONT)
    awake = time.monotonic()
    wait_for(lambda: time.monotonic() - awake > 2, "it has looked some times")
    assert service.pids() == old
    assert service.stop() == Exit.DONE


def test_a_node_that_is_out_of_memory_ends_and_is_replaced(start: Start) -> None:
    service = start("--nodes", "2")
    old = service.all_ready(2)
    victim = min(old)
    used = int(Path(f"/proc/{victim}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(victim, resource.RLIMIT_AS, (used // 2, used // 2))
    new = service.all_ready(2, without={victim})
    assert len(new & old) == 1
    service.says(r"a node died and is replaced .*how='out of memory'")
    assert re.search(r"^node \d is out of memory: it ends", service.said, re.MULTILINE)
    assert draw(service, 10)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == Exit.DONE


def test_a_crash_loop_slows_down_raises_an_alarm_and_leaves_the_others_unharmed(start: Start) -> None:
    service = start("--nodes", "2")
    safe = min(service.all_ready(2))
    supervisor = service.process.pid
    killed = 0

    def looping() -> bool:
        nonlocal killed
        for pid in nodes_of(supervisor) - {safe}:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        assert draw(service)
        return "nodes end again and again" in service.said

    wait_for(looping, "the alarm")
    assert killed >= 5
    waits = [float(wait) for wait in re.findall(r"a node died and is replaced .*next_in=([\d.]+)", service.said)]
    assert waits[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    answer = httpx2.get(f"{service.admin}/healthz", timeout=PATIENCE).json()
    assert answer["status"] == "degraded"
    assert any("again and again" in reason for reason in answer["reasons"])
    assert httpx2.get(f"{service.admin}/readyz", timeout=PATIENCE).status_code == 200
    assert safe in service.all_ready(2)
    assert service.stop() == Exit.DONE


def test_nodes_of_a_killed_supervisor_stop_issuing_and_end_and_the_next_start_is_clean(start: Start) -> None:
    service = start("--nodes", "2")
    nodes = service.all_ready(2)
    drawn = draw(service, 1000)
    address = service.urls[0].removeprefix("http://")
    with socket.create_connection(service.address, 30) as kept:
        kept.sendall(b"GET /api/segment/get/default HTTP/1.1\r\nHost: a\r\n\r\n")
        drawn.append(int(kept.recv(4096).rpartition(b"\r\n\r\n")[2]))
        service.process.kill()
        service.process.wait(30)
        assert wait_for(lambda: all(map(gone, nodes)), "the nodes end", patience=ORPHANS_END) < ORPHANS_END
        assert kept.recv(4096) == b"", "a node that has ended leaves no connection behind"
    wait_for(lambda: service.said.count("the supervisor is gone: this node stops") == 2, "both have said so")
    again = start("--nodes", "2", "--http", address)
    again.all_ready(2)
    drawn += draw(again, 1000)
    assert len(set(drawn)) == len(drawn)
    assert again.stop() == Exit.DONE


def test_a_frozen_node_of_a_killed_supervisor_ends_too(start: Start) -> None:
    """It is woken for that, whatever became its parent."""
    service = start("--nodes", "2")
    nodes = service.all_ready(2)
    os.kill(min(nodes), signal.SIGSTOP)
    service.process.kill()
    service.process.wait(30)
    wait_for(lambda: all(map(gone, nodes)), "the nodes end")


def test_a_node_that_hangs_when_its_supervisor_is_killed_ends_and_the_next_start_waits_for_it(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    service = start("--nodes", "2", PYTHONPATH=str(tmp_path), GOLOVES_SERVER__UNRESPONSIVE=SILENCE)
    hanging = min(service.all_ready(2))
    os.kill(hanging, signal.SIGUSR1)
    service.process.kill()
    service.process.wait(30)
    again = start("--http", service.urls[0].removeprefix("http://"))
    assert str(hanging) in again.says(r"still run: waiting for them to end .*pids=(.+)$")[1]
    assert not gone(hanging)
    again.all_ready(1)
    assert gone(hanging)
    assert again.stop() == Exit.DONE


def test_a_node_that_drains_for_long_when_its_supervisor_is_killed_gives_its_windows_back(start: Start) -> None:
    few = {"GOLOVES_SPACES__DEFAULT__WORKERS": "5", "GOLOVES_SPACES__DEFAULT__WINDOW": "600"}
    service = start(GOLOVES_SERVER__DRAIN="600", GOLOVES_HTTP__REQUEST_TIMEOUT="600", **few)
    [node] = service.all_ready(1)
    with service.slow_request():
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: service.nodes()[0]["stage"] == "waiting", "the node drains")
        service.process.kill()
        wait_for(lambda: gone(node), "the node ends")
    again = start(**few)
    again.all_ready(1)  # which it could not be for ten minutes if the window had not been given back
    assert again.stop() == Exit.DONE


def test_a_start_after_a_kill_waits_for_nodes_that_still_hold_the_address(start: Start, tmp_path: Path) -> None:
    lock = lock_directory(tmp_path / "data" / "node-0")  # as a node that hangs would
    with socket.create_server(("127.0.0.1", 0)) as held:
        service = start("--http", f"127.0.0.1:{held.getsockname()[1]}")
        service.says("nodes of a supervisor that was killed still run: waiting for them to end")
        assert service.process.poll() is None
        stopped = start("--http", f"127.0.0.1:{held.getsockname()[1]}")
        stopped.says("waiting for them to end")
        assert stopped.stop(signal.SIGTERM) == Exit.DONE, "nothing was started, so nothing is waited for"
    lock.close()
    service.all_ready(1)
    assert draw(service)
    assert service.stop() == Exit.DONE


def test_a_store_that_was_lost_is_not_made_anew_by_a_node_that_is_replaced(start: Start, tmp_path: Path) -> None:
    service = start()
    [node] = service.all_ready(1)
    draw(service, 1000)
    for file in (tmp_path / "data").glob("goloves.db*"):
        file.unlink()
    os.kill(node, signal.SIGKILL)
    service.says(r"a node can't start .*there is no store at")
    assert not (tmp_path / "data" / "goloves.db").exists()
    assert httpx2.get(f"{service.admin}/readyz", timeout=PATIENCE).status_code == 503
    assert service.stop() == Exit.DONE
    assert "the supervisor is gone" not in service.said, "a node that ends by itself blames nobody"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_p1_no_two_nodes_ever_have_one_state_directory(start: Start, tmp_path: Path, how: signal.Signals) -> None:
    service = start("--nodes", "3")
    for _ in range(3):
        old = service.all_ready(3)
        numbers = [node["node"] for node in service.nodes()]
        assert len(set(numbers)) == 3
        for number in numbers:
            assert (tmp_path / "data" / f"node-{number}" / "marks").exists()
        os.kill(min(old), how)
        service.all_ready(3, without={min(old)})
    assert service.stop() == Exit.DONE
