"""Server reflection, v1 and v1alpha: how grpcurl and its like learn what a server offers."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from goloves.server.grpc.descriptors import message, service
from goloves.server.grpc.methods import Call, Service, protobuf_service
from goloves.wire.grpc import Status

VERSIONS = ("v1", "v1alpha")


class Reflection:
    """Tells what the files of these services say."""

    def __init__(self, services: Iterable[Service]) -> None:
        services = list(services)
        self._names = sorted([served.name for served in services] + [_name(version) for version in VERSIONS])
        self._pool = DescriptorPool()
        self._files: dict[str, FileDescriptorProto] = {}
        own = [self._service(version) for version in VERSIONS]
        for served in [*services, *own]:
            for file in served.files:
                self._files.setdefault(file.name, file)
        for file in _imports_first(self._files):
            self._pool.Add(file)

    def services(self) -> list[Service]:
        """Give the service in both versions."""
        return [self._service(version) for version in VERSIONS]

    def _service(self, version: str) -> Service:
        response = message(f"grpc.reflection.{version}.ServerReflectionResponse")

        async def handle(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
            async for request in requests:
                yield self._answer(request, response(valid_host=request.host, original_request=request))

        return protobuf_service(service(_name(version)), {"ServerReflectionInfo": handle})

    def _answer(self, request: Any, response: Any) -> Any:
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                for name in self._names:
                    response.list_services_response.service.add(name=name)
            elif asked == "file_by_filename":
                self._put(response, self._pool.FindFileByName(request.file_by_filename))
            elif asked == "file_containing_symbol":
                self._put(response, self._pool.FindFileContainingSymbol(request.file_containing_symbol))
            elif asked == "file_containing_extension":
                wanted = request.file_containing_extension
                kind = self._pool.FindMessageTypeByName(wanted.containing_type)
                extension = self._pool.FindExtensionByNumber(kind, wanted.extension_number)
                self._put(response, self._pool.FindFileContainingSymbol(extension.full_name))
            elif asked == "all_extension_numbers_of_type":
                kind = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                found = response.all_extension_numbers_response
                found.base_type_name = kind.full_name
                found.extension_number.extend(extension.number for extension in self._pool.FindAllExtensions(kind))
            else:
                _refuse(response, Status.INVALID_ARGUMENT, "the request asks for nothing that is known here")
        except KeyError:
            _refuse(response, Status.NOT_FOUND, f"{asked}: not found")
        return response

    def _put(self, response: Any, file: FileDescriptor) -> None:
        """Give a file, and those that it imports."""
        given: set[str] = set()
        waiting = [file]
        while waiting:
            file = waiting.pop()
            if file.name not in given:
                given.add(file.name)
                response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
                waiting.extend(file.dependencies)


def _name(version: str) -> str:
    return f"grpc.reflection.{version}.ServerReflection"


def _refuse(response: Any, status: Status, text: str) -> None:
    response.error_response.error_code = status
    response.error_response.error_message = text


def _imports_first(files: dict[str, FileDescriptorProto]) -> list[FileDescriptorProto]:
    ordered: dict[str, FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in ordered and name in files:
            for imported in files[name].dependency:
                add(imported)
            ordered[name] = files[name]

    for name in files:
        add(name)
    return list(ordered.values())
