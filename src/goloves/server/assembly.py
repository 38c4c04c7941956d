"""From a configuration to a node's parts: its stores, its service, the node itself.

Whoever starts a node does it by this: a supervisor's child, or `goloves serve` without a supervisor. Modules of stores
are loaded when they are needed: the supervisor, which has no store, uses parts of this too.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from goloves.config import Config
from goloves.config.addresses import parse_address
from goloves.config.settings import TlsConfig
from goloves.errors import GolovesError
from goloves.server.balance import Balance

if TYPE_CHECKING:
    from goloves.server.node import Node
    from goloves.server.tls import Certificates
    from goloves.stores.base import SegmentStore
    from goloves.stores.marks import Marks
    from goloves.stores.sql import Options

SETTLING = 1.0
"""Seconds that the first words wait for the node to be ready, so that what they suggest works: with a store that
answers it takes a tenth of that, and whoever started it reads something within two seconds in any case."""

DEFAULT_TAG = "default"
"""The tag that a schema of Goloves' own brings."""


def node_name(number: int | str) -> str:
    """Say which node of this machine it is: in the log, in the store, for whoever repairs it."""
    return f"{socket.gethostname()} node {number}"


def state_directory(config: Config, number: int) -> Path:
    """Give the directory of a node's marks. One a node: the marks of two must not be mixed (R5)."""
    return Path(config.server.data_dir) / f"node-{number}"


def may_create(config: Config) -> bool:
    """Whether a start may make an embedded store by itself: only if nobody but this machine reaches it (R8).

    Where others do, a store that is missing is rather a volume that was not mounted, and would repeat ids. So would one
    that nodes of this data directory have worked with: what they remember tells of it. In a container nothing may tell
    of either: the image's configuration leaves it to people.
    """
    if not config.stores.create or remembers_a_store(Path(config.server.data_dir)):
        return False
    listeners = [*config.http.listen, *config.grpc.listen, config.admin.listen]
    return all(parse_address(text).is_local for text in listeners if text)


def remembers_a_store(data_dir: Path) -> bool:
    """Whether nodes have left marks of a store here."""
    from goloves.stores.marks import HEADER, STATE

    for file in data_dir.glob(f"{STATE}*/marks"):
        with contextlib.suppress(OSError):
            if file.stat().st_size > len(HEADER) + 1:
                return True
    return False


def options(config: Config, *, create: bool = False, repairing: bool = False) -> "Options":
    """Give the options of the stores.

    `create` lets an embedded store come into being (R8); `repairing` opens one that became another (R7, R8).
    """
    from goloves.stores.failover import Skip
    from goloves.stores.sql import Options

    stores = config.stores
    longest = max(space.window for space in config.spaces.values())
    return Options(
        timeout=stores.timeout,
        pool=stores.pool,
        allow_lost_commits=stores.allow_lost_commits,
        create=create,
        failover=stores.failover,
        skip=Skip(
            stores.failover_gap,
            round((longest + config.snowflake.max_forward) * 1000),
            round(config.snowflake.max_forward * 1000),
        ),
        repairing=repairing,
    )


def certificates(tls: TlsConfig) -> "Certificates | None":
    """Read the certificate's files, if there are any; ConfigError says what is wrong with them."""
    from goloves.server.tls import Certificates

    if tls.certificate is None or tls.key is None:
        return None
    return Certificates(
        Path(tls.certificate),
        Path(tls.key),
        client_authorities=None if tls.client_authorities is None else Path(tls.client_authorities),
        client_required=tls.client_required,
    )


@dataclass(frozen=True, slots=True)
class FirstWords:
    """What a person is told at the start of a node."""

    waits: list[str]
    """Why it can't serve yet; empty if it can."""
    tag: str | None
    """A tag to try; None if there is none."""


class Assembled:
    """A node with its store, not started yet."""

    def __init__(self, node: "Node", segments: "SegmentStore") -> None:
        self.node = node
        self.started = asyncio.Event()
        """Set when it accepts."""
        self._segments = segments

    def reasons(self) -> list[str]:
        """Say why it can't serve; empty if it can."""
        if not self.started.is_set():
            return ["the store has not answered yet"]
        return self.node.service.readiness()

    async def first_words(self) -> FirstWords:
        """Wait a moment for it to be ready, then say how it stands."""
        settled = asyncio.get_running_loop().time() + SETTLING
        # Readiness is put together from many places when it is asked for: there is nothing to wait on.
        while (reasons := self.reasons()) and asyncio.get_running_loop().time() < settled:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return FirstWords(reasons, await self._some_tag())

    async def _some_tag(self) -> str | None:
        """Find a tag to try: `default`, or any; None if there is none. A store that can't say likely has `default`."""
        try:
            if await self._segments.read_tags([DEFAULT_TAG]):
                return DEFAULT_TAG
            return next((tag.name for tag in await self._segments.list_tags(most=1)), None)
        except GolovesError:
            return DEFAULT_TAG


async def assemble(
    config: Config,
    number: int,
    marks: "Marks",
    *,
    http: Iterable[socket.socket],
    grpc: Iterable[socket.socket],
    balance: Balance | None = None,
    create: bool,
    init: bool,
) -> Assembled:
    """Put a node together; nothing is accepted yet.

    `number`: of its state directory. `create`: whether an embedded store may come into being; `init`: make a new one
    first, which is an error where one exists.
    """
    from goloves.server.node import Node
    from goloves.service import IdService, ServedSpace
    from goloves.stores import make_stores
    from goloves.stores.guard import SegmentGuard, WorkerGuard

    tls = certificates(config.tls)
    segments, windows = make_stores(config.segments_url, config.windows_url, options(config, create=create))
    if init:
        for each in dict.fromkeys((segments, windows)):
            await each.create()
    name = node_name(number)
    service = IdService(
        SegmentGuard(segments, marks, name),
        WorkerGuard(windows, marks, name),
        segment=config.segment,
        snowflake=config.snowflake,
        spaces=[ServedSpace.configured(space, each) for space, each in config.spaces.items()],
        owner=f"{name} pid {os.getpid()}",
    )
    node = Node(
        service,
        http=http,
        grpc=grpc,
        limits=config.http,
        grpc_limits=config.grpc,
        leaf_spaces=config.leaf.spaces,
        drain=config.server.drain,
        tls=tls,
        balance=balance,
    )
    return Assembled(node, segments)
