"""A mount of the worst kind: ARCHIVE MOUNTPOINT. Listing ``stuck/`` never ends, and holds the folder's lock.

Meanwhile a thread tells the kernel to forget a name in there and waits for that lock. Killed now, the process
keeps its archive and its mount, and whoever asks the mount waits.
"""

import errno
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileNameT, FUSEError, InodeT

from archivefs.archive import Archive
from archivefs.fs import mounts

STUCK = InodeT(2)
os.environ.setdefault("PYTHONUNBUFFERED", "1")


class Hanging(pyfuse3.Operations):
    """A root with one folder."""

    async def getattr(self, inode: InodeT, ctx: Any = None) -> EntryAttributes:  # noqa: ANN401
        entry = EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755)
        return entry

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: Any) -> EntryAttributes:  # noqa: ANN401
        if name != b"stuck":
            raise FUSEError(errno.ENOENT)
        return await self.getattr(STUCK)

    async def opendir(self, inode: InodeT, ctx: Any) -> FileHandleT:  # noqa: ANN401
        return FileHandleT(int(inode))

    async def readdir(self, fh: FileHandleT, start_id: int, token: Any) -> None:  # noqa: ANN401
        if fh != STUCK:
            return
        threading.Thread(
            target=pyfuse3.invalidate_entry, args=(STUCK, FileNameT(b"name")), daemon=True
        ).start()
        print("stuck", flush=True)
        await trio.sleep_forever()


def main() -> None:
    root, point = map(Path, sys.argv[1:])
    with Archive(root) as archive:
        archive.note_mountpoint(str(point))
        options = {f"fsname={mounts.source_of(root)}", f"subtype={mounts.SUBTYPE}"}
        pyfuse3.init(Hanging(), str(point), options)
        print("mounted", flush=True)
        trio.run(pyfuse3.main)


if __name__ == "__main__":
    main()
