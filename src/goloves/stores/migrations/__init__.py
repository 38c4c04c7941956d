"""The form of the tables, and how it came about: alembic's migrations.

`upgrade` alone imports alembic; a node never does.

Rules:
1. A migration only adds, and can be run again after it broke off: MySQL commits each DDL statement by itself.
2. A table that was Leaf's keeps its form and gets no tag named `default` (P7).
"""

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest form, in the transaction of `connection`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "goloves.stores:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
