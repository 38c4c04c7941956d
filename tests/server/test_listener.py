"""Listeners, and what a person is told when one can't be had."""

import errno
import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from goloves.config.addresses import Address, parse_address
from goloves.errors import ConfigError
from goloves.server.listener import address_of, close_listener, listen, received_listener, shut
from server.live import PATIENCE, LiveNode
from server.raw import Client

NO_ROOM = "no room for new connections: they wait; raise the limit of open files (ulimit -n)"

LIMITED = """
import resource, sys
from server.live import LiveNode
with LiveNode() as node:
    used = len(__import__("os").listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, used + 10))
    print(node.port, node.grpc.rpartition(":")[2], flush=True)
    sys.stdin.readline()
    print(*node.call(lambda: [node.node.counters()[f"{plane}_accept_paused"] for plane in ("http", "grpc")]))
"""


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_ids_come_over_ipv4_and_ipv6(text: str) -> None:
    with LiveNode(address=parse_address(text)) as node, Client(node.address) as client:
        assert client.ask().body == b"1"


def test_a_host_name_is_listened_on_at_all_its_addresses_with_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, 0, 0, "", ("127.0.0.1", 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.2", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    sockets = listen(Address(host="both"))
    try:
        assert {address_of(made).host for made in sockets} == {"127.0.0.1", "127.0.0.2"}
        assert len({address_of(made).port for made in sockets}) == 1
    finally:
        for made in sockets:
            close_listener(made)


def test_a_port_that_the_system_chose_and_that_is_taken_at_another_address_is_chosen_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = [(socket.AF_INET, 0, 0, "", ("127.0.0.1", 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.2", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    bind = socket.socket.bind
    taken: list[int] = []

    class Socket(socket.socket):
        def bind(self, where: Any) -> None:
            if where[0] == "127.0.0.2" and len(taken) < 2:
                taken.append(where[1])
                raise OSError(errno.EADDRINUSE, "Address already in use")
            bind(self, where)

    monkeypatch.setattr(socket, "socket", Socket)
    sockets = listen(Address(host="both"))
    try:
        assert len(taken) == 2
        assert len({address_of(made).port for made in sockets}) == 1
    finally:
        for made in sockets:
            close_listener(made)


def test_ids_come_over_a_unix_socket_which_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with LiveNode(address=Address(path=str(path))) as node, Client(node.address) as client:
        assert client.ask().body == b"1"
        assert client.ask().body == b"2"
    assert not path.exists()


def test_the_file_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    assert path.exists()
    [made] = listen(Address(path=str(path)))
    close_listener(made)


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "http.sock"))
    [made] = listen(address)
    with pytest.raises(ConfigError, match="another process listens there already"):
        listen(address)
    with Client(address):
        pass
    close_listener(made)


def test_the_file_of_whoever_took_the_place_of_a_listener_that_was_shut_is_left_alone(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "http.sock"))
    [before] = listen(address)
    shut(before)
    [after] = listen(address)
    try:
        close_listener(before)
        with Client(address):
            pass
    finally:
        close_listener(after)
    assert not (tmp_path / "http.sock").exists()


def test_a_listener_that_was_handed_over_removes_its_file_and_a_copy_of_it_none(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "http.sock"))
    [made] = listen(address)
    received = received_listener(os.dup(made.fileno()))
    close_listener(made.dup())
    close_listener(made, keep_file=True)
    with Client(address):
        pass
    assert not received.get_inheritable()
    close_listener(received)
    close_listener(received)
    assert not (tmp_path / "http.sock").exists()


def test_p1_of_two_that_start_at_once_on_a_file_that_was_left_one_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)  # as the first one has it, which has just found the file stale
    waits = threading.Event()
    monkeypatch.setattr(time, "sleep", lambda _: waits.set())
    with ThreadPoolExecutor(1) as second, socket.socket(socket.AF_UNIX) as first:
        attempt = second.submit(listen, Address(path=str(path)))
        assert waits.wait(PATIENCE)
        path.unlink()
        first.bind(str(path))
        first.listen()
        os.close(directory)
        with pytest.raises(ConfigError, match="another process listens there already"):
            attempt.result(PATIENCE)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="a file that is no socket is there"):
        listen(Address(path=str(path)))
    assert path.read_text() == "data"


def test_a_port_in_use_is_told_with_the_setting_to_change() -> None:
    [made] = listen(Address(host="127.0.0.1"))
    with pytest.raises(ConfigError) as caught:
        listen(address_of(made), setting="--http")
    close_listener(made)
    assert "another process listens there already; stop it, or choose another address (--http)" in caught.value.message


def test_a_port_that_allows_sharing_is_in_use_all_the_same() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="another process listens there already"):
            listen(Address(host="127.0.0.1", port=other.getsockname()[1]))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (Address(host="192.0.2.1", port=1), "this machine has no such address"),
        (Address(host="no-such-host.invalid", port=1), "is no host"),
        (Address(path="/no/such/directory/x"), "its directory does not exist"),
    ],
)
def test_an_address_that_can_not_be_had_is_told_by_name(address: Address, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        listen(address)
    assert str(address) in caught.value.message


class LimitedNode:
    """A node with room for ten more files, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LIMITED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self.http, self.grpc = map(int, self.says(r"\d+ \d+$").split())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()

    def says(self, pattern: str) -> str:
        """Read until a line that fits."""
        while not re.match(pattern, line := self._lines.readline()):
            assert line, "the node has ended"
        return line

    def end(self) -> list[str]:
        """End it; give what it said to the end: the last line is how often no file was left, over HTTP and gRPC."""
        said, _ = self._process.communicate("\n", PATIENCE)
        assert self._process.returncode == 0
        return said.splitlines()


def test_without_file_descriptors_old_connections_go_on_and_new_ones_come_when_there_is_room() -> None:
    with LimitedNode() as node:
        address = Address(host="127.0.0.1", port=node.http)
        clients = [Client(address) for _ in range(20)]  # the kernel takes them all in, the node only some
        answered = [client for client in clients if _answers(client)]
        waiting = [client for client in clients if client not in answered]
        assert answered
        assert waiting
        for client in answered * 5:
            assert client.ask().status == 200
        for client in answered:
            client.socket.close()
        for client in waiting[: len(answered)]:
            client.socket.settimeout(PATIENCE)
            assert client.read().status == 200  # the request that it sent while it waited
        for client in waiting:
            client.socket.close()
        said = node.end()
    assert sum(NO_ROOM in line for line in said) == 1
    over_http, over_grpc = map(int, said[-1].split())
    assert over_http > 0
    assert over_grpc == 0


def test_what_is_not_accepted_for_want_of_file_descriptors_is_counted_for_its_own_protocol() -> None:
    with LimitedNode() as node:
        clients = [socket.create_connection(("127.0.0.1", node.grpc)) for _ in range(20)]
        node.says(f".*{re.escape(NO_ROOM)}")
        for client in clients:
            client.close()
        over_http, over_grpc = map(int, node.end()[-1].split())
    assert over_http == 0
    assert over_grpc > 0


def _answers(client: Client) -> bool:
    client.socket.settimeout(0.2)
    try:
        return client.ask().status == 200
    except TimeoutError:
        return False
