"""What is wrong with a configuration: all of it at once, each with its place."""

from dataclasses import dataclass

from goloves.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    source: str
    """Where it was said: `goloves.toml:12`, a variable, a flag; empty if nowhere in particular."""
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.message}" if self.source else self.message


class ConfigProblems(ConfigError):
    """The configuration can't be used; the message names every problem, one a line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=_line))
        super().__init__("\n".join(map(str, self.problems)))


def _line(problem: Problem) -> float:
    """Sort what stands in the file by its lines, and put the rest after it."""
    line = problem.source.rpartition(":")[2]
    return int(line) if line.isdecimal() else float("inf")
