"""The form of the tables: made by migrations, known to queries, changed by nobody else."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect

from goloves.core.layout import Layout
from goloves.stores import schema
from goloves.stores.base import Space
from stores.backends import Served, Sql, Sqlite

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
            if table != schema.VERSION_TABLE
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
