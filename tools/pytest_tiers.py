"""Knows that the folders of tests build on each other: after one with a failure, the next are not run.

It also keeps pytest's own summary for tools/test, whose last line it becomes.
"""

from collections.abc import Generator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that tools/test gives."""
    parser.addoption("--summary-to", type=Path, help="write the last line of pytest to this file as well")


def tier(item: pytest.Item) -> str:
    """Returns the folder of a test: tests/unit, tests/archive, ..."""
    return "/".join(item.nodeid.split("/")[:2])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Ends the run between two folders if the first of them has failures."""
    result = yield
    if nextitem is not None and tier(nextitem) != tier(item) and item.session.testsfailed:
        item.session.shouldfail = f"{tier(item)} failed, so {tier(nextitem)} was not run"
    return result


def pytest_unconfigure(config: pytest.Config) -> None:
    """Writes the summary: "431 passed, 2 skipped"."""
    path = config.getoption("--summary-to")
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if path is not None and reporter is not None:
        parts, _ = reporter.build_summary_stats_line()
        path.write_text(", ".join(text for text, _ in parts) + "\n")
