"""Figures to tables: medians over the runs, ratios within each run, and what the bars of the project say of them."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.contenders import BARE, FLOOR, GOLOVES
from benchmarks.scenarios import BATCH, COST_RATE, GRPC_IN_TABLE, LATENCY_RATE, Row
from benchmarks.supervised import CONNECTIONS, RATE

COST_OVER_FLOOR = 1.35
COST_OVER_BARE_REPEATED = 1.0
COST_OVER_BARE_DIFFERENT = 1.25
GRPC_OVER_FLOOR = 1.7
GRPC_OVER_FLOOR_DEADLINES = 2.0
OVER_GRPC_GO = 3
CLOSED_RATE = 100_000
TAIL_US = 1000
TAIL_OVER_FLOOR = 1.5
BATCH_RATE = 20e6
LAYOUT_RATE = 4.096e6
"""What the layout with 12 bits of sequence and 1 ms gives."""
NS_PER_ID = 300
OVER_IMPORTS_MB = 15
NODE_MB = 75
READY_S = 1.5
READY_FEW_S = 2.0
"""With 10,000 tags in the store."""
READY_MANY = 1.2
"""Over that, with a million: what differs between two starts of the same."""
FIRST_WORDS_S = 2.0
BURST_RATIO = 0.9
"""Of the large step's rate; a tenth is what two runs of the same differ by."""
KB_PER_TAG = 1.0
OVER_ONE_NODE = 1.1
"""CPU a request of two nodes, over that of one; and requests of the one node that got more, over the other's."""

KEEPS_UP = 0.99
"""Part of the rate that was asked for from which on a server counts as keeping up: a backlog at the end of a turn is
still on its way."""

MARK = "†"


def tables(rows: Sequence[Row]) -> str:
    """Give all tables that these rows fill, as Markdown."""
    known = {row.scenario for row in rows}
    parts = [
        make([row for row in rows if row.scenario.startswith(name)])
        for name, make in _TABLES.items()
        if any(scenario.startswith(name) for scenario in known)
    ]
    if "functions" in known:
        parts.append(_where(rows))
    return "\n\n".join([*parts, *_marked(rows)])


def median_ratio(rows: Iterable[Row], name: str, base: str, figure: Callable[[dict[str, Any]], float]) -> float:
    """Give the median, over the runs, of a contender's figure to the base's in the same run."""
    by = {(row.contender, row.run): figure(row.figures) for row in rows}
    ratios = [value / by[base, run] for (who, run), value in by.items() if who == name and by.get((base, run))]
    return statistics.median(ratios) if ratios else float("nan")


def median(rows: Iterable[Row], name: str, figure: Callable[[dict[str, Any]], float]) -> float:
    """Give the median of a contender's figure over the runs."""
    return statistics.median(figure(row.figures) for row in rows if row.contender == name)


def _names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.contender for row in rows))


def _cost(figures: dict[str, Any]) -> float:
    return float(figures["server_us_per_request"])


def _rate(figures: dict[str, Any]) -> float:
    return float(figures["rate"])


def _latency(part: str, key: str = "latency_us") -> Callable[[dict[str, Any]], float]:
    return lambda figures: float(figures[key][part]) if key in figures else float("nan")


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _keeps_up(rows: Iterable[Row], name: str, rate: float) -> bool:
    return median(rows, name, _rate) >= KEEPS_UP * rate


def _reached(rows: list[Row], name: str, rate: float) -> str:
    return "" if _keeps_up(rows, name, rate) else f" (at its {median(rows, name, _rate):,.0f}/s)"


def _no_verdict(rows: list[Row], name: str, rate: float) -> str:
    """Say why a figure at a rate says nothing, if it does not: another rate is another measurement."""
    if not _keeps_up(rows, FLOOR, rate):
        return "none: the floor did not keep up"
    return "" if _keeps_up(rows, name, rate) else "**missed**: it did not keep up"


def _table(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    align = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(cells)} |" for cells in [heads, align, *lines])])


def _cost_table(title: str, bars: Callable[[float, float], str]) -> Callable[[list[Row]], str]:
    def make(rows: list[Row]) -> str:
        lines = []
        for name in _names(rows):
            floor = median_ratio(rows, name, FLOOR, _cost)
            bare = median_ratio(rows, name, BARE, _cost)
            verdict = _no_verdict(rows, name, COST_RATE) or bars(floor, bare) if name.startswith(GOLOVES) else ""
            cost = f"{median(rows, name, _cost):.1f}{_reached(rows, name, COST_RATE)}"
            user = median(rows, name, lambda figures: float(figures["server_user_us_per_request"]))
            lines.append([_label(rows, name), cost, f"{user:.1f}", f"{floor:.2f}", f"{bare:.2f}", verdict])
        return _table(title, ["", "µs of CPU a request", "of it user time", "÷ floor", "÷ bare", "bar"], lines)

    return make


def _is_cheap(floor: float, bare: float) -> bool:
    return floor <= COST_OVER_FLOOR and bare <= COST_OVER_BARE_REPEATED


def _bars_repeated(floor: float, bare: float) -> str:
    return f"{COST_OVER_FLOOR} × floor, {COST_OVER_BARE_REPEATED:g} × bare: {_verdict(_is_cheap(floor, bare))}"


def _bars_different(floor: float, bare: float) -> str:
    return f"{COST_OVER_BARE_DIFFERENT} × bare: {_verdict(bare <= COST_OVER_BARE_DIFFERENT)}"


def _grpc_cost(rows: list[Row]) -> str:
    lines = []
    for kind in dict.fromkeys(row.scenario for row in rows):
        part = [row for row in rows if row.scenario == kind]
        bar = GRPC_OVER_FLOOR if kind == "grpc cost" else GRPC_OVER_FLOOR_DEADLINES
        for name in _names(part):
            floor = median_ratio(part, name, FLOOR, _cost)
            words = f"{bar} × floor: {_verdict(floor <= bar)}"
            verdict = _no_verdict(part, name, COST_RATE) or words if name.startswith(GOLOVES) else ""
            cost = f"{median(part, name, _cost):.1f}{_reached(part, name, COST_RATE)}"
            label = _label(part, name) + kind.removeprefix("grpc cost")
            if kind == GRPC_IN_TABLE:
                verdict = ""  # clients that do as they are asked are what the bar is for
            lines.append([label, cost, f"{floor:.2f}", verdict])
    heads = ["", "µs of CPU a call", "÷ floor", "bar"]
    return _table(f"gRPC: cost at {COST_RATE:,} unary calls a second, 4 connections", heads, lines)


def _grpc_closed(rows: list[Row]) -> str:
    kinds = list(dict.fromkeys(row.scenario for row in rows))
    names = _names(rows)
    lines = []
    for kind in kinds:
        part = [row for row in rows if row.scenario == kind]
        ours = next(name for name in names if name.startswith(GOLOVES))
        verdicts = []
        for peer, bar in (("tonic (Rust)", 1.0), ("grpc-go", OVER_GRPC_GO)):
            if peer in names:
                ratio = median_ratio(part, ours, peer, _rate)
                verdicts.append(f"{ratio:.2f} × {peer}: {_verdict(ratio >= bar)}")
        cells = [f"{median(part, name, _rate):,.0f}" for name in names]
        lines.append([kind.partition(", ")[2].replace(" x ", " × "), *cells, "; ".join(verdicts)])
    return _table(
        "gRPC: calls a second of one core, closed loop, connections × calls in flight",
        ["", *names, f"bar: ahead of tonic, {OVER_GRPC_GO} × grpc-go"],
        lines,
    )


def _closed(rows: list[Row]) -> str:
    over_grpc = rows[0].scenario.startswith("grpc")
    lines = []
    for name in _names(rows):
        rate, tail = median(rows, name, _rate), median(rows, name, _latency("p99.9"))
        # Over gRPC the bars of throughput stand in a table of their own.
        met = (over_grpc or rate >= CLOSED_RATE) and tail < TAIL_US
        words = "p99.9 < 1 ms" if over_grpc else f"{CLOSED_RATE:,}/s, p99.9 < 1 ms"
        verdict = f"{words}: {_verdict(met)}" if name.startswith(GOLOVES) else ""
        without = median(rows, name, _latency("p99.9", "latency_without_stalls_us"))
        ratio = median_ratio(rows, name, FLOOR, _rate)
        lines.append([_label(rows, name), f"{rate:,.0f}", f"{ratio:.2f}", _us(tail), _us(without), verdict])
    heads = ["", "answers a second", "÷ floor", "p99.9, µs", "without stalls, µs", "bar"]
    title = "gRPC: closed loop, 16 connections × 1 call" if over_grpc else "Closed loop, 16 connections"
    return _table(title, heads, lines)


def _open(title: str) -> Callable[[list[Row]], str]:
    return lambda rows: _latencies(title, rows)


def _latencies(title: str, rows: list[Row]) -> str:
    lines = []
    for name in _names(rows):
        tail = median(rows, name, _latency("p99.9"))
        ratio = median_ratio(rows, name, FLOOR, _latency("p99.9"))
        calm = "latency_without_stalls_us"
        calm_tail = median(rows, name, _latency("p99.9", calm))
        calm_ratio = median_ratio(rows, name, FLOOR, _latency("p99.9", calm))
        met = tail < TAIL_US or ratio <= TAIL_OVER_FLOOR
        words = f"1 ms or {TAIL_OVER_FLOOR} × floor: {_verdict(met)}"
        verdict = _no_verdict(rows, name, LATENCY_RATE) or words if name.startswith(GOLOVES) else ""
        cells = [_us(median(rows, name, _latency(part))) for part in ("p50", "p99")]
        stalls = f"{_stalled(rows, name):.2f} ({_left_out(rows, name):.2%})"
        late = _us(median(rows, name, _latency("p99.9", "late_us")))
        calm_cells = [_us(calm_tail), f"{calm_ratio:.2f}"]
        label = f"{_label(rows, name)}{_reached(rows, name, LATENCY_RATE)}"
        lines.append([label, *cells, _us(tail), f"{ratio:.2f}", *calm_cells, stalls, late, verdict])
    heads = ["", "p50", "p99", "p99.9", "÷ floor", "p99.9 without stalls", "÷ floor"]
    heads += ["stalls, ms/s (requests left out)", "generator late, p99.9", "bar"]
    return _table(title, heads, lines)


def _stalled(rows: list[Row], name: str) -> float:
    return median(
        rows, name, lambda figures: figures.get("stalls", {}).get("total_ms", float("nan")) / figures["seconds"]
    )


def _left_out(rows: list[Row], name: str) -> float:
    return median(rows, name, lambda figures: figures.get("stalls", {}).get("left_out", float("nan")))


def _batches(rows: list[Row]) -> str:
    lines = []
    for name in _names(rows):
        rate = median(rows, name, lambda figures: float(figures["ids_per_second"]))
        words = "the layout's 4.1" if name.startswith("snowflake") else "20"
        verdict = f"{words}: {_verdict(_fills(name, rate))}" if f"count={BATCH}" in name else ""
        each = f"{median(rows, name, lambda figures: float(figures['ns_per_id'])):.3g}"
        lines.append([_label(rows, name), _millions(rate), each, verdict])
    heads = ["", "million ids a second", "ns of CPU an id", "bar"]
    return _table("Batches, one node, 4 connections, one request in flight on each", heads, lines)


def _fills(name: str, rate: float) -> bool:
    """Whether batches meet their bar."""
    # What the layout itself gives bounds Snowflake; a twentieth is the clock's and the connection's.
    return rate >= (LAYOUT_RATE * 0.95 if name.startswith("snowflake") else BATCH_RATE)


def _millions(rate: float) -> str:
    return f"{rate / 1e6:.1f}" if rate >= 1e6 else f"{rate / 1e6:.3f}"


def _burst(rows: list[Row]) -> str:
    lines = []
    *_, large = _names(rows)
    for name in _names(rows):
        rate, ratio = median(rows, name, _rate), median_ratio(rows, name, large, _rate)
        failed = sum(bool(_faults(row)) for row in rows if row.contender == name)
        met = ratio >= BURST_RATIO and not failed
        verdict = "" if name == large else f"no error, {BURST_RATIO} × the large step: {_verdict(met)}"
        tail = _us(median(rows, name, _latency("p99.9")))
        lines.append([_label(rows, name), f"{rate:,.0f}", f"{ratio:.2f}", tail, str(failed), verdict])
    heads = ["", "answers a second", "÷ large step", "p99.9, µs", "runs with an error", "bar"]
    return _table("A burst of 64 connections on a tag that nobody has used, from its second second on", heads, lines)


def _in_process(rows: list[Row]) -> str:
    lines = []
    for name in rows[0].figures:
        ns = median(rows, rows[0].contender, lambda figures, name=name: float(figures[name]))  # type: ignore[misc]
        verdict = f"{NS_PER_ID} ns: {_verdict(ns <= NS_PER_ID)}" if name.startswith(GOLOVES) else ""
        lines.append([name, f"{ns:.1f}" if ns < 10 else f"{ns:.0f}", verdict])
    return _table("In process", ["", "ns an id", "bar"], lines)


def _user_time(rows: list[Row]) -> str:
    lines = []
    for name in rows[0].figures:
        if name.startswith(BARE):
            continue
        kind = name.rpartition(", ")[2]
        us = median(rows, rows[0].contender, lambda figures, name=name: float(figures[name]))  # type: ignore[misc]
        bare = median(rows, rows[0].contender, lambda figures, kind=kind: float(figures[f"bare: segment get, {kind}"]))  # type: ignore[misc]
        lines.append([f"{GOLOVES}, {name}", f"{us:.2f}", f"{bare:.2f}", f"{us - bare:+.2f}"])
    heads = ["", "µs a request", "`bare`, the same requests", "difference"]
    return _table("User time in the protocol, without sockets", heads, lines)


def _grpc_user_time(rows: list[Row]) -> str:
    lines = []
    for name in rows[0].figures:
        us = median(rows, rows[0].contender, lambda figures, name=name: float(figures[name]))  # type: ignore[misc]
        lines.append([f"{GOLOVES}, {name}", f"{us:.2f}"])
    return _table("gRPC: user time in the protocol, without sockets", ["", "µs a call"], lines)


WHERE = {"repeated": "cost, repeated", "different": "cost, different"}
"""The two kinds of requests of the table of microseconds, and the scenarios that tell what they cost."""
WHERE_ROUTE = "segment get"
FUNCTIONS = 7


def _where(rows: Sequence[Row]) -> str:
    """Put what several scenarios say together: what a request costs, where, and in which functions."""
    cells: dict[str, list[str]] = {}
    ours = f"{GOLOVES}, {WHERE_ROUTE}"

    def add(what: str, place: int, text: str) -> None:
        cells.setdefault(what, [""] * len(WHERE))[place] = text

    for place, (kind, scenario) in enumerate(WHERE.items()):
        part = [row for row in rows if row.scenario == scenario and row.contender == ours]
        measured = [row for row in rows if row.scenario == "user time"]
        own = float("nan")
        if measured:
            own = statistics.median(float(row.figures[f"{WHERE_ROUTE}, {kind}"]) for row in measured)
        if part:
            cost = median(part, ours, _cost)
            user = median(part, ours, lambda figures: float(figures["server_user_us_per_request"]))
            add(f"all of it, at {COST_RATE:,}/s", place, f"{cost:.1f} µs")
            add(
                "the kernel: waiting, reading, and the way of the answer",
                place,
                f"{cost - user:.1f} µs",
            )
            add("the event loop (uvloop), outside the kernel", place, f"{user - own:.1f} µs" if own == own else "")
        add("Goloves' own code", place, f"{own:.2f} µs" if own == own else "")
    for place, kind in enumerate(WHERE):
        shares = _shares([row for row in rows if row.scenario == "functions"], f"{WHERE_ROUTE}, {kind}: ")
        for name, share in list(shares.items())[:FUNCTIONS]:
            add(f"of that, `{name}`", place, f"{share:.0%}")
    heads = ["", "requests that repeat", "no two alike"]
    return _table(f"Where the microseconds go, {WHERE_ROUTE}", heads, [[what, *found] for what, found in cells.items()])


def _shares(rows: list[Row], prefix: str) -> dict[str, float]:
    """Give the parts of time of the functions of a route, the largest first."""
    names = {name for row in rows for name in row.figures if name.startswith(prefix)}
    found = {
        name.removeprefix(prefix): statistics.median(float(row.figures.get(name, 0.0)) for row in rows)
        for name in names
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _node(rows: list[Row]) -> str:
    def of(name: str) -> float:
        return statistics.median(float(row.figures[name]) for row in rows)

    imports, working = of("imports_kb") / 1024, of("working_kb") / 1024
    held, few = of("with_idle_connections_kb") / 1024, of("ready_few_s")

    def number(name: str) -> str:
        return f"{of(name):,.0f}"

    def row(what: str, value: float, unit: str, bar: float | None = None) -> list[str]:
        digits = 1 if unit == "MB" else 2
        verdict = f"{bar:.3g} {unit}: {_verdict(value <= bar)}" if bar is not None else ""
        return [what, f"{value:.{digits}f} {unit}", verdict]

    lines = [
        row("memory of its imports alone", imports, "MB"),
        row("memory when ready", of("ready_kb") / 1024, "MB"),
        row("after serving all routes", working, "MB", NODE_MB),
        row("that, less its imports", working - imports, "MB", OVER_IMPORTS_MB),
        row(
            f"memory of a node that has served, with {number('idle_connections')} idle connections", held, "MB", NODE_MB
        ),
        row(f"an idle connection, of {number('idle_connections')}", of("kb_per_idle_connection"), "KB"),
        row(f"a tag used once, of {number('idle_tags')}", of("kb_per_idle_tag"), "KB", KB_PER_TAG),
        row("start until ready", of("ready_s"), "s", READY_S),
        row(f"the same, {number('ready_few_rows')} more tags in the store", few, "s", READY_FEW_S),
        row(f"the same, {number('ready_many_rows')} of them", of("ready_many_s"), "s", READY_MANY * few),
        row("start of a service until its first words, all defaults", of("first_words_s"), "s", FIRST_WORDS_S),
        ["p99 beside the idle connections at 10,000/s", f"{_us(of('p99_beside_idle_connections_us'))} µs", ""],
    ]
    # Runs of an earlier version, which this page may show, have not measured it.
    if all("p99_without_idle_connections_us" in row.figures for row in rows):
        lines.append(["the same node before they came", f"{_us(of('p99_without_idle_connections_us'))} µs", ""])
    return _table("A node", ["", "", "bar"], lines)


def _us(value: float) -> str:
    return "unknown" if value != value else f"{value:,.0f}"


def _label(rows: Iterable[Row], name: str) -> str:
    return f"{name} {MARK}" if any(row.contender == name and _faults(row) for row in rows) else name


def _faults(row: Row) -> list[str]:
    # Who can't keep up leaves requests unanswered: that is what "at its …/s" says.
    return [fault for fault in row.figures.get("faults", []) if not fault.endswith(" unfinished")]


def _marked(rows: Iterable[Row]) -> list[str]:
    said = [
        f"{row.scenario}, {row.contender}, run {row.run}: {', '.join(_faults(row))}" for row in rows if _faults(row)
    ]
    return ["\n".join([f"{MARK} Something failed:", "", *(f"- {line}" for line in said)])] if said else []


def _two_nodes(rows: list[Row]) -> str:
    one, two, _ = names = _names(rows)
    lines = []
    for name in names:
        ratio = median_ratio(rows, name, one, _cost)
        uneven = median(rows, name, lambda figures: figures["requests_by_node"][-1] / figures["requests_by_node"][0])
        supervisor, node = (
            median(rows, name, lambda figures, key=key: float(figures[key]) / 1000)  # type: ignore[misc]
            for key in ("supervisor_kb", "node_kb")
        )
        met = _verdict(max(ratio, uneven) <= OVER_ONE_NODE)
        verdict = "" if name != two else met if _keeps_up(rows, two, 2 * RATE) else "none: it did not keep up"
        cost = f"{median(rows, name, _cost):.1f}"
        lines.append([name, cost, f"{ratio:.2f}", f"{uneven:.2f}", f"{supervisor:.0f}", f"{node:.0f}", verdict])
    heads = ["", "µs of CPU a request", "÷ one node", "most ÷ least loaded", "MB supervisor", "MB a node", "bar"]
    return _table(f"Nodes under a supervisor: {CONNECTIONS} connections, CPU of all processes", heads, lines)


# --- the front page ---


def front(rows: Sequence[Row]) -> str:
    """Give the few figures of the front page, as Markdown: each row names the command that gives it."""
    lines = []
    for what, bar, scenario, contenders, cell, only in FRONT_ROWS:
        part = [row for row in rows if row.scenario == scenario]
        if part:
            cells = [cell(part, name) if name in _names(part) else "" for name in contenders]
            lines.append([what, *cells, bar, f"`make bench ARGS='--only {only}'`"])
    heads = ["", "segments", "Snowflake", "bar", "command"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *lines])


def _front_cost(met: Callable[[float, float], bool]) -> Callable[[list[Row], str], str]:
    def cell(rows: list[Row], name: str) -> str:
        floor, bare = (median_ratio(rows, name, base, _cost) for base in (FLOOR, BARE))
        verdict = _no_verdict(rows, name, COST_RATE) or _verdict(met(floor, bare))
        cost = f"{median(rows, name, _cost):.1f} µs{_reached(rows, name, COST_RATE)}"
        return f"{cost}, {floor:.2f} × floor: {verdict}{_mark(rows, name)}"

    return cell


def _front_closed(rows: list[Row], name: str) -> str:
    rate, tail = median(rows, name, _rate), median(rows, name, _latency("p99.9"))
    met = _verdict(rate >= CLOSED_RATE and tail < TAIL_US)
    return f"{rate:,.0f}/s, p99.9 {_us(tail)} µs: {met}{_mark(rows, name)}"


def _front_batches(rows: list[Row], name: str) -> str:
    rate = median(rows, name, lambda figures: float(figures["ids_per_second"]))
    return f"{_millions(rate)} million ids/s: {_verdict(_fills(name, rate))}{_mark(rows, name)}"


def _mark(rows: Iterable[Row], name: str) -> str:
    return _label(rows, name).removeprefix(name)


FRONT_ROWS: tuple[tuple[str, str, str, tuple[str, str], Callable[[list[Row], str], str], str], ...] = (
    (
        f"CPU of one id over HTTP, {COST_RATE:,}/s",
        f"{COST_OVER_FLOOR} × floor, {COST_OVER_BARE_REPEATED:g} × `bare`",
        "cost, repeated",
        (f"{GOLOVES}, segment get", f"{GOLOVES}, snowflake get"),
        _front_cost(_is_cheap),
        "cost-repeated",
    ),
    (
        f"CPU of one id over gRPC, {COST_RATE:,}/s",
        f"{GRPC_OVER_FLOOR} × floor",
        "grpc cost",
        (f"{GOLOVES}, SegmentService.Next", f"{GOLOVES}, SnowflakeService.Next"),
        _front_cost(lambda floor, _: floor <= GRPC_OVER_FLOOR),
        "grpc-cost",
    ),
    (
        "one id at a time over HTTP, 16 connections",
        f"{CLOSED_RATE:,}/s, p99.9 < 1 ms",
        "closed loop",
        (f"{GOLOVES}, segment get", f"{GOLOVES}, snowflake get"),
        _front_closed,
        "closed",
    ),
    (
        f"batches of {BATCH:,} over HTTP, 4 connections",
        "20 million ids/s, or all that the layout gives",
        "batches",
        (f"segments, count={BATCH}, JSON", f"snowflakes, count={BATCH}, JSON"),
        _front_batches,
        "batches",
    ),
)
"""What it is, its bar, the scenario, the contenders of the two modes, what stands in a cell, the command's scenario."""

_TABLES: dict[str, Callable[[list[Row]], str]] = {
    "cost, repeated": _cost_table(f"Cost at {COST_RATE:,}/s, requests that repeat their bytes", _bars_repeated),
    "cost, different": _cost_table(f"Cost at {COST_RATE:,}/s, no two requests alike", _bars_different),
    "closed loop": _closed,
    "open loop": _open(f"Open loop, {LATENCY_RATE:,}/s over 16 connections: µs from the intended time"),
    "grpc cost": _grpc_cost,
    "grpc closed": _grpc_closed,
    "grpc open": _open(f"gRPC: open loop, {LATENCY_RATE:,} calls/s over 16 connections: µs from the intended time"),
    "grpc deadlines, open": _open(f"gRPC: the same with another deadline on each call, {LATENCY_RATE:,} calls/s"),
    "grpc tail": _closed,
    "batches": _batches,
    "burst": _burst,
    "in process": _in_process,
    "user time": _user_time,
    "grpc user time": _grpc_user_time,
    "two nodes": _two_nodes,
    "node": _node,
}
