"""Which error becomes which status: this table, and nothing else, decides."""

from typing import Final

from goloves.errors import Exhausted, GolovesError, InvalidRequest, LimitExceeded, NotFound, Unavailable
from goloves.wire.grpc import CallError, Status
from goloves.wire.messages import error_details

STATUS: Final[tuple[tuple[type[GolovesError], Status], ...]] = (
    (InvalidRequest, Status.INVALID_ARGUMENT),
    (NotFound, Status.NOT_FOUND),
    (LimitExceeded, Status.RESOURCE_EXHAUSTED),
    (Exhausted, Status.OUT_OF_RANGE),
    (Unavailable, Status.UNAVAILABLE),
    (GolovesError, Status.INTERNAL),
)
"""The first that fits decides."""


def call_error(error: GolovesError) -> CallError:
    """Give the status that an error becomes, with its stable code, and when to try again where that can help."""
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    details = error_details(status, error.message, error.code, error.retry_after)
    return CallError(status, error.message, details=details, retry_after=error.retry_after)
