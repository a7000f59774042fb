"""Sources back out of the archive: whole, checked, and never over something that is there."""

import contextlib
import os
import tempfile
from pathlib import Path

from archivefs import attributes, names
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.errors import DestinationExistsError
from archivefs.store.durable import sync_dir


def target_of(entry: Entry, dest: Path, *, single: bool) -> bytes:
    """Where a source goes: into the folder ``dest``, or, for a single one, to ``dest`` itself.

    Raises ``DestinationExistsError`` where ``dest`` is neither.
    """
    if dest.is_dir():
        return os.fsencode(dest) + b"/" + entry.name
    if single and not os.path.lexists(dest) and dest.absolute().parent.is_dir():
        return os.fsencode(dest)
    what = "exists and is no folder" if os.path.lexists(dest) else "is no folder"
    raise DestinationExistsError(f"{dest} {what}; give a folder that exists")


def restore(archive: Archive, entry: Entry, target: bytes) -> None:
    """Write the source of ``entry`` to ``target`` with its mtime, mode, ``user.*`` and (as root) owner.

    The name appears only when all bytes are there, synced, and have the right SHA-256. Raises
    ``DestinationExistsError``, ``ContentDamagedError``, ``OSError``.
    """
    if os.path.lexists(target):
        raise DestinationExistsError(f"{names.text(target)} exists; nothing was overwritten")
    folder = os.path.dirname(target)  # noqa: PTH120  names are bytes
    fd, temporary = tempfile.mkstemp(prefix=b".restore-", dir=folder)
    try:
        try:
            archive.copy_source(entry, fd)
            attributes.write(fd, entry.xattrs)  # before the mode, which may forbid it
            os.fchmod(fd, entry.mode & 0o777)
            if os.geteuid() == 0:
                os.fchown(fd, entry.uid, entry.gid)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            os.fsync(fd)
        finally:
            os.close(fd)
        _name(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108  names are bytes
    sync_dir(Path(os.fsdecode(folder)))


def _name(temporary: bytes, target: bytes) -> None:
    """Give the file its name unless that is taken, in one step."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise DestinationExistsError(f"{names.text(target)} exists; nothing was overwritten") from None
    except OSError:
        # A file system without hard links (exFAT, some network shares): claim the name, then replace it.
        try:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        except FileExistsError:
            raise DestinationExistsError(f"{names.text(target)} exists; nothing was overwritten") from None
        os.replace(temporary, target)  # noqa: PTH105  names are bytes
