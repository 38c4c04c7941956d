"""The store of a simulation: the one in memory, on a server that may become another (R7)."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from goloves.stores.memory import MemoryData, MemoryStore

T = TypeVar("T")

TURN = 0.003
"""Seconds that pass where a mutant breaks a transaction in two."""


@dataclass
class SimData(MemoryData):
    """What the database keeps."""

    known_server: str = "one"

    def snapshot(self) -> "SimData":
        """Give a copy that shares nothing."""
        copied = super().snapshot()
        assert isinstance(copied, SimData)
        return copied


class SimStore(MemoryStore):
    """A handle of it; a repair takes the present server for the known one."""

    def __init__(
        self, data: SimData, clock: Callable[[], int] | None, server: Callable[[], str], *, repairing: bool = False
    ) -> None:
        super().__init__(data, clock=clock, repairing=repairing)
        self._sim = data
        self._server = server

    async def lift_halt(self) -> None:
        await super().lift_halt()
        self._sim.known_server = self._server()


async def slowly(work: Coroutine[Any, Any, T]) -> T:
    """Run what waits only where a mutant breaks a transaction in two: time passes there."""
    while True:
        try:
            work.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        await asyncio.sleep(TURN)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("the store waited")
