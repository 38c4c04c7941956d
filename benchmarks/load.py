"""One run of the load generator."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.servers import PATIENCE, NotServing, Running, settle

Figures = dict[str, Any]
"""What one run of anything measured, as it goes into the JSON file."""

CONNECTIONS = 16


@dataclass(frozen=True)
class Request:
    """What is asked; `{tag}` and `{random}` change with each request."""

    path: str
    method: str = "GET"
    headers: tuple[str, ...] = ("User-Agent: bench/1.0", "Accept: */*")


@dataclass(frozen=True)
class Load:
    """How it is asked."""

    seconds: float
    warmup: float
    rate: float | None = None
    """Requests a second in an open loop; None: a closed loop."""
    connections: int = CONNECTIONS
    watched: str = ""
    """Cores on which the witness looks for stalls of the machine; empty: no witness."""
    check_ids: str = "--check-ids"
    """How ids are checked: `--check-ids`, `--check-ids=tag` where tags have numbers of their own; empty: not at all."""


def run(program: Path, server: Running, request: Request, load: Load, *, core: int | None, tags: int = 1) -> Figures:
    """Put a load on a server and give what came of it."""
    command = [str(program), "http", "--json", "--port", str(server.port), "--path", request.path]
    command += ["--method", request.method, "--connections", str(load.connections), "--tags", str(tags)]
    command += ["--warmup", f"{load.warmup:g}", "--duration", f"{load.seconds:g}"]
    command += ["--closed"] if load.rate is None else ["--rate", f"{load.rate:g}"]
    for header in request.headers:
        command += ["--header", header]
    for pid in server.pids:
        command += ["--pid", str(pid)]
    if load.watched:
        command += ["--witness", load.watched]
    if load.check_ids:
        command.append(load.check_ids)
    patience = load.warmup + load.seconds + PATIENCE
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=settle(core), timeout=patience
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise NotServing(f"no load on {server.name}: {done.stderr.strip()}\n{server.tail}")
    figures: Figures = json.loads(done.stdout)
    figures["said"] = done.stderr.strip()
    figures["faults"] = faults(figures)
    return figures


def faults(figures: Figures) -> list[str]:
    """Name what went wrong in a run; empty if nothing did."""
    kinds = ("failed", "warmup_failed", "duplicates", "bad_ids", "unfinished", "reconnects")
    return [f"{figures[kind]} {kind.replace('_', ' ')}" for kind in kinds if figures.get(kind)]
