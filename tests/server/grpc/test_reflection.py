"""How what reflection says is loaded, and what it says of extensions, which Goloves has none of. The rest of what it
says is held by grpcio's own client in `test_grpc_ids.py`."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from goloves.server.grpc import descriptors, reflection
from goloves.server.grpc.described import DESCRIPTORS

PATIENCE = 30.0
NOT_FOUND = 5


async def test_it_is_loaded_once_though_whoever_asked_first_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, loads = threading.Event(), threading.Event(), []

    def slow(names: Iterable[str]) -> Any:
        loads.append(names)
        begun.set()
        assert go_on.wait(PATIENCE)
        return SimpleNamespace(answer=lambda version, request: b"told")

    monkeypatch.setattr(reflection, "_open", slow)
    method = reflection.Reflection([]).services()[0].methods["ServerReflectionInfo"]

    async def ask() -> list[bytes]:
        async def once() -> AsyncIterator[bytes]:
            yield b""

        assert method.streaming is not None
        return [answer async for answer in method.streaming(once(), None)]  # type: ignore[arg-type]

    first = asyncio.create_task(ask())
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    first.cancel()
    second = asyncio.create_task(ask())
    await asyncio.wait([first])
    go_on.set()
    assert await second == [b"told"]
    assert await ask() == [b"told"]
    assert len(loads) == 1


async def test_a_load_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []

    def failing(names: Iterable[str]) -> Any:
        loads.append(names)
        if len(loads) == 1:
            raise OSError("no more memory")
        return SimpleNamespace(answer=lambda version, request: b"told")

    monkeypatch.setattr(reflection, "_open", failing)
    method = reflection.Reflection([]).services()[0].methods["ServerReflectionInfo"]

    async def once() -> AsyncIterator[bytes]:
        yield b""

    assert method.streaming is not None
    with pytest.raises(OSError, match="no more memory"):
        await anext(aiter(method.streaming(once(), None)))  # type: ignore[arg-type]
    assert await anext(aiter(method.streaming(once(), None))) == b"told"  # type: ignore[arg-type]


EXTENDED = """
    name: "extended.proto" package: "test" syntax: "proto2" service { name: "Extended" }
    message_type { name: "Base" extension_range { start: 100 end: 200 } }
    extension { name: "more" number: 123 label: LABEL_OPTIONAL type: TYPE_INT32 extendee: ".test.Base" }
"""


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_an_extension_is_found_by_its_number_and_its_type(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(base64.b64decode(DESCRIPTORS)).file:
        pool.Add(file)
    pool.Add(text_format.Parse(EXTENDED, FileDescriptorProto()))
    monkeypatch.setattr(descriptors, "pool", lambda: pool)
    directory = descriptors.Directory(["test.Extended"])
    package = f"grpc.reflection.{version}"

    def ask(**what: Any) -> Any:
        request = descriptors._message(f"{package}.ServerReflectionRequest")(**what)
        answer = directory.answer(version, request.SerializeToString())
        return descriptors._message(f"{package}.ServerReflectionResponse").FromString(answer)

    def extension(kind: str, number: int) -> Any:
        return ask(file_containing_extension={"containing_type": kind, "extension_number": number})

    (found,) = extension("test.Base", 123).file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(found).extension[0].name == "more"
    for kind, number in (("test.Base", 124), ("test.Other", 123)):
        assert extension(kind, number).error_response.error_code == NOT_FOUND
    numbers = ask(all_extension_numbers_of_type="test.Base").all_extension_numbers_response
    assert (numbers.base_type_name, list(numbers.extension_number)) == ("test.Base", [123])
