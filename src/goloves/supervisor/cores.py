"""How many cores this process may use: what `nodes = "auto"` stands for."""

import contextlib
import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where a container finds its share of the processors: microseconds within a period, or `max`."""


def cores(quota: Path = QUOTA) -> int:
    """Give the cores that the process may run on, or those that its container's share amounts to if that is less."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        used, period = quota.read_text().split()[:2]
        if used != "max":
            count = min(count, max(1, math.floor(int(used) / int(period))))
    return count
