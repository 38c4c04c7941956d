"""What a refill says to a database: few statements, made once, and what comes back with them is the grant."""

import asyncio
import random
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.sql.elements import BinaryExpression

from goloves.core.grants import Range
from goloves.core.layout import Layout
from goloves.stores.base import Claim, Space
from goloves.stores.sql import SqlStore
from stores.backends import Served, Sql
from stores.test_drivers import opened

AUDIT = (
    "CREATE TABLE audit (id BIGINT AUTO_INCREMENT PRIMARY KEY, at DATETIME) AUTO_INCREMENT = 5000000;"
    "CREATE TRIGGER audited AFTER UPDATE ON leaf_alloc FOR EACH ROW INSERT INTO audit (at) VALUES (now());"
)
"""What an operator may have put beside the table, at numbers that no range has reached."""


class Said:
    """Counts what is said to the database, and the comparisons that are made to say it."""

    def __init__(self, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        self.made = 0
        event.listen(store._database._engine, "before_cursor_execute", self._note)
        make = BinaryExpression.__init__

        def count(*arguments: Any, **named: Any) -> None:
            self.made += 1
            make(*arguments, **named)

        monkeypatch.setattr(BinaryExpression, "__init__", count)

    def _note(self, connection: Connection, cursor: object, statement: str, *_: object) -> None:
        self.statements.append(statement.split()[0])

    def forget(self) -> None:
        """Begin anew."""
        self.statements.clear()
        self.made = 0


async def test_a_refill_is_three_statements_that_are_made_once(database: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(database)
    said = Said(store, monkeypatch)
    assert await store.allocate("default", 10) == Range("default", 1, 11)
    assert said.made > 0, "nothing is counted"
    said.forget()
    assert await store.allocate("default", 10) == Range("default", 11, 21)
    assert said.statements == [*["BEGIN"] * store._dialect.embedded, "SELECT", "UPDATE", "UPDATE"]
    assert said.made == 0, "each refill makes its statements anew"


async def test_others_have_their_turn_between_the_making_of_a_statement_and_its_sending(database: Sql) -> None:
    if database.name == "sqlite":
        return  # it has a thread of its own
    store = await opened(database)
    turns: list[None] = []
    had: list[int] = []

    def made(*_: object) -> None:
        asyncio.get_running_loop().call_soon(turns.append, None)

    event.listen(store._database._engine, "before_execute", made)
    event.listen(store._database._engine, "before_cursor_execute", lambda *_: had.append(len(turns)))
    await store.allocate("default", 10)
    assert had == [1, 2, 3]


async def test_an_extension_is_two_statements_that_are_made_once(
    database: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(database)
    layout = Layout()
    space = Space("default", layout)
    await store.open_space(space)
    window = await store.claim(Claim(space, 1000, 100, "a" * 32, "me", random.Random(1)))
    window = await store.extend(window, window.end + 100)
    said = Said(store, monkeypatch)
    assert (await store.extend(window, window.end + 100)).end == window.end + 100
    assert said.statements == [*["BEGIN"] * store._dialect.embedded, "SELECT", "UPDATE"]
    assert said.made == 0, "each extension makes its statements anew"


async def test_r1_what_a_trigger_inserts_is_not_taken_for_the_number_that_was_raised(database: Sql) -> None:
    if database.name != "mariadb":
        return  # the others return the number itself
    assert isinstance(database, Served)
    database.admin(AUDIT)
    first, second = [await database.node() for _ in range(2)]
    granted = [await node.allocate("default", 10) for node in (first, second, first)]
    assert [each.start for each in granted] == [1, 11, 21]
    assert database.sql("SELECT COUNT(*) FROM audit WHERE id >= 5000000").strip() == "3"


async def test_r1_a_number_that_leaf_moves_in_the_middle_is_granted_from_where_it_stands(
    database: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.name == "sqlite":
        return  # one transaction at a time: nothing comes between
    store = await opened(database)
    raise_number = store._dialect.raise_number

    def moved(*arguments: Any) -> int | None:
        database.set_number("default", 501)
        return raise_number(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store._dialect, "raise_number", moved)
        assert await store.allocate("default", 10) == Range("default", 501, 511)
    assert await store.allocate("default", 10) == Range("default", 511, 521)
