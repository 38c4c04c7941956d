"""Other people's clients against a node: grpcurl, grpc-health-probe, grpc-go, and the examples of docs/grpc-api.md.

The programs are built with Go on first use, and kept in .cache/.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from goloves.server.grpc.limits import GrpcLimits
from server.grpc.echo import Echo
from server.grpc.live import LiveGrpc
from server.live import LiveNode

HERE = Path(__file__).parent
TESTS = HERE.parent
ROOT = TESTS.parent
CACHE = ROOT / ".cache"
ADDRESS = "127.0.0.1:50051"
PAGE = (ROOT / "docs" / "grpc-api.md").read_text()
BUILDING = 540.0
"""Seconds for a download and a build: some hundred MB of other people's code."""

PROGRAMS = {
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
    "grpc-health-probe": "github.com/grpc-ecosystem/grpc-health-probe@v0.4.42",
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0",
}

JAVA_POM = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>client</groupId><artifactId>client</artifactId><version>0</version>
  <dependencies>
    <dependency><groupId>io.grpc</groupId><artifactId>grpc-netty-shaded</artifactId><version>1.76.0</version></dependency>
    <dependency><groupId>io.grpc</groupId><artifactId>grpc-protobuf</artifactId><version>1.76.0</version></dependency>
    <dependency><groupId>io.grpc</groupId><artifactId>grpc-stub</artifactId><version>1.76.0</version></dependency>
    <dependency><groupId>com.google.protobuf</groupId><artifactId>protobuf-java</artifactId><version>4.35.1</version></dependency>
  </dependencies>
</project>
"""
JAVA_PROGRAMS = (
    "com.google.protobuf:protoc:4.35.1:exe:linux-x86_64",
    "io.grpc:protoc-gen-grpc-java:1.76.0:exe:linux-x86_64",
)
"""grpcio-tools makes no Java."""

needs_java = pytest.mark.skipif(
    not all(map(shutil.which, ("mvn", "javac"))) or platform.machine() != "x86_64",
    reason="no JDK with Maven for x86-64 here",
)
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
pytestmark = pytest.mark.timeout(2 * BUILDING)


@cache
def program(name: str) -> Path:
    path = CACHE / "bin" / name
    if not path.exists():
        environment = {**os.environ, "GOBIN": str(path.parent)}
        subprocess.run(["go", "install", PROGRAMS[name]], check=True, env=environment, timeout=BUILDING)
    return path


def example(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def run(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=BUILDING, cwd=cwd, env=env, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with LiveNode() as node:
        yield node


COMMANDS = [line.strip() for line in re.findall(r"^    (grpcurl .+)$", PAGE, re.MULTILINE)]


@needs_go
def test_every_command_of_the_page_works_through_reflection(node: LiveNode) -> None:
    assert len(COMMANDS) >= 4
    said = []
    for command in COMMANDS:
        line = command.replace(ADDRESS, node.grpc).replace("grpcurl", str(program("grpcurl")), 1)
        said.append(run("sh", "-c", line))
    assert "goloves.v1.SegmentService" in said[0].split()
    assert re.search(r'"ids": \[\s+"\d+"\s+\]', said[1])
    assert re.search(r'"end": "\d+"', said[2])


@needs_go
def test_the_health_probe_finds_a_node_healthy(node: LiveNode) -> None:
    for service in ("", "goloves.v1.SnowflakeService"):
        run(program("grpc-health-probe"), f"-addr={node.grpc}", f"-service={service}")


def test_the_example_in_python_works(node: LiveNode) -> None:
    code = example("python").replace(ADDRESS, node.grpc)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    said = run(sys.executable, "-c", code, env=environment)
    assert re.search(r"^\d+\nrange\(\d+, \d+\)\n\[\d+, \d+, \d+\]\nStatusCode.NOT_FOUND ", said)


GO_MOD = """module client

go 1.25

require (
\tgoogle.golang.org/grpc v1.77.0
\tgoogle.golang.org/protobuf v1.36.11
)
"""


def go_client(directory: Path, code: str, package: str, root: Path, proto: str, *options: str) -> Path:
    """Build a client in Go with the code that protoc makes of a file, which it imports as `client/<package>`."""
    from grpc_tools import protoc

    generated = directory / package
    generated.mkdir(parents=True, exist_ok=True)
    arguments = ["protoc", f"-I{root}", f"-I{files('grpc_tools') / '_proto'}"]
    for kind in ("go", "go-grpc"):
        plugin = f"--plugin=protoc-gen-{kind}={program(f'protoc-gen-{kind}')}"
        out = [f"--{kind}_out={generated}", *(f"--{kind}_opt={option}" for option in options)]
        assert protoc.main([*arguments, plugin, *out, proto]) == 0
    (directory / "main.go").write_text(code)
    (directory / "go.mod").write_text(GO_MOD)
    run("go", "mod", "tidy", cwd=directory)
    run("go", "build", "-o", "client", ".", cwd=directory)
    return directory / "client"


@needs_go
def test_the_example_in_go_works(node: LiveNode) -> None:
    module = "github.com/goloves/goloves/api/goloves/v1"
    code = example("go").replace(ADDRESS, node.grpc).replace(module, "client/golovesv1")
    made = go_client(
        CACHE / "go-client", code, "golovesv1", ROOT / "api" / "proto", "goloves/v1/goloves.proto", f"module={module}"
    )
    assert re.fullmatch(r"\[\d+ \d+ \d+\]\n", run(made))


@needs_go
def test_grpc_go_makes_calls_of_all_kinds_cancels_them_and_sends_much() -> None:
    echo = Echo()
    options = ("paths=source_relative", "Mecho.proto=client/echo")
    code = (HERE / "go" / "main.go").read_text()
    made = go_client(CACHE / "go-echo", code, "echo", TESTS / "server" / "grpc", "echo.proto", *options)
    limits = GrpcLimits(max_message=4 * 1024 * 1024, max_held=256 * 1024 * 1024)
    with LiveGrpc([echo.service()], limits) as server:
        said = run(made, server.target).splitlines()
        assert said[-1] == "a thousand at once"
        server.wait_for(lambda: echo.seen.count("cancelled") == 3)  # the deadline's, and the two that were cancelled
        assert server.call(lambda: server.shared.counters.cut_wrong + server.shared.counters.cut_calm) == 0


@needs_java
def test_the_example_in_java_works(node: LiveNode) -> None:
    directory = CACHE / "java-client"
    libraries = directory / "libs"
    if not libraries.exists():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "pom.xml").write_text(JAVA_POM)
        fetched = directory / "fetched"
        into = f"-DoutputDirectory={fetched}"
        run("mvn", "-q", "-B", "dependency:copy-dependencies", into, cwd=directory)
        for artifact in JAVA_PROGRAMS:
            run("mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", into, cwd=directory)
        fetched.rename(libraries)
    protoc, plugin = (next(libraries.glob(f"{name}-[0-9]*.exe")) for name in ("protoc", "protoc-gen-grpc-java"))
    protoc.chmod(0o755)
    plugin.chmod(0o755)
    sources = directory / "src"
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir()
    out = [f"--java_out={sources}", f"--plugin=protoc-gen-grpc-java={plugin}", f"--grpc-java_out={sources}"]
    run(protoc, f"-I{ROOT / 'api' / 'proto'}", *out, "goloves/v1/goloves.proto")
    (sources / "Client.java").write_text(example("java").replace(ADDRESS, node.grpc))
    path = os.pathsep.join([str(sources), *map(str, libraries.glob("*.jar"))])
    run("javac", "-cp", path, "-d", sources, *sources.rglob("*.java"))
    said = run("java", "-cp", path, "Client")
    assert re.fullmatch(r"\[\d+, \d+, \d+\]\n", said)
