"""`make bench`: runs the scenarios, prints their tables, keeps what was measured."""

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks import machine, node, scenarios, supervised
from benchmarks.build import CACHE, NotBuilt
from benchmarks.contenders import GOLOVES, Servers
from benchmarks.machine import ROOT, choose_cores
from benchmarks.scenarios import Plan, Row, Say
from benchmarks.servers import NotServing, python, settle
from benchmarks.tables import MARK, front, tables

PAGE = ROOT / "docs" / "benchmarks.md"
FRONT = ROOT / "README.md"
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
"""What stands on the page, with all that was measured."""
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"

FULL = Plan(runs=5, seconds=2.0, warmup=0.5)
"""As long as it can be: some 25 minutes for everything is what a person waits for."""
SHORT = Plan(runs=1, seconds=1.0, warmup=0.3)


def _program(scenario: str, module: str) -> Callable[[Servers, Plan, Say], Iterator[Row]]:
    """Give a scenario that is a program of its own, so that nothing of this one is in its way."""

    def measure(servers: Servers, plan: Plan, say: Say) -> Iterator[Row]:
        for number in range(1, plan.runs + 1):
            command = python("-m", module, f"{plan.seconds:g}")
            prepare = settle(servers.cores.server)
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=prepare)
            if done.returncode:
                raise NotServing(f"{module} failed:\n{done.stderr}")
            figures = json.loads(done.stdout)
            words = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
            say(f"{scenario} {number}/{plan.runs}: {words}")
            yield Row(scenario, GOLOVES, number, figures)

    return measure


SCENARIOS: dict[str, Callable[[Servers, Plan, Say], Iterator[Row]]] = {
    "cost-repeated": scenarios.cost_repeated,
    "cost-different": scenarios.cost_different,
    "closed": scenarios.closed,
    "open": scenarios.latency,
    "grpc-cost": scenarios.grpc_cost,
    "grpc-closed": scenarios.grpc_closed,
    "grpc-open": scenarios.grpc_latency,
    "batches": scenarios.batches,
    "burst": scenarios.burst,
    "in-process": _program("in process", "benchmarks.in_process"),
    "user-time": _program("user time", "benchmarks.user_time"),
    "grpc-user-time": _program("grpc user time", "benchmarks.grpc_time"),
    "functions": _program("functions", "benchmarks.functions"),
    "two-nodes": supervised.measure,
    "node": node.measure,
}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(SCENARIOS)), help="Run this scenario; may be repeated.")
@click.option("--runs", type=click.IntRange(1), help=f"Alternating runs of each scenario.  [default: {FULL.runs}]")
@click.option("--seconds", type=click.FloatRange(0.2), help=f"Length of a measurement.  [default: {FULL.seconds:g}]")
@click.option("--short", is_flag=True, help="One run of a second each: shows that it works, and says nothing else.")
@click.option("--write", is_flag=True, help="Put the tables of a full run into docs/benchmarks.md and README.md.")
@click.option("--from", "source", type=click.Path(exists=True, path_type=Path), help="Take an earlier run's JSON file.")
def main(
    only: tuple[str, ...], runs: int | None, seconds: float | None, short: bool, write: bool, source: Path | None
) -> None:
    """Measure Goloves beside a floor in C, the barest Python server, and peers, in one run on this machine."""
    base = SHORT if short else FULL
    plan = Plan(runs or base.runs, seconds or base.seconds, base.warmup)
    if source is None:
        if write and (only or plan.runs < FULL.runs or plan.seconds < FULL.seconds):
            raise click.UsageError("--write puts figures before people: it wants all scenarios, at full length")
        result = measure(tuple(only) or tuple(SCENARIOS), plan)
        source = keep(result)
    else:
        result = json.loads(source.read_text(encoding="utf-8"))
        if write and not result["full"]:
            raise click.UsageError(f"{source} is not of a full run")
    text = page(result)
    click.echo(text)
    click.echo(f"\nAll that was measured: {source}", err=True)
    if write:
        put(FRONT, front_page(result))
        put(PAGE, f"{text}\n\nAll that was measured: [latest.json](../benchmarks/results/latest.json).")
        LATEST.parent.mkdir(exist_ok=True)
        LATEST.write_text(compact(result), encoding="utf-8")
    if any(row["figures"].get("duplicates") for row in result["rows"]):
        raise click.ClickException("an id came twice: a fault in Goloves or in a peer; the JSON file says where")


def measure(names: tuple[str, ...], plan: Plan) -> dict[str, Any]:
    """Run scenarios."""
    names = tuple(name for name in SCENARIOS if name in names)
    cores = choose_cores()
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def say(line: str) -> None:
        click.echo(line, err=True)

    rows: list[Row] = []
    try:
        servers = Servers(cores)
        try:
            for name in names:
                rows += SCENARIOS[name](servers, plan, say)
            left_out = dict(servers.left_out)
        finally:
            servers.close()
    except (NotBuilt, NotServing) as error:
        raise click.ClickException(str(error)) from None
    return {
        "began": began,
        "full": names == tuple(SCENARIOS) and plan.runs >= FULL.runs and plan.seconds >= FULL.seconds,
        "plan": dataclasses.asdict(plan),
        "machine": machine.describe(),
        "cores": dataclasses.asdict(cores),
        "left_out": left_out,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def keep(result: dict[str, Any]) -> Path:
    """Write what was measured to a file of its own."""
    directory = CACHE / "results"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{str(result['began']).replace(':', '')}.json"
    path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return path


def compact(result: dict[str, Any]) -> str:
    """Give what was measured as JSON with a line for each row, so that two runs can be compared."""
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in result["rows"])
    rest = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1)
    return f'{rest[:-2]},\n "rows": [\n{rows}\n]}}\n'


def page(result: dict[str, Any]) -> str:
    """Give the tables with what has to stand beside them."""
    plan, about, left_out, rows = (result[key] for key in ("plan", "machine", "left_out", "rows"))
    words = [f"{result['began']}, {plan['runs']} alternating runs of {plan['seconds']:g} s each, medians."]
    if not result["full"]:
        words.append("A part or a short run: it shows that the benchmarks work, not how fast anything is.")
    lines = [" ".join(words), "", ", ".join(f"{name} {value}" for name, value in about.items()) + "."]
    lines += [f"Left out: {name} ({why.splitlines()[0]})." for name, why in left_out.items()]
    return "\n".join([*lines, "", tables([Row(**row) for row in rows])])


def front_page(result: dict[str, Any]) -> str:
    """Give the few figures of the front page with what has to stand beside them."""
    plan, about = result["plan"], result["machine"]
    where = f"{about['cores']} cores of {about['CPU']}" if "cores" in about else ""
    words = [result["began"][:10], where, f"medians of {plan['runs']} runs, one core for the node:"]
    table = front([Row(**row) for row in result["rows"]])
    lines = [", ".join(filter(None, words)), "", table]
    if MARK in table:
        lines += ["", f"{MARK} Something failed; [the tables](docs/benchmarks.md) say what."]
    return "\n".join(lines)


def put(path: Path, text: str) -> None:
    """Replace what stands between the markers of a page."""
    old = path.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"{path} lacks its markers {BEGIN} and {END}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="make bench ARGS=")
