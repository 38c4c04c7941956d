"""The deployments are what the programs that read them take: each is asked, or its schema is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest

from deploy import manifests
from deploy.differential import KUSTOMIZATIONS, RENEW, digest, kept
from deploy.kustomize import by_name, kubectl, render
from deploy.manifests import DEPLOYMENTS, ROOT
from deploy.proxies import example, nginx_configuration

EXPOSURE = 20
"""Of 100 that systemd counts: a unit whose network and state directory alone are open has 12."""

NODES = [(18080, 15051), (28080, 25051)]
"""Ports of two nodes that nobody asks."""


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed: what it reads was not checked")
    return found


def run(*command: str | Path) -> str:
    """Run a command that has to succeed; what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# Both ends of what clusters run: a field that came later or went away shows.
@pytest.mark.parametrize("version", ["1.30.0", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_every_object_follows_the_schema_of_kubernetes(name: str, version: str, tmp_path: Path) -> None:
    objects = render(manifests.laid_out(tmp_path) / name)
    assert objects
    for each in objects:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schema_is_strict(tmp_path: Path) -> None:
    (policy,) = (each for each in render(manifests.laid_out(tmp_path) / "migrate") if each["kind"] == "NetworkPolicy")
    policy["spec"]["ingres"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(policy, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_what_is_checked_is_what_kustomize_makes(name: str, tmp_path: Path) -> None:
    directory = manifests.laid_out(tmp_path) / name
    ours = render(directory)
    theirs = kubectl(directory)
    if theirs is not None:  # it shows where the two differ; the digest is of the same, from when they were last changed
        assert by_name(ours) == by_name(theirs)
    assert digest(ours) == kept()[name], RENEW


def test_each_kustomization_is_compared_with_what_kustomize_made() -> None:
    built = {
        each.parent for each in manifests.KUBERNETES.rglob("kustomization.yaml") if "Component" not in each.read_text()
    }
    applied = {manifests.KUBERNETES / name for name in KUSTOMIZATIONS}
    # The rest are parts of these.
    assert {each.name for each in built - applied} == {"base", "deployment", "statefulset"}
    assert set(kept()) == set(KUSTOMIZATIONS)


def test_compose_follows_its_schema(tmp_path: Path) -> None:
    file = DEPLOYMENTS / "docker" / "compose.yaml"
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    run(*check, file)
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(file.read_text("utf-8").replace("stop_grace_period", "stop_grace"), "utf-8")
    assert subprocess.run([*check, wrong], capture_output=True, check=False).returncode == 1


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Give the unit with a program that is there."""
    text = (DEPLOYMENTS / "systemd" / "goloves.service").read_text("utf-8")
    assert text.count("ExecStart=/opt/goloves/bin/goloves ") == 1
    path = tmp_path / "goloves.service"
    path.write_text(text.replace("ExecStart=/opt/goloves/bin/goloves ", f"ExecStart={sys.executable} "), "utf-8")
    return path


def test_systemd_reads_the_unit_without_a_word(unit: Path) -> None:
    # Other units that it names need not be on this machine.
    assert run(program("systemd-analyze"), "verify", "--recursive-errors=no", "--man=no", unit) == ""


def test_the_unit_leaves_little_open(unit: Path) -> None:
    run(program("systemd-analyze"), "security", "--offline=yes", f"--threshold={EXPOSURE}", unit)


def test_haproxy_takes_its_example_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(example("haproxy", NODES, 38080, 35051), "utf-8")
    said = run(program("haproxy"), "-c", "-f", file)
    assert not re.search("warning|alert", said, re.IGNORECASE), said


def test_nginx_takes_its_example(tmp_path: Path) -> None:
    (tmp_path / "goloves.conf").write_text(example("nginx", NODES, 38080, 35051), "utf-8")
    file = tmp_path / "nginx.conf"
    file.write_text(nginx_configuration(tmp_path), "utf-8")
    said = run(program("nginx"), "-t", "-p", tmp_path, "-e", tmp_path / "log", "-c", file)
    deprecated = (
        'the "listen ... http2" directive is deprecated'  # from 1.25.1 on; the example says what to write there
    )
    others = [line for line in said.splitlines() if "[warn]" in line and deprecated not in line]
    assert "test is successful" in said
    assert not others


def test_the_checker_of_dockerfiles_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: the Dockerfile was not checked")
    assert run(hadolint, ROOT / "Dockerfile") == ""
