from databases import mariadb, postgresql
from system.serving import start

__all__ = ["mariadb", "postgresql", "start"]
