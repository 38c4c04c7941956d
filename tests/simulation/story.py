"""The stories: which faults happen when, all drawn from the cluster's seed."""

import asyncio
import contextlib
import copy
from collections.abc import Awaitable, Callable
from dataclasses import replace

from goloves.core.grants import Range
from goloves.errors import InvalidCount, TagExists
from simulation.cluster import TAGS, WINDOW, Cluster, SimNode, weather
from simulation.network import Weather

LENGTH = 60.0
"""Virtual seconds of faults."""

CALM = 30.0
"""Virtual seconds afterwards in which every node must issue again."""


async def pause(cluster: Cluster, node: SimNode) -> None:
    """SIGSTOP for a moment up to three windows, then SIGCONT."""
    seconds = cluster.rng.choice([0.01, 0.5, 3.0, 25.0, 60.0]) * cluster.rng.uniform(0.5, 1.0)
    cluster.tell(f"paused for {seconds:.2f} s", node)
    cluster.happened["pause"] += 1
    node.host.paused = True
    host = node.host
    await asyncio.sleep(seconds)
    if not host.killed:
        cluster.loop.resume(host)


async def crash(cluster: Cluster, node: SimNode) -> None:
    """kill -9, and a new start after a while, with or without the state directory."""
    keep = cluster.rng.random() < 0.7
    cluster.tell("killed" if keep else "killed, state directory lost", node)
    cluster.happened["crash"] += 1
    node.kill()
    await asyncio.sleep(cluster.rng.expovariate(0.5))
    node.start(keep_state=keep)


async def restart(cluster: Cluster, node: SimNode) -> None:
    """A clean stop and start."""
    if node.up and not node.host.paused:
        cluster.tell("restarted", node)
        cluster.happened["restart"] += 1
        await node.stop()
        node.kill()
        node.start()


async def step_clock(cluster: Cluster, node: SimNode) -> None:
    """The wall clock steps, and perhaps back again."""
    seconds = cluster.rng.choice([0.001, 0.5, 1.5, 5.0, 30.0, 3600.0]) * cluster.rng.choice([-1, 1])
    cluster.tell(f"clock stepped by {seconds} s", node)
    cluster.happened["clock step"] += 1
    node.clock.step(seconds)
    await asyncio.sleep(cluster.rng.expovariate(0.1))
    if cluster.rng.random() < 0.8:
        node.clock.step(-seconds)
        cluster.tell("clock stepped back again", node)


async def freeze_clock(cluster: Cluster, node: SimNode) -> None:
    """The wall clock stands still for a while."""
    cluster.tell("clock frozen", node)
    node.clock.freeze()
    await asyncio.sleep(cluster.rng.expovariate(0.1))
    node.clock.thaw()


async def drift_clock(cluster: Cluster, node: SimNode) -> None:
    """The wall clock runs wrong."""
    cluster.tell("clock drifts", node)
    node.clock.drift(cluster.rng.choice([0.9, 0.99, 1.01, 1.1]))
    await asyncio.sleep(cluster.rng.expovariate(0.1))
    node.clock.drift(1.0)


async def storm(cluster: Cluster, node: SimNode) -> None:
    """The network loses, delays and doubles for a while."""
    rng = cluster.rng
    bad = Weather(rng.random() * 0.4, rng.random() * 0.6, rng.random() * 0.3, rng.random() * 0.5)
    weather(cluster, node, bad, "storm")
    await asyncio.sleep(rng.expovariate(0.1))
    weather(cluster, node, Weather(), "storm over")


async def cut(cluster: Cluster, node: SimNode) -> None:
    """The store refuses connections."""
    weather(cluster, node, Weather(cut=True), "cut")
    await asyncio.sleep(cluster.rng.choice([0.3, 5.0, 40.0]) * cluster.rng.uniform(0.5, 1.0))
    weather(cluster, node, Weather(), "cut over")


async def deaf(cluster: Cluster, node: SimNode) -> None:
    """One way only: requests arrive, no answer comes back."""
    weather(cluster, node, Weather(lost_answers=1.0), "deaf")
    await asyncio.sleep(cluster.rng.choice([1.0, 10.0, 30.0]) * cluster.rng.uniform(0.5, 1.0))
    weather(cluster, node, Weather(), "deaf over")


async def restore(cluster: Cluster, node: SimNode) -> None:
    """The store is set back to a backup, or to a replica that lost commits; after a while an operator repairs it."""
    if not cluster.backups:
        cluster.backups.append(cluster.data.snapshot())
        return
    cluster.tell("store set back")
    cluster.happened["restore"] += 1
    cluster.set_back = cluster.forgot = True
    backup = cluster.rng.choice(cluster.backups)
    if cluster.before_all is not None and cluster.rng.random() < 0.15:
        backup = cluster.before_all
        cluster.tell("the space is lost")
    cluster.data.restore(backup)
    await asyncio.sleep(cluster.rng.uniform(0.5, 20.0))
    if cluster.data.halt:
        cluster.tell("store repaired")
        cluster.happened["repair"] += 1
        await cluster.repair()


async def back_up(cluster: Cluster, node: SimNode) -> None:
    """Somebody makes a backup."""
    cluster.backups.append(cluster.data.snapshot())


async def lower_number(cluster: Cluster, node: SimNode) -> None:
    """An operator sets `max_id` back; the store's own mark notices (R4)."""
    tag = cluster.rng.choice(TAGS).name
    row = cluster.data.leaf.get(tag)
    if row is not None:
        cluster.tell(f"max_id of {tag} lowered")
        cluster.happened["lowered"] += 1
        cluster.set_back = True
        row.max_id = max(0, row.max_id - cluster.rng.choice([1, 10, 1000]))
        await asyncio.sleep(cluster.rng.uniform(0.5, 20.0))
        await cluster.repair()


async def reinsert_row(cluster: Cluster, node: SimNode) -> None:
    """An operator deletes a row by SQL and inserts it again at 1."""
    tag = cluster.rng.choice(TAGS).name
    row = cluster.data.leaf.pop(tag, None)
    if row is not None:
        cluster.tell(f"row of {tag} deleted")
        cluster.happened["deleted by SQL"] += 1
        cluster.set_back = True
        await asyncio.sleep(cluster.rng.uniform(0.0, 15.0))
        cluster.data.leaf.setdefault(tag, replace(row, max_id=1))
        await asyncio.sleep(cluster.rng.uniform(0.5, 10.0))
        await cluster.repair()


async def recreate_tag(cluster: Cluster, node: SimNode) -> None:
    """An operator deletes a tag and creates it again."""
    tag = cluster.rng.choice(TAGS)
    store = await cluster.operator()
    if tag.name in cluster.data.leaf:
        cluster.tell(f"tag {tag.name} deleted")
        cluster.happened["deleted"] += 1
        await store.delete_tag(tag.name)
        await asyncio.sleep(cluster.rng.uniform(0.0, 15.0))
        with contextlib.suppress(TagExists, InvalidCount):  # Leaf knows no limit, and may have gone past ours
            await store.create_tag(tag)


async def leaf(cluster: Cluster, node: SimNode) -> None:
    """A node of Leaf works on the same table for a while; it knows no mark and no lock."""
    cluster.happened["leaf"] += 1
    for _ in range(20):
        tag = cluster.rng.choice(TAGS).name
        row = cluster.data.leaf.get(tag)
        if row is not None and row.max_id + row.step < 10**9:
            granted = Range(tag, row.max_id, row.max_id + row.step)
            row.max_id = granted.end
            cluster.checker.granted_range("leaf", granted)
            cluster.checker.issued_numbers("leaf", tag, [range(granted.start, granted.end)])
        await asyncio.sleep(cluster.rng.expovariate(3.0))


async def copy_state(cluster: Cluster, node: SimNode) -> None:
    """A machine's disk is cloned: a node starts with another's state directory."""
    other = cluster.rng.choice(cluster.nodes)
    cluster.tell(f"starts with a copy of the state directory of {other.name}", node)
    cluster.happened["copied state"] += 1
    node.kill()
    node.marks = copy.deepcopy(other.marks)
    cluster.checker.forgets(node.name)
    node.start()


Fault = Callable[[Cluster, SimNode], Awaitable[None]]

MACHINES: list[Fault] = [pause, crash, restart, step_clock, freeze_clock, drift_clock, copy_state]
NETWORK: list[Fault] = [storm, cut, deaf]

STORIES: list[list[Fault]] = [
    [*MACHINES, *NETWORK],
    [*MACHINES, *NETWORK, recreate_tag, leaf, leaf],
    [pause, crash, storm, lower_number, reinsert_row, recreate_tag],
    [*MACHINES, *NETWORK, restore, restore, back_up, back_up, back_up],
]
"""Which faults meet. Leaf's nodes keep to themselves: they take whatever number stands in the table, lowered or not."""


async def run_story(cluster: Cluster) -> None:
    """Some nodes, some faults, then calm: every node must issue again."""
    rng = cluster.rng
    await cluster.prepare(rng.randrange(2, 4))
    faults = rng.choice(STORIES)
    under_way = []
    end = cluster.loop.now + LENGTH
    while cluster.loop.now < end:
        await asyncio.sleep(rng.expovariate(0.35))
        under_way.append(cluster.loop.create_task(rng.choice(faults)(cluster, rng.choice(cluster.nodes))))
    await asyncio.gather(*under_way)
    if cluster.set_back:
        await asyncio.sleep(2 * WINDOW)
        await cluster.repair()
    for node in cluster.nodes:
        node.wire.weather = Weather()
        if node.host.paused:
            cluster.loop.resume(node.host)
        if not node.up:
            node.kill()
            node.start()
    if cluster.set_back:
        # A node that was away while the store was repaired may come back with a mark that nobody else knew.
        await asyncio.sleep(WINDOW)
        if cluster.data.halt:
            cluster.tell("store repaired")
            await cluster.repair()
    cluster.calm_at = cluster.loop.now
    await asyncio.sleep(CALM)
    await asyncio.gather(*(node.stop() for node in cluster.nodes))
