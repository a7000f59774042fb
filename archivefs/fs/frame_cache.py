"""Decompressed frames, shared by all readers within one bound of memory, and loaded ahead of who reads on."""

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable

import trio

from archivefs.errors import ArchiveError, ContentDamagedError, SegmentMissingError
from archivefs.fs.node import Handle
from archivefs.metrics import Cache
from archivefs.parts import Location
from archivefs.store.content import ContentReader
from archivefs.store.frames import FRAME_BYTES, frame_size

FRAME_COST = 256
"""Bytes that the cache needs for a frame beside its content: key, links, the headers of objects."""
INLINE_BYTES = 64 << 10
"""Frames of at most this content are decompressed in the trio thread when their bytes are in the page cache:
about 60 us at 1 GB/s, what a hop to another thread costs."""
LOADS = 8
"""Frames loaded at once: more would wait for the processors, fewer for a slow disk."""
LEAST_BYTES = LOADS * FRAME_BYTES
"""With less memory than this, frames would be dropped before they are read."""
BEHIND = 8
"""Frames that stay when one who reads on and on is past them. The kernel has their pages, and memory that was
used just now is still in the processor's cache."""
AHEAD = 2
"""Frames loaded ahead of one who reads a file on and on: what two processors decompress meanwhile."""
_Key = tuple[str, int, int]
_Frame = bytes | bytearray
_ONLY_HERE = 2
"""``sys.getrefcount`` of what a variable has and nobody else: that variable, and the argument."""


class FrameCache:
    """Gives frames of contents; each is decompressed once however many readers want it.

    Frames that are kept, and those that are being loaded, take at most ``limit_bytes`` together. Small
    contents are not kept: the kernel asks once for each, in one piece, and they leave holes in the heap.
    Who reads a large file from end to end takes no place from the others. The memory of a whole frame that is
    let go is that of the next one: fresh memory costs as much again as half of the decompression.
    """

    def __init__(self, content: ContentReader, limit_bytes: int) -> None:
        self._content = content
        self._limit = limit_bytes
        self._bytes = 0
        self._frames: OrderedDict[_Key, _Frame] = OrderedDict()
        self._passed: OrderedDict[_Key, None] = OrderedDict()
        self._loading: dict[_Key, trio.Event] = {}
        self._threads = trio.CapacityLimiter(LOADS)
        self._ahead: trio.Nursery | None = None

    def taken(self) -> Cache:
        """What it takes now, and may take."""
        return Cache(self._bytes, self._limit)

    async def run(self) -> None:
        """Load ahead until cancelled; without this, frames are loaded when they are asked for."""
        async with trio.open_nursery() as self._ahead:
            await trio.sleep_forever()

    async def frame(self, place: Location, size: int, index: int) -> _Frame:
        """Frame ``index`` of a content; it does not change as long as anybody has it or a view of it.

        Raises ``ContentDamagedError``, ``OSError``.
        """
        key = (place.segment, place.offset, index)
        while True:
            frame = self._frames.get(key)
            if frame is not None:
                self._frames.move_to_end(key)
                self._passed.pop(key, None)
                return frame
            loading = self._loading.get(key)
            if loading is None:
                return await self._load(key, place, size, index)
            await loading.wait()

    def at_once(self, place: Location, size: int) -> bytes | None:
        """A content of one small frame whose bytes are in the page cache; None for any other.

        Raises ``ContentDamagedError``, ``OSError``.
        """
        if size > INLINE_BYTES:
            return None
        packed = self._content.compressed_frame(place, size, 0, wait=False)
        return None if packed is None else self._content.unpack(place, size, 0, packed)

    def passed(self, place: Location, index: int) -> None:
        """One who reads a file on and on has all of frame ``index``."""
        key = (place.segment, place.offset, index)
        if key in self._frames:
            self._passed[key] = None

    def load_ahead(self, place: Location, size: int, index: int) -> None:
        """Begin to load frame ``index`` where there is one, unless it is there or all threads are busy."""
        key = (place.segment, place.offset, index)
        there = key in self._frames or key in self._loading
        if there or self._ahead is None or index * FRAME_BYTES >= size or not self._threads.available_tokens:
            return
        self._ahead.start_soon(self._try_load, key, place, size, index)

    async def _try_load(self, key: _Key, place: Location, size: int, index: int) -> None:
        """Load a frame that nobody waits for; who asks for it then meets the error."""
        if key not in self._loading and key not in self._frames:
            with contextlib.suppress(ContentDamagedError, OSError):
                await self._load(key, place, size, index)

    async def _load(self, key: _Key, place: Location, size: int, index: int) -> _Frame:
        there = self.at_once(place, size)
        if there is not None:
            return there
        self._loading[key] = done = trio.Event()
        reserved = 0
        try:
            async with self._threads:
                reserved = frame_size(size, index) + FRAME_COST
                frame: _Frame
                buffer = self._make_room(reserved)
                if buffer is not None:
                    await trio.to_thread.run_sync(self._content.frame_into, place, size, index, buffer)
                    frame = buffer
                else:
                    frame = await trio.to_thread.run_sync(self._content.frame, place, size, index)
            if size > INLINE_BYTES:
                self._frames[key] = frame
                reserved = 0
            return frame
        finally:
            self._bytes -= reserved
            del self._loading[key]
            done.set()

    def _make_room(self, size: int) -> bytearray | None:
        """Count so many bytes more. What readers have passed goes first, then what was not used for longest.

        Gives memory for a whole frame, None for another.
        """
        is_whole = size == FRAME_BYTES + FRAME_COST
        again: bytearray | None = None
        self._bytes += size
        while self._frames and (self._bytes > self._limit or len(self._passed) > BEHIND):
            key = next(iter(self._passed or self._frames))
            self._passed.pop(key, None)
            oldest = self._frames.pop(key)
            self._bytes -= len(oldest) + FRAME_COST
            if is_whole and isinstance(oldest, bytearray) and sys.getrefcount(oldest) == _ONLY_HERE:
                again = oldest
        return (again or bytearray(FRAME_BYTES)) if is_whole else None


class ContentHandle(Handle):
    """An archived content open for reading; ``locate`` says where it is now, for a repack may move it."""

    def __init__(
        self, cache: FrameCache, ino: int, place: Location, size: int, locate: Callable[[], Location]
    ) -> None:
        self.ino = ino
        self._cache = cache
        self._place = place
        self._size = size
        self._locate = locate
        self._next = 0

    def at_once(self) -> bytes | None:
        """All of a small content that needs no disk; whoever reads it is told what is wrong with it."""
        try:
            return self._cache.at_once(self._place, self._size) if self._size else None
        except (ArchiveError, OSError):
            return None

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """A part of the content, from as many frames as it touches."""
        end = min(offset + size, self._size)
        # The kernel asks for two parts at once, in any order.
        reads_on = abs(offset - self._next) <= FRAME_BYTES // 2
        self._next = end
        pieces = list[memoryview]()
        while offset < end:
            index, skip = divmod(offset, FRAME_BYTES)
            if reads_on:
                for ahead in range(1, AHEAD + 1):
                    self._cache.load_ahead(self._place, self._size, index + ahead)
            take = min(end - offset, frame_size(self._size, index) - skip)
            frame = await self._frame(index)
            pieces.append(memoryview(frame)[skip : skip + take])
            if reads_on and skip + take == len(frame):
                self._cache.passed(self._place, index)
            offset += take
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _frame(self, index: int) -> _Frame:
        """A frame from where the content is; from its new place where a repack has removed the segment."""
        while True:
            try:
                return await self._cache.frame(self._place, self._size, index)
            except SegmentMissingError:
                place = self._locate()
                if place == self._place:
                    raise
                self._place = place
