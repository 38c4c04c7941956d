"""The control plane's HTTP application, on `admin.listen`.

    GET /healthz   200 while the supervisor runs; says what is not as it should be
    GET /readyz    200 while at least one node can serve, else 503 with the reasons
    GET /nodes     each node: process, stage, readiness, connections, counters; and the counters of all together

It reads and changes nothing. Where a token is set, who does not show it (`Authorization: Bearer …`) learns the status
of `/healthz` and `/readyz` alone, which probes need, and nothing of `/nodes`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from goloves import __version__
from goloves.admin.access import Access

NO_STORE = {"Cache-Control": "no-store"}


class Watched(Protocol):
    """What the control plane tells about: the supervisor."""

    def readiness(self) -> list[str]:
        """Say why ids can't be had; empty if they can."""

    def troubles(self) -> list[str]:
        """Say what is not as it should be, though ids may be had."""

    async def gather(self) -> None:
        """Let all nodes tell what they have counted."""

    def nodes(self) -> list[dict[str, Any]]:
        """Describe each node."""

    def counters(self) -> dict[str, int]:
        """Add up what all nodes counted."""


def make_app(watched: Watched, access: Access) -> Starlette:
    """Make the application."""

    def allowed(request: Request) -> bool:
        return access.allows(request.headers.get("authorization"))

    async def healthz(request: Request) -> JSONResponse:
        troubles = watched.troubles()
        more = {"reasons": troubles, **_nodes(watched)} if allowed(request) else {}
        return _json({"status": "degraded" if troubles else "ok", **more})

    async def readyz(request: Request) -> JSONResponse:
        reasons = watched.readiness()
        more = {"reasons": reasons or watched.troubles(), **_nodes(watched)} if allowed(request) else {}
        return _json({"status": "not ready" if reasons else "ready", **more}, 503 if reasons else 200)

    async def nodes(request: Request) -> JSONResponse:
        if not allowed(request):
            refused = _json({"status": "this takes the token: Authorization: Bearer …"}, 401)
            refused.headers["WWW-Authenticate"] = 'Bearer realm="goloves"'
            return refused
        await watched.gather()
        return _json({"version": __version__, "nodes": watched.nodes(), "counters": watched.counters()})

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/nodes", nodes)])


def _nodes(watched: Watched) -> dict[str, Any]:
    shown = ("node", "pid", "stage", "ready", "reasons")
    return {"nodes": [{name: node[name] for name in shown} for node in watched.nodes()]}


def _json(body: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(body, status_code=status, headers=NO_STORE)


class ControlPlane:
    """Serves the application on listeners that stay their owner's."""

    def __init__(self, watched: Watched, access: Access, listeners: list[socket.socket]) -> None:
        self._listeners = [listener.dup() for listener in listeners]
        config = uvicorn.Config(
            make_app(watched, access),
            loop="none",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            limit_concurrency=256,  # monitors are a handful; the supervisor's time is not for more
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve."""
        if self._listeners:
            self._task = asyncio.create_task(self._server.serve(sockets=self._listeners))

    async def stop(self) -> None:
        """Serve no more."""
        if self._task is None:
            return
        self._server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for listener in self._listeners:
            listener.close()


class _Server(uvicorn.Server):
    """Signals are the supervisor's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
