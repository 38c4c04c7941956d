"""ns per id without a network, beside other ways to make ids in Python: run as a process of its own, prints JSON.

python -m benchmarks.in_process SECONDS
"""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from itertools import repeat

import uvloop

from benchmarks.local import open_service

CHUNK = 10_000
"""Ids that are drawn between two turns of the event loop, which refills need. A Snowflake space of 41/10/12 bits gives
4,096 ids a millisecond; taken faster they run ahead of the clock, by milliseconds of the second that is allowed."""


def draw(take: Callable[[], object], count: int) -> float:
    """Give the seconds of CPU that `count` calls take; each has to give something."""
    begin = time.process_time()
    missing = 0
    for _ in repeat(None, count):
        if take() is None:
            missing += 1
    spent = time.process_time() - begin
    if missing:
        raise RuntimeError(f"{missing} of {count} calls gave no id")
    return spent


def peers() -> dict[str, Callable[[], object]]:
    """Give other ways to make ids, as far as they are installed."""
    found: dict[str, Callable[[], object]] = {"uuid.uuid4()": uuid.uuid4}
    try:
        from ulid import ULID

        found["python-ulid, ULID()"] = ULID
    except ImportError:
        pass
    return found


def snowflake_id(count: int) -> float | None:
    """Give the seconds of CPU that the package snowflake-id takes for `count` ids; None is its way to say wait."""
    try:
        from snowflake import SnowflakeGenerator
    except ImportError:
        return None
    take = partial(next, SnowflakeGenerator(1))
    begin = time.process_time()
    made = 0
    while made < count:
        if take() is not None:
            made += 1
    return time.process_time() - begin


async def measure(seconds: float) -> dict[str, float]:
    """Give the best ns per id of each way: in a busy machine the least disturbed of many short runs is nearest."""
    service = await open_service(["order"])
    ways: dict[str, Callable[[], object]] = {
        "Goloves, segment": service.tags["order"].take,
        "Goloves, Snowflake": service.spaces["default"].take,
        **peers(),
    }
    best: dict[str, float] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, take in ways.items():
            # Refills and the clock get their turn, and whatever ran ahead is caught up with.
            await asyncio.sleep(0.02)
            best[name] = min(best.get(name, 1e9), draw(take, CHUNK) / CHUNK * 1e9)
        spent = snowflake_id(CHUNK)
        if spent is not None:
            best["snowflake-id"] = min(best.get("snowflake-id", 1e9), spent / CHUNK * 1e9)
        await asyncio.sleep(0.02)
        begin = time.process_time()
        drawn = 0
        for _ in range(100):
            drawn += sum(map(len, await service.segment_ids("order", 10_000, timeout=5)))
        each = (time.process_time() - begin) / drawn * 1e9
        best["Goloves, segment, 10,000 at once"] = min(best.get("Goloves, segment, 10,000 at once", 1e9), each)
    await service.close()
    return best


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(float(sys.argv[1])))))
