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
    "--max-examples=25",
    "--generation-deterministic",
    "--request-timeout=60",
    "--no-color",
    "--suppress-health-check=all",
    "--no-shrink",
]
"""What fails is told as it is, for to look for less of it may take minutes. Its health checks judge how fast it makes
up data, which says nothing about the node on a busy machine. Leaf's route answers DELETE like GET, so that nothing is
deleted and nothing used after it. The same requests are made up each time, so that a failure is one of the change under
test."""

CONTRACT = Path(__file__).parents[2] / "api" / "http" / "openapi.yaml"


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    with LiveNode(snowflake=SnowflakeConfig(deadline=PATIENCE)) as node:  # no error because the machine is busy
        run = subprocess.run(
            [program, "run", CONTRACT, f"--url=http://127.0.0.1:{node.port}", *OPTIONS],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) generated, (\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) == int(passed[2]) > 500
