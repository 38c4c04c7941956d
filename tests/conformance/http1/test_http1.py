"""The conformance list, run against a node and against nginx."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.http1.cases import CASES, PATH, Case
from goloves.config.addresses import Address
from server.live import PATIENCE, LiveNode
from server.raw import Client, ClosedError

LAST = f"GET {PATH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
"""Sent after each case: answered only where the connection stays."""

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
_LENGTH = re.compile(rb"(?i:\r\nContent-Length: (\d+)\r\n)")

# A proxy, since that one reads a body before it answers, as a node does.
NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 64k; large_client_header_buffers 4 8k; client_header_timeout 10s;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d;
  scgi_temp_path {dir}/e;
  server {{ listen unix:{dir}/behind; client_max_body_size 1m; location / {{ return 200 ok; }} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://unix:{dir}/behind:/; proxy_http_version 1.1; proxy_set_header Host a; }}
  }}
}}
"""


def statuses(case: Case, address: Address, *, resets: bool = False) -> tuple[tuple[int, ...], bool]:
    """Run a case: the statuses of its answers, and whether the connection stayed. `resets`: it may end in one."""
    with Client(address) as client:
        with contextlib.suppress(ConnectionError):  # closed already: what was answered can be read nevertheless
            for number, piece in enumerate(case.pieces):
                if number:
                    turn(address)
                client.send(piece)
            client.send(LAST)
        try:
            answers = client.read_to_end()
        except ClosedError as closed:
            if not resets:
                raise
            answers = closed.rest
    found: list[int] = []
    at = 0
    while head := _HEAD.match(answers, at):
        length = _LENGTH.search(b"\r\n" + head[2])
        headless = head[1] == b"100" or (not found and case.text.startswith("HEAD "))
        at = head.end() + (int(length[1]) if length and not headless else 0)
        found.append(int(head[1]))
    stays = len(found) > len(case.statuses) and found[-1] == 200
    return tuple(found[:-1] if stays else found), stays


def turn(address: Address) -> None:
    """Give a server that has one thread its turn: when it has answered others, it has seen what was sent before."""
    for _ in range(3):
        with Client(address) as other:
            other.send(LAST).read_to_end()


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with LiveNode(tags=["o"]) as node:
        yield node


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: the conformance list is held to our reading of the RFCs alone")
    where = tmp_path_factory.mktemp("nginx")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = Address(host="127.0.0.1", port=reserved.getsockname()[1])
    (where / "nginx.conf").write_text(NGINX.format(dir=where, port=address.port))
    process = subprocess.Popen(
        [program, "-p", str(where), "-c", str(where / "nginx.conf"), "-e", str(where / "error.log")],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not _listens(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nginx did not start: {(where / 'error.log').read_text()}")
            threading.Event().wait(0.01)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def _listens(address: Address) -> bool:
    try:
        Client(address).socket.close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_list_is_long_and_no_row_is_there_twice() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len({case.text for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_node_does_what_the_section_says(node: LiveNode, case: Case) -> None:
    assert statuses(case, node.address) == (case.statuses, case.stays)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nginx_does_the_same_or_the_row_says_why_not(nginx: Address, case: Case) -> None:
    assert statuses(case, nginx, resets=True) == (case.nginx or (case.statuses, case.stays))
    assert (case.nginx is None) == (not case.why)


def test_each_difference_from_nginx_is_in_the_list_of_exceptions() -> None:
    listed = (Path(__file__).parent.parent / "EXCEPTIONS.md").read_text()
    assert [case.name for case in CASES if case.nginx and case.name not in listed] == []
