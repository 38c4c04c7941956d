"""Replacing all nodes, one after another, while the others serve.

A new node starts beside the old one; when it is ready, the old one drains. So there is always one more than configured
and never one less. Only where there are no worker ids for one more does the old one go first: its connections wait in
the kernel until the new one accepts.

What fails, fails at the first node, whose predecessor then goes on as if nothing had been: a configuration or a version
that can't start takes nothing down. Where that one had to go first, a node with the old configuration comes back.
"""

from collections.abc import Callable

from goloves.config import Config
from goloves.errors import ConfigError, GolovesError, ShuttingDown
from goloves.logger import get_logger
from goloves.supervisor.changes import changes
from goloves.supervisor.child import Child, said_of_end
from goloves.supervisor.post import Post
from goloves.supervisor.supervisor import RELEASE, Supervisor

READY_WITHIN = 60.0
"""Seconds that a new node has to become ready: it needs one, and many more on a machine without processor left."""

SCARCE = 2
"""Worker ids of a space for each node below which a new one may find none free: those of nodes that did not give theirs
back, as one that was killed, rest until their windows end."""

log = get_logger("goloves.supervisor")

Say = Callable[[str], None]


class RollingFailed(GolovesError):
    """A new node did not become ready; the old ones serve on."""

    code = "rolling_failed"


def check_rolling(old: Config, new: Config) -> None:
    """Refuse what nodes of both configurations can't have at the same time; ConfigError names it."""
    found = changes(old, new).restart
    if found:
        raise ConfigError(f"{', '.join(found)} changed, which takes a stop and a start; nothing was done")


async def roll(supervisor: Supervisor, config: Config, say: Say) -> None:
    """Replace all nodes by new ones with this configuration. `say` is told how it goes on.

    Raises RollingFailed if a new node does not become ready, ConfigError if it can't be done this way.
    """
    if supervisor.changing.locked():
        raise RollingFailed("nodes are being replaced already; wait until that is done")
    if supervisor.stopping.is_set() or not supervisor.serving.is_set():
        # A start judges its first node by itself: one that a roll takes away would be one that failed.
        raise RollingFailed("it starts, stops or replaces nodes at this moment; try again")
    async with supervisor.changing:
        check_rolling(supervisor.config, config)
        supervisor.relog(config.log)
        posts = list(supervisor.posts)
        overlap = has_room(config, len(posts) + 1)
        if not overlap:
            say("a space has no worker ids for one more node: each node stops before the next one starts")
        for number, post in enumerate(posts, 1):
            new = await (_replace(supervisor, post, config) if overlap else _swap(supervisor, post, config))
            supervisor.adopt(config)
            supervisor.half_rolled = True
            say(f"{number} of {len(posts)}: node {new.number} (pid {new.pid}) serves")
        supervisor.adopt(config)
        supervisor.resize(config)
        supervisor.half_rolled = False


def has_room(config: Config, nodes: int) -> bool:
    """Whether each space has worker ids for so many nodes of this service."""
    return not short_space(config, nodes)


def short_space(config: Config, nodes: int) -> str:
    """Name a space that has fewer worker ids than that; empty if none has."""
    return next(
        (
            name
            for name, space in config.spaces.items()
            if len(space.worker_ids() or range(space.layout().workers)) < nodes
        ),
        "",
    )


def ready_within(nodes: int, *configs: Config) -> float:
    """Give the seconds that a new node has to become ready beside or after so many, under these configurations.

    Where a space has few worker ids for them, the longest window that may have to end first is added.
    """
    windows = [
        space.window
        for config in configs
        for space in config.spaces.values()
        if len(space.worker_ids() or range(space.layout().workers)) < SCARCE * nodes
    ]
    return READY_WITHIN + max(windows, default=0.0)


async def _replace(supervisor: Supervisor, post: Post, config: Config) -> Child:
    """Start a node beside the old one, and let that one go when the new one is ready."""
    try:
        new = await supervisor.spawn(config)
    except OSError as error:
        raise RollingFailed(f"no node can be started ({error}); the old ones serve on") from None
    post.successor = new
    within = ready_within(len(supervisor.posts) + 1, supervisor.config, config)
    ready = await supervisor.until(lambda: new.is_ready or new.ended.done() or new.failed is not None, within)
    _leave_if_stopping(supervisor)
    if not ready or not new.is_ready:
        why = await _why(new)
        if post.successor is new:
            post.successor = None
        new.drain()
        raise RollingFailed(f"the new node did not become ready: {why}; the old ones serve on")
    old = post.child
    if old is not None and old is not new:
        await _let_go(supervisor, old, replaced=True)
    else:
        post.child, post.successor = new, None
    return new


async def _swap(supervisor: Supervisor, post: Post, config: Config) -> Child:
    """Let the old node go, and wait for the new one that then comes; if none does, the old configuration is back."""
    before, old, restarts = supervisor.config, post.child, post.restarts
    supervisor.adopt(config)
    if old is not None:
        await _let_go(supervisor, old, replaced=False)
    come: list[Child] = []

    def settled() -> bool:
        if post.child is not None and post.child is not old:
            come[:] = [post.child]
        new = come[0] if come else None
        return post.restarts > restarts or (new is not None and (new.is_ready or new.failed is not None))

    await supervisor.until(settled, ready_within(len(supervisor.posts), before, config))
    _leave_if_stopping(supervisor)
    if come and come[0].is_ready:
        return come[0]
    supervisor.adopt(before)
    why = await _why(come[0]) if come else "it did not start"
    if come and come[0].failed is None:
        come[0].drain()
    raise RollingFailed(f"the new node did not become ready: {why}; one with the old configuration takes its place")


async def _let_go(supervisor: Supervisor, old: Child, *, replaced: bool) -> None:
    """Let a node drain, and wait for its end; ShuttingDown if the whole service is to stop meanwhile."""
    _leave_if_stopping(supervisor)
    old.drain(replaced=replaced)
    if not await supervisor.until(old.ended.done, supervisor.config.server.drain + RELEASE):
        _leave_if_stopping(supervisor)
        old.kill("it did not stop in time")
        await supervisor.until(old.ended.done)


def _leave_if_stopping(supervisor: Supervisor) -> None:
    """Leave everything as it is, by ShuttingDown, if the service stops: all nodes were told what to do by then."""
    if supervisor.stopping.is_set():
        raise ShuttingDown("the service is stopping")


async def _why(new: Child) -> str:
    if new.failed is not None:
        return new.failed.message
    if new.ended.done():
        return said_of_end(new.ended.result())
    return "; ".join(new.reasons) or "it took too long"
