"""What several nodes under a supervisor cost beside one: CPU of all processes, how even they share, memory.

Nothing is pinned to a core here, for nodes that share one would only wait for one another; and the rate is one that the
load generator and two nodes keep up with on two cores. Two nodes are held against one that has as much to do as each of
them: who has less to do answers fewer requests each time that it wakes, and each costs more, others or not.
"""

import contextlib
import json
from collections.abc import Iterator

from benchmarks.contenders import Servers
from benchmarks.load import Load, run
from benchmarks.routes import ROUTES
from benchmarks.scenarios import Plan, Row, Say
from benchmarks.servers import Running, get, rss_kb

RATE = 15_000
"""Requests a second for each node: half of what two cores can do with the load generator on them."""

CONNECTIONS = 200

SHAPES = ((1, RATE), (2, 2 * RATE), (2, RATE))
"""Nodes, and requests a second of all."""

SCENARIO = "two nodes"


def measure(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """Measure services of one and of two nodes by turns; both run all the time."""
    with contextlib.ExitStack() as stack:
        services = {count: stack.enter_context(servers.supervised(count)) for count in (1, 2)}
        for number in range(1, plan.runs + 1):
            for count, rate in SHAPES:
                service, admin = services[count]
                load = Load(plan.seconds, plan.warmup, rate=rate, connections=CONNECTIONS)
                before = _requests(admin)
                figures = run(servers.openload, service, ROUTES["segment get"], load, core=None)
                after = _requests(admin)
                figures["requests_by_node"] = sorted(after[pid] - before.get(pid, 0) for pid in after)
                figures |= _memory(service, list(after))
                shares = " and ".join(f"{requests:,}" for requests in figures["requests_by_node"])
                cost = figures["server_us_per_request"]
                name = f"{count} {'node' if count == 1 else 'nodes'}, {rate:,}/s"
                say(f"{SCENARIO} {number}/{plan.runs} {name}: {cost:.1f} µs CPU of all processes, {shares} requests")
                yield Row(SCENARIO, name, number, figures)


def _requests(admin: int) -> dict[int, int]:
    """Give the requests that each node has answered, by its process."""
    nodes = json.loads(get(admin, "/nodes")[1])["nodes"]
    return {node["pid"]: node["counters"]["http_requests"] for node in nodes}


def _memory(service: Running, nodes: list[int]) -> dict[str, float]:
    return {"supervisor_kb": rss_kb(service.process.pid), "node_kb": max(map(rss_kb, nodes))}
