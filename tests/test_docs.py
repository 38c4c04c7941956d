"""The pages are true, as far as nothing has to run for it, and `make docs` notices what is wrong in them."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

docs = importlib.import_module("scripts.docs")


def faults(tmp_path: Path, text: str) -> list[str]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return [fault.removeprefix("page.md") for fault in docs.look(page).faults]


@pytest.mark.parametrize("path", docs.pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_keeps_its_word(path: Path) -> None:
    assert docs.look(path).faults == []


def test_every_page_for_readers_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", (ROOT / "docs" / "README.md").read_text()))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


def test_the_readme_begins_with_the_two_commands() -> None:
    commands = re.findall(r"^ {4}make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands[:2] == ["run", "test"]


def test_what_the_page_on_operations_quotes_is_what_is_said() -> None:
    source = " ".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    text = re.sub(r"\s+", " ", (ROOT / "docs" / "operations.md").read_text())
    for said in (
        *("the store went backwards", "it is halted", "store_went_backwards", "clock_ahead"),
        *("the clock of the store stepped back", "worker ids of the space run short"),
        *("the tag's numbers run out", "the layout's time runs out"),
    ):
        assert said in text
        assert said in source, said


def test_the_pages_explain_each_counter_that_nodes_show_and_no_other() -> None:
    from goloves.server.grpc.shared import GrpcCounters
    from goloves.server.http.shared import HttpCounters
    from goloves.service.counters import Counters

    shown = {"node_restarts", "http_requests", "grpc_calls"}
    shown |= {f"http_{name}" for name in HttpCounters.__slots__} | {f"grpc_{name}" for name in GrpcCounters.__slots__}
    shown |= set(Counters.__slots__)
    section = (ROOT / "docs" / "operations.md").read_text().partition("\n### Counters\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`[^|]+) \| (.+) \|$", section, re.MULTILINE)
    explained = [name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)]
    # Those of limits stand with them, which tests/server/test_http_limits.py holds.
    limits = set(re.findall(r"`(http_\w+)`", (ROOT / "docs" / "http-api.md").read_text()))
    assert len(explained) == len(set(explained))
    assert set(explained) | limits == shown


def test_each_test_that_a_page_names_is_there() -> None:
    pages = [ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`(test_[a-z0-9_]+)`", page.read_text())}
    defined = {
        name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 50
    assert named - defined == set()


def test_messages_that_name_a_page_name_one_that_exists() -> None:
    named = {name for path in (ROOT / "src").rglob("*.py") for name in re.findall(r"docs/[\w-]+\.md", path.read_text())}
    assert "docs/migration-from-leaf.md" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


# --- what looks at them ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[there](nowhere.md)", ": the link nowhere.md leads nowhere"),
        ("# A `word`, (two)\n[up](#a-word-two)\n[out](https://example.com/x)\n", ""),
        ("# One\n[up](#two)", ": the link #two: there is no such heading"),
        ("See `tests/nowhere.py` and `docs/README.md`.", ": there is no tests/nowhere.py"),
        ("[one][two]", ": the link [one][two] has no address"),
        ("    goloves nonsense", ": `goloves nonsense`: there is no command 'nonsense'"),
        ("    goloves tag set order --limit 5   # why", ""),
        ("Run `goloves reload\n--rollin` now.", ": `goloves reload --rollin`: No such option '--rollin'"),
        ("    make nonsense", ": `make nonsense`: make has no nonsense"),
        ("It serves 90,000 requests a second.", ": the figure '90,000 requests a second' names no command"),
        ("# A\nMeasure it with `make bench`: 5 µs.", ""),
        ("# A\nMeasure it with `make bench`.\n## B\nIt takes 5 µs.", ": the figure '5 µs' names no command"),
        ("A call takes about 4 KB.", ": the figure 'takes about 4 KB' names no command"),
        ("It needs 1.5 KB a connection.", ": the figure 'needs 1.5 KB' names no command"),
        ("That is 300 ns an id.", ": the figure '300 ns' names no command"),
        ("A unit of 10 ms, and at most 16 KB.", ""),
        ("<!-- figures -->\n90,000/s\n<!-- end of figures -->", ""),
        ("Then:\n\n    GRANT ALL ON x TO y;", ":3: nothing is known of blocks of 'indented SQL'"),
        ("# A\n`make lint`\n## B\nIt takes 15 µs.", ": the figure '15 µs' names no command"),
        ("```\nwhat\n```", ":1: the block does not say what it is"),
        ("text\n```cobol\nwhat\n```", ":2: nothing is known of blocks of 'cobol'"),
        ("```json\n{'a': 1}\n```", ":1: no JSON: "),
        ("```toml\n[segment]\ndedline = 2\n```", ":1: "),
        ("```toml\n[stores]\nurl_file = '/nowhere'\n```", ""),
        ("<!-- not run: tests/nowhere.py runs it -->\n\n    make lint", ":3: it says that tests/nowhere.py runs it"),
        ("```go\npackage main\n```", ":1: nothing is known of blocks of 'go'"),
    ],
)
def test_a_fault_is_found_and_what_is_right_is_none(tmp_path: Path, text: str, says: str) -> None:
    found = faults(tmp_path, text)
    assert len(found) == (1 if says else 0), found
    assert not says or found[0].startswith(says)


def test_a_block_runs_in_the_order_of_its_page_and_what_it_prints_is_compared(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    blocks = [
        "```sh\nexport A=1\necho one > file\n```",
        "```sh\ncat file\necho $A\n```",
        "```text\no…\n1\n```",
        "What is indented and begins with a command runs, too:\n\n    python3 -c 'print(2)'",
        "```text\n2\n```",
        "<!-- not run: it would end this test -->\n```sh\nexit 1\n```",
    ]
    page.write_text("\n\n".join(blocks))
    looked = docs.look(page)
    assert docs.run_blocks(looked) == 3
    assert looked.faults == []
    page.write_text("\n\n".join([*blocks[:2], "```text\ntwo\n```"]))
    looked = docs.look(page)
    docs.run_blocks(looked)
    assert len(looked.faults) == 1
    page.write_text("```sh\necho before\nfalse\n```")
    looked = docs.look(page)
    docs.run_blocks(looked)
    assert "ends with 1: before" in looked.faults[0]


def test_a_page_that_asks_for_ids_meets_a_server_of_its_own(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\ncurl -w '\\n' localhost:8080/api/segment/get/default\n.venv/bin/goloves next default\n```\n\n"
        "```text\n1\n2\n```\n"
    )
    looked = docs.look(page)
    assert docs.run_blocks(looked) == 1
    assert looked.faults == []
