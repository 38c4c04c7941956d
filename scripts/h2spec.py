"""Builds h2spec and runs it against a gRPC listener, plain and over TLS: `python scripts/h2spec.py`.

All 146 cases but the one in tests/conformance/EXCEPTIONS.md have to pass, none may be skipped. Needs Go; h2spec is kept
in .cache/bin.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
"""What the Go module proxy serves."""

CASES = 146
EXCEPTED = ["Sends a dynamic table size update larger than the value of SETTINGS_HEADER_TABLE_SIZE"]
"""tests/conformance/EXCEPTIONS.md says why."""

TIMEOUT = 300.0
"""Seconds for one run, which takes a few."""


def build() -> Path:
    """Give h2spec, building it if it is not there."""
    directory = ROOT / ".cache" / "bin"
    program = directory / "h2spec"
    if not program.exists():
        if shutil.which("go") is None:
            sys.exit("h2spec is built with Go, and there is none here: install it (Debian: golang-go)")
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "install", MODULE], check=True, env={**os.environ, "GOBIN": str(directory)})
    return program


def run(program: Path, port: int, *more: str) -> str:
    """Run all cases, strictly; give what is wrong, or nothing."""
    command = [str(program), "-h", "127.0.0.1", "-p", str(port), "-S", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    summary = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
    if summary is None:
        return f"h2spec gave no summary:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    failed = re.findall(r"^ *\S+ \d+: (.+)$", done.stdout[done.stdout.find("Failures:") :], re.MULTILINE)
    if summary.groups() == (str(CASES), str(CASES - len(EXCEPTED)), "0", str(len(EXCEPTED))) and failed == EXCEPTED:
        return ""
    return done.stdout[done.stdout.find("Failures:") :]


def main() -> None:
    """Run the command."""
    from goloves.server.tls import Certificates
    from server.grpc.certificates import self_signed
    from server.grpc.echo import Echo
    from server.grpc.live import LiveGrpc

    program = build()
    wrong = {}
    with tempfile.TemporaryDirectory() as directory:
        certificates = Certificates(*self_signed().write(Path(directory), "server"))
        with LiveGrpc([Echo().service()]) as server:
            wrong["plain"] = run(program, server.port)
        with LiveGrpc([Echo().service()], tls=certificates) as server:
            wrong["TLS"] = run(program, server.port, "-t", "-k")
    good = f"{CASES - len(EXCEPTED)} of {CASES} cases pass; excepted: {', '.join(EXCEPTED)}"
    for over, what in wrong.items():
        sys.stdout.write(f"h2spec over {over}: {what or good}\n")
    sys.exit(any(wrong.values()))


if __name__ == "__main__":
    main()
