"""`make simulate SEEDS=20000`: many stories, on all cores. One that fails is told, with the seed that replays it."""

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import structlog

from simulation.cluster import play

PART = 50
"""Seeds that a process plays before it is asked again."""


def play_part(seeds: range) -> tuple[int, Counter[str], list[str]]:
    """Play some stories: how many ids they issued, what happened, and what went wrong."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    issued, happened, wrong = 0, Counter[str](), []
    for seed in seeds:
        try:
            outcome = play(seed)
        except Exception as error:
            wrong.append("\n".join([f"{type(error).__name__}: {error}", *error.__notes__]))
            continue
        issued += outcome.issued
        happened += outcome.happened
    return issued, happened, wrong


def main(first: int, count: int) -> int:
    """Play `count` stories from the seed `first` on; the exit code is 1 if one of them failed."""
    parts = [range(at, min(at + PART, first + count)) for at in range(first, first + count, PART)]
    issued, happened, failed = 0, Counter[str](), 0
    with ProcessPoolExecutor() as processes:
        for number, (ids, what, wrong) in enumerate(processes.map(play_part, parts), 1):
            issued += ids
            happened += what
            failed += len(wrong)
            sys.stdout.writelines(f"{story}\n" for story in wrong)
            if number % 20 == 0 or number == len(parts):
                sys.stdout.write(f"{parts[number - 1].stop - first} stories, {issued} ids, {failed} failed\n")
                sys.stdout.flush()
    often = [f"{what} {times}" for what, times in happened.most_common() if not any(map(str.isdigit, what))]
    sys.stdout.write(f"faults: {', '.join(often)}\n")
    return 1 if failed or not issued else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
