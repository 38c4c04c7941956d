"""Hundreds of stories a run, and that each mutant is noticed within as many."""

import gc
import logging
from collections.abc import Iterator

import pytest

from simulation.cluster import play, quiet
from simulation.counting import Count
from simulation.mutants import MUTANTS
from simulation.mutants.listed import in_telling_order
from simulation.story import KINDS

CHUNKS = 20
SEEDS_PER_CHUNK = 100
SEEDS = range(CHUNKS * SEEDS_PER_CHUNK)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Nothing is logged, and no line for a log is put into words: more stories in the same time."""
    quiet()
    yield
    logging.disable(logging.NOTSET)
    gc.unfreeze()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_story_issues_an_id_twice(chunk: int) -> None:
    count = Count()
    for seed in SEEDS[chunk * SEEDS_PER_CHUNK : (chunk + 1) * SEEDS_PER_CHUNK]:
        count.add(play(seed))
    assert count.missing() == []


def test_a_seed_replays_exactly() -> None:
    first, second = play(7), play(7)
    assert first.story == second.story
    assert (first.issued, first.happened) == (second.issued, second.happened)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the seeds that the test above runs, those that are most likely to notice it before the others."""
    mutant = MUTANTS[name]
    assert set(mutant.kinds) <= {kind.name for kind in KINDS}
    mutant.break_it(monkeypatch)
    for seed in in_telling_order(name, SEEDS):
        try:
            play(seed)
        except AssertionError:
            return
    pytest.fail(f"{len(SEEDS)} stories did not notice that {name.replace('_', ' ')}")
