"""An entry as a directory: the source under its name, what is known about it, its reports and attempts."""

import functools
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from archivefs import describe, names
from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.catalog.rows import Attempt, Entry, Source, Stored
from archivefs.errors import UnknownEntryError
from archivefs.fs import inodes
from archivefs.fs.frame_cache import ContentHandle, FrameCache
from archivefs.fs.inodes import Kind, Slot
from archivefs.fs.members import Index, Members, SourceFolder
from archivefs.fs.node import (
    BRIEFLY,
    DIR_MODE,
    FILE_MODE,
    FOREVER,
    MOVING,
    Attributes,
    Directory,
    File,
    Handle,
    Listed,
    Node,
    Text,
    while_in,
)
from archivefs.parts import Location
from archivefs.states import Outcome, Status

WITH_ERROR = (Outcome.FAILED, Outcome.SUSPENDED, Outcome.TRANSIENT, Outcome.REJECTED)
"""Outcomes after which error.txt stands beside the source."""


RECENT_SECONDS = 1.0
"""So long after a change an entry's facts are read past the kernel's cache."""
DESCRIBED = 512
"""How many entry.json are kept, 4 KB each: a listing asks for the size, a reader for the bytes."""


INDEXED = 16
"""Sources that are folders whose members are kept in memory, some 300 bytes for each member."""
LOOKED_UP = 64
"""Sources whose rows are kept from a lookup to the open that follows it."""


def source_ino(n: int) -> int:
    """The inode number of an entry's source."""
    return inodes.entry_part(Kind.FILE, n, 0, Slot.SOURCE)


def source_attributes(
    n: int, size: int, length: int, mtime_ns: int, members: int, status: Status
) -> Attributes:
    """What stat shows of a source: its size, and the blocks that its record of ``length`` bytes takes."""
    known = while_in(status)
    if members:
        return Attributes(source_ino(n), DIR_MODE, 0, 0, mtime_ns, mtime_ns, None, None, known, known)
    return Attributes(
        source_ino(n), FILE_MODE, size, -(-length // 512), mtime_ns, mtime_ns, None, None, known, known
    )


def entry_attributes(n: int, captured_ms: int, view: int, status: Status | None) -> Attributes:
    """What stat shows of an entry's directory; it is dated by the capture. ``status`` None: for by-id/."""
    when, known = captured_ms * 10**6, FOREVER if status is None else while_in(status)
    ino = inodes.entry_part(Kind.ENTRY, n, 0, view)
    return Attributes(ino, DIR_MODE, 0, 0, when, when, None, None, known, BRIEFLY)


class ContentFile(File):
    """Archived bytes: the source, a report or a log."""

    def __init__(
        self,
        cache: FrameCache,
        ino: int,
        place: Location,
        locate: Callable[[], Location],
        size: int,
        mtime_ns: int,
        facts: Mapping[bytes, bytes] | None = None,
        known: float = FOREVER,
    ) -> None:
        self.ino = ino
        self._cache = cache
        self._place = place
        self._locate = locate
        self._size = size
        self._mtime_ns = mtime_ns
        self._facts = {} if facts is None else facts  # asked whether it is empty, it would be made
        self._known = known

    def attributes(self) -> Attributes:
        """The original size; the blocks that the record takes on the disk."""
        blocks = -(-self._place.length // 512)
        return Attributes(
            self.ino, FILE_MODE, self._size, blocks, self._mtime_ns, self._mtime_ns,
            entry_timeout=self._known, attr_timeout=self._known,
        )  # fmt: skip

    def xattrs(self) -> Mapping[bytes, bytes]:
        """``user.archivefs.*`` for sources."""
        return self._facts

    def open(self) -> ContentHandle:
        """Read through the shared cache of frames."""
        return ContentHandle(self._cache, self.ino, self._place, self._size, self._locate)


class TextFile(File):
    """Bytes made from the catalog, kept by the kernel as long as their mtime is the same.

    Of what is about to change it keeps neither bytes nor attributes: it would cut new bytes at the old size.
    """

    def __init__(self, ino: int, content: bytes, mtime_ns: int, known: float) -> None:
        self.ino = ino
        self._content = content
        self._mtime_ns = mtime_ns
        self._known = known
        self._lasts = known >= FOREVER

    def attributes(self) -> Attributes:
        """The size of the bytes; they take no blocks of their own."""
        return Attributes(
            self.ino, FILE_MODE, len(self._content), 1, self._mtime_ns, self._mtime_ns,
            entry_timeout=self._known, attr_timeout=FOREVER if self._lasts else 0,
        )  # fmt: skip

    def open(self) -> Handle:
        """The bytes as they are now."""
        return Text(self._content, keep_cache=self._lasts)


class EntryNodes:
    """Makes the nodes of entries; ``archive`` answers, ``cache`` holds decompressed frames."""

    def __init__(self, archive: Archive, cache: FrameCache) -> None:
        self.archive = archive
        self.cache = cache
        self._looked_up: dict[int, Source] = {}
        self._recent: OrderedDict[int, float] = OrderedDict()
        self._indexed = functools.lru_cache(INDEXED)(lambda n: Index(archive.reader.members(n)))
        self._described = functools.lru_cache(DESCRIBED)(self._describe)

    def _describe(self, entry: Entry) -> bytes:
        return describe.as_file(describe.entry(self.archive, entry))

    def row(self, n: int) -> Entry:
        """The entry. Raises ``UnknownEntryError``."""
        entry = self.archive.reader.entry(n)
        if entry is None or entry.status is Status.PURGED:
            raise UnknownEntryError(f"there is no entry number {n} any more")
        return entry

    def node(self, ino: int) -> Node:
        """The directory or file of an entry that has this number. Raises ``UnknownEntryError``."""
        n, attempt, last = inodes.parts(ino)
        match inodes.kind(ino):
            case Kind.ENTRY:
                return EntryDir(self, self.row(n), last)
            case Kind.ATTEMPTS:
                return AttemptsDir(self, n, last)
            case Kind.ATTEMPT:
                return AttemptDir(self, n, attempt, last)
            case Kind.MEMBER:
                n, ordinal = inodes.member_parts(ino)
                return self._members(self._source(n)).node(ordinal)
            case _:
                return self._file(n, attempt, last)

    def _file(self, n: int, attempt: int, slot: int) -> Node:
        if slot == Slot.SOURCE:
            return self.source(self._source(n))
        if slot == Slot.ENTRY_JSON:
            return self.entry_json(self.row(n))
        if slot == Slot.ERROR:
            return self.error(self.row(n), counting(self.archive.reader.attempts(n))[-1])
        for _, node in AttemptDir(self, n, attempt, 0).named():
            if node.ino == inodes.entry_part(Kind.FILE, n, attempt, slot):
                return node
        raise UnknownEntryError(f"entry number {n} has no such file any more")

    def _source(self, n: int) -> Source:
        source = self._looked_up.get(n) or self.archive.reader.source(n)
        if source is None:
            raise UnknownEntryError(f"there is no entry number {n} any more")
        return source

    def changed(self, changes: Sequence[Change]) -> None:
        """A listener for the committer."""
        now = time.monotonic()
        for change in changes:
            self._looked_up.pop(change.n, None)
            self._recent[change.n] = now
            self._recent.move_to_end(change.n)
        while self._recent and now - next(iter(self._recent.values())) > RECENT_SECONDS:
            self._recent.popitem(last=False)

    def _members(self, source: Entry | Source) -> Members:
        """What is in a source that is a folder."""
        index = self._indexed(source.n)
        return Members(source.n, index, lambda: self._content(source).open(), while_in(source.status))

    def source(self, source: Entry | Source) -> ContentFile | SourceFolder:
        """The source of an entry: a file, or a directory where it is a folder."""
        if not source.members:
            return self._content(source)
        facts = describe.LazyXattrs(self.archive, source.n)
        return SourceFolder(source_ino(source.n), self._members(source), source.mtime_ns, facts)

    def _content(self, source: Entry | Source) -> ContentFile:
        """The content of a source, as a file."""
        n = source.n
        if isinstance(source, Source):  # an open follows
            self._looked_up[n] = source
            if len(self._looked_up) > LOOKED_UP:
                del self._looked_up[next(iter(self._looked_up))]
        facts = describe.LazyXattrs(self.archive, n)
        return ContentFile(
            self.cache, source_ino(n), self.archive.reader.location(source), partial(self._source_place, n),
            source.size, source.mtime_ns, facts, while_in(source.status),
        )  # fmt: skip

    def _source_place(self, n: int) -> Location:
        """Where the source of an entry lies now."""
        return self.archive.reader.location(self._source(n))

    def entry_json(self, entry: Entry) -> TextFile:
        """All that is known about an entry."""
        ino = inodes.entry_part(Kind.FILE, entry.n, 0, Slot.ENTRY_JSON)
        content = self._described(entry)
        # The digits below a millisecond tell the versions apart, for the kernel's cache.
        when = entry.captured_ms * 10**6 + entry.changed_seq % 10**6
        return TextFile(ino, content, when, self.known_for(entry))

    def known_for(self, entry: Entry) -> float:
        """As ``while_in``, and briefly while a delivery is about to change what is known, or just has.

        Attributes that the kernel got before the change count for it until the next tick of its clock: it
        would cut the new bytes at the old size.
        """
        if time.monotonic() - self._recent.get(entry.n, -RECENT_SECONDS) < RECENT_SECONDS:
            return MOVING
        queued = entry.attempts and self.archive.reader.outbox.is_queued(entry.n)
        return MOVING if queued else while_in(entry.status)

    def error(self, entry: Entry, attempt: Attempt) -> TextFile:
        """Why the last attempt failed."""
        ino = inodes.entry_part(Kind.FILE, entry.n, 0, Slot.ERROR)
        return TextFile(
            ino, attempt.error.encode() + b"\n", attempt.started_ms * 10**6, while_in(entry.status)
        )

    def stored(self, stored: Stored, mtime_ns: int, known: float = FOREVER) -> ContentFile | None:
        """A report or log, None where it was not kept."""
        if stored.location is None or stored.ordinal > inodes.MAX_REPORT:
            return None
        slot = Slot.REPORT + stored.ordinal if stored.ordinal else Slot.LOG
        ino = inodes.entry_part(Kind.FILE, stored.n, stored.attempt, slot)
        locate = partial(self._stored_place, stored)
        return ContentFile(self.cache, ino, stored.location, locate, stored.size, mtime_ns, known=known)

    def _stored_place(self, stored: Stored) -> Location:
        """Where a report or log lies now. Raises ``UnknownEntryError`` where it is kept no more."""
        for each in self.archive.reader.contents(stored.n):
            if (each.attempt, each.ordinal) == (stored.attempt, stored.ordinal) and each.location is not None:
                return each.location
        raise UnknownEntryError(f"{stored.name} of attempt {stored.attempt} is not kept any more")


class _NamedDir(Directory):
    """A small directory whose names are made all at once."""

    @abstractmethod
    def named(self) -> list[tuple[bytes, Node]]:
        """All names and nodes, in the order shown."""

    def lookup(self, name: bytes) -> Node | None:
        """The node of a name."""
        return next((node for each, node in self.named() if each == name), None)

    def entries(self, after: int) -> Iterator[Listed]:
        """All at once; cookies count from 1."""
        for cookie, (name, node) in enumerate(self.named(), 1):
            if cookie > after:
                yield cookie, name, node


class EntryDir(_NamedDir):
    """``HHMMSS_xxxxxx_NAME/`` in a view, or ``by-id/ID/``."""

    def __init__(self, nodes: EntryNodes, entry: Entry, view: int) -> None:
        self.ino = inodes.entry_part(Kind.ENTRY, entry.n, 0, view)
        self._nodes = nodes
        self._entry = entry
        self._view = view
        self.decided_by = entry.converter_id, entry.day

    def attributes(self) -> Attributes:
        """Dated by the capture."""
        status = None if self._view == inodes.BY_ID_VIEW else self._entry.status
        return entry_attributes(self._entry.n, self._entry.captured_ms, self._view, status)

    def xattrs(self) -> Mapping[bytes, bytes]:
        """``user.archivefs.*``."""
        return describe.xattrs(self._nodes.archive, self._entry)

    def named(self) -> list[tuple[bytes, Node]]:
        """The source keeps its name; another thing that would have the same gets ``~2``."""
        entry, nodes = self._entry, self._nodes
        reader = nodes.archive.reader
        found: list[tuple[bytes, Node]] = [(entry.name, nodes.source(entry))]

        def add(name: bytes, node: Node) -> None:
            found.append((name if name != entry.name else names.numbered(name, 2), node))

        add(b"entry.json", nodes.entry_json(entry))
        attempts = reader.attempts(entry.n) if entry.attempts else []
        count = counting(attempts)
        if count:
            numbers = {each.attempt for each in count}
            contents = [each for each in reader.contents(entry.n) if each.attempt in numbers]
            latest = max((each.attempt for each in contents if each.ordinal), default=0)
            for stored in contents:
                when = attempts[stored.attempt - 1].started_ms * 10**6
                if stored.attempt != latest or not stored.ordinal:
                    continue
                node = nodes.stored(stored, when, while_in(entry.status))
                if node is not None:
                    add(stored.name.encode(), node)
            if count[-1].error and count[-1].outcome in WITH_ERROR:
                add(b"error.txt", nodes.error(entry, count[-1]))
        if attempts:
            add(b"attempts", AttemptsDir(nodes, entry.n, self._view))
        return found


def counting(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those that say what the entry is, or said so; without replays that only stand beside."""
    return [each for each in attempts if each.promoted]


class AttemptsDir(_NamedDir):
    """``attempts/``: one directory for each."""

    def __init__(self, nodes: EntryNodes, n: int, view: int) -> None:
        self.ino = inodes.entry_part(Kind.ATTEMPTS, n, 0, view)
        self._nodes = nodes
        self._n = n
        self._view = view

    def attributes(self) -> Attributes:
        """Dated by the last attempt."""
        attempts = self._nodes.archive.reader.attempts(self._n)
        when = attempts[-1].started_ms * 10**6 if attempts else 0
        return Attributes(self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, attr_timeout=BRIEFLY)

    def named(self) -> list[tuple[bytes, Node]]:
        """``1``, ``2``, ..."""
        count = len(self._nodes.archive.reader.attempts(self._n))
        return [
            (b"%d" % number, AttemptDir(self._nodes, self._n, number, self._view))
            for number in range(1, min(count, inodes.MAX_ATTEMPT) + 1)
        ]


class AttemptDir(_NamedDir):
    """``attempts/N/``: attempt.json, log.txt and the reports of that attempt."""

    def __init__(self, nodes: EntryNodes, n: int, number: int, view: int) -> None:
        self.ino = inodes.entry_part(Kind.ATTEMPT, n, number, view)
        self._nodes = nodes
        self._n = n
        self._number = number

    def _attempt(self) -> Attempt:
        attempts = self._nodes.archive.reader.attempts(self._n)
        if self._number > len(attempts):
            raise UnknownEntryError(f"entry number {self._n} has no attempt {self._number}")
        return attempts[self._number - 1]

    def attributes(self) -> Attributes:
        """Dated by its start."""
        when = self._attempt().started_ms * 10**6
        return Attributes(self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, attr_timeout=BRIEFLY)

    def named(self) -> list[tuple[bytes, Node]]:
        """What the attempt left."""
        attempt, reader = self._attempt(), self._nodes.archive.reader
        when = attempt.started_ms * 10**6
        contents, sent = reader.contents(self._n), describe.submissions(reader, self._n)
        facts = describe.as_file(describe.attempt(attempt, contents, sent))
        ino = inodes.entry_part(Kind.FILE, self._n, self._number, Slot.ATTEMPT_JSON)
        entry = self._nodes.row(self._n)
        known = self._nodes.known_for(entry) if attempt.outcome else MOVING
        # As in entry.json: the digits below a millisecond tell the versions apart.
        file = TextFile(ino, facts, when + entry.changed_seq % 10**6, known)
        found: list[tuple[bytes, Node]] = [(b"attempt.json", file)]
        for stored in contents:
            node = self._nodes.stored(stored, when) if stored.attempt == self._number else None
            if node is not None:
                found.append((stored.name.encode(), node))
        return found
