"""Whether a start may make an embedded store by itself (SAFETY R8)."""

from pathlib import Path

import msgspec
import pytest

from goloves.config import Config
from goloves.server.assembly import may_create
from goloves.stores.base import Mark
from goloves.stores.marks import Marks


def configured(directory: Path, **listen: object) -> Config:
    config = Config()
    changes = {
        section: msgspec.structs.replace(getattr(config, section), listen=addresses)
        for section, addresses in listen.items()
    }
    server = msgspec.structs.replace(config.server, data_dir=str(directory))
    return msgspec.structs.replace(config, server=server, **changes)


@pytest.mark.parametrize(
    ("listen", "may"),
    [
        ({}, True),
        ({"admin": ""}, True),
        ({"http": ("unix:/run/x.sock",)}, True),
        ({"http": ("127.0.0.1:1", "10.0.0.5:1")}, False),
        ({"grpc": ("0.0.0.0:50051",)}, False),
        ({"admin": "0.0.0.0:8081"}, False),
    ],
)
def test_r8_a_store_is_made_only_where_nobody_but_this_machine_reaches_any_listener(
    listen: dict[str, object], may: bool, tmp_path: Path
) -> None:
    assert may_create(configured(tmp_path, **listen)) is may


def test_r8_a_store_is_not_made_where_that_is_left_to_people(tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert may_create(config)
    stores = msgspec.structs.replace(config.stores, create=False)
    assert not may_create(msgspec.structs.replace(config, stores=stores))


def test_r8_a_store_is_not_made_where_a_node_remembers_one(tmp_path: Path) -> None:
    marks = Marks()
    marks.open(tmp_path / "node-3")
    try:
        assert may_create(configured(tmp_path))
        marks.rise("a store", Mark("tag", "order", 5))
        assert not may_create(configured(tmp_path))
    finally:
        marks.close()
