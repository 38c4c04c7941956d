"""The guards of the real thing, at the place where the service is told what it holds: the checker listens here.

What the service did not hear, it must not use; and what it held when it heard of a halt, it must drop.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from goloves.core.grants import Range, Window
from goloves.errors import StoreWentBackwards
from goloves.stores.base import Claim, Tag
from goloves.stores.guard import SegmentGuard, WorkerGuard
from goloves.stores.marks import Marks
from goloves.stores.memory import MemoryData
from simulation.checker import Checker, Duplicate
from simulation.network import FarStore

SPACE_NAME = "default"
"""The one space of a simulation."""


@dataclass
class Listener:
    """What the checker knows of one life."""

    checker: Checker
    node: str
    life: str
    data: MemoryData
    mended: Callable[[], int]
    """Counts what may have set the store right, or back once more."""
    refuses_until: int = -1
    """The store was below this life's marks when it was opened: nothing may be granted to it until that is mended."""

    def numbers_behind(self) -> bool:
        """Say whether the store remembers less of a tag than this node."""
        data = self.data
        return not data.only_leaf and any(
            number
            > max(data.tags[tag].mark if tag in data.tags else -1, data.leaf[tag].max_id if tag in data.leaf else -1)
            for tag, number in self.checker.marks[self.node].numbers.items()
        )

    def fences_behind(self) -> set[int]:
        """Give the worker ids of which this node has seen a higher fence than the store knows."""
        data, space = self.data, SPACE_NAME
        rows, registered = data.workers.get(space, {}), data.spaces.get(space)
        unused = registered.fence if registered is not None else -1
        return {
            worker
            for worker, fence in self.checker.marks[self.node].fences.items()
            if fence > (rows[worker].fence if worker in rows and registered is not None else unused)
        }

    def check_granted(self, what: object) -> None:
        """Hold that nothing is granted to a node whose marks were above the store's when it opened it (R5)."""
        if self.refuses_until == self.mended():
            raise Duplicate(f"{self.life} was granted {what}, though the store was below its marks when it was opened")

    def heard(self, error: StoreWentBackwards, tag: str) -> None:
        """Take in that the service is told of a halt, of a tag, of the windows (""), or of the whole store."""
        self.checker.told_of_halt(self.life, None if error.whole_store else tag)

    @contextlib.contextmanager
    def hearing(self) -> Iterator[None]:
        """Take in a halt of the windows or of the whole store that comes out of this, and let it go on."""
        try:
            yield
        except StoreWentBackwards as error:
            self.heard(error, "")
            raise


class HeardSegments(SegmentGuard):
    """The guard over ranges."""

    def __init__(self, store: FarStore, marks: Marks, listener: Listener) -> None:
        super().__init__(store, marks, listener.node)
        self.listener = listener

    async def open(self) -> None:
        listener = self.listener
        before, mended = listener.numbers_behind(), listener.mended()
        halted: StoreWentBackwards | None = None
        try:
            with listener.hearing():
                await super().open()
        except StoreWentBackwards as error:  # it is open all the same; after any other failure it is not
            halted = error
        if before and listener.numbers_behind() and mended == listener.mended():
            listener.refuses_until = mended
        if halted is not None:
            raise halted

    async def check_halt(self) -> int:
        with self.listener.hearing():
            return await super().check_halt()

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        listener, checker = self.listener, self.listener.checker
        mark = checker.marks[listener.node].numbers.get(tag, -1)
        halts = checker.halts_of(listener.life, tag)
        try:
            granted = await super().allocate(tag, size, exact=exact)
        except StoreWentBackwards as error:
            listener.heard(error, tag)
            raise
        burned = checker.halts_of(listener.life, tag) != halts
        if not burned:
            listener.check_granted(granted)
        checker.acknowledged_range(listener.life, listener.node, granted, mark, burned=burned)
        return granted

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        try:
            return await super().read_tags(names)
        except StoreWentBackwards as error:
            if error.whole_store:
                self.listener.heard(error, "")
            raise


class HeardWindows(WorkerGuard):
    """The guard over windows.

    Whoever knows a fence that the store has forgotten is granted no window of any worker id (R5): the next claim may
    meet one whose fence nobody remembers.
    """

    def __init__(self, store: FarStore, marks: Marks, listener: Listener) -> None:
        super().__init__(store, marks, listener.node)
        self.listener = listener

    async def open(self) -> None:
        with self.listener.hearing():
            await super().open()

    async def check_halt(self) -> int:
        with self.listener.hearing():
            return await super().check_halt()

    async def claim(self, claim: Claim) -> Window:
        listener = self.listener
        marks, halts = self._before()
        behind, mended = listener.fences_behind(), listener.mended()
        with listener.hearing():
            window = await super().claim(claim)
        behind &= listener.fences_behind()
        if behind and mended == listener.mended():
            raise Duplicate(f"{listener.life} claimed {window}, though the store had forgotten fences of {behind}")
        return self._acknowledged(window, marks, halts)

    async def find_window(self, space: str, nonce: str) -> Window | None:
        marks, halts = self._before()
        with self.listener.hearing():
            window = await super().find_window(space, nonce)
        return None if window is None else self._acknowledged(window, marks, halts)

    async def extend(self, window: Window, end: int) -> Window:
        with self.listener.hearing():
            extended = await super().extend(window, end)
        self.listener.checker.acknowledged_extension(self.listener.life, extended)
        return extended

    def _before(self) -> tuple[dict[int, int], int]:
        checker = self.listener.checker
        return dict(checker.marks[self.listener.node].fences), checker.halts_of(self.listener.life, "")

    def _acknowledged(self, window: Window, marks: dict[int, int], halts: int) -> Window:
        listener, checker = self.listener, self.listener.checker
        burned = checker.halts_of(listener.life, "") != halts
        mark = marks.get(window.worker, -1)
        checker.acknowledged_window(listener.life, listener.node, window, mark, burned=burned)
        return window
