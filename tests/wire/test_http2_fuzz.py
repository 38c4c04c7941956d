"""A short run of the fuzzer, counted by executions; `tests/wire/fuzz.py` runs a long one."""

import random

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


def test_the_fuzzer_notices_a_broken_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
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
