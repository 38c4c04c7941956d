"""What a service does when a guard says that its store went backwards."""

import pytest

from goloves.errors import StoreWentBackwards
from goloves.stores.guard import SegmentGuard, WorkerGuard


async def open_halted(guard: SegmentGuard | WorkerGuard) -> None:
    """Open a store that went backwards: it is open then all the same."""
    with pytest.raises(StoreWentBackwards):
        await guard.open()


async def tell_marks(guard: SegmentGuard | WorkerGuard) -> None:
    """Look again, once what was held is dropped: the node's marks are written by that."""
    with pytest.raises(StoreWentBackwards):
        await guard.check_halt()
