"""What the tree is made of, without FUSE: directories that look up and list, files that open and read."""

import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from archivefs.states import FINAL, Status

FOREVER = 86_400.0
"""Seconds that the kernel may cache what never changes, or what is invalidated when it does."""
BRIEFLY = 1.0
"""Seconds that the kernel may cache what changes without being told, such as a directory's mtime."""
MOVING = 0.5
"""Seconds that it may cache names and facts of what a conversion is about to change.

It is not told of those changes: a message about a name waits for the lock of its folder, which a program may
hold that waits for this process; killed at that moment, both wait for ever.
"""
DIR_MODE = stat.S_IFDIR | 0o555
FILE_MODE = stat.S_IFREG | 0o444


class Attributes(NamedTuple):
    """What stat shows. ``uid``/``gid`` None: the mount's. ``blocks`` counts 512 bytes on the disk.

    ``block_bytes``: how much programs had best write at once.
    """

    ino: int
    mode: int
    size: int = 0
    blocks: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    uid: int | None = None
    gid: int | None = None
    entry_timeout: float = FOREVER
    attr_timeout: float = FOREVER
    block_bytes: int = 4096


def while_in(status: Status) -> float:
    """How long the kernel may cache what depends on an entry's status, in seconds."""
    return FOREVER if status in FINAL else MOVING


class Caller(Protocol):
    """Who makes a request, as the kernel says."""

    @property
    def uid(self) -> int:
        """The user."""

    @property
    def gid(self) -> int:
        """The group."""

    @property
    def pid(self) -> int:
        """The process or thread; 0 where it is in another PID namespace."""


class Node(ABC):
    """A file or directory of the tree; made for a request and forgotten after it, unless in the inbox."""

    ino: int

    @abstractmethod
    def attributes(self) -> Attributes:
        """What stat shows. Raises ``ArchiveError`` where the thing is gone."""

    def xattrs(self) -> Mapping[bytes, bytes]:
        """Extended attributes."""
        return {}


class Directory(Node):
    """Something with names in it.

    ``decided_by``: number of the converter and the day whose entries alone decide what is listed, None where
    something else does.
    """

    decided_by: tuple[int, int] | None = None

    @abstractmethod
    def lookup(self, name: bytes) -> Node | None:
        """The thing of that name, None where there is none."""

    @abstractmethod
    def entries(self, after: int) -> Iterator["Listed"]:
        """What is behind the cookie ``after`` (0: from the start), read page by page.

        The cookie of a thing stays the same while others come and go.
        """


Listed = tuple[int, bytes, Node | Attributes]
"""Cookie, name, and the node or, where there are many, only the attributes that it would have."""


class Handle(ABC):
    """An open file for reading."""

    keep_cache = True

    @abstractmethod
    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """Up to ``size`` bytes; fewer only at the end. Raises ``ArchiveError`` or ``OSError``."""

    def at_once(self) -> bytes | None:
        """All bytes where they never change, are few, and can be had without waiting; None else."""
        return None

    def close(self) -> None:  # noqa: B027  most hold nothing
        """Let go of what it holds."""


class File(Node):
    """Something with bytes in it."""

    @abstractmethod
    def open(self) -> Handle:
        """Open for reading."""


class Text(Handle):
    """Bytes made for this open, such as entry.json."""

    def __init__(self, content: bytes, *, keep_cache: bool) -> None:
        self._content = content
        self.keep_cache = keep_cache

    async def read(self, offset: int, size: int) -> bytes:
        """A part of the bytes."""
        return self._content[offset : offset + size]
