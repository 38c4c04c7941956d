"""Builds the load generator, the floors and, where their toolchains are at hand, the peers, into `.cache/bench`."""

import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache" / "bench"
BUILT = CACHE / "bin"

CFLAGS = ("-O2", "-Wall", "-Wextra", "-pthread")

C_PROGRAMS = {"openload": "load/*.c", "floor_http": "floors/floor_http.c", "floor_grpc": "floors/floor_grpc.c"}

GO_PEERS = ("nethttp", "fasthttp", "grpcgo")
GRPC_GO_PEERS = ("grpcgo",)
"""Those among them whose messages and service are generated before they are built."""
GO_PLUGINS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0",
}
GO_MODULE = "github.com/goloves/goloves/api/goloves/v1"
"""What the .proto file calls its package in Go."""

RUST_PEERS = {"axum": "axum-peer", "tonic": "tonic-peer"}


class NotBuilt(Exception):
    """A program can't be built; the message says why."""


def c_program(name: str, into: Path = BUILT) -> Path:
    """Build one of `C_PROGRAMS` unless it stands; NotBuilt where there is no compiler or it fails."""
    sources = sorted(HERE.glob(C_PROGRAMS[name]))
    headers = [header for source in sources for header in source.parent.glob("*.h")]
    built = into / name
    if _older(built, [*sources, *headers]):
        compiler = shutil.which("cc")
        if compiler is None:
            raise NotBuilt("there is no C compiler: apt-get install gcc libc6-dev")
        into.mkdir(parents=True, exist_ok=True)
        _run([compiler, *CFLAGS, "-o", str(built), *map(str, sources)], HERE)
    return built


def peer(name: str) -> Path:
    """Build a peer in Go or Rust unless it stands; NotBuilt where its toolchain or its packages can't be had."""
    source = HERE / "peers" / name
    built = BUILT / name
    if not _older(built, [path for path in source.rglob("*") if path.is_file()]):
        return built
    BUILT.mkdir(parents=True, exist_ok=True)
    # Built in a copy: what is generated or locked meanwhile stays out of the sources.
    copy = CACHE / "src" / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    if name in GO_PEERS:
        _need("go")
        if name in GRPC_GO_PEERS:
            _generate_go(copy / "golovesv1")
        # Two words of the environment may point elsewhere: what is built is what stands in go.mod.
        _run(["go", "build", "-mod=readonly", "-o", str(built), "."], copy, {"GOFLAGS": "-buildvcs=false"})
        return built
    _need("cargo")
    target = CACHE / "target" / name
    _run(["cargo", "build", "--release", "--quiet"], copy, {"CARGO_TARGET_DIR": str(target)})
    shutil.copy2(target / "release" / RUST_PEERS[name], built)
    return built


def _generate_go(into: Path) -> None:
    into.mkdir()
    for plugin, module in GO_PLUGINS.items():
        if not (BUILT / plugin).exists():
            _run(["go", "install", module], into, {"GOBIN": str(BUILT)})
        kind = plugin.removeprefix("protoc-gen-")
        out = [f"--plugin={plugin}={BUILT / plugin}", f"--{kind}_out={into}", f"--{kind}_opt=module={GO_MODULE}"]
        include = [f"-I{HERE.parent / 'api' / 'proto'}", f"-I{files('grpc_tools') / '_proto'}"]
        _run([sys.executable, "-m", "grpc_tools.protoc", *include, *out, "goloves/v1/goloves.proto"], into)


def _older(built: Path, sources: list[Path]) -> bool:
    return not built.exists() or built.stat().st_mtime < max(source.stat().st_mtime for source in sources)


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise NotBuilt(f"there is no {program} here")


def _run(command: list[str], directory: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-20:] or ["it says nothing"]
        raise NotBuilt("\n".join([f"{' '.join(command[:2])} failed: {said[-1]}", *said]))
