"""Several processes on one database."""

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from goloves.core.grants import Range
from goloves.errors import StoreUnavailable
from goloves.stores import make_store
from goloves.stores.sql import Options
from stores.backends import Sql, Sqlite
from stores.contract import assert_disjoint

SOURCES = Path(__file__).parents[2] / "src"


async def start(url: str, count: int, how: str = "open") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("taker.py")), url, "default", str(count), how),
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def parsed(output: bytes) -> tuple[set[str], list[Range]]:
    identities, ranges = set(), []
    for line in output.decode().splitlines():
        match line.split():
            case ["identity", identity]:
                identities.add(identity)
            case ["range", first, end]:
                ranges.append(Range("default", int(first), int(end)))
            case _:
                assert "warning" in line, line
    return identities, ranges


async def test_processes_that_allocate_at_once_get_ranges_that_never_overlap(database: Sql) -> None:
    takers = await asyncio.gather(*(start(database.url, 40) for _ in range(4)))
    outputs = await asyncio.gather(*(taker.communicate() for taker in takers))
    ranges = [granted for output, _ in outputs for granted in parsed(output)[1]]
    assert len(ranges) == 160
    assert_disjoint(ranges)
    assert max(granted.end for granted in ranges) == 1 + 3 * 160


async def test_r8_processes_that_start_at_once_on_nothing_create_one_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/data/goloves.db"
    takers = await asyncio.gather(*(start(url, 10, "create") for _ in range(6)))
    outputs = await asyncio.gather(*(taker.communicate() for taker in takers))
    identities: set[str] = set()
    ranges: list[Range] = []
    for output, _ in outputs:
        mine, some = parsed(output)
        identities |= mine
        ranges += some
    assert len(identities) == 1
    assert len(ranges) == 60
    assert_disjoint(ranges)
    assert min(granted.start for granted in ranges) == 1


async def test_r3_what_a_killed_process_was_granted_nobody_gets_again(database: Sql) -> None:
    store = await database.node()
    seen: list[Range] = []
    for _ in range(3):
        taker = await start(database.url, 100_000)
        assert taker.stdout is not None
        lines: list[bytes] = []
        while len(lines) < 20:
            lines.append(await taker.stdout.readline())
        taker.send_signal(signal.SIGKILL)
        lines += (await taker.communicate())[0].splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        seen += parsed(b"".join(whole))[1]
        seen.append(await store.allocate("default", 5))
    assert len(seen) >= 50
    assert_disjoint(seen)


async def test_a_process_that_holds_the_write_lock_makes_others_wait_and_no_longer_than_their_timeout(
    tmp_path: Path,
) -> None:
    backend = await Sqlite(tmp_path).migrate()
    assert isinstance(backend, Sqlite)
    hasty, patient = make_store(backend.url, Options(timeout=3)), make_store(backend.url, Options(timeout=30))
    for store in (hasty, patient):
        await store.open()
    with closing(sqlite3.connect(backend.file, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"did not answer within 3 s|locked"):
            await hasty.allocate("default", 1)
        call = asyncio.create_task(patient.allocate("default", 1))
        starting = asyncio.create_task(backend.node())
        done, _ = await asyncio.wait([call, starting], timeout=0.3)
        assert not done
        holder.execute("ROLLBACK")
    assert (await call).start == 1
    await starting
    for store in (hasty, patient):
        await store.close()
    await backend.close()
