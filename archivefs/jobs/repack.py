"""Repacking: the records of finished days written again, as small as can be, and proven before the old go.

The order is the promise: a new segment is written beside the old ones, synced, read back and compared with
every SHA-256; then it gets its name, the journal says where the records stand, and then the old files go.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archivefs.archive import Archive
from archivefs.background import give_way
from archivefs.catalog.catalog import day_text
from archivefs.catalog.rows import Record
from archivefs.errors import ArchiveError, ContentDamagedError, SegmentMissingError
from archivefs.jobs import dictionaries
from archivefs.operations import DropSegment, MoveRecords, NewSegment, RemoveSegments
from archivefs.parts import Location, Move
from archivefs.query import Query
from archivefs.store import recovery
from archivefs.store.dictionaries import Dictionary
from archivefs.store.durable import sync_dir
from archivefs.store.frames import DICTIONARY_BYTES, Encoded, RecordHeader, encode_pieces
from archivefs.store.segment import SegmentWriter, scan
from archivefs.store.store import split_name
from archivefs.transaction import Operation

LEVEL = 19
"""The highest level of zstd that needs no extra memory to decompress."""
THREADS = os.cpu_count() or 1
SAVES = 0.05
"""A new dictionary saves at least this share of a day's contents, and what it takes itself."""
FEW = 50
"""With fewer small contents in a day, no new dictionary is thought of."""
MOVES = 2000
"""Records in one event: a line of about 150 kB, and 0.1 s in which nothing else is committed."""

Commit = Callable[[Operation[Any]], Any]
"""Commits one operation and returns what it made, or raises what undid it."""
Progress = Callable[[int], None]
"""Called with the bytes of sources and reports that were written again since the last call."""
_Moved = list[tuple[Location, Move]]
"""The former place of each record, and what the journal will say of it."""


class Group(NamedTuple):
    """The segments of a converter's day that become one, with so many records of so many bytes of content.

    ``unused``: segments of that day in which nothing is needed any more. ``small``: how many of the records a
    dictionary is for. ``size``: bytes of all on the disk.
    """

    base: str
    converter: str
    content: str
    day: int
    segments: list[str]
    unused: list[str]
    records: int
    small: int
    content_bytes: int
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
        group = _group(archive, base, place[1], sorted(names, key=split_name), packed)
        if group.segments or group.unused:
            result.append(group)
    return sorted(result, key=lambda group: (group.day, group.base))


def _group(archive: Archive, base: str, day: int, names: list[str], packed: set[str]) -> Group:
    records = {name: archive.reader.records(name) for name in names}
    segments = [name for name in names if records[name]]
    if len(segments) == 1 and segments[0] in packed:
        segments = []
    unused = [name for name in names if not archive.reader.is_needed(name)]
    converter, _, content = base.rpartition("/")[2].rpartition(".")
    return Group(
        base, converter, content, day, segments, unused,
        records=sum(len(records[name]) for name in segments),
        small=sum(_is_small(record) for name in segments for record in records[name]),
        content_bytes=sum(record.size for name in segments for record in records[name]),
        size=sum(_size(archive.root / "content" / name) for name in (*segments, *unused)),
    )  # fmt: skip


def _is_small(record: Record) -> bool:
    """Whether it is among those of which samples are taken; a log is not."""
    is_log = record.attempt > 0 and record.ordinal == 0
    return not is_log and 0 < record.size <= DICTIONARY_BYTES


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def repack(archive: Archive, group: Group, commit: Commit, progress: Progress = lambda _: None) -> Result:
    """Write the records of a group into one new segment and remove the old ones. Blocks.

    Raises ``ContentDamagedError`` where a record is not what was written, ``OSError``, ``ArchiveError``; then
    every record is where it was or, if the journal says so, in the new segment, and the next repack goes on.
    """
    records = after = 0
    if group.segments:
        dictionary = _dictionary(archive, group, commit)
        target = commit(NewSegment(group.base))
        moved = _make(archive, group, target, dictionary, progress)
        records, after = len(moved), _size(archive.root / "content" / target)
        _move(archive, target, moved, commit)
    for name in commit(RemoveSegments([*group.segments, *group.unused])):
        archive.content.forget(name)
    return Result(records, group.size, after)


def _dictionary(archive: Archive, group: Group, commit: Commit) -> Dictionary | None:
    """The dictionary that serves the group best, or a new one where that saves more than it takes.

    A new one is for repacks only: what is captured needs one that is made for the level of captures.
    """
    given = dictionaries.samples(archive, group.converter, group.content, (group.day, group.day))
    best = dictionaries.best(archive, group.converter, group.content, given, LEVEL)
    if len(given) < FEW:
        return best
    if _is_newest(archive, group):
        dictionaries.renew(archive, group.converter, group.content, given, commit)
    trained = dictionaries.train(group.converter, group.content, given, best, LEVEL, SAVES)
    if trained is None or trained.saves_bytes * group.small < len(trained.data):
        return best
    number = commit(trained.operation(day_text(group.day)))
    return archive.content.dictionaries.by_number(number)


def _is_newest(archive: Archive, group: Group) -> bool:
    """Whether what comes now is likely to be like this day: it is the converter's last that is finished."""
    number, today = archive.reader.converter_id(group.converter) or 0, archive.today()
    days = archive.reader.groups("day", {"converter_id": (number, number), "day": (0, today - 1)})
    return group.day >= max(days, default=0)


# -- the new segment ---------------------------------------------------------------------------------------


def _make(
    archive: Archive, group: Group, target: str, dictionary: Dictionary | None, progress: Progress
) -> _Moved:
    """Write, sync and check the new segment, then give it its name."""
    content_dir = archive.root / "content"
    draft = f"{target}{recovery.REPACKING}"
    try:
        moved = _write(archive, group, draft, dictionary, progress)
        _check(archive, draft, moved)
        (content_dir / draft).rename(content_dir / target)
        sync_dir((content_dir / target).parent)
    except BaseException:
        for name in (draft, target):
            with contextlib.suppress(OSError):
                (content_dir / name).unlink()
        raise
    finally:
        archive.content.forget(draft)
    return moved


def _move(archive: Archive, target: str, moved: _Moved, commit: Commit) -> None:
    """Say in the journal where the records stand now."""
    for start in range(0, len(moved), MOVES):
        try:
            commit(MoveRecords(target, moved[start : start + MOVES]))
        except ArchiveError:
            if start == 0:
                with contextlib.suppress(ArchiveError, OSError):
                    commit(DropSegment(target))
            raise


class _Piece(NamedTuple):
    """A record on its way from its old place to the new segment."""

    record: Record
    header: RecordHeader
    place: Location
    content: Future[Encoded]


def _write(
    archive: Archive, group: Group, draft: str, dictionary: Dictionary | None, progress: Progress
) -> _Moved:
    """Write and sync the new segment."""
    moved: _Moved = []
    writer = SegmentWriter(archive.root / "content", draft, dictionary.name if dictionary else "")
    try:
        with contextlib.closing(_encoded(archive, group, dictionary)) as pieces:
            for record, header, place, encoding in pieces:
                with encoding.result() as content:
                    if content.sha256 != record.sha256:
                        raise ContentDamagedError(
                            f"content/{place.segment} at {place.offset}: the content's SHA-256 is another"
                        )
                    new = writer.append(header, content)
                move = Move(record.id, record.attempt, record.ordinal, *msgspec.structs.astuple(new)[1:])
                moved.append((place, move))
                progress(record.size)
        writer.sync()
    finally:
        writer.close()
    return moved


def _encoded(archive: Archive, group: Group, dictionary: Dictionary | None) -> Generator[_Piece, None, None]:
    """The records of the group in their order, compressed by several threads a little ahead."""
    waiting: deque[_Piece] = deque()
    stop = threading.Event()
    pool = ThreadPoolExecutor(THREADS, initializer=give_way)
    try:
        for name in group.segments:
            for record, header, place in _found(archive, name):
                content = pool.submit(_encode, archive, place, record.size, dictionary, stop)
                waiting.append(_Piece(record, header, place, content))
                if len(waiting) > 2 * THREADS:
                    yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        for piece in waiting:
            if not piece.content.cancelled() and piece.content.exception() is None:
                piece.content.result().close()


def _found(archive: Archive, segment: str) -> Iterator[tuple[Record, RecordHeader, Location]]:
    """The records of a segment as they stand on the disk. Raises ``ContentDamagedError``."""
    path = archive.root / "content" / segment
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SegmentMissingError(f"the segment content/{segment} is missing") from None
    try:
        for record in archive.reader.records(segment):
            found = next(scan(path, segment, record.offset, fd), None)
            if found is None or (found.header.id, found.header.sha256) != (record.id, record.sha256):
                raise ContentDamagedError(f"content/{segment} at {record.offset}: the record is damaged")
            yield record, found.header, found.location
    finally:
        os.close(fd)


def _encode(
    archive: Archive, place: Location, size: int, dictionary: Dictionary | None, stop: threading.Event
) -> Encoded:
    pieces = _until(stop, archive.content.pieces(place, size))
    return encode_pieces(pieces, LEVEL, archive.root / "staging", dictionary)


def _until(stop: threading.Event, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, or the beginning of them when nobody wants them any more."""
    for piece in pieces:
        if stop.is_set():
            return
        yield piece


def _check(archive: Archive, draft: str, moved: _Moved) -> None:
    """Read back from the disk what was written. Raises ``ContentDamagedError``."""
    path = archive.root / "content" / draft
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        found = scan(path, draft, 0, fd)
        for _, move in moved:
            there = next(found, None)
            if there is None or (there.header.id, there.location.offset) != (move.id, move.offset):
                raise ContentDamagedError(f"content/{draft} at {move.offset} does not read back")
            if archive.content.sha256(there.location, there.header.size) != there.header.sha256:
                raise ContentDamagedError(f"content/{draft} at {move.offset}: another content reads back")
    finally:
        os.close(fd)
