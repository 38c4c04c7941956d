"""What is measured under load over HTTP: cost, throughput, latency, batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from benchmarks.clients import use_tags
from benchmarks.contenders import (
    GOLOVES,
    GRPC_GOLOVES,
    GRPC_PEERS,
    PEERS,
    Contender,
    Servers,
    grpc_contenders,
    http_contenders,
)
from benchmarks.load import Call, Figures, Load, Request, run
from benchmarks.routes import DIFFERENT_ROUTES, ROUTES, TAGS
from benchmarks.store import STEP

COST_RATE = 40_000
"""Requests a second at which the cost of one is told: all but the slowest peers keep up with it on one core."""

LATENCY_RATE = 50_000
"""Requests a second of the open loop that latency is told for: about half of what a node can do."""

PEER_RUNS = 3
"""Turns of those HTTP servers that no bar speaks of: who stands where among them shows in three as well."""

GRPC_CONNECTIONS = 4
GRPC_SHAPES = ((8, 1), (8, 4), (8, 32), (4, 100))
"""Connections, and calls in flight on each, of the closed loops over gRPC."""
GRPC_IN_TABLE = "grpc cost, deadlines in a table"

BURST_CONNECTIONS = 64
BURST_GROWTH = 1.0
"""Seconds after which a tag of a small step has to keep up with one of a large step."""
BURST = {"step 10": 10, "step 1,000,000": 1_000_000}

BATCH = 10_000
RANGE = 1_000_000

BATCHES: dict[str, tuple[Request | Call, int]] = {
    "segments, count=10000, JSON": (Request(f"/v1/segments/batch/ids?count={BATCH}", "POST"), BATCH),
    "segments, count=10000, text": (
        Request(f"/v1/segments/batch/ids?count={BATCH}", "POST", ("Accept: text/plain",)),
        BATCH,
    ),
    "segments, ranges of 1000": (Request("/v1/segments/batch/ranges?size=1000", "POST"), 1000),
    "segments, ranges of 1000000": (Request(f"/v1/segments/batch/ranges?size={RANGE}", "POST"), RANGE),
    "snowflakes, count=10000, JSON": (Request(f"/v1/snowflakes/default/ids?count={BATCH}", "POST"), BATCH),
    "segments, count=10000, gRPC": (Call("/goloves.v1.SegmentService/Next", b"\x0a\x05batch\x10\x90\x4e"), BATCH),
    "segments, count=10000, gRPC Stream": (
        Call("/goloves.v1.SegmentService/Stream", b"\x0a\x05batch\x10\x90\x4e", stream=True),
        BATCH,
    ),
    "segments, one id a message, gRPC Stream": (
        Call("/goloves.v1.SegmentService/Stream", b"\x0a\x05batch", stream=True),
        1,
    ),
}
"""What asks for many ids at once, and how many it gets with each request."""


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    runs: int
    seconds: float
    warmup: float


@dataclass(frozen=True)
class Row:
    """What one contender did in one run of a scenario."""

    scenario: str
    contender: str
    run: int
    figures: Figures = field(repr=False)


Say = Callable[[str], None]


def _alternate(
    servers: Servers, scenario: str, contenders: list[Contender], plan: Plan, load: Load, tags: int, say: Say
) -> Iterator[Row]:
    for number in range(1, plan.runs + 1):
        for contender in contenders:
            if contender.name in PEERS and number > PEER_RUNS:
                continue
            server = servers.get(contender.server)
            ours = contender.server in (GOLOVES, GRPC_GOLOVES)
            segments = "segment" in contender.request.path.lower()
            before = servers.store.granted() if ours else 0
            per_tag = ours and segments and "{tag}" in contender.request.path
            each = replace(load, check_ids="--check-ids=tag") if per_tag else load
            figures = run(servers.openload, server, contender.request, each, core=servers.cores.load, tags=tags)
            if ours:
                figures["granted"] = servers.store.granted() - before
                if not figures["granted"] and segments:
                    figures["faults"].append("no range was refilled")
            say(f"{scenario} {number}/{plan.runs} {contender.name}: {_in_short(figures)}")
            yield Row(scenario, contender.name, number, figures)


def _in_short(figures: Figures) -> str:
    latency = figures["latency_us"]
    words = f"{figures['rate']:.0f}/s, {figures['server_us_per_request']:.1f} µs CPU, p99.9 {latency['p99.9']:.0f} µs"
    return f"{words}, {', '.join(figures['faults'])}" if figures["faults"] else words


def cost_repeated(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """CPU per request where each client repeats its bytes."""
    contenders = http_contenders(ROUTES, peers=servers.available(tuple(PEERS)))
    load = Load(plan.seconds, plan.warmup, rate=COST_RATE)
    yield from _alternate(servers, "cost, repeated", contenders, plan, load, 1, say)


def cost_different(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """CPU per request where no two requests are alike."""
    contenders = http_contenders(DIFFERENT_ROUTES)
    load = Load(plan.seconds, plan.warmup, rate=COST_RATE)
    # A tag's first use waits for its first range: a thousand first uses at once are another matter than this one. And
    # each begins at another place of its range, so that their refills are spread as those of old tags are.
    use_tags(servers.get(GOLOVES), [f"t{number}" for number in range(TAGS)], most=STEP)
    yield from _alternate(servers, "cost, different", contenders, plan, load, TAGS, say)


def closed(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """Throughput and latency of 16 connections that ask again as soon as they have their answer."""
    contenders = http_contenders(ROUTES, peers=servers.available(tuple(PEERS)))
    load = Load(plan.seconds, plan.warmup, watched=servers.cores.watched)
    yield from _alternate(servers, "closed loop", contenders, plan, load, 1, say)


def latency(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """Latency at a fixed rate, from the intended time of each request, and the same without the machine's stalls."""
    load = Load(plan.seconds, plan.warmup, rate=LATENCY_RATE, watched=servers.cores.watched)
    yield from _alternate(servers, "open loop", http_contenders(ROUTES), plan, load, 1, say)


def batches(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """Ids a second where each request asks for many."""
    load = Load(plan.seconds, plan.warmup, connections=4, in_flight=1, check_ids="")
    for number in range(1, plan.runs + 1):
        for name, (request, ids) in BATCHES.items():
            node = servers.get(GRPC_GOLOVES if isinstance(request, Call) else GOLOVES)
            figures = run(servers.openload, node, request, load, core=servers.cores.load)
            figures["ids_per_second"] = figures["rate"] * ids
            figures["ns_per_id"] = figures["server_us_per_request"] * 1000 / ids
            say(f"batches {number}/{plan.runs} {name}: {figures['ids_per_second'] / 1e6:.1f} million ids/s")
            yield Row("batches", name, number, figures)


def burst(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """Throughput of 64 connections that come all at once to a tag that nobody has used, by its step, from the second
    second on. What fails in the first one counts as well."""
    load = Load(plan.seconds, BURST_GROWTH, connections=BURST_CONNECTIONS)
    with servers.node("Goloves burst", max_step=None) as node:
        for number in range(1, plan.runs + 1):
            for name, step in BURST.items():
                tag = f"burst{step}x{number}"
                servers.store.add_tags([tag], step)
                figures = run(servers.openload, node, Request(f"/api/segment/get/{tag}"), load, core=servers.cores.load)
                say(f"burst {number}/{plan.runs} {name}: {_in_short(figures)}")
                yield Row("burst", name, number, figures)


def grpc_cost(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """CPU per unary call over gRPC, without deadlines, with another one on each call, and with those in the table of a
    client that does not heed what the server asks for."""
    contenders = grpc_contenders(peers=servers.available(tuple(GRPC_PEERS)))
    load = Load(plan.seconds, plan.warmup, rate=COST_RATE, connections=GRPC_CONNECTIONS)
    yield from _alternate(servers, "grpc cost", contenders, plan, load, 1, say)
    load = replace(load, deadlines=True)
    yield from _alternate(servers, "grpc cost, deadlines", contenders, plan, load, 1, say)
    yield from _alternate(servers, GRPC_IN_TABLE, contenders[:2], plan, replace(load, table=True), 1, say)


def grpc_latency(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """Latency of unary calls: at a fixed rate, from the intended time of each, without deadlines and with them; and of
    16 connections that call again as soon as they have their answer, as over HTTP."""
    contenders = grpc_contenders()
    load = Load(plan.seconds, plan.warmup, rate=LATENCY_RATE, watched=servers.cores.watched)
    yield from _alternate(servers, "grpc open loop", contenders, plan, load, 1, say)
    timed = replace(load, deadlines=True)
    yield from _alternate(servers, "grpc deadlines, open loop", contenders[:2], plan, timed, 1, say)
    load = replace(load, rate=None, in_flight=1)
    yield from _alternate(servers, "grpc tail", contenders, plan, load, 1, say)


def grpc_closed(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
    """Calls a second of one core, by how many are in flight on a connection, without and with deadlines."""
    contenders = grpc_contenders(peers=servers.available(tuple(GRPC_PEERS)))
    half = replace(plan, seconds=plan.seconds / 2, warmup=plan.warmup / 2)
    for deadlines in (False, True):
        for connections, in_flight in GRPC_SHAPES:
            load = Load(
                half.seconds,
                half.warmup,
                connections=connections,
                in_flight=in_flight,
                deadlines=deadlines,
                check_ids="",
            )
            name = f"grpc closed, {connections} x {in_flight}{', deadlines' if deadlines else ''}"
            yield from _alternate(servers, name, contenders, half, load, 1, say)
