"""An archive to test with; and no error may be logged that a test did not announce."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_parts import Clock, make

from archivefs.archive import Archive


@pytest.fixture
def clock() -> Clock:
    """Stands at noon of 13 February 2026, UTC."""
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the archive is made."""
    return tmp_path / "archive"


@pytest.fixture
def archive(root: Path, clock: Clock) -> Iterator[Archive]:
    """A new archive with the converters ict, log (keeps no reports) and files (archive only)."""
    with make(root, clock) as archive:
        yield archive


@pytest.fixture
def expected_errors() -> list[str]:
    """Beginnings of log messages of level ERROR that a test announces."""
    return []


@pytest.fixture(autouse=True)
def _no_unexpected_errors(caplog: pytest.LogCaptureFixture, expected_errors: list[str]) -> Iterator[None]:
    yield
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [each for each in errors if not each.startswith(tuple(expected_errors))] == []
