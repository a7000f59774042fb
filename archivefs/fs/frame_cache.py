"""Decompressed frames, shared by all readers within one bound of memory."""

from collections import OrderedDict

import trio

from archivefs.events import Location
from archivefs.fs.node import Handle
from archivefs.store.content import ContentReader
from archivefs.store.frames import FRAME_BYTES, frame_size

CACHE_BYTES = 128 << 20
FRAME_COST = 256
"""Bytes that the cache needs for a frame beside its content: key, links, the headers of objects."""
INLINE_BYTES = 64 << 10
"""Frames of at most this content are decompressed in the trio thread when their bytes are in the page cache:
about 60 us at 1 GB/s, what a hop to another thread costs."""
_Key = tuple[str, int, int]


class FrameCache:
    """Gives frames of contents; each is decompressed once however many readers want it."""

    def __init__(self, content: ContentReader, limit_bytes: int = CACHE_BYTES) -> None:
        self._content = content
        self._limit = limit_bytes
        self._bytes = 0
        self._frames: OrderedDict[_Key, bytes] = OrderedDict()
        self._loading: dict[_Key, trio.Event] = {}

    async def frame(self, place: Location, size: int, index: int) -> bytes:
        """Frame ``index`` of a content. Raises ``ContentDamagedError``, ``OSError``."""
        key = (place.segment, place.offset, index)
        while True:
            frame = self._frames.get(key)
            if frame is not None:
                self._frames.move_to_end(key)
                return frame
            loading = self._loading.get(key)
            if loading is None:
                return await self._load(key, place, size, index)
            await loading.wait()

    async def _load(self, key: _Key, place: Location, size: int, index: int) -> bytes:
        if size <= INLINE_BYTES:
            packed = self._content.compressed_frame(place, size, index, wait=False)
            if packed is not None:
                return self._keep(key, self._content.unpack(place, size, index, packed))
        self._loading[key] = done = trio.Event()
        try:
            frame = await trio.to_thread.run_sync(self._content.frame, place, size, index)
            return self._keep(key, frame)
        finally:
            del self._loading[key]
            done.set()

    def _keep(self, key: _Key, frame: bytes) -> bytes:
        self._frames[key] = frame
        self._bytes += len(frame) + FRAME_COST
        while self._bytes > self._limit:
            _, oldest = self._frames.popitem(last=False)
            self._bytes -= len(oldest) + FRAME_COST
        return frame


class ContentHandle(Handle):
    """An archived content open for reading."""

    def __init__(self, cache: FrameCache, place: Location, size: int) -> None:
        self._cache = cache
        self._place = place
        self._size = size

    async def read(self, offset: int, size: int) -> bytes:
        """A part of the content, from as many frames as it touches."""
        end = min(offset + size, self._size)
        pieces = []
        while offset < end:
            index, skip = divmod(offset, FRAME_BYTES)
            take = min(end - offset, frame_size(self._size, index) - skip)
            frame = await self._cache.frame(self._place, self._size, index)
            pieces.append(frame if take == len(frame) else frame[skip : skip + take])
            offset += take
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
