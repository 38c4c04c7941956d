"""Hundreds of stories a run, and that each mutant is noticed within as many."""

import sys
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog

from simulation.cluster import play
from simulation.mutants import MUTANTS

CHUNKS = 20
SEEDS_PER_CHUNK = 100

FAULTS = """pause, crash, restart, clock step, lost answer, lost request, late, doubled, refused, restore, lowered,
deleted, deleted by SQL, leaf, copied state, halted, repair"""


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Nothing is logged and nothing traced (for coverage): three times as many stories in the same time."""
    configured, trace = structlog.get_config(), sys.gettrace()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    sys.settrace(None)
    yield
    sys.settrace(trace)
    structlog.configure(**configured)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_story_issues_an_id_twice(chunk: int) -> None:
    happened: Counter[str] = Counter()
    issued = 0
    for seed in range(chunk * SEEDS_PER_CHUNK, (chunk + 1) * SEEDS_PER_CHUNK):
        outcome = play(seed)
        happened += outcome.happened
        issued += outcome.issued
    assert issued > SEEDS_PER_CHUNK * 1000
    for fault in FAULTS.replace("\n", " ").split(", "):
        assert happened[fault] >= SEEDS_PER_CHUNK // 10, f"{fault} hardly ever happened"


def test_a_seed_replays_exactly() -> None:
    first, second = play(7), play(7)
    assert first.story == second.story
    assert (first.issued, first.happened) == (second.issued, second.happened)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the seeds that the test above runs; the seed after which it was noticed is no more than a hint."""
    MUTANTS[name](monkeypatch)
    for seed in range(CHUNKS * SEEDS_PER_CHUNK):
        try:
            play(seed)
        except AssertionError:
            return
    pytest.fail(f"{CHUNKS * SEEDS_PER_CHUNK} stories did not notice that {name.replace('_', ' ')}")
