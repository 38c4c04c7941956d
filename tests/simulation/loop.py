"""An event loop on virtual time, whose nodes can be paused and killed.

Rules:
1. Nothing waits: when nothing is ready, time jumps to the next timer. Same seed, same run.
2. A callback belongs to the node in whose context it was made. While that node is paused its callbacks are put aside
   in order; when it is killed they are thrown away. What belongs to no node is the network's and the store's.
"""

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
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
        self.aside: deque[tuple[list[asyncio.Handle], Callable[..., object], tuple[Any, ...], contextvars.Context]] = (
            deque()
        )


HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("host", default=None)


class _NoSelector:
    """Stands where the loop waits for sockets: it moves time on instead."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulation stands still: nothing is ready and no timer runs")
        self._loop.now += timeout
        if self._loop.now > START + LONGEST:
            raise RuntimeError("the story never ends")
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module's rules."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self._selector = _NoSelector(self)
        self._clock_resolution = 1e-9
        self.failures: list[BaseException] = []
        self.set_exception_handler(self._note)
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
        while host.aside:
            box, callback, args, context = host.aside.popleft()
            box.append(super().call_soon(self._run, host, box, callback, args, context, context=context))

    def kill(self, host: Host) -> None:
        """Throw away whatever the node would have done."""
        host.killed = True
        host.aside.clear()

    def outside(self, callback: Callable[..., object], *args: Any, delay: float = 0.0) -> None:
        """Call back later in nobody's context: in the network, or at the store."""
        super().call_at(self.now + delay, callback, *args, context=contextvars.Context())

    def create_task(self, coro: Any, **options: Any) -> Any:
        task = super().create_task(coro, **options)
        task.add_done_callback(self._look_at, context=contextvars.Context())
        self._tasks.append(task)
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if self._over:
            return asyncio.Handle(callback, args, self)
        context = contextvars.copy_context() if context is None else context
        host = context.get(HOST)
        if host is None:
            return super().call_soon(callback, *args, context=context)
        box: list[asyncio.Handle] = []
        handle = super().call_soon(self._run, host, box, callback, args, context, context=context)
        box.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = contextvars.copy_context() if context is None else context
        host = context.get(HOST)
        if host is None:
            return super().call_at(when, callback, *args, context=context)
        box: list[asyncio.Handle] = []
        handle = super().call_at(when, self._run, host, box, callback, args, context, context=context)
        box.append(handle)
        return handle

    def _run(
        self,
        host: Host,
        box: list[asyncio.Handle],
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        if host.killed or box[0].cancelled():
            return
        if host.paused:
            host.aside.append((box, callback, args, context))
        else:
            callback(*args)

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

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
        self._scheduled.clear()  # type: ignore[attr-defined]
        self._ready.clear()  # type: ignore[attr-defined]
        for task in self._tasks:
            task._log_destroy_pending = False
            if not task.done():
                with contextlib.suppress(RuntimeError):
                    task.get_coro().close()
        self._tasks.clear()
        self._scheduled.clear()  # type: ignore[attr-defined]
        self.close()
