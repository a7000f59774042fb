"""Directories being listed; and what was listed lately, ready to be sent again for as long as it is true."""

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from pyfuse3 import EntryAttributes

from archivefs.catalog.catalog import Change
from archivefs.errors import ArchiveError
from archivefs.fs.inbox_items import InboxItem
from archivefs.fs.node import Attributes, Directory
from archivefs.states import FINAL

KEPT_NAMES = 60_000
"""Names that are kept, about 350 bytes each: some 20 MB. To make one takes 5 us, to send it 2."""
KEPT_COST = 4
"""What a kept listing takes beside its names, as names."""
Row = tuple[int, bytes, EntryAttributes]
"""Cookie, name and what the kernel is told."""
Send = Callable[[bytes, EntryAttributes, int], bool]
"""Takes a name into the answer to a request; false where it does not fit any more."""


class _Kept(NamedTuple):
    rows: list[Row]
    version: int


class Listings:
    """Opens directories for listing; ``answer`` makes of attributes what the kernel is told.

    A listing is kept when it was read to its end and the directory says whose entries decide about it. It is
    forgotten with the first commit that changes one of these.
    """

    def __init__(self, answer: Callable[[Attributes], EntryAttributes]) -> None:
        self.answer = answer
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._collecting: set[int] = set()
        self._cost = 0
        self._versions: Counter[tuple[int, int]] = Counter()
        self.moves = 0
        """Counts the commits after which names that the kernel may keep for long mean nothing any more."""

    def changed(self, changes: Sequence[Change]) -> None:
        """A listener for the committer."""
        for change in changes:
            self._versions[change.converter_id, change.day] += 1
            if change.left:
                self._versions[change.left, change.day] += 1
        self.moves += any(each.before in FINAL and each.before is not each.after for each in changes)

    def open(self, directory: Directory) -> "Listing":
        """A listing from the start."""
        kept = self._kept.get(directory.ino)
        if kept is not None and kept.version != self.version(directory):
            self._forget(directory.ino)
            kept = None
        if kept is None:
            return Listing(self, directory)
        self._kept.move_to_end(directory.ino)
        return Listing(self, directory, kept.rows)

    def version(self, directory: Directory) -> int:
        """Counts the commits that changed what decides about the directory; -1 where nobody can say."""
        return -1 if directory.decided_by is None else self._versions[directory.decided_by]

    def collect(self, directory: Directory) -> bool:
        """Whether to collect what a directory lists; one of those who read it at the same time does."""
        wanted = directory.decided_by is not None and directory.ino not in self._collecting
        if wanted:
            self._collecting.add(directory.ino)
        return wanted

    def collected(self, directory: Directory) -> None:
        """After ``collect``, however it ended."""
        self._collecting.discard(directory.ino)

    def keep(self, directory: Directory, rows: list[Row], version: int) -> None:
        """Keep all that a directory lists, as it was then; what was not listed for longest goes."""
        cost = len(rows) + KEPT_COST
        if version != self.version(directory) or cost > KEPT_NAMES:
            return
        self._forget(directory.ino)
        while self._cost + cost > KEPT_NAMES:
            self._forget(next(iter(self._kept)))
        self._kept[directory.ino] = _Kept(rows, version)
        self._cost += cost

    def _forget(self, ino: int) -> None:
        kept = self._kept.pop(ino, None)
        if kept is not None:
            self._cost -= len(kept.rows) + KEPT_COST


class Listing:
    """An open directory: goes on where the kernel's last request ended."""

    def __init__(self, listings: Listings, directory: Directory, rows: list[Row] | None = None) -> None:
        self._listings = listings
        self._directory = directory
        self._rows = rows
        self._moves = listings.moves
        self._cookie = -1
        self._index = 0
        self._rest: Iterator[tuple[Row, InboxItem | None]] = iter(())
        self._waiting: tuple[Row, InboxItem | None] | None = None

    def send(self, after: int, send: Send) -> None:
        """Send what comes behind the cookie ``after``, as much as fits."""
        if self._moves != self._listings.moves:  # what is at hand may have gone, and nobody tells the kernel
            self._moves, self._rows, self._cookie = self._listings.moves, None, -1
        if self._rows is not None:
            self._send_kept(self._rows, after, send)
            return
        if after != self._cookie:
            self._rest, self._waiting = self._made(after), None
        made, self._waiting = self._waiting or next(self._rest, None), None
        while made is not None:
            (cookie, name, entry), item = made
            if not send(name, entry, cookie):
                self._waiting = made
                break
            after = cookie
            if item is not None:
                item.lookups += 1
            made = next(self._rest, None)
        self._cookie = after

    def _send_kept(self, rows: list[Row], after: int, send: Send) -> None:
        index = self._index if after == self._cookie else bisect_right(rows, after, key=itemgetter(0))
        for index in range(index, len(rows)):  # noqa: B020  goes on from where it is
            cookie, name, entry = rows[index]
            if not send(name, entry, cookie):
                break
            after = cookie
        else:
            index = len(rows)
        self._index, self._cookie = index, after

    def _made(self, after: int) -> Iterator[tuple[Row, InboxItem | None]]:
        """The rows behind a cookie; they are kept when they are all there are."""
        if after != 0 or not self._listings.collect(self._directory):
            yield from self._rows_after(after)
            return
        try:
            version, rows = self._listings.version(self._directory), list[Row]()
            is_wanted = True
            for row, item in self._rows_after(0):
                if is_wanted:
                    rows.append(row)
                    if len(rows) + KEPT_COST > KEPT_NAMES:
                        is_wanted = False
                        rows.clear()
                yield row, item
            if is_wanted:
                self._listings.keep(self._directory, rows, version)
        finally:
            self._listings.collected(self._directory)

    def _rows_after(self, after: int) -> Iterator[tuple[Row, InboxItem | None]]:
        answer = self._listings.answer
        for cookie, name, shown in self._directory.entries(after):
            try:
                entry = answer(shown if isinstance(shown, Attributes) else shown.attributes())
            except (ArchiveError, OSError):
                continue
            yield (cookie, name, entry), shown if isinstance(shown, InboxItem) else None
