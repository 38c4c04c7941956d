"""The form of the tables: made by migrations, known to queries, changed by nobody else."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect

from goloves.core.layout import Layout
from goloves.errors import StoreRefused
from goloves.stores import schema
from goloves.stores.base import NewTag, Space
from stores.backends import Served, Sql, Sqlite
from stores.contract import LEAF, a_claim

VERSIONS = Path(schema.__file__).parent / "migrations" / "versions"


async def test_the_tables_are_what_the_queries_take_them_for(database: Sql) -> None:
    store = await database.node()

    def forms(connection: Connection) -> dict[str, dict[str, tuple[bool, bool]]]:
        inspector = inspect(connection)
        return {
            table: {
                column["name"]: (
                    column["name"] in inspector.get_pk_constraint(table)["constrained_columns"],
                    column["nullable"],
                )
                for column in inspector.get_columns(table)
            }
            for table in inspector.get_table_names()
            if table not in (schema.REVISION_TABLE, schema.LEAST_TABLE)
        }

    made = await store._run(forms, write=False)  # type: ignore[union-attr]
    known = {
        table.name: {column.name: (column.primary_key, bool(column.nullable)) for column in table.c}
        for table in schema.metadata.tables.values()
    }
    assert made == known


def test_the_code_works_with_the_newest_migration() -> None:
    revisions = sorted(path.name[1:5] for path in VERSIONS.glob("v*.py"))
    assert revisions[-1] == schema.VERSION


def to_the_first_tables(database: Sql) -> None:
    """Bring a store back to what the first version of Goloves made."""
    database.sql("ALTER TABLE goloves_meta DROP COLUMN repairs")
    for column in ("fence", "longest"):
        database.sql(f"ALTER TABLE goloves_space DROP COLUMN {column}")
    database.sql("DROP TABLE goloves_revision")


async def test_the_tables_of_the_version_before_are_brought_up_and_still_let_its_nodes_start(database: Sql) -> None:
    store = await database.node()
    await store.allocate("default", 10)
    identity = store.identity
    await store.close()
    to_the_first_tables(database)
    with pytest.raises(StoreRefused, match=r"have version 0001, this Goloves needs 0002; run: goloves migrate"):
        await database.make().open()
    for expected in ("renewed", "nothing"):
        assert await database.make().migrate() == expected
    again = await database.node()
    assert again.identity == identity
    assert (await again.allocate("default", 1)).start == 11
    # All that a node of the version before compares, and all that it writes where it registers a space.
    assert database.sql("SELECT version_num FROM goloves_version") == "0001"
    columns = "name, layout, fingerprint, epoch_ms, unit_ms, floor"
    database.sql(f"INSERT INTO goloves_space ({columns}) SELECT 'two', layout, fingerprint, 0, 1, 0 FROM goloves_space")
    assert [space.name for space in await again.read_spaces()] == ["default", "two"]


async def test_a_later_version_that_only_adds_is_used_by_this_one_and_one_that_does_more_is_refused(
    database: Sql,
) -> None:
    database.sql("ALTER TABLE goloves_worker ADD COLUMN mood INTEGER NOT NULL DEFAULT 5")
    database.sql("ALTER TABLE goloves_tag ADD COLUMN mood INTEGER NOT NULL DEFAULT 5")
    database.sql("CREATE TABLE goloves_more (id INTEGER PRIMARY KEY)")
    database.sql("UPDATE goloves_revision SET version_num = '0003'")
    store = await database.node()
    await store.create_tag(NewTag("order"))
    assert (await store.allocate("order", 5)).start == 1
    await store.open_space(LEAF)
    window = await store.claim(a_claim(LEAF, 1000))
    assert (await store.extend(window, window.end + 5)).end == window.end + 5
    database.sql("UPDATE goloves_version SET version_num = '0003'")
    with pytest.raises(StoreRefused, match="made by a newer Goloves, and need one that knows 0003"):
        await database.make().open()


async def test_migrating_twice_changes_nothing(database: Sql) -> None:
    store = await database.node()
    await store.allocate("default", 10)
    identity = store.identity
    await database.make().migrate()
    again = await database.node()
    assert again.identity == identity
    assert (await again.allocate("default", 1)).start == 11


async def test_migrations_at_once_make_one_store(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for kind in ("sqlite", "mariadb", "postgresql"):
        backend: Sql = Sqlite(tmp_path) if kind == "sqlite" else Served(request.getfixturevalue(kind))
        await asyncio.gather(*(backend.make().migrate() for _ in range(3)))
        assert backend.sql("SELECT COUNT(*) FROM goloves_meta") == "1"
        assert backend.sql("SELECT COUNT(*) FROM goloves_version") == "1"
        assert backend.sql("SELECT biz_tag, max_id FROM leaf_alloc") == "default\t1"


async def test_a_store_that_goloves_makes_has_a_space_named_default(database: Sql) -> None:
    assert database.sql("SELECT name, floor FROM goloves_space") == "default\t0"
    store = await database.node()
    await store.open_space(Space("default", Layout()))
    assert database.sql("SELECT fingerprint FROM goloves_space") == Layout().fingerprint


@pytest.mark.parametrize(
    ("url", "driver"),
    [("sqlite:///x.db", "aiosqlite"), ("mysql://u@h/d", "asyncmy"), ("postgresql://u@h/d", "asyncpg")],
)
def test_a_node_imports_its_own_driver_and_neither_another_nor_alembic_nor_the_orm(url: str, driver: str) -> None:
    program = (
        "import sys; from goloves.stores import make_store; from goloves.stores.sql import Options;"
        f"store = make_store({url!r}); store._database._make_engine();"
        "print(*sorted(name for name in ('aiosqlite', 'asyncmy', 'asyncpg', 'alembic', 'sqlalchemy.orm')"
        " if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [driver]
