"""Content as Zstandard frames: how it is cut, compressed, hashed, and a record laid around it.

A record is three things one after the other, all valid Zstandard (RFC 8878)::

    5a 2a 4d 18 | length u32 | header JSON          skippable frame (section 3.1.2), magic 0x184D2A5A
    28 b5 2f fd ...                                 content frames, checksum and size in each
    5b 2a 4d 18 | length u32 | table JSON           skippable frame, magic 0x184D2A5B: the commit mark

A decoder skips the first and the last, so ``zstd -dc`` of a record gives exactly its content. The table has
``header``, the first 16 hex digits of the SHA-256 of the header JSON; and where there are several frames,
``frames``, their compressed sizes, and ``frame_size``: every frame but the last holds exactly so many bytes,
so the one that has a given byte is known without decompressing another.
"""

import _thread
import contextlib
import hashlib
import os
import queue
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, TypeVar, cast

import msgspec
import zstandard

from archivefs.errors import ContentDamagedError
from archivefs.parts import Member
from archivefs.store.dictionaries import Dictionaries, Dictionary

FRAME_BYTES = 256 << 10
"""Uncompressed size of every content frame but the last. A read at any place decompresses one, in 0.3 ms.

Frames of 1 MiB take four times as long, and 1 % less space (3 % at level 19).
"""
LEAST_FRAME_BYTES, LARGEST_FRAME_BYTES = 256 << 10, 1 << 20
"""Between these lies the size of every frame but the last, whoever wrote it; the second where the table does
not say. So a content up to the first has one frame, and its table need not be read."""
PIECE_BYTES = 1 << 20
"""Large contents are copied in pieces of this size."""
HEADER_MAGIC = 0x184D2A5A
TABLE_MAGIC = 0x184D2A5B
HOLE_MAGIC = 0x184D2A5C
"""Of the frame that stands where records are purged (``holes``)."""
SKIPPABLE = struct.Struct("<II")
DICTIONARY_BYTES = 128 << 10
"""Content up to this size is compressed with a dictionary; larger content brings its own words."""
SPOOL_BYTES = 8 << 20
"""Content larger than this is compressed into an unnamed file instead of memory."""
THREADS = min(os.cpu_count() or 1, 4)
"""How many threads compress the frames of a file: one that reads and hashes keeps no more than four busy."""
SAMPLED_BYTES = 128 << 10
"""A frame from this size on is looked at before it is compressed; a smaller one costs little at any level."""
SAMPLE_PIECES, SAMPLE_SHARE = 16, 64
"""The sample is one 64th of the frame in 16 pieces; for text that is 2 % of the time that level 3 takes."""
INCOMPRESSIBLE = 0.98
"""Where the share of the compressed bytes is above this, nothing more is tried."""
_NEXT_CONTENT = b"\n"
_NEXT = zstandard.ZstdCompressor().compress(_NEXT_CONTENT)
_local = threading.local()


class RecordHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the header frame says: enough to make the entry again from the segment alone.

    The time of the capture stands in ``id``.
    ``stored`` is the length of the content frames, so the frame table is found without reading them.
    ``dictionary`` is the one that frames of this segment may need; all records of a segment name the same.
    """

    v: int = 1
    kind: str = "source"
    id: str
    name: str
    size: int
    stored: int
    sha256: str
    name_hex: str = ""
    converter: str = ""
    folder: str = ""
    folder_hex: str = ""
    mtime_ns: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    xattrs: dict[str, str] = {}
    quarantine: str = ""
    imported: bool = False
    attempt: int = 0
    dictionary: str = ""
    members: list[Member] = []


class FrameTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the frame table says; see the module's first lines."""

    header: str
    frames: list[int] = []
    frame_size: Annotated[int, msgspec.Meta(ge=LEAST_FRAME_BYTES, le=LARGEST_FRAME_BYTES)] = (
        LARGEST_FRAME_BYTES
    )

    def fits(self, size: int) -> bool:
        """Whether a content of that size makes so many frames."""
        return len(self.frames) == -(-size // self.frame_size)


_P = TypeVar("_P", RecordHeader, FrameTable)


def compressor(level: int) -> zstandard.ZstdCompressor:
    """This thread's compressor of that level (they hold 1-10 MB of tables and are not thread-safe)."""
    cache: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in cache:
        cache[level] = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    return cache[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's decompressor for frames without a dictionary."""
    if "decompressor" not in _local.__dict__:
        _local.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _local.decompressor
    return found


def decompress(frame: bytes | memoryview, size: int, dictionaries: Dictionaries) -> bytes:
    """The content of one frame, which must be ``size`` bytes. Raises ``ContentDamagedError``."""
    try:
        content: bytes = _decompressor_of(frame, size, dictionaries).decompress(frame)
    except zstandard.ZstdError as error:
        raise ContentDamagedError(f"a content frame does not decompress: {error}") from None
    return content


def decompress_into(
    packed: bytes, starts: Sequence[int], buffers: Sequence[bytearray], dictionaries: Dictionaries
) -> None:
    """Fill buffers with the contents of frames beside each other, which must be of those sizes.

    ``starts`` says where each frame begins in ``packed``. Memory that was used before is filled in two thirds
    of the time. Raises ``ContentDamagedError``.
    """
    try:
        # Given whole frames and room for all of each, the reader decompresses them at once. It does not say
        # whether a frame was complete, with its checksum; but only then it finds another behind it.
        pieces = cast(IO[bytes], _Pieces(_NEXT, packed))
        view = memoryview(packed)
        for start, buffer in zip(starts, buffers, strict=True):
            decompressor = _decompressor_of(view[start:], len(buffer), dictionaries)
        with decompressor.stream_reader(pieces, read_across_frames=True) as reader:
            if any(reader.readinto(buffer) < len(buffer) for buffer in buffers):
                raise ContentDamagedError("a content frame ends early")
            if reader.read(2) != _NEXT_CONTENT:
                raise ContentDamagedError("a content frame ends early")
    except zstandard.ZstdError as error:
        raise ContentDamagedError(f"a content frame does not decompress: {error}") from None


class _Pieces:
    """A stream that gives out pieces as they are, the last first: no byte of them is copied."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces]

    def read(self, size: int = -1) -> bytes:
        """The next piece, however many bytes were wanted; b"" behind the end."""
        return self._pieces.pop() if self._pieces else b""


def _decompressor_of(
    frame: bytes | memoryview, size: int, dictionaries: Dictionaries
) -> zstandard.ZstdDecompressor:
    """What decompresses a frame. Raises ``ContentDamagedError`` where it is not of that size."""
    try:
        # Asked first: a damaged frame may announce more than there is memory.
        facts = zstandard.get_frame_parameters(frame)
        if facts.content_size != size:
            raise ContentDamagedError(f"a content frame holds {facts.content_size} bytes instead of {size}")
    except zstandard.ZstdError as error:
        raise ContentDamagedError(f"a content frame does not begin as one: {error}") from None
    return dictionaries.by_number(facts.dict_id).decompressor() if facts.dict_id else _decompressor()


def dictionary_number(frame: bytes) -> int:
    """The number of the dictionary that a frame needs, 0 for none; its first 18 bytes are enough.

    Raises ``ContentDamagedError``.
    """
    try:
        number: int = zstandard.get_frame_parameters(frame).dict_id
    except zstandard.ZstdError as error:
        raise ContentDamagedError(f"a content frame does not begin as one: {error}") from None
    return number


def bytes_in_frame(size: int, frame_size: int, index: int) -> int:
    """Uncompressed bytes in frame ``index`` of a content of ``size`` bytes in frames of ``frame_size``."""
    return min(frame_size, size - index * frame_size)


def skippable(magic: int, payload: bytes) -> bytes:
    """A skippable frame around ``payload``."""
    return SKIPPABLE.pack(magic, len(payload)) + payload


class Encoded(AbstractContextManager["Encoded"]):
    """Content compressed and hashed, ready to be laid into a segment; close it to free its spool file.

    ``dictionary`` is the one in use for contents of its kind, '' for none; this one may do without.
    """

    def __init__(
        self, size: int, sha256: str, frames: list[int], data: bytes | IO[bytes], dictionary: str = ""
    ) -> None:
        self.dictionary = dictionary
        self.size = size
        self.sha256 = sha256
        self.frames = frames
        self.stored = sum(frames)
        self._data = data

    def pieces(self) -> Iterator[bytes]:
        """The compressed bytes; large contents in pieces of ``PIECE_BYTES``."""
        if isinstance(self._data, bytes):
            yield self._data
            return
        self._data.seek(0)
        while piece := self._data.read(PIECE_BYTES):
            yield piece

    def close(self) -> None:
        """Free the spool file, if there is one."""
        if not isinstance(self._data, bytes):
            self._data.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pack(content: bytes | memoryview, level: int) -> bytes:
    """One frame. Content that a sample shows to be packed already is stored without the search of ``level``.

    That is never more than 2 % larger. Levels above 12 would search a frame of it for up to 15 ms.
    """
    if len(content) >= SAMPLED_BYTES and _is_packed_already(content):
        frame = compressor(-1).compress(content)
        if len(frame) > INCOMPRESSIBLE * len(content):  # else the sample missed something
            return frame
    return compressor(level).compress(content)


class _Packers(AbstractContextManager["_Packers"]):
    """Threads that compress frames; what none of them has begun is done by who wants it.

    So nobody waits for a thread that cannot begin. ``concurrent.futures`` would: where there is no memory
    for the first lines that a new thread runs, ``Thread.start`` never returns.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._given: queue.SimpleQueue[tuple[Future[bytes], bytes | memoryview] | None] = queue.SimpleQueue()
        self._order: deque[tuple[Future[bytes], bytes | memoryview]] = deque()
        with contextlib.suppress(RuntimeError):  # no room for a further thread
            for _ in range(THREADS):
                _thread.start_new_thread(self._work, ())

    @property
    def waiting(self) -> int:
        """Frames that were handed in and not taken out."""
        return len(self._order)

    def hand_in(self, content: bytes | memoryview) -> None:
        """The content of the next frame."""
        self._order.append((Future(), content))
        self._given.put(self._order[-1])

    def take_out(self) -> bytes:
        """The frame that was handed in first."""
        packing, content = self._order.popleft()
        return _pack(content, self._level) if packing.cancel() else packing.result()

    def _work(self) -> None:
        while (given := self._given.get()) is not None:
            packing, content = given
            if packing.set_running_or_notify_cancel():
                try:
                    packing.set_result(_pack(content, self._level))
                except Exception as error:
                    packing.set_exception(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for packing, _ in self._order:
            packing.cancel()
        for _ in range(THREADS):
            self._given.put(None)


def _is_packed_already(content: bytes | memoryview) -> bool:
    """Whether pieces from all over the content do not compress, as those of zip, gz, png and jpg do not."""
    step = len(content) // SAMPLE_PIECES
    size = step // SAMPLE_SHARE
    sample = b"".join(content[at : at + size] for at in range(0, SAMPLE_PIECES * step, step))
    return len(compressor(1).compress(sample)) > INCOMPRESSIBLE * len(sample)


def encode_bytes(content: bytes, level: int, dictionary: Dictionary | None = None) -> Encoded:
    """Compress and hash what is in memory."""
    view = memoryview(content)
    if dictionary is not None and 0 < len(content) <= DICTIONARY_BYTES:
        frames = [dictionary.compressor(level).compress(content)]
    else:
        frames = [_pack(view[at : at + FRAME_BYTES], level) for at in range(0, len(content), FRAME_BYTES)]
    digest, name = hashlib.sha256(content).hexdigest(), dictionary.name if dictionary else ""
    return Encoded(len(content), digest, [len(frame) for frame in frames], b"".join(frames), name)


def encode_file(fd: int, level: int, spool_dir: Path, dictionary: Dictionary | None = None) -> Encoded:
    """Compress and hash a file up to where it ends now, in constant memory and several threads.

    The caller keeps the file from changing meanwhile, or looks afterwards whether it did. Raises ``OSError``
    from reading, and as ``encode_pieces``.
    """
    end = os.fstat(fd).st_size
    pieces = (_read(fd, at, min(PIECE_BYTES, end - at)) for at in range(0, end, PIECE_BYTES))
    return encode_pieces(pieces, level, spool_dir, dictionary)


def _read(fd: int, at: int, size: int) -> bytes:
    """So many bytes of a file, or what there is of them."""
    content = os.pread(fd, size, at)
    while len(content) < size and (more := os.pread(fd, size - len(content), at + len(content))):
        content += more
    return content


def encode_pieces(
    pieces: Iterable[bytes], level: int, spool_dir: Path, dictionary: Dictionary | None = None
) -> Encoded:
    """Compress and hash content that comes in pieces of any size.

    Small content stays in memory; above ``SPOOL_BYTES`` the frames go to an unnamed file in ``spool_dir``,
    which disappears with the process. Raises ``OSError`` from spooling.
    """
    waiting = _cut(pieces)
    content = next(waiting, b"")
    if len(content) < FRAME_BYTES:
        return encode_bytes(bytes(content), level, dictionary)
    digest = hashlib.sha256()
    lengths: list[int] = []
    size = 0
    spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(spool_dir))  # noqa: SIM115  owned by Encoded

    def lay(frame: bytes) -> None:
        lengths.append(len(frame))
        spool.write(frame)

    try:
        with _Packers(level) as packers:
            while content:
                packers.hand_in(content)
                digest.update(content)
                size += len(content)
                content = next(waiting, b"")
                if packers.waiting > 2 * THREADS:
                    lay(packers.take_out())
            while packers.waiting:
                lay(packers.take_out())
    except BaseException:
        spool.close()
        raise
    return Encoded(size, digest.hexdigest(), lengths, spool, dictionary.name if dictionary else "")


def _cut(pieces: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces of ``FRAME_BYTES``; the last may be shorter."""
    rest = b""
    for piece in pieces:
        view = memoryview(rest + piece if rest else piece)
        whole = len(view) - len(view) % FRAME_BYTES
        for at in range(0, whole, FRAME_BYTES):
            yield view[at : at + FRAME_BYTES]
        rest = bytes(view[whole:])
    if rest:
        yield rest


def parse_header(payload: bytes) -> RecordHeader:
    """The header of a record. Raises ``ContentDamagedError``."""
    return _parse(payload, RecordHeader, "record header")


def parse_table(payload: bytes, stored: int) -> FrameTable:
    """The frame table of a record with ``stored`` bytes of frames. Raises ``ContentDamagedError``."""
    table = _parse(payload, FrameTable, "frame table")
    return msgspec.structs.replace(table, frames=[stored]) if stored and not table.frames else table


def _parse(payload: bytes, kind: type[_P], what: str) -> _P:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ContentDamagedError(f"a {what} is not readable: {error}") from None


def header_check(payload: bytes) -> str:
    """The mark by which a frame table names its header."""
    return hashlib.sha256(payload).hexdigest()[:16]


def header_frame(header: RecordHeader) -> tuple[bytes, str]:
    """The header frame and its mark for the frame table."""
    payload = msgspec.json.encode(header)
    return skippable(HEADER_MAGIC, payload), header_check(payload)


def table_frame(check: str, frames: list[int]) -> bytes:
    """The frame table as a skippable frame."""
    table = FrameTable(header=check)
    if len(frames) > 1:
        table = FrameTable(header=check, frames=frames, frame_size=FRAME_BYTES)
    return skippable(TABLE_MAGIC, msgspec.json.encode(table))
