"""An event loop on virtual time, whose nodes can be paused and killed.

Rules:
1. Nothing waits: when nothing is ready, time jumps to the next timer. Same seed, same run.
2. A callback belongs to the node in whose context it was made. While that node is paused its callbacks are put aside
   in order; when it is killed they are thrown away. What belongs to no node is the network's and the store's.
3. Most of a story's time is spent here. So callbacks are queued as they are and not as `asyncio.Handle`, whose ways
   for debugging and for sockets cost more than what they call.
"""

import asyncio
import contextlib
import contextvars
import itertools
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any

from goloves.errors import GolovesError

START = 1_000.0
"""Virtual seconds at which the loop's time starts."""

LONGEST = 100_000.0
"""Virtual seconds that a run may take: a day, far more than any story."""


class Host:
    """What the loop knows of a node: whether it runs, and what was put aside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.killed = False
        self.aside: deque[Turn] = deque()


HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("host", default=None)


class Turn:
    """A callback that is due, now or later; what asyncio knows of a handle."""

    __slots__ = ("_when", "args", "callback", "context", "host")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context, when: float = 0.0
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.host = context.get(HOST)
        self._when = when

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.callback is None


def _wake(sleeper: "asyncio.Future[None]") -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module's rules."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.failures: list[BaseException] = []
        self.set_exception_handler(self._note)
        self._due: deque[Turn] = deque()
        self._timers: list[tuple[float, int, Turn]] = []
        self._numbers = itertools.count()
        """Timers of one moment run in the order in which they were made."""
        self._nowhere = contextvars.Context()
        self._tasks: list[Any] = []
        """All tasks, those of killed nodes too: the garbage collector must not close them in the middle of a run."""
        self._over = False
        self._tells = False
        """Whether a story is told, which ends with the first thing that must not happen."""

    def time(self) -> float:
        return self.now

    def resume(self, host: Host) -> None:
        """Let a paused node go on with what was put aside."""
        host.paused = False
        self._due.extend(host.aside)
        host.aside.clear()

    def kill(self, host: Host) -> None:
        """Throw away whatever the node would have done."""
        host.killed = True
        host.aside.clear()

    def outside(self, callback: Callable[..., object], *args: Any, delay: float = 0.0) -> None:
        """Call back later in nobody's context: in the network, or at the store."""
        when = self.now + delay
        heappush(self._timers, (when, next(self._numbers), Turn(callback, args, self._nowhere, when)))

    def create_task(self, coro: Any, **options: Any) -> Any:
        task = super().create_task(coro, **options)
        task.add_done_callback(self._look_at, context=contextvars.Context())
        self._tasks.append(task)
        return task

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        turn = Turn(callback, args, contextvars.copy_context() if context is None else context)
        if not self._over:
            self._due.append(turn)
        return turn

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        turn = Turn(callback, args, contextvars.copy_context() if context is None else context, when)
        heappush(self._timers, (when, next(self._numbers), turn))
        return turn

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def nap(self, seconds: float) -> "asyncio.Future[None]":
        """Do what `asyncio.sleep` does, for those who sleep most: a third of its time."""
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        self.call_at(self.now + seconds, _wake, future)
        return future

    def run_forever(self) -> None:
        self._check_closed()  # type: ignore[attr-defined]
        self._check_running()  # type: ignore[attr-defined]
        events._set_running_loop(self)
        try:
            self._run_until_stopped()
        finally:
            self._stopping = False
            events._set_running_loop(None)

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def _run_until_stopped(self) -> None:
        due, timers = self._due, self._timers
        while not self._stopping:
            if not due:
                self._move_on()
            for _ in range(len(due)):
                turn = due.popleft()
                callback, host = turn.callback, turn.host
                if callback is None:
                    continue
                if host is not None:
                    if host.killed:
                        continue
                    if host.paused:
                        host.aside.append(turn)
                        continue
                try:
                    turn.context.run(callback, *turn.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.fail(error)
            while timers and timers[0][0] <= self.now:
                due.append(heappop(timers)[2])

    def _move_on(self) -> None:
        """Let time jump to the next timer."""
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heappop(timers)
        if not timers:
            raise RuntimeError("the simulation stands still: nothing is ready and no timer runs")
        self.now = max(self.now, timers[0][0])
        if self.now > START + LONGEST:
            raise RuntimeError("the story never ends")
        while timers and timers[0][0] <= self.now:
            self._due.append(heappop(timers)[2])

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.fail(error if error is not None else RuntimeError(context["message"]))

    def fail(self, error: BaseException) -> None:
        """Note what must not happen; a story ends here."""
        self.failures.append(error)
        if self._tells:
            self.stop()

    def _look_at(self, task: "asyncio.Task[Any]") -> None:
        """End the story if a task ended as none may, of a node that lives or of whatever else there is."""
        if (
            self._tells
            and not task.cancelled()
            and (error := task.exception()) is not None
            and not isinstance(error, GolovesError)
        ):
            self.fail(error)

    def run_story(self, story: Coroutine[Any, Any, None]) -> None:
        """Run to the end of a story, or to the first thing that must not happen, and raise that."""
        self._tells = True
        task = self.create_task(story)
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        for error in self.failures:
            if isinstance(error, AssertionError) or not isinstance(error, Exception):
                raise error  # a test that took too long is told so by an exception, too
            raise AssertionError(f"a task ended as none may: {error!r}") from error
        task.result()

    def end(self) -> None:
        """End the run: what the nodes would still do is dropped, their coroutines are closed."""
        self._over = True
        self._timers.clear()
        self._due.clear()
        for task in self._tasks:
            task._log_destroy_pending = False
            if not task.done():
                with contextlib.suppress(RuntimeError):
                    task.get_coro().close()
        self._tasks.clear()
        self._timers.clear()
        self.close()
