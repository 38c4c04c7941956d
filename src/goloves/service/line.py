"""Requests that wait in line for ids: each is served whole before the next gets any.

Without a line, waiting batches take from one another: each draws what there is, none gets all before its deadline, and
what they drew is thrown away.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Waiter:
    """A request in line: the spans that it has, and how many ids it still wants."""

    __slots__ = ("done", "spans", "wanted")

    def __init__(self, spans: list[range], wanted: int) -> None:
        self.spans = spans
        self.wanted = wanted
        self.done: asyncio.Future[list[range]] = asyncio.get_running_loop().create_future()


Line = deque[Waiter]


def wanted(line: Line | None) -> int:
    """Give how many ids the line waits for; who has left it is let go."""
    while line and line[0].done.done():
        line.popleft()
    return sum(waiter.wanted for waiter in line if not waiter.done.done()) if line else 0


def serve(line: Line | None, take_many: Callable[[int], list[range]]) -> bool:
    """Serve the line in order as far as the ids reach; True if nobody waits any more."""
    while line:
        waiter = line[0]
        if waiter.done.done():
            line.popleft()
            continue
        spans = take_many(waiter.wanted)
        waiter.spans += spans
        waiter.wanted -= sum(map(len, spans))
        if waiter.wanted:
            return False
        line.popleft()
        waiter.done.set_result(waiter.spans)
    return True


def fail(line: Line | None, error: Exception) -> None:
    """Answer everybody in line with this error."""
    while line:
        waiter = line.popleft()
        if not waiter.done.done():
            waiter.done.set_exception(error)
