"""Counters of the odd branches, plain integers, gathered when somebody asks."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened since the node started."""

    refills: int = 0
    refills_failed: int = 0
    refills_late: int = 0
    """Times a request found the buffer empty and had to wait."""
    ranges_burned: int = 0
    """Allocations whose outcome is unknown (R3)."""
    deadlines_missed: int = 0
    unknown_names: int = 0
    tags_dropped: int = 0
    windows_claimed: int = 0
    windows_extended: int = 0
    windows_lost: int = 0
    windows_adopted: int = 0
    """Claims with an unknown outcome that turned out to be ours (W4)."""
    windows_released: int = 0
    workers_abandoned: int = 0
    """Worker ids given up because the clock stepped back too far (W8)."""
    clock_jumps: int = 0
    clock_ahead: int = 0
    store_went_backwards: int = 0
