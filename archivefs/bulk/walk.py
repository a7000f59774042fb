"""Folder trees: which files lie in them, and what is left out and why. No link below the top is followed."""

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Iterator, Sequence, Set
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple, Self

from archivefs import names

SCANNED = 4000
"""Names of a folder that are held at once, and read in the order in which they lie on the disk."""
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""A pipe that took a file's place must not be waited for."""
NO_FILE = "neither a file nor a folder"
Identity = tuple[int, int]
"""Device and inode number."""


class Why(StrEnum):
    """Why something is left out."""

    JUNK = "junk"
    LINK = "link"
    SPECIAL = "special"
    KNOWN = "known"
    FAILED = "failed"


class SourceError(OSError):
    """It is the file that is the trouble, and not the place where it should go."""


class LeftOut(NamedTuple):
    """Something that is not archived. ``reason`` is for a person, '' where ``why`` says it all."""

    path: bytes
    why: Why
    reason: str = ""


class Tree:
    """A folder that a person named. May be used by any thread; can be pickled, and is then opened again."""

    def __init__(self, top: bytes) -> None:
        """Open the folder; its own path may lead over links. Raises ``OSError``."""
        self.path = top
        self._fd = _open(top, READ_FLAGS | os.O_DIRECTORY, None)
        facts = os.fstat(self._fd)
        self.identity: Identity = facts.st_dev, facts.st_ino

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.path, self.identity)

    def open(self, folder: bytes) -> int:
        """A descriptor of a folder below, b'' for the top, reached without a link. Raises ``OSError``."""
        fd = _open(b".", READ_FLAGS | os.O_DIRECTORY, self._fd)
        for name in folder.split(b"/") if folder else ():
            try:
                below = _open(name, READ_FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW, fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def close(self) -> None:
        """Close the top; nothing below can be opened any more."""
        os.close(self._fd)


@functools.lru_cache(1)
def _opened_again(top: bytes, identity: Identity) -> Tree:
    """The same folder in another process. Raises ``SourceError`` where there is another one now."""
    tree = Tree(top)
    if tree.identity != identity:
        raise SourceError(errno.ENOENT, f"{names.text(top)} is another folder now")
    return tree


class Found(NamedTuple):
    """A file: where below the top of its tree, its name, and its bytes when it was seen.

    One that was named by itself has no tree, but its path as it was given as ``given``.
    """

    folder: bytes
    name: bytes
    size: int
    tree: Tree | None
    given: bytes = b""

    @property
    def path(self) -> bytes:
        """For people."""
        return self.given if self.tree is None else _join(_join(self.tree.path, self.folder), self.name)


class Opener:
    """Opens files one after the other, and keeps the folder of the last one open."""

    def __init__(self) -> None:
        self._folder: tuple[Tree, bytes] | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    @contextlib.contextmanager
    def open(self, found: Found) -> Iterator[int]:
        """A descriptor for reading the file. Raises ``OSError``; ``SourceError`` where it is no file now."""
        if found.tree is None:
            fd = _open(found.given, READ_FLAGS, None)
        else:
            self._enter(found.tree, found.folder)
            fd = _open(found.name, READ_FLAGS | os.O_NOFOLLOW, self._fd)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SourceError(errno.EINVAL, NO_FILE)
            yield fd
        finally:
            os.close(fd)

    def _enter(self, tree: Tree, folder: bytes) -> None:
        if self._folder != (tree, folder):
            self._leave()
            self._fd = tree.open(folder)
            self._folder = (tree, folder)

    def _leave(self) -> None:
        if self._folder is not None:
            self._folder = None
            os.close(self._fd)


def _open(name: bytes, flags: int, dir_fd: int | None) -> int:
    """Open without leaving a time of access, where that is allowed: only to the owner, and to root."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, flags, dir_fd=dir_fd)


def _join(folder: bytes, name: bytes) -> bytes:
    return os.path.join(folder, name) if folder and name else folder or name  # noqa: PTH118  names are bytes


def walk(tree: Tree, junk: Sequence[str], avoid: Set[Identity]) -> Iterator[Found | LeftOut]:
    """Everything below the top, folder by folder; memory holds the names of the sub-folders to come.

    A junk name takes out the folder with all that is in it. ``avoid`` are folders that are not entered. What
    cannot be read is left out as ``FAILED``, and the rest goes on.
    """
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        below: list[bytes] = []
        try:
            yield from _scan(tree, folder, junk, avoid, below)
        except OSError as error:
            yield LeftOut(_join(tree.path, folder), Why.FAILED, reason_of(error))
        waiting += sorted(below, reverse=True)


def _scan(
    tree: Tree, folder: bytes, junk: Sequence[str], avoid: Set[Identity], below: list[bytes]
) -> Iterator[Found | LeftOut]:
    """The things in one folder; sub-folders go to ``below``."""
    path = _join(tree.path, folder)
    fd = tree.open(folder)
    try:
        facts = os.fstat(fd)
        if (facts.st_dev, facts.st_ino) in avoid:
            yield LeftOut(path, Why.SPECIAL, "the archive itself")
            return
        with os.scandir(fd) as items:
            while some := sorted(islice(items, SCANNED), key=os.DirEntry.inode):
                for item in some:
                    name = os.fsencode(item.name)
                    if names.matches(name, junk):
                        yield LeftOut(_join(path, name), Why.JUNK)
                    elif item.is_symlink():
                        yield LeftOut(_join(path, name), Why.LINK, "a symbolic link, which is not followed")
                    elif item.is_dir(follow_symlinks=False):
                        below.append(_join(folder, name))
                    elif item.is_file(follow_symlinks=False):
                        yield _found(item, tree, folder, name)
                    else:
                        yield LeftOut(_join(path, name), Why.SPECIAL, NO_FILE)
    finally:
        os.close(fd)


def _found(item: os.DirEntry[str], tree: Tree, folder: bytes, name: bytes) -> Found | LeftOut:
    try:
        return Found(folder, name, item.stat(follow_symlinks=False).st_size, tree)
    except OSError as error:
        return LeftOut(_join(_join(tree.path, folder), name), Why.FAILED, reason_of(error))


def reason_of(error: OSError) -> str:
    """What the system says, without the name of the file."""
    return error.strerror or str(error)
