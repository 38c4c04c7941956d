"""Faults of machines and of the ways between them: what happens to one node, drawn from the cluster's seed."""

import asyncio

from simulation.cluster import Cluster, SimNode
from simulation.network import Weather


async def pause(cluster: Cluster, node: SimNode) -> None:
    """SIGSTOP for a moment up to three windows, then SIGCONT."""
    if node.suspended:
        return
    seconds = cluster.rng.choice([0.01, 0.5, 3.0, 25.0, 60.0]) * cluster.rng.uniform(0.5, 1.0)
    cluster.tell(f"paused for {seconds:.2f} s", node)
    cluster.happened["pause"] += 1
    node.host.paused = True
    host = node.host
    await asyncio.sleep(seconds)
    if not host.killed:
        cluster.loop.resume(host)


async def suspend(cluster: Cluster, node: SimNode) -> None:
    """A virtual machine is suspended: its monotonic clock stands, and its wall clock jumps when it goes on."""
    seconds = cluster.rng.choice([0.5, 5.0, 30.0, 60.0]) * cluster.rng.uniform(0.5, 1.0)
    host = node.host
    if node.suspended or host.paused or host.killed:
        return
    cluster.tell(f"suspended for {seconds:.2f} s", node)
    cluster.happened["suspend"] += 1
    node.suspended = host.paused = True
    await asyncio.sleep(seconds)
    node.clock.suspend(seconds)
    node.suspended = False
    cluster.loop.resume(host)


async def crash(cluster: Cluster, node: SimNode) -> None:
    """kill -9, and a new start after a while, with or without the state directory."""
    if node.suspended:
        return
    keep = cluster.rng.random() < 0.7
    cluster.tell("killed" if keep else "killed, state directory lost", node)
    cluster.happened["crash"] += 1
    node.kill()
    await asyncio.sleep(cluster.rng.expovariate(0.5))
    if not node.suspended:
        node.kill()
        node.start(keep_state=keep)


async def restart(cluster: Cluster, node: SimNode) -> None:
    """A clean stop and start."""
    if node.up and not node.host.paused:  # nor suspended
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
    cluster.happened["freeze"] += 1
    node.clock.freeze()
    await asyncio.sleep(cluster.rng.expovariate(0.1))
    node.clock.thaw()


async def drift_clock(cluster: Cluster, node: SimNode) -> None:
    """The wall clock is slewed wrongly, or the oscillator under both clocks runs wrong."""
    off = cluster.rng.choice([-0.1, -0.01, 0.01, 0.1])
    cluster.happened["drift"] += 1
    if cluster.rng.random() < 0.5:
        cluster.tell(f"wall clock drifts by {off:+.0%}", node)
        node.clock.drift(slew=off)
    else:
        cluster.tell(f"both clocks drift by {off:+.0%}", node)
        node.clock.drift(rate=1.0 + off)
    await asyncio.sleep(cluster.rng.expovariate(0.1))
    node.clock.drift()


async def copy_state(cluster: Cluster, node: SimNode) -> None:
    """A machine's disk is cloned: a node starts with another's state directory."""
    other = cluster.rng.choice(cluster.nodes)
    if node.suspended:
        return
    cluster.tell(f"starts with a copy of the state directory of {other.name}", node)
    cluster.happened["copied state"] += 1
    node.kill()
    node.take_state(other.marks)
    cluster.checker.marks[node.name] = cluster.checker.marks[other.name].copy()
    node.start()


async def storm(cluster: Cluster, node: SimNode) -> None:
    """The network loses, delays and doubles for a while."""
    rng = cluster.rng
    bad = Weather(
        lost_requests=rng.random() * 0.4,
        lost_answers=rng.random() * 0.6,
        late=rng.random() * 0.3,
        very_late=rng.random() * 0.3,
        doubled=rng.random() * 0.5,
    )
    await _weather(cluster, node, bad, "storm", rng.expovariate(0.1))


async def cut(cluster: Cluster, node: SimNode) -> None:
    """The store refuses connections."""
    seconds = cluster.rng.choice([0.3, 5.0, 40.0]) * cluster.rng.uniform(0.5, 1.0)
    await _weather(cluster, node, Weather(cut=True), "cut", seconds)


async def deaf(cluster: Cluster, node: SimNode) -> None:
    """One way only: requests arrive, no answer comes back."""
    seconds = cluster.rng.choice([1.0, 10.0, 30.0]) * cluster.rng.uniform(0.5, 1.0)
    await _weather(cluster, node, Weather(lost_answers=1.0), "deaf", seconds)


async def black_hole(cluster: Cluster, node: SimNode) -> None:
    """Neither way: requests vanish, and nobody says so."""
    seconds = cluster.rng.choice([1.0, 10.0, 30.0]) * cluster.rng.uniform(0.5, 1.0)
    await _weather(cluster, node, Weather(lost_requests=1.0), "black hole", seconds)


async def _weather(cluster: Cluster, node: SimNode, weather: Weather, name: str, seconds: float) -> None:
    cluster.tell(name, node)
    cluster.happened[name] += 1
    node.weather = weather
    await asyncio.sleep(seconds)
    node.weather = Weather()
    cluster.tell(f"{name} over", node)


async def long_sleep(cluster: Cluster) -> None:
    """All machines sleep for hours, past every window, and wake one after another."""
    seconds = cluster.rng.choice([600.0, 3600.0, 4 * 3600.0]) * cluster.rng.uniform(0.5, 1.0)
    cluster.tell(f"all paused for {seconds / 3600:.2f} h")
    cluster.happened["hours"] += 1
    paused = [(node, node.host) for node in cluster.nodes if not node.host.paused]
    for _, host in paused:
        host.paused = True
    suspended = cluster.rng.random() < 0.5
    await asyncio.sleep(seconds)
    cluster.rng.shuffle(paused)
    for node, host in paused:
        if suspended:
            node.clock.suspend(seconds)
        if not host.killed:
            cluster.tell("goes on", node)
            cluster.loop.resume(host)
        await asyncio.sleep(cluster.rng.choice([0.1, 5.0, 30.0]) * cluster.rng.random())
