"""A store that became another: the identity of its server is remembered, and compared at each new connection (R7).

Rules:
1. What a server is called is kept in the store; how far its log had come, in this process. A change of the one or a
   step back of the other means that commits may be lost.
2. `halt` (the default) halts the store until `goloves repair`; `skip` goes on above a gap, which has to be larger than
   what can have been granted meanwhile; `ignore` is for proxies that answer with one server of a cluster or another.
3. A skip ends every window as well: what nodes hold they use to its end, and claim anew above the gap.
4. This sees a failover. It does not see a rollback of the same server while no node was connected: the nodes' own marks
   do, and where there are none, nothing does.
"""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import BigInteger, Connection, literal, select, update
from sqlalchemy.exc import DBAPIError

from goloves.logger import get_logger
from goloves.stores import schema
from goloves.stores.base import FENCES_SKIPPED
from goloves.stores.dialects import Dialect, Server

log = get_logger("goloves.store")

Policy = Literal["halt", "skip", "ignore"]


@dataclass(frozen=True)
class Skip:
    """How far `skip` goes on above what the store says."""

    numbers: int = 1_000_000
    """Numbers that each tag leaves out: the largest step that a refill takes by itself."""
    time_ms: int = 1_200_000
    """Time that each space leaves out from the present on: two of the longest usual windows, 10 minutes each."""
    forward_ms: int = 10_000
    """How far a node's clock may be ahead. A space of which longer windows were claimed leaves out one and this."""


class Failover:
    """Watches over the identity of one store's server; see the module's rules."""

    def __init__(self, dialect: Dialect, policy: Policy, skip: Skip) -> None:
        self._dialect = dialect
        self._policy = policy
        self._skip = skip
        self._seen: Server | None = None
        self._hidden = False
        self.migrated = False
        """Goloves' own tables exist."""
        self.own_halt = ""
        """Why this node grants nothing where the store has no place for a halt (R4)."""

    def meet(self, connection: Connection) -> None:
        """Look at the server behind a new connection, and act if it is another one."""
        before = self._seen  # held before the question was sent: two answers may cross
        server = self.look(connection)
        if server is None:
            return
        if self.migrated:
            difference = self._compare(connection, server, before)
        else:
            difference = self._difference(server, "", before)
            self._act_alone(difference)
        seen = self._seen
        if difference or seen is None or seen.name != server.name or seen.position < server.position:
            self._seen = server

    def accept(self, connection: Connection) -> None:
        """Take the present server for the known one: the first part of a repair's last transaction."""
        server = self.look(connection)
        if server is not None:
            connection.execute(update(schema.meta).where(schema.meta.c.id == schema.META_ID).values(server=server.name))
            self._seen = server

    def look(self, connection: Connection) -> Server | None:
        """Say which server this is, None if there is none or it doesn't tell; ends the transaction under way."""
        if self._dialect.embedded:
            return None
        try:
            return self._dialect.server(connection)
        except DBAPIError as error:
            hides = self._policy == "ignore" or self._dialect.code(error) in self._dialect.hides
            if error.connection_invalidated or not hides:
                raise  # no word about what it is, so nothing may be granted there yet
            if not self._hidden:
                self._hidden = True
                log.warning(
                    "the server does not tell what it is: a failover is not noticed",
                    store=self._dialect.url.address,
                    reason=self._dialect.words(error),
                )
            return None
        finally:
            if not connection.invalidated:
                connection.rollback()

    def _compare(self, connection: Connection, server: Server, before: Server | None) -> str:
        if self._policy == "ignore":
            return ""  # and note nothing: nodes with another policy have to notice it
        table = schema.meta
        row = connection.execute(select(*table.c).where(table.c.id == schema.META_ID)).one()
        difference = self._difference(server, row.server, before)
        if row.server == server.name and not difference:
            connection.rollback()
            return ""
        row = connection.execute(select(*table.c).where(table.c.id == schema.META_ID).with_for_update()).one()
        difference = self._difference(server, row.server, before)
        values: dict[str, object] = {"server": server.name}
        if difference:
            log.critical(
                "the store became another", what=difference, failover=self._policy, store=self._dialect.url.address
            )
            if self._policy == "halt":
                values = {"halt": row.halt or difference[: schema.MAX_REASON]}
            elif self._policy == "skip":
                values["skipped"] = row.skipped + self._skip.numbers
                self._skip_time(connection)
        connection.execute(update(table).where(table.c.id == schema.META_ID).values(values))
        connection.commit()
        return difference

    def _skip_time(self, connection: Connection) -> None:
        table, skip = schema.space, self._skip
        present = (self._dialect.clock_ms() - table.c.epoch_ms) // table.c.unit_ms
        usual, longest = (literal(ms, BigInteger) // table.c.unit_ms + 1 for ms in (skip.time_ms, skip.forward_ms))
        floor = present + self._dialect.greatest(usual, table.c.longest + longest)
        connection.execute(update(table).values(floor=self._dialect.greatest(table.c.floor, floor)))
        end_windows(connection)

    def _act_alone(self, difference: str) -> None:
        """Where only Leaf's table exists, there is nothing to skip or to halt but this node."""
        if not difference:
            return
        log.critical(
            "the store became another", what=difference, failover=self._policy, store=self._dialect.url.address
        )
        if self._policy != "ignore":
            self.own_halt = self.own_halt or difference

    def _difference(self, server: Server, known: str, before: Server | None) -> str:
        if self._policy == "ignore":
            return ""
        if not known and before is not None:
            known = before.name  # a copy that is older than the first look at the server has not noted any
        if known and server.name != known:
            return f"the server is {server.name}, it was {known}; commits may have been lost in between"
        if before is not None and before.name == server.name and server.position < before.position:
            return (
                f"the log of the server {server.name} stands at {server.position}, this node saw {before.position};"
                " it was set back"
            )
        return ""


def end_windows(connection: Connection, space: str | None = None) -> None:
    """End every window, of one space or of all, by fences above whatever was claimed and forgotten since.

    Worker ids whose rows are missing count too: their first claim may be what was forgotten.
    """
    worker, spaces = schema.worker, schema.space
    windows = update(worker).values(fence=worker.c.fence + FENCES_SKIPPED, nonce="")
    unused = update(spaces).values(fence=spaces.c.fence + FENCES_SKIPPED)
    connection.execute(windows if space is None else windows.where(worker.c.space == space))
    connection.execute(unused if space is None else unused.where(spaces.c.name == space))
