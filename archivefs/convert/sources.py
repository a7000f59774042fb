"""Archived sources, laid out as files for workers; their hash is checked on the way."""

import os
import tempfile
from pathlib import Path
from typing import Any

import trio

from archivefs import folders
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry, MemberRow
from archivefs.convert.process import Job, open_to_readers, remove
from archivefs.errors import SegmentMissingError
from archivefs.parts import Location


async def laid_out(
    archive: Archive, work_dir: Path, entry: Entry, attempt: int, arguments: dict[str, Any]
) -> Job:
    """The source of an entry as ``work_dir/N``; looked for again where a repack moved it meanwhile.

    Whoever asks for it removes it. Raises ``ContentDamagedError``, ``OSError``.
    """
    reader = archive.reader
    place = reader.location(entry)
    members = reader.members(entry.n) if entry.members else []
    try:
        source = await trio.to_thread.run_sync(_lay_out, archive, work_dir, entry, place, members)
    except SegmentMissingError:
        moved = reader.location(reader.get(entry.id))
        if moved == place:
            raise
        source = await trio.to_thread.run_sync(_lay_out, archive, work_dir, entry, moved, members)
    return Job(source, os.fsdecode(entry.name), attempt, arguments)


def _lay_out(
    archive: Archive, work_dir: Path, entry: Entry, place: Location, members: list[MemberRow]
) -> Path:
    source = work_dir / str(entry.n)
    try:
        if members:
            _unpack(archive, entry, place, members, source)
        else:
            _copy(archive, entry, place, source)
        open_to_readers(source)
        os.utime(source, ns=(entry.mtime_ns, entry.mtime_ns))
    except BaseException:
        remove(source)
        raise
    return source


def _copy(archive: Archive, entry: Entry, place: Location, file: Path) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        archive.content.copy(place, entry.size, entry.sha256, fd)
    finally:
        os.close(fd)


def _unpack(archive: Archive, entry: Entry, place: Location, members: list[MemberRow], folder: Path) -> None:
    """Lay out a source that is a folder."""
    with tempfile.TemporaryFile(dir=folder.parent) as tar:
        archive.content.copy(place, entry.size, entry.sha256, tar.fileno())
        folder.mkdir(0o700)
        packed = (folders.Packed(*member[1:]) for member in members)
        folders.unpack(tar.fileno(), packed, os.fsencode(folder))
