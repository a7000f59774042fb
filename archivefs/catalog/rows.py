"""The rows that the catalog's answers are made of."""

import functools
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from archivefs import names
from archivefs.catalog.catalog import day_text
from archivefs.parts import Location
from archivefs.states import STATUSES, Status


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
    flat: bytes
    digest: bytes
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
    confidence: float
    members: int
    reports: int

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
        return label(self.captured_ms, zone, self.hex, self.name, self.twin)


def label(captured_ms: int, zone: ZoneInfo, digits: str, name: bytes, twin: int) -> bytes:
    """The name of an entry's directory in every view; ``digits`` are the first six of its SHA-256."""
    return names.entry_label(_clock(captured_ms // 1000, zone), digits, name, twin)


@functools.lru_cache(4)  # entries that are listed one after another were captured so
def _clock(second: int, zone: ZoneInfo) -> bytes:
    """``HHMMSS`` of a Unix time."""
    return names.clock(datetime.fromtimestamp(second, zone))


class Source(NamedTuple):
    """What a view shows of an entry's source."""

    n: int
    day: int
    status_number: int
    size: int
    mtime_ns: int
    segment_id: int
    offset: int
    header: int
    stored: int
    length: int
    members: int

    @property
    def status(self) -> Status:
        """Where the entry stands."""
        return STATUSES[self.status_number]


class MemberRow(NamedTuple):
    """One row of ``members`` without its entry, in the order of the table's columns."""

    ordinal: int
    path: bytes
    mode: int
    size: int
    mtime_ns: int
    offset: int


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
    code: str
    job: int
    promoted: int


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


class CodeRow(NamedTuple):
    """A version of a converter's code as the journal describes it."""

    converter: str
    sha256: str
    size: int
    files: int
    run: str
    distribution: str
    version: str
    seq: int


class Total(NamedTuple):
    """Sums over the entries of one converter and status."""

    converter: str
    status: Status
    entries: int
    size: int
    length: int


def arguments_of(attempt: Attempt) -> dict[str, object]:
    """The arguments of an attempt, decoded."""
    decoded: dict[str, object] = msgspec.json.decode(attempt.arguments)
    return decoded
