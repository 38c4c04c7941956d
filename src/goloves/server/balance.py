"""How the nodes of one supervisor share the connections of one listener evenly.

All of them wait on the same listeners, and whoever runs first would take nearly all connections of clients that come
one by one. So each node writes how many it has into memory that all of them map, and one that has more than another
leaves a connection to the others for a moment. It takes it afterwards, whatever they have: a node that hangs or is
busy keeps nobody waiting for longer than that.

Rules:
1. A place in the memory belongs to one process at a time; the supervisor gives it, and clears it when that one is gone.
2. What stands there is a hint: a wrong number makes connections uneven, and nothing else.
3. A node of a version that reads the memory otherwise (`LAYOUT`) leaves it alone.
"""

import mmap
import os
from enum import IntEnum

PLACES = 128
"""Twice the nodes that there can be, for each may be replaced by one that starts before it goes."""

WIDTH = 8
"""Numbers of a place: 64 bytes, so that no two nodes write to one line of a processor's cache."""

SIZE = PLACES * WIDTH * 8

LAYOUT = 1
"""Of the memory: a node may be of another version than the supervisor that made it. How many places there are is told
by its size."""

LEAVE = 0.002
"""Seconds for which a connection is left to nodes that have fewer: they wake within a tenth of that when idle."""


class Kind(IntEnum):
    """What is shared out, each by itself; and where it stands in a place."""

    HTTP = 1
    GRPC = 2


def make_memory() -> int:
    """Make the memory; gives its file descriptor."""
    memory = os.memfd_create("goloves-balance")
    os.ftruncate(memory, SIZE)
    return memory


class Balance:
    """One place in the memory, written by one node; read by all."""

    def __init__(self, memory: int, place: int) -> None:
        """`memory`: from `make_memory`; it may be closed afterwards."""
        self._map = mmap.mmap(memory, os.fstat(memory).st_size)
        self._numbers = memoryview(self._map).cast("q")
        self._at = place * WIDTH

    def begin(self) -> None:
        """Take part: from now on others may leave connections to this node."""
        self._numbers[self._at] = 1

    def end(self) -> None:
        """Take part no more."""
        self.clear(self._at // WIDTH)

    def clear(self, place: int) -> None:
        """Do the same for the place of a process that is gone."""
        for offset in range(WIDTH):
            self._numbers[place * WIDTH + offset] = 0

    def publish(self, kind: Kind, count: int) -> None:
        """Say how many connections this node has."""
        self._numbers[self._at + kind] = count

    def is_due(self, kind: Kind, count: int) -> bool:
        """Whether a node with `count` connections is to take the next one: none that takes part has fewer."""
        numbers = self._numbers
        return not any(
            numbers[at] and numbers[at + kind] < count for at in range(0, len(numbers), WIDTH) if at != self._at
        )
