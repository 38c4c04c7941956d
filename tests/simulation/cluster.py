"""A cluster on virtual time: nodes that run the real service, one store, a network, clients, a story of faults.

All of it follows from one seed. `play(seed)` runs it and lets the checker judge; `Outcome.story` tells what happened.
"""

import asyncio
import contextvars
import copy
import gc
import logging
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from goloves.config import SegmentConfig, SnowflakeConfig
from goloves.core.layout import Layout
from goloves.errors import GolovesError
from goloves.repair import look, plan_repair, repair
from goloves.service import IdService, ServedSpace
from goloves.stores.base import NewTag, Space
from goloves.stores.marks import Marks
from goloves.stores.memory import LeafRow, MemoryStore
from simulation.checker import Checker, Duplicate
from simulation.clocks import EPOCH_MS, SimClock
from simulation.guards import HeardSegments, HeardWindows, Listener
from simulation.loop import HOST, START, Host, VirtualLoop
from simulation.network import MAX_FORWARD, FarStore, Weather, Wire
from simulation.store import SimData, SimStore, at_once

SPACE = Space("default", Layout(41, 2, 4, unit_ms=10, epoch_ms=EPOCH_MS - 3_600_000))
"""Four workers of sixteen ids in 10 ms: so few that nodes meet at the same worker ids and sequences fill up."""

WINDOW = 20.0
"""Seconds that a window is long: short, so that a minute sees many of them."""

TAGS = (NewTag("order", step=10), NewTag("message", step=3), NewTag("small", step=5, start=0, limit=400))

GAP = 100_000
"""Numbers that a repair or a skip leaves out, and doubles each time: more than a story issues of a tag."""

HARVEST = ("windows_adopted", "windows_lost", "windows_released", "workers_abandoned", "ranges_burned", "clock_jumps")
"""Counters of the nodes, which faults have to move."""


class SimNode:
    """One node: a machine with its clocks, its state directory, and the process that runs on it, if one does."""

    def __init__(self, cluster: "Cluster", name: str, space: Space, workers: range | None) -> None:
        self.cluster = cluster
        self.name = name
        self.life = ""
        self.clock = SimClock(cluster.loop)
        self.weather = Weather()
        self.marks = Marks()
        self.host = Host(name)
        self.suspended = False
        """Whether the machine stands still, with its clocks."""
        self.service: IdService | None = None
        self.errors: Counter[str] = Counter()
        self.clock.step(cluster.rng.choice([0.0, 0.0, 0.0, -30.0, -5.0, 1.5, 5.0]))
        self.window = cluster.rng.choice([WINDOW, WINDOW / 2])
        self.max_step = cluster.rng.choice([50, 200])
        self.space = space
        self.workers = workers
        self.served_at: dict[str, float] = {}
        """By mode: when it issued last."""
        self._lives = 0

    def start(self, *, keep_state: bool = True) -> None:
        if not keep_state:
            self.take_state(Marks())
            self.cluster.checker.marks.pop(self.name, None)
        self.take_state(self.marks)
        self._lives += 1
        self.life = f"{self.name}, life {self._lives}"
        self.host = Host(self.name)
        context = contextvars.copy_context()
        context.run(HOST.set, self.host)
        self.cluster.loop.create_task(self._live(), context=context)

    def take_state(self, marks: Marks) -> None:
        """Read what a state directory holds; nothing else of a process outlives it."""
        self.marks = Marks()
        self.marks._tags = copy.deepcopy(marks._tags)
        self.marks._fences = copy.deepcopy(marks._fences)

    def kill(self) -> None:
        self.cluster.loop.kill(self.host)
        self._harvest()
        self.service = None

    @property
    def up(self) -> bool:
        return self.service is not None and not self.host.killed

    def _harvest(self) -> None:
        if self.service is not None:
            for name in HARVEST:
                self.cluster.happened[name.replace("_", " ")] += getattr(self.service.counters, name)

    async def _live(self) -> None:
        cluster = self.cluster
        store = cluster.new_store()
        wire = Wire(
            node=self.name,
            life=self.life,
            loop=cluster.loop,
            rng=cluster.rng,
            store=store,
            checker=cluster.checker,
            happened=cluster.happened,
            weather=lambda: self.weather,
            connect=cluster.meet_server,
            store_ms=cluster.store_ms if cluster.store_clock == "right" else None,
        )
        listener = Listener(cluster.checker, self.name, self.life, cluster.data, lambda: cluster.mended)
        service = IdService(
            HeardSegments(FarStore(wire), self.marks, listener),
            HeardWindows(FarStore(wire), self.marks, listener),
            segment=SegmentConfig(target=5.0, max_step=self.max_step, refresh=10.0),
            snowflake=SnowflakeConfig(max_backward=1.0, max_forward=MAX_FORWARD),
            spaces=[ServedSpace(self.space, self.window, self.workers)],
            clock=self.clock,
            rng=random.Random(cluster.rng.getrandbits(64)),
            nonce=lambda: f"{cluster.rng.getrandbits(128):032x}",
            owner=self.name,
        )
        self.service = service
        await service.start()
        for _ in range(2):
            cluster.loop.create_task(self._client(service, self.life))

    async def stop(self) -> None:
        """Stop cleanly; a node that is killed or sleeps meanwhile is given up after ten seconds."""
        service = self.service
        if service is not None:
            context = contextvars.copy_context()
            context.run(HOST.set, self.host)
            await asyncio.wait([self.cluster.loop.create_task(service.close(), context=context)], timeout=10.0)
            if self.service is service:
                self._harvest()
                self.service = None

    async def _client(self, service: IdService, life: str) -> None:
        rng = self.cluster.rng
        while service is self.service:
            await self.cluster.loop.nap(rng.expovariate(6.0))
            try:
                await self._ask(service, life, rng)
            except GolovesError as error:
                self.errors[error.code] += 1

    async def _ask(self, service: IdService, life: str, rng: random.Random) -> None:
        checker = self.cluster.checker
        asked = checker.moment
        choice = rng.random()
        if choice < 0.5 and not self.cluster.windows_alone:
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
            checker.issued_numbers(life, tag, spans, asked)
            self.served_at["segment"] = self.cluster.loop.now
            return
        if choice < 0.75:
            id_ = service.spaces[SPACE.name].take()
            spans = [range(id_, id_ + 1)] if id_ is not None else await service.snowflake_ids(SPACE.name, 1)
        else:
            spans = await service.snowflake_ids(SPACE.name, rng.randrange(1, 60))
        checker.issued_ids(life, spans, asked)
        self.served_at["snowflake"] = self.cluster.loop.now


@dataclass
class Outcome:
    """What a run gave."""

    seed: int
    issued: int
    repeated: int
    happened: Counter[str]
    story: list[str]


@dataclass
class Backup:
    """A copy of the store."""

    made_at: float
    lost: list[tuple[float, float]]
    """What the store had forgotten then."""
    data: SimData


@dataclass
class Cluster:
    """Nodes, store, network and clients of one run."""

    rng: random.Random
    loop: VirtualLoop
    space: Space = SPACE
    store_clock: str = "right"
    """`right`, `steps`, or `none` where the store has none."""
    windows_alone: bool = False
    """Whether nobody draws numbers."""
    failover: str = "halt"
    """What happens when the store's server became another (R7)."""
    data: SimData = field(default_factory=lambda: SimData(uuid="a store"))
    happened: Counter[str] = field(default_factory=Counter)
    nodes: list[SimNode] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    backups: list[Backup] = field(default_factory=list)
    before_all: Backup | None = None
    """The store before any node came: it knows the tags and no space."""
    store_step: float = 0.0
    """Seconds by which the store's clock is ahead."""
    server: str = "one"
    """The server that the store is on."""
    mended: int = 0
    """Counts what set the store back, or right again."""
    repairs: int = 0
    calm_at: float = 0.0
    """When the faults were over."""
    set_back: bool = False
    """Whether the store, or a number in it, was set back in this story: then halts are right."""

    def __post_init__(self) -> None:
        self.checker = Checker(self.space.layout)

    def store_ms(self) -> int:
        """Give the true time, ms since 1970."""
        return EPOCH_MS + round((self.loop.now - START) * 1000)

    def new_store(self, *, repairing: bool = False) -> SimStore:
        """Give a handle of the store, not open."""
        clock = None if self.store_clock == "none" else lambda: self.store_ms() + round(self.store_step * 1000)
        return SimStore(self.data, clock, lambda: self.server, repairing=repairing)

    def tell(self, what: str, node: SimNode | None = None) -> None:
        self.story.append(f"{self.loop.now - START:9.3f} s  {node.name + ': ' if node else ''}{what}")

    async def operator(self) -> MemoryStore:
        """Give a person's own way to the store."""
        store = self.new_store(repairing=True)
        await store.open()
        return store

    # --- a store that is set back ---

    def back_up(self) -> Backup:
        """Make a backup."""
        return Backup(self.loop.now, list(self.checker.lost), self.data.snapshot())

    def restore(self, backup: Backup) -> None:
        """Let the store be what it was."""
        self.set_back = True
        self.mended += 1
        self.checker.store_forgot([*backup.lost, (backup.made_at, self.loop.now)])
        self.data.restore(backup.data)

    def meet_server(self) -> None:
        """Do what a store does when it finds another server than the one that it knows (R7)."""
        data = self.data
        if data.known_server == self.server:
            return
        self.happened["failover noticed"] += 1
        if self.failover == "halt":
            if not data.halt:
                self.tell("another server: halted")
            data.halt = data.halt or f"the server is {self.server}, it was {data.known_server}"
            return
        data.known_server = self.server
        if self.failover == "skip":
            self.tell("another server: skipped")
            store = self.new_store()
            at_once(store.open())
            self.repairs += 1
            at_once(store.skip_tags(GAP << self.repairs))
            layout = self.space.layout
            floor = layout.span_units(self.store_ms() - layout.epoch_ms + round(2 * WINDOW * 1000))
            for name in data.spaces:
                at_once(store.raise_floor(name, floor))
                at_once(store.end_windows(name))
            self._know_everything()

    def _know_everything(self) -> None:
        self.checker.lost = []
        self.mended += 1

    async def repair(self) -> None:
        """Do what `goloves repair` does; after a restore that nobody noticed, what `--restored` makes of it."""
        store = await self.operator()
        whole = bool(self.data.halt) or self.checker.forgetful
        if whole and not self.data.only_leaf:
            # From the configuration that the operator gives it: a space that was lost has to get its floor too.
            await store.open_space(self.space)
        findings = await look(store)
        # A backup may be older than the repair before: the margin has to cover what that one skipped.
        self.repairs += 1
        plan = plan_repair(
            findings,
            now_ms=self.store_ms(),
            windows={},
            longest_window=WINDOW,
            max_forward=MAX_FORWARD,
            margin=GAP << self.repairs,
            whole=whole,
        )
        await repair(store, findings, plan)
        self.tell("store repaired" if whole else "tags repaired")
        self.happened["repair"] += 1
        if whole:
            self._know_everything()

    # --- its beginning and its end ---

    async def prepare(self, nodes: list[tuple[Space, range | None]]) -> None:
        """Make the tags and start nodes, each with its space and the worker ids that it may claim."""
        store = await self.operator()
        for tag in TAGS:
            if self.data.only_leaf:
                start = 1 if tag.start is None else tag.start
                self.data.leaf[tag.name] = LeafRow(start, tag.step, "", datetime.fromtimestamp(0, UTC))
            else:
                await store.create_tag(tag)
        self.before_all = self.back_up()
        for number, (space, workers) in enumerate(nodes):
            self.nodes.append(SimNode(self, f"node {number}", space, workers))
        # Who is configured wrongly comes later, when the first has registered the space.
        self.nodes[0].clock.set_right()
        for node in self.nodes:
            if node.space.layout == self.space.layout and node.space.static == self.space.static:
                node.start()

    def check_progress(self) -> None:
        """Every node has issued ids of each kind after the faults were over, unless something that lasts forbids it."""
        for node in self.nodes:
            for mode, excuse in (
                ("segment", self.windows_alone or self._no_tag()),
                ("snowflake", self._no_window(node)),
            ):
                if not excuse and node.served_at.get(mode, 0.0) <= self.calm_at:
                    raise AssertionError(
                        f"{node.name} issued no {mode} id after the faults were over; its errors: {dict(node.errors)}"
                    )
                self.happened[f"excused from {mode}"] += excuse

    def _no_tag(self) -> bool:
        """Whether every tag is gone or used up, or nobody asks for one."""
        if self.windows_alone:
            return True
        for name, row in self.data.leaf.items():
            marked = self.data.tags.get(name)
            if marked is None or (row.max_id < marked.limit and not marked.halted):
                return False
        return True

    def _no_window(self, node: SimNode) -> bool:
        """Whether a node can get no window: of another layout or way, with a number that is taken, at time's end."""
        registered = self.data.spaces.get(SPACE.name)
        if self.data.only_leaf or registered is None:
            return self.data.only_leaf
        if (registered.layout, registered.static) != (node.space.layout, node.space.static):
            return True
        layout = node.space.layout
        rows = self.data.workers.get(SPACE.name, {})
        floors = [rows[worker].floor if worker in rows else 0 for worker in node.workers or range(layout.workers)]
        rests_until = layout.unix_ms(max(registered.floor, min(floors)))
        present = self.store_ms() + round((node.clock.ahead - 2.0) * 1000)
        return self.store_ms() >= layout.end_unix_ms - 1000 or present <= rests_until


def play(seed: int) -> Outcome:
    """Run the story that follows from this seed."""
    from simulation.story import run_story

    # What the story before left is swept once, and nobody looks for garbage while one is played.
    gc.collect()
    gc.disable()
    loop = VirtualLoop()
    asyncio.set_event_loop(None)
    rng = random.Random(seed)
    cluster = Cluster(rng, loop)
    Duplicate.told = loop.fail
    try:
        loop.run_story(run_story(cluster, seed))
        cluster.checker.check()
        if cluster.happened["halted"] and not cluster.set_back:
            raise AssertionError("the store was halted, though nothing was set back")
    except BaseException as error:
        error.add_note(f"seed {seed}; its story:\n" + "\n".join(cluster.story))
        raise
    finally:
        Duplicate.told = None
        loop.end()
        gc.enable()
    cluster.happened["repeated within the bound"] = cluster.checker.repeated
    return Outcome(seed, cluster.checker.issued, cluster.checker.repeated, cluster.happened, cluster.story)


def quiet() -> None:
    """Have stories log nothing, and leave out what is there already when their garbage is swept."""
    logging.disable()
    gc.freeze()


def another_layout(space: Space) -> Space:
    """Give the space as a node has it that was configured wrongly."""
    layout = space.layout
    return replace(space, layout=replace(layout, worker_bits=layout.worker_bits + 1))
