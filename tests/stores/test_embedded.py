"""The embedded store: one file, made only when asked for, bound to its machine, never another one (SAFETY R8)."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import Connection

from goloves.core.grants import Range
from goloves.errors import ConfigError, StoreRefused, StoreUnavailable, StoreWentBackwards
from goloves.stores import checks, make_store
from goloves.stores.base import NewTag
from goloves.stores.sql import Options, SqlStore
from stores.backends import PATIENT, Served, Sqlite

CREATING = Options(timeout=20, create=True)
REPAIRING = Options(timeout=20, repairing=True)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of our own, whatever the tests run on."""
    monkeypatch.setattr(checks, "machine_id", lambda: "this machine")


def a_store(directory: Path, options: Options = PATIENT) -> SqlStore:
    return make_store(f"sqlite:///{directory}/goloves.db", options)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def let_all_read(directory: Path) -> None:
    directory.chmod(0o755)
    (directory / "goloves.db").chmod(0o644)


async def made(directory: Path) -> SqlStore:
    store = a_store(directory, CREATING)
    await store.open()
    return store


async def test_r8_a_store_that_is_not_there_is_not_made_by_accident(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with pytest.raises(StoreRefused, match=r"no store at .*goloves\.db.*goloves migrate.*--init"):
        await store.open()
    assert names(tmp_path) == set()


async def test_r8_a_store_is_made_when_the_caller_says_so_and_goes_on_afterwards(tmp_path: Path) -> None:
    store = await made(tmp_path / "a" / "b")
    assert await store.allocate("default", 10) == Range("default", 1, 11)
    identity = store.identity
    await store.close()
    again = await made(tmp_path / "a" / "b")
    assert again.identity == identity
    assert await again.allocate("default", 10) == Range("default", 11, 21)
    await again.close()


async def test_r8_init_makes_a_new_store_and_refuses_one_that_exists(tmp_path: Path) -> None:
    await a_store(tmp_path).create()
    store = a_store(tmp_path)
    await store.open()
    assert await store.allocate("default", 1) == Range("default", 1, 2)
    await store.close()
    with pytest.raises(StoreRefused, match="exists already; start without --init"):
        await a_store(tmp_path).create()


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
async def test_r8_on_a_server_only_init_and_migrate_make_a_store(kind: str, request: pytest.FixtureRequest) -> None:
    served = Served(request.getfixturevalue(kind))
    with pytest.raises(StoreRefused, match="no tables yet"):
        await make_store(served.url, CREATING).open()
    await served.make().create()
    with pytest.raises(StoreRefused, match="exists already"):
        await served.make().create()
    store = await served.node()
    assert await store.allocate("default", 1) == Range("default", 1, 2)
    await served.close()


async def test_r8_init_refuses_a_table_that_was_leafs(tmp_path: Path) -> None:
    backend = Sqlite(tmp_path)
    backend.sql(
        "CREATE TABLE leaf_alloc (biz_tag TEXT PRIMARY KEY, max_id INTEGER, step INTEGER, description TEXT,"
        " update_time TEXT)"
    )
    with pytest.raises(StoreRefused, match="exists already"):
        await backend.make().create()


async def test_r8_a_log_without_its_file_is_no_reason_to_begin_anew(tmp_path: Path) -> None:
    store = await made(tmp_path)
    await store.allocate("default", 100)
    (tmp_path / "goloves.db").rename(tmp_path / "elsewhere")
    await store.close()
    (tmp_path / "goloves.db-wal").touch()
    with pytest.raises(StoreRefused, match=r"is gone, but its log goloves\.db-wal is there; restore"):
        await made(tmp_path)


async def test_r8_a_file_that_is_replaced_while_it_is_opened_is_refused_and_not_taken_for_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await made(tmp_path)).close()
    store = a_store(tmp_path)
    seen = iter([(1, 1)])
    monkeypatch.setattr(checks, "identity_of", lambda _: next(seen, (2, 2)))
    with pytest.raises(StoreRefused, match="was replaced or removed"):
        await store.open()
    monkeypatch.undo()
    monkeypatch.setattr(checks, "machine_id", lambda: "this machine")
    await store.open()
    assert await store.allocate("default", 10) == Range("default", 1, 11)
    await store.close()


async def test_r8_a_file_that_was_replaced_under_a_store_grants_nothing(tmp_path: Path) -> None:
    store = await made(tmp_path / "old")
    other = await made(tmp_path / "new")
    await other.close()
    await store.allocate("default", 100)
    file = tmp_path / "old" / "goloves.db"
    file.rename(tmp_path / "aside")
    shutil.copy(tmp_path / "new" / "goloves.db", file)
    with pytest.raises(StoreWentBackwards, match="was replaced or removed") as caught:
        await store.allocate("default", 1)
    assert caught.value.whole_store
    store._database._cut_idle()
    with pytest.raises(StoreWentBackwards):
        await store.allocate("default", 1)
    (tmp_path / "aside").rename(file)
    assert (await store.allocate("default", 1)).start == 101
    await store.close()


async def test_r8_a_file_that_was_removed_under_a_store_grants_nothing(tmp_path: Path) -> None:
    store = await made(tmp_path)
    (tmp_path / "goloves.db").unlink()
    with pytest.raises(StoreWentBackwards, match="removed"):
        await store.allocate("default", 1)
    store._database._cut_idle()
    with pytest.raises(StoreUnavailable):
        await store.allocate("default", 1)
    assert "goloves.db" not in names(tmp_path)
    await store.close()


async def test_r8_a_copy_on_another_machine_is_refused_until_a_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await made(tmp_path)
    await store.allocate("default", 10)
    await store.close()
    monkeypatch.setattr(checks, "machine_id", lambda: "another machine")
    with pytest.raises(StoreRefused, match=r"belongs to another machine.*goloves repair"):
        await a_store(tmp_path).open()
    repairing = a_store(tmp_path, REPAIRING)
    await repairing.open()
    await repairing.lift_halt()
    await repairing.close()
    moved = a_store(tmp_path)
    await moved.open()
    assert (await moved.allocate("default", 1)).start == 11
    await moved.close()
    monkeypatch.setattr(checks, "machine_id", lambda: "this machine")
    with pytest.raises(StoreRefused, match="belongs to another machine"):
        await a_store(tmp_path).open()


async def test_r8_in_a_container_a_file_is_bound_to_no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "machine_id", lambda: "")
    store = await made(tmp_path)
    await store.close()
    monkeypatch.setattr(checks, "machine_id", lambda: "this machine")
    store = a_store(tmp_path)
    await store.open()
    await store.close()
    assert Sqlite(tmp_path).sql("SELECT length(machine) FROM goloves_meta") == "64"


def test_r8_the_machine_id_is_read_outside_of_containers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    file = tmp_path / "machine-id"
    file.write_text("0123456789abcdef\n")
    names = (str(tmp_path / "missing"), str(file))
    monkeypatch.setattr(checks, "in_container", lambda: False)
    assert checks.machine_id(names) == "0123456789abcdef"
    assert checks.machine_id(names[:1]) == ""
    monkeypatch.setattr(checks, "in_container", lambda: True)
    assert checks.machine_id(names) == ""


@pytest.mark.parametrize("name", ["container", "KUBERNETES_SERVICE_HOST"])
def test_r8_a_container_is_known_by_what_its_runtime_leaves_behind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.delenv("container", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not checks.in_container()
    monkeypatch.setenv(name, "podman")
    assert checks.in_container()
    monkeypatch.delenv(name)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/run/.containerenv")
    assert checks.in_container()


MOUNTS = """\
22 28 0:21 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / {0}/nfs rw,relatime shared:1 - nfs4 server:/export rw
31 22 0:27 / {0}/with\\040space rw,relatime - fuse.sshfs server: rw
32 22 0:28 / {0}/overlay rw,relatime - overlay overlay rw
33 32 0:29 / {0}/overlay/volume rw,relatime - xfs /dev/vdb rw
34 22 0:30 / {0}/shm rw - tmpfs tmpfs rw
a broken line
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS.format(tmp_path))
    return file


@pytest.mark.parametrize("where", ["nfs", "nfs/deep/down", "with space"])
def test_r8_a_network_file_system_is_refused(tmp_path: Path, mounts: Path, where: str) -> None:
    with pytest.raises(StoreRefused, match=r"network file system \((nfs4|fuse.sshfs)\).*local disk"):
        checks.check_file_system(tmp_path / where / "goloves.db", mounts)


@pytest.mark.parametrize("where", ["overlay", "shm"])
def test_r8_a_file_system_that_forgets_is_warned_of(tmp_path: Path, mounts: Path, where: str) -> None:
    assert "forgets" in checks.check_file_system(tmp_path / where / "goloves.db", mounts)


@pytest.mark.parametrize("where", ["overlay/volume", "disk", "nfsx"])
def test_r8_a_disk_is_neither(tmp_path: Path, mounts: Path, where: str) -> None:
    assert checks.check_file_system(tmp_path / where / "goloves.db", mounts) == ""


def test_r8_where_mounts_can_not_be_read_nothing_is_assumed(tmp_path: Path) -> None:
    assert checks.check_file_system(tmp_path, tmp_path / "missing") == ""


async def test_r8_the_warning_is_logged_when_the_store_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checks, "file_system", lambda *_: "tmpfs")
    store = await made(tmp_path)
    await store.close()
    assert [line for line in caplog.records if "forgets" in line.getMessage() and line.levelname == "WARNING"]
    monkeypatch.setattr(checks, "file_system", lambda *_: "cifs")
    with pytest.raises(StoreRefused, match="network file system"):
        await a_store(tmp_path).open()


async def test_a_path_may_hold_what_urls_trip_over(tmp_path: Path) -> None:
    directory = tmp_path / "a b%41#c?d=é&e"
    store = SqlStore(
        make_store("sqlite:///x")._database.dialect.url.__class__("sqlite", str(directory / "s.db")), CREATING
    )
    await store.open()
    assert await store.allocate("default", 1)
    await store.close()
    assert "s.db" in names(directory)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "goloves.db").write_bytes(b"not a database at all, whatever its name says\n" * 100)
    with pytest.raises(StoreRefused, match="is no SQLite database; name another one"):
        await a_store(tmp_path).open()


async def test_a_place_where_nothing_can_be_made_is_refused() -> None:
    with pytest.raises(StoreRefused, match=r"can't be made: .*directory that it can write"):
        await a_store(Path("/proc/self/nowhere"), CREATING).open()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
async def test_a_file_that_can_only_be_read_is_refused() -> None:
    directory = Path(tempfile.mkdtemp(prefix="goloves-"))
    try:
        store = await made(directory)
        await store.allocate("default", 10)
        await store.close()
        let_all_read(directory)
        os.seteuid(65534)
        try:
            with pytest.raises(StoreRefused, match=r"can't be (written|opened).*(permissions|give the user)"):
                await a_store(directory).open()
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(directory)


async def test_a_disk_that_is_full_grants_nothing_and_serves_again_when_it_is_not(tmp_path: Path) -> None:
    store = await made(tmp_path)

    def limit_pages(connection: Connection, to: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {to}")

    await store._run(lambda connection: limit_pages(connection, 1), write=False)
    with pytest.raises(StoreUnavailable, match="full"):
        for number in range(5000):
            await store.create_tag(NewTag(f"tag {number} {'x' * 100}", description="d" * 256))
    await store._run(lambda connection: limit_pages(connection, 1_000_000), write=False)
    assert (await store.allocate("default", 1)).start == 1
    await store.close()


async def test_r2_tables_that_goloves_makes_hold_whole_numbers_only(tmp_path: Path) -> None:
    backend = await Sqlite(tmp_path).migrate()
    strict = backend.sql("SELECT name FROM pragma_table_list WHERE type = 'table' AND strict ORDER BY name").split()
    assert strict == ["goloves_mark", "goloves_meta", "goloves_space", "goloves_tag", "goloves_worker", "leaf_alloc"]


def test_a_store_is_never_one_in_memory() -> None:
    with pytest.raises(ConfigError):
        make_store("sqlite:///:memory:")
