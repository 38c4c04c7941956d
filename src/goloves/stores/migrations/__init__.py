"""The form of the tables, and how it came about: alembic's migrations.

`upgrade` alone imports alembic; a node never does.

Rules:
1. A migration only adds, and can be run again after it broke off: MySQL commits each DDL statement by itself.
2. What a migration adds, code of the version before can leave alone (a column has a default): nodes of both versions
   work on one store. One that does more raises `LEAST`, and with it those nodes can't start any more.
3. A table that was Leaf's keeps its form and gets no tag named `default` (P7).
"""

from sqlalchemy import Connection, column, inspect, select, table

from goloves.stores import schema

LEAST = "0001"
"""The revision that a Goloves has to know at least to use the newest tables."""


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest form, in the transaction of `connection`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "goloves.stores:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    _note_least(connection)


def _note_least(connection: Connection) -> None:
    """Say in the store who may use it; the end of a migration, without which nobody does.

    The first versions of Goloves let alembic keep the revision in this table, and compare it with the one they know.
    """
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from sqlalchemy import Column, String, Text

    least = table(schema.LEAST_TABLE, column("version_num", String))
    if not inspect(connection).has_table(schema.LEAST_TABLE):
        Operations(MigrationContext.configure(connection)).create_table(
            schema.LEAST_TABLE,
            Column("version_num", String(32).with_variant(Text(), "sqlite"), primary_key=True),
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
        )
    if connection.execute(select(least.c.version_num)).first() is None:
        connection.execute(least.insert().values(version_num=LEAST))
    connection.execute(least.update().where(least.c.version_num < LEAST).values(version_num=LEAST))
