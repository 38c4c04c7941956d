"""The next number by RSGI, granian's own interface and its fastest: `granian --interface rsgi granian_app:app`."""

from itertools import count
from typing import Any

next_id = count(1).__next__
PREFIX = "/api/segment/get/"
HEADERS = [("content-type", "text/plain")]


async def app(scope: Any, protocol: Any) -> None:
    if scope.path.startswith(PREFIX) and len(scope.path) > len(PREFIX):
        protocol.response_str(200, HEADERS, str(next_id()))
    else:
        protocol.response_empty(404, [])
