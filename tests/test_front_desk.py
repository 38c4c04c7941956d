"""What `make` and CI do when something is wrong: the scripts run here as they are, with `make` or `python` replaced."""

import os
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
    """`.ci/run` in a place of its own, over a `make` that knows some targets and answers as it is told."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.cases = ""
        program(place / ".ci" / "run", "").write_text((ROOT / ".ci" / "run").read_text())
        (place / ".ci" / "run").chmod(0o755)

    def target(self, name: str, says: str = "", status: int = 0) -> None:
        self.cases += f"{name}) echo '{says}'; exit {status} ;;\n"

    def run(self) -> tuple[int, list[str]]:
        make = f"""
if [ "$1" = --dry-run ]; then shift; set -- "$1" dry; fi
case $2:$1 in dry:*) case $1 in {self._names()}) exit 0 ;; esac ;; esac
case $1 in
{self.cases}*) echo "make: *** No rule to make target '$1'.  Stop."; exit 2 ;;
esac"""
        program(self.place / "bin" / "make", make)
        done = run(self.place / ".ci" / "run", cwd=self.place, first_on_path=self.place / "bin")
        return done.returncode, done.stdout.splitlines()

    def _names(self) -> str:
        return "|".join(line.split(")")[0] for line in self.cases.splitlines())


@pytest.fixture
def ci(tmp_path: Path) -> Ci:
    return Ci(tmp_path)


def test_ci_passes_and_closes_with_the_count_of_tests(ci: Ci) -> None:
    ci.target("lint")
    ci.target("test", "===== 123 passed, 2 xfailed, 1 warning in 200.21s (0:03:20) =====")
    assert ci.run()[0] == 0
    assert ci.run()[1][-1] == "123 passed, 0 failed, 0 skipped"


def test_ci_runs_the_later_checks_where_make_knows_them_and_adds_up_their_tests(ci: Ci) -> None:
    ci.target("lint")
    ci.target("test", "===== 100 passed, 3 skipped in 20.21s =====")
    ci.target("faults", "===== 7 passed in 3.00s =====")
    status, lines = ci.run()
    assert status == 0
    assert lines[-1] == "107 passed, 0 failed, 3 skipped"
    assert "== make faults" in lines
    assert "== make conformance" not in lines


def test_ci_fails_when_the_tests_fail_and_says_so(ci: Ci) -> None:
    ci.target("lint")
    ci.target("test", "===== 2 failed, 100 passed, 1 error in 20.21s =====", status=2)
    status, lines = ci.run()
    assert status == 1
    assert lines[-2:] == ["== FAILED: make test failed with status 2", "100 passed, 3 failed, 0 skipped"]


def test_ci_goes_on_to_the_tests_when_lint_fails_and_fails(ci: Ci) -> None:
    ci.target("lint", status=2)
    ci.target("test", "===== 100 passed in 20.21s =====")
    status, lines = ci.run()
    assert status == 1
    assert lines[-2:] == ["== FAILED: make lint failed with status 2", "100 passed, 0 failed, 0 skipped"]


def test_ci_fails_when_no_test_was_run(ci: Ci) -> None:
    ci.target("lint")
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
