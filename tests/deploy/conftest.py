from databases import mariadb
from system.serving import start

__all__ = ["mariadb", "start"]
