"""A cluster on virtual time: nodes that run the real service, one store, a network, clients, a story of faults.

All of it follows from one seed. `play(seed)` runs it and lets the checker judge; `Outcome.story` tells what happened.
"""

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from goloves.config import SegmentConfig, SnowflakeConfig
from goloves.core.layout import Layout
from goloves.errors import GolovesError
from goloves.service import IdService, ServedSpace
from goloves.stores.base import NewTag, Space
from goloves.stores.guard import Marks, SegmentGuard, WorkerGuard
from goloves.stores.memory import MemoryData, MemoryStore
from simulation.checker import Checker
from simulation.loop import HOST, START, Host, VirtualLoop
from simulation.network import FarStore, Weather, Wire

EPOCH_MS = 1_700_000_000_000
"""Wall time, ms since 1970, at which a simulation starts."""

SPACE = Space("default", Layout(41, 3, 4, epoch_ms=EPOCH_MS - 3_600_000))
"""Eight workers of sixteen ids a millisecond: so few that nodes meet at the same worker ids and sequences fill up."""

WINDOW = 20.0
"""Seconds that a window is long: short, so that a minute sees many of them."""

TAGS = (NewTag("order", step=10), NewTag("message", step=3), NewTag("small", step=5, start=0, limit=400))


class SimClock:
    """A machine's clocks: the wall clock may step, drift and stand still; the monotonic clock only drifts."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._step_ns = 0
        self._rate = 1.0
        self._since = loop.now
        self._frozen_at: int | None = None

    def monotonic_ns(self) -> int:
        return round(self._loop.now * 1e9)

    def wall_ns(self) -> int:
        if self._frozen_at is not None:
            return self._frozen_at
        return EPOCH_MS * 1_000_000 + round((self._loop.now - START) * 1e9 * self._rate) + self._step_ns

    def step(self, seconds: float) -> None:
        self._step_ns += round(seconds * 1e9)

    def drift(self, rate: float) -> None:
        self._step_ns += round((self._loop.now - START) * 1e9 * (self._rate - rate))
        self._rate = rate

    def freeze(self) -> None:
        self._frozen_at = self.wall_ns()

    def thaw(self) -> None:
        self._frozen_at = None


class SimNode:
    """One node: a machine with its clocks, its state directory, and the process that runs on it, if one does."""

    def __init__(self, cluster: "Cluster", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.clock = SimClock(cluster.loop)
        self.wire = Wire(
            name,
            cluster.loop,
            cluster.rng,
            MemoryStore(cluster.data, clock=cluster.store_ms),
            cluster.checker,
            cluster.happened,
        )
        self.marks = Marks()
        self.host = Host(name)
        self.service: IdService | None = None
        self.errors: Counter[str] = Counter()
        self.served = 0
        self.served_at = 0.0

    def start(self, *, keep_state: bool = True) -> None:
        if not keep_state:
            self.marks = Marks()
        self.host = Host(self.name)
        context = contextvars.copy_context()
        context.run(HOST.set, self.host)
        self.cluster.loop.create_task(self._live(), context=context)

    def kill(self) -> None:
        self.cluster.loop.kill(self.host)
        self.service = None

    @property
    def up(self) -> bool:
        return self.service is not None and not self.host.killed

    async def _live(self) -> None:
        cluster = self.cluster
        await self.wire.store.open()
        service = IdService(
            SegmentGuard(FarStore(self.wire), self.marks, self.name),
            WorkerGuard(FarStore(self.wire), self.marks, self.name),
            segment=SegmentConfig(target=5.0, max_step=200, refresh=10.0),
            snowflake=SnowflakeConfig(max_backward=1.0, max_forward=2.0),
            spaces=[ServedSpace(SPACE, WINDOW)],
            clock=self.clock,
            rng=random.Random(cluster.rng.getrandbits(64)),
            nonce=lambda: f"{cluster.rng.getrandbits(128):032x}",
            owner=self.name,
        )
        self.service = service
        await service.start()
        for _ in range(2):
            cluster.loop.create_task(self._client(service))

    async def stop(self) -> None:
        """Stop cleanly; a node that is killed or sleeps meanwhile is given up after ten seconds."""
        service, self.service = self.service, None
        if service is not None:
            context = contextvars.copy_context()
            context.run(HOST.set, self.host)
            await asyncio.wait([self.cluster.loop.create_task(service.close(), context=context)], timeout=10.0)

    async def _client(self, service: IdService) -> None:
        rng = self.cluster.rng
        while service is self.service:
            await asyncio.sleep(rng.expovariate(6.0))
            try:
                await self._ask(service, rng)
            except GolovesError as error:
                self.errors[error.code] += 1

    async def _ask(self, service: IdService, rng: random.Random) -> None:
        checker, name = self.cluster.checker, self.name
        choice = rng.random()
        if choice < 0.5:
            tag = rng.choice(TAGS).name
            spans: list[range] = []
            if choice < 0.25:
                source = service.tags.get(tag)
                number = source.take() if source else None
                if number is not None:
                    spans = [range(number, number + 1)]
            elif choice < 0.3:
                granted = await service.segment_range(tag, rng.randrange(1, 30))
                spans = [range(granted.start, granted.end)]
            if not spans:
                spans = await service.segment_ids(tag, rng.randrange(1, 20))
            checker.issued_numbers(name, tag, spans)
        elif choice < 0.75:
            id_ = service.spaces[SPACE.name].take()
            if id_ is None:
                spans = await service.snowflake_ids(SPACE.name, 1)
            else:
                spans = [range(id_, id_ + 1)]
            checker.issued_ids(name, SPACE.name, spans)
        else:
            spans = await service.snowflake_ids(SPACE.name, rng.randrange(1, 60))
            checker.issued_ids(name, SPACE.name, spans)
        self.served += 1
        self.served_at = self.cluster.loop.now


@dataclass
class Outcome:
    """What a run gave."""

    seed: int
    issued: int
    happened: Counter[str]
    story: list[str]


@dataclass
class Cluster:
    """Nodes, store, network and clients of one run."""

    rng: random.Random
    loop: VirtualLoop
    data: MemoryData = field(default_factory=lambda: MemoryData(uuid="a store"))
    checker: Checker = field(default_factory=lambda: Checker(layouts={SPACE.name: SPACE.layout}))
    happened: Counter[str] = field(default_factory=Counter)
    nodes: list[SimNode] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    def store_ms(self) -> int:
        return EPOCH_MS + round((self.loop.now - START) * 1000)

    def tell(self, what: str, node: SimNode | None = None) -> None:
        self.happened[what] += 1
        self.story.append(f"{self.loop.now - START:9.3f} s  {node.name + ': ' if node else ''}{what}")

    async def prepare(self, nodes: int) -> None:
        store = MemoryStore(self.data, clock=self.store_ms)
        await store.open()
        for tag in TAGS:
            await store.create_tag(tag)
        self.nodes = [SimNode(self, f"node {number}") for number in range(nodes)]
        for node in self.nodes:
            node.start()


Fault = Callable[[Cluster, SimNode], None]


def play(seed: int) -> Outcome:
    """Run the story that follows from this seed."""
    from simulation.story import run_story

    loop = VirtualLoop()
    asyncio.set_event_loop(None)
    cluster = Cluster(random.Random(seed), loop)
    try:
        loop.run_until_complete(run_story(cluster))
        for failure in loop.failures:
            raise failure
        cluster.checker.check()
    except BaseException as error:
        error.add_note(f"seed {seed}; its story:\n" + "\n".join(cluster.story))
        raise
    finally:
        loop.end()
    return Outcome(seed, cluster.checker.issued, cluster.happened, cluster.story)


def weather(cluster: Cluster, node: SimNode, what: Weather, name: str) -> None:
    """Change how a node reaches the store, and say so."""
    node.wire.weather = what
    cluster.tell(name, node)
