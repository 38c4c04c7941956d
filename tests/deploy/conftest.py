from databases import mariadb

__all__ = ["mariadb"]
