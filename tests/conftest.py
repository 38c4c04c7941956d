"""What holds for every test: in CI a test that can't run is a failure, so that nothing is left out unnoticed.

Generated examples are the same in every run, so that a failure can be had again.

A run takes as long as its last test: the rooms with tests of many seconds come first, so that at the end only short
ones are left to share out.
"""

import contextlib
import importlib
import io
import logging
import os
import pkgutil
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOMS = Path(__file__).parent

LONG = ("faults", "simulation", "system", "deploy", "supervisor", "conformance")
"""Rooms with tests of many seconds, the longest first."""

UNCOVERED = frozenset(
    {"bench", "conformance", "deploy", "faults", "server", "simulation", "supervisor", "system", "wire"}
)
"""Rooms whose tests are not counted for coverage, nor are the nodes that they start: they play much, load much or start
hundreds of processes, which tracing makes slower, up to several times, and hardly reach a line that is held to the bar
and that the others don't reach. Processes that the other rooms start count."""

COVERED = ("goloves.core", "goloves.service", "goloves.stores")
"""What is counted."""

settings.register_profile("stable", derandomize=True, deadline=None)
settings.load_profile("stable")

SKIPS_ALLOWED_IN_CI: frozenset[str] = frozenset()
"""Reasons of skips, word for word, that CI accepts: each one needs a reason that holds on every machine of CI."""


def _fail_if_left_out(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if reason.removeprefix("Skipped: ") not in SKIPS_ALLOWED_IN_CI:
        report.outcome = "failed"
        report.longrepr = f"CI runs every test, and this one was left out: {reason}"


def _room(item: pytest.Item) -> str:
    inside = item.path.relative_to(ROOMS).parts
    return inside[0] if len(inside) > 1 else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long rooms first, and mark those that are not counted."""
    places = {room: place for place, room in enumerate(LONG)}
    items.sort(key=lambda item: places.get(_room(item), len(LONG)))
    for item in items:
        if _room(item) in UNCOVERED:
            item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the processes that an uncounted test starts know nothing of coverage."""
    counting = "COVERAGE_PROCESS_CONFIG"
    told = os.environ.pop(counting, None) if _room(item) in UNCOVERED else None
    try:
        return (yield)
    finally:
        if told is not None:
            os.environ[counting] = told


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    tracing, of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        threading.settrace(of_threads)
        sys.settrace(tracing)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let coverage see what it counts being loaded, and not the loading of all tests, which tracing makes take twice as
    long in each process."""
    for name in COVERED:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__, f"{name}."):
            importlib.import_module(module.name)
    with _untraced():
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Let nothing trace an uncounted test.

    In a process that shares the work (xdist) coverage runs twice: as pytest-cov's, which heeds the mark, and as a
    process that somebody started, which does not, and traces by a function in Python once the other has stopped.
    """
    if _room(item) not in UNCOVERED:
        return (yield)
    with _untraced():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look at each test's outcome."""
    report = yield
    _fail_if_left_out(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Look at modules that leave themselves out."""
    report = yield
    _fail_if_left_out(report)
    return report


@pytest.fixture
def said() -> Iterator[Callable[[], str]]:
    """Give what the program logged in this process since this was asked last, fields and all."""
    stream = io.StringIO()
    handler, logger = logging.StreamHandler(stream), logging.getLogger("goloves")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)

    def read() -> str:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return text

    yield read
    logger.removeHandler(handler)
    logger.setLevel(level)
