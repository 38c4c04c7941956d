"""The guard: what a node remembers of the highest grants, so that a store that went backwards is refused (rule 3).

Rules (SAFETY R5):
1. A grant is compared with the mark that was held before its request was sent: two answers may cross.
2. A mark only rises: with each grant, and with each reading of a tag.
3. Marks are kept by the store's identity and tag, or space and worker. Ranges are compared by number, windows by fence.
4. The state directory holds marks and never grants: a copy of it can't issue anything. It belongs to one node, which
   locks it. If it can't be written, marks stay in memory and the log says so.
5. All marks of tags are compared when the store is opened, so that one that was set back while this node was away is
   noticed before anything is granted here. A store that lost a space of which there are marks was set back, too.
6. A mark of the node above the store's halts the whole store, for every tag and window of it moved back (R6). A halt
   that could not be written because the store was away is written before anything else is granted here.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TextIO, TypeVar

import structlog

from goloves.core.grants import Range, Window
from goloves.errors import (
    ConfigError,
    GolovesError,
    StoreUnavailable,
    StoreWentBackwards,
    UnknownOutcome,
    UnknownSpace,
)
from goloves.stores.base import MAX_READ, Claim, Mark, NewTag, SegmentStore, Space, Store, Tag, TagChange, WorkerStore

FORMAT = 1
"""Version of the marks file; a file of a later one is refused, so that a rollback of the code can't lose marks."""

HEADER = f"goloves marks {FORMAT}"
"""First line of the marks file."""

COMPACT_AFTER = 100_000
"""Lines after which the marks file is written anew: some 5 MB."""

STATE = "node-"
"""Begins the names of the state directories of one machine's nodes, which lie side by side."""

log = structlog.get_logger("goloves.guard")

Watched = TypeVar("Watched", bound=Store)


def lock_directory(directory: Path) -> TextIO:
    """Make a state directory and lock it, for as long as the file is open in any process.

    Raises ConfigError if another node holds it, OSError if it can't be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(
            f"the state directory {directory} belongs to a node that is running; stop it, or give this one another"
        ) from None
    except OSError:
        lock.close()
        raise
    return lock


class Marks:
    """The highest grants seen, in memory and, when a state directory was opened, in its file `marks`."""

    def __init__(self) -> None:
        self._tags: dict[str, dict[str, int]] = {}
        """By the store's identity and tag: the highest end of a range."""
        self._fences: dict[str, dict[str, dict[int, int]]] = {}
        """By the store's identity, space and worker id: the highest fence."""
        self._file: TextIO | None = None
        self._path: Path | None = None
        self._lock: TextIO | None = None
        self._lines = 0
        self._compact_at = COMPACT_AFTER
        self.write_failed = False
        """True while marks can't be written to the state directory."""

    def open(self, directory: Path, lock: TextIO | None = None) -> None:
        """Lock the state directory, read its marks, and keep them there from now on.

        Those of other nodes of this machine, in directories beside it, are read too: which of them a node gets changes
        from start to start, and what one node saw all of them may know. `lock`: the directory's, if it is held already.

        Raises ConfigError if another node holds it, if a later version wrote it, or if its marks can't be read.
        """
        if lock is None:
            try:
                lock = lock_directory(directory)
            except OSError as error:
                self._failed(error)
                return
        self._lock = lock
        self._path = directory / "marks"
        try:
            if self._path.exists():
                self._read(self._path)
        except OSError as error:
            self.close()
            raise ConfigError(f"the marks in {self._path} can't be read ({error}); mend that before a start") from None
        except ConfigError:
            self.close()
            raise
        self._learn(directory)
        self._rewrite()

    @classmethod
    def of_stopped_node(cls, directory: Path) -> "Marks | None":
        """Read the marks in a state directory, changing nothing there; None while a node runs on it.

        Raises ConfigError if a later version wrote it, OSError if it can't be read.
        """
        marks = cls()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                lock = stack.enter_context((directory / "lock").open())
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return None
            with contextlib.suppress(FileNotFoundError):
                marks._read(directory / "marks")
        return marks

    def close(self) -> None:
        """Let go of the state directory."""
        for file in (self._file, self._lock):
            if file is not None:
                with contextlib.suppress(OSError):  # a full disk, of which the log has told
                    file.close()
        self._file = self._lock = None

    def tag(self, identity: str, tag: str) -> int:
        """Give the mark of a tag; -1 if there is none."""
        return self._tags.get(identity, {}).get(tag, -1)

    def fences(self, identity: str, space: str) -> dict[int, int]:
        """Give a copy of the fences seen in a space, by worker id."""
        return dict(self._fences.get(identity, {}).get(space, {}))

    def rise(self, identity: str, mark: Mark) -> None:
        """Raise a mark; a lower one changes nothing."""
        if self._raise(identity, mark) and self._file is not None:
            self._write(self._file, identity, mark)

    def all(self, identity: str) -> list[Mark]:
        """Give all marks of one store."""
        return [Mark("tag", tag, end) for tag, end in self._tags.get(identity, {}).items()] + [
            Mark("worker", space, fence, worker)
            for space, fences in self._fences.get(identity, {}).items()
            for worker, fence in fences.items()
        ]

    def _learn(self, own: Path) -> None:
        """Read what the other nodes of this machine saw, whether they run or not; a file is only ever added to."""
        if not own.name.startswith(STATE):
            return
        for path in sorted(own.parent.glob(f"{STATE}*/marks")):
            if path.parent.name != own.name:
                try:
                    self._read(path, whole=False)
                except (OSError, ConfigError) as error:
                    log.warning("the marks of another node can't be read", file=str(path), reason=str(error))

    def _raise(self, identity: str, mark: Mark) -> bool:
        if mark.kind == "tag":
            tags = self._tags.setdefault(identity, {})
            if mark.value <= tags.get(mark.name, -1):
                return False
            tags[mark.name] = mark.value
        else:
            fences = self._fences.setdefault(identity, {}).setdefault(mark.name, {})
            if mark.value <= fences.get(mark.worker, -1):
                return False
            fences[mark.worker] = mark.value
        return True

    def _read(self, path: Path, *, whole: bool = True) -> None:
        """Read a file of marks; `whole`: nobody writes to it at this moment."""
        damaged = 0
        with path.open(encoding="utf-8", errors="replace") as file:
            header = file.readline().strip()
            if header != HEADER:
                raise ConfigError(
                    f"{path} was written by another version of Goloves ({header[:40]!r}); use that version"
                )
            for line in file:
                try:
                    identity, *mark = json.loads(line)
                    self._raise(identity, Mark(*mark))
                except (ValueError, TypeError):
                    damaged += 1  # the last line of a node that was killed while it wrote
        if damaged and whole:
            log.warning("lines of the marks can't be read: their marks are lost", file=str(path), lines=damaged)

    def _rewrite(self) -> None:
        """Write the file anew, with one line per mark, and replace the old one in one step."""
        assert self._path is not None
        lines = [_line(identity, mark) for identity in {**self._tags, **self._fences} for mark in self.all(identity)]
        try:
            new = self._path.with_suffix(".new")
            with new.open("w", encoding="utf-8") as file:
                file.write(HEADER + "\n")
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            old, self._file = self._file, self._path.open("a", encoding="utf-8", buffering=1)
            if old is not None:
                with contextlib.suppress(OSError):  # what it could not write stands in the new one
                    old.close()
            self._lines = len(lines)
            self.write_failed = False
        except OSError as error:
            self._failed(error)
        self._compact_at = max(COMPACT_AFTER, 2 * len(lines))

    def _write(self, file: TextIO, identity: str, mark: Mark) -> None:
        try:
            file.write(_line(identity, mark))
        except OSError as error:
            self._failed(error)
            return
        self._lines += 1
        if self.write_failed or self._lines >= self._compact_at:
            self._rewrite()

    def _failed(self, error: OSError) -> None:
        if not self.write_failed:
            log.error("the state directory can't be written: marks stay in memory only", reason=str(error))
        self.write_failed = True


def _line(identity: str, mark: Mark) -> str:
    return json.dumps([identity, mark.kind, mark.name, mark.value, mark.worker]) + "\n"


class _Guard(Generic[Watched]):
    """What both guards hand on unchanged."""

    def __init__(self, store: Watched, marks: Marks, node: str) -> None:
        """`node` names the node whose marks these are, in the store, for `goloves repair`."""
        self._store = store
        self._marks = marks
        self._node = node
        self._reported = False
        self._unwritten_halt = ""
        """Why the store has to be halted, as long as that could not be written into it."""

    @property
    def identity(self) -> str:
        """As the store's."""
        return self._store.identity

    @property
    def has_marks(self) -> bool:
        """As the store's."""
        return self._store.has_marks

    async def open(self) -> None:
        """Open the store."""
        await self._store.open()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def clock(self) -> int | None:
        """As the store's."""
        return await self._store.clock()

    async def halt(self, reason: str) -> None:
        """As the store's."""
        await self._store.halt(reason)

    async def write_marks(self, node: str, marks: Iterable[Mark]) -> None:
        """As the store's."""
        await self._store.write_marks(node, marks)

    async def _halted(self, reason: str) -> StoreWentBackwards:
        """Halt the whole store, and give the error to raise; where that fails, this node refuses all the same."""
        also = ""
        try:
            await self._store.halt(reason)
            self._unwritten_halt = ""
        except GolovesError as failed:
            # Where there is no place for a halt, the marks go on to refuse what lies below them.
            self._unwritten_halt = reason if isinstance(failed, StoreUnavailable | UnknownOutcome) else ""
            also = f" (the halt could not be written into the store: {failed.message})"
        log.critical("the store went backwards", reason=reason)
        error = StoreWentBackwards(
            f"the store went backwards: {reason}. Nothing is issued until an operator runs `goloves repair`{also}",
            whole_store=True,
        )
        await self._report(error)
        return error

    async def _check_unwritten(self) -> None:
        """Refuse to grant before the halt that is owed is written: other tags and windows moved back too."""
        if self._unwritten_halt:
            raise await self._halted(self._unwritten_halt)

    async def _report(self, error: StoreWentBackwards) -> None:
        """Write this node's marks into a store that is halted as a whole, once per halt, for the repair."""
        if not error.whole_store or self._reported:
            return
        marks = self._marks.all(self._store.identity)
        try:
            for at in range(0, len(marks), MAX_READ):
                await self._store.write_marks(self._node, marks[at : at + MAX_READ])
            self._reported = True
        except GolovesError as failed:
            log.error("this node's marks could not be written into the store", reason=failed.message)


class SegmentGuard(_Guard[SegmentStore]):
    """A segment store, watched; see the module's rules."""

    async def open(self) -> None:
        """Open the store, and compare all marks of its tags; one that went backwards is open, and halted."""
        await self._store.open()
        if not self.has_marks:
            return  # a tag that is gone leaves no trace there; the others are compared as they are used
        identity = self._store.identity
        before = {mark.name: mark.value for mark in self._marks.all(identity) if mark.kind == "tag"}
        names = list(before)
        for at in range(0, len(names), MAX_READ):
            part = names[at : at + MAX_READ]
            stands = await self._store.read_remembered(part)
            behind = next((name for name in part if stands.get(name, -1) < before[name]), None)
            if behind is not None:
                known = f"up to {stands[behind]}" if behind in stands else "never"
                await self._halted(f"the store granted numbers of the tag {behind!r} {known}, below {before[behind]}")
                return

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        """Allocate, and refuse a range below the mark."""
        await self._check_unwritten()
        identity = self._store.identity
        before = self._marks.tag(identity, tag)
        try:
            granted = await self._store.allocate(tag, size, exact=exact)
        except StoreWentBackwards as error:
            await self._report(error)
            raise
        if granted.start < before:
            raise await self._halted(
                f"the range [{granted.start}, {granted.end}) of the tag {tag!r} lies below {before}"
            )
        self._marks.rise(identity, Mark("tag", tag, granted.end))
        self._reported = False
        return granted

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        """Read tags, and raise their marks; a store that remembers less than this node halts.

        What the store granted counts, not `max_id` itself: a number that an operator lowered is the tag's own matter
        (R4).
        """
        identity = self._store.identity
        before = {name: self._marks.tag(identity, name) for name in names}
        found = await self._store.read_tags(before)
        for name, tag in found.items():
            granted = tag.max_id if tag.mark is None else tag.mark
            if granted < before[name]:
                raise await self._halted(
                    f"the store granted numbers of the tag {name!r} up to {granted}, below {before[name]}"
                )
            if before[name] >= 0:
                self._marks.rise(identity, Mark("tag", name, granted))
        return found

    async def read_remembered(self, names: Iterable[str]) -> dict[str, int]:
        """As the store's."""
        return await self._store.read_remembered(names)

    async def list_tags(self, *, prefix: str = "", after: str = "", most: int = 100) -> list[Tag]:
        """As the store's."""
        return await self._store.list_tags(prefix=prefix, after=after, most=most)

    async def create_tag(self, new: NewTag) -> Tag:
        """As the store's."""
        return await self._store.create_tag(new)

    async def ensure_tag(self, new: NewTag) -> Tag:
        """As the store's."""
        return await self._store.ensure_tag(new)

    async def change_tag(self, name: str, change: TagChange) -> Tag:
        """As the store's."""
        return await self._store.change_tag(name, change)

    async def delete_tag(self, name: str) -> None:
        """As the store's."""
        await self._store.delete_tag(name)


class WorkerGuard(_Guard[WorkerStore]):
    """A worker store, watched; see the module's rules."""

    async def open_space(self, space: Space) -> None:
        """As the store's."""
        await self._store.open_space(space)

    async def claim(self, claim: Claim) -> Window:
        """Claim, and refuse a fence that is not above the mark of its worker id, and a space that was forgotten."""
        await self._check_unwritten()
        before = self._marks.fences(self._store.identity, claim.space.name)
        try:
            window = await self._store.claim(claim)
        except StoreWentBackwards as error:
            await self._report(error)
            raise
        except UnknownSpace as error:
            if not before:
                raise
            raise await self._halted(
                f"the store no longer knows the space {claim.space.name!r}, of which this node claimed worker ids"
            ) from error
        return await self._seen(window, before)

    async def count_windows(self, space: str, now: int, workers: range | None = None) -> int:
        """As the store's."""
        return await self._store.count_windows(space, now, workers)

    async def last_seen(self) -> int | None:
        """As the store's."""
        return await self._store.last_seen()

    async def find_window(self, space: str, nonce: str) -> Window | None:
        """Read a claim back, and refuse a fence that is not above the mark of its worker id."""
        before = self._marks.fences(self._store.identity, space)
        window = await self._store.find_window(space, nonce)
        return None if window is None else await self._seen(window, before)

    async def extend(self, window: Window, end: int) -> Window:
        """Extend; a fence below ours, or ours under another nonce, means that the store went backwards (W3)."""
        await self._check_unwritten()
        try:
            return await self._store.extend(window, end)
        except StoreWentBackwards as error:
            if error.whole_store:
                await self._report(error)
                raise
            raise await self._halted(error.message) from error

    async def release(self, window: Window, floor: int) -> None:
        """As the store's."""
        await self._store.release(window, floor)

    async def _seen(self, window: Window, before: dict[int, int]) -> Window:
        mark = before.get(window.worker, -1)
        if window.fence <= mark:
            raise await self._halted(
                f"fence {window.fence} of worker {window.worker} in the space {window.space!r} is not above {mark}"
            )
        self._marks.rise(self._store.identity, Mark("worker", window.space, window.fence, window.worker))
        self._reported = False
        return window
