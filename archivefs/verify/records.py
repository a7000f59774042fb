"""What is wrong with a record, and whether it still stands where it was read: a purge or a repack may work.

These note in the journal and the catalog what they do before they touch a byte. So where bytes are not as
they should be and the catalog, asked after that, still says that the record stands there, it is damaged.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from archivefs.catalog.catalog import VOID_REASON
from archivefs.catalog.reader import Reader
from archivefs.catalog.rows import Record
from archivefs.errors import ContentDamagedError, DictionaryError
from archivefs.rebuilding import CATALOG
from archivefs.store import frames
from archivefs.store.dictionaries import Dictionaries
from archivefs.store.segment import ScannedRecord, scan
from archivefs.verify.findings import Finding, Severity

RESTORE = "restore the file from a backup; the entries in it can still be listed"


class Fault(NamedTuple):
    """What seems to be wrong with a record; ``lacking``: the dictionary that it needs in vain, or ''."""

    segment: str
    record: Record
    finding: Finding | None
    lacking: str = ""


def missing(segment: str) -> Finding:
    """The finding for a segment that is not there."""
    return Finding(Severity.CRITICAL, "segment-missing", f"content/{segment}", "the file is missing", RESTORE)


def record_finding(check: str, segment: str, record: Record, what: str, remedy: str) -> Finding:
    """A critical finding about a record."""
    where = f"content/{segment} at {record.offset}"
    return Finding(Severity.CRITICAL, check, where, f"{record.id}: {what}", remedy)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor for reading. Raises ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def confirmed(root: Path, faults: Iterable[Fault], dictionaries: Dictionaries) -> Iterator[Fault]:
    """Those that are so. A record that was purged meanwhile has none; one that was moved is read there.

    Raises ``CatalogError``, ``OSError``.
    """
    with contextlib.closing(Reader.open(root / CATALOG)) as reader:
        for each in faults:
            fault: Fault | None = each
            while fault is not None:
                place = _place(reader, fault.record)
                if place is None:
                    break
                if (place[0], place[1].offset) == (fault.segment, fault.record.offset):
                    yield fault
                    break
                fault = _fault_at(root / "content", *place, dictionaries)


def _place(reader: Reader, record: Record) -> tuple[str, Record] | None:
    """The segment in which a record must stand now, and where; None where it must stand in none."""
    entry = reader.by_id(record.id)
    if entry is None:
        return None
    if not record.attempt:
        is_there = entry.segment_id and entry.reason != VOID_REASON
        location = reader.location(entry) if is_there else None
    else:
        found = (each for each in reader.contents(entry.n)
                 if (each.attempt, each.ordinal) == (record.attempt, record.ordinal))  # fmt: skip
        location = next((each.location for each in found), None)
    if location is None:
        return None
    return location.segment, record._replace(offset=location.offset, length=location.length)


def _fault_at(content_dir: Path, segment: str, record: Record, dictionaries: Dictionaries) -> Fault | None:
    try:
        with opened(content_dir / segment) as fd:
            return fault_of(fd, content_dir / segment, segment, record, dictionaries)
    except FileNotFoundError:
        return Fault(segment, record, missing(segment))


def fault_of(fd: int, path: Path, segment: str, record: Record, dictionaries: Dictionaries) -> Fault | None:
    """What seems wrong with a record: header, table, frames' checksums, the SHA-256, the catalog's row."""
    try:
        found = _finding_of(fd, path, segment, record, dictionaries)
    except DictionaryError as error:
        return Fault(segment, record, None, error.name)
    return None if found is None else Fault(segment, record, found)


def _finding_of(
    fd: int, path: Path, segment: str, record: Record, dictionaries: Dictionaries
) -> Finding | None:
    """Raises ``DictionaryError`` where the dictionary that its header names is at fault."""
    found: ScannedRecord | None = next(scan(path, segment, record.offset, fd), None)
    if found is None or (found.location.offset, found.location.length) != (record.offset, record.length):
        return record_finding(
            "record-damaged", segment, record, "its header or frame table is damaged", RESTORE
        )
    header = found.header
    digest, at = hashlib.sha256(), record.offset + found.location.header
    try:
        for index, length in enumerate(found.table.frames):
            size = frames.bytes_in_frame(header.size, found.table.frame_size, index)
            digest.update(frames.decompress(os.pread(fd, length, at), size, dictionaries))
            at += length
    except (ContentDamagedError, OSError) as error:
        if isinstance(error, DictionaryError) and error.name and error.name == header.dictionary:
            raise
        return record_finding("record-damaged", segment, record, str(error), RESTORE)
    if digest.hexdigest() != header.sha256:
        return record_finding("record-damaged", segment, record, "its content's SHA-256 is another", RESTORE)
    if (header.id, header.size, header.sha256) != (record.id, record.size, record.sha256):
        what = (
            f"the record is of {header.id}, {header.size} bytes, {header.sha256}; the catalog says otherwise"
        )
        remedy = "see whether catalog-differs is reported too: archivefs verify --repair"
        return record_finding("record-differs", segment, record, what, remedy)._replace(
            severity=Severity.ERROR
        )
    return None
