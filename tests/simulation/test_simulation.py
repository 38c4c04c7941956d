"""Thousands of stories, and that a story tells the same twice."""

from collections import Counter

import pytest

from simulation.cluster import play

CHUNKS = 10
SEEDS_PER_CHUNK = 30


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_story_issues_an_id_twice(chunk: int) -> None:
    happened: Counter[str] = Counter()
    issued = 0
    for seed in range(chunk * SEEDS_PER_CHUNK, (chunk + 1) * SEEDS_PER_CHUNK):
        outcome = play(seed)
        happened += outcome.happened
        issued += outcome.issued
    assert issued > SEEDS_PER_CHUNK * 1000
    for fault in (
        "pause",
        "crash",
        "restart",
        "clock step",
        "lost answer",
        "lost request",
        "late",
        "doubled",
        "refused",
    ):
        assert happened[fault] > SEEDS_PER_CHUNK // 10, f"{fault} hardly ever happened"


def test_a_seed_replays_exactly() -> None:
    first, second = play(7), play(7)
    assert first.story == second.story
    assert (first.issued, first.happened) == (second.issued, second.happened)
