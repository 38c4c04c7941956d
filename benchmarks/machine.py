"""The machine that is measured on: its cores, what it is, which versions of everything run on it."""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]

PACKAGES = (
    *("uvloop", "httptools", "sqlalchemy", "asyncmy"),
    *("uvicorn", "starlette", "granian", "snowflake-id", "python-ulid"),
)
"""Those whose version bears on a figure."""


PINNED = {
    "axum": "benchmarks/peers/axum/Cargo.toml",
    "fasthttp": "benchmarks/peers/fasthttp/go.mod",
    "tonic": "benchmarks/peers/tonic/Cargo.toml",
    "grpc": "benchmarks/peers/grpcgo/go.mod",
}
"""Where the versions of the peers in other languages stand."""


@dataclass(frozen=True)
class Cores:
    """Which core does what; None where there is only one, and everything shares it."""

    server: int | None
    load: int | None
    """Load generator, database and measuring program."""

    @property
    def watched(self) -> str:
        """The cores on which a stall of the machine would be felt, for the witness."""
        return ",".join(str(core) for core in (self.server, self.load) if core is not None) or "0"


def choose_cores() -> Cores:
    """Give the server a core of its own where there are two."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[1]) if len(allowed) > 1 else Cores(None, None)


def describe() -> dict[str, str]:
    """Name the machine and the versions."""
    cpu = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", _read("/proc/meminfo"), re.MULTILINE)
    virtual = " (virtual)" if re.search(r"^flags\s*:.*\bhypervisor\b", _read("/proc/cpuinfo"), re.MULTILINE) else ""
    found = {
        "CPU": (cpu[1] if cpu else platform.machine()) + virtual,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "Goloves": _commit(),
    }
    commands = {
        "MariaDB": ("mariadbd", "--version"),
        "C compiler": ("cc", "--version"),
        "Go": ("go", "version"),
        "Rust": ("rustc", "--version"),
    }
    for name, command in commands.items():
        if version := _version(*command):
            found[name] = version
    for name, path in PINNED.items():
        if pinned := re.search(rf"^(?:require .*/)?{name}\b\D*([\d.]+)", _read(str(ROOT / path)), re.MULTILINE):
            found[name] = pinned[1]
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    from goloves import __version__

    if shutil.which("git") is None:
        return __version__
    git = ("git", "-C", str(ROOT))
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if commit.returncode:
        return __version__
    changed = subprocess.run([*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True, check=False)
    return f"{__version__}, {commit.stdout.strip()}{' with changes' if changed.stdout.strip() else ''}"


def _version(program: str, option: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        return ""
    said = subprocess.run([found, option], capture_output=True, text=True, check=False).stdout
    number = re.search(r"\d+\.\d+(?:\.\d+)?(?:-MariaDB)?", said)
    return number[0] if number else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
