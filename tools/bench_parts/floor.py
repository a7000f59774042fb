"""The floor: a pyfuse3 file system that does nothing, so that only what FUSE and pyfuse3 cost remains.

It runs as the mount of an archive does (a process of its own, trio, the same options of the mount, as many
requests at once) and shows the same tree, from memory: attributes are made before anyone asks. What the
kernel may cache, it may cache for a day. What is saved in inbox/ is kept in memory and promised nothing.

    python -m bench_parts.floor TREE MOUNTPOINT
"""

import errno
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
)

from archivefs.fs.daemon import MAX_REQUESTS
from archivefs.fs.node import FOREVER

KEPT = 16 << 20
"""Bytes of a file that are kept; of a larger one the rest reads as these again."""
PAGE = 4096
"""Names looked at for one answer; more than ever fit into it."""
FUSE_OPTIONS = {"default_permissions", "nodev", "nosuid", "noatime", "fsname=floor", "subtype=floor"}


def attributes(ino: int, mode: int, size: int = 0) -> EntryAttributes:
    """What stat shows."""
    entry = EntryAttributes()
    entry.st_ino, entry.st_mode, entry.st_size = InodeT(ino), ModeT(mode), size
    entry.st_blocks = -(-size // 512)
    entry.entry_timeout = entry.attr_timeout = FOREVER
    return entry


class Floor(pyfuse3.Operations):
    """A tree in memory; numbers of inodes are places in lists."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, tree: Path) -> None:
        super().__init__()
        self._attributes: list[EntryAttributes] = [EntryAttributes()]
        self._children: list[dict[bytes, int]] = [{}]
        self._content: list[bytes | bytearray] = [b""]
        self._listings: dict[int, list[tuple[bytes, EntryAttributes]]] = {}
        self._add_directory(tree)
        inbox = self._add(stat.S_IFDIR | 0o777)
        self._children[1][b"inbox"] = inbox
        self._children[inbox][b"files"] = self._add(stat.S_IFDIR | 0o777)

    def _add(self, mode: int, size: int = 0, content: bytes | bytearray = b"") -> int:
        ino = len(self._attributes)
        self._attributes.append(attributes(ino, mode, size))
        self._children.append({})
        self._content.append(content)
        return ino

    def _add_directory(self, directory: Path) -> int:
        ino = self._add(stat.S_IFDIR | 0o555)
        for entry in sorted(os.scandir(directory), key=lambda each: each.name):
            if entry.is_dir():
                child = self._add_directory(Path(entry))
            else:
                with open(entry, "rb") as file:  # noqa: PTH123  an entry of scandir
                    child = self._add(stat.S_IFREG | 0o444, entry.stat().st_size, file.read(KEPT))
            self._children[ino][os.fsencode(entry.name)] = child
        return ino

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """A dictionary in a list."""
        ino = self._children[parent_inode].get(name)
        if ino is None:
            raise FUSEError(errno.ENOENT)
        return self._attributes[ino]

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Everything is remembered."""

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """Made beforehand."""
        return self._attributes[inode]

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Accepted, not done."""
        return self._attributes[inode]

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """A list made once."""
        if inode not in self._listings:
            names = self._children[inode].items()
            self._listings[inode] = [(name, self._attributes[child]) for name, child in names]
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """A part of that list."""
        reply, cookie = pyfuse3.readdir_reply, start_id
        for name, entry in self._listings[fh][start_id : start_id + PAGE]:
            cookie += 1
            if not reply(token, FileNameT(name), entry, cookie):
                return

    async def releasedir(self, fh: FileHandleT) -> None:
        """Nothing."""

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """Nothing but a number."""
        return FileInfo(fh=FileHandleT(inode), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """A piece of what is in memory."""
        content = self._content[fh]
        off %= KEPT
        return bytes(content) if off == 0 and size >= len(content) else bytes(content[off : off + size])

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """A new array of bytes."""
        ino = self._add(stat.S_IFREG | 0o644, 0, bytearray())
        self._children[parent_inode][name] = ino
        return FileInfo(fh=FileHandleT(ino), keep_cache=True), self._attributes[ino]

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Into memory."""
        content = self._content[fh]
        assert isinstance(content, bytearray)
        content[off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh: FileHandleT) -> None:
        """Nothing."""

    async def release(self, fh: FileHandleT) -> None:
        """Nothing."""


def main() -> None:
    """Mount, serve until unmounted."""
    tree, mountpoint = sys.argv[1:]
    pyfuse3.init(Floor(Path(tree)), mountpoint, FUSE_OPTIONS)
    try:
        trio.run(pyfuse3.main, 1, MAX_REQUESTS)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
