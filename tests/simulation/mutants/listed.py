"""The list of mutants, and what they are made of."""

import json
import types
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest import MonkeyPatch

from simulation.story import kind_of

TELLING = Path(__file__).with_name("telling.json")
"""By mutant: a seed whose story noticed it soon when that was last looked at (`__main__.py`)."""


@dataclass(frozen=True)
class Mutant:
    """How something is broken, and in which kinds of stories that shows; their seeds are played first."""

    break_it: Callable[[MonkeyPatch], None]
    kinds: tuple[str, ...]


MUTANTS: dict[str, Mutant] = {}


def in_telling_order(name: str, seeds: Iterable[int]) -> list[int]:
    """Give all of the seeds: first the one that noticed this mutant last, then those of its kinds, then the others."""
    first = json.loads(TELLING.read_text(encoding="utf-8")).get(name)
    kinds = MUTANTS[name].kinds
    return sorted(seeds, key=lambda seed: (seed != first, kind_of(seed).name not in kinds, seed))


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
