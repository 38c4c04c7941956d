"""How what reflection says is loaded. What it says is held by grpcio's own client in `test_grpc_ids.py`."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from goloves.server.grpc import reflection

PATIENCE = 30.0


async def test_it_is_loaded_once_though_whoever_asked_first_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, loads = threading.Event(), threading.Event(), []

    def slow(names: Iterable[str]) -> Any:
        loads.append(names)
        begun.set()
        assert go_on.wait(PATIENCE)
        return SimpleNamespace(answer=lambda version, request: b"told")

    monkeypatch.setattr(reflection, "_open", slow)
    method = reflection.Reflection([]).services()[0].methods["ServerReflectionInfo"]

    async def ask() -> list[bytes]:
        async def once() -> AsyncIterator[bytes]:
            yield b""

        assert method.streaming is not None
        return [answer async for answer in method.streaming(once(), None)]  # type: ignore[arg-type]

    first = asyncio.create_task(ask())
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    first.cancel()
    second = asyncio.create_task(ask())
    await asyncio.wait([first])
    go_on.set()
    assert await second == [b"told"]
    assert await ask() == [b"told"]
    assert len(loads) == 1


async def test_a_load_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []

    def failing(names: Iterable[str]) -> Any:
        loads.append(names)
        if len(loads) == 1:
            raise OSError("no more memory")
        return SimpleNamespace(answer=lambda version, request: b"told")

    monkeypatch.setattr(reflection, "_open", failing)
    method = reflection.Reflection([]).services()[0].methods["ServerReflectionInfo"]

    async def once() -> AsyncIterator[bytes]:
        yield b""

    assert method.streaming is not None
    with pytest.raises(OSError, match="no more memory"):
        await anext(aiter(method.streaming(once(), None)))  # type: ignore[arg-type]
    assert await anext(aiter(method.streaming(once(), None))) == b"told"  # type: ignore[arg-type]
