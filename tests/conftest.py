"""Fixtures for every test, and the list of those skipped for want of a program."""

from __future__ import annotations

import asyncio.constants
import traceback

import pytest
from hypothesis import settings

from tests.programs import NEEDS

# how long an example takes says more about the machine than about the code; pytest's timeout bounds each test
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# In development mode asyncio records where each future, task and handle was made: of the former all the stack, pytest's
# own forty frames included, which took more time than the tests that make many. The innermost few tell where it was.
STACK = 5
traceback.extract_stack.__defaults__ = (None, STACK)  # what is called without a limit, as futures do in C
asyncio.constants.DEBUG_STACK_DEPTH = STACK  # type: ignore[misc]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List, program by program, the tests that were skipped for want of one."""
    skipped: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if reason.startswith(NEEDS):
            skipped.setdefault(reason.removeprefix(NEEDS), []).append(report.nodeid)
    if skipped:
        terminalreporter.section("not run for want of a program")
    for program, tests in sorted(skipped.items()):
        terminalreporter.write_line(program)
        for test in tests:
            terminalreporter.write_line(f"    {test}")
