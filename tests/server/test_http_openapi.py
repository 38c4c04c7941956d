"""The contract in `api/http/openapi.yaml`, held against a node by schemathesis."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from goloves.config import SnowflakeConfig
from server.live import PATIENCE, LiveNode

OPTIONS = [
    "--checks=all",
    "--exclude-checks=use_after_free",
    "--max-examples=50",
    "--generation-deterministic",
    "--request-timeout=60",
    "--no-color",
    "--suppress-health-check=all",
]
"""Its health checks judge how fast it makes up data, which says nothing about the node on a busy machine. Leaf's route
answers DELETE like GET, so that nothing is deleted and nothing used after it. The same requests are made up each time,
so that a failure is one of the change under test."""

CONTRACT = Path(__file__).parents[2] / "api" / "http" / "openapi.yaml"


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    said = tmp_path / "said"
    # Nothing of it is held to a bar of coverage, and tracing makes it three times slower.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with LiveNode(snowflake=SnowflakeConfig(deadline=PATIENCE)) as node, said.open("w") as output:
        try:
            code = subprocess.run(
                [program, "run", CONTRACT, f"--url=http://127.0.0.1:{node.port}", *OPTIONS],
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=output,
                check=False,
                timeout=300,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    text = said.read_text("utf-8")
    assert code == 0, text
    passed = re.search(r"(\d+) generated, (\d+) passed", text)
    assert passed is not None
    assert int(passed[1]) == int(passed[2]) > 1000
