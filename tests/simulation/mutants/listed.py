"""The list of mutants, and what they are made of."""

import types
from collections.abc import Callable, Generator
from dataclasses import dataclass

from pytest import MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """How something is broken, and in which kinds of stories that shows; their seeds are played first."""

    break_it: Callable[[MonkeyPatch], None]
    kinds: tuple[str, ...]


MUTANTS: dict[str, Mutant] = {}


def mutant(*kinds: str) -> Callable[[Callable[[MonkeyPatch], None]], Callable[[MonkeyPatch], None]]:
    """Enter a mutant into the list, under its name."""

    def enter(break_it: Callable[[MonkeyPatch], None]) -> Callable[[MonkeyPatch], None]:
        MUTANTS[break_it.__name__] = Mutant(break_it, kinds)
        return break_it

    return enter


@types.coroutine
def meanwhile() -> Generator[None, None, None]:
    """Break a store's transaction in two: others come in between, for 3 ms."""
    yield
