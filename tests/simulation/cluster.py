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
from goloves.repair import look, plan_repair, repair
from goloves.service import IdService, ServedSpace
from goloves.stores.base import NewTag, Space
from goloves.stores.guard import SegmentGuard, WorkerGuard
from goloves.stores.marks import Marks
from goloves.stores.memory import MemoryData, MemoryStore
from simulation.checker import Checker, Duplicate
from simulation.loop import HOST, START, Host, VirtualLoop
from simulation.network import FarStore, Weather, Wire

EPOCH_MS = 1_700_000_000_000
"""Wall time, ms since 1970, at which a simulation starts."""

SPACE = Space("default", Layout(41, 2, 4, unit_ms=10, epoch_ms=EPOCH_MS - 3_600_000))
"""Four workers of sixteen ids in 10 ms: so few that nodes meet at the same worker ids and sequences fill up."""

WINDOW = 20.0
"""Seconds that a window is long: short, so that a minute sees many of them."""

MAX_FORWARD = 2.0
"""Seconds by which a node's clock may be ahead of the store's."""

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

    def __init__(self, cluster: "Cluster", name: str, number: int) -> None:
        """`number`: its worker id, where those are static."""
        self.cluster = cluster
        self.name = name
        self.clock = SimClock(cluster.loop)
        store = MemoryStore(cluster.data, clock=cluster.store_ms)
        self.wire = Wire(
            name, cluster.loop, cluster.rng, store, cluster.checker, cluster.happened, lambda: cluster.forgetful
        )
        self.marks = Marks()
        self.host = Host(name)
        self.service: IdService | None = None
        self.errors: Counter[str] = Counter()
        self.clock.step(cluster.rng.choice([0.0, 0.0, -30.0, -5.0, 1.5]))
        self.window = cluster.rng.choice([WINDOW, WINDOW / 2])
        self.max_step = cluster.rng.choice([50, 200])
        self.workers = range(number, number + 1) if cluster.space.static else None
        self.served = 0
        self.served_at = 0.0

    def start(self, *, keep_state: bool = True) -> None:
        if not keep_state:
            self.marks = Marks()
            self.cluster.checker.forgets(self.name)
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
            segment=SegmentConfig(target=5.0, max_step=self.max_step, refresh=10.0),
            snowflake=SnowflakeConfig(max_backward=1.0, max_forward=MAX_FORWARD),
            spaces=[ServedSpace(cluster.space, self.window, self.workers)],
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
        service = self.service
        if service is not None:
            context = contextvars.copy_context()
            context.run(HOST.set, self.host)
            await asyncio.wait([self.cluster.loop.create_task(service.close(), context=context)], timeout=10.0)
            if self.service is service:
                self.service = None

    async def _client(self, service: IdService) -> None:
        rng = self.cluster.rng
        while service is self.service:
            await asyncio.sleep(rng.expovariate(6.0))
            try:
                await self._ask(service, rng)
            except Duplicate as error:
                self.cluster.wrong.append(error)
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
    repeated: int
    happened: Counter[str]
    story: list[str]


@dataclass
class Cluster:
    """Nodes, store, network and clients of one run."""

    rng: random.Random
    loop: VirtualLoop
    space: Space = SPACE
    """With pooled worker ids in three stories of four, with static ones in the fourth."""
    data: MemoryData = field(default_factory=lambda: MemoryData(uuid="a store"))
    checker: Checker = field(default_factory=lambda: Checker(layouts={SPACE.name: SPACE.layout}))
    happened: Counter[str] = field(default_factory=Counter)
    nodes: list[SimNode] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    wrong: list[Duplicate] = field(default_factory=list)
    backups: list[MemoryData] = field(default_factory=list)
    before_all: MemoryData | None = None
    """The store before any node came: it knows the tags and no space."""
    repairs: int = 0
    calm_at: float = 0.0
    """When the faults were over."""
    forgot: bool = False
    """Whether the store was set back, and not repaired since."""
    set_back: bool = False
    """Whether the store, or a number in it, was set back in this story: then halts are right."""

    def store_ms(self) -> int:
        return EPOCH_MS + round((self.loop.now - START) * 1000)

    def tell(self, what: str, node: SimNode | None = None) -> None:
        self.happened[what] += 1
        self.story.append(f"{self.loop.now - START:9.3f} s  {node.name + ': ' if node else ''}{what}")

    @property
    def forgetful(self) -> bool:
        """Whether the store was set back, and neither halted nor repaired since."""
        return self.forgot and not self.data.halt

    async def operator(self) -> MemoryStore:
        """Give a person's own way to the store."""
        store = MemoryStore(self.data, clock=self.store_ms)
        await store.open()
        return store

    async def repair(self) -> None:
        """Do what `goloves repair` does."""
        store = await self.operator()
        if self.data.halt:
            # From the configuration that the operator gives it: a space that was lost has to get its floor too.
            await store.open_space(SPACE)
        findings = await look(store)
        # A backup may be older than the repair before: the margin has to cover what that one skipped.
        self.repairs += 1
        margin = 100_000 << 2 * self.repairs
        plan = plan_repair(
            findings,
            now_ms=self.store_ms(),
            windows={},
            longest_window=WINDOW,
            max_forward=MAX_FORWARD,
            margin=margin,
            whole=bool(self.data.halt),
        )
        await repair(store, findings, plan)
        self.forgot = False

    def check_progress(self) -> None:
        """Every node has issued ids after the faults were over."""
        for node in self.nodes:
            if node.served_at <= self.calm_at:
                errors = dict(node.errors)
                raise AssertionError(f"{node.name} issued nothing after the faults were over; its errors: {errors}")

    async def prepare(self, nodes: int) -> None:
        store = await self.operator()
        for tag in TAGS:
            await store.create_tag(tag)
        self.before_all = self.data.snapshot()
        # By mistake, the first two have the same number.
        self.nodes = [SimNode(self, f"node {number}", max(0, number - 1)) for number in range(nodes)]
        for node in self.nodes:
            node.start()


Fault = Callable[[Cluster, SimNode], None]


def play(seed: int) -> Outcome:
    """Run the story that follows from this seed."""
    from simulation.story import run_story

    loop = VirtualLoop()
    asyncio.set_event_loop(None)
    cluster = Cluster(random.Random(seed), loop, SPACE.other_way() if seed % 4 == 3 else SPACE)
    try:
        loop.run_until_complete(run_story(cluster))
        for wrong in (*cluster.wrong, *loop.failures):
            raise wrong
        cluster.checker.check()
        cluster.check_progress()
        if cluster.happened["halted"] and not cluster.set_back:
            raise AssertionError("the store was halted, though nothing was set back")
    except BaseException as error:
        error.add_note(f"seed {seed}; its story:\n" + "\n".join(cluster.story))
        raise
    finally:
        loop.end()
    return Outcome(seed, cluster.checker.issued, cluster.checker.repeated, cluster.happened, cluster.story)


def weather(cluster: Cluster, node: SimNode, what: Weather, name: str) -> None:
    """Change how a node reaches the store, and say so."""
    node.wire.weather = what
    cluster.tell(name, node)
