"""What a test of faults stands on: a store with its tables, its witness, and the server that it runs on, if any."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from databases import USER, Server
from faults.ledger import Ledger
from faults.nodes import Cluster
from faults.witness import Witness
from goloves.core.layout import Layout
from stores.backends import Served, Sql, Sqlite

TAGS = ("default", "order")
"""What load draws from unless a test says otherwise."""

BRISK = """
[segment]
max_step = 2000
refresh = 1

[spaces.default]
window = 20
"""
"""Settings under which things happen soon: small ranges, so that each node refills some times a second under load and a
store that is away is felt within a second or two, and windows that are extended every two seconds."""


HASTY = """
[segment]
max_step = 2000
refresh = 1

[snowflake]
max_backward = 0.5
max_forward = 0.5

[spaces.default]
window = 2
"""
"""Besides, windows so short that the pause after a repair, which outlasts whatever window there was, is over soon."""


@dataclass
class Ground:
    """A store that a test can do things to."""

    backend: Sql
    witness: Witness

    @property
    def url(self) -> str:
        """The store's URL."""
        return self.backend.url

    @property
    def server(self) -> Server:
        """The server that the store runs on."""
        assert isinstance(self.backend, Served), f"{self.backend.name} has no server"
        return self.backend.server

    @property
    def file(self) -> Path:
        """The file that the store is in."""
        assert isinstance(self.backend, Sqlite), f"{self.backend.name} is no file"
        return self.backend.file

    @property
    def embedded(self) -> bool:
        """Whether it is a file and not a server."""
        return isinstance(self.backend, Sqlite)

    def through(self, port: int) -> str:
        """Give the store's URL by way of another port."""
        return self.url.replace(f":{self.server.port}/", f":{port}/")

    def sql(self, statement: str) -> str:
        """Run SQL as administrator; the answer is tab-separated, without headings."""
        return self.backend.sql(statement)

    def check(
        self,
        ledger: Ledger,
        cluster: Cluster,
        *,
        at_least: int = 10_000,
        layouts: Mapping[str, Layout] | None = None,
        set_back: bool = False,
    ) -> None:
        """Hold what clients received against what the store granted."""
        ledger.check(self.witness.gather(), cluster.lives, layouts, at_least=at_least, set_back=set_back)


def prepared(backend: Sql) -> Ground:
    """Give a store its tables, the tags of a test and a witness."""
    asyncio.run(backend.make().migrate())
    backend.insert("order", 1, 100)
    witness = Witness(backend)
    witness.install()
    return Ground(backend, witness)


LEAF_TABLE = {
    "mariadb": "CREATE TABLE leaf_alloc (biz_tag varchar(128) NOT NULL DEFAULT '',"
    " max_id bigint(20) NOT NULL DEFAULT '1', step int(11) NOT NULL, description varchar(256) DEFAULT NULL,"
    " update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, PRIMARY KEY (biz_tag))"
    " ENGINE=InnoDB",
    "postgresql": "CREATE TABLE leaf_alloc (biz_tag varchar(128) PRIMARY KEY, max_id bigint NOT NULL DEFAULT 1,"
    " step int NOT NULL, description varchar(256), update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP);"
    f" GRANT ALL ON leaf_alloc TO {USER}",
}
"""Leaf's own table, as its guide has it, and in PostgreSQL's words."""


def leaf_only(server: Server) -> Ground:
    """Give a database that has Leaf's table and nothing of ours."""
    backend = Served(server)
    backend.sql(LEAF_TABLE[server.name])
    for tag in TAGS:
        backend.insert(tag, 1, 100)
    witness = Witness(backend)
    witness.install(windows=False)
    return Ground(backend, witness)
