"""Reading records: any part of any content by decompressing only the frames it lies in."""

import hashlib
import itertools
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from archivefs.errors import ContentDamagedError, DictionaryError, SegmentMissingError
from archivefs.parts import Location
from archivefs.store import frames
from archivefs.store.dictionaries import Dictionaries
from archivefs.store.durable import write_all

OPEN_SEGMENTS = 64
"""Segments kept open for reading; the oldest is closed when its last reader is done."""
KNOWN_FRAMES = 500_000
"""Frames of which it is kept where they start, 8 bytes each: those of 120 GB of contents."""


class _File:
    """A descriptor that is closed when nobody holds this object any more."""

    fd = -1

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Layout(NamedTuple):
    """How a content is cut: bytes in each frame but the last; starts in the segment, and the end."""

    frame_size: int
    starts: Sequence[int]


class ContentReader:
    """Reads frames of records; may be used from any thread. ``dictionaries`` is what frames may need."""

    def __init__(self, content_dir: Path, dictionaries: Dictionaries) -> None:
        self._dir = content_dir
        self.dictionaries = dictionaries
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._layouts_lock = threading.Lock()  # never held for the disk: the trio thread takes it, too
        self._layouts: OrderedDict[Location, Layout] = OrderedDict()
        self._known_frames = 0

    def _file(self, segment: str) -> _File:
        with self._lock:
            file = self._files.get(segment)
            if file is None:
                try:
                    file = self._files[segment] = _File(self._dir / segment)
                except FileNotFoundError:
                    raise SegmentMissingError(f"the segment content/{segment} is missing") from None
                while len(self._files) > OPEN_SEGMENTS:
                    self._files.popitem(last=False)
            self._files.move_to_end(segment)
            return file

    def known_layout(self, place: Location, size: int) -> Layout | None:
        """How a content is cut; None where its table has to be read to know it."""
        if size <= frames.LEAST_FRAME_BYTES:
            first = place.offset + place.header
            return Layout(frames.LEAST_FRAME_BYTES, (first, first + place.stored))
        with self._layouts_lock:
            if place in self._layouts:
                self._layouts.move_to_end(place)
            return self._layouts.get(place)

    def layout(self, place: Location, size: int) -> Layout:
        """How a content is cut.

        Raises ``SegmentMissingError``; ``ContentDamagedError`` where the table is damaged; ``OSError``.
        """
        known = self.known_layout(place, size)
        if known is not None:
            return known
        table, first = self._read_table(place, size), place.offset + place.header
        layout = Layout(table.frame_size, array("q", itertools.accumulate(table.frames, initial=first)))
        if layout.starts[-1] != first + place.stored:
            raise ContentDamagedError(f"{_name(place)}: the frame table does not fit the record")
        with self._layouts_lock:
            if place not in self._layouts:
                self._layouts[place] = layout
                self._known_frames += len(layout.starts)
            while self._known_frames > KNOWN_FRAMES and len(self._layouts) > 1:
                self._known_frames -= len(self._layouts.popitem(last=False)[1].starts)
        return layout

    def _read_table(self, place: Location, size: int) -> frames.FrameTable:
        at = place.offset + place.header + place.stored
        data = os.pread(self._file(place.segment).fd, place.offset + place.length - at, at)
        prefix = frames.SKIPPABLE.size
        try:
            table = frames.parse_table(data[prefix:], place.stored)
        except ContentDamagedError as error:
            raise ContentDamagedError(f"{_name(place)}: {error}") from None
        if not table.fits(size):
            raise ContentDamagedError(f"{_name(place)}: the frame table does not fit the content's size")
        return table

    def compressed(self, place: Location, starts: Sequence[int]) -> bytes:
        """The bytes of frames beside each other: ``starts`` of them, and of what follows, in a layout.

        Raises ``SegmentMissingError``; ``ContentDamagedError`` where the segment is shorter; ``OSError``
        where the disk fails.
        """
        length = starts[-1] - starts[0]
        data = os.pread(self._file(place.segment).fd, length, starts[0])
        if len(data) < length:
            raise ContentDamagedError(f"{_name(place)}: the segment ends inside the record")
        return data

    def at_once(self, place: Location, size: int) -> bytes | None:
        """A content of one frame; None where its bytes are not in the page cache, or there may be several.

        Raises as ``frame``.
        """
        if size > frames.LEAST_FRAME_BYTES:
            return None
        buffer = bytearray(place.stored)
        fd = self._file(place.segment).fd
        try:
            got = os.preadv(fd, [buffer], place.offset + place.header, os.RWF_NOWAIT)
        except OSError:  # EAGAIN: not cached; EOPNOTSUPP: a file system that cannot tell
            return None
        return self._unpack(place, size, 0, bytes(buffer)) if got == place.stored else None

    def frame(self, place: Location, size: int, index: int) -> bytes:
        """The content of frame ``index`` of its layout.

        Raises as ``layout`` and ``compressed``, and ``DictionaryError``; each names the place.
        """
        frame_size, starts = self.layout(place, size)
        packed = self.compressed(place, starts[index : index + 2])
        return self._unpack(place, frames.bytes_in_frame(size, frame_size, index), index, packed)

    def frames_into(self, place: Location, size: int, first: int, buffers: Sequence[bytearray]) -> None:
        """Fill buffers with the frames from ``first`` on, whose sizes they have.

        Raises as ``frame``, naming the first of them, whichever is damaged.
        """
        starts = self.layout(place, size).starts[first : first + len(buffers) + 1]
        packed = self.compressed(place, starts)
        with _naming(place, first):
            relative = [start - starts[0] for start in starts[:-1]]
            frames.decompress_into(packed, relative, buffers, self.dictionaries)

    def _unpack(self, place: Location, size: int, index: int, packed: bytes) -> bytes:
        with _naming(place, index):
            return frames.decompress(packed, size, self.dictionaries)

    def pieces(self, place: Location, size: int) -> Iterator[bytes]:
        """The whole content, frame by frame."""
        for index in range(len(self.layout(place, size).starts) - 1 if size else 0):
            yield self.frame(place, size, index)

    def read(self, place: Location, size: int) -> bytes:
        """The whole content; for what is known to be small."""
        return b"".join(self.pieces(place, size))

    def sha256(self, place: Location, size: int) -> str:
        """The hash of the content as it can be read now. Raises as ``frame``."""
        digest = hashlib.sha256()
        for piece in self.pieces(place, size):
            digest.update(piece)
        return digest.hexdigest()

    def copy(self, place: Location, size: int, sha256: str, fd: int) -> None:
        """Write the content to ``fd`` and compare its hash. Raises ``ContentDamagedError``, ``OSError``."""
        digest = hashlib.sha256()
        for piece in self.pieces(place, size):
            digest.update(piece)
            write_all(fd, piece)
        if digest.hexdigest() != sha256:
            raise ContentDamagedError(f"{_name(place)}: the content's SHA-256 is not {sha256}")

    def forget(self, segment: str) -> None:
        """Close a segment that is removed, when its last reader is done; another may get its name."""
        with self._lock:
            self._files.pop(segment, None)
        with self._layouts_lock:
            for place in [each for each in self._layouts if each.segment == segment]:
                self._known_frames -= len(self._layouts.pop(place).starts)

    def close(self) -> None:
        """Close all segments that nobody reads."""
        with self._lock:
            self._files.clear()


@contextmanager
def _naming(place: Location, index: int) -> Iterator[None]:
    """What is wrong with a frame is said of its place."""
    try:
        yield
    except DictionaryError as error:
        raise DictionaryError(f"{_name(place)}, frame {index}: {error}", error.name) from None
    except ContentDamagedError as error:
        raise ContentDamagedError(f"{_name(place)}, frame {index}: {error}") from None


def _name(place: Location) -> str:
    return f"content/{place.segment} at {place.offset}"
