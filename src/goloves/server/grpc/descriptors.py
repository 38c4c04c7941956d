"""What the .proto files say, for reflection and for the messages that are not on the hot path.

It comes from `described.py`, which scripts/proto.py makes, and lives in a pool of its own: protobuf's common pool
would collide with other packages of one process that bring the health or reflection protocol too.
"""

import base64
from functools import cache

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from goloves.server.grpc.described import DESCRIPTORS


@cache
def pool() -> DescriptorPool:
    """Give the pool of all files."""
    made = DescriptorPool()
    for file in FileDescriptorSet.FromString(base64.b64decode(DESCRIPTORS)).file:
        made.Add(file)
    return made


def service(name: str) -> ServiceDescriptor:
    """Give what is known about a service, by its full name."""
    return pool().FindServiceByName(name)


def message(name: str) -> type[Message]:
    """Give the class of a message, by its full name."""
    return GetMessageClass(pool().FindMessageTypeByName(name))


def describing(descriptor: ServiceDescriptor) -> list[FileDescriptorProto]:
    """Give the files that describe a service, those that they import included."""
    found: dict[str, FileDescriptorProto] = {}
    waiting = [descriptor.file]
    while waiting:
        file = waiting.pop()
        if file.name not in found:
            found[file.name] = FileDescriptorProto()
            file.CopyToProto(found[file.name])
            waiting.extend(file.dependencies)
    return list(found.values())
