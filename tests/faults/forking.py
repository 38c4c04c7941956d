"""The program that forks: draws, forks, draws on, while each child tries the inherited service and then its own.

Each process writes what it got as a line of JSON, among what is logged.
"""

import asyncio
import json
import os
import sys
from typing import Any

from goloves.config import SegmentConfig, SnowflakeConfig
from goloves.core.layout import Layout
from goloves.errors import GolovesError
from goloves.service import IdService, ServedSpace
from goloves.stores import make_stores
from goloves.stores.base import Space
from goloves.stores.sql import Options

FORKS = 5

PATIENT = 20.0
"""Seconds that a call may take here: whatever a busy machine needs."""


async def started(url: str) -> IdService:
    segments, windows = make_stores(url, url, Options(timeout=PATIENT))
    service = IdService(
        segments,
        windows,
        segment=SegmentConfig(deadline=PATIENT),
        snowflake=SnowflakeConfig(deadline=PATIENT),
        spaces=[ServedSpace(Space("default", Layout()))],
    )
    await service.start()
    return service


async def draw(service: IdService, told: dict[str, Any]) -> None:
    for _ in range(20):
        told["numbers"] += [id_ for span in await service.segment_ids("default", 37) for id_ in span]
        told["ids"] += [id_ for span in await service.snowflake_ids("default", 37) for id_ in span]


def tell(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def child(url: str, told: dict[str, Any]) -> None:
    service = await started(url)
    await draw(service, told)
    await service.close()


async def refusals(service: IdService) -> list[str]:
    said = []
    for work in (service.segment_ids("default", 1), service.snowflake_ids("default", 1)):
        try:
            await work
        except GolovesError as error:
            said.append(error.message)
    return said


async def parent(url: str) -> None:
    service = await started(url)
    mine: dict[str, Any] = {"who": "parent", "numbers": [], "ids": []}
    await draw(service, mine)
    tag, space = service.tags["default"], service.spaces["default"]
    for _ in range(FORKS):
        pid = os.fork()
        if pid == 0:
            os._exit(in_child(url, service, [tag.take(), space.take()]))
        await draw(service, mine)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0, f"a child ended with {status}"
        await draw(service, mine)
    await service.close()
    tell(mine)


def in_child(url: str, service: IdService, held: list[int | None]) -> int:
    """Live in the child, on an event loop of its own; gives the exit code."""
    try:
        asyncio.events._set_running_loop(None)
        told: dict[str, Any] = {"who": "child", "held": held, "numbers": [], "ids": []}
        told["refused"] = asyncio.run(refusals(service))
        asyncio.run(child(url, told))
        tell(told)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    asyncio.run(parent(sys.argv[1]))
