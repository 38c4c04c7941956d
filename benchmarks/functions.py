"""In which functions Goloves' own part of a request goes, without sockets: run as a process of its own, prints JSON.

python -m benchmarks.functions SECONDS

The parts are cProfile's, which makes calls of Python functions look dearer than they are: they tell where to look.
"""

import asyncio
import cProfile
import json
import pstats
import re
import sys
import time
from pathlib import Path

import uvloop

from benchmarks.user_time import connect, feed, open_http, streams
from goloves.server.http.protocol import HttpConnection

ROUTES = ("segment get, repeated", "segment get, different")

LEAST = 0.005
"""Part of the time from which on a function is told."""

HARNESS = ("user_time.py", "functions.py")
"""Files whose functions are the measurement's."""


def named(function: tuple[str, int, str]) -> str:
    """Give a function a short name."""
    file, _, name = function
    if file != "~":
        return f"{Path(file).name}: {name}"
    words = name.strip("<>").replace("built-in method builtins.", "")
    method = re.fullmatch(r"method '(\w+)' of '([\w.]+)' objects", words)
    return f"{method[2]}.{method[1]}" if method is not None else words


async def measure(seconds: float) -> dict[str, float]:
    """Give the part of the time of each function that takes some, by route and name."""
    service, shared = await open_http()
    found: dict[str, float] = {}
    for route in ROUTES:
        data_received, transport = connect(HttpConnection(shared))
        stream = streams()[route]
        feed(data_received, stream, transport)
        profiler = cProfile.Profile()
        end = time.monotonic() + seconds / len(ROUTES)
        while time.monotonic() < end:
            await asyncio.sleep(0.01)  # refills and the clock get their turn
            profiler.runcall(feed, data_received, stream, transport)
        spent = {
            named(function): numbers[2]
            for function, numbers in pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
            if Path(function[0]).name not in HARNESS and "process_time" not in function[2]
        }
        total = sum(spent.values())
        found |= {f"{route}: {name}": part / total for name, part in spent.items() if part >= LEAST * total}
    await service.close()
    return found


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(float(sys.argv[1])))))
