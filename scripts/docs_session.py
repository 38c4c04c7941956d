"""What a page's reader has: a directory, terminals, servers, a database. `docs.py` runs the blocks of pages there."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 120.0
"""Seconds for a block, and for a server to become ready: ten times and more what any takes."""

PORTS = re.compile(r"(?<=[.\w\]]:)(8000|80[89][01]|5005[12]|3306|5432)\b")
"""Ports of pages; each stands for a free one."""

SERVERS = re.compile(r"(?:PATH=\S+ )?(?:make run|(?:\.venv/bin/)?goloves serve|haproxy) ?")
"""How lines begin that run until they are stopped."""


class Wrong(Exception):
    """A block does not do what its page says."""


def agrees(printed: str, shown: str) -> bool:
    """Compare what a block printed with what the page shows, in which `…` stands for anything."""
    lines = [".*".join(map(re.escape, line.strip().split("…"))) for line in shown.strip().splitlines()]
    return re.fullmatch(r"\s*\n\s*".join(lines), printed.strip(), re.DOTALL) is not None


class Session:
    """What a page's reader has: a directory, terminals, servers; a database where the page makes one."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="goloves-docs-"))
        self._ports: dict[str, int] = {}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        """By the address that they serve on."""
        self._exports: list[str] = []
        self._database: object = None
        (self.directory / ".curlrc").write_text("silent\nshow-error\n")
        bin_directory = self.directory / ".venv" / "bin"
        bin_directory.mkdir(parents=True)
        for name in ("goloves", "python"):
            (bin_directory / name).symlink_to(Path(sys.executable).parent / name)

    def port(self, shown: str) -> int:
        """Give the free port that stands for one of a page's."""
        while shown not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                chosen = probe.getsockname()[1]
            if chosen not in self._ports.values():  # a port that was let go may be given once more
                self._ports[shown] = chosen
        return self._ports[shown]

    def here(self, text: str) -> str:
        """Put the free ports in the place of a page's."""
        return PORTS.sub(lambda match: str(self.port(match[1])), text)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of every command: the default addresses are free ones, too."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}
        return inherited | {
            "PATH": f"{self.directory}/.venv/bin:{_plain_path()}",
            "GOLOVES_HTTP__LISTEN": self.here("127.0.0.1:8080"),
            "GOLOVES_GRPC__LISTEN": self.here("127.0.0.1:50051"),
            "GOLOVES_ADMIN__LISTEN": self.here("127.0.0.1:8081"),
            "GOLOVES_SERVER": self.here("http://127.0.0.1:8080"),
            "CURL_HOME": str(self.directory),  # its .curlrc
            # The default deadline is for machines that do nothing else.
            "GOLOVES_SEGMENT__DEADLINE": "10",
            "GOLOVES_SNOWFLAKE__DEADLINE": "10",
        }

    def shell(self, text: str) -> str:
        """Run lines of a shell; gives what they print."""
        script = "\n".join([*self._exports, self.here(text)])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            raise Wrong(f"ends with {done.returncode}: {done.stdout}{done.stderr}")
        self._exports += re.findall(r"^export .+$", self.here(text), re.MULTILINE)
        return done.stdout

    def run(self, text: str) -> str:
        """Run a block: servers are left running, other lines are waited for."""
        if not self._servers and re.search(r"localhost:8080|goloves (next|tag)", text) and not SERVERS.match(text):
            self.serve("goloves serve")
        printed, lines, heredoc = "", "", ""
        for line in text.splitlines(keepends=True):
            if not heredoc and SERVERS.match(line):
                printed += self.shell(lines)
                lines = ""
                self.serve(line.strip())
                continue
            lines += line
            if opened := re.search(r"<<'?(\w+)", line):
                heredoc = opened[1]
            elif line.strip() == heredoc:
                heredoc = ""
        return printed + (self.shell(lines) if lines.strip() else "")

    def serve(self, line: str) -> None:
        """Start a server, in the place of the one that had its address, and wait until it serves."""
        words = re.sub(r"^make run(?: ARGS='([^']*)')?", r"goloves serve \1", re.sub(r"\s+#.*$", "", line))
        named = re.search(r"--http 127\.0\.0\.1:(\d+)", words)
        shown = "8000" if "haproxy " in words else named[1] if named else "8080"
        if shown in self._servers:
            self._end(self._servers.pop(shown))
        variables, program = re.fullmatch(r"((?:[A-Z_]+=\S+ )*)(.*)", self.here(words), re.DOTALL).groups()  # type: ignore[union-attr]
        script = "\n".join([*self._exports, f"{variables}exec {program}"])
        log = self.directory / f"server-{shown}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._servers[shown] = server
        address = f"http://127.0.0.1:{self.port(shown)}/readyz"
        # A reader types more slowly than several nodes start.
        whole = f"http://127.0.0.1:{self.port('8081')}/nodes" if "--nodes" in words else ""
        deadline = time.monotonic() + PATIENCE
        while not (_answers(address) and (not whole or _all_are_ready(whole))):
            if server.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"`{line}` does not serve: {log.read_text()}")
            time.sleep(0.05)

    def python(self, text: str) -> str:
        """Run a program."""
        if not self._servers:
            self.serve("goloves serve")
        program = self.directory / "program.py"
        program.write_text(self.here(text))
        return self.shell(f"{shlex.quote(sys.executable)} -W error {program}")

    def sql(self, text: str) -> str:
        """Run SQL as a database's administrator, on a MariaDB or PostgreSQL that stands for the reader's."""
        import databases

        kind = databases.PostgreSql if "SCHEMA" in text or "ROLE" in text else databases.MariaDb
        if not isinstance(self._database, kind):
            self._database = made = kind()
            self._ports["5432" if kind is databases.PostgreSql else "3306"] = made.port
            made.create()
            if kind is databases.MariaDb:
                made.sql(f"DROP USER {databases.USER}@'%'")
            else:
                made.sql(f"DROP ROLE {databases.USER}")
        assert isinstance(self._database, databases.Server)
        return self._database.sql(text)

    def close(self) -> None:
        """End everything."""
        import databases

        for server in self._servers.values():
            self._end(server)
        if isinstance(self._database, databases.Server):
            self._database.remove()
        shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def _end(server: "subprocess.Popen[bytes]") -> None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(PATIENCE)


def _plain_path() -> str:
    """Give where a user who is not root finds programs on Debian: what is in /usr/sbin a page has to name."""
    return ":".join(each for each in os.environ["PATH"].split(":") if not each.rstrip("/").endswith("sbin"))


def _all_are_ready(address: str) -> bool:
    with urllib.request.urlopen(address, timeout=5) as answer:
        return all(node["ready"] for node in json.load(answer)["nodes"])


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
