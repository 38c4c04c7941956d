"""What a node takes: memory over its imports, time to start, and what idle tags and idle connections cost."""

import re
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator

from benchmarks.clients import use_tags
from benchmarks.contenders import Servers
from benchmarks.load import Load, run
from benchmarks.routes import ROUTES
from benchmarks.scenarios import COST_RATE, Plan, Row, Say
from benchmarks.servers import NotServing, Running, python, rss_kb, settle

IDLE = 10_000
"""Idle tags, and idle connections."""

ROWS = 1_000_000
"""Tags of the store whose number must not slow the start."""

IMPORT = "import sys\nfor name in sys.argv[1:]:\n  __import__(name)\nprint('ready', flush=True)\nsys.stdin.read()"


def measure(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """Measure all of it once, each part on a node of its own: memory hardly differs from run to run."""
    figures = {"ready_s": startup(servers, plan.runs)}
    with servers.node("Goloves imports", "-X", "importtime") as node:
        imports = imported(node)
    figures["imports_kb"] = import_memory(imports)
    with servers.node("Goloves memory") as node:
        figures["ready_kb"] = node.rss_kb
        load = Load(plan.seconds, plan.warmup, rate=COST_RATE)
        for request in ROUTES.values():
            run(servers.openload, node, request, load, core=servers.cores.load)
        figures["working_kb"] = node.rss_kb
    figures |= idle_tags(servers, IDLE if plan.runs > 1 else IDLE // 10)
    figures |= idle_connections(servers)
    figures["first_words_s"] = first_words(servers, plan.runs)
    figures |= startup_with_rows(servers, ROWS if plan.runs > 1 else ROWS // 10, plan.runs)
    say(f"node: {', '.join(f'{name} {value:.6g}' for name, value in figures.items())}")
    yield Row("node", "Goloves", 1, figures)


def startup(servers: Servers, times: int) -> float:
    """Give the median seconds from the start of the process until it is ready."""
    spent = []
    assert servers.store.url  # it runs before the first clock does
    for _ in range(times):
        begin = time.perf_counter()
        with servers.node("Goloves start"):
            spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def first_words(servers: Servers, times: int) -> float:
    """Give the median seconds from the start of the process until it says where it listens: as `make run` starts it,
    with all defaults, a supervisor and a store that it makes."""
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        with servers.service():
            spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def startup_with_rows(servers: Servers, rows: int, times: int) -> dict[str, float]:
    """Give the seconds until ready over a store of `IDLE` tags more, and of `rows`; they stay in the store."""
    servers.store.add_numbered(1, IDLE, 1000)
    few = startup(servers, times)
    servers.store.add_numbered(IDLE + 1, rows, 1000)
    many = startup(servers, times)
    return {"ready_few_s": few, "ready_few_rows": IDLE, "ready_many_s": many, "ready_many_rows": rows}


def imported(node: Running) -> list[str]:
    """Give the modules that a node imported, in their order, from what `-X importtime` says."""
    names = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", node.log.read_text(encoding="utf-8"), re.MULTILINE)
    if "goloves.server.node" not in names:
        raise NotServing("the node did not say what it imports")
    return list(dict.fromkeys(name for name in names if name != "__main__"))


def import_memory(names: list[str]) -> int:
    """Give the resident kB of an interpreter that has imported these modules and does nothing."""
    # Some names are said of attempts that failed, or of modules that come with others: what can't be had is left out.
    code = IMPORT.replace("  __import__(name)", "  try: __import__(name)\n  except ImportError: pass")
    process = subprocess.Popen(
        python("-c", code, *names),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=settle(None),
    )
    with process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise NotServing("a process that only imports what the node imports did not come up")
        return rss_kb(process.pid)


def idle_tags(servers: Servers, count: int) -> dict[str, float]:
    """Give the memory of tags that were used once."""
    # Some come first, so that what grows once (buffers, caches, the database driver) is there already.
    first = [f"first{number}" for number in range(count // 5)]
    names = [f"idle{number}" for number in range(count)]
    servers.store.add_tags([*first, *names], 1000)
    with servers.node("Goloves tags") as node:
        use_tags(node, first)
        before = node.rss_kb
        use_tags(node, names)
        after = node.rss_kb
    return {"idle_tags": count, "kb_per_idle_tag": (after - before) / count}


def idle_connections(servers: Servers) -> dict[str, float]:
    """Give the memory of connections that were used once, and how the node serves others meanwhile."""
    load = Load(2.0, 0.5, rate=COST_RATE / 4)
    with servers.node("Goloves connections") as node:
        alone = run(servers.openload, node, ROUTES["segment get"], load, core=servers.cores.load)
        before = node.rss_kb
        clients: list[socket.socket] = []
        try:
            for number in range(IDLE):
                # Two addresses: one alone may have no more than half of all connections.
                client = socket.create_connection(
                    ("127.0.0.1", node.port), source_address=(f"127.0.0.{2 + number % 2}", 0)
                )
                clients.append(client)
                client.sendall(b"GET /api/segment/get/order HTTP/1.1\r\nHost: bench\r\n\r\n")
                if not client.recv(4096).startswith(b"HTTP/1.1 200 "):
                    raise NotServing(f"connection {number} got no id")
            after = node.rss_kb
            figures = run(servers.openload, node, ROUTES["segment get"], load, core=servers.cores.load)
        finally:
            for client in clients:
                client.close()
    if figures["faults"]:
        raise NotServing(f"beside {IDLE} idle connections: {figures['faults']}")
    return {
        "idle_connections": IDLE,
        "with_idle_connections_kb": after,
        "kb_per_idle_connection": (after - before) / IDLE,
        "p99_without_idle_connections_us": alone["latency_us"]["p99"],
        "p99_beside_idle_connections_us": figures["latency_us"]["p99"],
    }
