"""What stories provoked: a run that provoked too little holds nothing, and fails."""

from collections import Counter
from dataclasses import dataclass, field

from simulation.cluster import Outcome

OFTEN = """pause, suspend, crash, restart, clock step, freeze, drift, copied state, storm, cut, deaf, black hole,
lost answer, lost request, late, later than a window, doubled, refused, hours, restore, lowered, deleted, leaf, halted,
repair, ranges burned, windows lost, windows released, clock jumps, restore while away"""
"""Happens at least once in twenty stories."""

SELDOM = """lost space, deleted by SQL, own row deleted, store clock step, store's clock: none, store's clock: steps,
windows alone, restore at rest, another layout, static beside pooled, restricted worker ids, begin of time, end of time,
failover noticed, workers abandoned"""
"""Happens at least once in a hundred stories, of which there are twelve kinds."""

RARE = """windows adopted, repeated within the bound"""
"""Happens at least once in a thousand stories."""


@dataclass
class Count:
    """Adds up stories."""

    stories: int = 0
    issued: int = 0
    happened: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.stories += 1
        self.issued += outcome.issued
        self.happened += outcome.happened

    def join(self, other: "Count") -> None:
        self.stories += other.stories
        self.issued += other.issued
        self.happened += other.happened

    def missing(self) -> list[str]:
        """Name what hardly happened. Means something from a hundred stories on."""
        least = dict.fromkeys(_names(OFTEN), self.stories // 20)
        least |= dict.fromkeys(_names(SELDOM), self.stories // 100)
        least |= dict.fromkeys(_names(RARE), self.stories // 1000)
        missing = [f"{what} {self.happened[what]}" for what, times in least.items() if self.happened[what] < times]
        return missing if self.issued > self.stories * 1000 else [*missing, f"ids issued {self.issued}"]


def _names(words: str) -> list[str]:
    return words.replace("\n", " ").split(", ")
