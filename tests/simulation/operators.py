"""What people do to a store, and what happens to the server that it is on."""

import asyncio
import contextlib
from dataclasses import replace

from goloves.core.grants import Range
from goloves.errors import InvalidCount, TagExists
from simulation.cluster import SPACE, TAGS, Cluster, SimNode
from simulation.loop import START
from simulation.store import slowly


async def restore(cluster: Cluster, node: SimNode) -> None:
    """The store is set back to a backup, under running nodes or while one is away; then an operator repairs it."""
    if not cluster.backups:
        cluster.backups.append(cluster.back_up())
        return
    rng = cluster.rng
    away = rng.random() < 0.4 and not node.suspended
    cluster.tell("store set back" + (f", while {node.name} is away" if away else ""))
    cluster.happened["restore"] += 1
    backup = rng.choice(cluster.backups)
    if cluster.before_all is not None and rng.random() < 0.15:
        backup = cluster.before_all
        cluster.tell("the space is lost")
        cluster.happened["lost space"] += 1
    if away:
        cluster.happened["restore while away"] += 1
        node.kill()
    cluster.restore(backup)
    if away:
        await asyncio.sleep(rng.expovariate(5.0))
        if not node.suspended:
            node.kill()
            node.start()
    await _repair_later(cluster)


async def restore_at_rest(cluster: Cluster, node: SimNode) -> None:
    """The store is set back while no node runs; what shows it then is what their state directories remember."""
    if not cluster.backups or any(each.suspended for each in cluster.nodes):
        cluster.backups.append(cluster.back_up())
        return
    cluster.tell("all stopped, store set back, all started")
    cluster.happened["restore at rest"] += 1
    for each in cluster.nodes:
        each.kill()
    cluster.restore(cluster.rng.choice(cluster.backups))
    for each in cluster.nodes:
        each.start()
    await _repair_later(cluster)


async def fail_over(cluster: Cluster, node: SimNode) -> None:
    """A replica takes over that has not seen the last commits."""
    if cluster.checker.forgetful:
        return
    seconds = cluster.rng.choice([0.01, 0.5, 3.0]) * cluster.rng.random()
    replica = cluster.back_up()
    await asyncio.sleep(seconds)
    if cluster.checker.forgetful or cluster.data.halt:
        return
    cluster.tell(f"failover that loses {seconds:.2f} s ({cluster.failover})")
    cluster.happened[f"failover, {cluster.failover}"] += 1
    cluster.server = f"{cluster.server}'"
    cluster.restore(replica)
    await _repair_later(cluster)


async def _repair_later(cluster: Cluster) -> None:
    await asyncio.sleep(cluster.rng.uniform(0.5, 20.0))
    if cluster.data.halt:
        await cluster.repair()


async def back_up(cluster: Cluster, node: SimNode) -> None:
    """Somebody makes a backup."""
    cluster.backups.append(cluster.back_up())


async def lower_number(cluster: Cluster, node: SimNode) -> None:
    """An operator sets `max_id` back; the store's own mark notices (R4)."""
    tag = cluster.rng.choice(TAGS).name
    row = cluster.data.leaf.get(tag)
    if row is not None and tag in cluster.data.tags:  # with its mark deleted as well, nothing would show it
        cluster.tell(f"max_id of {tag} lowered")
        cluster.happened["lowered"] += 1
        cluster.set_back = True
        row.max_id = max(0, row.max_id - cluster.rng.choice([1, 10, 1000]))
        await asyncio.sleep(cluster.rng.uniform(0.5, 20.0))
        await cluster.repair()


async def reinsert_row(cluster: Cluster, node: SimNode) -> None:
    """An operator deletes a row by SQL and inserts it again at 1."""
    tag = cluster.rng.choice(TAGS).name
    row = cluster.data.leaf.pop(tag, None) if tag in cluster.data.tags else None
    if row is not None:
        cluster.tell(f"row of {tag} deleted")
        cluster.happened["deleted by SQL"] += 1
        cluster.set_back = True
        await asyncio.sleep(cluster.rng.uniform(0.0, 15.0))
        cluster.data.leaf.setdefault(tag, replace(row, max_id=1))
        await asyncio.sleep(cluster.rng.uniform(0.5, 10.0))
        await cluster.repair()


async def delete_row(cluster: Cluster, node: SimNode) -> None:
    """An operator deletes a row of a table of Goloves' own."""
    data, rng = cluster.data, cluster.rng
    which = rng.choice(["tag", "tag", "worker", "space"])
    if which == "tag" and data.tags:
        # Nothing is lost as long as the number stands in Leaf's table: the mark is made anew from it.
        name = rng.choice([name for name in data.tags if name in data.leaf] or [""])
        if name and data.leaf[name].max_id >= data.tags[name].mark:
            cluster.tell(f"mark of {name} deleted")
            cluster.happened["own row deleted"] += 1
            del data.tags[name]
        return
    if cluster.checker.forgetful:
        return
    rows = data.workers.get(SPACE.name, {})
    if not rows or SPACE.name not in data.spaces:
        return
    cluster.happened["own row deleted"] += 1
    cluster.set_back = True
    cluster.mended += 1
    cluster.checker.store_forgot([(START, cluster.loop.now)])
    if which == "worker":
        worker = rng.choice(list(rows))
        cluster.tell(f"row of worker id {worker} deleted")
        del rows[worker]
    else:
        cluster.tell("space and worker ids deleted")
        del data.spaces[SPACE.name], data.workers[SPACE.name]
    await asyncio.sleep(rng.uniform(0.5, 20.0))
    await cluster.repair()


async def recreate_tag(cluster: Cluster, node: SimNode) -> None:
    """An operator deletes a tag and creates it again."""
    tag = cluster.rng.choice(TAGS)
    store = await cluster.operator()
    if tag.name in cluster.data.leaf:
        cluster.tell(f"tag {tag.name} deleted")
        cluster.happened["deleted"] += 1
        await slowly(store.delete_tag(tag.name))
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
            cluster.checker.issued_by_leaf(granted, cluster.loop.now)
        await asyncio.sleep(cluster.rng.expovariate(3.0))


async def step_store_clock(cluster: Cluster, node: SimNode) -> None:
    """The store's clock is wrong for a while."""
    seconds = cluster.rng.choice([0.5, 5.0, 40.0]) * cluster.rng.choice([-1, 1])
    cluster.tell(f"the store's clock is off by {seconds} s")
    cluster.happened["store clock step"] += 1
    cluster.store_step += seconds
    await asyncio.sleep(cluster.rng.expovariate(0.1))
    cluster.store_step -= seconds
