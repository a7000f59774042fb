"""Trained dictionaries: the files of ``dictionaries/``, found by the number that frames name.

``CONVERTER-N.zdict`` is a dictionary as ``zstd --train`` makes them: the magic number 0xEC30A437, then its
own number (u32, little endian; RFC 8878, section 5). A file is written once and never changed.
"""

import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import zstandard

from archivefs.errors import ContentDamagedError
from archivefs.store.durable import make_dirs, replacing

SUFFIX = ".zdict"
FIRST_NUMBER = 32_768
"""Smaller numbers are kept for a registry that does not exist yet (RFC 8878, section 5)."""
_HEAD = struct.Struct("<II")
_MAGIC = 0xEC30A437
_local = threading.local()


class Dictionary:
    """One dictionary; may be used from any thread."""

    def __init__(self, name: str, data: bytes) -> None:
        """Raises ``ContentDamagedError`` where ``data`` is no dictionary."""
        self.name = name
        self.data = data
        magic, self.number = _HEAD.unpack(data[:8]) if len(data) > 8 else (0, 0)
        if magic != _MAGIC:
            raise ContentDamagedError(f"dictionaries/{name}{SUFFIX} is no zstd dictionary")
        self._made = zstandard.ZstdCompressionDict(data)

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """This thread's compressor with this dictionary; making one digests the dictionary, so it is kept."""
        cache: dict[tuple[str, int, int], zstandard.ZstdCompressor]
        cache = _local.__dict__.setdefault("compressors", {})
        key = (self.name, self.number, level)
        if key not in cache:
            if len(cache) >= KEPT:
                cache.pop(next(iter(cache)))
            cache[key] = zstandard.ZstdCompressor(
                level=level, dict_data=self._made, write_checksum=True, write_content_size=True
            )
        return cache[key]

    def decompressor(self) -> zstandard.ZstdDecompressor:
        """This thread's decompressor with this dictionary."""
        cache: dict[tuple[str, int], zstandard.ZstdDecompressor]
        cache = _local.__dict__.setdefault("decompressors", {})
        key = (self.name, self.number)
        if key not in cache:
            if len(cache) >= KEPT:
                cache.pop(next(iter(cache)))
            cache[key] = zstandard.ZstdDecompressor(dict_data=self._made)
        return cache[key]


KEPT = 32
"""Compressors and decompressors kept by each thread; each holds about 1 MB."""


class Dictionaries:
    """The dictionaries of an archive, loaded when they are needed and kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._by_number: dict[int, Dictionary] = {}
        self._lock = threading.Lock()

    def by_number(self, number: int) -> Dictionary:
        """The dictionary that a frame names. Raises ``ContentDamagedError`` where it cannot be read."""
        found = self._by_number.get(number)
        if found is None:
            with self._lock:
                self._load()
            found = self._by_number.get(number)
        if found is None:
            raise ContentDamagedError(f"dictionary number {number} is not in dictionaries/")
        return found

    def by_name(self, name: str) -> Dictionary:
        """The dictionary of that file. Raises ``ContentDamagedError`` where it is missing or damaged."""
        try:
            data = (self._directory / f"{name}{SUFFIX}").read_bytes()
        except FileNotFoundError:
            raise ContentDamagedError(f"dictionaries/{name}{SUFFIX} is missing") from None
        found = Dictionary(name, data)
        return self._by_number.setdefault(found.number, found)

    def _load(self) -> None:
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            try:
                found = Dictionary(path.name.removesuffix(SUFFIX), path.read_bytes())
            except (ContentDamagedError, OSError):
                continue
            self._by_number.setdefault(found.number, found)

    def save(self, name: str, data: bytes) -> Dictionary:
        """Write a new dictionary, durably. Raises ``OSError``, ``ContentDamagedError``."""
        made = Dictionary(name, data)
        make_dirs(self._directory)
        with replacing(self._directory / f"{name}{SUFFIX}") as out:
            out.write(data)
        self._by_number[made.number] = made
        return made


def train(samples: Sequence[bytes], size: int, number: int, level: int) -> bytes:
    """A dictionary of at most ``size`` bytes for contents like these, used at ``level``; takes seconds.

    Raises ``ValueError`` where they have too little in common, or are too few.
    """
    try:
        made = zstandard.train_dictionary(size, list(samples), dict_id=number, level=level, k=2000, d=8)
    except zstandard.ZstdError as error:
        raise ValueError(f"no dictionary can be made of these {len(samples)} samples: {error}") from None
    return made.as_bytes()
