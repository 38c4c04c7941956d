"""State directories for nodes: each running node has one for itself, `node-0`, `node-1` and so on.

Rules:
1. The lowest number that is free is taken, and free is what nobody has locked: no matter which supervisor a node
   belongs to, and whether that one is alive.
2. The lock is handed to the node, and closed here: it lives as long as the node's process.
3. The directory above them belongs to one service, by a lock of its own, which a takeover passes on.
"""

import contextlib
import fcntl
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from goloves.errors import ConfigError
from goloves.logger import get_logger
from goloves.stores.marks import STATE, lock_directory

MOST = 1024
"""Numbers that are tried: many times the nodes that there can be on a machine."""

log = get_logger("goloves.supervisor")


@dataclass(frozen=True, slots=True)
class Seat:
    """A state directory that is locked."""

    number: int
    lock: TextIO | None
    """Holds the lock; None if the directory can't be written, which the node says itself."""


def take_seat(data_dir: Path, taken: Collection[int]) -> Seat:
    """Lock the first state directory that is free. `taken`: numbers not to use, whether or not they are locked."""
    for number in range(MOST):
        if number in taken:
            continue
        try:
            return Seat(number, lock_directory(data_dir / f"{STATE}{number}"))
        except ConfigError:
            continue
        except OSError:
            return Seat(number, None)
    raise ConfigError(f"{MOST} nodes run on {data_dir}; stop some")


def note_holder(lock: TextIO, pid: int) -> None:
    """Write the process that has a seat into the file of its lock, for people to read; 0 for none."""
    # Past the buffers of the file: on a full disk these would fail once more when it is closed.
    with contextlib.suppress(OSError):
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"{pid}\n".encode() if pid else b"")


def seats_in_use(data_dir: Path) -> dict[int, str]:
    """Give the numbers of the state directories that are locked, each with the process that has it; empty: unknown."""
    found: dict[int, str] = {}
    for path in data_dir.glob(f"{STATE}*/lock"):
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found[int(path.parent.name.removeprefix(STATE))] = lock.read(20).strip()
            except OSError:
                continue
    return dict(sorted(found.items()))


def lock_service(data_dir: Path) -> TextIO | None:
    """Lock the data directory for this service; None, with an alarm, if it can't be written.

    Raises ConfigError if another service has it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("a")
    except OSError as error:
        log.error("the data directory can't be written: no marks are kept, and no orders taken", reason=str(error))
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(
            f"the data directory {data_dir} belongs to a node that is running; stop it, or give this one another"
        ) from None
    except OSError as error:
        log.error("the data directory can't be locked", reason=str(error))
    return lock
