"""A supervised service as a process of its own, and its nodes as a test sees them."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from faults.nodes import wait_for
from system.serving import CERTIFICATES, PATIENCE, Serving


class Service(Serving):
    """`goloves serve` with some nodes."""

    def __init__(self, directory: Path, words: tuple[str, ...], environment: dict[str, str]) -> None:
        super().__init__(directory, words, environment)
        self.directory = directory
        self.environment = environment

    @property
    def admin(self) -> str:
        """URL of the control plane."""
        return self.says(r"^  health   (http://\S+)$")[1]

    @property
    def grpc(self) -> str:
        """Where gRPC is served."""
        return self.says(r"^  gRPC     (\S+)$")[1]

    def state(self) -> dict[str, Any]:
        """What `/nodes` says."""
        found: dict[str, Any] = httpx2.get(f"{self.admin}/nodes", timeout=PATIENCE, verify=CERTIFICATES).json()
        return found

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes, as `/nodes` describes them."""
        found: list[dict[str, Any]] = self.state()["nodes"]
        return found

    def pids(self) -> set[int]:
        """Processes of the nodes that can serve."""
        return {node["pid"] for node in self.nodes() if node["ready"]} - {0}

    def all_ready(self, count: int, without: set[int] = frozenset()) -> set[int]:  # type: ignore[assignment]
        """Wait until so many nodes, and no others, are there and can serve, none of them of those `without`."""

        def pids() -> set[int]:
            nodes = self.nodes()
            ready = {node["pid"] for node in nodes if node["ready"]}
            return ready if len(ready) == len(nodes) == count and not ready & without else set()

        return self.wait(pids, f"{count} nodes that are ready")

    def refuses(self) -> bool:
        """Whether its first address takes no connections."""
        with socket.socket() as probe:
            return probe.connect_ex(self.address) != 0

    @contextlib.contextmanager
    def slow_request(self) -> Iterator[socket.socket]:
        """Give a connection whose request has begun to arrive, as a node has seen."""
        with socket.create_connection(self.address, PATIENCE) as slow:
            slow.sendall(b"GET /api/segment/get/default HTTP/1.1\r\n")
            wait_for(lambda: sum(node["connections"] for node in self.nodes()), "the slow request is seen")
            yield slow

    def reload(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `goloves reload`."""
        return subprocess.run(
            [sys.executable, "-m", "goloves", "reload", *words],
            cwd=self.directory,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
            check=False,
        )


Start = Callable[..., Service]


def gone(pid: int) -> bool:
    """Whether a process is no more; one that nobody has waited for yet counts as gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def nodes_of(pid: int) -> set[int]:
    """The nodes' processes of a supervisor, as the kernel knows them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if not gone(int(child))}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a service with these words, in a directory of the test's own; ports are free ones unless they name one."""
    running: list[Service] = []
    seen: set[int] = set()

    def begin(*words: str, **environment: str) -> Service:
        chosen = () if "--http" in words else ("--http", "127.0.0.1:0")
        # The default deadline of 0.2 s is for machines that do nothing else.
        patient = {
            "GOLOVES_SEGMENT__DEADLINE": "20",
            "GOLOVES_SNOWFLAKE__DEADLINE": "20",
            "GOLOVES_STORES__TIMEOUT": "20",
            **environment,
        }
        running.append(Service(tmp_path, (*words, *chosen), patient))
        return running[-1]

    yield begin
    for service in running:
        if service.process.poll() is None:
            seen |= nodes_of(service.process.pid)
        service.process.send_signal(signal.SIGKILL)
        seen |= {int(pid) for pid in re.findall(r"\(pid (\d+)\)", service.said)}
    for pid in seen:
        if not gone(pid) and "goloves.supervisor.inside" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    for service in running:
        service.remove()


class Notified:
    """A service manager's socket: what is said to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.said: list[dict[str, str]] = []
        # At all times, as a service manager does: the kernel keeps few messages, and what is more is lost.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait(self, **words: str) -> dict[str, str]:
        """Wait until something is said that holds these words."""

        def found() -> dict[str, str] | None:
            return next((said for said in list(self.said) if words.items() <= said.items()), None)

        wait_for(found, f"{words} is said, and not only {self.said}")
        message = found()
        assert message is not None
        return message

    def close(self) -> None:
        """Listen no more."""
        self.socket.shutdown(socket.SHUT_RD)
        self._reader.join()
        self.socket.close()

    def _read(self) -> None:
        while text := self.socket.recv(65_536).decode():
            self.said.append(dict(line.split("=", 1) for line in text.splitlines()))


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    """A service manager that listens."""
    made = Notified(tmp_path / "notify")
    yield made
    made.close()
