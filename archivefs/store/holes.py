"""Stretches of segments whose records are purged: what stands there instead, and what the disk gets back.

A hole is a skippable frame (RFC 8878, section 3.1.2; magic 0x184D2A5C) over all records that stood there,
so ``zstd -dc`` of the segment goes on; the blocks behind the first eight bytes are given back with
fallocate(2), FALLOC_FL_PUNCH_HOLE, and read as zeros. Doing it again changes nothing.
"""

import ctypes
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from archivefs.store.frames import HOLE_MAGIC, SKIPPABLE

PUNCH_HOLE, KEEP_SIZE = 2, 1
"""Flags of fallocate(2), from linux/falloc.h."""
LONGEST_FRAME = (1 << 32) - (1 << 20)
"""A frame's length has 32 bits; longer holes are several frames."""
PIECE_BYTES = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class Stretch(Protocol):
    """Where something lies in a segment, in bytes."""

    @property
    def offset(self) -> int:
        """Of its first byte."""

    @property
    def length(self) -> int:
        """Its bytes."""


def punch(path: Path, holes: Iterable[Stretch]) -> None:
    """Make holes and sync the segment; nothing in them can be read any more. Raises ``OSError``.

    A file system that knows no holes keeps zeros in their place. A segment that is missing is done.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for hole in holes:
            at, end = hole.offset, hole.offset + hole.length
            while at < end:
                length = min(end - at, LONGEST_FRAME)
                if 0 < end - at - length < SKIPPABLE.size:
                    length -= SKIPPABLE.size
                os.pwrite(fd, SKIPPABLE.pack(HOLE_MAGIC, length - SKIPPABLE.size), at)
                _clear(fd, at + SKIPPABLE.size, length - SKIPPABLE.size)
                at += length
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _clear(fd: int, offset: int, length: int) -> None:
    if not length:
        return
    where = (ctypes.c_longlong(offset), ctypes.c_longlong(length))
    if not _libc.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, *where):
        return
    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    zeros = bytes(PIECE_BYTES)
    while length:
        done = os.pwrite(fd, zeros[:length], offset)
        offset, length = offset + done, length - done


def allocated(paths: Iterable[Path]) -> int:
    """Bytes that these files take on the disk."""
    total = 0
    for path in paths:
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def blocks_in(holes: Sequence[Stretch], block: int) -> int:
    """Bytes of whole blocks that holes give back."""
    total = 0
    for hole in holes:
        first = -(-(hole.offset + SKIPPABLE.size) // block) * block
        last = (hole.offset + hole.length) // block * block
        total += max(last - first, 0)
    return total


Wanted = Mapping[str, tuple[Sequence[Stretch], Sequence[Stretch], bool]]
"""By segment: its holes now, its holes then, and whether nothing of it is needed then."""


def gain(content_dir: Path, wanted: Wanted) -> int:
    """Bytes that the disk gets back when segments get these holes, or go as a whole."""
    block, total = os.statvfs(content_dir).f_bsize, 0
    for name, (before, then, is_unused) in wanted.items():
        if is_unused:
            total += allocated([content_dir / name])
        else:
            total += blocks_in(then, block) - blocks_in(before, block)
    return total
