"""Bit layouts: how an id is put together from time, worker and sequence, and taken apart again.

Rules:
1. An id is a non-negative 63-bit integer. The time field stands highest, so ids sort by time.
2. Below it stand worker and sequence, in the order that the layout names.
3. Time is counted in whole units since the layout's epoch. Before the epoch, and past the last unit that the field
   holds, there is no id: both are refused, never wrapped (SAFETY W2).
4. A layout never changes. Its fingerprint is stored with the space, and a node with another one is refused (W9).
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from goloves.errors import ConfigError, InvalidId, TimeUsedUp

Field = Literal["time", "worker", "sequence"]

LEAF_EPOCH_MS = 1_288_834_974_657
"""Leaf's epoch (and Twitter's): 2010-11-04T01:42:54.657Z."""

SONYFLAKE_EPOCH_MS = 1_735_689_600_000
"""2025-01-01T00:00:00Z, the default epoch of Sonyflake 2."""

JS53_EPOCH_MS = 1_735_689_600_000
"""2025-01-01T00:00:00Z: 2^38 units of 10 ms reach 87 years further, to 2112."""

MAX_EPOCH_MS = 253_402_300_800_000
"""The year 10000: no epoch lies beyond what RFC 3339 can write."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an id says: unit of time, worker, sequence."""

    unix_ms: int
    """Start of the id's unit of time, ms since 1970."""
    units: int
    """Units since the layout's epoch."""
    worker: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A bit layout with its epoch and unit of time; see the module's rules."""

    time_bits: int = 41
    worker_bits: int = 10
    sequence_bits: int = 12
    worker_first: bool = True
    """True: time, worker, sequence (Leaf). False: time, sequence, worker (Sonyflake)."""
    unit_ms: int = 1
    epoch_ms: int = LEAF_EPOCH_MS

    def __post_init__(self) -> None:
        total = self.time_bits + self.worker_bits + self.sequence_bits
        if not 1 <= total <= 63:
            raise ConfigError(f"time, worker and sequence take {total} bits together; an id has at most 63")
        if not 24 <= self.time_bits <= 48:
            raise ConfigError(f"time_bits is {self.time_bits}; between 24 and 48 is possible")
        if not 1 <= self.worker_bits <= 22:
            raise ConfigError(f"worker_bits is {self.worker_bits}; between 1 and 22 is possible")
        if not 1 <= self.sequence_bits <= 24:
            raise ConfigError(f"sequence_bits is {self.sequence_bits}; between 1 and 24 is possible")
        if self.unit_ms not in (1, 10, 100, 1000):
            raise ConfigError(f"unit_ms is {self.unit_ms}; 1, 10, 100 or 1000 is possible")
        if not 0 <= self.epoch_ms < MAX_EPOCH_MS:
            raise ConfigError(f"epoch_ms is {self.epoch_ms}; it is counted in ms since 1970 and before the year 10000")

    @property
    def bits(self) -> int:
        """Bits of an id in this layout."""
        return self.time_bits + self.worker_bits + self.sequence_bits

    @property
    def workers(self) -> int:
        """How many worker ids there are."""
        return 1 << self.worker_bits

    @property
    def sequences(self) -> int:
        """How many ids a worker has in one unit of time."""
        return 1 << self.sequence_bits

    @property
    def end_units(self) -> int:
        """First unit of time past the layout's end."""
        return 1 << self.time_bits

    @property
    def end_unix_ms(self) -> int:
        """First millisecond since 1970 past the layout's end."""
        return self.epoch_ms + self.end_units * self.unit_ms

    @property
    def time_shift(self) -> int:
        """Where the time field begins."""
        return self.worker_bits + self.sequence_bits

    @property
    def worker_shift(self) -> int:
        """Where the worker field begins."""
        return self.sequence_bits if self.worker_first else 0

    @property
    def sequence_shift(self) -> int:
        """Where the sequence field begins."""
        return 0 if self.worker_first else self.worker_bits

    @property
    def fingerprint(self) -> str:
        """64 hex digits that two layouts share only if they number ids alike (SHA-256 over all fields)."""
        order = "time,worker,sequence" if self.worker_first else "time,sequence,worker"
        text = (
            f"goloves layout 1: order={order} time={self.time_bits} worker={self.worker_bits}"
            f" sequence={self.sequence_bits} unit_ms={self.unit_ms} epoch_ms={self.epoch_ms}"
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> str:
        """Say the layout in one line, for messages."""
        fields = ("time", "worker", "sequence") if self.worker_first else ("time", "sequence", "worker")
        widths = {"time": self.time_bits, "worker": self.worker_bits, "sequence": self.sequence_bits}
        order = ", ".join(f"{name} {widths[name]}" for name in fields)
        return f"{order} bits at {self.unit_ms} ms since {self.epoch_ms}"

    def units(self, unix_ms: int) -> int:
        """Give the unit of time in which `unix_ms` lies, counted from the epoch; TimeUsedUp outside the layout."""
        units = (unix_ms - self.epoch_ms) // self.unit_ms
        if units < 0:
            raise TimeUsedUp(f"{unix_ms} ms lies before the layout's epoch {self.epoch_ms} ms; set the clock right")
        if units >= self.end_units:
            raise TimeUsedUp(f"the layout's time ran out at {self.end_unix_ms} ms since 1970; make a new space")
        return units

    def unix_ms(self, units: int) -> int:
        """Give the ms since 1970 at which a unit of time begins."""
        return self.epoch_ms + units * self.unit_ms

    def span_units(self, milliseconds: int) -> int:
        """Give the whole units that cover a span of time, at least 1."""
        return max(1, -(-milliseconds // self.unit_ms))

    def compose(self, units: int, worker: int, sequence: int) -> int:
        """Put an id together; ValueError if a field doesn't fit."""
        if not 0 <= units < self.end_units:
            raise ValueError(f"time {units} does not fit {self.time_bits} bits")
        if not 0 <= worker < self.workers:
            raise ValueError(f"worker {worker} does not fit {self.worker_bits} bits")
        if not 0 <= sequence < self.sequences:
            raise ValueError(f"sequence {sequence} does not fit {self.sequence_bits} bits")
        return units << self.time_shift | worker << self.worker_shift | sequence << self.sequence_shift

    def decode(self, id_: int) -> Decoded:
        """Take an id apart; InvalidId if it is none of this layout (negative, or over its bits)."""
        if id_ < 0:
            raise InvalidId("an id is not negative")
        if id_ >> self.bits:
            raise InvalidId(f"{id_ if id_ < 1 << 64 else 'the id'} has more than the {self.bits} bits of this layout")
        units = id_ >> self.time_shift
        return Decoded(
            unix_ms=self.unix_ms(units),
            units=units,
            worker=id_ >> self.worker_shift & self.workers - 1,
            sequence=id_ >> self.sequence_shift & self.sequences - 1,
        )

    def id_span(self, from_unix_ms: int, to_unix_ms: int) -> range:
        """Give the ids of the units that begin in `[from, to)` as a half-open span, for queries by time.

        Times outside the layout are cut to it.
        """
        first = min(max(-((self.epoch_ms - from_unix_ms) // self.unit_ms), 0), self.end_units)
        last = min(max(-((self.epoch_ms - to_unix_ms) // self.unit_ms), first), self.end_units)
        return range(first << self.time_shift, last << self.time_shift)


PRESETS: dict[str, Layout | None] = {
    "leaf": Layout(),
    "js53": Layout(38, 7, 8, unit_ms=10, epoch_ms=JS53_EPOCH_MS),
    "sonyflake": Layout(39, 16, 8, worker_first=False, unit_ms=10, epoch_ms=SONYFLAKE_EPOCH_MS),
    "uid": None,
}
"""Layouts by name; `uid` (28/22/13 at 1 s) has no epoch of its own, for Baidu's ran out in 2024."""


def preset(name: str, epoch_ms: int | None = None) -> Layout:
    """Give the preset of this name, at another epoch if one is given; ConfigError if there is none."""
    if name not in PRESETS:
        raise ConfigError(f"there is no layout preset {name!r}; there are {', '.join(PRESETS)}")
    base = PRESETS[name]
    if base is None:
        if epoch_ms is None:
            raise ConfigError(f"the layout preset {name!r} asks for an epoch: set epoch_ms (ms since 1970)")
        return Layout(28, 22, 13, unit_ms=1000, epoch_ms=epoch_ms)
    if epoch_ms is None or epoch_ms == base.epoch_ms:
        return base
    return Layout(base.time_bits, base.worker_bits, base.sequence_bits, base.worker_first, base.unit_ms, epoch_ms)
