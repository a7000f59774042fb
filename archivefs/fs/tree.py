"""The whole tree: which node an inode number stands for, and what lies in the root."""

import math
import time
from collections.abc import Iterator, Sequence

from archivefs import describe, metrics, statistics
from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.errors import UnknownEntryError
from archivefs.fs import inodes, readme
from archivefs.fs.control import FILES, Control, ControlDir, ControlFile
from archivefs.fs.entry import EntryNodes
from archivefs.fs.frame_cache import FrameCache
from archivefs.fs.inbox import Inbox
from archivefs.fs.inodes import Fixed, Kind, Place
from archivefs.fs.node import (
    BRIEFLY,
    DIR_MODE,
    FILE_MODE,
    Attributes,
    Directory,
    File,
    Handle,
    Listed,
    Node,
    Text,
)
from archivefs.fs.views import VIEWS, ByIdDir, LevelDir, Levels


class LiveFile(File):
    """A small file whose content is made anew for each open, and whose size is true at each stat."""

    def __init__(self, ino: int, content: bytes, changed_ns: int) -> None:
        self.ino = ino
        self._content = content
        self._changed_ns = changed_ns

    def attributes(self) -> Attributes:
        """Never cached by the kernel."""
        when = self._changed_ns
        return Attributes(self.ino, FILE_MODE, len(self._content), 1, when, when, attr_timeout=0)

    def open(self) -> Handle:
        """A snapshot."""
        return Text(self._content, keep_cache=False)


class Root(Directory):
    """The mountpoint itself."""

    ino = int(Fixed.ROOT)

    def __init__(self, tree: "Tree") -> None:
        self._tree = tree

    def attributes(self) -> Attributes:
        """Dated by the last change of the archive."""
        when = self._tree.changed_ns
        return Attributes(self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, attr_timeout=BRIEFLY)

    def lookup(self, name: bytes) -> Node | None:
        """One of the fixed names."""
        for ino, each in self._tree.top:
            if each == name:
                return self._tree.node(ino)
        return None

    def entries(self, after: int) -> Iterator[Listed]:
        """The fixed names."""
        for cookie, (ino, name) in enumerate(self._tree.top, 1):
            if cookie > after:
                yield cookie, name, self._tree.node(ino)


class Tree:
    """Finds nodes. ``changed_ns`` is when the archive last changed."""

    def __init__(self, archive: Archive, inbox: Inbox, cache: FrameCache, control: Control) -> None:
        self.archive = archive
        self._cache = cache
        self._last_metrics = (-math.inf, b"")
        self._control = control
        self.inbox = inbox
        self.entries = EntryNodes(archive, cache)
        self.levels = Levels(self.entries)
        self.changed_ns = archive.now_ms() * 10**6
        self._readme = readme.text(archive)
        self.top: list[tuple[int, bytes]] = [
            (int(Fixed.README), b"README.txt"),
            *((inodes.level(Place(number, 0)), view.name.encode()) for number, view in enumerate(VIEWS)),
            (int(Fixed.BY_ID), b"by-id"),
            (inbox.root.ino, b"inbox"),
            (int(Fixed.CONTROL), b"control"),
            (int(Fixed.STATS), b"stats.json"),
            (int(Fixed.HEALTH), b"health.json"),
            (int(Fixed.METRICS), b"metrics"),
        ]

    def reload(self) -> None:
        """archive.toml was read again, and README.txt tells of it."""
        self._readme = readme.text(self.archive)

    def changed(self, changes: Sequence[Change]) -> None:
        """A listener for the committer."""
        self.changed_ns = self.archive.now_ms() * 10**6
        self.entries.changed(changes)

    def node(self, ino: int) -> Node:
        """What the number stands for. Raises ``ArchiveError`` or ``OSError`` where that is gone."""
        match inodes.kind(ino):
            case Kind.LEVEL:
                return LevelDir(self.levels, inodes.place(ino), self.changed_ns)
            case Kind.INBOX:
                return self.inbox.item(ino)
            case Kind.FIXED:
                return self._fixed(ino)
            case _:
                return self.entries.node(ino)

    def _metrics(self) -> bytes:
        """As they were within the last second: who opens them has looked at their size just before."""
        now = time.monotonic()
        made, content = self._last_metrics
        if now - made > BRIEFLY:
            content = metrics.text(self.archive, self._cache.taken())
            self._last_metrics = now, content
        return content

    def _fixed(self, ino: int) -> Node:
        match ino:
            case Fixed.ROOT:
                return Root(self)
            case Fixed.BY_ID:
                return ByIdDir(self.entries, self.changed_ns)
            case Fixed.README:
                return LiveFile(ino, self._readme, self.changed_ns)
            case Fixed.STATS:
                return LiveFile(ino, describe.as_file(statistics.collect(self.archive)), self.changed_ns)
            case Fixed.HEALTH:
                return LiveFile(ino, describe.as_file(statistics.health(self.archive)), self.changed_ns)
            case Fixed.METRICS:
                return LiveFile(ino, self._metrics(), self.changed_ns)
            case Fixed.CONTROL:
                return ControlDir(self._fixed, self.changed_ns)
        if 0 < ino - Fixed.CONTROL <= len(FILES):
            return ControlFile(self._control, ino, self.changed_ns)
        raise UnknownEntryError(f"no inode {ino}")
