"""The checks at the start: each refusal names what is wrong and how to mend it."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from databases import PASSWORD, USER, Server
from goloves.errors import StoreRefused, StoreUnavailable
from goloves.stores import make_store
from goloves.stores.dialects import DIALECTS
from goloves.stores.sql import Options
from goloves.stores.urls import parse_store_url
from stores.backends import PATIENT, Served, Sql, Sqlite

BIG = 9_223_372_036_854_775_807

LEAFS_OWN = """
CREATE TABLE leaf_alloc (
  biz_tag varchar(128) NOT NULL DEFAULT '',
  max_id bigint NOT NULL DEFAULT 1,
  step int NOT NULL,
  description varchar(256) DEFAULT NULL,
  update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (biz_tag)
)
"""


async def refused(store: Sql, match: str, options: Options = PATIENT) -> None:
    made = make_store(store.url, options)
    with pytest.raises(StoreRefused, match=match) as caught:
        await made.open()
    assert PASSWORD not in str(caught.value)
    assert repr(made).count("@") == 0
    await made.close()


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Sql:
    """A database without any table."""
    if request.param == "sqlite":
        backend = Sqlite(tmp_path)
        backend.sql("PRAGMA user_version")
        return backend
    return Served(request.getfixturevalue(request.param))


@pytest.fixture
async def maria(mariadb: Server) -> AsyncIterator[Served]:
    served = Served(mariadb)
    yield served
    await served.close()


@pytest.fixture
async def postgres(postgresql: Server) -> AsyncIterator[Served]:
    served = Served(postgresql)
    yield served
    await served.close()


async def test_an_empty_database_asks_for_goloves_migrate(empty: Sql) -> None:
    await refused(empty, r"no tables yet.*goloves migrate.*--init")


async def test_the_tables_of_a_newer_goloves_are_refused(database: Sql) -> None:
    database.sql("UPDATE goloves_revision SET version_num = '0999'")
    database.sql("UPDATE goloves_version SET version_num = '0998'")
    await refused(database, r"0999.*newer Goloves.*0998.*upgrade")


async def test_the_tables_of_an_older_goloves_ask_for_goloves_migrate(database: Sql) -> None:
    database.sql("UPDATE goloves_revision SET version_num = '0000'")
    await refused(database, r"0000.*goloves migrate")


async def test_a_migration_that_broke_off_is_told(database: Sql) -> None:
    database.sql("DELETE FROM goloves_revision")
    await refused(database, "did not come to its end.*goloves migrate")
    await database.make().migrate()
    database.sql("DELETE FROM goloves_version")
    await refused(database, "did not come to its end.*goloves migrate")
    await database.make().migrate()
    database.sql("DROP TABLE goloves_version")
    await refused(database, "did not come to its end.*goloves migrate")
    store = make_store(database.url, PATIENT)
    await store.migrate()
    await store.open()
    assert (await store.allocate("default", 1)).start == 1
    await store.close()


async def test_a_table_that_was_lost_is_not_made_anew(database: Sql) -> None:
    database.sql("DROP TABLE leaf_alloc")
    await refused(database, "lacks the table leaf_alloc; restore it")


async def test_a_store_that_lost_its_identity_is_refused(database: Sql) -> None:
    database.sql("DELETE FROM goloves_meta")
    await refused(database, "lost the row of goloves_meta")


async def test_a_negative_number_is_refused(database: Sql) -> None:
    database.insert("broken", -7)
    await refused(database, r"max_id of the tag 'broken'.*is -7.*UPDATE leaf_alloc")


async def test_a_step_of_nothing_is_refused(database: Sql) -> None:
    database.insert("broken", 7, 0)
    await refused(database, r"step of the tag 'broken'.*is 0.*UPDATE leaf_alloc")


@pytest.mark.parametrize("column", ["max_id", "step", "description", "update_time"])
async def test_a_column_that_is_missing_is_named(empty: Sql, column: str) -> None:
    kept = [line for line in LEAFS_OWN.splitlines() if not line.strip().startswith(column)]
    empty.sql("\n".join(kept))
    await refused(empty, f"no column {column}; add it")


@pytest.mark.parametrize("kind", ["int", "decimal(20, 0)", "varchar(20)", "double precision"])
async def test_a_number_that_is_no_bigint_is_refused(empty: Sql, kind: str) -> None:
    if empty.name == "sqlite" and kind == "int":
        return
    default = "'1'" if kind.startswith("varchar") else "1"
    empty.sql(LEAFS_OWN.replace("max_id bigint NOT NULL DEFAULT 1", f"max_id {kind} NOT NULL DEFAULT {default}"))
    await refused(empty, r"max_id in the table leaf_alloc.* is of type .*make it a signed BIGINT")


async def test_r2_an_unsigned_number_is_refused(maria: Served) -> None:
    maria.sql(LEAFS_OWN.replace("max_id bigint", "max_id bigint unsigned"))
    await refused(maria, "make it a signed BIGINT")


async def test_a_step_or_a_name_of_an_odd_type_is_refused(empty: Sql) -> None:
    empty.sql(LEAFS_OWN.replace("step int", "step varchar(10)"))
    await refused(empty, "step in the table leaf_alloc.* make it an INT")
    empty.sql("DROP TABLE leaf_alloc")
    empty.sql(LEAFS_OWN.replace("biz_tag varchar(128) NOT NULL DEFAULT ''", "biz_tag int NOT NULL DEFAULT 0"))
    await refused(empty, r"biz_tag in the table leaf_alloc.*VARCHAR\(128\)")


async def test_names_without_a_unique_key_are_refused(empty: Sql) -> None:
    table = LEAFS_OWN.replace(",\n  PRIMARY KEY (biz_tag)", "")
    assert "PRIMARY" not in table
    empty.sql(table)
    await refused(empty, r"no unique key.*ADD PRIMARY KEY \(biz_tag\)")
    empty.sql("CREATE UNIQUE INDEX by_name ON leaf_alloc (biz_tag)")
    store = make_store(empty.url, PATIENT)
    await store.open()
    await store.close()


@pytest.mark.parametrize("engine", ["MyISAM", "Aria", "MEMORY"])
async def test_r1_an_engine_without_transactions_is_refused(maria: Served, engine: str) -> None:
    maria.sql(f"{LEAFS_OWN} ENGINE={engine}")
    await refused(maria, f"engine {engine}, which has no transactions.*ENGINE=InnoDB")


async def test_p4_a_mariadb_whose_binary_log_is_not_synced_is_refused(maria: Served) -> None:
    """InnoDB leaves the commit to that log then, and rolls back what it lost."""
    connection = Mock()
    connection.exec_driver_sql.return_value.one.return_value = (1, 1, 0)
    dialect = DIALECTS["mysql"](parse_store_url(maria.url), 5.0)
    with pytest.raises(StoreRefused, match=r"binary log is on and sync_binlog is 0.*Set it to 1.*allow_lost_commits"):
        dialect.prepare(connection, allow_lost_commits=False)
    dialect.prepare(connection, allow_lost_commits=True)
    for settings in ((1, 0, 0), (1, 1, 1), (3, 1, 0)):
        connection.exec_driver_sql.return_value.one.return_value = settings
        dialect.prepare(connection, allow_lost_commits=False)


async def test_p4_a_mariadb_that_loses_commits_is_refused_unless_that_is_meant(maria: Served) -> None:
    await maria.migrate()
    maria.admin("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    try:
        await refused(maria, r"innodb_flush_log_at_trx_commit is 2.*Set it to 1.*allow_lost_commits")
        store = make_store(maria.url, Options(timeout=20, allow_lost_commits=True))
        await store.open()
        await store.close()
    finally:
        maria.admin("SET GLOBAL innodb_flush_log_at_trx_commit = 1")


async def test_p4_durability_that_is_switched_off_later_is_noticed_by_the_next_connection(maria: Served) -> None:
    await maria.migrate()
    store = make_store(maria.url, PATIENT)
    await store.open()
    maria.admin("SET GLOBAL innodb_flush_log_at_trx_commit = 0")
    try:
        store._database._cut_idle()
        with pytest.raises(StoreUnavailable, match="can lose commits"):
            await store.allocate("default", 1)
    finally:
        maria.admin("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    assert await store.allocate("default", 1)
    await store.close()


async def test_p4_postgresql_commits_wait_for_the_disk_whatever_its_configuration_says(postgres: Served) -> None:
    await postgres.migrate()
    postgres.admin(f"ALTER ROLE {USER} SET synchronous_commit = off")
    try:
        store = make_store(postgres.url, PATIENT)
        await store.open()
        setting = "SELECT current_setting('synchronous_commit')"
        assert await store._run(lambda connection: connection.exec_driver_sql(setting).scalar()) == "on"
        await store.close()
        careless = make_store(postgres.url, Options(timeout=20, allow_lost_commits=True))
        await careless.open()
        assert await careless._run(lambda connection: connection.exec_driver_sql(setting).scalar()) == "off"
        await careless.close()
        postgres.admin(f"ALTER ROLE {USER} SET synchronous_commit = remote_apply")
        await store.open()
        assert await store._run(lambda connection: connection.exec_driver_sql(setting).scalar()) == "remote_apply"
        await store.close()
    finally:
        postgres.admin(f"ALTER ROLE {USER} RESET synchronous_commit")


async def test_p4_a_postgresql_without_fsync_is_refused(postgres: Served) -> None:
    await postgres.migrate()
    postgres.server.restart("--fsync=off")
    try:
        await refused(postgres, r"fsync is off.*allow_lost_commits")
    finally:
        postgres.server.restart()


async def test_p4_sqlite_flushes_each_commit(tmp_path: Path) -> None:
    backend = await Sqlite(tmp_path).migrate()
    store = make_store(backend.url, PATIENT)
    await store.open()

    def settings(connection: object) -> list[object]:
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()  # type: ignore[attr-defined]
            for name in ("journal_mode", "synchronous")
        ]

    assert await store._run(settings) == ["wal", 2]
    await store.close()


async def test_a_read_only_mariadb_is_refused(maria: Served) -> None:
    await maria.migrate()
    maria.admin("SET GLOBAL read_only = 1")
    try:
        await refused(maria, r"read-only, as replicas are; name the primary")
    finally:
        maria.admin("SET GLOBAL read_only = 0")


async def test_a_mariadb_that_becomes_read_only_is_left_for_another_connection(maria: Served) -> None:
    await maria.migrate()
    store = make_store(maria.url, PATIENT)
    await store.open()
    await store.allocate("default", 1)
    maria.admin("SET GLOBAL read_only = 1")
    try:
        with pytest.raises(StoreUnavailable, match="read-only"):
            await store.allocate("default", 1)
        assert store._database._idle == []
    finally:
        maria.admin("SET GLOBAL read_only = 0")
    assert (await store.allocate("default", 1)).start == 2
    await store.close()


async def test_a_read_only_postgresql_is_refused(postgres: Served) -> None:
    await postgres.migrate()
    postgres.admin(f"ALTER ROLE {USER} SET default_transaction_read_only = on")
    try:
        await refused(postgres, r"read-only \(default_transaction_read_only is on\)")
    finally:
        postgres.admin(f"ALTER ROLE {USER} RESET default_transaction_read_only")


async def test_a_user_who_may_not_write_is_told_what_to_grant(database: Sql) -> None:
    if not isinstance(database, Served):
        return
    if database.name == "mariadb":
        database.admin(
            f"CREATE USER reader@'%' IDENTIFIED BY 'r'; GRANT SELECT ON `{database.database}`.* TO reader@'%'"
        )
        drop = "DROP USER reader@'%'"
    else:
        database.admin("CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        drop = "DROP OWNED BY reader; DROP ROLE reader"
    try:
        store = make_store(database.server.url(database.database, user="reader", password="r"), PATIENT)
        with pytest.raises(StoreRefused, match=r"does not let us write leaf_alloc.*grant SELECT, INSERT"):
            await store.open()
        with pytest.raises(StoreRefused, match="grant"):
            await make_store(
                database.server.url(Served(database.server).database, user="reader", password="r"), PATIENT
            ).migrate()
        await store.close()
    finally:
        database.admin(drop)


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
async def test_a_wrong_password_or_database_is_told_without_the_password(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    served = await Served(server).migrate()
    assert isinstance(served, Served)
    wrong = make_store(server.url(served.database, password="gues$sed@1"), PATIENT)
    with pytest.raises(StoreRefused, match="check user and password in the store URL") as caught:
        await wrong.open()
    assert "gues" not in str(caught.value)
    missing = make_store(server.url("test_nowhere"), PATIENT)
    with pytest.raises(StoreRefused, match="create the database, or name another one"):
        await missing.open()


async def test_a_full_server_is_unavailable_for_now(postgres: Served) -> None:
    await postgres.migrate()
    postgres.admin(f"ALTER ROLE {USER} CONNECTION LIMIT 0")
    try:
        with pytest.raises(StoreUnavailable, match="too many connections"):
            await make_store(postgres.url, PATIENT).open()
    finally:
        postgres.admin(f"ALTER ROLE {USER} CONNECTION LIMIT -1")


async def test_r2_numbers_are_looked_at_again_when_they_are_used(maria: Served) -> None:
    """The start looks at the first ten thousand rows; this one stands behind them."""
    maria.sql(LEAFS_OWN)
    store = make_store(maria.url, PATIENT)
    await store.open()
    maria.insert("late", -7)
    with pytest.raises(StoreRefused, match=r"max_id of the tag 'late' is -7"):
        await store.allocate("late", 10)
    await store.close()


def test_every_message_names_a_command_or_a_setting() -> None:
    """A refusal without a way out is half a message."""
    source = Path(__file__).parents[2] / "src" / "goloves" / "stores" / "checks.py"
    texts = re.findall(r"raise StoreRefused\((.*?)\n\s*\)", source.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(texts) > 10
    for text in texts:
        assert ";" in text or ":" in text, text
