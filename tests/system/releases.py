"""Earlier versions of Goloves, built from the history and kept in .cache/, to run beside this one."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BUILDING = 300.0
"""Seconds for a build: ten times and more what it takes on two busy cores."""


def release(commit: str) -> Path:
    """Give the directory in which the version of a commit is installed, to be named as PYTHONPATH.

    Fails where the commit is missing: a history that was cut short would leave the test out without a word. Where there
    is no history at all, as in a source package, the test is skipped and says so.
    """
    if not (ROOT / ".git").exists():
        pytest.skip("a source package has no history to build the release before from; run this in a clone")
    place = ROOT / ".cache" / "releases" / commit
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(prefix="goloves-release-") as directory:
        work = Path(directory)
        _run("git", "-C", str(ROOT), "archive", f"--output={work / 'source.tar'}", commit)
        (work / "source").mkdir()
        _run("tar", "-xf", str(work / "source.tar"), "-C", str(work / "source"))
        _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), str(work / "source"))
        (wheel,) = work.glob("goloves-*.whl")
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=place.parent))
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        _run(*pip, "install", "--no-deps", "--no-index", "--target", str(made), str(wheel))
        try:
            made.rename(place)
        except OSError:  # another worker of this test run was quicker
            shutil.rmtree(made)
    return place


def _run(*command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILDING, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
