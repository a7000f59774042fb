"""A source that is a folder, as a directory: its files are parts of the one content."""

import stat
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from archivefs.catalog.rows import MemberRow
from archivefs.errors import UnknownEntryError
from archivefs.fs import inodes
from archivefs.fs.frame_cache import ContentHandle
from archivefs.fs.node import DIR_MODE, FILE_MODE, Attributes, Directory, File, Handle, Listed, Node


class Index:
    """What is in a source, found by number, and by folder and name; it never changes."""

    def __init__(self, rows: list[MemberRow]) -> None:
        self.rows = rows
        self.below: dict[bytes, dict[bytes, MemberRow]] = defaultdict(dict)
        for row in rows:
            folder, _, name = row.path.rpartition(b"/")
            self.below[folder][name] = row


class Members:
    """What is in the source of entry number ``n``; ``open_content`` opens the whole.

    ``known`` is how long the kernel may keep what it is told, in seconds.
    """

    def __init__(self, n: int, index: Index, open_content: Callable[[], ContentHandle], known: float) -> None:
        self.n = n
        self.index = index
        self.open_content = open_content
        self.known = known

    def node(self, ordinal: int) -> Node:
        """A file or folder by its number. Raises ``UnknownEntryError``."""
        if not 1 <= ordinal <= len(self.index.rows):
            raise UnknownEntryError(f"entry number {self.n} has no member {ordinal}")
        row = self.index.rows[ordinal - 1]
        return MemberDir(self, row) if stat.S_ISDIR(row.mode) else MemberFile(self, row)

    def below(self, path: bytes) -> Mapping[bytes, MemberRow]:
        """What lies in a folder by its name, b'' for the source itself."""
        return self.index.below.get(path, {})


class _Folder(Directory):
    """A folder of members."""

    _members: Members

    @property
    @abstractmethod
    def path(self) -> bytes:
        """From the source on, b'' for itself."""

    def lookup(self, name: bytes) -> Node | None:
        """The member of that name."""
        found = self._members.below(self.path).get(name)
        return None if found is None else self._members.node(found.ordinal)

    def entries(self, after: int) -> Iterator[Listed]:
        """In the order of path; the cookie is the number of the member."""
        for name, row in self._members.below(self.path).items():
            if row.ordinal > after:
                yield row.ordinal, name, self._members.node(row.ordinal).attributes()


class SourceFolder(_Folder):
    """The source itself."""

    path = b""

    def __init__(self, ino: int, members: Members, mtime_ns: int, facts: Mapping[bytes, bytes]) -> None:
        self.ino = ino
        self._members = members
        self._mtime_ns = mtime_ns
        self._facts = facts

    def attributes(self) -> Attributes:
        """Dated as its writer left it."""
        known = self._members.known
        return Attributes(
            self.ino, DIR_MODE, 0, 0, self._mtime_ns, self._mtime_ns, entry_timeout=known, attr_timeout=known
        )

    def xattrs(self) -> Mapping[bytes, bytes]:
        """``user.archivefs.*``."""
        return self._facts


class MemberDir(_Folder):
    """A folder in the source."""

    def __init__(self, members: Members, row: MemberRow) -> None:
        self.ino = inodes.member(members.n, row.ordinal)
        self._members = members
        self._row = row

    @property
    def path(self) -> bytes:
        """From the source on."""
        return self._row.path

    def attributes(self) -> Attributes:
        """Dated as its writer left it."""
        when, known = self._row.mtime_ns, self._members.known
        return Attributes(self.ino, DIR_MODE, 0, 0, when, when, entry_timeout=known, attr_timeout=known)


class MemberFile(File):
    """A file in the source."""

    def __init__(self, members: Members, row: MemberRow) -> None:
        self.ino = inodes.member(members.n, row.ordinal)
        self._members = members
        self._row = row

    def attributes(self) -> Attributes:
        """The original size and time; compressed, nobody can say what it takes by itself."""
        size, when, known = self._row.size, self._row.mtime_ns, self._members.known
        blocks = -(-size // 512)
        return Attributes(
            self.ino, FILE_MODE, size, blocks, when, when, entry_timeout=known, attr_timeout=known
        )

    def open(self) -> Handle:
        """Read from the content of the source, through the shared cache of frames."""
        return _Window(self._members.open_content(), self._row)


class _Window(Handle):
    """A file that is open: so many bytes of the content from its offset on."""

    def __init__(self, whole: ContentHandle, row: MemberRow) -> None:
        self._whole = whole
        self._row = row

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """A part of the file."""
        size = min(size, self._row.size - offset)
        return await self._whole.read(self._row.offset + offset, size) if size > 0 else b""
