"""What a node loads: each module that it needs for nothing is memory of every node of a fleet."""

import subprocess
import sys

ASKED_OF_A_NODE = """
import asyncio, sys
from goloves.config.addresses import parse_address
from goloves.core.layout import Layout
from goloves.server.listener import listen
from goloves.server.node import Node
from goloves.service import IdService, ServedSpace
from goloves.stores.base import Space
from goloves.stores.memory import MemoryStore

async def serve():
    store = MemoryStore()
    await store.open()
    spaces = [ServedSpace(Space("default", Layout()))]
    node = Node(IdService(store, store, spaces=spaces), http=listen(parse_address("127.0.0.1:0")))
    await node.start()
    health = node.grpc.services["grpc.health.v1.Health"].methods["Check"]
    answered = health.write(await health.unary(health.read(b""), None))
    before = sorted({"google", "rich", "pygments", "alembic", "difflib", "encodings.idna"} & set(sys.modules))
    reflection = node.grpc.services["grpc.reflection.v1.ServerReflection"].methods["ServerReflectionInfo"]
    async def requests():
        yield reflection.read(b"\\x3a\\x00")
    answers = [reflection.write(answer) async for answer in reflection.streaming(requests(), None)]
    await node.stop()
    print(answered[:1], before, "google.protobuf" in sys.modules, b"goloves.v1.SegmentService" in answers[0])

asyncio.run(serve())
"""


def test_what_only_commands_need_is_not_loaded_and_protobuf_is_when_reflection_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", ASKED_OF_A_NODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == r"b'\x08' [] True True"
