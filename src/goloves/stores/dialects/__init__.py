"""What differs between SQLite, MySQL with MariaDB, and PostgreSQL in connections, statements and errors.

Each dialect knows how to connect and prepare a connection so that it can be trusted (P4), how a transaction begins,
the few statements that are written differently, and what its errors mean for the outcome of a transaction. Once COMMIT
was sent, only the few codes of `commit_aborts` say that nothing happened; anything else is unknown (R3).
"""

from goloves.stores.dialects.dialect import TAG, Dialect, Server, Verdict
from goloves.stores.dialects.mysql import MySql
from goloves.stores.dialects.postgres import Postgres
from goloves.stores.dialects.sqlite import Sqlite

__all__ = ["DIALECTS", "TAG", "Dialect", "MySql", "Postgres", "Server", "Sqlite", "Verdict"]

DIALECTS: dict[str, type[Dialect]] = {dialect.name: dialect for dialect in (Sqlite, MySql, Postgres)}
