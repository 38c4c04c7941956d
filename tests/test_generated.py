"""What is generated is what the .proto files give, and everything that is served is described."""

import subprocess
import sys
from pathlib import Path

from goloves.server.grpc.descriptors import pool

ROOT = Path(__file__).parents[1]


def test_the_generated_code_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "proto.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_field_of_the_contract_has_its_number_for_ever() -> None:
    numbers = {
        message.name: {field.name: field.number for field in message.fields}
        for message in pool().FindFileByName("goloves/v1/goloves.proto").message_types_by_name.values()
    }
    assert numbers == {
        "SegmentNextRequest": {"tag": 1, "count": 2},
        "SnowflakeNextRequest": {"space": 1, "count": 2},
        "IdsResponse": {"ids": 1},
        "SegmentLeaseRequest": {"tag": 1, "size": 2},
        "RangeResponse": {"start": 1, "end": 2},
        "DecodeRequest": {"space": 1, "id": 2},
        "DecodeResponse": {"unix_ms": 1, "worker": 2, "sequence": 3},
    }
