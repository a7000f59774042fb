"""The kernel's caches: what it must forget when something changes, and what it is given before it asks.

To forget may wait for a request that is being answered, so that is never asked from the trio thread. What
a conversion moves is cached too briefly to need it (``node.MOVING``); so it is rare: an entry that had come
to its end goes on.
"""

import contextlib
import logging
import queue
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import FileNameT, InodeT

from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.catalog.rows import Entry
from archivefs.fs import inodes
from archivefs.fs.inodes import BY_ID_VIEW, Fixed, Kind, Slot
from archivefs.fs.node import Handle
from archivefs.fs.views import VIEWS, Levels, leaf, path_to
from archivefs.states import FINAL, Status

log = logging.getLogger(__name__)

_Message = tuple[int, bytes | None]
"""Directory and name to forget; or an inode whose attributes are to be forgotten."""


_FIRST_OF_ENTRIES = Kind.ENTRY << 60
GIVEN = 10_000
"""Files of which it is known that the kernel was given their bytes."""


class Kernel:
    """Sends invalidations; they are in effect within milliseconds of the call."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._send, name="kernel-cache", daemon=True)
        self._thread.start()

    def forget_name(self, parent: int, name: bytes) -> None:
        """The name in that directory means something else now, or nothing."""
        self._queue.put((parent, name))

    def forget_attributes(self, ino: int) -> None:
        """The attributes of that file have changed. Where its mtime has, the kernel drops its bytes, too.

        That is the kernel's option ``auto_inval_data``. To drop the bytes from here could wait for a page
        that is being read.
        """
        self._queue.put((ino, None))

    def stop(self) -> None:
        """Send nothing more: from now on nobody answers the kernel, and a notification could wait."""
        self._stopped = True
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread, after the connection was closed."""
        self._thread.join()

    def _send(self) -> None:
        while (message := self._queue.get()) is not None:
            ino, name = message
            if self._stopped:
                continue
            # ENOENT: the kernel does not know it, which is what is wanted.
            with contextlib.suppress(OSError):
                if name is None:
                    pyfuse3.invalidate_inode(InodeT(ino), attr_only=True)
                else:
                    pyfuse3.invalidate_entry(InodeT(ino), FileNameT(name))


class Known:
    """Entries of which the kernel was told anything, a bit for each: of others it has nothing to forget."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def told(self, ino: int) -> None:
        """The kernel is told of a file or directory."""
        if ino < _FIRST_OF_ENTRIES:
            return
        n = inodes.parts(ino)[0]
        if n >> 3 >= len(self._bits):
            self._bits.extend(bytes((n >> 3) + 1 - len(self._bits)))
        self._bits[n >> 3] |= 1 << (n & 7)

    def __contains__(self, n: int) -> bool:
        return n >> 3 < len(self._bits) and bool(self._bits[n >> 3] >> (n & 7) & 1)


class Pages:
    """Gives the kernel the bytes of small archived files when they are opened, so that it need not ask.

    Only while nobody else has the file open. A page that the kernel asked for is locked until it is answered,
    and who gives it that page waits for the lock: this thread, for an answer of its own.
    """

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._given: OrderedDict[int, None] = OrderedDict()

    def opened(self, ino: int, handle: Handle) -> None:
        """Before the answer to an open. Each file is given once: most are still there when opened again."""
        self._open[ino] += 1
        if self._open[ino] > 1 or ino in self._given:
            return
        content = handle.at_once()
        if content is None:
            return
        self._given[ino] = None
        if len(self._given) > GIVEN:
            self._given.popitem(last=False)
        with contextlib.suppress(OSError):
            pyfuse3.notify_store(InodeT(ino), 0, content)

    def closed(self, ino: int) -> None:
        """At a release; all that was asked through that handle is answered."""
        self._open[ino] -= 1
        if not self._open[ino]:
            del self._open[ino]


class Invalidator:
    """Turns what a commit changed into what the kernel must forget."""

    def __init__(self, archive: Archive, levels: Levels, kernel: Kernel, known: Known) -> None:
        self._archive = archive
        self._levels = levels
        self._kernel = kernel
        self._known = known

    def changed(self, changes: Sequence[Change]) -> None:
        """A listener for the committer."""
        emptied = set()
        for change in changes:
            if change.left and change.before is not None:
                emptied.add((change.left, change.day, change.before))
            if change.before not in FINAL:
                continue
            if change.before is not change.after:
                emptied.add((change.converter_id, change.day, change.before))
            if change.n in self._known:
                self._entry_changed(change, change.before)
        for converter_id, day, status in emptied:
            for view in range(len(VIEWS)):
                parent = inodes.level(inodes.Place(view, 0))
                for place in path_to(view, converter_id, day, status):
                    if not self._levels.exists(place):
                        self._kernel.forget_name(parent, self._levels.name(place).encode())
                        break
                    parent = inodes.level(place)

    def _entry_changed(self, change: Change, before: Status) -> None:
        entry = self._archive.reader.entry(change.n)
        if entry is None:
            return
        self._facts_changed(entry)
        if change.replayed:
            self._replayed(entry)
        if before is not change.after:
            self._moved(entry, before)

    def _facts_changed(self, entry: Entry) -> None:
        for slot in (Slot.SOURCE, Slot.ENTRY_JSON):
            self._kernel.forget_attributes(inodes.entry_part(Kind.FILE, entry.n, 0, slot))
        if entry.status is not Status.PURGED:  # else nothing leads there
            for attempt in range(1, min(entry.attempts, inodes.MAX_ATTEMPT) + 1):
                self._kernel.forget_attributes(
                    inodes.entry_part(Kind.FILE, entry.n, attempt, Slot.ATTEMPT_JSON)
                )

    def _moved(self, entry: Entry, before: Status) -> None:
        """Its names in the views, and those beside its source that the next attempt replaces."""
        if entry.status is Status.PURGED:
            self._kernel.forget_name(int(Fixed.BY_ID), entry.id.encode())
        label = entry.label(self._archive.zone)
        for number, view in enumerate(VIEWS):
            parent = inodes.level(leaf(number, entry, before))
            self._kernel.forget_name(parent, entry.flat_name if view.flat else label)
        if entry.status is not Status.PURGED:  # else nothing leads to what stood beside it
            self._replayed(entry)

    def _replayed(self, entry: Entry) -> None:
        """What stands beside its source may be of another attempt."""
        if not entry.attempts:
            return
        reports = [
            stored.name.encode() for stored in self._archive.reader.contents(entry.n) if stored.ordinal
        ]
        views = [number for number, view in enumerate(VIEWS) if not view.flat]
        for view_number in (*views, BY_ID_VIEW):
            parent = inodes.entry_part(Kind.ENTRY, entry.n, 0, view_number)
            for name in {b"report.json", b"error.txt", *reports}:
                self._kernel.forget_name(parent, name)
