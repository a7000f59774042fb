"""search/: every query is a directory, and what it selects is in it.

Queries can take long (a text of two letters is looked for everywhere), so entries are found in threads, each
time by a reader of its own: one that stayed in the middle of a listing would keep the catalog's log from
being folded in.
"""

import contextlib
import errno
import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

import trio
from pyfuse3 import EntryAttributes

from archivefs import query
from archivefs.archive import Archive
from archivefs.catalog.catalog import day_text
from archivefs.catalog.reader import Reader
from archivefs.catalog.rows import Entry
from archivefs.errors import QueryError
from archivefs.fs import inodes
from archivefs.fs.entry import EntryDir, EntryNodes, entry_attributes
from archivefs.fs.inodes import Fixed
from archivefs.fs.listings import Row, Send
from archivefs.fs.node import BRIEFLY, DIR_MODE, Attributes, Directory, Listed, Node
from archivefs.query import Query
from archivefs.rebuilding import CATALOG
from archivefs.states import STATUSES, Status

PAGE = 500
"""Entries that are found at once."""
KNOWN = 1024
"""Queries that are remembered, about 500 bytes each; one that was not used for longest is looked up again."""
SHOWN = 100
"""Entries of a query that is offered; what goes through the whole tree does not meet everything once more."""
THREADS = 2


def parse(name: bytes, archive: Archive) -> Query:
    """The query that a folder's name is. Raises ``QueryError``."""
    words = query.split(os.fsdecode(name))
    wanted = query.parse([os.fsdecode(unquote_to_bytes(os.fsencode(word))) for word in words], archive.zone)
    if any(term.key == "status" and Status.PURGED in term.values for term in wanted.terms):
        raise QueryError(
            "status=purged: what is purged is not in the tree; archivefs ls status=purged lists it"
        )
    return wanted


class SearchDir(Directory):
    """``search/`` itself. It lists how to use it, and some queries to begin with."""

    ino = int(Fixed.SEARCH)

    def __init__(self, nodes: EntryNodes, readme: Callable[[], Node]) -> None:
        self._nodes = nodes
        self._readme = readme
        self._numbers: dict[bytes, int] = {}
        self._known: OrderedDict[int, tuple[bytes, Query]] = OrderedDict()
        self._next = itertools.count(1)
        self.threads = trio.CapacityLimiter(THREADS)
        self.changed_ns = 0

    def attributes(self) -> Attributes:
        """Dated by the last change of the archive."""
        when = self.changed_ns
        return Attributes(self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, attr_timeout=BRIEFLY)

    def lookup(self, name: bytes) -> Node | None:
        """The query of that name. Raises ``QueryError``; what has no ``=`` is no query, but not there."""
        if name == b"README.txt":
            return self._readme()
        if b"=" not in name or name.startswith(b"."):
            return None
        number = self._numbers.get(name)
        if number is None:
            wanted = parse(name, self._nodes.archive)
            number = self._numbers[name] = next(self._next)
            self._known[number] = name, wanted
            if len(self._known) > KNOWN:
                _, (oldest, _) = self._known.popitem(last=False)
                del self._numbers[oldest]
        return self.query(number)

    def query(self, number: int) -> "QueryDir":
        """The directory of a query. Raises ESTALE where it was forgotten: it can be looked up again."""
        if number not in self._known:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self._known.move_to_end(number)
        return QueryDir(self, self._nodes, number, self._known[number][1])

    def entries(self, after: int) -> Iterator[Listed]:
        """README.txt, and the statuses, the converters and the newest day that there are."""
        reader = self._nodes.archive.reader
        offered = [f"status={STATUSES[each]}" for each in reader.groups("status", {})]
        offered += [f"converter={reader.converter_name(each)}" for each in reader.groups("converter_id", {})]
        offered += [f"date={day_text(each)}" for each in reader.groups("day", {})[-1:]]
        nodes = [(b"README.txt", self._readme())]
        for words in offered:
            name = f"{words} limit={SHOWN}".encode()
            node = self.lookup(name)
            assert node is not None
            nodes.append((name, node))
        for cookie, (name, node) in enumerate(nodes, 1):
            if cookie > after:
                yield cookie, name, node


class QueryDir(Node):
    """``search/QUERY/``. No ``Directory``: what is in it takes waiting, see ``find`` and ``QueryListing``."""

    def __init__(self, search: SearchDir, nodes: EntryNodes, number: int, wanted: Query) -> None:
        self.ino = inodes.query(number)
        self.view = inodes.query_view(number)
        self.wanted = wanted
        self.threads = search.threads
        self.archive = nodes.archive
        self._nodes = nodes
        self._changed_ns = search.changed_ns

    def attributes(self) -> Attributes:
        """Dated by the last change of the archive. Its name is looked up often, so that it is remembered."""
        when = self._changed_ns
        return Attributes(
            self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, entry_timeout=BRIEFLY, attr_timeout=BRIEFLY
        )

    async def find(self, name: bytes) -> Node | None:
        """The entry of that name, where the query selects it."""
        entry = await trio.to_thread.run_sync(self._find, name, limiter=self.threads)
        return None if entry is None else FoundEntryDir(self._nodes, entry, self.view)

    def _find(self, name: bytes) -> Entry | None:
        with contextlib.closing(Reader.open(self.archive.root / CATALOG)) as reader:
            return reader.named(self.wanted, self.archive.zone, name)

    def page(self, behind: Entry | None, count: int) -> list[tuple[Entry, bytes]]:
        """The next entries and their names; in a thread."""
        with contextlib.closing(Reader.open(self.archive.root / CATALOG)) as reader:
            place = None if behind is None else (behind.day, behind.n)
            return reader.named_page(self.wanted._replace(limit=count), self.archive.zone, place)


class QueryListing:
    """An open ``search/QUERY/``: found page by page, newest first. The cookie of an entry is its number."""

    def __init__(self, directory: QueryDir, answer: Callable[[Attributes], EntryAttributes]) -> None:
        self._directory = directory
        self._answer = answer
        self._cookie = 0
        self._last: Entry | None = None
        self._rest = directory.wanted.limit
        self._rows: list[Row] = []
        self._one = trio.Lock()

    async def fill(self, after: int) -> None:
        """Find what comes behind the cookie ``after``, where that is not known yet."""
        async with self._one:
            if after != self._cookie:
                await self._go_to(after)
            if self._rows or self._rest == 0:
                return
            count = min(PAGE, self._rest)
            directory = self._directory
            found = await trio.to_thread.run_sync(
                directory.page, self._last, count, limiter=directory.threads
            )
            self._rest = 0 if len(found) < count else self._rest - count
            if found:
                self._last = found[-1][0]
            self._rows = [(entry.n, name, self._shown(entry)) for entry, name in found]

    async def _go_to(self, after: int) -> None:
        """From the start, or on behind an entry; of a limit then nobody knows how much is used up."""
        self._cookie, self._rows, self._rest = after, [], self._directory.wanted.limit
        self._last = self._directory.archive.reader.entry(after) if after else None

    def _shown(self, entry: Entry) -> EntryAttributes:
        shown = entry_attributes(entry.n, entry.captured_ms, self._directory.view, entry.status)
        return self._answer(shown._replace(entry_timeout=BRIEFLY))

    def send(self, send: Send) -> None:
        """Send what was found, as much as fits."""
        sent = 0
        for cookie, name, entry in self._rows:
            if not send(name, entry, cookie):
                break
            self._cookie = cookie
            sent += 1
        del self._rows[:sent]


class FoundEntryDir(EntryDir):
    """An entry under a query. Whether it belongs there, and what belongs in it, the kernel asks often.

    It is not told of changes there: a retried entry would have to be forgotten in every query.
    """

    def attributes(self) -> Attributes:
        """As in other views."""
        return super().attributes()._replace(entry_timeout=BRIEFLY)

    def named(self) -> list[tuple[bytes, Node]]:
        """As in other views."""
        return [(name, Briefly(node)) for name, node in super().named()]


class Briefly(Node):
    """A node whose name is kept briefly here."""

    def __init__(self, node: Node) -> None:
        self.ino = node.ino
        self._node = node

    def attributes(self) -> Attributes:
        """The node's own."""
        shown = self._node.attributes()
        return shown._replace(entry_timeout=min(shown.entry_timeout, BRIEFLY))
