"""The inbox: a folder tree that programs write into, kept as real files under ARCHIVE/staging/inbox.

Here is what the tree of files is and how it changes; ``capture`` decides when a file goes into the archive.
Staging mirrors the inbox name for name, so that after a stop it tells by itself what was being written.
Only this process writes there and it never makes links, so a path in it cannot lead outside.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from archivefs import names
from archivefs.archive import Archive
from archivefs.errors import ArchiveError, UnknownConverterError
from archivefs.fs import inodes
from archivefs.fs.inbox_items import InboxDir, InboxFile, InboxHandle, InboxItem
from archivefs.fs.node import Caller
from archivefs.store.durable import make_dirs

log = logging.getLogger(__name__)

PATH_MAX = 4096
"""Longest path that Linux takes, with the zero behind it (linux/limits.h)."""


class Inbox:
    """The tree. All methods that change it raise ``OSError`` with the errno that the program shall see."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.top = os.fsencode(archive.root / "staging" / "inbox")
        self._counter = 1
        self._items: dict[int, InboxItem] = {}
        self._children: dict[tuple[int, bytes], InboxItem] = {}
        self.root = InboxDir(inodes.inbox(1), None, b"inbox", self)
        self.root.mode = 0o777
        self._items[self.root.ino] = self.root
        self._chown = os.geteuid() == 0
        make_dirs(Path(os.fsdecode(self.top)))
        self.add_converters()

    def add_converters(self) -> None:
        """Make the folders of converters that have none yet. Raises ``OSError``."""
        for name in self.archive.config.converters:
            folder = Path(os.fsdecode(self.top)) / name
            if not folder.exists():
                make_dirs(folder)
                folder.chmod(0o777)

    # -- finding ---------------------------------------------------------------------------------------

    def path(self, item: InboxItem) -> bytes:
        """Where it is in staging. Raises ``ESTALE`` for what has left: the kernel looks its name up again."""
        if item.unlinked:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return b"/".join((self.top, *item.parts))

    def item(self, ino: int) -> InboxItem:
        """The item of a number that the kernel knows. Raises ``ESTALE`` as ``path`` does."""
        try:
            return self._items[ino]
        except KeyError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def find(self, parent: InboxDir, name: bytes) -> InboxItem | None:
        """What stands under a name."""
        known = self._children.get((parent.ino, name))
        if known is not None:
            return known
        try:
            facts = os.lstat(self.path(parent) + b"/" + name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(facts.st_mode):
            return self._add(InboxDir(self._number(), parent, name, self))
        return self._add(InboxFile(self._number(), parent, name, self))

    def files(self) -> list[InboxFile]:
        """All files that are known at the moment."""
        return [item for item in self._items.values() if isinstance(item, InboxFile)]

    def staged(self) -> Iterator[InboxFile]:
        """All files in staging, also of converters that archive.toml no longer has."""
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            for name in sorted(os.listdir(self.path(folder))):  # noqa: PTH208  bytes
                try:
                    item = self.find(folder, name)
                except OSError as error:  # a path that became too long when a folder above was renamed
                    log.error("%r in %r cannot be looked at: %s", name[:40], folder.parts[:2], error)
                    continue
                is_folder = isinstance(item, InboxDir)
                if is_folder and folder is self.root and not names.is_converter_name(os.fsdecode(name)):
                    log.warning("%r does not belong in staging; it is left alone", name)
                elif isinstance(item, InboxDir):
                    waiting.append(item)
                elif isinstance(item, InboxFile):
                    yield item

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped ``count`` of its references."""
        item = self._items.get(ino)
        if item is not None:
            item.lookups -= count
            self.drop_if_idle(item)

    def drop_if_idle(self, item: InboxItem) -> None:
        """Forget what nobody refers to and that says nothing that staging does not say.

        References of the kernel to what was removed do not count: it keeps them for as long as it has memory,
        and all that it can ask about such a number has the same answer as about one that never was.
        """
        if item is self.root or (item.lookups > 0 and not item.unlinked):
            return
        if isinstance(item, InboxFile):
            if item.handles or (not item.unlinked and (item.dirty or item.entry_id)):
                return
        elif isinstance(item, InboxDir) and item.known_children:
            return
        if self._items.pop(item.ino, None) is not None:
            self._disconnect(item)

    def _number(self) -> int:
        self._counter += 1
        return inodes.inbox(self._counter)

    def _add(self, item: InboxItem) -> InboxItem:
        self._items[item.ino] = item
        self._connect(item)
        return item

    def _connect(self, item: InboxItem) -> None:
        assert item.parent is not None
        self._children[item.parent.ino, item.name] = item
        item.parent.known_children += 1

    def _disconnect(self, item: InboxItem) -> None:
        assert item.parent is not None
        if self._children.get((item.parent.ino, item.name)) is item:
            del self._children[item.parent.ino, item.name]
            item.parent.known_children -= 1

    # -- changing --------------------------------------------------------------------------------------

    def _require_converter(self, parent: InboxDir, name: bytes) -> None:
        """Folders at the top are those of the converters. Raises ``UnknownConverterError``."""
        if parent is self.root:
            known = ", ".join(sorted(self.archive.config.converters)) or "none"
            raise UnknownConverterError(
                f'"{names.text(name)}" cannot be made, renamed or removed in inbox/: folders there are those '
                f"of the converters in archive.toml (there are: {known})"
            )

    def create(self, parent: InboxDir, name: bytes, mode: int, who: Caller) -> InboxHandle:
        """Make a file and open it for writing; it is dirty from the start, even when empty."""
        self.archive.require_space()
        path = self.path(parent) + b"/" + name
        kept = mode & 0o7777 if self._chown else mode & 0o777 | 0o600
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, kept)
        self._own(path, who)
        os.fchmod(fd, kept)
        file = self.find(parent, name)
        assert isinstance(file, InboxFile)
        file.mode = None if self._chown else mode & 0o7777
        file.dirty = True
        return InboxHandle(file, fd, who.pid, writable=True)

    def open(self, file: InboxFile, flags: int, who: Caller) -> InboxHandle:
        """Open a file as the flags say; the kernel has checked who may."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable:
            self.archive.require_space()
        access = os.O_RDWR if writable else os.O_RDONLY
        fd = os.open(self.path(file), access | os.O_NOFOLLOW | os.O_CLOEXEC)
        return InboxHandle(file, fd, who.pid, writable=writable)

    def mkdir(self, parent: InboxDir, name: bytes, mode: int, who: Caller) -> InboxDir:
        """Make a folder inside a converter's."""
        self._require_converter(parent, name)
        self.archive.require_space()
        path = self.path(parent) + b"/" + name
        os.mkdir(path, mode & 0o7777 | 0o700)  # noqa: PTH102  bytes
        self._own(path, who)
        made = self.find(parent, name)
        assert isinstance(made, InboxDir)
        return made

    def _own(self, path: bytes, who: Caller) -> None:
        if self._chown:
            os.chown(path, who.uid, who.gid, follow_symlinks=False)

    def unlink(self, parent: InboxDir, name: bytes) -> InboxFile:
        """Remove a file; what was archived of it stays."""
        file = self._existing(parent, name)
        if not isinstance(file, InboxFile):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        os.unlink(self.path(file))  # noqa: PTH108  bytes
        self._detach(file)
        return file

    def rmdir(self, parent: InboxDir, name: bytes) -> None:
        """Remove an empty folder; those of the converters stay."""
        self._require_converter(parent, name)
        folder = self._existing(parent, name)
        if not isinstance(folder, InboxDir):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        os.rmdir(self.path(folder))  # noqa: PTH106  bytes
        self._detach(folder)

    def rename(self, item: InboxItem, parent: InboxDir, name: bytes) -> InboxFile | None:
        """Give a file or folder another name; returns the file that stood there and is gone now."""
        replaced = self.find(parent, name)
        os.rename(self.path(item), self.path(parent) + b"/" + name)  # noqa: PTH104  bytes
        if replaced is item:
            return None
        if replaced is not None:
            self._detach(replaced)
        self._disconnect(item)
        item.parent, item.name = parent, name
        self._connect(item)
        return replaced if isinstance(replaced, InboxFile) else None

    def check_rename(self, item: InboxItem, parent: InboxDir, name: bytes, *, replace: bool) -> None:
        """Raise what ``rename`` would: the converters' folders stay, other converters are other disks.

        So is the top.
        """
        if isinstance(item, InboxDir):
            self._require_converter(parent, name)
            self._require_converter(item.parent or self.root, item.name)
        if item.parts[:-1][:1] != parent.parts[:1]:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        target = self.find(parent, name)
        if target is None or target is item:
            return
        if not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if isinstance(target, InboxDir) != isinstance(item, InboxDir):
            number = errno.EISDIR if isinstance(target, InboxDir) else errno.ENOTDIR
            raise OSError(number, os.strerror(number))

    def check_length(self, folder: InboxDir, parent: InboxDir, name: bytes) -> None:
        """Raise ``ENAMETOOLONG`` where a rename would give something in ``folder`` a path that is too long.

        Reads the folder, however large; call it in a thread.
        """
        top = self.path(folder)
        grows = len(self.path(parent)) + 1 + len(name) - len(top)
        if grows <= 0:
            return
        for path, folders, files in os.walk(top):
            longest = max((len(each) for each in (*folders, *files)), default=0)
            if len(path) + 1 + longest + grows >= PATH_MAX:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    def set_mode(self, item: InboxItem, mode: int) -> None:
        """chmod. An ordinary user's daemon keeps its own access to the file."""
        path, mode = self.path(item), mode & 0o7777
        os.chmod(path, mode if self._chown else mode | 0o600)  # noqa: PTH101  bytes
        item.mode = None if self._chown else mode

    def set_owner(self, item: InboxItem, uid: int, gid: int) -> None:
        """chown; -1 keeps. Raises ``PermissionError`` where the daemon may not."""
        os.chown(self.path(item), uid, gid, follow_symlinks=False)

    def set_times(self, item: InboxItem, atime_ns: int, mtime_ns: int) -> None:
        """utimes, in nanoseconds."""
        os.utime(self.path(item), ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def set_xattr(self, item: InboxItem, name: bytes, value: bytes) -> None:
        """Keep an extended attribute as long as the file is in the inbox."""
        os.setxattr(self.path(item), name, value, follow_symlinks=False)

    def remove_xattr(self, item: InboxItem, name: bytes) -> None:
        """Remove an extended attribute."""
        os.removexattr(self.path(item), name, follow_symlinks=False)

    @property
    def leaving(self) -> Path:
        """Where folders are between leaving the inbox and being removed."""
        return self.archive.root / "staging" / "leaving"

    def take_away(self, folder: InboxDir) -> Path:
        """Take a folder out of the inbox with all that is in it, in one step; returns where it is now.

        Files that are open can be read on.
        """
        make_dirs(self.leaving)
        gone = self.leaving / str(folder.ino)
        prefix = folder.parts
        below = [item for item in self._items.values() if item.parts[: len(prefix)] == prefix]
        os.rename(self.path(folder), gone)  # noqa: PTH104  bytes
        for item in sorted(below, key=lambda each: len(each.parts), reverse=True):
            self._detach(item)
        return gone

    def below(self, folder: InboxDir) -> list[InboxFile]:
        """The known files in a folder and its sub-folders."""
        prefix = folder.parts
        return [file for file in self.files() if file.parts[: len(prefix)] == prefix and not file.unlinked]

    def _existing(self, parent: InboxDir, name: bytes) -> InboxItem:
        item = self.find(parent, name)
        if item is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return item

    def _detach(self, item: InboxItem) -> None:
        """Take a removed item out of the tree; handles that are open go on."""
        self._disconnect(item)
        item.unlinked = True
        self.drop_if_idle(item)


def errno_of(error: ArchiveError | OSError) -> int:
    """The errno that a program sees for an error."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    return getattr(error, "os_errno", None) or error.errno
