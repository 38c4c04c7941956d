"""The configuration: one frozen `Config`; every field says what breaks if it is wrong. Times are seconds unless named."""

from typing import Literal

import msgspec


class SegmentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[segment]: ranges and their refills."""

    deadline: float = 0.2
    """How long a request waits for a refill before it gets 503. Too low: errors at each hiccup; too high: callers pile up."""
    target: float = 900.0
    """How long a range should last: a shorter-lived one doubles the next step, one that lasted over twice this halves it."""
    max_step: int = 1_000_000
    """The step grows no further by itself. Higher: fewer refills, larger gaps after a restart."""
    default_step: int = 1000
    """Step of tags that `auto_create` makes."""
    auto_create: bool = False
    """Create a tag at its first use. With it, a typo in a client makes a new sequence."""
    refresh: float = 60.0
    """How often the tags in use are read again: changed steps, deleted tags and new marks are noticed within this time."""
    max_waiting: int = 10_000
    """Requests that may wait for one tag at once; the next one gets 429."""


class SnowflakeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[snowflake]: windows and clocks, for all spaces."""

    deadline: float = 0.2
    """How long a request waits for a window or for the clock before it gets 503 or 429."""
    max_backward: float = 10.0
    """A clock that steps back by up to this is ridden out; beyond it the node takes another worker id."""
    max_forward: float = 10.0
    """A clock that is ahead of the store's by more than this claims and extends nothing."""


class SpaceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[spaces.NAME]: one Snowflake id space. Its layout and epoch can never change once ids were issued."""

    preset: Literal["leaf", "js53", "sonyflake", "uid"] = "leaf"
    """The bit layout; the single fields below override it."""
    epoch_ms: int | None = None
    """Epoch, ms since 1970. Another epoch than the one that the ids were made with makes decoding wrong."""
    time_bits: int | None = None
    worker_bits: int | None = None
    sequence_bits: int | None = None
    unit_ms: int | None = None
    worker_first: bool | None = None
    """Order of the lower fields: true is time, worker, sequence (Leaf), false is time, sequence, worker (Sonyflake)."""
    window: float = 600.0
    """How long a window is. The store can be away for nine tenths of it; after a crash the worker id rests for as long."""
