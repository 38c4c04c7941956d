"""What kustomize itself makes of the manifests, kept as digests, so that it counts where there is no kubectl too.

`PYTHONPATH=tests python -m deploy.differential` renews them after a change of the manifests; it needs kubectl 1.27 or
newer, which has kustomize 5.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from deploy import manifests
from deploy.kustomize import Manifest, by_name, kubectl

KEPT = Path(__file__).with_name("kustomize.json")
KUSTOMIZATIONS = ["secret", "migrate", "repair", *(f"overlays/{name}" for name in manifests.OVERLAYS)]
RENEW = "renew tests/deploy/kustomize.json with kubectl: PYTHONPATH=tests .venv/bin/python -m deploy.differential"


def digest(objects: list[Manifest]) -> str:
    """Give the SHA-256 of objects, whatever their order."""
    return hashlib.sha256(json.dumps(by_name(objects), sort_keys=True).encode()).hexdigest()


def kept() -> dict[str, str]:
    """Give the digests of what kustomize made, by kustomization."""
    found: dict[str, str] = json.loads(KEPT.read_text("utf-8"))
    return found


def main() -> None:
    """Ask kubectl, and keep what it makes."""
    made = {}
    with tempfile.TemporaryDirectory() as directory:
        laid_out = manifests.laid_out(Path(directory))
        for name in KUSTOMIZATIONS:
            objects = kubectl(laid_out / name)
            if objects is None:
                sys.exit("there is no kubectl with kustomize 5 or newer here")
            made[name] = digest(objects)
    KEPT.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
