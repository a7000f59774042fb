"""Decompressed frames, shared by all readers within one bound of memory, and loaded ahead of who reads on."""

import contextlib
import itertools
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence

import trio

from archivefs.errors import ArchiveError, ContentDamagedError, SegmentMissingError
from archivefs.fs.node import Handle
from archivefs.metrics import Cache
from archivefs.parts import Location
from archivefs.store.content import ContentReader
from archivefs.store.frames import bytes_in_frame

FRAME_COST = 256
"""Bytes that the cache needs for a frame beside its content: key, links, the headers of objects."""
INLINE_BYTES = 64 << 10
"""Frames of at most this content are decompressed in the trio thread when their bytes are in the page cache:
about 60 us at 1 GB/s, what a hop to another thread costs."""
LOADS = 8
"""Runs of frames loaded at once: more would wait for the processors, fewer for a slow disk."""
RUN_BYTES = 1 << 20
"""What is loaded at once for one who reads a file on and on: 1.2 ms of work for a hop of 0.1 ms."""
LEAST_BYTES = LOADS * RUN_BYTES
"""With less memory than this, frames would be dropped before they are read."""
BEHIND_BYTES = 8 << 20
"""So much stays of what those are past who read on and on. The kernel has its pages, and memory that was used
just now is still in the processor's cache."""
AHEAD = 2
"""Runs loaded ahead of one who reads a file on and on: what two processors decompress meanwhile."""
ASTRAY_BYTES = 512 << 10
"""Whoever begins no further from the end of the last part reads on: the kernel asks for two parts at once."""
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
        self._frames: OrderedDict[_Key, bytearray] = OrderedDict()
        self._passed: OrderedDict[_Key, None] = OrderedDict()
        self._passed_bytes = 0
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

    async def frame_size(self, place: Location, size: int) -> int:
        """Bytes in each frame of a content but the last. Raises ``ContentDamagedError``, ``OSError``."""
        known = self._content.known_layout(place, size)
        if known is None:
            known = await trio.to_thread.run_sync(self._content.layout, place, size, limiter=self._threads)
        return known.frame_size

    async def frame(self, place: Location, size: int, index: int) -> _Frame:
        """Frame ``index`` of a content; it does not change as long as anybody has it or a view of it.

        Raises ``ContentDamagedError``, ``OSError``.
        """
        key = (place.segment, place.offset, index)
        while True:
            frame = self._frames.get(key)
            if frame is not None:
                self._frames.move_to_end(key)
                self._unpass(key, frame)
                return frame
            loading = self._loading.get(key)
            if loading is None:
                return await self._load(place, size, [key])
            await loading.wait()

    def at_once(self, place: Location, size: int) -> bytes | None:
        """A content of one small frame whose bytes are in the page cache; None for any other.

        Raises ``ContentDamagedError``, ``OSError``.
        """
        return None if size > INLINE_BYTES else self._content.at_once(place, size)

    def passed(self, place: Location, index: int) -> None:
        """One who reads a file on and on has all of frame ``index``."""
        key = (place.segment, place.offset, index)
        if key in self._frames and key not in self._passed:
            self._passed[key] = None
            self._passed_bytes += len(self._frames[key])

    def _unpass(self, key: _Key, frame: _Frame) -> None:
        if key in self._passed:
            del self._passed[key]
            self._passed_bytes -= len(frame)

    def load_ahead(self, place: Location, size: int, index: int) -> None:
        """Begin to load what follows frame ``index``, by runs, unless it is there or all threads are busy."""
        layout = self._content.known_layout(place, size)
        if self._ahead is None or layout is None:
            return
        run, end = RUN_BYTES // layout.frame_size, len(layout.starts) - 1
        first = index + 1
        for last in range(index - index % run + run, index + (AHEAD + 1) * run + 1, run):
            keys = self._missing(place, first, min(last, end))
            if keys and self._threads.available_tokens:
                self._ahead.start_soon(self._try_load, place, size, first, first + len(keys))
            first = last

    def _missing(self, place: Location, first: int, last: int) -> list[_Key]:
        """The frames from ``first`` on, before ``last``, up to one that is there or being loaded."""
        keys = ((place.segment, place.offset, index) for index in range(first, last))
        return [*itertools.takewhile(lambda key: key not in self._frames and key not in self._loading, keys)]

    async def _try_load(self, place: Location, size: int, first: int, last: int) -> None:
        """Load frames that nobody waits for; who asks for them then meets the error."""
        keys = self._missing(place, first, last)
        if keys:
            with contextlib.suppress(ContentDamagedError, OSError):
                await self._load(place, size, keys)

    async def _load(self, place: Location, size: int, keys: Sequence[_Key]) -> _Frame:
        """Load frames that lie beside each other; gives the first."""
        there = self.at_once(place, size)
        if there is not None:
            return there
        done = trio.Event()
        self._loading.update(dict.fromkeys(keys, done))
        reserved = 0
        try:
            frame_size = await self.frame_size(place, size)
            sizes = [bytes_in_frame(size, frame_size, index) for _, _, index in keys]
            async with self._threads:
                reserved = sum(sizes) + len(keys) * FRAME_COST
                buffers = self._make_room(sizes)
                await trio.to_thread.run_sync(self._content.frames_into, place, size, keys[0][2], buffers)
            if size > INLINE_BYTES:
                self._frames.update(zip(keys, buffers, strict=True))
                reserved = 0
            return buffers[0]
        finally:
            self._bytes -= reserved
            for key in keys:
                del self._loading[key]
            done.set()

    def _make_room(self, sizes: Sequence[int]) -> list[bytearray]:
        """Memory for frames of these sizes; it is counted.

        What readers have passed goes first, then what was not used for longest.
        """
        free: list[bytearray] = []
        self._bytes += sum(sizes) + len(sizes) * FRAME_COST
        while self._frames and (self._bytes > self._limit or self._passed_bytes > BEHIND_BYTES):
            key = next(iter(self._passed or self._frames))
            oldest = self._frames.pop(key)
            self._unpass(key, oldest)
            self._bytes -= len(oldest) + FRAME_COST
            if len(oldest) == sizes[0] and sys.getrefcount(oldest) == _ONLY_HERE:
                free.append(oldest)
        return [free.pop() if free and len(free[-1]) == size else bytearray(size) for size in sizes]


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
        reads_on = abs(offset - self._next) <= ASTRAY_BYTES
        self._next = end
        pieces = list[memoryview]()
        while offset < end:
            place = self._place
            try:
                piece = await self._piece(place, offset, end, reads_on=reads_on)
            except SegmentMissingError:
                self._place = self._locate()  # a repack has removed the segment
                if place == self._place:
                    raise
            else:
                pieces.append(piece)
                offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _piece(self, place: Location, offset: int, end: int, *, reads_on: bool) -> memoryview:
        """What one frame has of a part of the content; more is loaded for one who reads on."""
        size = self._size
        index, skip = divmod(offset, await self._cache.frame_size(place, size))
        if reads_on:
            self._cache.load_ahead(place, size, index)
        frame = await self._cache.frame(place, size, index)
        piece = memoryview(frame)[skip : skip + end - offset]
        if reads_on and skip + len(piece) == len(frame):
            self._cache.passed(place, index)
        return piece
