"""A service in this process, over a store in memory: what is measured without sockets and without a database."""

import gc
from collections.abc import Iterable

from goloves.core.layout import Layout
from goloves.service import IdService, ServedSpace
from goloves.stores.base import NewTag, Space
from goloves.stores.memory import MemoryStore

STEP = 10_000_000
"""Step of its tags: a refill each ten million ids."""


async def open_service(tags: Iterable[str]) -> IdService:
    """Give a service that has drawn from each tag once: what is measured is a node at work."""
    store = MemoryStore()
    await store.open()
    service = IdService(store, store, spaces=[ServedSpace(Space("default", Layout()))])
    await service.start()
    for tag in tags:
        await store.create_tag(NewTag(tag, step=STEP))
        await service.segment_ids(tag, 1, timeout=30)
    await service.snowflake_ids("default", 1, timeout=30)
    gc.collect()
    gc.freeze()
    return service
