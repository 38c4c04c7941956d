"""How commands reach the store that the configuration names, and let go of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from goloves.config import Config
from goloves.server.assembly import options
from goloves.stores.urls import parse_store_url

if TYPE_CHECKING:
    from goloves.stores.sql import SqlStore

T = TypeVar("T")


def run(config: Config, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's work on an event loop; of what is logged only warnings are shown."""
    from goloves.log import set_up

    level = config.log.level if config.log.level == "error" else "warning"
    set_up(msgspec.structs.replace(config.log, level=level))
    return asyncio.run(work())


def address_of_store(url: str) -> str:
    """Say where a store is, without user and password."""
    return parse_store_url(url).address


def store_exists(url: str) -> bool:
    """Whether an embedded store's file is there; a database server always counts as there."""
    parsed = parse_store_url(url)
    return parsed.dialect != "sqlite" or Path(parsed.database).exists()


def stores_by_url(config: Config, *, repairing: bool = False) -> "dict[str, SqlStore]":
    """Make the stores of the ranges and the windows, the same one under one URL; none is opened."""
    from goloves.stores import make_store

    return {
        url: make_store(url, options(config, repairing=repairing)) for url in (config.segments_url, config.windows_url)
    }


@asynccontextmanager
async def segments(config: Config, *, only_look: bool = False) -> "AsyncIterator[SqlStore]":
    """Open the store of the ranges, and close it.

    `only_look`: nothing may be bound, recorded or halted by that, whichever machine or server it is (R7, R8).
    """
    from goloves.stores import make_store

    store = make_store(config.segments_url, options(config, repairing=only_look))
    try:
        await store.open()
        yield store
    finally:
        await store.close()
