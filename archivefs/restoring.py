"""Sources back out of the archive: whole, checked, and never over something that is there."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from archivefs import attributes, folders, names
from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.errors import DestinationExistsError
from archivefs.folders import Packed
from archivefs.store.durable import make_dirs, sync_dir, sync_file


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


def path_of(archive: Archive, entry: Entry) -> bytes:
    """Where a source stands among all others: ``CONVERTER/YYYY-MM-DD/NAME``, by its name in sources/."""
    converter = archive.reader.converter_name(entry.converter_id)
    return os.fsencode(f"{converter}/{entry.day_text}/") + entry.flat_name


def target_among(archive: Archive, entry: Entry, dest: Path) -> bytes:
    """That below ``dest``, whose folders are made. Raises ``DestinationExistsError``, ``OSError``."""
    path = path_of(archive, entry)
    if not dest.is_dir():
        raise DestinationExistsError(f"{dest} is no folder; give one that exists")
    make_dirs(dest / os.fsdecode(os.path.dirname(path)))  # noqa: PTH120  names are bytes
    return os.fsencode(dest) + b"/" + path


def restore(archive: Archive, entry: Entry, target: bytes) -> None:
    """Write the source of ``entry`` to ``target`` with its mtime, mode, ``user.*`` and (as root) owner.

    The name appears only when all bytes are there, synced, and have the right SHA-256. Raises
    ``DestinationExistsError``, ``ContentDamagedError``, ``OSError``.
    """
    if os.path.lexists(target):
        raise DestinationExistsError(f"{names.text(target)} exists; nothing was overwritten")
    folder = os.path.dirname(target)  # noqa: PTH120  names are bytes
    if entry.members:
        _restore_folder(archive, entry, target, folder)
        return
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


def _restore_folder(archive: Archive, entry: Entry, target: bytes, folder: bytes) -> None:
    """The same for a source that is a folder."""
    made = tempfile.mkdtemp(prefix=b".restore-", dir=folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as tar:
            archive.copy_source(entry, tar.fileno())
            members = [Packed(*member[1:]) for member in archive.reader.members(entry.n)]
            folders.unpack(tar.fileno(), members, made)
        for below, _, files in os.walk(made):
            for name in files:
                sync_file(Path(os.fsdecode(below + b"/" + name)))
            sync_dir(Path(os.fsdecode(below)))
        os.chmod(made, entry.mode & 0o777 | 0o700)  # noqa: PTH101  names are bytes
        os.utime(made, ns=(entry.mtime_ns, entry.mtime_ns))
        try:
            os.mkdir(target)  # noqa: PTH102
        except FileExistsError:
            raise DestinationExistsError(f"{names.text(target)} exists; nothing was overwritten") from None
        os.replace(made, target)  # noqa: PTH105  an empty folder is replaced in one step
    finally:
        shutil.rmtree(made, ignore_errors=True)
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
