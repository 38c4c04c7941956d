"""One supervisor takes the service over from another: the whole of it, or nothing."""

import os
import re
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faults.nodes import wait_for
from goloves.cli.failures import Exit
from goloves.config import Config
from goloves.config.settings import ServerConfig
from goloves.errors import ConfigError
from goloves.supervisor.takeover import Inheritance
from goloves.supervisor.upgrade import successor_command
from supervisor.load import REQUEST
from supervisor.service import Notified, Service, Start, gone


def test_a_takeover_by_one_that_can_t_serve_changes_nothing(start: Start) -> None:
    first = start("--nodes", "2")
    old = first.all_ready(2)
    other = start("--takeover", "--store", "sqlite:///other.db")
    assert other.ended() == Exit.CONFIG
    assert "the running service refuses: it uses other stores" in other.said
    failing = start("--takeover", GOLOVES_TLS__CERTIFICATE="none.pem", GOLOVES_TLS__KEY="none.pem")
    assert failing.ended() == Exit.CONFIG
    assert "[tls]" in failing.said
    assert first.all_ready(2) == old
    assert len(first.ids(10)) == 10
    assert first.stop() == Exit.DONE


def test_a_takeover_that_is_killed_in_its_middle_changes_nothing(start: Start) -> None:
    first = start("--nodes", "2")
    old = first.all_ready(2)
    killed = start("--takeover", "--nodes", "2")
    first.says("another supervisor takes over")
    killed.process.kill()
    first.says("the supervisor that was to take over has ended; this one goes on")
    assert first.all_ready(2) == old
    assert len(first.ids(10)) == 10
    assert first.stop() == Exit.DONE


def test_a_takeover_that_is_stopped_before_it_serves_ends_as_it_was_told_and_changes_nothing(start: Start) -> None:
    first = start()
    old = first.all_ready(1)
    second = start("--takeover", GOLOVES_SERVER__DRAIN="0")
    first.says("another supervisor takes over")
    assert second.stop(signal.SIGTERM) == Exit.DONE
    if "took over" not in second.said:  # on a quick machine it was done
        assert "did not become ready" not in second.said
        first.says("the supervisor that was to take over has ended; this one goes on")
        assert first.all_ready(1) == old
        assert first.stop() == Exit.DONE


def test_a_service_that_is_stopped_while_another_takes_over_leaves_it_everything(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    words = ("--http", "127.0.0.1:0", "--http", f"unix:{path}")
    first = start(*words)
    first.all_ready(1)
    second = start(*words, "--takeover")
    first.says("another supervisor takes over")
    assert first.stop(signal.SIGTERM) == Exit.DONE, "the takeover is no second signal"
    second.says("took over")
    second.all_ready(1)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(REQUEST)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert len(second.ids(10)) == 10
    assert second.stop() == Exit.DONE
    assert not path.exists()


@pytest.mark.parametrize(
    "answer",
    [b"what?\n", b'{"listeners": 7}\n', b'{"listeners":[{"kind":"http","text":"127.0.0.1:1","sockets":2}]}\n'],
    ids=["no JSON", "another form", "too few descriptors"],
)
def test_an_estate_that_is_not_understood_is_refused_by_name(tmp_path: Path, answer: bytes) -> None:
    config = Config(server=ServerConfig(data_dir=str(tmp_path)))
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as other:
        listener.bind(str(tmp_path / "control"))
        listener.listen()

        def hand_over() -> None:
            connection, _ = listener.accept()
            with connection, socket.socket() as handed:
                connection.recv(65_536)
                socket.send_fds(connection, [answer], [handed.fileno()])

        done = other.submit(hand_over)
        with pytest.raises(ConfigError, match="hands over what this version does not understand"):
            Inheritance.ask(config)
        done.result()


def test_a_takeover_without_a_service_says_so(start: Start) -> None:
    service = start("--takeover")
    assert service.ended() == Exit.CONFIG
    assert "no service runs on data that could be taken over; start without --takeover" in service.said


def test_a_takeover_for_which_there_are_no_worker_ids_is_refused_at_once(start: Start) -> None:
    few = {"GOLOVES_SPACES__DEFAULT__WORKERS": "3-4"}
    first = start("--nodes", "2", **few)
    first.all_ready(2)
    second = start("--takeover", "--nodes", "1", **few)
    assert second.ended() == Exit.CONFIG
    assert "the space default has no worker ids for the nodes of both" in second.said
    assert first.stop() == Exit.DONE


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


def test_the_file_of_a_unix_socket_is_gone_when_no_service_has_it(start: Start, tmp_path: Path) -> None:
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"
    http = ("--http", "127.0.0.1:0")
    first = start(*http, "--http", f"unix:{old}")
    first.all_ready(1)
    broken = {"GOLOVES_TLS__CERTIFICATE": "none.pem", "GOLOVES_TLS__KEY": "none.pem"}
    failing = start(*http, "--http", f"unix:{new}", "--takeover", **broken)
    assert failing.ended() == Exit.CONFIG
    assert old.exists()
    assert not new.exists(), "only the one that failed had it"
    second = start(*http, "--http", f"unix:{new}", "--takeover")
    second.says("took over")
    second.wait(lambda: not old.exists(), "what only the first one had is gone")
    assert first.ended() == Exit.DONE
    third = start(*http, "--http", f"unix:{new}", "--takeover")
    third.says("took over")
    assert second.ended() == Exit.DONE
    assert new.exists(), "it was handed on"
    assert third.stop() == Exit.DONE
    assert not new.exists()


# --- upgrade ---


def successor_of(service: Service, said: str) -> int:
    found = re.search(r"^the successor \(pid (\d+)\) has taken over$", said, re.MULTILINE)
    assert found, said
    assert service.process.wait(60) == Exit.DONE
    return int(found[1])


def test_an_upgrade_makes_the_successor_the_main_process_before_the_old_one_ends(
    start: Start, notified: Notified
) -> None:
    service = start("--nodes", "2", NOTIFY_SOCKET=str(notified.path), WATCHDOG_USEC="2000000")
    notified.wait(READY="1")
    old = service.all_ready(2)
    drawn = service.ids(1000)
    done = service.reload("--upgrade")
    assert done.returncode == Exit.DONE, done.stderr
    pid = successor_of(service, done.stdout)
    try:
        main = notified.wait(MAINPID=str(pid))
        notified.wait(MAINPID=str(pid), READY="1")
        said = notified.said.index(main)
        assert not any("STOPPING" in words for words in notified.said), "the service goes on"
        assert all(words.get("MAINPID", str(pid)) == str(pid) for words in notified.said[said:])
        service.all_ready(2, without=old)
        notified.said.clear()
        notified.wait(WATCHDOG="1")
        drawn += service.ids(1000)
        assert len(set(drawn)) == 2000
        again = service.reload()
        assert again.returncode == Exit.DONE, "and the successor takes orders"
    finally:
        os.kill(pid, signal.SIGTERM)
    notified.wait(STOPPING="1")
    wait_for(lambda: gone(pid), "the successor ends")
    assert service.ended() == Exit.DONE


def test_an_upgrade_that_can_t_serve_says_why_and_the_service_goes_on(
    start: Start, tmp_path: Path, notified: Notified
) -> None:
    config = tmp_path / "g.toml"
    config.write_text("")
    service = start("--config", "g.toml", NOTIFY_SOCKET=str(notified.path))
    old = service.all_ready(1)
    config.write_text("[segment]\ndeadlin = 3\n")
    done = service.reload("--upgrade", "--data-dir", "data")
    assert done.returncode == Exit.FAILED
    assert "the successor did not take over (exit code 3)" in done.stderr
    assert "there is no setting segment.deadlin" in service.said
    assert service.all_ready(1) == old
    pid = str(service.process.pid)
    assert {words["MAINPID"] for words in notified.said if "MAINPID" in words} <= {pid}
    assert service.stop() == Exit.DONE


def test_a_successor_is_started_as_its_predecessor_was() -> None:
    started = ["python3", "/opt/goloves/bin/goloves", "serve", "--config", "g.toml", "--init"]
    assert successor_command(started) == [sys.executable, *started[1:5], "--takeover"]
    assert successor_command([*started[:5], "--takeover"])[1:] == [*started[1:5], "--takeover"]
