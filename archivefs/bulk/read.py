"""Files read whole or not at all: what changes meanwhile is noticed, and the files are left as they are."""

import errno
import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple, TypeVar

from archivefs import attributes, names
from archivefs.bulk.walk import Found, LeftOut, Opener, SourceError, Why, reason_of
from archivefs.catalog.reader import Reader
from archivefs.errors import CaptureFailedError
from archivefs.operations import clamped
from archivefs.store.dictionaries import read
from archivefs.store.frames import PIECE_BYTES, Encoded, encode_bytes, encode_file

TRIES, PAUSE_SECONDS = 4, 0.1
"""How often a file that changes is read, and how long it is left alone before the next time."""
TICK_NS = 20_000_000
"""Longest step of the clock from which the kernel takes a file's times."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""What reading a source never says: the archive's disk, or this process, is at its end."""
KNOWN_CONTENTS = 256
"""Contents whose entries are remembered: many files can have the same one, such as none."""
T = TypeVar("T")


class Source(NamedTuple):
    """A file as it was read, with what is kept of it. ``content`` is None in a dry run."""

    size: int
    content: Encoded | None
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    xattrs: dict[str, str]

    def close(self) -> None:
        """Free the spool file of large content."""
        if self.content is not None:
            self.content.close()


Taken = Source | LeftOut | None
"""What came of a file; None where it is for another to take."""


class How(NamedTuple):
    """How files are read: the zstd level, the dictionary ('' for none) of which folder, where large ones are
    spooled, and in which catalog is looked up whether the converter has the file already ('' for none)."""

    converter: str
    level: int
    dictionary: str
    dictionaries: Path
    spool_dir: Path
    dry_run: bool
    catalog: str


class Taker:
    """Reads files. May be used by several threads."""

    def __init__(self, how: How, *, large: bool = True) -> None:
        """Without ``large``, what has more than ``PIECE_BYTES`` is left to another.

        Raises ``CatalogError``, ``DictionaryError``.
        """
        self._how = how
        self._dictionary = read(how.dictionaries, how.dictionary, "") if how.dictionary else None
        self._large = large
        self._lock = threading.Lock()
        self._reader = Reader.open(Path(how.catalog)) if how.catalog else None
        self._places = functools.lru_cache(KNOWN_CONTENTS)(self._places_of)

    def close(self) -> None:
        """Let go of the catalog."""
        if self._reader is not None:
            self._reader.close()

    def take_all(self, chunk: Sequence[Found]) -> list[Taken]:
        """What came of each file. Raises ``CaptureFailedError`` where the archive's disk has no room."""
        made: list[Taken] = []
        with Opener() as opener:
            try:
                for found in chunk:
                    made.append(self._take(found, opener))
            except BaseException:
                for each in made:
                    if isinstance(each, Source):
                        each.close()
                raise
        return made

    def _take(self, found: Found, opener: Opener) -> Taken:
        try:
            with opener.open(found) as fd:
                made = unchanged(fd, lambda facts: self._take_once(found, fd, facts))
                if isinstance(made, Source) and made.content is not None and made.content.size != made.size:
                    made.close()
                    raise SourceError(errno.EIO, f"it has {made.content.size} of its {made.size} bytes")
                return made
        except OSError as error:
            if error.errno in FULL:
                where = names.text(found.path)
                reason = f"{where} could not be taken: {reason_of(error)}"
                raise CaptureFailedError(reason, error.errno) from None
            return LeftOut(found.path, Why.FAILED, reason_of(error))

    def _take_once(self, found: Found, fd: int, facts: os.stat_result) -> Taken:
        content = None
        if facts.st_size <= PIECE_BYTES:
            content = b"".join(pieces(fd, facts.st_size))
        elif not self._large:
            return None
        if self._reader is not None and self._is_known(found, fd, facts, content):
            return LeftOut(found.path, Why.KNOWN)
        encoded = None
        if not self._how.dry_run:
            if content is None:
                encoded = encode_file(fd, self._how.level, self._how.spool_dir, self._dictionary)
            else:
                encoded = encode_bytes(content, self._how.level, self._dictionary)
        return Source(
            facts.st_size, encoded, facts.st_mtime_ns, facts.st_mode & 0o7777, facts.st_uid, facts.st_gid,
            attributes.read(fd),
        )  # fmt: skip

    def _is_known(self, found: Found, fd: int, facts: os.stat_result, content: bytes | None) -> bool:
        """Whether an entry is this very file. What is captured meanwhile comes from another place."""
        digest = hashlib.sha256()
        for piece in pieces(fd, facts.st_size) if content is None else (content,):
            digest.update(piece)
        with self._lock:
            places = self._places(digest.hexdigest())
        return (found.folder, found.name, clamped(facts.st_mtime_ns)) in places

    def _places_of(self, sha256: str) -> Set[tuple[bytes, bytes, int]]:
        assert self._reader is not None
        return self._reader.places_of_content(self._how.converter, sha256)


def unchanged(fd: int, read: Callable[[os.stat_result], T]) -> T:
    """What ``read`` makes of an open file that nobody changes meanwhile; it is called again where one did.

    Raises ``SourceError`` where that does not end (EBUSY).
    """
    for _ in range(TRIES):
        before = os.fstat(fd)
        if _is_fresh(before):
            time.sleep(TICK_NS / 1e9)
            before = os.fstat(fd)
        if not _is_fresh(before):
            made = read(before)
            if _version(before) == _version(os.fstat(fd)):
                return made
            if isinstance(made, Source):
                made.close()
        time.sleep(PAUSE_SECONDS)
    raise SourceError(errno.EBUSY, "it changes while it is read")


def _is_fresh(facts: os.stat_result) -> bool:
    """Whether the file may change once more without a change of its times."""
    return 0 <= time.time_ns() - facts.st_ctime_ns < TICK_NS


def _version(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def pieces(fd: int, size: int) -> Iterator[bytes]:
    """The first ``size`` bytes of a file, or what there is of them. Raises ``SourceError``."""
    at = 0
    while at < size:
        try:
            piece = os.pread(fd, min(PIECE_BYTES, size - at), at)
        except OSError as error:
            raise SourceError(error.errno, error.strerror) from None
        if not piece:
            return
        yield piece
        at += len(piece)
