"""What the inbox is made of: its files and folders, and files that are open.

Each stands for one in staging, whose facts it shows; ``inbox`` has the tree of them.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from archivefs import names, routing
from archivefs.fs.node import Attributes, Directory, Handle, Listed, Node
from archivefs.parts import Actor
from archivefs.store.durable import sync_up

if TYPE_CHECKING:
    from archivefs.fs.inbox import Inbox

KERNEL_SECONDS = 1.0
"""How long the kernel may cache inbox names and attributes.

Only it changes them, but files leave by themselves. It is not told of that: such a message waits for the lock
of the folder, which a program may hold that waits for this process; killed then, both wait for ever.
"""
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


def _source_key(parts: list[bytes], inbox: "Inbox") -> tuple[bytes, bytes] | None:
    """Converter and name of the folder that is one source and to which a path leads; None where none is."""
    config = inbox.archive.config
    converter = config.converters.get(os.fsdecode(parts[0])) if len(parts) > 1 else None
    if converter is None or converter.kind != "folder" or names.matches(parts[1], config.junk):
        return None
    return parts[0], parts[1]


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
        """The converter whose folder it is in; at the top, the one whose pattern fits its name."""
        if self.is_at_top:
            return routing.converter_for(self.inbox.archive.config, self.name)
        return os.fsdecode(self.parts[0])

    @property
    def is_at_top(self) -> bool:
        """Whether it is in the inbox itself, not in the folder of a converter."""
        return self.parent.parent is None

    @property
    def folder(self) -> bytes:
        """The sub-folder within the converter's, b'' for none."""
        return b"/".join(self.parts[1:-1])

    @property
    def source_key(self) -> tuple[bytes, bytes] | None:
        """Converter and name of the folder that is one source with this in it, None where it is no part."""
        return _source_key(self.parts[:-1], self.inbox)

    @property
    def is_junk(self) -> bool:
        """Whether its name, or that of a folder above, says that it is not data or not finished."""
        junk = self.inbox.archive.config.junk
        return any(names.matches(part, junk) for part in self.parts[not self.is_at_top :])

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

    @property
    def source_key(self) -> tuple[bytes, bytes] | None:
        """Converter and name of the folder that is one source, where it is that or lies in it; else None."""
        return _source_key(self.parts, self.inbox)

    def attributes(self) -> Attributes:
        """As in staging."""
        return self.shown(os.lstat(self.inbox.path(self)))

    def lookup(self, name: bytes) -> InboxItem | None:
        """The file or folder of that name; at the top, of folders only those of the converters."""
        found = self.inbox.find(self, name)
        is_top = self.parent is None and isinstance(found, InboxDir)
        if is_top and os.fsdecode(name) not in self.inbox.archive.config.converters:
            return None
        return found

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


def _write_all(fd: int, data: bytes, offset: int) -> int:
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
    return done
