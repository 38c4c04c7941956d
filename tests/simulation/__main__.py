"""`make simulate SEEDS=20000`: many stories, on all cores. One that fails is told, with the seed that replays it."""

import sys
from concurrent.futures import ProcessPoolExecutor

from simulation.cluster import play, quiet
from simulation.counting import Count

PART = 50
"""Seeds that a process plays before it is asked again."""

ENOUGH = 100
"""Stories from which on it is a failure if a fault hardly ever happened."""


def play_part(seeds: range) -> tuple[Count, list[str]]:
    """Play some stories: what they came to, and what went wrong."""
    quiet()
    count, wrong = Count(), []
    for seed in seeds:
        try:
            count.add(play(seed))
        except Exception as error:
            wrong.append("\n".join([f"{type(error).__name__}: {error}", *error.__notes__]))
    return count, wrong


def main(first: int, stories: int, processes: int | None) -> int:
    """Play so many stories from the seed `first` on; the exit code is 1 if one failed, or too little happened."""
    parts = [range(at, min(at + PART, first + stories)) for at in range(first, first + stories, PART)]
    total, failed = Count(), 0
    with ProcessPoolExecutor(processes) as pool:
        for number, (count, wrong) in enumerate(pool.map(play_part, parts), 1):
            total.join(count)
            failed += len(wrong)
            sys.stdout.writelines(f"{story}\n" for story in wrong)
            if number % 20 == 0 or number == len(parts):
                sys.stdout.write(f"{parts[number - 1].stop - first} stories, {total.issued} ids, {failed} failed\n")
                sys.stdout.flush()
    sys.stdout.write(f"happened: {', '.join(f'{what} {times}' for what, times in total.happened.most_common())}\n")
    missing = total.missing() if stories >= ENOUGH else []
    sys.stdout.writelines(f"hardly ever happened: {what}\n" for what in missing)
    return 1 if failed or missing or not total.issued else 0


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    sys.exit(main(words[1] if len(words) > 1 else 0, words[0] if words else 2000, words[2] if len(words) > 2 else None))
