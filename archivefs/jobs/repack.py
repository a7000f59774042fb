"""Repacking: the records of finished days written again, as small as can be, and proven before the old go.

The order is the promise: a new segment is written beside the old ones, synced, read back and compared with
every SHA-256; then it gets its name, the journal says where the records stand, and then the old files go.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archivefs.archive import Archive
from archivefs.catalog.reader import Record
from archivefs.errors import ContentDamagedError
from archivefs.events import Location, Move
from archivefs.jobs import dictionaries
from archivefs.operations import AddDictionary, MoveRecords, NewSegment, RemoveSegments
from archivefs.query import Query
from archivefs.store import recovery
from archivefs.store.dictionaries import Dictionary
from archivefs.store.durable import sync_dir
from archivefs.store.frames import Encoded, RecordHeader, encode_pieces
from archivefs.store.segment import SegmentWriter, scan
from archivefs.transaction import Operation

LEVEL = 19
"""The highest level of zstd that needs no extra memory to decompress."""
THREADS = os.cpu_count() or 1
FEW = 50
"""With fewer small contents in a day, no new dictionary is thought of."""

Commit = Callable[[Operation[Any]], Any]
"""Commits one operation and returns what it made, or raises what undid it."""
Progress = Callable[[int], None]
"""Called with the bytes of sources and reports that were written again since the last call."""


class Group(NamedTuple):
    """The segments of a converter's day that become one. ``size``: their bytes on the disk."""

    base: str
    converter: str
    content: str
    day: int
    segments: list[str]
    size: int


class Result(NamedTuple):
    """What a group became: records, and bytes on the disk before and after."""

    records: int
    before: int
    after: int


def groups(archive: Archive, query: Query | None, *, everything: bool) -> list[Group]:
    """What there is to repack, oldest day first: finished days, or with ``everything`` today as well.

    Only days and converters of which the query selects an entry; not what was repacked already.
    """
    wanted = None if query is None else set(archive.reader.days(query))
    today = archive.today()
    packed, found = archive.reader.packed_segments(), dict[str, list[str]]()
    for name in archive.reader.segment_ends():
        found.setdefault(recovery.base_of(name), []).append(name)
    result = []
    for base, names in found.items():
        place = archive.reader.place_of(names[0])
        if place is None or (place[1] >= today and not everything):
            continue
        if (wanted is not None and place not in wanted) or (len(names) == 1 and names[0] in packed):
            continue
        size = sum(_size(archive.root / "content" / name) for name in names)
        converter, _, content = base.rpartition("/")[2].rpartition(".")
        result.append(Group(base, converter, content, place[1], sorted(names), size))
    return sorted(result, key=lambda group: (group.day, group.base))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def repack(archive: Archive, group: Group, commit: Commit, progress: Progress = lambda _: None) -> Result:
    """Write the records of a group into one new segment and remove the old ones. Blocks.

    Raises ``ContentDamagedError`` where a record is not what was written, ``OSError``, ``ArchiveError``; then
    everything is as before.
    """
    content_dir = archive.root / "content"
    dictionary = _dictionary(archive, group, commit)
    target = commit(NewSegment(group.base))
    draft = f"{target}{recovery.REPACKING}"
    try:
        moves = _write(archive, group, draft, dictionary, progress)
        (content_dir / draft).rename(content_dir / target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            (content_dir / draft).unlink()
        raise
    sync_dir((content_dir / target).parent)
    after = _size(content_dir / target)
    commit(MoveRecords(target, moves))
    gone = commit(RemoveSegments(group.segments))
    recovery.remove_gone(content_dir, gone)
    for name in gone:
        archive.content.forget(name)
    return Result(len(moves), group.size, after)


def _dictionary(archive: Archive, group: Group, commit: Commit) -> Dictionary | None:
    """The dictionary that serves the group best, or a new one where that saves more than it takes."""
    given = dictionaries.samples(archive, group.converter, group.content, (group.day, group.day))
    best = dictionaries.best(archive, group.converter, group.content, given, LEVEL)
    if len(given) < FEW:
        return best
    trained = dictionaries.train(archive, group.converter, group.content, given, best, LEVEL)
    if trained is None:
        return best
    saved = trained.saves * group.size
    if saved < 2 * len(trained.data):
        return best
    name = commit(AddDictionary(trained.converter, trained.content, trained.data, trained.samples))
    return archive.content.dictionaries.by_name(name)


class _Piece(NamedTuple):
    """A record on its way from its old place to the new segment."""

    record: Record
    header: RecordHeader
    place: Location
    content: Future[Encoded]


def _write(
    archive: Archive, group: Group, draft: str, dictionary: Dictionary | None, progress: Progress
) -> list[tuple[Location, Move]]:
    """Write, sync and check the new segment; returns the old place and the move of each record."""
    content_dir = archive.root / "content"
    with contextlib.suppress(FileNotFoundError):
        (content_dir / draft).unlink()
    writer = SegmentWriter(content_dir, draft, dictionary.name if dictionary else "")
    moves, written = list[tuple[Location, Move]](), list[tuple[Location, Record]]()
    try:
        for piece in _encoded(archive, group, dictionary):
            record = piece.record
            with piece.content.result() as content:
                if content.sha256 != record.sha256:
                    raise ContentDamagedError(
                        f"content/{piece.place.segment} at {record.offset}: another SHA-256"
                    )
                new = writer.append(piece.header, content)
            written.append((new, record))
            move = Move(record.id, record.attempt, record.ordinal, *msgspec.structs.astuple(new)[1:])
            moves.append((piece.place, move))
            progress(record.size)
        writer.sync()
    finally:
        writer.close()
    _check(archive, draft, written)
    return moves


def _encoded(archive: Archive, group: Group, dictionary: Dictionary | None) -> Iterator[_Piece]:
    """The records of the group in their order, compressed by several threads a little ahead."""
    waiting: deque[_Piece] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for name in group.segments:
            path = archive.root / "content" / name
            for record in archive.reader.records(name):
                found = next(scan(path, name, record.offset), None)
                if found is None or found.header.sha256 != record.sha256:
                    raise ContentDamagedError(f"content/{name} at {record.offset}: the record is damaged")
                content = pool.submit(_encode, archive, found.location, record.size, dictionary)
                waiting.append(_Piece(record, found.header, found.location, content))
                if len(waiting) > 2 * THREADS:
                    yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def _encode(archive: Archive, place: Location, size: int, dictionary: Dictionary | None) -> Encoded:
    return encode_pieces(archive.content.pieces(place, size), LEVEL, archive.root / "staging", dictionary)


def _check(archive: Archive, draft: str, written: list[tuple[Location, Record]]) -> None:
    """Read back from the disk what was written. Raises ``ContentDamagedError``."""
    path = archive.root / "content" / draft
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    found = scan(path, draft)
    for place, record in written:
        there = next(found, None)
        whole = there is not None and there.location == place and there.header.sha256 == record.sha256
        if not whole or archive.content.sha256(place, record.size) != record.sha256:
            raise ContentDamagedError(f"content/{place.segment} at {place.offset} does not read back")
    archive.content.forget(draft)
