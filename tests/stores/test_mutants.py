"""Each mutant of the SQL is noticed: the test that it names fails with it, here by name, within a second or so."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from goloves.errors import GolovesError
from goloves.stores.sql import SqlStore
from stores.mutants import SQL_MUTANTS, Mutant
from stores.test_embedded import machine
from stores.test_guard import opened
from stores.test_leaf_table import leaf, maria
from stores.test_outcomes import proxy, store

__all__ = ["leaf", "machine", "maria", "opened", "proxy", "store"]

KINDS = {"backend", "database", "leaf"}
"""Fixtures that stand for a kind of store each; the others come from `server`."""

FAILED = (AssertionError, pytest.fail.Exception)
"""How a test fails that notices something; any other error is a mutant that is broken itself."""


def _test_of(mutant: Mutant) -> Callable[..., Any]:
    """Give the test; that of a contract as a method of an object."""
    test = mutant.noticed_by
    parameters = list(inspect.signature(test).parameters)
    return functools.partial(test, None) if parameters[:1] == ["self"] else test


def _noticed(name: str, mutant: Mutant) -> Callable[..., Any]:
    """Make a test that takes the fixtures of the mutant's, and holds that it fails."""
    test, given = _test_of(mutant), mutant.given

    async def noticed(**fixtures: Any) -> None:
        stores: list[SqlStore] = []
        whole = SqlStore.__init__

        def made(self: SqlStore, *arguments: Any) -> None:
            whole(self, *arguments)
            stores.append(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SqlStore, "__init__", made)
            mutant.break_it(patch)
            try:
                await test(**fixtures, **given)
            except FAILED:
                return
            except GolovesError as error:
                if type(error) is mutant.fails_with:
                    return
                raise
            finally:
                for each in stores:  # what a test that fails leaves open
                    await each.close()
        pytest.fail(f"{mutant.noticed_by.__name__} did not notice that {name.replace('_', ' ')}")

    signature = inspect.signature(test)
    wanted = [each for each in signature.parameters.values() if each.name not in given]
    noticed.__signature__ = signature.replace(parameters=wanted)  # type: ignore[attr-defined]
    noticed.__name__ = f"test_{name}_is_noticed"
    if not mutant.kinds:
        return noticed
    (fixture,) = KINDS & set(signature.parameters) or {"server"}
    on_each: Callable[..., Any] = pytest.mark.parametrize(fixture, mutant.kinds, indirect=True)(noticed)
    return on_each


for _name, _mutant in SQL_MUTANTS.items():
    globals()[f"test_{_name}_is_noticed"] = _noticed(_name, _mutant)
