"""What holds for every test: in CI a test that can't run is a failure, so that nothing is left out unnoticed.

Generated examples are the same in every run, so that a failure can be had again.
"""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

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
