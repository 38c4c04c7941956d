"""The map of rules in docs/guarantees.md is complete and true: code, tests and mutants that it names are there."""

import re
from pathlib import Path

import pytest

from simulation.mutants import MUTANTS
from stores.mutants import SQL_MUTANTS

ROOT = Path(__file__).parents[1]

RULES = [
    *(f"W{number}" for number in range(1, 11)),
    *(f"R{number}" for number in range(1, 9)),
    *("R12", "P1", "P2", "P4", "P5", "P7"),
]


def rows() -> dict[str, list[str]]:
    """Read the table: rule to its other cells."""
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| ([WRP]\d+) \|(.*)\|$", page, re.MULTILINE)
    return {rule: [cell.strip() for cell in rest.split("|")] for rule, rest in lines}


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def names_of_tests() -> set[str]:
    return {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
    }


def test_every_rule_stands_in_the_map() -> None:
    assert list(rows()) == RULES


@pytest.mark.parametrize("rule", RULES)
def test_the_code_that_keeps_a_rule_is_there(rule: str) -> None:
    places = named(rows()[rule][0])
    assert places
    for place in places:
        file, _, name = place.partition(": ")
        path = ROOT / "src" / "goloves" / file
        assert path.exists(), place
        if name:
            defines = rf"^\s*(?:async def|def|class) {name}\b|^{name}\b.* = "
            assert re.search(defines, path.read_text(encoding="utf-8"), re.MULTILINE), place


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_tests_of_its_name(rule: str) -> None:
    (pattern,) = named(rows()[rule][1])
    assert pattern == f"test_{rule.lower()}_*"
    assert any(name.startswith(pattern[:-1]) for name in names_of_tests()), pattern


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_broken_on_purpose_or_the_map_says_why_not(rule: str) -> None:
    cell = rows()[rule][2]
    files = {name for name in named(cell) if name.endswith(".py")}
    assert set(named(cell)) - files <= set(MUTANTS)
    assert named(cell) or len(cell.split()) >= 8, f"{rule} has neither a mutant nor a fault, and no reason"
    for file in files:
        assert rule in faults()[file].split(", "), f"{file} says nothing of {rule}"


def test_every_mutant_stands_in_the_map() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert [name for name in MUTANTS if f"`{name}`" not in page] == []


def test_every_mutant_of_the_sql_stands_in_the_map_with_the_test_that_notices_it() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([wrp]\d+_\w+)` \| `(test_\w+)` \|$", page, re.MULTILINE))
    assert told == {name: mutant.noticed_by.__name__ for name, mutant in SQL_MUTANTS.items()}
    assert {name.partition("_")[0].upper() for name in told} <= set(RULES)


def faults() -> dict[str, str]:
    """Read the table of faults on real processes: file to rules."""
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(test_\w+\.py)` \|.*\| ([WRP0-9, ]+) \|$", page, re.MULTILINE))


def test_every_file_of_faults_stands_in_the_map_with_rules_that_exist() -> None:
    told = faults()
    files = {file.name for file in (ROOT / "tests" / "faults").glob("test_*.py")} - {"test_ledger.py"}
    assert set(told) == files
    for file, rules in told.items():
        assert set(rules.split(", ")) <= set(RULES), file
