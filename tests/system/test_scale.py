"""Sudden load on a small tag, and many tags: on real stores, through a real node.

Times here only bound what would be a fault; how fast it really is belongs to the benchmarks.
"""

import socket
import sqlite3
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from databases import Server
from system.serving import Serving, Start

CONNECTIONS = 64
SECONDS = 3.0
TAGS = 10_000
ROWS = 1_000_000


class Asker(threading.Thread):
    """One keep-alive connection that asks for one id after another."""

    def __init__(self, address: tuple[str, int], until: float) -> None:
        super().__init__()
        self.address = address
        self.until = until
        self.numbers: list[tuple[float, int]] = []
        self.errors: list[bytes] = []

    def run(self) -> None:
        request = b"GET /api/segment/get/small HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with socket.create_connection(self.address, 30) as connection:
            while time.monotonic() < self.until:
                connection.sendall(request)
                answer = connection.recv(4096)
                if answer.startswith(b"HTTP/1.1 200 "):
                    self.numbers.append((time.monotonic(), int(answer.rpartition(b"\r\n\r\n")[2])))
                else:
                    self.errors.append(answer)


def burst(node: Serving) -> tuple[list[int], list[bytes], list[float]]:
    """Ask over 64 connections at once: the numbers received, the errors, and when numbers were received."""
    url = urlsplit(node.urls[0])
    assert url.hostname is not None
    assert url.port is not None
    began = time.monotonic()
    askers = [Asker((url.hostname, url.port), began + SECONDS) for _ in range(CONNECTIONS)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    received = [pair for asker in askers for pair in asker.numbers]
    return (
        [number for _, number in received],
        [error for asker in askers for error in asker.errors],
        [at - began for at, _ in received],
    )


@pytest.mark.parametrize("kind", ["sqlite", "mariadb", "postgresql"])
def test_a_tag_of_step_10_bears_a_sudden_burst_of_64_connections_without_an_error(
    kind: str, start: Start, request: pytest.FixtureRequest
) -> None:
    words: tuple[str, ...] = ()
    if kind != "sqlite":
        server: Server = request.getfixturevalue(kind)
        words = ("--store", server.fresh(), "--init")
    node = start(*words, GOLOVES_SEGMENT__AUTO_CREATE="true", GOLOVES_SEGMENT__DEFAULT_STEP="10")
    node.ready()
    numbers, errors, times = burst(node)
    assert errors == []
    assert len(numbers) == len(set(numbers))
    assert len(numbers) > 1_000
    # The last third of the time serves from large ranges: it is not slower than the first second was.
    first = sum(at < SECONDS / 3 for at in times)
    last = sum(at >= 2 * SECONDS / 3 for at in times)
    assert last > first / 3


def fill(file: Path, rows: int) -> None:
    """Put many tags into a store, as an operator would by SQL."""
    with sqlite3.connect(file) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO leaf_alloc (biz_tag, max_id, step, description, update_time) "
            "SELECT 'tag-' || i, 1, 100, '', CURRENT_TIMESTAMP FROM n",
            (rows,),
        )
    connection.close()


@pytest.mark.parametrize("rows", [TAGS, ROWS])
def test_a_store_of_many_tags_starts_and_serves_as_any_other(rows: int, start: Start, tmp_path: Path) -> None:
    node = start()
    node.ready()
    assert node.stop() == 0
    fill(tmp_path / "data" / "goloves.db", rows)
    began = time.monotonic()
    node = start()
    node.ready()
    assert time.monotonic() - began < 20, "ready within two seconds, times ten"
    assert node.ids(3, "tag-1") == [1, 2, 3]
    assert node.ids(3, f"tag-{rows}") == [1, 2, 3]
    assert node.get(f"/api/segment/get/tag-{rows + 1}").status_code == 404
    assert node.stop() == 0
