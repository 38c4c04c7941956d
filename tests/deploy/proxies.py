"""The examples of load balancers as they stand, before real nodes: only names and ports are the test's."""

import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from system.serving import PATIENCE

ROOT = Path(__file__).parents[2]

NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d;
  scgi_temp_path {dir}/e;
  include {dir}/goloves.conf;
}}
"""

Ports = tuple[int, int]
"""Of a node, or of a load balancer: HTTP and gRPC."""


def lasting_ports(count: int) -> list[int]:
    """Give ports that stay free while nobody is on them: the kernel gives none of them to a client.

    A node that is started anew needs its port back, long after it let go of it.
    """
    first, low = 10_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    if low < first + 1000:  # then the kernel leaves nothing free above those that only root may have
        low = 32_768
    found: list[int] = []
    for port in random.SystemRandom().sample(range(first, low), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no port is free")


def example(name: str, nodes: list[Ports], http: int, grpc: int) -> str:
    """Give the example of a load balancer that listens on these ports, before these nodes."""
    if name == "nginx":
        text = _replaced((ROOT / "deployments/nginx/goloves.conf").read_text("utf-8"), nodes)
        text = _once(text, "    listen 8080;", f"    listen 127.0.0.1:{http};")
        return _once(text, "    listen 50051 http2;", f"    listen 127.0.0.1:{grpc} http2;")
    text = _replaced((ROOT / "deployments/haproxy/haproxy.cfg").read_text("utf-8"), nodes)
    text = _once(text, "bind :8080", f"bind 127.0.0.1:{http}")
    return _once(text, "bind :50051", f"bind 127.0.0.1:{grpc}")


def nginx_configuration(directory: Path) -> str:
    """Give what stands around nginx's example, which is in this directory."""
    return NGINX.format(dir=directory)


class Proxy:
    """A load balancer in front of two nodes."""

    def __init__(self, name: str, directory: Path, nodes: list[Ports]) -> None:
        program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            pytest.skip(f"{name} is not installed: its example was not run")
        self.name = name
        self.http, self.grpc = lasting_ports(2)
        self.log = directory / "log"
        text = example(name, nodes, self.http, self.grpc)
        if name == "nginx":
            (directory / "goloves.conf").write_text(text, "utf-8")
            (directory / "nginx.conf").write_text(nginx_configuration(directory), "utf-8")
            command = [program, "-p", str(directory), "-e", str(self.log), "-c", str(directory / "nginx.conf")]
        else:
            (directory / "haproxy.cfg").write_text(text, "utf-8")
            command = [program, "-db", "-f", str(directory / "haproxy.cfg")]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for port in (self.http, self.grpc):
            while True:
                assert self.process.poll() is None, self.log.read_text("utf-8")
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, self.log.read_text("utf-8")
                    time.sleep(0.02)

    def stop(self) -> None:
        """Make sure that nothing is left of it."""
        self.process.kill()
        self.process.wait(PATIENCE)


def _replaced(text: str, nodes: list[Ports]) -> str:
    for number, (http, grpc) in enumerate(nodes, 1):
        for was, port in ((f"goloves-{number}:8080", http), (f"goloves-{number}:50051", grpc)):
            assert was in text, f"{was} is not in the example"
            text = text.replace(was, f"127.0.0.1:{port}")
    return text


def _once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} stands in the example {text.count(old)} times"
    return text.replace(old, new)
