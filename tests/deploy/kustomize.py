"""Renders a kustomization, with as much of kustomize as deployments/kubernetes uses; anything else is refused by name.

`kubectl kustomize` is asked too where it is at hand, and what it made is kept (`differential.py`); a test compares.
"""

import base64
import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
"""One Kubernetes object."""

HASH = "-HASH"
"""Stands for what kustomize appends to a generated name: it is made of the content."""

CONTENT = {
    "apiVersion", "kind", "resources", "components", "labels", "configMapGenerator", "secretGenerator", "patches",
    "images",
}  # fmt: skip
"""What a kustomization may hold here."""


def render(directory: Path) -> list[Manifest]:
    """Give the objects of a kustomization."""
    return _build(directory, [])


def kubectl(directory: Path) -> list[Manifest] | None:
    """Give the same from kubectl, with HASH in names; None where there is no kubectl with kustomize 5 or newer."""
    program = shutil.which("kubectl")
    if program is None:
        return None
    said = subprocess.run([program, "version", "--client"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"^Kustomize Version: v(\d+)", said, re.MULTILINE)
    if version is None or int(version[1]) < 5:
        return None
    done = subprocess.run([program, "kustomize", str(directory)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = done.stdout
    for made in _generated(directory):
        whole = re.sub(rf"\b{made}-[0-9a-z]{{10}}$", f"{made}{HASH}", whole, flags=re.MULTILINE)
    return list(yaml.safe_load_all(whole))


def _generated(directory: Path) -> set[str]:
    return {
        each["metadata"]["name"].removesuffix(HASH)
        for each in render(directory)
        if each["metadata"]["name"].endswith(HASH)
    }


def _build(directory: Path, below: list[Manifest]) -> list[Manifest]:
    content = yaml.safe_load((directory / "kustomization.yaml").read_text("utf-8"))
    unknown = set(content) - CONTENT
    assert not unknown, f"{directory}: this renderer does not know {', '.join(sorted(unknown))}"
    is_component = content["kind"] == "Component"
    assert content["apiVersion"] == f"kustomize.config.k8s.io/{'v1alpha1' if is_component else 'v1beta1'}"
    objects = below if is_component else []
    for name in content.get("resources", []):
        path = directory / name
        objects += render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text("utf-8")))
    for kind in ("configMap", "secret"):
        for each in content.get(f"{kind}Generator", []):
            objects.append(_generate(directory, kind, each))
    for name in content.get("components", []):
        objects = _build(directory / name, objects)
    for patch in content.get("patches", []):
        _patch(directory, objects, patch)
    for label in content.get("labels", []):
        assert set(label) == {"pairs"}, f"{directory}: labels have {set(label)}"
        for each in objects:
            each["metadata"].setdefault("labels", {}).update(label["pairs"])
    _rename(objects)
    for image in content.get("images", []):
        assert set(image) == {"name", "newTag"}, f"{directory}: images have {set(image)}"
        for container in _containers(objects):
            if container["image"] == image["name"]:
                container["image"] = f"{image['name']}:{image['newTag']}"
    return objects


def _generate(directory: Path, kind: str, what: dict[str, Any]) -> Manifest:
    assert set(what) <= {"name", "files", "options"}, f"{directory}: a {kind} is made of {set(what)}"
    options = what.get("options", {})
    assert set(options) <= {"disableNameSuffixHash"}, f"{directory}: a {kind} has the options {set(options)}"
    data = {}
    for file in what["files"]:
        key, _, path = file.rpartition("=")
        text = (directory / path).read_text("utf-8")
        data[key or path] = base64.b64encode(text.encode()).decode() if kind == "secret" else text
    name = what["name"] if options.get("disableNameSuffixHash") else what["name"] + HASH
    made: Manifest = {"apiVersion": "v1", "kind": kind[0].upper() + kind[1:], "metadata": {"name": name}, "data": data}
    return made | {"type": "Opaque"} if kind == "secret" else made


def _patch(directory: Path, objects: list[Manifest], patch: dict[str, Any]) -> None:
    assert set(patch) == {"target", "patch"}, f"{directory}: a patch has {set(patch)}"
    target = patch["target"]
    assert set(target) <= {"kind", "name"}, f"{directory}: a target has {set(target)}"
    meant = [
        each
        for each in objects
        if each["kind"] == target["kind"] and target.get("name") in (None, each["metadata"]["name"])
    ]
    assert meant, f"{directory}: there is no {target}"
    for step in yaml.safe_load(patch["patch"]):
        assert step["op"] == "add", f"{directory}: a patch would {step['op']}"
        *above, last = [part for part in step["path"].split("/") if part]
        for each in meant:
            place: Any = each
            for part in above:
                place = place[int(part)] if isinstance(place, list) else place[part]
            value = copy.deepcopy(step["value"])
            if isinstance(place, list):
                assert last == "-", f"{directory}: a patch adds to a list at {last}"
                place.append(value)
            else:
                place[last] = value


def _rename(objects: list[Manifest]) -> None:
    """Let whoever names a generated object by its plain name name it as it is."""
    made = {
        (each["kind"], each["metadata"]["name"].removesuffix(HASH)): each["metadata"]["name"]
        for each in objects
        if each["kind"] in ("ConfigMap", "Secret")
    }
    for each in objects:
        for volume in each.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", []):
            for field, key, kind in (("configMap", "name", "ConfigMap"), ("secret", "secretName", "Secret")):
                if field in volume:
                    volume[field][key] = made.get((kind, volume[field][key]), volume[field][key])


def _containers(objects: list[Manifest]) -> list[dict[str, Any]]:
    return [
        container
        for each in objects
        for container in each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    ]


def by_name(objects: list[Manifest]) -> dict[str, str]:
    """Give the objects in a form that can be compared and read, by kind and name."""
    return {
        f"{each['kind']} {each['metadata']['name']}": json.dumps(each, sort_keys=True, indent=1) for each in objects
    }
