"""The guard: what a node remembers of the highest grants, so that a store that went backwards is refused (rule 3).

Rules (SAFETY R5):
1. A grant is compared with the mark that was held before its request was sent: two answers may cross.
2. A mark only rises: with each grant, and with each reading of a tag.
3. Marks are kept by the store's identity and tag, or space and worker. Ranges are compared by number, windows by fence.
4. The state directory holds marks and never grants: a copy of it can't issue anything. It belongs to one node, which
   locks it. If it can't be written, marks stay in memory and the log says so.
5. A mark of the node above the store's halts the whole store, for every tag and window of it moved back (R6).
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TextIO, TypeVar

import structlog

from goloves.core.grants import Range, Window
from goloves.errors import ConfigError, GolovesError, StoreWentBackwards
from goloves.stores.base import Claim, NewTag, SegmentStore, Space, Store, Tag, TagChange, WorkerStore

FORMAT = 1
"""Version of the marks file; a file of a later one is refused, so that a rollback of the code can't lose marks."""

COMPACT_AFTER = 100_000
"""Lines after which the marks file is written anew: some 5 MB."""

log = structlog.get_logger("goloves.guard")

Watched = TypeVar("Watched", bound=Store)


class Marks:
    """The highest grants seen, in memory and, when a state directory was opened, in its file `marks`."""

    def __init__(self) -> None:
        self._marks: dict[str, int] = {}
        self._file: TextIO | None = None
        self._path: Path | None = None
        self._lock: TextIO | None = None
        self._lines = 0
        self.write_failed = False
        """True while marks can't be written to the state directory."""

    def open(self, directory: Path) -> None:
        """Lock the state directory, read its marks, and keep them there from now on.

        Raises ConfigError if another node holds it, or if a later version wrote it.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = (directory / "lock").open("a")
        except OSError as error:
            self._failed(error)
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigError(
                f"the state directory {directory} belongs to a node that is running; stop it, or give this one another"
            ) from None
        self._lock = lock
        self._path = directory / "marks"
        if self._path.exists():
            self._read(self._path)
        self._rewrite()

    def close(self) -> None:
        """Let go of the state directory."""
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    def get(self, key: str) -> int:
        """Give the mark under this key; -1 if there is none."""
        return self._marks.get(key, -1)

    def under(self, prefix: str) -> dict[str, int]:
        """Give a copy of the marks whose keys begin with `prefix`."""
        return {key: mark for key, mark in self._marks.items() if key.startswith(prefix)}

    def rise(self, key: str, mark: int) -> None:
        """Raise a mark; a lower one changes nothing."""
        if mark > self._marks.get(key, -1):
            self._marks[key] = mark
            if self._file is not None:
                self._write(key, mark)

    def forget(self, prefix: str) -> None:
        """Forget the marks under a prefix, after a repair of the store went on above them."""
        for key in self.under(prefix):
            del self._marks[key]
        if self._path is not None:
            self._rewrite()

    def _read(self, path: Path) -> None:
        with path.open(encoding="utf-8") as file:
            header = file.readline().strip()
            if header != f"goloves marks {FORMAT}":
                raise ConfigError(
                    f"{path} was written by another version of Goloves ({header[:40]!r}); use that version"
                )
            for line in file:
                try:
                    key, mark = json.loads(line)
                    self._marks[key] = max(mark, self._marks.get(key, -1))
                except (ValueError, TypeError):
                    continue  # the last line of a node that was killed while it wrote

    def _rewrite(self) -> None:
        assert self._path is not None
        try:
            new = self._path.with_suffix(".new")
            with new.open("w", encoding="utf-8") as file:
                file.write(f"goloves marks {FORMAT}\n")
                file.writelines(json.dumps([key, mark]) + "\n" for key, mark in self._marks.items())
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            if self._file is not None:
                self._file.close()
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
            self._lines = len(self._marks)
            self.write_failed = False
        except OSError as error:
            self._failed(error)

    def _write(self, key: str, mark: int) -> None:
        assert self._file is not None
        try:
            self._file.write(json.dumps([key, mark]) + "\n")
            self._lines += 1
            self.write_failed = False
        except OSError as error:
            self._failed(error)
        if self._lines >= max(COMPACT_AFTER, 2 * len(self._marks)):
            self._rewrite()

    def _failed(self, error: OSError) -> None:
        if not self.write_failed:
            log.error("the state directory can't be written: marks stay in memory only", reason=str(error))
        self.write_failed = True


class _Guard(Generic[Watched]):
    """What both guards hand on unchanged."""

    def __init__(self, store: Watched, marks: Marks) -> None:
        self._store = store
        self._marks = marks

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

    async def _halt(self, reason: str) -> StoreWentBackwards:
        """Halt the whole store, and give the error to raise; where that fails, this node refuses all the same."""
        also = ""
        try:
            await self._store.halt(reason)
        except GolovesError as error:
            also = f" (the halt could not be written into the store: {error.message})"
        log.critical("the store went backwards", reason=reason)
        return StoreWentBackwards(
            f"the store went backwards: {reason}. Nothing is issued until an operator runs `goloves repair`{also}",
            whole_store=True,
        )


class SegmentGuard(_Guard[SegmentStore]):
    """A segment store, watched; see the module's rules."""

    async def allocate(self, tag: str, size: int, *, exact: bool = False) -> Range:
        """Allocate, and refuse a range below the mark."""
        key = self._key(tag)
        before = self._marks.get(key)
        granted = await self._store.allocate(tag, size, exact=exact)
        if granted.start < before:
            raise await self._halt(
                f"the range [{granted.start}, {granted.end}) of the tag {tag!r} lies below the mark {before}"
            )
        self._marks.rise(key, granted.end)
        return granted

    async def read_tags(self, names: Iterable[str]) -> dict[str, Tag]:
        """Read tags, and raise their marks; a tag that lies below its mark halts the store."""
        names = list(names)
        before = {name: self._marks.get(self._key(name)) for name in names}
        found = await self._store.read_tags(names)
        for name, tag in found.items():
            if tag.max_id < before[name]:
                raise await self._halt(
                    f"max_id {tag.max_id} of the tag {name!r} lies below {before[name]}, which this node saw"
                )
            if before[name] >= 0:
                self._marks.rise(self._key(name), tag.max_id)
        return found

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

    def _key(self, tag: str) -> str:
        return f"{self._store.identity} tag {tag}"


class WorkerGuard(_Guard[WorkerStore]):
    """A worker store, watched; see the module's rules."""

    async def open_space(self, space: Space) -> None:
        """As the store's."""
        await self._store.open_space(space)

    async def claim(self, claim: Claim) -> Window:
        """Claim, and refuse a fence that is not above the mark of its worker id."""
        before = self._marks.under(self._prefix(claim.space.name))
        return await self._seen(await self._store.claim(claim), before)

    async def find_window(self, space: str, nonce: str) -> Window | None:
        """Read a claim back, and refuse a fence that is not above the mark of its worker id."""
        before = self._marks.under(self._prefix(space))
        window = await self._store.find_window(space, nonce)
        return None if window is None else await self._seen(window, before)

    async def extend(self, window: Window, end: int) -> Window:
        """Extend; a fence below ours, or ours under another nonce, means that the store went backwards."""
        try:
            return await self._store.extend(window, end)
        except StoreWentBackwards as error:
            if error.whole_store:
                raise
            raise await self._halt(error.message) from error

    async def release(self, window: Window, floor: int) -> None:
        """As the store's."""
        await self._store.release(window, floor)

    def _prefix(self, space: str) -> str:
        return f"{self._store.identity} space {space} worker "

    async def _seen(self, window: Window, before: dict[str, int]) -> Window:
        key = f"{self._prefix(window.space)}{window.worker}"
        mark = before.get(key, -1)
        if window.fence <= mark:
            raise await self._halt(
                f"fence {window.fence} of worker {window.worker} in the space {window.space!r} is not above the mark"
                f" {mark}"
            )
        self._marks.rise(key, window.fence)
        return window
