"""How many cores this process may use: what `nodes = "auto"` stands for."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

GROUPS = Path("/sys/fs/cgroup")
"""Where control groups are mounted (version 2). In each, `cpu.max` holds microseconds within a period, or `max`."""

MEMBERSHIP = Path("/proc/self/cgroup")
"""Which group this process is in: a container sees its own as the root, a unit of the service manager is below it."""


def cores(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Give the cores that the process may run on, or those that the share of its groups amounts to if that is less."""
    count = len(os.sched_getaffinity(0))
    for group in _groups(groups, membership):
        with contextlib.suppress(OSError, ValueError):
            used, period = (group / "cpu.max").read_text().split()[:2]
            if used != "max":
                count = min(count, max(1, math.floor(int(used) / int(period))))
    return count


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Give the group that the process is in and all around it: each one's share binds."""
    group = PurePosixPath("/")
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            if line.startswith("0::/") and "/.." not in line:  # else it lies outside of what can be seen here
                group = PurePosixPath(line.removeprefix("0::"))
    for each in (group, *group.parents):
        yield root / each.relative_to("/")
