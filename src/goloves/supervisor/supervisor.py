"""The supervisor's decisions: which nodes there are to be, when one is replaced, how everything is stopped.

Its life, in order: the listeners are open; a first node starts, alone, for it may have to make the store; the others
start; it watches; it drains all nodes and ends. `posts` are the nodes that there are to be, and each post has a task
that sees to it that somebody is on it.
"""

import asyncio
import contextlib
import errno
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import msgspec

from goloves.config import Config
from goloves.config.rules import MOST_NODES
from goloves.config.settings import LogConfig
from goloves.errors import ConfigError, GolovesError, ShuttingDown
from goloves.log import set_up
from goloves.logger import get_logger
from goloves.server.assembly import may_create
from goloves.server.balance import PLACES, Balance, make_memory
from goloves.supervisor.child import Child, said_of_end
from goloves.supervisor.cores import cores
from goloves.supervisor.messages import Failed, Ready, Reload, Tell
from goloves.supervisor.notify import Notifier
from goloves.supervisor.open_listeners import OpenListeners
from goloves.supervisor.passing import passed
from goloves.supervisor.post import Post
from goloves.supervisor.seats import take_seat

TICK = 0.5
"""Seconds between two looks at all nodes."""

RELEASE = 5.0
"""Seconds beyond the drain after which a node that was told to stop is killed: twice what releasing windows takes."""

SHUT = 1.0
"""Seconds beyond the notice after which the supervisor shuts the listeners itself: nodes do it sooner unless they hang,
or learned of the stop from somebody else."""

HASTENED = 4.0
"""Seconds that nodes have for their end after a second signal: they only release their windows."""

log = get_logger("goloves.supervisor")


def how_many(config: Config) -> int:
    """Give the number of nodes that there are to be."""
    return min(cores(), MOST_NODES) if config.server.nodes == "auto" else config.server.nodes


class StartFailed(Exception):
    """The first node could not start, and said why."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Hastened(Exception):
    """It was stopped, and then told to stop at once."""


class Supervisor:
    """See the module's text. `run` is its life."""

    def __init__(self, config: Config, listeners: OpenListeners, lock: TextIO | None) -> None:
        """Take over open `listeners` and the `lock` of the data directory."""
        self.config = config
        self.listeners = listeners
        self.lock = lock
        self.posts: list[Post] = []
        self.notifier = Notifier()
        self.stopping = asyncio.Event()
        """Set when it is to stop."""
        self.serving = asyncio.Event()
        """Set when all nodes of the start have accepted."""
        self.changing = asyncio.Lock()
        """Held by whatever replaces nodes."""
        self.half_rolled = False
        """Whether the last rolling restart took new nodes and did not come to its end."""
        self.announced = False
        """Whether the service manager was told that it serves."""
        self.is_handed_over = False
        """Whether another supervisor has taken over."""
        self._hastened = asyncio.Event()
        self._children: list[Child] = []
        self._memory = make_memory()
        self._balance = Balance(self._memory, 0)
        self._past: Counter[str] = Counter()
        self._restarts = 0
        """Of posts that are no more."""
        self._others: dict[int, asyncio.Future[int]] = {}
        self._status = ""
        self._keepers: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._looked_at = 0.0

    # --- its life ---

    async def run(
        self,
        *,
        init: bool = False,
        create: bool = True,
        greet: Callable[[Ready], None] = lambda _: None,
        launched: Callable[[], None] = lambda: None,
        begun: Callable[[], Awaitable[None]] | None = None,
        within: float | None = None,
    ) -> None:
        """Serve until told to stop. `launched` is called when the first node starts, `begun` awaited when all serve.

        `init`: make a new store first. `create`: whether an embedded store may come into being by itself. `within`:
        seconds for all nodes to serve.
        Raises StartFailed if the first node can't start, ConfigError if not all serve in time, Hastened if it was
        stopped twice.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._looked_at = loop.time()
        self._tick()
        try:
            try:
                async with asyncio.timeout(within):
                    await self._begin(init, create and may_create(self.config), greet, launched)
            except TimeoutError:
                reasons = "; ".join(self.troubles()) or "they said nothing"
                raise ConfigError(f"the nodes did not all start within {within:g} s: {reasons}") from None
            if begun is not None and not self.stopping.is_set():
                await begun()
            if not self.stopping.is_set():
                self.announced = True
                self._status = self.status()
                self.notifier.ready(self._status)
            await self.stopping.wait()
        finally:
            await self._end()
            os.close(self._memory)
        if self._hastened.is_set():
            raise Hastened

    def stop(self) -> None:
        """Begin to stop; the second time, wait no longer for requests under way; the third time, for nothing."""
        if not self.stopping.is_set():
            self.stopping.set()
            if not self.is_handed_over:
                self.notifier.stopping()
                # One that was to take over, and has not: it belongs to the service that is to stop.
                for pid in self._others:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
        elif not self._hastened.is_set():
            self._hastened.set()
            for child in self._children:
                child.hasten()
        else:
            for child in self._children:
                child.kill("it was to end at once")
        self.tell()

    def handed_over(self) -> None:
        """End because another supervisor has taken over: what is shared with it stays."""
        self.is_handed_over = True
        self.listeners.keep_files = True
        if not self.stopping.is_set():
            log.info("stopping", reason="another supervisor has taken over")
            self.stop()

    def relog(self, config: LogConfig) -> None:
        """Let this process and all nodes log like this, and the nodes look at their certificates' files."""
        set_up(config)
        self.config = msgspec.structs.replace(self.config, log=config)
        order = Reload(passed(config))
        for child in self._children:
            child.say(order)

    def adopt(self, config: Config) -> None:
        """Start nodes with this configuration from now on; how they log is said by `relog` alone."""
        self.config = msgspec.structs.replace(config, log=self.config.log)

    def watch(self, pid: int) -> "asyncio.Future[int]":
        """Give what tells how a process ends that this one has started, and that is no node; as `Child.ended`.

        If the service stops meanwhile, it is sent SIGTERM.
        """
        ended = self._others[pid] = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda _: self.tell())
        return ended

    def _signalled(self, number: signal.Signals) -> None:
        if not self.stopping.is_set():
            log.info("stopping", signal=number.name)
        self.stop()

    async def _begin(
        self, init: bool, create: bool, greet: Callable[[Ready], None], launched: Callable[[], None]
    ) -> None:
        first = Post()
        self.posts.append(first)
        first.child = await self.spawn(create=create, init=init)
        launched()
        greeting = asyncio.create_task(self._greet(first.child, greet))
        await self.until(lambda: self._has_begun(first.child))
        child = first.child
        if not self.stopping.is_set() and not child.is_serving:
            greeting.cancel()
            code = await child.ended
            raise StartFailed(child.failed or Failed("", f"the first node ended before it served: {said_of_end(code)}"))
        self._keep(first)
        self.resize(self.config)
        await self.until(lambda: all(post.child is not None and post.child.is_serving for post in self.posts))
        if not self.stopping.is_set():
            await asyncio.wait([greeting])
            self.serving.set()

    @staticmethod
    def _has_begun(child: Child | None) -> bool:
        return child is None or child.is_serving or child.ended.done() or child.failed is not None

    @staticmethod
    async def _greet(child: Child, greet: Callable[[Ready], None]) -> None:
        await asyncio.wait([child.words])
        if not child.words.cancelled():
            greet(child.words.result())

    async def _end(self) -> None:
        """Stop all nodes: in an orderly way, then sooner, then at once."""
        self.stopping.set()
        loop = asyncio.get_running_loop()
        # With another supervisor on the same listeners, those are not shut.
        notice = None if self.listeners.keep_files else self.config.server.notice
        for child in self._children:
            child.drain(replaced=self.is_handed_over, notice=notice)
        serves = notice is not None and any(child.is_serving for child in self._children)
        shutting = loop.call_later((notice or 0.0) + SHUT if serves else 0.0, self.listeners.shut)
        deadline = loop.time() + (notice or 0.0) + self.config.server.drain + RELEASE
        while any(not child.ended.done() for child in self._children):
            if self._hastened.is_set():
                deadline = min(deadline, loop.time() + HASTENED)
            left = deadline - loop.time()
            if left <= 0:
                for child in self._children:
                    if not child.ended.done():
                        log.error("a node did not stop in time and is killed", node=child.number)
                        child.kill("it did not stop in time")
                deadline = float("inf")
            # Woken by whatever happens: an end, a second signal.
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if deadline == float("inf") else left):
                    await self._news.wait()
        shutting.cancel()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    # --- nodes ---

    def resize(self, config: Config) -> None:
        """Have as many posts as are configured; of those that are too many, nodes drain."""
        wanted = how_many(config)
        for post in self.posts[wanted:]:
            post.closed = True
            self._restarts += post.restarts
            if post.child is not None:
                post.child.drain(replaced=True)
        del self.posts[wanted:]
        while len(self.posts) < wanted:
            post = Post()
            self.posts.append(post)
            self._keep(post)

    async def spawn(self, config: Config | None = None, *, create: bool = False, init: bool = False) -> Child:
        """Start a node; it is not on a post yet.

        Raises OSError if the machine can't have another process, ShuttingDown if the service stops.
        """
        if self.stopping.is_set():
            raise ShuttingDown("the service is stopping")
        config = msgspec.structs.replace(config or self.config, log=self.config.log)
        used = {child.place for child in self._children}
        place = next((place for place in range(PLACES) if place not in used), None)
        if place is None:
            raise OSError(errno.EAGAIN, f"{PLACES} nodes run, most of which are to end")
        seat = take_seat(Path(config.server.data_dir), {child.number for child in self._children})
        child = Child(seat, place, config.server.unresponsive)
        child.on_news(self.tell)
        self._children.append(child)
        try:
            await child.start(config, list(self.listeners.of("http", "grpc")), self._memory, create=create, init=init)
        except BaseException:
            if not child.pid:
                self._children.remove(child)
            raise
        return child

    def _keep(self, post: Post) -> None:
        task = asyncio.create_task(self._keep_post(post))
        self._keepers.add(task)
        task.add_done_callback(self._keepers.discard)

    async def _keep_post(self, post: Post) -> None:
        """See to it that there is a node on a post."""
        while not self.stopping.is_set() and not post.closed:
            if post.child is None:
                try:
                    child = await self.spawn()
                except ShuttingDown:
                    return
                except Exception as error:  # whatever it is, a post is never left without anybody to look after it
                    wait = post.wait(0.0)
                    foreseen = isinstance(error, OSError | GolovesError)
                    log.error("a node can't be started", reason=str(error), next_in=wait, exc_info=not foreseen)
                    await self._pause(wait)
                    continue
                if post.closed or post.child is not None:  # meanwhile it was given up, or taken over by a new node
                    child.drain(replaced=True)
                    continue
                post.child = child
            child = post.child
            await child.going
            post.child, successor, post.successor = post.successor, post.successor, None
            if self.stopping.is_set() or post.closed or child.leaving:
                continue
            if not child.ended.done():
                # Somebody told it to stop, so it is no fault; and its drain, which may be long, is not waited for.
                post.restarts += 1
                log.info("a node stops by itself and is replaced", node=child.number)
                continue
            if successor is not None:  # which was to come later, and is there already
                post.restarts += 1
                self._say_end(child, post, 0.0)
                continue
            lived = asyncio.get_running_loop().time() - child.began
            wait = post.wait(lived)
            self._say_end(child, post, wait)
            await self._pause(wait)

    def _say_end(self, child: Child, post: Post, wait: float) -> None:
        code = child.ended.result()
        if child.failed is not None:
            log.error("a node can't start", node=child.number, reason=child.failed.message, next_in=wait)
        elif code == 0:
            log.info("a node stopped by itself and is replaced", node=child.number, next_in=wait)
        else:
            why = {"reason": child.killed_for} if child.killed_for else {}
            log.error("a node died and is replaced", node=child.number, how=said_of_end(code), next_in=wait, **why)
        if post.loops:
            log.error("nodes end again and again: what they say has to be looked into", in_a_row=post.in_a_row)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            pass

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        # Time in which this process had no turn tells nothing about the nodes.
        elapsed = min(now - self._looked_at, 2 * TICK)
        self._looked_at = now
        for child in self._children:
            child.look(elapsed)
        for post in self.posts:
            if post.child is not None and post.child.is_serving:
                post.is_steady(now - post.child.began)
        self.notifier.alive()
        if self.announced and not self.stopping.is_set() and self._status != self.status():
            self._status = self.status()
            self.notifier.status(self._status)
        loop.call_later(self.notifier.due(TICK), self._tick)

    def _reap(self) -> None:
        """Take note of processes that have ended; as process 1 also of those that are nobody's any more."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = next((child for child in self._children if child.pid == pid), None)
            if child is not None:
                child.over(status)
                child.ended.add_done_callback(partial(self._gone, child))
            elif (ended := self._others.pop(pid, None)) is not None and not ended.done():
                ended.set_result(os.waitstatus_to_exitcode(status))

    def _gone(self, child: Child, _: "asyncio.Future[int]") -> None:
        self._past.update(child.counters)
        self._balance.clear(child.place)
        self._children.remove(child)
        self.tell()

    # --- news ---

    def tell(self) -> None:
        """Let whoever waits by `until` look again."""
        self._news.set()

    async def until(self, holds: Callable[[], bool], within: float | None = None) -> bool:
        """Wait until something holds of the nodes, or it is time to stop; gives whether it holds."""
        try:
            async with asyncio.timeout(within):
                while not holds() and not self.stopping.is_set():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return holds()

    # --- how it is ---

    @property
    def children(self) -> list[Child]:
        """All nodes that there are, those included that come or go."""
        return list(self._children)

    def readiness(self) -> list[str]:
        """Say why ids can't be had here; empty if they can."""
        if self.stopping.is_set():
            return ["the service is stopping"]
        if any(child.is_ready for child in self._children):
            return []
        return [f"node {child.number}: {reason}" for child in self._children for reason in child.reasons] or [
            "no node runs"
        ]

    def troubles(self) -> list[str]:
        """Say what is not as it should be, though ids may be had."""
        found = [
            f"node {post.child.number}: {reason}"
            for post in self.posts
            if post.child is not None
            for reason in post.child.reasons
        ]
        found += [f"nodes end again and again ({post.in_a_row} in a row)" for post in self.posts if post.loops]
        return found

    async def gather(self) -> None:
        """Let all nodes tell what they have counted; those that don't within half a second are left out."""
        told = [(child, child.told) for child in self._children]
        for child, _ in told:
            child.say(Tell())
        await self.until(lambda: all(child.told > before or not child.pid for child, before in told), 0.5)

    def nodes(self) -> list[dict[str, Any]]:
        """Describe each node."""
        now = asyncio.get_running_loop().time()
        return [
            {
                "node": child.number,
                "pid": child.pid,
                "version": child.report.version,
                "stage": child.report.stage,
                "ready": child.is_ready,
                "reasons": child.reasons,
                "age": round(now - child.began, 1),
                "connections": child.report.connections,
                "counters": child.counters,
            }
            for child in self._children
            if child.pid
        ]

    def counters(self) -> dict[str, int]:
        """Add up what all nodes counted, those included that have ended, as far as they told it."""
        total = Counter(self._past)
        for child in self._children:
            total.update(child.counters)
        total["node_restarts"] = self._restarts + sum(post.restarts for post in self.posts)
        return dict(total)

    def status(self) -> str:
        """Say in a few words how it is, for the service manager."""
        ready = sum(child.is_ready for child in self._children)
        return f"{ready} of {len(self.posts)} nodes ready"
