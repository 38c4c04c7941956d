"""Holds the packages to their word: `python scripts/release-check.py [--quick]`, which is `make release-check`.

Quick: two builds of the same files, in different places, time zones and umasks, are the same bytes; the source package
builds the same wheel; the wheel holds what it should. In full, besides: the wheel with each extra and the source
package install into clean environments, with the pinned versions of what they need, and do what they are for.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PATIENCE = 600.0
"""Seconds for a build or an installation: ten times and more what any takes."""

AT_ONCE = 2
"""Environments made at once: each waits for its downloads half of the time."""

EPOCH = "1700000000"
"""Any moment: what is compared is that nothing else shows in the packages."""

IN_WHEEL = (
    "goloves/py.typed",
    "goloves/cli/__init__.py",
    "goloves/stores/migrations/script.py.mako",
    "goloves/stores/migrations/versions/v0001_the_first_tables.py",
    "goloves/v1/goloves_pb2.pyi",
    "goloves-{version}.data/data/share/man/man1/goloves.1",
    "goloves-{version}.data/data/share/man/man1/goloves-serve.1",
    "goloves-{version}.dist-info/entry_points.txt",
    "goloves-{version}.dist-info/licenses/LICENSE",
)

IN_SOURCE = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "docs/README.md",
    "configs/goloves.toml",
    "man/man1/goloves.1",
)

WORKS = {
    "": ["goloves.cli"],
    "server": ["aiosqlite", "alembic", "uvloop", "starlette", "goloves.server.node"],
    "mysql": ["asyncmy", "cryptography", "goloves.server.node"],
    "postgres": ["asyncpg", "goloves.server.node"],
    "grpc": ["grpc", "goloves.v1.goloves_pb2_grpc"],
    "all": ["asyncmy", "asyncpg", "grpc", "goloves.server.node"],
}
"""By extra: modules that can be imported then."""


class Wrong(Exception):
    """A package is not what it should be."""


def run(*command: str | Path, cwd: Path | None = None, umask: int = -1, **variables: str) -> str:
    """Run a command; gives what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        umask=umask,
        check=False,
    )
    if done.returncode != 0:
        raise Wrong(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def build(
    files: Path, target: Path, *, what: tuple[str, ...] = (), umask: int = 0o022, zone: str = "UTC"
) -> list[Path]:
    """Build packages from a directory; gives them, sorted by name."""
    run(
        *(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", target, files),
        cwd=target.parent,
        umask=umask,
        TZ=zone,
        SOURCE_DATE_EPOCH=EPOCH,
    )
    return sorted(target.iterdir())


def copy(target: Path, umask: int) -> Path:
    """Copy the files of the repository, as a clone with this umask would have them."""
    names = run("git", "-C", ROOT, "ls-files", "-z").split("\0")
    for name in filter(None, names):
        source, copied = ROOT / name, target / name
        if source.is_file():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copied)
            copied.chmod((0o777 if os.access(source, os.X_OK) else 0o666) & ~umask)
    return target


def digest(path: Path) -> str:
    """Give a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def quick(work: Path) -> list[Path]:
    """Build, compare and look inside; gives source package and wheel."""
    first = build(copy(work / "here", 0o022), work / "dist-1")
    second = build(copy(work / "elsewhere" / "deep", 0o077), work / "dist-2", umask=0o077, zone="Asia/Shanghai")
    if [path.name for path in first] != [path.name for path in second]:
        raise Wrong(f"two builds give {first} and {second}")
    for one, other in zip(first, second, strict=True):
        if digest(one) != digest(other):
            raise Wrong(f"two builds of {one.name} differ")
    wheel, source = first
    with tarfile.open(source) as archive:
        names = archive.getnames()
        archive.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    (again,) = build(unpacked, work / "dist-3", what=("--wheel",))
    if digest(again) != digest(wheel):
        raise Wrong("the source package builds another wheel")
    if missing := [name for name in IN_SOURCE if f"{unpacked.name}/{name}" not in names]:
        raise Wrong(f"the source package lacks {missing}")
    look_inside(wheel)
    return first


def look_inside(wheel: Path) -> None:
    """Look whether a wheel holds all that it should, and nothing else."""
    version = wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        described = archive.read(f"goloves-{version}.dist-info/METADATA").decode()
    if missing := [name for each in IN_WHEEL if (name := each.format(version=version)) not in names]:
        raise Wrong(f"the wheel lacks {missing}")
    if foreign := [name for name in names if not name.startswith(("goloves/", f"goloves-{version}."))]:
        raise Wrong(f"the wheel holds {foreign}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = set(re.findall(r"^Provides-Extra: (.+)$", described, re.MULTILINE))
    if offered != set(project["optional-dependencies"]):
        raise Wrong(f"the wheel offers the extras {offered}")
    if set(WORKS) - {""} != offered - {"dev", "bench"}:
        raise Wrong(f"extras that nobody tries: {offered - {'dev', 'bench'} - set(WORKS)}")


def install(package: Path, extra: str, work: Path) -> None:
    """Install a package into an environment of its own, and use it."""
    place = work / f"environment-{package.suffix}-{extra or 'plain'}"
    venv.create(place, with_pip=False)  # this environment's pip installs into it, which saves it one of its own
    pinned = re.findall(r"^([a-z0-9.-]+==\S+)", (ROOT / "requirements" / "server.txt").read_text(), re.MULTILINE)
    constraints = work / f"constraints-{place.name}.txt"
    constraints.write_text("\n".join(pinned) + "\n")
    wanted = f"{package}[{extra}]" if extra else str(package)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", place / "bin" / "python")
    run(*pip, "install", "--no-compile", "-c", constraints, wanted)
    run(*pip, "check")
    here = work / f"use-{package.suffix}-{extra or 'plain'}"
    here.mkdir()
    run(place / "bin" / "python", "-c", f"import {', '.join(WORKS[extra])}", cwd=here)
    goloves = place / "bin" / "goloves"
    run(goloves, "--version", cwd=here)
    if not (place / "share" / "man" / "man1" / "goloves.1").exists():
        raise Wrong("the manual pages were not installed")
    if extra in ("", "grpc"):
        try:
            run(goloves, "migrate", cwd=here)
        except Wrong as error:
            if "pip install 'goloves[server]'" not in str(error):
                raise
        else:
            raise Wrong("without its extra, a command works that can't")
    else:
        run(goloves, "migrate", cwd=here)
        run(goloves, "tag", "create", "order", cwd=here)
        run(goloves, "check", cwd=here)


def installed(work: Path, what: tuple[Path, str]) -> None:
    """As `install`."""
    install(*what, work)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Holds the packages to their word.")
    parser.add_argument("--quick", action="store_true", help="install nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="goloves-release-") as directory:
        work = Path(directory)
        try:
            wheel, source = quick(work)
            sys.stdout.write("".join(f"{digest(path)}  {path.name}\n" for path in (wheel, source)))
            if not options.quick:
                whole = [(wheel, extra) for extra in WORKS] + [(source, "server")]
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    for (package, extra), _ in zip(whole, pool.map(partial(installed, work), whole), strict=True):
                        sys.stdout.write(f"installed {package.name}[{extra}]\n")
        except Wrong as error:
            sys.exit(f"release-check: {error}")


if __name__ == "__main__":
    main()
