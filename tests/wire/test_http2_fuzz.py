"""A short run of the fuzzer, counted by executions; `tests/wire/fuzz.py` runs a long one."""

import random
import time
from pathlib import Path

import pytest

from wire.fuzz import CORPUS, TARGETS, Fuzzer

EXECUTIONS = 3000


@pytest.mark.parametrize("name", TARGETS)
def test_no_damage_makes_the_wire_raise_or_break_a_limit(name: str) -> None:
    fuzzer = Fuzzer(name, random.Random(20_260_101))
    begun = len(fuzzer.known)
    assert len(list((CORPUS / name).iterdir())) >= 10
    while fuzzer.executions < EXECUTIONS:
        fuzzer.step()
    assert begun > 8


def test_the_fuzzer_notices_a_broken_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fragile(piece: bytes) -> int:
        if b"\xff" in piece:
            raise IndexError
        return len(piece) % 3

    fuzzer = Fuzzer("messages", random.Random(1))
    monkeypatch.setitem(TARGETS, "messages", fragile)
    monkeypatch.setattr("wire.fuzz.CORPUS", tmp_path)
    with pytest.raises(IndexError):
        for _ in range(10_000):
            fuzzer.step()


def test_the_fuzzer_notices_an_input_that_takes_too_long_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = 0.0
    pauses = [10.0]

    def slow(piece: bytes) -> int:
        nonlocal now
        now += 1e-6 * len(piece) ** 2 + (pauses.pop() if pauses else 0)
        return 0

    fuzzer = Fuzzer("messages", random.Random(1))
    monkeypatch.setitem(TARGETS, "messages", slow)
    monkeypatch.setattr("wire.fuzz.CORPUS", tmp_path)
    monkeypatch.setattr(time, "thread_time", lambda: now)
    fuzzer.run(bytes(100))
    assert not pauses
    with pytest.raises(AssertionError, match="1000 octets took"):
        fuzzer.run(bytes(1000))
    assert [kept.read_bytes() for kept in tmp_path.glob("*/*")] == [bytes(1000)]
