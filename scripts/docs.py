"""Holds the pages to their word: `python scripts/docs.py [--no-run] [PAGE …]`, which is `make docs`.

- Links lead to files and headings that exist, and so does each file that is named by its path.
- Blocks of `sh` and `python` run, in the order of their page, in a directory and beside a server of its own; blocks
  of `sql` run on a database of its own. What follows as `text` is what the block before it prints; `…` stands for
  anything. `<!-- not run: why -->` before a block leaves it out.
- Blocks of `json` and `toml` can be read, the latter as a configuration. Those of other languages name the test that
  compiles them (COMPILED), or are of a kind that nothing here can run (SHOWN).
- Each `goloves …` and `make …` that a page names can be given.
- A section with a figure (so many a second, so many µs) names the command that gives it, or its page's beginning does.

A block that is indented by four spaces is one of `sh` if it begins with a command, and else for reading.
"""

import argparse
import contextlib
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

PATIENCE = 120.0
"""Seconds for a block, and for a server to become ready: ten times and more what any takes."""

COMPILED = {("docs/grpc-api.md", language): "tests/conformance/test_grpc_clients.py" for language in ("go", "java")}
"""Blocks that a test compiles and runs."""

SHOWN = frozenset({"text", "http", "haproxy", "nginx", "ini", "yaml"})
"""Languages of blocks that are only shown."""

SERVERS = re.compile(r"(?:make run|(?:\.venv/bin/)?goloves serve|haproxy) ?")
"""How lines begin that run until they are stopped."""

MADE = frozenset({"benchmarks/results/latest.json"})
"""Files that come with a command that the page names beside them."""

COMMAND = re.compile(r"(?:\.venv/bin/\S+|goloves|make|curl|grpcurl|sqlite3|python3?|pip|apt-get|zkCli\.sh) ")
"""How an indented block begins that is for a shell; others are for reading."""

PORTS = re.compile(r"(?<=[.\w\]]:)(8000|80[89][01]|5005[12]|3306|5432)\b")
"""Ports of pages; each stands for a free one."""

FIGURE = re.compile(
    r"\d[\d,.]* (?:million )?(?:requests|calls|ids|answers|refills) (?:a|per) second|\d[\d,.]*(?:/s\b| ?µs)"
)


@dataclass
class Block:
    """A block of a page."""

    line: int
    language: str
    text: str
    left_out: str = ""
    """Why it is not run, where the page says so."""


@dataclass
class Page:
    """A page, and what is wrong with it."""

    path: Path
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text = self.path.read_text(encoding="utf-8")
        self.name = str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else self.path.name

    @property
    def blocks(self) -> list[Block]:
        """The blocks between fences."""
        found = list(self._indented())
        pattern = r"^(?:<!-- not run: (.+?) -->\n+)?```([^\n]*)\n(.*?)^```$"
        for match in re.finditer(pattern, self.text, re.MULTILINE | re.DOTALL):
            line = self.text.count("\n", 0, match.start(2)) + 1
            found.append(Block(line, match[2].strip(), match[3], match[1] or ""))
        return sorted(found, key=lambda block: block.line)

    def _indented(self) -> Iterator[Block]:
        """Give the blocks that are indented and begin with a command."""
        pattern = r"^(?:<!-- not run: (.+?) -->\n+)?((?: {4}.*(?:\n|\Z))+)"
        blank = re.sub(
            r"^```.*?^```$", lambda fence: re.sub(".", "-", fence[0]), self.text, flags=re.MULTILINE | re.DOTALL
        )
        for match in re.finditer(pattern, blank, re.MULTILINE):
            text = re.sub(r"^ {4}", "", match[2], flags=re.MULTILINE)
            if COMMAND.match(text):
                yield Block(self.text.count("\n", 0, match.start(2)) + 1, "sh", text, match[1] or "")

    @property
    def prose(self) -> str:
        """The page without its blocks between fences."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def wrong(self, what: str, line: int | None = None) -> None:
        """Note a fault."""
        self.faults.append(f"{self.name}{f':{line}' if line else ''}: {what}")


# --- links ---


def anchors(text: str) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", prose, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (anchor := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(anchor)
    return found


def check_links(page: Page) -> None:
    """Follow each link that leads to a file."""
    for target in re.findall(r"\]\(([^)\s]+)\)|^\[[^]]+\]: (\S+)$", page.prose, re.MULTILINE):
        link = target[0] or target[1]
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        file = page.path.parent / name if name else page.path
        if not file.exists():
            page.wrong(f"the link {link} leads nowhere")
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            page.wrong(f"the link {link}: there is no such heading")
    for text, label in re.findall(r"\[([^]\[]+)\]\[([^]]*)\]", page.prose):
        if not re.search(rf"^\[{re.escape(label or text)}\]: ", page.text, re.MULTILINE):
            page.wrong(f"the link [{text}][{label}] has no address")


def check_paths(page: Page) -> None:
    """Look for each file of the repository that a page names."""
    roots = "api|benchmarks|configs|deployments|docs|scripts|src|tests"
    for name in re.findall(rf"`((?:{roots})/[\w./-]*)`", page.prose):
        if not (ROOT / name).exists() and name not in MADE:
            page.wrong(f"there is no {name}")


# --- commands ---


def commands(page: Page) -> Iterator[str]:
    """Give each command of Goloves or make that a page names, in a block or in a sentence."""
    for line in page.text.splitlines():
        shown = line.removeprefix("    ")
        if line != shown and re.match(r"(?:\.venv/bin/)?(goloves|make) [a-z]", shown):
            yield re.sub(r"\s+#.*$", "", shown).removeprefix(".venv/bin/")
    for block in page.blocks:
        if block.language == "sh":
            lines = re.findall(r"^(?:\.venv/bin/)?((?:goloves|make) [a-z].*)", block.text, re.MULTILINE)
            yield from (re.sub(r"\s+#.*$", "", line) for line in lines)
    flowing = re.sub(r"\s+", " ", page.prose)
    yield from (found for found in re.findall(r"`((?:goloves|make) [^`]+)`", flowing) if "…" not in found)


def can_be_given(line: str) -> str:
    """Try whether a command line is one; gives what is wrong with it."""
    from goloves.cli import main

    words = shlex.split(re.sub(r"\$\([^)]*\)", "1", line), comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return "" if words[1] in targets else f"make has no {words[1]}"
    words = ["1" if word in ("N", "SECONDS") else word for word in words[1:]]
    command: click.Command = main
    context = None
    try:
        while isinstance(command, click.Group) and words:
            context = command.make_context(command.name or "goloves", words, parent=context)
            _, found, words = command.resolve_command(context, [*context._protected_args, *context.args])
            if found is None:
                return "there is no such command"
            command = found
        if words or not (isinstance(command, click.Group) or any(each.required for each in command.params)):
            command.make_context(command.name or "", words, parent=context)
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
        return ""
    except click.UsageError as error:
        return error.format_message()
    return ""


def check_commands(page: Page) -> None:
    """Try each command."""
    for line in sorted(set(commands(page))):
        with contextlib.redirect_stdout(None):
            fault = can_be_given(line)
        if fault:
            page.wrong(f"`{line}`: {fault}")


# --- figures ---


def check_figures(page: Page) -> None:
    """Look for figures whose section names no command."""
    if page.path.parent.name == "adr":
        return  # what was measured when it was decided
    beginning, *sections = re.split(r"^(?=#{2,6} )", page.prose, flags=re.MULTILINE)
    source = re.compile(
        r"`make (?:bench|faults|image-test)|^    make (?:bench|faults)|`python -m benchmarks", re.MULTILINE
    )
    if source.search(beginning):
        return
    for section in [beginning, *sections]:
        figure = FIGURE.search(section)
        if figure and not source.search(section):
            page.wrong(f"the figure {figure[0]!r} names no command that gives it ({section.splitlines()[0]})")


# --- blocks ---


def check_blocks(page: Page) -> None:
    """Look at each block that is not run."""
    for block in page.blocks:
        for test in re.findall(r"tests/[\w/]+\.py", block.left_out):
            if not (ROOT / test).exists():
                page.wrong(f"it says that {test} runs it, which is not there", block.line)
        if not block.language:
            page.wrong("the block does not say what it is", block.line)
        elif test := COMPILED.get((page.name, block.language)):
            if page.name not in (ROOT / test).read_text() and page.path.name not in (ROOT / test).read_text():
                page.wrong(f"{test} does not look at this page", block.line)
        elif block.language == "json":
            check_json(page, block)
        elif block.language == "toml":
            check_settings(page, block)
        elif block.language not in SHOWN | {"sh", "python", "sql"} and not block.left_out:
            page.wrong(f"nothing is known of blocks of {block.language!r}", block.line)


def check_json(page: Page, block: Block) -> None:
    """Read a block of JSON."""
    try:
        json.loads(block.text)
    except ValueError as error:
        page.wrong(f"no JSON: {error}", block.line)


def check_settings(page: Page, block: Block) -> None:
    """Read a block of TOML as a configuration; files that it names need not be there."""
    from goloves.config.load import load
    from goloves.errors import ConfigError

    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(block.text)
        file.flush()
        try:
            load(Path(file.name), {}, {})
        except ConfigError as error:
            for problem in str(error).splitlines():
                if "_file" not in problem:
                    page.wrong(problem.strip(), block.line)


# --- blocks that run ---


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
        if shown not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[shown] = probe.getsockname()[1]
        return self._ports[shown]

    def here(self, text: str) -> str:
        """Put the free ports in the place of a page's."""
        return PORTS.sub(lambda match: str(self.port(match[1])), text)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of every command: the default addresses are free ones, too."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}
        return inherited | {
            "PATH": f"{self.directory}/.venv/bin:{os.environ['PATH']}:/usr/sbin",
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
        shown = "8000" if words.startswith("haproxy") else named[1] if named else "8080"
        if shown in self._servers:
            self._end(self._servers.pop(shown))
        script = "\n".join([*self._exports, f"exec {self.here(words)}"])
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
        deadline = time.monotonic() + PATIENCE
        while not _answers(address):
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


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def run_blocks(page: Page) -> int:
    """Run a page's blocks from its beginning to its end; gives how many."""
    session, count = Session(), 0
    try:
        before, printed = -1, ""
        for place, block in enumerate(page.blocks):
            if block.language == "text" and before == place - 1:
                if not agrees(printed, block.text):
                    page.wrong(f"the block before this one prints: {printed.strip()}", block.line)
            elif block.language in ("sh", "python", "sql") and not block.left_out:
                run = {"sh": session.run, "python": session.python, "sql": session.sql}[block.language]
                printed, before = run(block.text), place
                count += 1
    except (Wrong, AssertionError, subprocess.TimeoutExpired) as error:
        page.wrong(str(error), block.line)
    finally:
        session.close()
    return count


# --- all of it ---


def pages() -> list[Path]:
    """Give the pages of the repository that are for readers."""
    named = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "*.md"],
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in named.stdout.split() if not name.startswith("tests/")]


def look(path: Path) -> Page:
    """Look at all of a page that need not run."""
    page = Page(path)
    for check in (check_links, check_paths, check_commands, check_figures, check_blocks):
        check(page)
    return page


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Holds the pages to their word.")
    parser.add_argument("--no-run", action="store_true", help="run no block")
    parser.add_argument("pages", nargs="*", type=Path, help="all of the repository's, if none is named")
    options = parser.parse_args()
    faults, count = [], 0
    for path in [each.resolve() for each in options.pages] or pages():
        page = look(path)
        if not options.no_run:
            count += run_blocks(page)
        faults += page.faults
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    if not options.no_run and not options.pages and count < 20:
        faults.append("hardly any block was run")
    sys.stdout.write(f"{count} blocks were run, {len(faults)} faults\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
