"""The tree of errors that Goloves raises.

Rules:
1. The class says what happened; `code` is its stable name in answers, logs and metrics, and never changes.
2. The message says what is wrong and how to mend it, in words for the person who meets it; it holds no secrets.
3. The branch just below `GolovesError` decides the HTTP, gRPC and Leaf status; the tables stand with each server.
4. `retry_after` (seconds) is set where trying again can help, and only there.
"""

from typing import ClassVar


class GolovesError(Exception):
    """Whatever Goloves raises on purpose."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class ConfigError(GolovesError):
    """The configuration can't be used; nothing was started."""

    code = "config"


# --- the request is wrong: 400, INVALID_ARGUMENT ---


class InvalidRequest(GolovesError):
    """The request can't be understood; the same request will fail again."""

    code = "invalid_request"


class InvalidName(InvalidRequest):
    """A tag's or space's name breaks the rules for names."""

    code = "invalid_name"


class InvalidCount(InvalidRequest):
    """`count` or `size` is not a number within its limits."""

    code = "invalid_count"


class InvalidId(InvalidRequest):
    """An id to decode is no id of this layout."""

    code = "invalid_id"


# --- there is no such thing: 404, NOT_FOUND ---


class NotFound(GolovesError):
    """What the request names does not exist."""

    code = "not_found"


class UnknownTag(NotFound):
    """No tag of this name exists in the store."""

    code = "unknown_tag"


class UnknownSpace(NotFound):
    """No space of this name is configured."""

    code = "unknown_space"


# --- not now: 503 with Retry-After, UNAVAILABLE ---


class Unavailable(GolovesError):
    """No id can be given at this moment; trying again later can help."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after: float | None = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class NoRange(Unavailable):
    """The tag's buffer is empty and no refill came before the deadline."""

    code = "no_range"


class NoWindow(Unavailable):
    """The node holds no window of this space in which the present lies."""

    code = "no_window"


class ClockBackwards(Unavailable):
    """The clock stepped back further than `max_backward`."""

    code = "clock_backwards"


class ClockAhead(Unavailable):
    """The clock is ahead of the store's by more than `max_forward`: nothing is claimed or extended (W8)."""

    code = "clock_ahead"


class StoreUnavailable(Unavailable):
    """The store did not do what was asked, for certain: nothing was granted, and the call may be repeated."""

    code = "store_unavailable"


class Locked(StoreUnavailable):
    """Somebody else holds the lock of what was asked for: nothing was granted, and the store is there all the same."""


class UnknownOutcome(Unavailable):
    """The store may or may not have done what was asked: a range is burned, a window is read back (R3, W4)."""

    code = "unknown_outcome"


class StoreWentBackwards(Unavailable):
    """A grant lies below its mark, or the store or tag was halted for it; `goloves repair` mends it (R4, R6)."""

    code = "store_went_backwards"

    def __init__(self, message: str, *, whole_store: bool = False) -> None:
        super().__init__(message, retry_after=60.0)
        self.whole_store = whole_store
        """True if the whole store is halted, not only one tag."""


class NeedsMigration(Unavailable):
    """The store lacks Goloves' own tables; `goloves migrate` makes them."""

    code = "needs_migration"


class ShuttingDown(Unavailable):
    """The node is stopping."""

    code = "shutting_down"


# --- used up: 500, OUT_OF_RANGE ---


class Exhausted(GolovesError):
    """The id space has no number left; no retry helps."""

    code = "exhausted"


class TagUsedUp(Exhausted):
    """The tag has reached its limit."""

    code = "tag_used_up"


class TimeUsedUp(Exhausted):
    """The layout's time field can't express the present: before its epoch or past its end."""

    code = "time_used_up"


# --- too much: 429 with Retry-After, RESOURCE_EXHAUSTED ---


class LimitExceeded(GolovesError):
    """The peer asks for more than it may have now."""

    code = "limit_exceeded"

    def __init__(self, message: str, *, retry_after: float | None = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class OverLayoutRate(LimitExceeded):
    """More ids were asked for than the layout can number (W7)."""

    code = "over_layout_rate"


class TooManyWaiting(LimitExceeded):
    """Too many requests wait for this tag or space already."""

    code = "too_many_waiting"


# --- administration and start-up ---


class TagExists(GolovesError):
    """A tag of this name exists already."""

    code = "tag_exists"


class StoreRefused(GolovesError):
    """The store can't be used as it is (read-only, durability off, wrong schema, …); the message says what to do."""

    code = "store_refused"


class WindowLost(GolovesError):
    """The window's fence has moved on: another node claimed this worker id (rule 2)."""

    code = "window_lost"


class NoWorkerFree(NoWindow):
    """Every worker id that the space allows has a window that is not past yet (W6)."""

    code = "no_worker_free"

    def __init__(self, message: str, *, lowest_floor: int) -> None:
        super().__init__(message)
        self.lowest_floor = lowest_floor
        """First unit of time at which one of them becomes free."""
