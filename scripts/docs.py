"""Holds the pages to their word: `python scripts/docs.py [--no-run] [PAGE …]`, which is `make docs`.

- Links lead to files and headings that exist, and so does each file that is named by its path.
- Blocks of `sh` and `python` run, in the order of their page, in a directory and beside a server of its own; blocks
  of `sql` run on a database of its own. What follows as `text` is what the block before it prints; `…` stands for
  anything. `<!-- not run: why -->` before a block leaves it out.
- Blocks of `json` and `toml` can be read, the latter as a configuration. Those of other languages name the test that
  compiles them (COMPILED), or are of a kind that nothing here can run (SHOWN).
- Each `goloves …` and `make …` that a page names can be given.
- A section with a figure (so many a second, so many µs, so many KB for each) names the command that gives it. Those
  between the marks of `make bench ARGS=--write` come from it.

A block that is indented by four spaces is one of `sh` if it begins with a command, and else for reading: SQL is not
among that, for it can run.
"""

import argparse
import contextlib
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(ROOT / "tests")]

from scripts.docs_session import Session, Wrong, agrees  # noqa: E402

COMPILED = {("docs/grpc-api.md", language): "tests/conformance/test_grpc_clients.py" for language in ("go", "java")}
"""Blocks that a test compiles and runs."""

SHOWN = frozenset({"text", "http", "haproxy", "nginx", "ini", "yaml"})
"""Languages of blocks that are only shown."""

MADE = frozenset({"benchmarks/results/latest.json"})
"""Files that come with a command that the page names beside them."""

COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:\S*/bin/\S+|goloves|make|curl|grpcurl|grpc-health-probe|sqlite3|python3?|pip|apt-get|sed"
    r"|docker|kubectl|haproxy|nginx|zkCli\.sh) "
)
"""How an indented block begins that is for a shell."""

STATEMENT = re.compile(r"(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|GRANT|REVOKE|SET) ")
"""How a statement of SQL begins, which stands in a block that says so."""

_AMOUNT = r"\d[\d,.]* ?(?:ms|KB|MB|GB)\b"
FIGURE = re.compile(
    r"\d[\d,.]* (?:million )?(?:requests|calls|ids|answers|refills) (?:a|per) second"
    r"|\d[\d,.]*(?:/s\b| ?µs| ?ns\b)"
    rf"|\b(?:takes?|took|costs?|saves?|needs?) (?:about |some )?{_AMOUNT}"
    rf"|{_AMOUNT} (?:an?|each|for (?:an?|each))\b"
)
"""What was measured; a section with one names the command that gives it. Limits and units of time look otherwise."""


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
            line = self.text.count("\n", 0, match.start(2)) + 1
            if COMMAND.match(text):
                yield Block(line, "sh", text, match[1] or "")
            elif STATEMENT.match(text):
                yield Block(line, "indented SQL", text, match[1] or "")

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
    written = re.sub(r"^<!-- figures -->$.*?^<!-- end of figures -->$", "", page.prose, flags=re.MULTILINE | re.DOTALL)
    source = re.compile(
        r"`make (?:bench|faults|image-test)|^    make (?:bench|faults)|`python -m benchmarks", re.MULTILINE
    )
    for section in re.split(r"^(?=#{2,6} )", written, flags=re.MULTILINE):
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
