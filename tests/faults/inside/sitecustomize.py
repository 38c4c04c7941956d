"""Faults inside of a node's process, at a place and a moment that nobody outside could hit.

Python loads this module by its name before anything else, in nodes whose environment has a variable `FAULT_…`:

    FAULT_KILL=before-commit:7     ends the process as `kill -9` does, at the 7th transaction that writes. The points:
                                   before-commit; after-commit, before the database's word reaches the caller;
                                   before-answer, when the caller has the grant and no client has an id of it
    FAULT_KILL=after-commit:claim:1  the same, at the first claim; or extend, release, allocate
    FAULT_MACHINE=abc              this is the machine with that id, and no container
"""

import contextvars
import os
import signal
from typing import Any

KINDS = ("claim", "extend", "release", "allocate")

CALL: contextvars.ContextVar[str] = contextvars.ContextVar("the call under way", default="")


def kill_at(words: str) -> None:
    """Arm a point at which the process ends."""
    from goloves.stores.database import Database, _Progress
    from goloves.stores.sql import SqlStore

    point, *kind, number = words.split(":")
    left = int(number)
    original = Database._transact
    run = Database.run
    kinds = set(kind)
    if not kinds <= set(KINDS):
        raise ValueError(f"there is no such kind: {kinds}")

    def strike(at: str) -> None:
        nonlocal left
        if at != point or (kinds and CALL.get() not in kinds):
            return
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def named(name: str, call: Any) -> Any:
        async def called(self: Any, *args: Any, **options: Any) -> Any:
            CALL.set(name)
            try:
                return await call(self, *args, **options)
            finally:
                CALL.set("")

        return called

    def transact(self: Database, connection: Any, work: Any, write: bool, progress: _Progress) -> Any:
        if not write:
            return original(self, connection, work, write, progress)
        commit = connection.commit

        def struck() -> None:
            strike("before-commit")
            commit()
            strike("after-commit")

        connection.commit = struck
        try:
            return original(self, connection, work, write, progress)
        finally:
            del connection.commit

    async def answered(self: Database, work: Any, **options: Any) -> Any:
        answer = await run(self, work, **options)
        if options.get("write", True):
            strike("before-answer")
        return answer

    for name in KINDS:
        setattr(SqlStore, name, named(name, getattr(SqlStore, name)))
    Database._transact = transact  # type: ignore[method-assign]
    Database.run = answered  # type: ignore[method-assign]


def be_machine(name: str) -> None:
    """Be another machine than the one that this is."""
    from goloves.stores import checks

    checks.machine_id = lambda *_: name


FAULTS = {"FAULT_KILL": kill_at, "FAULT_MACHINE": be_machine}

for variable, begin in FAULTS.items():
    if variable in os.environ:
        begin(os.environ[variable])
