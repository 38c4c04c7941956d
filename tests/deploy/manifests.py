"""Reads what the deployments say: Dockerfile, Compose, Kubernetes, systemd, HAProxy, nginx."""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.kustomize import Manifest, render
from goloves.config import Config
from goloves.supervisor.supervisor import RELEASE

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
KUBERNETES = DEPLOYMENTS / "kubernetes"
OVERLAYS = sorted(each.name for each in (KUBERNETES / "overlays").iterdir())
SECRET_URL = "mysql://goloves:PASSWORD@HOST:3306/goloves"

Unit = dict[str, dict[str, list[str]]]
"""The sections of a unit of systemd: their keys, each with its values in order."""


def files() -> list[Path]:
    """Give every file that deploys Goloves."""
    return [ROOT / "Dockerfile", *sorted(path for path in DEPLOYMENTS.rglob("*") if path.is_file() and ours(path))]


def ours(path: Path) -> bool:
    """Whether a file is in the repository, and no secret that somebody laid beside."""
    return path.name not in ("store-url", "password")


def stop_takes(config: Config) -> float:
    """Give the seconds that a service may take for its end after SIGTERM."""
    return config.server.notice + config.server.drain + RELEASE


# --- Dockerfile ---


@cache
def dockerfile() -> list[tuple[str, str]]:
    """Give the instructions with what stands behind them, lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def instruction(name: str) -> str:
    """Give what stands behind the last instruction of this name."""
    return [rest for word, rest in dockerfile() if word == name][-1]


def image_command(*words: str) -> list[str]:
    """Give what a container runs, with `words` in place of the image's own; without the program's name."""
    entry, command = json.loads(instruction("ENTRYPOINT")), json.loads(instruction("CMD"))
    whole: list[str] = entry + list(words or command)
    assert whole[0] == "goloves"
    return whole[1:]


# --- Compose ---


@cache
def compose() -> dict[str, Any]:
    """Give the Compose file, anchors and merges resolved."""
    whole: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "docker" / "compose.yaml").read_text("utf-8"))
    return whole


def services() -> dict[str, dict[str, Any]]:
    """Give the services that run Goloves' image."""
    return {name: each for name, each in compose()["services"].items() if each["image"] == "goloves"}


# --- Kubernetes ---


def laid_out(directory: Path) -> Path:
    """Copy the manifests, with a secret beside them as their users have one."""
    copied = directory / "kubernetes"
    shutil.copytree(KUBERNETES, copied)
    (copied / "secret" / "store-url").write_text(SECRET_URL, "utf-8")
    return copied


@cache
def overlay(name: str) -> list[Manifest]:
    """Give the objects of an overlay."""
    return render(KUBERNETES / "overlays" / name)


@cache
def migration() -> list[Manifest]:
    """Give the objects of the migration."""
    return render(KUBERNETES / "migrate")


@cache
def repair() -> list[Manifest]:
    """Give the objects of the repair."""
    return render(KUBERNETES / "repair")


def one(objects: list[Manifest], *kinds: str) -> Manifest:
    """Give the only object of these kinds."""
    (found,) = (each for each in objects if each["kind"] in kinds)
    return found


def workload(objects: list[Manifest]) -> Manifest:
    """Give what makes pods."""
    return one(objects, "Deployment", "StatefulSet", "Job")


def pod(objects: list[Manifest]) -> dict[str, Any]:
    """Give the pods' spec."""
    spec: dict[str, Any] = workload(objects)["spec"]["template"]["spec"]
    return spec


def container(objects: list[Manifest]) -> dict[str, Any]:
    """Give the pods' only container."""
    (only,) = pod(objects)["containers"]
    assert isinstance(only, dict)
    return only


def named_ports(objects: list[Manifest]) -> dict[str, int]:
    """Give the ports of the pods' container by their names."""
    return {each["name"]: each["containerPort"] for each in container(objects).get("ports", [])}


# --- systemd ---


@cache
def unit() -> Unit:
    """Give the service's unit."""
    sections: Unit = {}
    for line in (DEPLOYMENTS / "systemd" / "goloves.service").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and line[0] not in "#;":
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def of_service(key: str) -> str:
    """Give the last value of a key of [Service]."""
    return unit()["Service"][key][-1]


def seconds(text: str) -> float:
    """Read a time as systemd, Compose, HAProxy and nginx write it."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h)", text)
    assert found is not None, text
    return int(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2]]


# --- proxies ---


@cache
def haproxy() -> dict[str, list[str]]:
    """Give the sections by their heads, each with its lines."""
    sections: dict[str, list[str]] = {}
    for line in (DEPLOYMENTS / "haproxy" / "haproxy.cfg").read_text("utf-8").splitlines():
        text = line.partition("#")[0].rstrip()
        if not text:
            continue
        if not text.startswith(" "):
            section = sections.setdefault(text, [])
        else:
            section.append(text.strip())
    return sections


def haproxy_time(section: str, name: str) -> float:
    """Give a `timeout` in force in a section."""
    for lines in (haproxy()[section], haproxy()["defaults"]):
        for line in lines:
            if line.startswith(f"timeout {name} "):
                return seconds(line.split()[-1])
    raise AssertionError(f"{section} has no timeout {name}")


@cache
def nginx() -> list[tuple[tuple[str, ...], list[str]]]:
    """Give the directives as words, each with the blocks around it, outermost first."""
    text = re.sub(r"#.*", "", (DEPLOYMENTS / "nginx" / "goloves.conf").read_text("utf-8"))
    found: list[tuple[tuple[str, ...], list[str]]] = []
    around: list[str] = []
    for words, mark in re.findall(r"([^;{}]*)([;{}])", text):
        plain = " ".join(words.split())
        if mark == ";":
            found.append((tuple(around), re.findall(r'"[^"]*"|\S+', plain)))
        elif mark == "{":
            around.append(plain)
        else:
            around.pop()
    return found


def directives(name: str, *blocks: str) -> list[list[str]]:
    """Give the arguments of each directive of nginx of this name within these blocks, by their beginnings."""
    return [
        words[1:]
        for around, words in nginx()
        if words[0] == name and all(any(block.startswith(want) for block in around) for want in blocks)
    ]


# --- what is quoted ---

QUOTED = re.compile(r"\b((?:server|stores|segment|snowflake|http|grpc)\.[a-z_]+): ([0-9][0-9.]*)( s)?\b")
"""A setting with its value, as comments quote it: `server.drain: 5 s`."""

SEVERAL = re.compile(r"\b((?:[a-z]+\.[a-z_]+, )+)([a-z]+\.[a-z_]+): ([0-9][0-9.]*)")
"""Several settings with the same value: `segment.deadline, snowflake.deadline: 0.2 s`."""


def quoted(path: Path) -> Iterator[tuple[str, float]]:
    """Give each setting that a file quotes, with the value that it is said to have."""
    text = re.sub(r"\s*\n\s*#\s*", " ", path.read_text("utf-8"))
    for found in QUOTED.finditer(text):
        yield found[1], float(found[2])
    for several in SEVERAL.finditer(text):
        for name in several[1].split(", ")[:-1]:
            yield name, float(several[3])


def toml(path: Path) -> dict[str, Any]:
    """Read a TOML file."""
    return tomllib.loads(path.read_text("utf-8"))
