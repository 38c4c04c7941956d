"""What the .proto files say, and the answers of reflection out of it. Whoever imports this loads protobuf.

It comes from `described.py`, which scripts/proto.py makes, and lives in a pool of its own: protobuf's common pool
would collide with other packages of one process that bring the health or reflection protocol too.
"""

import base64
from collections.abc import Iterable
from functools import cache
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from goloves.server.grpc.described import DESCRIPTORS
from goloves.wire.grpc import CallError, Status


@cache
def pool() -> DescriptorPool:
    """Give the pool of all files."""
    made = DescriptorPool()
    for file in FileDescriptorSet.FromString(base64.b64decode(DESCRIPTORS)).file:
        made.Add(file)
    return made


class Directory:
    """Answers requests of reflection about the named services."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names)
        self._pool = DescriptorPool()
        for file in _files(self._names):
            self._pool.Add(file)

    def answer(self, version: str, message: bytes) -> bytes:
        """Answer a ServerReflectionRequest of this version with a ServerReflectionResponse."""
        package = f"grpc.reflection.{version}"
        try:
            request: Any = _message(f"{package}.ServerReflectionRequest").FromString(message)
        except DecodeError as error:
            raise CallError(Status.INTERNAL, f"the request is no protobuf message of this method: {error}") from None
        response = _message(f"{package}.ServerReflectionResponse")(valid_host=request.host, original_request=request)
        self._fill(request, response)
        return bytes(response.SerializeToString())

    def _fill(self, request: Any, response: Any) -> None:
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                for name in self._names:
                    response.list_services_response.service.add(name=name)
            elif asked == "file_by_filename":
                _put(response, self._pool.FindFileByName(request.file_by_filename))
            elif asked == "file_containing_symbol":
                _put(response, self._pool.FindFileContainingSymbol(request.file_containing_symbol))
            elif asked == "file_containing_extension":
                wanted = request.file_containing_extension
                kind = self._pool.FindMessageTypeByName(wanted.containing_type)
                extension = self._pool.FindExtensionByNumber(kind, wanted.extension_number)
                _put(response, self._pool.FindFileContainingSymbol(extension.full_name))
            elif asked == "all_extension_numbers_of_type":
                kind = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                found = response.all_extension_numbers_response
                found.base_type_name = kind.full_name
                found.extension_number.extend(extension.number for extension in self._pool.FindAllExtensions(kind))
            else:
                _refuse(response, Status.INVALID_ARGUMENT, "the request asks for nothing that is known here")
        except KeyError:
            _refuse(response, Status.NOT_FOUND, f"{asked}: not found")


def _message(name: str) -> Any:
    return GetMessageClass(pool().FindMessageTypeByName(name))


def _put(response: Any, file: FileDescriptor) -> None:
    """Give a file, and those that it imports."""
    for each in _with_imports([file]):
        response.file_descriptor_response.file_descriptor_proto.append(each.serialized_pb)


def _refuse(response: Any, status: Status, text: str) -> None:
    response.error_response.error_code = status
    response.error_response.error_message = text


def _files(names: Iterable[str]) -> list[FileDescriptorProto]:
    """Give the files that describe these services, each after those that it imports."""
    found = []
    for file in reversed(_with_imports([pool().FindServiceByName(name).file for name in names])):
        found.append(FileDescriptorProto())
        file.CopyToProto(found[-1])
    return found


def _with_imports(files: Iterable[FileDescriptor]) -> list[FileDescriptor]:
    """Give these files and all that they import, each once and ahead of its imports."""
    ordered: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in ordered:
            for imported in file.dependencies:
                add(imported)
            ordered[file.name] = file

    for file in files:
        add(file)
    return list(reversed(ordered.values()))
