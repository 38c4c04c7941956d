"""A store that is set back behind a running service, and `goloves repair`, as a person meets them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import MariaDb, PostgreSql, Server
from system.serving import PATIENCE, Serving, Start

QUICK = {
    "GOLOVES_SEGMENT__REFRESH": "1",
    "GOLOVES_SNOWFLAKE__MAX_BACKWARD": "0.5",
    "GOLOVES_SNOWFLAKE__MAX_FORWARD": "0.5",
    "GOLOVES_SPACES__DEFAULT__WINDOW": "2",
    "GOLOVES_SEGMENT__DEADLINE": "3",
    "GOLOVES_SNOWFLAKE__DEADLINE": "3",
}
"""Windows and readings so short that a halt is noticed, and a pause over, within seconds; deadlines that a busy machine
keeps."""

SQL = (
    "UPDATE leaf_alloc SET max_id = 1; UPDATE goloves_tag SET mark = 1;"
    " UPDATE goloves_worker SET fence = 0, floor = 0, start = 0"
)


def goloves(*words: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "goloves", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE * 2,
        env={**_environment(), **QUICK},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GOLOVES_")}


def halted(server: Serving) -> None:
    """Wait until the service answers that it is halted."""
    answer = server.wait(lambda: refused(server), "refusal")
    server.says("the store went backwards")
    assert "goloves repair" in answer
    assert server.get("/readyz").status_code == 503


def refused(server: Serving) -> str | None:
    answer = server.get("/api/segment/get/default")
    return answer.text if answer.status_code == 503 and "went_backwards" in answer.text else None


def drawn(server: Serving) -> tuple[int, int]:
    """Draw until both modes give ids; the id of each."""

    def both() -> tuple[int, int] | None:
        number, flake = server.get("/api/segment/get/default"), server.get("/api/snowflake/get/x")
        return (int(number.text), int(flake.text)) if number.status_code == flake.status_code == 200 else None

    return server.wait(both, "ids of both modes")


@pytest.fixture(params=["mariadb", "postgresql"])
def database(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def test_r6_numbers_and_fences_lowered_by_sql_halt_a_running_service_until_it_is_repaired(
    database: Server, start: Start, tmp_path: Path
) -> None:
    url = database.fresh()
    goloves("migrate", "--store", url, cwd=tmp_path)
    server = start("--store", url, **QUICK)
    server.ready()
    highest, (_, flake) = server.ids(5000)[-1], drawn(server)
    database.sql(SQL, url.rpartition("/")[2])
    halted(server)
    assert "halted" in goloves("check", "--store", url, cwd=tmp_path, code=1)

    found = json.loads(goloves("repair", "--yes", "--json", "--store", url, cwd=tmp_path))[0]
    assert found["halted"]
    assert [int(number) > 5000 for number in found["plan"]["tags"].values()] == [True]
    number, later = drawn(server)
    assert number > highest + 10_000_000
    assert later > flake
    assert "nothing to repair" in goloves("repair", "--store", url, cwd=tmp_path)


def test_r6_a_file_that_is_restored_halts_the_next_start_until_it_is_repaired(start: Start, tmp_path: Path) -> None:
    server = start(**QUICK)
    server.ready()
    server.ids(10)
    assert server.stop() == 0
    data = tmp_path / "data"
    shutil.copy(data / "goloves.db", tmp_path / "backup")
    server = start(**QUICK)
    server.ready()
    highest, (_, flake) = server.ids(5000)[-1], drawn(server)
    assert server.stop() == 0
    for left in ("goloves.db-wal", "goloves.db-shm"):
        (data / left).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup", data / "goloves.db")

    server = start(**QUICK)
    server.says(r"^Goloves .* listens on ")
    halted(server)
    goloves("repair", "--yes", cwd=tmp_path)
    number, later = drawn(server)
    assert number > highest + 10_000_000
    assert later > flake


def test_r6_a_file_that_is_restored_is_repaired_before_any_node_starts(start: Start, tmp_path: Path) -> None:
    server = start(**QUICK)
    server.ready()
    # As backups do, which leave out what is no file: the socket for orders.
    shutil.copytree(tmp_path / "data", tmp_path / "copy", ignore=shutil.ignore_patterns("control"))
    highest = server.ids(5000)[-1]
    assert server.stop() == 0
    for file in ("goloves.db", "goloves.db-wal", "goloves.db-shm"):
        (tmp_path / "data" / file).unlink(missing_ok=True)
        if (tmp_path / "copy" / file).exists():
            shutil.copy(tmp_path / "copy" / file, tmp_path / "data" / file)
    shown = goloves("repair", "--yes", cwd=tmp_path)
    assert "told what they remember" in shown, "the node's state directory"
    server = start(**QUICK)
    number, _ = drawn_after_start(server)
    assert number > highest + 10_000_000
    assert "went backwards" not in server.said


def drawn_after_start(server: Serving) -> tuple[int, int]:
    server.says(r"^Goloves .* listens on ")
    return drawn(server)


# --- a failover that loses commits (R7) ---


class Failing:
    """A server of the test's own that fails over to what a replica had received some time ago."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self._replica = directory / "replica"

    def receive(self) -> None:
        """Let the replica receive everything up to now."""
        self.server.stop()
        shutil.rmtree(self._replica, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self.server.data), str(self._replica)], check=True)
        self.server.start()

    def fail_over(self) -> None:
        """Lose the primary, and go on with the replica on its address."""
        self.server.kill()
        shutil.rmtree(self.server.data)
        subprocess.run(["cp", "-a", str(self._replica), str(self.server.data)], check=True)
        if isinstance(self.server, PostgreSql):
            self._promote()
        else:
            self.server.start("--server-id=2")

    def _promote(self) -> None:
        """Start as a standby and promote it: PostgreSQL begins a new timeline."""
        signal = self.server.data / "standby.signal"
        signal.touch()
        owner = self.server.data.stat()
        os.chown(signal, owner.st_uid, owner.st_gid)
        self.server.start("--hot_standby=on")
        self.server.sql("SELECT pg_promote(true, 60)")


@pytest.fixture(params=[MariaDb, PostgreSql])
def failing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Failing]:
    kind: type[Server] = request.param
    if kind.missing():
        pytest.skip(kind.missing())
    server = kind()
    try:
        server.create()
        yield Failing(server, server.directory)
    finally:
        server.remove()


def begun(failing: Failing, start: Start, tmp_path: Path, **more: str) -> tuple[Serving, str]:
    """A service whose replica lacks what it is granted from now on."""
    url = failing.server.fresh()
    goloves("migrate", "--store", url, cwd=tmp_path)
    server = start("--store", url, **QUICK, **more)
    server.ready()
    server.ids(10)
    failing.receive()
    server.wait(lambda: server.get("/readyz").status_code == 200, "readiness after the copy")
    return server, url


def test_r7_a_failover_halts_the_store_until_it_is_repaired(failing: Failing, start: Start, tmp_path: Path) -> None:
    server, url = begun(failing, start, tmp_path)
    highest, flake = drawn_many(server)
    failing.fail_over()
    server.wait(lambda: "the store became another" in server.said or None, "the failover")
    server.wait(lambda: refused(server), "refusal")
    found = json.loads(goloves("repair", "--yes", "--json", "--store", url, cwd=tmp_path))[0]
    assert found["other_server"]
    number, later = drawn(server)
    assert number > highest
    assert later > flake


def test_r7_with_skip_ids_go_on_by_themselves_above_the_gap(failing: Failing, start: Start, tmp_path: Path) -> None:
    gap = {"GOLOVES_STORES__FAILOVER": "skip", "GOLOVES_STORES__FAILOVER_GAP": "5000000"}
    server, url = begun(failing, start, tmp_path, **gap)
    highest, flake = drawn_many(server)
    failing.fail_over()
    server.wait(lambda: "the store became another" in server.said or None, "the failover")
    seen: list[int] = []

    def above_the_gap() -> bool | None:
        # What the node had in its buffer is its own, and comes first.
        answer = server.get("/api/segment/get/default")
        if answer.status_code == 200:
            seen.append(int(answer.text))
            seen.extend(server.ids(1000))
        return True if seen and seen[-1] > 5_000_000 else None

    server.wait(above_the_gap, "ids above the gap")
    assert min(seen) > highest
    assert len(set(seen)) == len(seen)
    assert drawn(server)[1] > flake
    assert "went backwards" not in server.said, "no mark of a node stands in the way of a skip"
    database = url.rpartition("/")[2]
    assert failing.server.sql("SELECT skipped FROM goloves_meta", database) == "5000000", "once"


def drawn_many(server: Serving) -> tuple[int, int]:
    """Draw so much that the store granted several ranges, and extended its windows; the highest of each."""
    highest = [server.ids(1000)[-1] for _ in range(8)][-1]
    return highest, drawn(server)[1]
