"""The writing side of the disk: records into segments, then events into the journal, as one group.

The order of a commit is the promise (docs/durability.md): records are written, segments synced, events
written, journal synced. A group that fails is taken back as if it had never been.
"""

import errno
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from archivefs.errors import CaptureFailedError, ReadOnlyError
from archivefs.events import AnyEvent, Event, Location
from archivefs.store.durable import make_dirs, replacing
from archivefs.store.frames import Encoded, RecordHeader
from archivefs.store.journal import Journal
from archivefs.store.segment import SegmentWriter

log = logging.getLogger(__name__)

OPEN_WRITERS = 32
Mark = dict[str, int]


class Store:
    """Segments and journal open for writing. Not thread-safe: one committing thread at a time."""

    def __init__(self, root: Path, clock: Callable[[], int] = time.time_ns) -> None:
        """Find the journal's end. Raises ``JournalDamagedError``, ``OSError``."""
        self.content_dir = root / "content"
        self.quarantine_dir = root / "quarantine"
        self.journal = Journal(root / "journal", clock)
        self._writers: OrderedDict[str, SegmentWriter] = OrderedDict()
        self._parts: dict[str, int] = {}
        self._sync_failed = False
        self.failed = ""

    def append(self, base: str, header: RecordHeader, content: Encoded) -> Location:
        """Write a record behind the others of ``base`` (such as ``2026/02/13/ict-csv.sources``).

        Durable only when ``commit`` returns. On an error the part that was written is taken back.
        Raises ``CaptureFailedError`` with the true errno.
        """
        self._require_writable()
        try:
            writer = self._writer(base)
            end = writer.end
            try:
                return writer.append(header, content)
            except OSError:
                self._cut(base, end)
                raise
        except OSError as error:
            raise _failure(f"writing content/{base}", error) from error

    def retire(self, segment: str) -> None:
        """Never append to this segment; what it holds stays readable."""
        base, _, part = segment.removesuffix(".zst").rpartition(".")
        if not part.isdecimal():
            base, part = segment.removesuffix(".zst"), "1"
        self._parts[base] = max(self._parts.get(base, 1), int(part) + 1, self._last_part(base))

    def mark(self) -> Mark:
        """Where the segments end now, for ``rollback``."""
        return {base: writer.end for base, writer in self._writers.items()}

    def rollback(self, mark: Mark) -> None:
        """Take back the records written since ``mark``."""
        for base, writer in list(self._writers.items()):
            if base in mark and writer.end > mark[base]:
                self._cut(base, mark[base])
            elif base not in mark and writer.end > writer.start:
                self._cut(base, writer.start)

    def commit(self, batch: Sequence[Event]) -> list[AnyEvent]:
        """Make the appended records durable, then the events. Returns the events as written.

        Raises ``CaptureFailedError``; then no event of the batch counts, and the caller rolls back. A segment
        whose sync failed is never appended to again. A second group in a row whose sync fails, or a journal
        that cannot be taken back, makes the store read-only (``failed`` says why).
        """
        self._require_writable()
        for base, writer in list(self._writers.items()):
            try:
                writer.sync()
            except OSError as error:
                self._abandon(base)
                if self._sync_failed:
                    self._fail(f"syncing failed twice in a row, the last time content/{writer.name}: {error}")
                self._sync_failed = True
                raise _failure(f"syncing content/{writer.name}", error) from error
        self._sync_failed = False
        stamped = self._append_events(batch)
        self._close_idle()
        return stamped

    def _append_events(self, batch: Sequence[Event]) -> list[AnyEvent]:
        try:
            stamped = self.journal.append(batch)
            self.journal.sync()
        except OSError as error:
            try:
                self.journal.undo()
            except OSError as worse:
                self._fail(f"the journal could not be taken back after a failed write: {worse}")
            raise _failure("writing the journal", error) from error
        return stamped

    def _fail(self, reason: str) -> None:
        """Take nothing more: the disk does not keep what it is given."""
        self.failed = reason
        log.critical("%s; the archive is read-only until it is opened again", reason)

    def keep_aside(self, name: str, data: bytes) -> str:
        """Keep bytes that were cut off, durably, below quarantine/. Returns the name they got.

        Raises ``OSError``.
        """
        fresh, number = name, 1
        while (self.quarantine_dir / fresh).exists():
            number += 1
            fresh = f"{name}.{number}"
        name = fresh
        make_dirs(self.quarantine_dir)
        with replacing(self.quarantine_dir / name) as out:
            out.write(data)
        return name

    def close(self) -> None:
        """Note the end of the chain and close all files."""
        if not self.failed:
            self.journal.write_checkpoint()
        self.journal.close()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _require_writable(self) -> None:
        if self.failed:
            raise ReadOnlyError(f"the archive is read-only: {self.failed}")

    def _writer(self, base: str) -> SegmentWriter:
        writer = self._writers.get(base)
        if writer is None:
            part = self._parts.get(base) or self._last_part(base)
            writer = self._writers[base] = SegmentWriter(self.content_dir, part_name(base, part))
            self._parts[base] = part
        self._writers.move_to_end(base)
        return writer

    def _last_part(self, base: str) -> int:
        part = 1
        while (self.content_dir / part_name(base, part + 1)).exists():
            part += 1
        return part

    def _cut(self, base: str, end: int) -> None:
        try:
            self._writers[base].cut(end)
        except OSError:
            log.exception("content/%s could not be cut back; it is not appended to any more", base)
            self._retire_writer(base)

    def _abandon(self, base: str) -> None:
        """Never append to this segment again, and cut off what was not synced.

        That may read well now, and be gone after a power cut.
        """
        try:
            self._writers[base].cut(self._writers[base].synced)
        except OSError as error:
            log.error("content/%s could not be cut back: %s", base, error)
        self._retire_writer(base)

    def _retire_writer(self, base: str) -> None:
        """The next record of ``base`` starts a new part."""
        self._parts[base] = self._parts[base] + 1
        self._writers.pop(base).close()

    def _close_idle(self) -> None:
        while len(self._writers) > OPEN_WRITERS:
            self._writers.popitem(last=False)[1].close()


def part_name(base: str, part: int) -> str:
    """The file name of the ``part``-th segment of ``base``."""
    return f"{base}.zst" if part == 1 else f"{base}.{part}.zst"


def _failure(doing: str, error: OSError) -> CaptureFailedError:
    number = error.errno or errno.EIO
    return CaptureFailedError(f"{doing} failed: {os.strerror(number)}", number)
