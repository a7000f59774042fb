"""The whole tree: which node an inode number stands for, and what lies in the root."""

import math
import time
from collections.abc import Iterator, Sequence

from archivefs import describe, metrics, statistics
from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.errors import ArchiveError, UnknownEntryError
from archivefs.fs import inodes, readme
from archivefs.fs.control import FILES, Control, ControlDir, ControlFile, refusal
from archivefs.fs.entry import EntryNodes
from archivefs.fs.frame_cache import FrameCache
from archivefs.fs.inbox import Inbox
from archivefs.fs.inodes import Fixed, Kind, Place
from archivefs.fs.jobs import JobsTree, Live
from archivefs.fs.node import (
    BRIEFLY,
    DIR_MODE,
    Attributes,
    Directory,
    Listed,
    Node,
)
from archivefs.fs.search import FoundEntryDir, SearchDir
from archivefs.fs.views import VIEWS, ByIdDir, LevelDir, Levels


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

    def __init__(
        self, archive: Archive, inbox: Inbox, cache: FrameCache, control: Control, jobs: JobsTree
    ) -> None:
        self.archive = archive
        self._cache = cache
        self._last_metrics = (-math.inf, b"")
        self._control = control
        self._jobs = jobs
        self.inbox = inbox
        self.entries = EntryNodes(archive, cache)
        self.levels = Levels(self.entries)
        self.changed_ns = archive.now_ms() * 10**6
        self._readme = readme.text(archive)
        self.search = SearchDir(self.entries, lambda: self._fixed(Fixed.SEARCH_README))
        self.search.changed_ns = self.changed_ns
        self.top: list[tuple[int, bytes]] = [
            (int(Fixed.README), b"README.txt"),
            *((inodes.level(Place(number, 0)), view.name.encode()) for number, view in enumerate(VIEWS)),
            (int(Fixed.BY_ID), b"by-id"),
            (int(Fixed.SEARCH), b"search"),
            (inbox.root.ino, b"inbox"),
            (int(Fixed.CONTROL), b"control"),
            (int(Fixed.JOBS), b"jobs"),
            (int(Fixed.STATS), b"stats.json"),
            (int(Fixed.HEALTH), b"health.json"),
            (int(Fixed.METRICS), b"metrics"),
        ]

    def reload(self) -> None:
        """archive.toml was read again, and README.txt tells of it."""
        self._readme = readme.text(self.archive)

    def changed(self, changes: Sequence[Change]) -> None:
        """A listener for the committer."""
        self.changed_ns = self.search.changed_ns = self.archive.now_ms() * 10**6
        self.entries.changed(changes)

    def failed(self, uid: int, error: ArchiveError) -> None:
        """What a user asked for by a name is not understood; control/last-error says why."""
        self._control.failed(uid, refusal("search", error))

    def node(self, ino: int) -> Node:
        """What the number stands for. Raises ``ArchiveError`` or ``OSError`` where that is gone."""
        match inodes.kind(ino):
            case Kind.LEVEL:
                return LevelDir(self.levels, inodes.place(ino), self.changed_ns)
            case Kind.INBOX:
                return self.inbox.item(ino)
            case Kind.FIXED:
                return self._fixed(ino)
            case Kind.ENTRY if inodes.parts(ino)[2] >= inodes.QUERY_VIEW:
                n, _, view = inodes.parts(ino)
                return FoundEntryDir(self.entries, self.entries.row(n), view)
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
            case Fixed.SEARCH:
                return self.search
            case Fixed.SEARCH_README:
                return Live(ino, readme.search, self.changed_ns)
            case Fixed.README:
                return Live(ino, lambda: self._readme, self.changed_ns)
            case Fixed.STATS:
                return Live(ino, lambda: describe.as_file(statistics.collect(self.archive)), self.changed_ns)
            case Fixed.HEALTH:
                return Live(ino, lambda: describe.as_file(statistics.health(self.archive)), self.changed_ns)
            case Fixed.METRICS:
                return Live(ino, self._metrics, self.changed_ns)
            case Fixed.CONTROL:
                return ControlDir(self._fixed, self.changed_ns)
        if inodes.query_counter(ino):
            return self.search.query(inodes.query_counter(ino))
        if 0 < ino - Fixed.CONTROL <= len(FILES):
            return ControlFile(self._control, ino, FILES[ino - Fixed.CONTROL - 1], self.changed_ns)
        if ino == Fixed.JOBS or ino >= Fixed.JOB:
            return self._jobs.node(ino)
        raise UnknownEntryError(f"no inode {ino}")
