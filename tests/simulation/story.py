"""The stories: who runs on what, and which faults happen when, all drawn from the seed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from goloves.stores.base import Space
from simulation.clocks import EPOCH_MS
from simulation.cluster import SPACE, WINDOW, Cluster, SimNode, another_layout
from simulation.machines import (
    black_hole,
    copy_state,
    crash,
    cut,
    deaf,
    drift_clock,
    freeze_clock,
    long_sleep,
    pause,
    restart,
    step_clock,
    storm,
    suspend,
)
from simulation.network import Weather
from simulation.operators import (
    back_up,
    delete_row,
    fail_over,
    leaf,
    lower_number,
    recreate_tag,
    reinsert_row,
    restore,
    restore_at_rest,
    step_store_clock,
)

LENGTH = 60.0
"""Virtual seconds of faults."""

CALM = 30.0
"""Virtual seconds afterwards in which every node must issue again."""

Fault = Callable[[Cluster, SimNode], Awaitable[None]]

MACHINES: list[Fault] = [pause, suspend, crash, crash, restart, step_clock, freeze_clock, drift_clock, copy_state]
NETWORK: list[Fault] = [storm, storm, cut, deaf, black_hole]

ALONE: list[Fault] = [restore_at_rest, restore_at_rest, back_up, back_up, crash, crash, restart, pause, storm]
"""Where nobody draws numbers, so that windows alone can show that the store was set back."""


@dataclass(frozen=True)
class Kind:
    """A kind of story."""

    name: str
    faults: list[Fault]


KINDS = [
    Kind("pooled", [*MACHINES, *NETWORK]),
    Kind("restored", [*MACHINES, *NETWORK, restore, restore, restore, back_up, back_up, back_up]),
    Kind("leaf beside", [*MACHINES, *NETWORK, recreate_tag, leaf, leaf]),
    Kind("static", [*MACHINES, *NETWORK]),
    Kind("restored in peace", [restore, restore, back_up, back_up, crash, restart, pause, storm]),
    Kind("operators", [pause, crash, storm, lower_number, reinsert_row, recreate_tag, delete_row]),
    Kind("failover", [*MACHINES, *NETWORK, fail_over, fail_over, fail_over]),
    Kind("edge of time", [pause, crash, restart, step_clock, step_clock, storm, copy_state]),
    Kind("static, restored", [*MACHINES, *NETWORK, restore, restore, restore, back_up, back_up, back_up]),
    Kind("two configurations", [*MACHINES, *NETWORK]),
    Kind("store's clock", [*MACHINES, *NETWORK, step_store_clock, step_store_clock]),
    Kind("only leaf's table", [*MACHINES, *NETWORK, leaf]),
]
"""One after another, by seed. Leaf's nodes keep to themselves: they take whatever number stands in the table, lowered
or not."""


def kind_of(seed: int) -> Kind:
    return KINDS[seed % len(KINDS)]


async def run_story(cluster: Cluster, seed: int) -> None:
    """Some nodes, some faults, then calm: every node must issue again."""
    rng = cluster.rng
    kind = kind_of(seed)
    cluster.tell(f"a story of the kind: {kind.name}")
    await cluster.prepare(_cast(cluster, kind.name, seed // len(KINDS)))
    for node in cluster.nodes:
        while not node.life:
            await asyncio.sleep(0.5)
            if cluster.data.workers.get(SPACE.name):  # a space of which nothing was claimed takes any configuration
                node.start()
    faults = ALONE if cluster.windows_alone else kind.faults
    under_way: list[asyncio.Task[None]] = []
    sleeps_at = rng.uniform(0.2, 0.9) * LENGTH if rng.random() < 0.15 else LENGTH
    gone = 0.0
    while gone < LENGTH:
        seconds = rng.expovariate(0.35)
        gone += seconds
        await asyncio.sleep(seconds)
        if gone >= sleeps_at:
            sleeps_at = LENGTH
            await asyncio.gather(*under_way)
            await long_sleep(cluster)
        under_way.append(cluster.loop.create_task(_begin(cluster, rng.choice(faults))))
    await asyncio.gather(*under_way)
    await _calm_down(cluster)
    await asyncio.sleep(CALM)
    cluster.check_progress()
    await asyncio.gather(*(node.stop() for node in cluster.nodes))


async def _begin(cluster: Cluster, fault: Fault) -> None:
    await fault(cluster, cluster.rng.choice(cluster.nodes))


def _cast(cluster: Cluster, kind: str, turn: int) -> list[tuple[Space, range | None]]:
    """Choose the nodes, their space and the store of a story; `turn`: the how many-th of its kind it is."""
    rng = cluster.rng
    count = rng.randrange(2, 4)
    space = SPACE
    if kind.startswith("static"):
        space = SPACE.other_way()
    elif kind == "edge of time":
        layout = replace(SPACE.layout, time_bits=24)
        # The layout's time begins, or ends, in the middle of the story.
        at = EPOCH_MS + round(rng.uniform(5, 60) * 1000)
        epoch = at if turn % 2 else at - layout.end_units * layout.unit_ms
        space = replace(SPACE, layout=replace(layout, epoch_ms=epoch))
        cluster.happened["begin of time" if epoch == at else "end of time"] += 1
    elif kind == "store's clock":
        cluster.store_clock = ["none", "steps"][turn % 2]
        cluster.happened[f"store's clock: {cluster.store_clock}"] += 1
    elif kind == "failover":
        cluster.failover = ["halt", "skip", "ignore"][turn % 3]
    if kind == "static, restored" and turn % 3 == 2:
        cluster.windows_alone = True
        cluster.happened["windows alone"] += 1
    cluster.data.only_leaf = kind == "only leaf's table"
    cluster.space = space
    cluster.checker.layout = space.layout
    if space.static:
        # By mistake, the first two have the same number.
        return [(space, range(max(0, number - 1), max(0, number - 1) + 1)) for number in range(count)]
    if kind == "two configurations":
        which = ["another layout", "static beside pooled", "restricted worker ids"][turn % 3]
        cluster.happened[which] += 1
        if which == "restricted worker ids":
            return [(space, range(3)), *[(space, range(1, 4))] * (count - 1)]
        other = (another_layout(space), None) if which == "another layout" else (space.other_way(), range(3, 4))
        return [*[(space, None)] * (count - 1), other]
    return [(space, None)] * count


async def _calm_down(cluster: Cluster) -> None:
    """End all faults, as operators do."""
    if cluster.set_back:
        await asyncio.sleep(2 * WINDOW)
        await cluster.repair()
    cluster.store_step = 0.0
    for node in cluster.nodes:
        node.weather = Weather()
        if not -31.0 < node.clock.ahead < 1.6:
            node.clock.set_right()
        if node.host.paused:
            cluster.loop.resume(node.host)
        if not node.up:
            node.kill()
            node.start()
    if cluster.set_back:
        # A node that was away while the store was repaired may come back with a mark that nobody else knew.
        await asyncio.sleep(WINDOW)
        if cluster.data.halt:
            await cluster.repair()
    cluster.calm_at = cluster.loop.now
