"""The stories: which faults happen when, all drawn from the cluster's seed."""

import asyncio
from collections.abc import Awaitable, Callable

from simulation.cluster import Cluster, SimNode, weather
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


FAULTS: list[Callable[[Cluster, SimNode], Awaitable[None]]] = [
    pause, crash, restart, step_clock, freeze_clock, drift_clock, storm, cut, deaf
]  # fmt: skip


async def run_story(cluster: Cluster) -> None:
    """Some nodes, some faults, then calm: every node must issue again."""
    rng = cluster.rng
    await cluster.prepare(rng.randrange(2, 5))
    under_way = []
    end = cluster.loop.now + LENGTH
    while cluster.loop.now < end:
        await asyncio.sleep(rng.expovariate(0.35))
        under_way.append(cluster.loop.create_task(rng.choice(FAULTS)(cluster, rng.choice(cluster.nodes))))
    await asyncio.gather(*under_way)
    for node in cluster.nodes:
        node.wire.weather = Weather()
        if node.host.paused:
            cluster.loop.resume(node.host)
        if not node.up:
            node.kill()
            node.start()
    calm = cluster.loop.now
    await asyncio.sleep(CALM)
    for node in cluster.nodes:
        if node.served_at <= calm:
            raise AssertionError(
                f"{node.name} issued nothing after the faults were over; its errors: {dict(node.errors)}"
            )
    await asyncio.gather(*(node.stop() for node in cluster.nodes))
