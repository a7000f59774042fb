"""The inbox: a folder tree that programs write into, kept as real files under ARCHIVE/staging/inbox.

Here is what the tree of files is and how it changes; ``capture`` decides when a file goes into the archive.
Staging mirrors the inbox name for name, so that after a stop it tells by itself what was being written.
Only this process writes there and it never makes links, so a path in it cannot lead outside.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import trio

from archivefs import names
from archivefs.archive import Archive
from archivefs.errors import ArchiveError, UnknownConverterError
from archivefs.events import Actor
from archivefs.fs import inodes
from archivefs.fs.node import Attributes, Caller, Directory, Handle, Listed, Node
from archivefs.store.durable import make_dirs, sync_up

log = logging.getLogger(__name__)

KERNEL_SECONDS = 1.0
"""How long the kernel may cache inbox names and attributes.

Only it changes them, but files leave by themselves. It is not told of that: such a message waits for the lock
of the folder, which a program may hold that waits for this process; killed then, both wait for ever.
"""
PATH_MAX = 4096
"""Longest path that Linux takes, with the zero behind it (linux/limits.h)."""
THREAD_BYTES = 64 << 10
"""Reads and writes from this size on go through a thread: they may wait for the disk."""


class InboxItem(Node):
    """A file or folder that the kernel knows or that is not archived yet."""

    def __init__(self, ino: int, parent: "InboxDir | None", name: bytes) -> None:
        self.ino = ino
        self.parent = parent
        self.name = name
        self.lookups = 0
        self.unlinked = False
        self.mode: int | None = None

    @property
    def parts(self) -> list[bytes]:
        """The names from the inbox down to this."""
        found: list[bytes] = []
        item: InboxItem = self
        while item.parent is not None:
            found.append(item.name)
            item = item.parent
        return found[::-1]

    def shown(self, facts: os.stat_result) -> Attributes:
        """The attributes of the file in staging as the inbox shows them."""
        mode = facts.st_mode if self.mode is None else stat.S_IFMT(facts.st_mode) | self.mode
        return Attributes(
            self.ino, mode, facts.st_size if stat.S_ISREG(mode) else 0, facts.st_blocks,
            facts.st_mtime_ns, facts.st_ctime_ns, facts.st_uid, facts.st_gid, KERNEL_SECONDS, KERNEL_SECONDS,
        )  # fmt: skip


class InboxFile(InboxItem):
    """A file. ``dirty``: it holds bytes that are in no entry yet.

    ``capturing`` is set while its bytes go into the archive; writers wait for it. ``entry_id`` is the entry
    of its last captured version, ``held`` whether its conversion is put off by new writes, ``leave_at``
    the trio time from which it may leave the inbox (None: not yet). ``write_error`` is the errno of a write
    that failed: what the file holds since then is not what its program meant, so it is not captured.
    ``replaces`` are entries of files whose name it took.
    """

    parent: "InboxDir"

    def __init__(self, ino: int, parent: "InboxDir", name: bytes, inbox: "Inbox") -> None:
        super().__init__(ino, parent, name)
        self.inbox = inbox
        self.dirty = False
        self.write_error = 0
        self.handles: list[InboxHandle] = []
        self.capturing: trio.Event | None = None
        self.entry_id = ""
        self.replaces: list[str] = []
        self.captured_ms = 0
        self.held = False
        self.leave_at: float | None = None
        self.actor: Actor | None = None

    @property
    def writers(self) -> int:
        """How many have it open for writing."""
        return sum(handle.writable for handle in self.handles)

    @property
    def converter(self) -> str:
        """The converter whose folder it is in."""
        return os.fsdecode(self.parts[0])

    @property
    def folder(self) -> bytes:
        """The sub-folder within the converter's, b'' for none."""
        return b"/".join(self.parts[1:-1])

    @property
    def is_junk(self) -> bool:
        """Whether its name, or that of a folder above, says that it is not data or not finished."""
        junk = self.inbox.archive.config.junk
        return any(names.matches(part, junk) for part in self.parts[1:])

    def attributes(self) -> Attributes:
        """As in staging; of a removed file as long as it is open."""
        if self.unlinked and self.handles:
            return self.shown(os.fstat(self.handles[0].fd))
        return self.shown(os.lstat(self.inbox.path(self)))

    def xattrs(self) -> Mapping[bytes, bytes]:
        """What writers set as ``user.*``, and the archive id once there is one."""
        path = self.inbox.path(self)
        try:
            found = {os.fsencode(key): os.getxattr(path, key) for key in os.listxattr(path)}
        except OSError:
            found = {}
        found = {key: value for key, value in found.items() if key.startswith(b"user.")}
        return found | ({b"user.archivefs.id": self.entry_id.encode()} if self.entry_id else {})


class InboxDir(InboxItem, Directory):
    """A folder: the inbox itself, one for each converter, and what writers make in those."""

    def __init__(self, ino: int, parent: "InboxDir | None", name: bytes, inbox: "Inbox") -> None:
        super().__init__(ino, parent, name)
        self.inbox = inbox
        self.known_children = 0

    def attributes(self) -> Attributes:
        """As in staging."""
        return self.shown(os.lstat(self.inbox.path(self)))

    def lookup(self, name: bytes) -> InboxItem | None:
        """The file or folder of that name; at the top, only the folders of the converters."""
        if self.parent is None and os.fsdecode(name) not in self.inbox.archive.config.converters:
            return None
        return self.inbox.find(self, name)

    def entries(self, after: int) -> Iterator[Listed]:
        """A snapshot of the names, sorted; files may come and go while it is read."""
        for cookie, name in enumerate(sorted(os.listdir(self.inbox.path(self))), 1):  # noqa: PTH208  bytes
            item = self.lookup(name) if cookie > after else None
            if item is not None:
                yield cookie, name, item


class InboxHandle(Handle):
    """An inbox file open for reading or writing."""

    def __init__(self, file: InboxFile, fd: int, pid: int, *, writable: bool) -> None:
        self.file = file
        self.fd = fd
        self.pid = pid
        self.writable = writable
        file.handles.append(self)

    async def read(self, offset: int, size: int) -> bytes:
        """A part of the file as it is now."""
        if size < THREAD_BYTES:
            return os.pread(self.fd, size, offset)
        return await trio.to_thread.run_sync(os.pread, self.fd, size, offset)

    async def write(self, offset: int, data: bytes) -> int:
        """Bytes at a place; all of them, or ``OSError``."""
        if len(data) < THREAD_BYTES:
            return _write_all(self.fd, data, offset)
        return await trio.to_thread.run_sync(_write_all, self.fd, data, offset)

    def is_held_elsewhere(self) -> bool:
        """Whether the process that opened it has a further descriptor of the file.

        Only link texts are read: asking for the file itself would be a request to this very process.
        """
        path = b"/".join((b"", self.file.inbox.root.name, *self.file.parts))
        folder = b"/proc/%d/fd" % self.pid
        try:
            return any(os.readlink(folder + b"/" + fd).endswith(path) for fd in os.listdir(folder))  # noqa: PTH115, PTH208
        except OSError:
            return False

    async def sync(self) -> None:
        """Bytes and name survive a power cut in staging."""
        await trio.to_thread.run_sync(os.fsync, self.fd)
        if not self.file.unlinked:
            inbox = self.file.inbox
            parent = Path(os.fsdecode(inbox.path(self.file.parent)))
            await trio.to_thread.run_sync(sync_up, parent, Path(os.fsdecode(inbox.top)))

    def close(self) -> None:
        """Close the file in staging."""
        self.file.handles.remove(self)
        os.close(self.fd)


class Inbox:
    """The tree. All methods that change it raise ``OSError`` with the errno that the program shall see."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.top = os.fsencode(archive.root / "staging" / "inbox")
        self._counter = 1
        self._items: dict[int, InboxItem] = {}
        self._children: dict[tuple[int, bytes], InboxItem] = {}
        self.root = InboxDir(inodes.inbox(1), None, b"inbox", self)
        self.root.mode = 0o755
        self._items[self.root.ino] = self.root
        self._chown = os.geteuid() == 0
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
                if folder is self.root and not names.is_converter_name(os.fsdecode(name)):
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
        if parent is self.root:
            known = ", ".join(sorted(self.archive.config.converters)) or "none"
            raise UnknownConverterError(
                f'"{names.text(name)}" cannot be made in inbox/: files are saved into the folder of their '
                f"converter (there are: {known})"
            )

    def create(self, parent: InboxDir, name: bytes, mode: int, who: Caller) -> InboxHandle:
        """Make a file and open it for writing; it is dirty from the start, even when empty."""
        self._require_converter(parent, name)
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
        """Raise what ``rename`` would: the converters' folders stay, other converters are other disks."""
        self._require_converter(parent, name)
        if item.parent is None or item.parent is self.root:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        if item.parts[0] != parent.parts[0]:
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


def _write_all(fd: int, data: bytes, offset: int) -> int:
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
    return done


def errno_of(error: ArchiveError | OSError) -> int:
    """The errno that a program sees for an error."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    return getattr(error, "os_errno", None) or error.errno
