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

    @property
    def words(self) -> list[str]:
        """What the load generator is told."""
        headers = [word for header in self.headers for word in ("--header", header)]
        return ["http", "--path", self.path, "--method", self.method, *headers]


@dataclass(frozen=True)
class Call:
    """What is called, over gRPC."""

    path: str
    message: bytes
    """The request, as protobuf has it."""
    stream: bool = False
    """Whether requests are messages on streams that stay open, in place of calls."""

    @property
    def words(self) -> list[str]:
        """What the load generator is told."""
        words = ["grpc", "--path", self.path, "--body-hex", self.message.hex()]
        return [*words, "--stream"] if self.stream else words


@dataclass(frozen=True)
class Load:
    """How it is asked."""

    seconds: float
    warmup: float
    rate: float | None = None
    """Requests a second in an open loop; None: a closed loop."""
    connections: int = CONNECTIONS
    in_flight: int | None = None
    """Requests or calls under way at once on a connection; None: 1 over HTTP, 100 over gRPC."""
    deadlines: bool = False
    """Whether each call has a deadline, of other digits than the one before."""
    table: bool = False
    """Whether the client puts its header fields, deadlines too, into a table although the server asks for none."""
    watched: str = ""
    """Cores on which the witness looks for stalls of the machine; empty: no witness."""
    check_ids: str = "--check-ids"
    """How ids are checked: `--check-ids`, `--check-ids=tag` where tags have numbers of their own; empty: not at all."""


def run(
    program: Path, server: Running, request: Request | Call, load: Load, *, core: int | None, tags: int = 1
) -> Figures:
    """Put a load on a server and give what came of it."""
    command = [str(program), *request.words, "--json", "--port", str(server.port)]
    command += ["--connections", str(load.connections), "--tags", str(tags)]
    command += ["--warmup", f"{load.warmup:g}", "--duration", f"{load.seconds:g}"]
    command += ["--closed"] if load.rate is None else ["--rate", f"{load.rate:g}"]
    if load.in_flight is not None:
        command += ["--in-flight", str(load.in_flight)]
    if load.deadlines:
        command.append("--deadlines")
    if load.table:
        command.append("--table")
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
