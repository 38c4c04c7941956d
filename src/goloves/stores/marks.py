"""Marks: what a node remembers of the highest grants, in memory and in its state directory (SAFETY R5).

Rules:
1. A mark only rises.
2. Marks are kept by the store's identity and tag, or space and worker. Ranges are compared by number, windows by fence.
   A store that had no identity but its address keeps its marks when it gets one.
3. The state directory holds marks and never grants: a copy of it can't issue anything. It belongs to one node, which
   locks it. If it can't be written, marks stay in memory and the log says so.
"""

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from goloves.errors import ConfigError
from goloves.logger import get_logger
from goloves.stores.base import Mark

FORMAT = 1
"""Version of the marks file; a file of a later one is refused, so that a rollback of the code can't lose marks."""

HEADER = f"goloves marks {FORMAT}"
"""First line of the marks file."""

COMPACT_AFTER = 100_000
"""Lines after which the marks file is written anew: some 5 MB."""

STATE = "node-"
"""Begins the names of the state directories of one machine's nodes, which lie side by side."""

log = get_logger("goloves.guard")


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


@dataclass(slots=True)
class Standing:
    """How a store stands with this node, whichever of its guards found it out."""

    halt: str = ""
    """Why nothing may be granted here: until that is written into the store, or for good where it has no place."""
    found_at: int | None = None
    """The number that repairs raise, as it was read after a halt was found to be owed; None if it was not read yet."""
    reported_at: float = float("-inf")
    """Loop time at which this node's marks were written into the store for a repair."""
    repairs: int | None = None
    """The number that repairs raise, when this node looked last; None after a halt that it met itself."""
    uncompared: frozenset[str] = frozenset()
    """Of which kinds all marks have to be compared before the next grant."""


class Marks:
    """The highest grants seen, in memory and, when a state directory was opened, in its file `marks`."""

    def __init__(self) -> None:
        self._tags: dict[str, dict[str, int]] = {}
        """By the store's identity and tag: the highest end of a range."""
        self._fences: dict[str, dict[str, dict[int, int]]] = {}
        """By the store's identity, space and worker id: the highest fence."""
        self._standings: dict[str, Standing] = {}
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

    def standing(self, identity: str) -> Standing:
        """Give how a store stands with this node; kept in memory only."""
        return self._standings.setdefault(identity, Standing())

    def carry(self, address: str, identity: str) -> None:
        """Go on under a store's identity with what was kept under its address, before a migration gave it one."""
        if address == identity or (address not in self._tags and address not in self._fences):
            return
        for mark in self.all(address):
            self._raise(identity, mark)
        self._tags.pop(address, None)
        self._fences.pop(address, None)
        if self._path is not None:
            self._rewrite()

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
