"""Fixtures of the tests of the journal."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_parts import Clock

from archivefs.store.journal import Journal


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    journal = Journal(tmp_path, clock)
    yield journal
    journal.close()
