"""The next number by Starlette: `uvicorn starlette_app:app` with this directory on the path."""

from itertools import count

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

next_id = count(1).__next__


async def segment(request: Request) -> PlainTextResponse:
    assert request.path_params["tag"]
    return PlainTextResponse(str(next_id()))


app = Starlette(routes=[Route("/api/segment/get/{tag}", segment)])
