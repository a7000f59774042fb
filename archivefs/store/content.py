"""Reading records: any part of any content by decompressing only the frames it lies in."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archivefs.errors import ContentDamagedError, DictionaryError, SegmentMissingError
from archivefs.parts import Location
from archivefs.store import frames
from archivefs.store.dictionaries import Dictionaries
from archivefs.store.durable import write_all

OPEN_SEGMENTS = 64
"""Segments kept open for reading; the oldest is closed when its last reader is done."""
KNOWN_TABLES = 1024
"""Frame tables kept in memory (only contents of more than one frame need theirs)."""


class _File:
    """A descriptor that is closed when nobody holds this object any more."""

    fd = -1

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class ContentReader:
    """Reads frames of records; may be used from any thread. ``dictionaries`` is what frames may need."""

    def __init__(self, content_dir: Path, dictionaries: Dictionaries) -> None:
        self._dir = content_dir
        self.dictionaries = dictionaries
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._tables: OrderedDict[tuple[str, int], list[int]] = OrderedDict()

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

    def _starts(self, place: Location, size: int) -> list[int]:
        """Where each frame starts in the segment, and where the last one ends."""
        first = place.offset + place.header
        if size <= frames.FRAME_BYTES:
            return [first, first + place.stored]
        key = (place.segment, place.offset)
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        starts = [first]
        for length in self._read_table(place, size):
            starts.append(starts[-1] + length)
        if starts[-1] != first + place.stored:
            raise ContentDamagedError(f"{_name(place)}: the frame table does not fit the record")
        with self._lock:
            self._tables[key] = starts
            while len(self._tables) > KNOWN_TABLES:
                self._tables.popitem(last=False)
        return starts

    def _read_table(self, place: Location, size: int) -> list[int]:
        at = place.offset + place.header + place.stored
        data = os.pread(self._file(place.segment).fd, place.offset + place.length - at, at)
        prefix = frames.SKIPPABLE.size
        try:
            table = frames.parse_table(data[prefix:])
        except ContentDamagedError as error:
            raise ContentDamagedError(f"{_name(place)}: {error}") from None
        if len(table.frames) != -(-size // frames.FRAME_BYTES):
            raise ContentDamagedError(f"{_name(place)}: the frame table does not fit the content's size")
        return table.frames

    def compressed_frame(self, place: Location, size: int, index: int, *, wait: bool = True) -> bytes | None:
        """The bytes of frame ``index``; None where they are not in the page cache and ``wait`` is false.

        Raises ``SegmentMissingError``; ``ContentDamagedError`` where segment or table are damaged;
        ``OSError`` where the disk fails.
        """
        file = self._file(place.segment)
        if not wait and size > frames.FRAME_BYTES and (place.segment, place.offset) not in self._tables:
            return None
        starts = self._starts(place, size)
        length = starts[index + 1] - starts[index]
        if wait:
            data = os.pread(file.fd, length, starts[index])
        else:
            buffer = bytearray(length)
            try:
                got = os.preadv(file.fd, [buffer], starts[index], os.RWF_NOWAIT)
            except OSError:  # EAGAIN: not cached; EOPNOTSUPP: a file system that cannot tell
                return None
            if got < length:
                return None
            data = bytes(buffer)
        if len(data) < length:
            raise ContentDamagedError(f"{_name(place)}: the segment ends inside the record")
        return data

    def frame(self, place: Location, size: int, index: int) -> bytes:
        """The content of frame ``index`` (1 MiB each but the last).

        Raises as ``compressed_frame`` and ``unpack``.
        """
        packed = self.compressed_frame(place, size, index)
        assert packed is not None
        return self.unpack(place, size, index, packed)

    def frame_into(self, place: Location, size: int, index: int, buffer: bytearray) -> None:
        """Fill a buffer with frame ``index``, which has its size. Raises as ``frame``."""
        packed = self.compressed_frame(place, size, index)
        assert packed is not None
        with _naming(place, index):
            frames.decompress_into(packed, buffer, self.dictionaries)

    def unpack(self, place: Location, size: int, index: int, packed: bytes) -> bytes:
        """Decompress a frame. Raises ``DictionaryError``, ``ContentDamagedError``, naming the place."""
        with _naming(place, index):
            return frames.decompress(packed, frames.frame_size(size, index), self.dictionaries)

    def pieces(self, place: Location, size: int) -> Iterator[bytes]:
        """The whole content, frame by frame."""
        for index in range(-(-size // frames.FRAME_BYTES)):
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
        """Close a segment that is removed, when its last reader is done."""
        with self._lock:
            self._files.pop(segment, None)

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
