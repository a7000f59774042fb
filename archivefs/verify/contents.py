"""Checks of the segments: every record's header, frames, table and SHA-256, and against the catalog."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from archivefs.archive import Archive
from archivefs.catalog.rows import Record
from archivefs.errors import DictionaryError
from archivefs.store import dictionaries as dictionary_files
from archivefs.store.dictionaries import Dictionaries, file_of
from archivefs.store.recovery import segment_names
from archivefs.verify.findings import Finding, Severity
from archivefs.verify.records import RESTORE, Fault, confirmed, fault_of, missing, opened, record_finding

RESTORE_DICTIONARY = "restore the file from a backup; without it those contents cannot be read"


CHUNK_RECORDS, CHUNK_BYTES = 2000, 64 << 20
"""Where a segment is cut, so that processors share it: after so many records, or bytes of content."""


class Chunk(NamedTuple):
    """Records that stand one after the other in a segment; those before them end at ``start``.

    ``end``: where the segment must end, 0 where that is not looked at.
    """

    segment: str
    records: Sequence[Record]
    start: int
    end: int


class SegmentResult(NamedTuple):
    """What reading a chunk gave; ``lacking``: how many records need a dictionary that cannot be used."""

    records: int
    bytes: int
    findings: list[Finding]
    lacking: Counter[str]


def chunks(segment: str, records: Sequence[Record], segment_end: int) -> Iterator[Chunk]:
    """The records of a segment (in the order of offset) as work for several processors.

    ``segment_end``: where the journal says that it ends, 0 while somebody appends.
    """
    first, size, start, end = 0, 0, 0, 0
    for index, record in enumerate(records):
        if index - first == CHUNK_RECORDS or (size and size + record.size > CHUNK_BYTES):
            yield Chunk(segment, records[first:index], start, 0)
            first, size, start = index, 0, end
        size += record.size
        end = max(end, record.offset + record.length)
    if records:
        yield Chunk(segment, records[first:], start, segment_end)


def check_names(archive: Archive, *, mounted: bool) -> list[Finding]:
    """Segments that are missing, and files that the catalog does not know.

    While somebody writes, a file that is not known may just have been begun.
    """
    content_dir = archive.root / "content"
    before = archive.reader.segment_ends().keys()
    found = set(segment_names(content_dir))
    known = archive.reader.segment_ends().keys()
    # Not one that a repack removed meanwhile.
    lost = [missing(name) for name in sorted((before & known) - found)]
    extra = [
        Finding(
            Severity.WARNING, "segment-unknown", f"content/{name}", "the journal knows nothing of this file",
            "open the archive once (any command): its whole records become entries, the rest is kept aside",
        )
        for name in sorted(found - known if not mounted else ())
        if (content_dir / name).stat().st_size
    ]  # fmt: skip
    return lost + extra


def check_lost(archive: Archive) -> list[Finding]:
    """Entries of which opening the archive has found that the disk does not have their content."""
    return [
        Finding(
            Severity.CRITICAL, "content-lost", f"content/{archive.reader.location(entry).segment}",
            f"{entry.id}: the file ends before its record", RESTORE,
        )
        for entry in archive.reader.lost()
    ]  # fmt: skip


def check_outbox(archive: Archive) -> list[Finding]:
    """Reports that wait for delivery and cannot be read any more."""
    return [
        Finding(
            Severity.ERROR, "report-lost", "outbox",
            f"{item.id}: report {item.ordinal} of attempt {item.attempt} waits for delivery by"
            f" {item.converter}, and its content is not on the disk",
            f"convert the source again, or give the report up: archivefs outbox --drop {item.id}",
        )
        for item in archive.reader.outbox.lost()
    ]  # fmt: skip


def check_dictionaries(archive: Archive, lacking: Mapping[str, int], *, mounted: bool) -> list[Finding]:
    """Files that are missing, not what the journal says, or that it does not know.

    ``lacking``: how many records turned out to need which in vain. While somebody writes, a file that is not
    known may just have been made.
    """
    found, there = list[Finding](), archive.content.dictionaries.names()
    known = {row.name: row.sha256 for row in archive.reader.dictionaries()}
    folder = archive.root / "dictionaries"
    for name in sorted({*known, *lacking}):
        need = f"{lacking.get(name, 0)} of the records that were read need it"
        try:
            dictionary_files.read(folder, name, known.get(name, ""))
        except DictionaryError as error:
            if name not in there:
                what = f"the file is missing; {need}"
                found.append(
                    Finding(Severity.CRITICAL, "dictionary-missing", file_of(name), what, RESTORE_DICTIONARY)
                )
                continue
            what = f"{error}; {need}"
        else:
            if name not in lacking:
                continue
            what = f"it could not be read; {need}"
        found.append(
            Finding(Severity.CRITICAL, "dictionary-damaged", file_of(name), what, RESTORE_DICTIONARY)
        )
    return found + [
        Finding(
            Severity.NOTICE, "dictionary-unknown", file_of(name), "the journal knows nothing of this file",
            "nothing needs it that is there: archivefs stopped when it had just been made",
        )
        for name in sorted(set(there) - known.keys() if not mounted else ())
    ]  # fmt: skip


def check_chunk(root: Path, chunk: Chunk, dictionaries: Dictionaries) -> SegmentResult:
    """Read records front to back. May run in any thread or process. Raises ``CatalogError``, ``OSError``.

    What seems to be wrong is reported where the catalog still says that the record stands there.
    """
    name, path, findings = chunk.segment, root / "content" / chunk.segment, list[Finding]()
    try:
        with opened(path) as fd:
            found = (fault_of(fd, path, name, record, dictionaries) for record in chunk.records)
            faults = [*_overlapping(chunk), *(fault for fault in found if fault is not None)]
            size = os.fstat(fd).st_size
    except FileNotFoundError:  # removed since it was listed, with its records elsewhere; or it is lost
        faults, size = [Fault(name, record, missing(name)) for record in chunk.records], 0
    lacking, unread = Counter[str](), list[Record]()
    for fault in confirmed(root, faults, dictionaries) if faults else ():
        if fault.finding is None:
            lacking[fault.lacking] += 1
            continue
        if fault.finding == missing(fault.segment):
            unread.append(fault.record)
        if fault.finding not in findings[-1:]:  # a missing segment is told once
            findings.append(fault.finding)
    if 0 < chunk.end < size:
        findings.append(
            Finding(
                Severity.WARNING, "segment-tail", f"content/{name}",
                f"{size - chunk.end} bytes behind the last record that the journal knows",
                "open the archive once (any command): whole records become entries, others are kept",
            )
        )  # fmt: skip
    read = sum(record.size for record in chunk.records) - sum(record.size for record in unread)
    return SegmentResult(len(chunk.records) - len(unread), read, findings, lacking)


def _overlapping(chunk: Chunk) -> Iterator[Fault]:
    end = chunk.start
    for record in chunk.records:
        if record.offset < end:
            what = "it overlaps the record before it"
            found = record_finding("record-overlap", chunk.segment, record, what, RESTORE)
            yield Fault(chunk.segment, record, found)
        end = max(end, record.offset + record.length)
