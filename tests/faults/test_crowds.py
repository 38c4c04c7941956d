"""Hundreds of claims at once on a real database: each gets a worker id of its own, and what is taken is waited for."""

import asyncio
import random
import secrets
import time

import pytest

from faults.conftest import Note
from faults.ground import Ground
from goloves.core.grants import Window
from goloves.core.layout import Layout
from goloves.errors import NoWorkerFree, StoreUnavailable
from goloves.stores.base import Claim, Space

NODES = 10
"""Handles of the store, with five connections each: half of what PostgreSQL lets in by default."""

EACH = 60

SPACE = Space("crowd", Layout())

AGAIN = 50
"""Times that a claim which is known not to have happened is made again."""


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_w6_of_1200_claims_at_once_each_gets_an_id_of_its_own_until_all_1024_are_taken(
    served: Ground, note: Note
) -> None:
    stores = [served.backend.make() for _ in range(NODES)]
    for store in stores:
        await store.open()
        await store.open_space(SPACE)

    async def claim(number: int) -> Window | None:
        for _ in range(AGAIN):
            asked = Claim(SPACE, 1000, 60_000, secrets.token_hex(16), f"node {number}", random.Random(number))
            try:
                return await stores[number % NODES].claim(asked)
            except NoWorkerFree:
                return None
            except StoreUnavailable:
                continue
        raise AssertionError(f"claim {number} never got through")

    begun = time.monotonic()
    try:
        # As 600 nodes that start, are killed, and start again at once, while their first windows are under way.
        first = await asyncio.gather(*map(claim, range(NODES * EACH)))
        second = await asyncio.gather(*map(claim, range(NODES * EACH)))
    finally:
        for store in stores:
            await store.close()
    windows = [window for window in (*first, *second) if window is not None]
    note(claims=len(first) + len(second), granted=len(windows), within=time.monotonic() - begun)
    assert None not in first
    assert sorted(window.worker for window in windows) == list(range(1024))
    assert {window.fence for window in windows} == {1}
