"""Trained dictionaries: the files of ``dictionaries/``, found by the number that frames name.

``CONVERTER-N.zdict`` is a dictionary as ``zstd --train`` makes them: the magic number 0xEC30A437, then its
own number (u32, little endian; RFC 8878, section 5). A file is written once and never changed.
"""

import hashlib
import itertools
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from archivefs.errors import DictionaryError
from archivefs.store.durable import make_dirs, replacing, sync_dir

SUFFIX = ".zdict"
FIRST_NUMBER = 32_768
"""Smaller numbers are kept for a registry that does not exist yet (RFC 8878, section 5)."""
KEPT = 32
"""Compressors and decompressors kept by each thread; each holds about 1 MB."""
LOADED = 64
"""Dictionaries kept in memory; each takes about 0.4 MB."""
_HEAD = struct.Struct("<II")
_MAGIC = 0xEC30A437
_local = threading.local()


class Dictionary:
    """One dictionary; may be used from any thread."""

    def __init__(self, name: str, data: bytes) -> None:
        """Raises ``DictionaryError`` where ``data`` is no dictionary."""
        self.name = name
        self.data = data
        magic, number = _HEAD.unpack(data[: _HEAD.size]) if len(data) > _HEAD.size else (0, 0)
        self.number: int = number
        if magic != _MAGIC:
            raise DictionaryError(f"{file_of(name)} is no zstd dictionary", name)
        self._made = zstandard.ZstdCompressionDict(data)

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """This thread's compressor with this dictionary; making one digests the dictionary, so it is kept."""
        cache = _cache("compressors")
        if (self, level) not in cache:
            cache[self, level] = zstandard.ZstdCompressor(
                level=level, dict_data=self._made, write_checksum=True, write_content_size=True
            )
        found: zstandard.ZstdCompressor = _used(cache, (self, level))
        return found

    def decompressor(self) -> zstandard.ZstdDecompressor:
        """This thread's decompressor with this dictionary."""
        cache = _cache("decompressors")
        if self not in cache:
            cache[self] = zstandard.ZstdDecompressor(dict_data=self._made)
        found: zstandard.ZstdDecompressor = _used(cache, self)
        return found


def _cache(name: str) -> OrderedDict[Any, Any]:
    """What this thread keeps under that name, the last used behind the others."""
    cache: OrderedDict[Any, Any] = _local.__dict__.setdefault(name, OrderedDict())
    return cache


def _used(cache: OrderedDict[Any, Any], key: object) -> Any:  # noqa: ANN401  what the cache holds
    cache.move_to_end(key)
    while len(cache) > KEPT:
        cache.popitem(last=False)
    return cache[key]


def file_of(name: str) -> str:
    """The path of a dictionary's file in the archive."""
    return f"dictionaries/{name}{SUFFIX}"


class Dictionaries:
    """The dictionaries of an archive, loaded when they are needed. May be used from any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[int, tuple[str, str]] = {}
        self._loaded: OrderedDict[int, Dictionary] = OrderedDict()
        self._lock = threading.Lock()

    def know(self, number: int, name: str, sha256: str) -> None:
        """What the journal says of a dictionary; ``sha256`` is '' where it does not know it."""
        self._known[number] = (name, sha256)

    def by_number(self, number: int) -> Dictionary:
        """The dictionary that a frame names. Raises ``DictionaryError`` where it is missing or damaged."""
        found = self._loaded.get(number)
        if found is None:
            found = self._load(number)
            with self._lock:
                self._loaded[number] = found
                while len(self._loaded) > LOADED:
                    self._loaded.popitem(last=False)
        return found

    def _load(self, number: int) -> Dictionary:
        name, sha256 = self._known.get(number, ("", ""))
        # One that the journal does not name here: made since this process read it, or it is lost.
        names = [name] if name else [each for each in self.names() if self._number(each) == number]
        if not names:
            raise DictionaryError(f"dictionary number {number} is not in dictionaries/")
        found = read(self._directory, names[0], sha256)
        if found.number != number:
            raise DictionaryError(f"{file_of(found.name)} is number {found.number}, not {number}", found.name)
        return found

    def names(self) -> list[str]:
        """The names of all files that are there."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self._directory.glob(f"*{SUFFIX}"))

    def _number(self, name: str) -> int:
        """The number that a file begins with, 0 where it cannot be read."""
        try:
            with (self._directory / f"{name}{SUFFIX}").open("rb") as file:
                head = file.read(_HEAD.size)
        except OSError:
            return 0
        magic, number = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
        return number if magic == _MAGIC else 0

    def save(self, converter: str, data: bytes) -> Dictionary:
        """Write a new dictionary, durably, with a name and a number that none has, journaled or not.

        Raises ``OSError``, ``DictionaryError``.
        """
        files = self.names()
        taken = {*files, *(name for name, _ in self._known.values())}
        names = (f"{converter}-{count}" for count in itertools.count(1))
        name = next(name for name in names if name not in taken)
        number = max((FIRST_NUMBER - 1, *self._known, *map(self._number, files))) + 1
        made = Dictionary(name, data[:4] + number.to_bytes(4, "little") + data[_HEAD.size :])
        make_dirs(self._directory)
        sync_dir(self._directory.parent)
        with replacing(self._directory / f"{made.name}{SUFFIX}") as out:
            out.write(made.data)
        return made

    def remove(self, name: str) -> None:
        """Take back a dictionary that nothing uses. Raises ``OSError``."""
        (self._directory / f"{name}{SUFFIX}").unlink()


def read(directory: Path, name: str, sha256: str) -> Dictionary:
    """The dictionary in a file; ``sha256`` is that of the file, '' where it is not known.

    Raises ``DictionaryError`` where the file is missing, cannot be read, or is not what was written.
    """
    try:
        data = (directory / f"{name}{SUFFIX}").read_bytes()
    except FileNotFoundError:
        raise DictionaryError(f"{file_of(name)} is missing", name) from None
    except OSError as error:
        raise DictionaryError(f"{file_of(name)} cannot be read: {error.strerror}", name) from None
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise DictionaryError(f"{file_of(name)} is damaged: its SHA-256 is another", name)
    return Dictionary(name, data)


def train(samples: Sequence[bytes], size: int, level: int) -> bytes:
    """A dictionary of at most ``size`` bytes for contents like these, used at ``level``; takes seconds.

    Its number is no more than that of a draft. Raises ``ValueError`` where the samples have too little in
    common, or are too few.
    """
    try:
        made = zstandard.train_dictionary(size, list(samples), level=level, k=2000, d=8)
    except zstandard.ZstdError as error:
        raise ValueError(f"no dictionary can be made of these {len(samples)} samples: {error}") from None
    return made.as_bytes()
