"""Counters of the odd branches, plain integers, gathered when somebody asks."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened since the node started."""

    refills: int = 0
    """Ranges that came into a buffer."""
    refills_failed: int = 0
    """Attempts that brought no range."""
    refills_late: int = 0
    """Times a request found the buffer empty and had to wait."""
    ranges_burned: int = 0
    """Allocations whose outcome is unknown (R3), and those that came while the store was halted."""
    deadlines_missed: int = 0
    """Requests that got no id, or no word about their tag, in time."""
    unknown_names: int = 0
    """Tags that were asked for and are not in the store."""
    tags_dropped: int = 0
    """Tags in use that exist no more."""
    windows_claimed: int = 0
    windows_extended: int = 0
    windows_lost: int = 0
    """Extensions refused because the worker id is another node's by now, or a repair ended the window (W3)."""
    windows_adopted: int = 0
    """Claims with an unknown outcome that turned out to be ours (W4)."""
    windows_released: int = 0
    workers_abandoned: int = 0
    """Worker ids given up because the clock stepped back too far (W8)."""
    clock_jumps: int = 0
    """Jumps of the system's clock, held off until they were confirmed."""
    clock_ahead: int = 0
    """Claims and extensions left out because the clock is ahead of the store's (W8)."""
    store_went_backwards: int = 0
    """Times that the store, or a tag, was found set back or halted (R4, R6)."""
