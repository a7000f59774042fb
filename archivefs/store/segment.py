"""Segments: the ``*.zst`` files under content/, appended record by record.

A segment is named ``YYYY/MM/DD/CONVERTER.sources.zst`` (or ``.reports.``). One that must not be appended to
any more is followed by ``CONVERTER.sources.2.zst`` and so on. All frames of a segment that need a dictionary
need the same one, which every header names: so ``zstd -D`` decompresses the whole file.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from archivefs.errors import ContentDamagedError
from archivefs.parts import Location
from archivefs.store import frames
from archivefs.store.durable import open_append, write_all
from archivefs.store.frames import (
    HEADER_MAGIC,
    HOLE_MAGIC,
    SKIPPABLE,
    TABLE_MAGIC,
    Encoded,
    FrameTable,
    RecordHeader,
)


class SegmentWriter:
    """One segment open for appending: it ended at ``start`` when opened, the next record goes to ``end``.

    ``dictionary`` is the name of the one that its frames may need, None where the segment begins with
    damage, so that nobody can say. Not thread-safe: only one thread uses it.
    """

    def __init__(self, content_dir: Path, name: str, dictionary: str) -> None:
        """Open or create the segment; ``dictionary`` is that of a new one. Raises ``OSError``."""
        self.name = name
        self.dirty = False
        self._fd = open_append(content_dir / name, content_dir)
        try:
            self.start = self.end = self.synced = os.fstat(self._fd).st_size
            first = first_header(content_dir / name) if self.start else None
        except OSError:
            os.close(self._fd)
            raise
        self.dictionary = first.dictionary if first else None if self.start else dictionary

    def takes(self, content: Encoded) -> bool:
        """Whether a record of this content may stand in this segment."""
        return self.dictionary is not None and content.dictionary in ("", self.dictionary)

    def append(self, header: RecordHeader, content: Encoded) -> Location:
        """Write one record behind the last. Not durable before ``sync``; on ``OSError`` call ``cut``."""
        start = self.end
        assert self.dictionary is not None
        header = msgspec.structs.replace(header, stored=content.stored, dictionary=self.dictionary)
        head, check = frames.header_frame(header)
        table = frames.table_frame(check, content.frames)
        self.dirty = True
        if content.stored <= frames.PIECE_BYTES:
            write_all(self._fd, b"".join((head, *content.pieces(), table)))
        else:
            write_all(self._fd, head)
            for piece in content.pieces():
                write_all(self._fd, piece)
            write_all(self._fd, table)
        length = len(head) + content.stored + len(table)
        self.end = start + length
        return Location(
            segment=self.name, offset=start, header=len(head), stored=content.stored, length=length
        )

    def cut(self, end: int) -> None:
        """Take back what was written behind ``end``. Raises ``OSError``."""
        os.ftruncate(self._fd, end)
        self.end = end
        self.synced = min(self.synced, end)

    def sync(self) -> None:
        """Make everything appended durable. After an ``OSError`` the tail must not be trusted."""
        if self.dirty:
            os.fdatasync(self._fd)
            self.dirty = False
            self.synced = self.end

    def close(self) -> None:
        """Close the file; what was not synced stays so."""
        os.close(self._fd)


def first_header(path: Path) -> RecordHeader | None:
    """The first header of a segment, None where there is none. Raises ``OSError``."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = _behind_holes(file.fileno(), 0, size)
        payload = _skippable(file.fileno(), start, HEADER_MAGIC, size)
    try:
        return None if payload is None else frames.parse_header(payload)
    except ContentDamagedError:
        return None


class ScannedRecord(NamedTuple):
    """A whole record found by reading a segment: header, place and frame table."""

    header: RecordHeader
    location: Location
    table: FrameTable


def scan(path: Path, name: str, start: int = 0, opened: int | None = None) -> Iterator[ScannedRecord]:
    """The whole records of a segment from ``start`` on; ends at what is neither one nor a hole.

    Reads headers and tables only. Where the last record ends the trustworthy part ends. ``opened``: a
    descriptor of the file that the caller has already.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if opened is None else opened
    try:
        size, at = os.fstat(fd).st_size, start
        while at < size:
            record = _scan_one(fd, name, at, size)
            if record is None:
                behind = _behind_holes(fd, at, size)
                if behind > at:
                    at = behind
                    continue
                return
            yield record
            at = record.location.offset + record.location.length
    finally:
        if opened is None:
            os.close(fd)


class Gap(NamedTuple):
    """A stretch of a segment that is no whole record."""

    offset: int
    length: int


def scan_damaged(path: Path, name: str) -> Iterator[ScannedRecord | Gap]:
    """All whole records of a segment, also those behind damage; what lies between them as gaps.

    Behind a damaged record the next one is found by the magic number of its header.
    """
    magic = SKIPPABLE.pack(HEADER_MAGIC, 0)[:4]
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size, at, gap = len(data), 0, -1
        while at < size:
            record = _scan_one(file.fileno(), name, at, size)
            if record is not None:
                if gap >= 0:
                    yield Gap(gap, at - gap)
                    gap = -1
                yield record
                at = record.location.offset + record.location.length
                continue
            behind = _behind_holes(file.fileno(), at, size)
            if behind > at and gap < 0:
                at = behind
                continue
            gap = at if gap < 0 else gap
            found = data.find(magic, at + 1)
            at = size if found < 0 else found
        if gap >= 0:
            yield Gap(gap, size - gap)


def _skippable(fd: int, at: int, magic: int, size: int) -> bytes | None:
    """The payload of the skippable frame at ``at``, None where none of that magic is whole."""
    prefix = os.pread(fd, SKIPPABLE.size, at)
    if len(prefix) < SKIPPABLE.size:
        return None
    found, length = SKIPPABLE.unpack(prefix)
    if found != magic or at + SKIPPABLE.size + length > size:
        return None
    return os.pread(fd, length, at + SKIPPABLE.size)


def _behind_holes(fd: int, at: int, size: int) -> int:
    """Where the holes end that begin at ``at``; ``at`` where none does."""
    while at < size:
        prefix = os.pread(fd, SKIPPABLE.size, at)
        magic, length = SKIPPABLE.unpack(prefix) if len(prefix) == SKIPPABLE.size else (0, 0)
        if magic != HOLE_MAGIC or at + SKIPPABLE.size + length > size:
            break
        at += SKIPPABLE.size + length
    return at


def _scan_one(fd: int, name: str, at: int, size: int) -> ScannedRecord | None:
    payload = _skippable(fd, at, HEADER_MAGIC, size)
    if payload is None:
        return None
    try:
        header = frames.parse_header(payload)
    except ContentDamagedError:
        return None
    head = SKIPPABLE.size + len(payload)
    closing = _skippable(fd, at + head + header.stored, TABLE_MAGIC, size)
    if closing is None:
        return None
    try:
        table = frames.parse_table(closing, header.stored)
    except ContentDamagedError:
        return None
    if table.header != frames.header_check(payload) or sum(table.frames) != header.stored:
        return None
    if not table.fits(header.size):
        return None
    length = head + header.stored + SKIPPABLE.size + len(closing)
    location = Location(segment=name, offset=at, header=head, stored=header.stored, length=length)
    return ScannedRecord(header, location, table)
