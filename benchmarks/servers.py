"""Starts the servers that are measured, each on a free port of loopback and on the server's core, and stops them."""

import contextlib
import ctypes
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE = 30.0
"""Seconds that a server may take to come up or go: many times what any of them takes."""

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class NotServing(Exception):
    """A server did not come up or does not answer as it should; the message says why."""


class Running:
    """A server that runs."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.name = name
        self.process = process
        self.port = port
        self.log = log

    @property
    def pids(self) -> list[int]:
        """Its processes: itself and its descendants."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += map(int, task.read_text(encoding="ascii").split())
        return found

    @property
    def rss_kb(self) -> int:
        """Resident memory, exactly."""
        return rss_kb(self.process.pid)

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """Ask once, over HTTP/1.1."""
        return get(self.port, path, method)

    def wait_until(self, look: Callable[[], bool], what: str, every: float = 0.01) -> None:
        """Wait until `look` says yes; NotServing if the server ends before, or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if look():
                    return
            if self.process.poll() is not None:
                raise NotServing(f"{self.name} ended before {what}:\n{self.tail}")
            time.sleep(every)
        raise NotServing(f"{self.name}: no {what}:\n{self.tail}")

    @property
    def tail(self) -> str:
        """What it said last."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]


def get(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Ask a server on loopback once, over HTTP/1.1; OSError or HTTPException where there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def listens(running: Running) -> bool:
    """Tell whether a server takes connections."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE):
        return True


def rss_kb(pid: int) -> int:
    """Give a process's resident memory, counted page by page."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def free_port() -> int:
    """Give a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def settle(core: int | None) -> Callable[[], None]:
    """Give what a child does before its program begins: move to its core, and die with its parent."""

    def prepare() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


@contextlib.contextmanager
def start(
    name: str,
    command: Callable[[int], list[str]],
    directory: Path,
    *,
    core: int | None,
    environment: dict[str, str] | None = None,
    ready: Callable[[Running], bool] | None = None,
    port: int | None = None,
) -> Iterator[Running]:
    """Run a server until the `with` ends: `command` makes its command from its port; it is ready when it answers."""
    if port is None:
        port = free_port()
    log = directory / f"{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.log"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GOLOVES_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=inherited | (environment or {}),
            preexec_fn=settle(core),
        )
    running = Running(name, process, port, log)
    try:
        look = ready or (lambda running: running.get("/")[0] > 0)
        running.wait_until(lambda: look(running), "answer")
        yield running
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE / 3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def python(*words: str) -> list[str]:
    """Give the command of a Python program in this environment."""
    return [sys.executable, *words]
