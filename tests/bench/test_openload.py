"""The load generator tells what happened: to requests, to latency, to CPU time, and to the machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.scripted import Calls, Web, stall_once, text
from faults.nodes import wait_for
from server.live import LiveNode

PATIENCE = 60.0


def command(openload: Path, port: int, *words: str, protocol: str = "http") -> list[str]:
    quick = ["--warmup", "0.1", "--duration", "1", "--drain", "1"]
    return [str(openload), protocol, "--port", str(port), "--json", *quick, *words]


def load(openload: Path, port: int, *words: str, protocol: str = "http") -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        command(openload, port, *words, protocol=protocol),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_an_open_loop_sends_what_it_was_told_to_send_and_every_answer_counts(openload: Path) -> None:
    with Web().server() as server:
        status, figures = load(openload, server.port, "--rate", "500", "--check-ids", "--drain", "20")
    assert status == 0
    assert figures["sent"] == figures["good"] == 500
    assert figures["ids"] == 550  # while warming up, too
    assert figures["duplicates"] == figures["failed"] == figures["unfinished"] == 0


def test_a_server_that_stalls_hides_nothing_for_latency_runs_from_the_intended_time(openload: Path) -> None:
    with Web(stall_once(300, 0.4)).server() as server:
        _, figures = load(openload, server.port, "--rate", "1000", "--connections", "1", "--drain", "20")
    # 400 of 1,000 requests were meant to be sent while it stood still. Who only measures from the write sees one.
    assert figures["latency_us"]["p90"] > 200_000
    assert figures["latency_us"]["max"] >= 400_000
    assert figures["queued"] >= 300


def test_a_request_that_is_never_answered_counts_with_its_age(openload: Path) -> None:
    web = Web(lambda number, head: text(b"%d" % number) if number < 400 else None)
    with web.server() as server:
        status, figures = load(openload, server.port, "--rate", "500", "--connections", "4")
    assert status == 1
    assert figures["unfinished"] >= 100
    assert figures["good"] + figures["unfinished"] == 500
    assert figures["latency_us"]["p99"] > 1e6  # the drain of a second, at least


def test_failures_are_counted_and_not_timed(openload: Path) -> None:
    web = Web(lambda number, head: text(b"%d" % number) if number % 2 else text(b"no", b"503 Service Unavailable"))
    with web.server() as server:
        status, figures = load(openload, server.port, "--rate", "400", "--drain", "20")
    assert status == 1
    assert figures["good"] + figures["failed"] == 400
    assert 150 <= figures["failed"] <= 250


def test_a_connection_that_the_server_closes_costs_its_request_and_is_made_anew(openload: Path) -> None:
    web = Web(lambda number, head: b"nonsense\r\n\r\n" if number == 200 else text(b"%d" % number))
    with web.server() as server:
        status, figures = load(openload, server.port, "--rate", "400", "--connections", "2", "--drain", "20")
    assert status == 1
    assert figures["reconnects"] == 1
    assert figures["failed"] == 1
    assert figures["good"] == 399


def test_an_id_that_comes_twice_is_seen(openload: Path) -> None:
    with Web(lambda number, head: text(b"%d" % (number - number // 400))).server() as server:
        status, figures = load(openload, server.port, "--rate", "500", "--check-ids", "--drain", "20")
    assert status == 1
    assert figures["duplicates"] == 1


def test_one_number_of_two_tags_is_no_duplicate_and_of_one_tag_it_is(openload: Path) -> None:
    seen: Counter[bytes] = Counter()

    def answer(number: int, head: bytes) -> bytes:
        tag = head.split(b" ")[1]
        seen[tag] += 1
        return text(b"%d" % (seen[tag] if tag != b"/t3" else max(1, seen[tag] - 1)))

    words = ("--rate", "500", "--path", "/t{tag}", "--tags", "5", "--drain", "20")
    with Web(answer).server() as server:
        status, figures = load(openload, server.port, *words, "--check-ids=tag")
    assert status == 1
    assert figures["duplicates"] == 1
    assert min(seen.values()) > 10


def test_a_body_without_an_id_is_seen(openload: Path) -> None:
    with Web(lambda number, head: text(b"none")).server() as server:
        status, figures = load(openload, server.port, "--rate", "200", "--check-ids", "--drain", "20")
    assert status == 1
    assert figures["bad_ids"] > 0


def test_requests_differ_where_they_are_told_to_and_nowhere_else(openload: Path) -> None:
    web = Web()
    words = ("--method", "POST", "--path", "/v1/{tag}/ids?count=1", "--header", "X-Id: {random}", "--tags", "50")
    with web.server() as server:
        load(openload, server.port, "--rate", "1000", *words)
    form = re.compile(
        rb"POST /v1/(\d+)/ids\?count=1 HTTP/1\.1\r\nHost: \S+\r\nX-Id: ([0-9a-f]{16})\r\nContent-Length: 0"
    )
    matches = [form.fullmatch(head) for head in web.heads]
    assert all(matches)
    tags = Counter(match[1] for match in matches if match)
    assert set(tags) == {b"%d" % tag for tag in range(50)}
    assert max(tags.values()) < 100  # 22 each, if they are spread evenly
    assert len({match[2] for match in matches if match}) == len(matches) >= 1000


def test_a_get_has_no_body_and_repeats_its_bytes(openload: Path) -> None:
    web = Web()
    with web.server() as server:
        load(openload, server.port, "--rate", "200", "--path", "/a")
    assert set(web.heads) == {b"GET /a HTTP/1.1\r\nHost: 127.0.0.1:%d" % server.port}


@pytest.mark.parametrize("piece", [1, 7, 0])
def test_answers_are_read_however_they_come(openload: Path, piece: int) -> None:
    def answer(number: int, head: bytes) -> bytes:
        if number % 2:
            return text(b'{"ids":["%d"]}' % number)
        body = b"%d" % number
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    with Web(answer, piece=piece).server() as server:
        status, figures = load(openload, server.port, "--rate", "300", "--check-ids", "--drain", "20")
    assert status == 0
    assert figures["ids"] == 330
    assert figures["duplicates"] == 0


def test_a_closed_loop_keeps_each_connection_busy_and_no_busier(openload: Path) -> None:
    web = Web()
    with web.server() as server:
        status, figures = load(openload, server.port, "--closed", "--connections", "3", "--check-ids")
    assert status == 0
    assert figures["good"] > 100
    # Little's law: what is under way is the rate times the latency.
    assert 2 < figures["rate"] * figures["latency_us"]["mean"] / 1e6 < 3.5


BURN = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
client, _ = listener.accept()
number = 0
while client.recv(4096):
    until = time.process_time() + 0.002
    while time.process_time() < until:
        pass
    number += 1
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%d" % (len(str(number)), number))
"""


def test_the_cpu_time_of_a_server_is_what_it_spends(openload: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        words = ("--rate", "50", "--connections", "1", "--pid", str(process.pid), "--drain", "20", "--duration", "2")
        _, figures = load(openload, port, *words)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert 1_800 < figures["server_us_per_request"] < 3_500


def test_a_generator_that_stalls_says_so_and_the_witness_calls_it_the_machine_s(openload: Path) -> None:
    asked: list[int] = []

    def answer(number: int, _head: bytes) -> bytes:
        asked.append(number)
        return text(b"%d" % number)

    with Web(answer).server() as server:
        words = command(openload, server.port, "--rate", "500", "--witness", "0", "--duration", "2", "--drain", "20")
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with process:
            # All of its threads stand still, the witness too: to them it looks as if the machine did.
            wait_for(lambda: len(asked) > 350, "350 requests were asked")
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.3)
            process.send_signal(signal.SIGCONT)
            out, err = process.communicate(timeout=PATIENCE)
    figures = json.loads(out)
    assert figures["late_us"]["max"] >= 250_000
    assert figures["latency_us"]["max"] >= 250_000
    if "no_witness" in figures:
        assert "real-time" in figures["no_witness"]
        assert "no witness" in err
        return
    assert figures["stalls"]["longest_ms"] >= 250
    # 150 requests were due in it, and as many in the time that is left for the backlog.
    assert 0.1 < figures["stalls"]["left_out"] < 0.9
    assert figures["latency_without_stalls_us"]["max"] < figures["latency_us"]["max"]


def test_the_witness_does_not_excuse_a_server_that_stalls(openload: Path) -> None:
    told = []
    # Where the machine stalls within the server's own stall, that is excused with reason: another time it does not.
    for _ in range(5):
        with Web(stall_once(300, 0.4)).server() as server:
            words = ("--rate", "1000", "--connections", "1", "--witness", "0,1" if (os.cpu_count() or 1) > 1 else "0")
            _, figures = load(openload, server.port, *words, "--drain", "20")
        if "no_witness" in figures:
            return
        told.append(figures["latency_without_stalls_us"]["p90"])
        if told[-1] > 100_000:
            return
    raise AssertionError(f"the stall of 0.4 s was left out each time: {told} µs")


def test_where_real_time_is_not_permitted_no_figure_without_stalls_is_told(openload: Path) -> None:
    prefix: list[str] = []
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        assert setpriv is not None
        prefix = [setpriv, "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]
    with Web().server() as server:
        words = command(openload, server.port, "--rate", "100", "--witness", "0")
        limited = ["prlimit", "--rtprio=0", *prefix, *words]
        done = subprocess.run(limited, capture_output=True, text=True, timeout=PATIENCE, check=False)
    figures = json.loads(done.stdout)
    assert figures["no_witness"] == "real-time scheduling is not permitted here"
    assert "latency_without_stalls_us" not in figures
    assert figures["latency_us"]["p50"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "0"], "usage:"),
        (["--witness", "x"], "--witness takes numbers"),
        (["--host", "10.0.0.1"], "loopback"),
        (["--unknown"], "usage:"),
        ([], "can't connect"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(openload: Path, words: list[str], said: str) -> None:
    with Web().server() as server:
        free = server.port
    done = subprocess.run(
        command(openload, free, *words), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr


# --- gRPC ---

NEXT = ("--path", "/goloves.v1.SegmentService/Next", "--body-hex", "0a056f72646572", "--connections", "2")


@pytest.mark.parametrize("table_size", [4096, 100, 0, 65536])
def test_calls_are_what_a_strict_server_reads_whatever_table_it_allows(openload: Path, table_size: int) -> None:
    calls = Calls(table_size=table_size)
    with calls.server() as server:
        words = (*NEXT, "--rate", "300", "--deadlines=6-8", "--check-ids", "--drain", "20")
        status, figures = load(openload, server.port, *words, protocol="grpc")
    assert status == 0
    assert figures["good"] == 300
    assert figures["ids"] == len(calls.headers) == 330
    assert figures["duplicates"] == 0
    deadlines = {headers.pop("grpc-timeout") for headers in calls.headers}
    assert len(deadlines) > 300
    assert {len(deadline) for deadline in deadlines} == {7, 8, 9}  # the unit is a letter more
    assert calls.headers[0][":path"] == "/goloves.v1.SegmentService/Next"
    assert all(headers == calls.headers[0] for headers in calls.headers)
    assert set(calls.messages) == {b"\0\0\0\0\x07\x0a\x05order"}


def test_without_deadlines_no_call_has_one(openload: Path) -> None:
    calls = Calls()
    with calls.server() as server:
        status, _ = load(openload, server.port, *NEXT, "--rate", "200", "--drain", "20", protocol="grpc")
    assert status == 0
    assert not any("grpc-timeout" in headers for headers in calls.headers)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_floor_for_grpc_answers_every_call_with_an_id_of_its_own(openload: Path, floor_grpc: Path) -> None:
    with Web().server() as taken:
        port = taken.port
    process = subprocess.Popen([floor_grpc, str(port)])
    try:
        wait_for(lambda: listens(port) or process.poll() is not None, "the floor listens")
        words = (*NEXT, "--closed", "--in-flight", "20", "--deadlines", "--check-ids", "--pid", str(process.pid))
        status, figures = load(openload, port, *words, protocol="grpc")
    finally:
        process.kill()
        process.wait()
    assert status == 0
    assert figures["ids"] > 1000
    assert figures["duplicates"] == 0


@pytest.mark.parametrize(
    ("method", "words"), [("Stream", ["--stream", "--in-flight", "3"]), ("Next", ["--table", "--deadlines"])]
)
def test_streams_and_a_table_of_the_clients_own_are_understood_by_a_node(
    openload: Path, method: str, words: list[str]
) -> None:
    with LiveNode(step=1_000_000) as node:
        port = int(node.grpc.rpartition(":")[2])
        ask = ["--path", f"/goloves.v1.SegmentService/{method}", "--body-hex", b"\x0a\x05order".hex()]
        many = ["--closed", "--connections", "2", "--check-ids"]
        status, figures = load(openload, port, *ask, *many, *words, protocol="grpc")
        calls = node.call(lambda: node.node.grpc.calls)
    assert status == 0
    assert figures["good"] > 100
    assert figures["duplicates"] == figures["failed"] == figures["bad_ids"] == 0
    assert (calls <= 6) if method == "Stream" else (calls >= figures["good"])  # two connections with three streams each
