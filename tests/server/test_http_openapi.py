"""The contract in `api/http/openapi.yaml`, held against a node by schemathesis."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from goloves import errors
from goloves.config import SnowflakeConfig
from goloves.errors import GolovesError
from goloves.server.http.answers import STATUS
from goloves.server.http.protocol import CODES, OVER
from server.live import PATIENCE, LiveNode

OPTIONS = [
    "--checks=all",
    "--exclude-checks=use_after_free",
    "--max-examples=50",
    "--generation-deterministic",
    "--request-timeout=60",
    "--no-color",
    "--suppress-health-check=all",
]
"""Its health checks judge how fast it makes up data, which says nothing about the node on a busy machine. Leaf's route
answers DELETE like GET, so that nothing is deleted and nothing used after it. The same requests are made up each time,
so that a failure is one of the change under test."""

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "api" / "http" / "openapi.yaml"

NEVER_ANSWERED = {
    # of commands
    *("config", "tag_exists"),
    # a client is told `no_window`, and why
    *("clock_ahead", "no_worker_free", "window_lost"),
    # of branches of the tree: what happens stands below them
    *("unavailable", "not_found", "limit_exceeded", "exhausted"),
}
"""Codes of errors that no answer has: they are for the log, and for those who use the library."""


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    said = tmp_path / "said"
    # Nothing of it is held to a bar of coverage, and tracing makes it three times slower.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with LiveNode(snowflake=SnowflakeConfig(deadline=PATIENCE)) as node, said.open("w") as output:
        try:
            code = subprocess.run(
                [program, "run", CONTRACT, f"--url=http://127.0.0.1:{node.port}", *OPTIONS],
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=output,
                check=False,
                timeout=300,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    text = said.read_text("utf-8")
    assert code == 0, text
    passed = re.search(r"(\d+) generated, (\d+) passed", text)
    assert passed is not None
    assert int(passed[1]) == int(passed[2]) > 1000


# --- codes ---


def answered() -> dict[str, set[int]]:
    """Give each code that an answer can have, with its statuses, as the code of the server has them."""
    found: dict[str, set[int]] = {}
    for kind in every_error():
        if kind.code not in NEVER_ANSWERED:
            found.setdefault(kind.code, set()).add(next(status for base, status in STATUS if issubclass(kind, base)))
    for status, code in CODES.items():
        found.setdefault(code, set()).add(status)
    for status, _ in OVER.values():
        found.setdefault("too_many_connections", set()).add(status)
    for path in (ROOT / "src" / "goloves" / "server" / "http").glob("*.py"):
        for number, code in re.findall(r'problem\((\d+|status), "([a-z_]+)"', path.read_text("utf-8")):
            found.setdefault(code, set()).update({int(number)} if number.isdecimal() else ())
    return found


def every_error() -> list[type[GolovesError]]:
    return [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, GolovesError)]


def test_the_contract_names_each_code_that_an_answer_can_have() -> None:
    problem = yaml.safe_load(CONTRACT.read_text("utf-8"))["components"]["schemas"]["Problem"]
    named = problem["properties"]["code"]["enum"]
    assert len(named) == len(set(named)) > 30
    assert set(named) == set(answered())


def test_the_page_says_of_each_code_its_status_and_what_to_do() -> None:
    page = (ROOT / "docs" / "http-api.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| ([\d, ]+) \| (.+) \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) == len({code for code, *_ in rows})
    assert {code: {int(each) for each in statuses.split(",")} for code, statuses, *_ in rows} == answered()
    assert all(len(happened) > 10 and len(to_do) > 5 for _, _, happened, to_do in rows)


def test_a_code_that_is_never_answered_is_one_that_there_is() -> None:
    assert {kind.code for kind in every_error()} > NEVER_ANSWERED
