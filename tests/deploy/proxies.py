"""The examples of load balancers as they stand, before real nodes: only names and ports are the test's."""

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from databases import free_port
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


class Proxy:
    """A load balancer in front of two nodes, each given by its HTTP and gRPC port."""

    def __init__(self, name: str, directory: Path, nodes: list[tuple[int, int]]) -> None:
        program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            pytest.skip(f"{name} is not installed: its example was not run")
        self.name = name
        self.http, self.grpc = free_port(), free_port()
        self.log = directory / "log"
        if name == "nginx":
            example = _with_nodes((ROOT / "deployments" / "nginx" / "goloves.conf").read_text("utf-8"), nodes)
            example = _replaced(example, "listen 8080;", f"listen 127.0.0.1:{self.http};")
            example = _replaced(example, "listen 50051 http2;", f"listen 127.0.0.1:{self.grpc} http2;")
            (directory / "goloves.conf").write_text(example, "utf-8")
            (directory / "nginx.conf").write_text(NGINX.format(dir=directory), "utf-8")
            command = [program, "-p", str(directory), "-e", str(self.log), "-c", str(directory / "nginx.conf")]
        else:
            example = _with_nodes((ROOT / "deployments" / "haproxy" / "haproxy.cfg").read_text("utf-8"), nodes)
            example = _replaced(example, "bind :8080", f"bind 127.0.0.1:{self.http}")
            example = _replaced(example, "bind :50051", f"bind 127.0.0.1:{self.grpc}")
            (directory / "haproxy.cfg").write_text(example, "utf-8")
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


def _with_nodes(text: str, nodes: list[tuple[int, int]]) -> str:
    for number, (http, grpc) in enumerate(nodes, 1):
        text = _replaced(text, f"goloves-{number}:8080", f"127.0.0.1:{http}")
        text = _replaced(text, f"goloves-{number}:50051", f"127.0.0.1:{grpc}")
        # HAProxy's check of the gRPC listener asks over HTTP.
        text = re.sub(rf"(127\.0\.0\.1:{grpc} .*) port 8080", rf"\1 port {http}", text)
    return text


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} stands in the example {text.count(old)} times"
    return text.replace(old, new)
