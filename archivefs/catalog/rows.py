"""The rows that the catalog's answers are made of."""

from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from archivefs import names
from archivefs.catalog.catalog import day_text
from archivefs.events import STATUSES, Location, Status


class Entry(NamedTuple):
    """One row of ``entries``, in the order of the table's columns (schema.sql says what each is)."""

    n: int
    id: str
    converter_id: int
    day: int
    status_number: int
    name: bytes
    folder: bytes
    flat_name: bytes
    twin: int
    hex: str
    sha256: str
    size: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    captured_ms: int
    reason: str
    xattrs: str
    superseded_by: str
    due_ms: int
    attempts: int
    changed_seq: int
    segment_id: int
    offset: int
    header: int
    stored: int
    length: int

    @property
    def status(self) -> Status:
        """Where the entry stands."""
        return STATUSES[self.status_number]

    @property
    def day_text(self) -> str:
        """``YYYY-MM-DD``."""
        return day_text(self.day)

    def label(self, zone: ZoneInfo) -> bytes:
        """The name of its directory in every view."""
        local = datetime.fromtimestamp(self.captured_ms / 1000, UTC).astimezone(zone)
        return names.entry_label(local, self.sha256, self.name, self.twin)


class Attempt(NamedTuple):
    """One row of ``attempts``, in the order of the table's columns."""

    n: int
    attempt: int
    cause: str
    outcome: str
    started_ms: int
    duration_ms: int
    version: str
    arguments: str
    error: str
    warnings: str


class Stored(NamedTuple):
    """One row of ``contents``; ``location`` is None where the content was not kept."""

    n: int
    attempt: int
    ordinal: int
    name: str
    size: int
    sha256: str
    location: Location | None


class Record(NamedTuple):
    """A record that a segment must hold."""

    id: str
    offset: int
    length: int
    size: int
    sha256: str
    attempt: int
    ordinal: int


class DictionaryRow(NamedTuple):
    """A dictionary as the journal describes it."""

    number: int
    name: str
    converter: str
    content: str
    samples: int
    size: int
    sha256: str
    day: str
    seq: int


class Total(NamedTuple):
    """Sums over the entries of one converter, day and status."""

    converter: str
    day: int
    status: Status
    entries: int
    size: int
    length: int


def arguments_of(attempt: Attempt) -> dict[str, object]:
    """The arguments of an attempt, decoded."""
    decoded: dict[str, object] = msgspec.json.decode(attempt.arguments)
    return decoded
