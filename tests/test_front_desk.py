"""What `make` and CI do when something is wrong: the scripts run here as they are, with `make` or `python` replaced."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run(*command: str | Path, cwd: Path, first_on_path: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{first_on_path}:{os.environ['PATH']}", "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


class Ci:
    """`.ci/run` in a place of its own, over a `make` that answers as it is told; what was not told passes silently."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.script = (ROOT / ".ci" / "run").read_text()
        self.cases = ""

    def target(self, name: str, says: str = "", status: int = 0) -> None:
        self.cases += f"{name}) echo '{says}'; exit {status} ;;\n"

    def run(self) -> tuple[int, list[str]]:
        program(self.place / ".ci" / "run", "").write_text(self.script)
        program(self.place / "bin" / "make", f"case $1 in\n{self.cases}esac")
        done = run(self.place / ".ci" / "run", cwd=self.place, first_on_path=self.place / "bin")
        return done.returncode, done.stdout.splitlines()


@pytest.fixture
def ci(tmp_path: Path) -> Ci:
    return Ci(tmp_path)


def test_ci_runs_every_check_that_the_makefile_has(ci: Ci) -> None:
    ci.target("test", "===== 1 passed in 0.21s =====")
    status, lines = ci.run()
    assert status == 0
    run = [line.removeprefix("== make ") for line in lines if re.fullmatch("== make [a-z-]+", line)]
    makefile = (ROOT / "Makefile").read_text()
    checks = {"lint", "test", "conformance", "faults", "image-test", "docs", "release-check"}
    assert run == [name for name in run if name in checks]
    assert set(run) == {name for name in checks if re.search(rf"^{name}:", makefile, re.MULTILINE)}


def test_ci_is_over_before_it_is_ended_from_outside() -> None:
    limits = re.findall(r"^check '[^']+' (\d+) (\d+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert sum(int(limit) for _, limit in limits) < 90
    assert all(int(budget) < int(limit) for budget, limit in limits)


def test_ci_closes_with_the_count_of_all_tests_of_pytest_and_of_the_image(ci: Ci) -> None:
    ci.target("test", "===== 100 passed, 3 skipped, 2 xfailed, 1 warning in 200.21s (0:03:20) =====")
    ci.target("faults", "===== 7 passed in 3.00s =====")
    ci.target("image-test", "23 passed, 0 failed")
    status, lines = ci.run()
    assert status == 0
    assert lines[-1] == "130 passed, 0 failed, 3 skipped"


def test_ci_fails_when_the_image_does(ci: Ci) -> None:
    ci.target("test", "===== 100 passed in 20.21s =====")
    ci.target("image-test", "5 passed, 1 failed", status=2)
    status, lines = ci.run()
    assert status == 1
    assert re.fullmatch("== FAILED: make image-test failed with status 2 after [0-9]+ s", lines[-2])
    assert lines[-1] == "105 passed, 1 failed, 0 skipped"


def test_ci_says_which_check_took_longer_than_its_budget(ci: Ci) -> None:
    ci.script = re.sub(r"'make test' \d+", "'make test' 0", ci.script)
    ci.target("test", "===== 100 passed in 20.21s =====")
    ci.cases = ci.cases.replace("test) ", "test) sleep 1.1; ")  # work that takes longer than no time
    status, lines = ci.run()
    assert status == 0
    assert re.fullmatch("== TOO SLOW: make test took [0-9]+ s; its budget is 0 minutes", lines[-2])


def test_ci_fails_when_the_tests_fail_and_says_so(ci: Ci) -> None:
    ci.target("test", "===== 2 failed, 100 passed, 1 error in 20.21s =====", status=2)
    status, lines = ci.run()
    assert status == 1
    assert re.fullmatch("== FAILED: make test failed with status 2 after [0-9]+ s", lines[-2])
    assert lines[-1] == "100 passed, 3 failed, 0 skipped"


def test_ci_goes_on_to_the_tests_when_lint_fails_and_fails(ci: Ci) -> None:
    ci.target("lint", status=2)
    ci.target("test", "===== 100 passed in 20.21s =====")
    status, lines = ci.run()
    assert status == 1
    assert re.fullmatch("== FAILED: make lint failed with status 2 after [0-9]+ s", lines[-2])
    assert lines[-1] == "100 passed, 0 failed, 0 skipped"


def test_ci_fails_when_no_test_was_run(ci: Ci) -> None:
    ci.target("test", "no tests ran in 0.01s")
    status, lines = ci.run()
    assert status == 1
    assert "== FAILED: no test was run" in lines


def test_a_python_that_is_not_there_or_too_old_is_named_with_what_to_do(tmp_path: Path) -> None:
    missing = run(ROOT / "scripts" / "venv", "python9", cwd=tmp_path, first_on_path=tmp_path)
    assert missing.returncode == 1
    assert "there is no python9 here" in missing.stderr
    assert "make PYTHON=" in missing.stderr

    old = program(tmp_path / "old", "case $2 in *print*) echo 3.9 ;; *) exit 1 ;; esac")
    refused = run(ROOT / "scripts" / "venv", old, cwd=tmp_path, first_on_path=tmp_path)
    assert refused.returncode == 1
    assert "is Python 3.9; Goloves needs 3.11 or newer" in refused.stderr


def test_a_python_that_cannot_make_environments_is_told_which_package_it_lacks(tmp_path: Path) -> None:
    bare = program(tmp_path / "bare", "case $2 in *print*) echo 3.11 ;; *ensurepip*) exit 1 ;; esac")
    program(tmp_path / "scripts" / "apt-install", "exit 1")
    refused = run(ROOT / "scripts" / "venv", bare, cwd=tmp_path, first_on_path=tmp_path)
    assert refused.returncode == 1
    assert "apt-get install python3.11-venv" in refused.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("pytest.skip('no database')", "1 failed"),
        ("pass", "1 passed"),
    ],
)
def test_a_test_that_is_left_out_fails_in_ci(tmp_path: Path, body: str, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(f"import pytest\ndef test_it() -> None:\n    {body}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".", "."],
        env={**os.environ, "CI": "true", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome in done.stdout, done.stdout
