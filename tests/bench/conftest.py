"""The benchmarks' programs, built once for these tests."""

import os
from pathlib import Path

import pytest
from benchmarks.build import NotBuilt, c_program


def built(name: str, directory: Path) -> Path:
    try:
        return c_program(name, directory)
    except NotBuilt as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def openload(programs: Path) -> Path:
    return built("openload", programs)


@pytest.fixture(scope="session")
def floor_grpc(programs: Path) -> Path:
    return built("floor_grpc", programs)
