"""A program that forks while it issues ids by itself: the child has none of its parent's grants (P2)."""

import json
import os
import subprocess
import sys
from pathlib import Path

from faults.conftest import Note
from faults.ground import Ground
from faults.nodes import PATIENCE, SOURCE

PROGRAM = Path(__file__).parent / "forking.py"


def test_p2_a_child_is_refused_its_parent_s_ids_and_gets_its_own_from_a_service_of_its_own(
    ground: Ground, note: Note
) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), ground.url],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    numbers = [number for each in told for number in each["numbers"]]
    ids = [id_ for each in told for id_ in each["ids"]]
    children = [each for each in told if each["who"] == "child"]
    assert len(children) == 5
    assert len(numbers) == len(set(numbers)), "numbers were repeated"
    assert len(ids) == len(set(ids)), "ids were repeated"
    for child in children:
        assert child["held"] == [None, None], "the child took from its parent's grants"
        assert len(child["refused"]) == 2
        assert all("forked child" in words for words in child["refused"])
    note(forks=len(children), numbers=len(numbers), ids=len(ids))
    assert len(numbers) > 5_000
    assert len(ids) > 5_000
