"""The rules that hold for the repository as a whole: who imports whom, what files may say, that papers are true."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

import goloves

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "goloves"

PURE_IMPORTS = frozenset(
    [
        *("__future__", "abc", "collections", "collections.abc", "dataclasses", "enum", "string", "types", "typing"),
        *("base64", "binascii", "hashlib", "re", "struct", "unicodedata", "urllib.parse", "zlib", "msgspec"),
        *("bisect", "functools", "heapq", "itertools", "math", "operator"),
    ]
)
"""What `core/` and `wire/` may use beside each other: none of it reads a clock, draws a number, opens or waits."""

IMPURE_CALLS = frozenset(["open", "input", "print", "exec", "eval", "__import__"])

MAY_IMPORT = {
    "errors": set[str](),
    "core": {"errors"},
    "wire": {"errors"},
    "logger": set(),
    "stores": {"errors", "core", "logger"},
    # A store's URL and a server's limits are described where they are kept; both modules know nobody.
    "config": {"errors", "core", "stores.urls", "server.limits", "server.grpc.limits"},
    "service": {"errors", "core", "config", "logger", "stores.base"},
    "server": {"errors", "core", "config", "logger", "stores", "service", "wire"},
    "admin": {"errors", "logger"},
    "supervisor": {"errors", "core", "config", "log", "logger", "stores.marks", "stores.urls", "server", "admin"},
}
"""Which parts of Goloves a part knows; what is not listed here stands above all of these and may know any of them."""


def tracked(*patterns: str) -> list[Path]:
    """The files that belong to the repository."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *patterns]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return [path for path in map(ROOT.joinpath, filter(None, names)) if path.is_file()]


def modules(part: str) -> list[Path]:
    """The modules of one part of Goloves, be it a package or a file."""
    single = SOURCE / f"{part}.py"
    return [single] if single.exists() else sorted((SOURCE / part).rglob("*.py"))


def imports(module: Path, *, for_types: bool = True) -> Iterator[str]:
    """The modules that a module imports, anywhere in it; `from package import module` is `package.module`."""
    tree = ast.parse(module.read_text())
    if not for_types:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name} imports relatively: {ast.unparse(node)}"
            package = str(node.module)
            for alias in node.names:
                inner = SOURCE.parent.joinpath(*package.split("."), alias.name)
                yield f"{package}.{alias.name}" if inner.is_dir() or inner.with_suffix(".py").exists() else package


def knows(part: str) -> set[str]:
    """Which modules of Goloves the modules of one part import, as `stores.base`."""
    found = {name for module in modules(part) for name in imports(module)}
    return {name.removeprefix("goloves.") for name in found if within(name, "goloves")} - {"goloves"}


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


@pytest.mark.parametrize("part", ["core", "wire", "errors"])
def test_the_pure_parts_import_nothing_that_waits_opens_reads_a_clock_or_draws_a_number(part: str) -> None:
    assert modules(part)
    for module in modules(part):
        for name in imports(module):
            assert name in PURE_IMPORTS or within(name, "goloves"), f"{module} imports {name}"


@pytest.mark.parametrize("part", ["core", "wire", "errors"])
def test_the_pure_parts_open_and_print_nothing(part: str) -> None:
    for module in modules(part):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in IMPURE_CALLS, f"{module} line {node.lineno} calls {node.func.id}()"


@pytest.mark.parametrize("part", ["core", "wire", "errors"])
def test_the_pure_parts_await_nothing(part: str) -> None:
    for module in modules(part):
        for node in ast.walk(ast.parse(module.read_text())):
            waits = isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
            assert not waits, f"{module} line {getattr(node, 'lineno', 0)} waits"


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_dependencies_run_one_way(part: str) -> None:
    for name in knows(part):
        assert any(within(name, known) for known in {part} | MAY_IMPORT[part]), f"{part} imports goloves.{name}"


def test_no_two_modules_need_each_other_to_be_imported() -> None:
    names = {path: ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in SOURCE.rglob("*.py")}
    needs = {name.removesuffix(".__init__"): set(imports(path, for_types=False)) for path, name in names.items()}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        pytest.fail(f"modules that need each other: {' -> '.join(error.args[1])}")
    assert order.index("goloves.errors") < order.index("goloves.service.service")


def test_the_client_needs_no_part_of_the_server() -> None:
    assert not {name for name in knows("client") if within(name, "server") or within(name, "admin")}


def test_nobody_imports_the_command_line() -> None:
    above = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in ("cli", "cli.py")]
    importers = {path.name for path in above if any(within(name, "goloves.cli") for name in imports(path))}
    assert importers == {"__main__.py"}


def test_names_of_modules_say_what_is_in_them() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert not [path for path in tracked("*.py") if path.stem in vague or path.parent.name in vague]


REGISTRIES = [
    *("pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js", "crates" + ".io", "proxy.golang" + ".org"),
    *("repo.maven" + ".apache", "repo1.maven" + ".org", "deb.debian" + ".org", "security.debian" + ".org"),
    *("--index" + "-url", "--extra-index" + "-url", "find" + "-links", "trusted" + "-host"),
]
"""Put together here, so that this file doesn't name them either."""

MACHINE = re.compile(r"(?<![\w.~}-])/(?:home|root|Users)/(?!\.\.\.)\w")


def test_no_file_names_a_package_registry() -> None:
    files = tracked()
    assert len(files) > 20
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not [name for name in REGISTRIES if name in text], f"{path.relative_to(ROOT)} names a package registry"


def test_no_file_names_a_path_of_the_machine_that_it_was_written_on() -> None:
    here = re.compile(rf"{re.escape(str(ROOT))}(?![\w.-])")
    short = len(ROOT.parts) < 3  # in a clone at /src, every /src would look like it
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        found = MACHINE.search(text) or (None if short else here.search(text))
        assert found is None, f"{path.relative_to(ROOT)} names {found.group(0)!r}"


def test_the_license_is_apache_s_own_text() -> None:
    # SHA-256 of the text as the Apache Software Foundation publishes it.
    published = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == published


def test_the_changelog_has_the_version_of_the_package() -> None:
    assert f"## {goloves.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_every_decision_is_in_the_index_of_decisions() -> None:
    pages = {path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    listed = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / "adr" / "README.md").read_text()))
    assert pages == listed


# --- the front desk ---


def targets() -> dict[str, str]:
    """The Makefile's targets with what `make help` says of them."""
    made = re.findall(r"^([a-z][a-z-]*):.*?## (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return dict(made)


def test_make_help_describes_every_command() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == set(targets())
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for target, words in targets().items():
        assert re.search(rf"^make {target} +{re.escape(words)}$", shown, re.MULTILINE), f"make help lacks {target}"


# --- requirements ---


def pins(name: str) -> dict[str, tuple[str, int]]:
    """Each package of a requirements file with its version and how many hashes it has."""
    found: dict[str, tuple[str, int]] = {}
    package = ""
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        if pinned := re.match(r"([a-z0-9.-]+)==(\S+)(?: ;.+)? \\$", line):
            package = pinned.group(1)
            found[package] = (pinned.group(2), 0)
        elif re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line):
            found[package] = (found[package][0], found[package][1] + 1)
        else:
            assert not line.strip() or line.lstrip().startswith("#"), f"{name}.txt says {line!r}"
    return found


def wanted(extra: str) -> set[str]:
    """The packages that pyproject.toml names for an extra, its own extras followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {re.split(r"[^\w.-]", line)[0] for line in project["dependencies"]}
    for line in project["optional-dependencies"][extra]:
        if own := re.fullmatch(r"goloves\[(.+)\]", line):
            found |= {name for inner in own.group(1).split(",") for name in wanted(inner)}
        else:
            found.add(re.split(r"[^\w.-]", line)[0])
    return {name.lower().replace("_", "-") for name in found}


@pytest.mark.parametrize(("name", "extra"), [("server", "all"), ("dev", "dev")])
def test_every_requirement_is_pinned_with_hashes(name: str, extra: str) -> None:
    pinned = pins(name)
    assert wanted(extra) | {"hatchling", "editables"} <= set(pinned)
    assert not [package for package, (_, hashes) in pinned.items() if not hashes]


def test_tests_run_with_the_versions_that_servers_run_with() -> None:
    server, dev = pins("server"), pins("dev")
    assert {package: dev.get(package) for package in server} == server


def test_hooks_fetch_nothing() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}
    assert {hook["language"] for repo in hooks["repos"] for hook in repo["hooks"]} == {"system"}


EXTRAS = {
    *("aiosqlite", "alembic", "asyncmy", "asyncpg", "cryptography", "google", "grpc", "sqlalchemy"),
    *("starlette", "uvicorn", "uvloop"),
}


@pytest.mark.parametrize("modules_of_the_client", ["goloves.errors", "goloves.cli, goloves.cli.ids"])
def test_the_package_without_its_extras_suffices_for_those_who_only_ask_for_ids(modules_of_the_client: str) -> None:
    code = f"import sys, {modules_of_the_client}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "goloves" in loaded
    assert not EXTRAS & set(loaded)


IMPORTED_AS = {"grpcio": "grpc", "protobuf": "google"}
"""Packages whose modules have another name."""


def test_what_the_source_imports_is_declared() -> None:
    declared = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in wanted("all")}
    known = declared | sys.stdlib_module_names | {"goloves"}
    for path in SOURCE.rglob("*.py"):
        foreign = {name.split(".")[0] for name in imports(path)} - known
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}, which pyproject.toml does not name"
