"""The writing side of the disk: records into segments, then events into the journal, as one group.

The order of a commit is the promise (docs/durability.md): records are written, segments synced, events
written, journal synced. A group that fails is taken back as if it had never been.
"""

import contextlib
import errno
import glob
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from archivefs.errors import CaptureFailedError, ReadOnlyError
from archivefs.events import AnyEvent, Event
from archivefs.parts import Location
from archivefs.store.dictionaries import Dictionaries, Dictionary, file_of
from archivefs.store.durable import make_dirs, replacing
from archivefs.store.frames import Encoded, RecordHeader
from archivefs.store.journal import Journal
from archivefs.store.segment import SegmentWriter

log = logging.getLogger(__name__)

OPEN_WRITERS = 32
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What passes when somebody makes room; it says nothing against the disk."""
Mark = dict[str, int]


class Store:
    """Segments and journal open for writing. Not thread-safe: one committing thread at a time."""

    def __init__(
        self, root: Path, clock: Callable[[], int] = time.time_ns, dictionaries: Dictionaries | None = None
    ) -> None:
        """Find the journal's end. Raises ``JournalDamagedError``, ``OSError``."""
        self.content_dir = root / "content"
        self.quarantine_dir = root / "quarantine"
        self.journal = Journal(root / "journal", clock)
        self.dictionaries = dictionaries or Dictionaries(root / "dictionaries")
        self._writers: OrderedDict[str, SegmentWriter] = OrderedDict()
        self._parts: dict[str, int] = {}
        self._sync_failed = False
        self._has_tail = False
        self.failed = ""

    def append(self, base: str, header: RecordHeader, content: Encoded) -> Location:
        """Write a record behind the others of ``base`` (such as ``2026/02/13/ict-csv.sources``).

        Durable only when ``commit`` returns. On an error the part that was written is taken back.
        Raises ``CaptureFailedError`` with the true errno.
        """
        self._require_writable()
        try:
            writer = self._writer(base, content)
            end = writer.end
            try:
                return writer.append(header, content)
            except OSError:
                self._cut(writer, end)
                raise
        except OSError as error:
            raise _failure(f"writing content/{base}", error) from error

    def retire(self, segment: str) -> None:
        """Never append to this segment; what it holds stays readable."""
        base, part = split_name(segment)
        self._parts[base] = max(self._parts.get(base, 1), part + 1, self._last_part(base))

    def is_written(self, segment: str) -> bool:
        """Whether records stand there that no commit has made durable yet."""
        return segment in self._writers and self._writers[segment].dirty

    def mark(self) -> Mark:
        """Where the segments end now, for ``rollback``."""
        return {name: writer.end for name, writer in self._writers.items()}

    def rollback(self, mark: Mark) -> None:
        """Take back the records written since ``mark``."""
        for name, writer in list(self._writers.items()):
            end = mark.get(name, writer.start)
            if writer.end > end:
                self._cut(writer, end)

    def commit(self, batch: Sequence[Event]) -> list[AnyEvent]:
        """Make the appended records durable, then the events. Returns the events as written.

        Raises ``CaptureFailedError``; then no event of the batch counts, and the caller rolls back. A segment
        whose sync failed is never appended to again. A second group in a row whose sync fails, or a journal
        that cannot be taken back, makes the store read-only (``failed`` says why). Where it is only room that
        a disk or a quota lacks, every group is refused until there is some.
        """
        self._require_writable()
        for writer in list(self._writers.values()):
            try:
                writer.sync()
            except OSError as error:
                self._abandon(writer)
                if error.errno not in NO_ROOM:
                    if self._sync_failed:
                        self._fail(
                            f"syncing failed twice in a row, the last time content/{writer.name}: {error}"
                        )
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
            with contextlib.suppress(CaptureFailedError):  # the first error is the cause
                self._undo_journal()
            raise _failure("writing the journal", error) from error
        return stamped

    def _undo_journal(self) -> None:
        """Take back what a failed group left in the journal, or, where there is no room for that, later."""
        try:
            self.journal.undo()
        except OSError as error:
            self._has_tail = error.errno in NO_ROOM
            if not self._has_tail:
                self._fail(f"the journal could not be taken back after a failed write: {error}")
            raise _failure("taking back the journal", error) from error
        self._has_tail = False

    def _fail(self, reason: str) -> None:
        """Take nothing more: the disk does not keep what it is given."""
        self.failed = reason
        log.critical("%s; the archive is read-only until it is opened again", reason)

    def save_dictionary(self, converter: str, data: bytes) -> Dictionary:
        """Keep a dictionary of a converter, durably. Raises ``CaptureFailedError``, ``ArchiveError``."""
        self._require_writable()
        try:
            return self.dictionaries.save(converter, data)
        except OSError as error:
            raise _failure(f"writing a dictionary for {converter}", error) from error

    def drop_dictionary(self, name: str) -> None:
        """Take back a dictionary whose event was not written."""
        if self.failed:  # then nobody knows whether it was
            return
        try:
            self.dictionaries.remove(name)
        except OSError as error:
            log.error("%s could not be taken back: %s", file_of(name), error)

    def new_segment(self, base: str) -> str:
        """A name behind those that ``base`` has; nothing is appended to any of them from now on."""
        part = max(self._parts.get(base, 0), self._last_part(base)) + 1
        self._parts[base] = part + 1
        return part_name(base, part)

    def drop_segment(self, segment: str) -> None:
        """Remove the file of a segment that no event names. Raises ``ReadOnlyError``, ``OSError``."""
        self._require_writable()  # else nobody knows what the journal names
        (self.content_dir / segment).unlink()

    def keep_aside(self, name: str, pieces: Iterable[bytes]) -> str:
        """Keep bytes that are cut off, durably, below quarantine/. Returns the name they got.

        Raises ``OSError``.
        """
        fresh, number = name, 1
        while (self.quarantine_dir / fresh).exists():
            number += 1
            fresh = f"{name}.{number}"
        name = fresh
        make_dirs(self.quarantine_dir)
        with replacing(self.quarantine_dir / name) as out:
            out.writelines(pieces)
        return name

    def close(self) -> None:
        """Note the end of the chain and close all files."""
        if not (self.failed or self._has_tail):
            self.journal.write_checkpoint()
        self.journal.close()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _require_writable(self) -> None:
        if self.failed:
            raise ReadOnlyError(f"the archive is read-only: {self.failed}")
        if self._has_tail:
            self._undo_journal()

    def _writer(self, base: str, content: Encoded) -> SegmentWriter:
        """The newest part of ``base``, or a new one where that is made for another dictionary.

        The former one stays open until the group is durable or taken back.
        """
        if base not in self._parts:
            self._parts[base] = self._last_part(base)
        while True:
            name = part_name(base, self._parts[base])
            writer = self._writers.get(name)
            if writer is None:
                writer = self._writers[name] = SegmentWriter(self.content_dir, name, content.dictionary)
            if writer.takes(content):
                break
            self._parts[base] += 1
        self._writers.move_to_end(name)
        return writer

    def _last_part(self, base: str) -> int:
        """The highest part of ``base`` that there is; lower ones may have been removed."""
        path = self.content_dir / base
        parts = [split_name(each.name)[1] for each in path.parent.glob(f"{glob.escape(path.name)}*.zst")
                 if split_name(each.name)[0] == path.name]  # fmt: skip
        return max(parts, default=1)

    def _cut(self, writer: SegmentWriter, end: int) -> None:
        """Take back what stands behind ``end``. Where that fails, the next record starts a new part.

        The writer stays until the group is durable: records of the group may stand before ``end``.
        """
        try:
            writer.cut(end)
        except OSError:
            log.exception("content/%s could not be cut back; it is not appended to any more", writer.name)
            base, part = split_name(writer.name)
            self._parts[base] = max(self._parts[base], part + 1)

    def _abandon(self, writer: SegmentWriter) -> None:
        """Never append to this segment again, and cut off what was not synced.

        That may read well now, and be gone after a power cut.
        """
        try:
            writer.cut(writer.synced)
        except OSError as error:
            log.error("content/%s could not be cut back: %s", writer.name, error)
        base, part = split_name(writer.name)
        self._parts[base] = max(self._parts[base], part + 1)
        self._writers.pop(writer.name).close()

    def _close_idle(self) -> None:
        """Close what is not appended to any more; all that is open is durable now."""
        for name in list(self._writers):
            base, part = split_name(name)
            if part < self._parts[base]:
                self._writers.pop(name).close()
        while len(self._writers) > OPEN_WRITERS:
            self._writers.popitem(last=False)[1].close()


def part_name(base: str, part: int) -> str:
    """The file name of the ``part``-th segment of ``base``."""
    return f"{base}.zst" if part == 1 else f"{base}.{part}.zst"


def split_name(segment: str) -> tuple[str, int]:
    """What ``part_name`` was given."""
    base, _, part = segment.removesuffix(".zst").rpartition(".")
    return (base, int(part)) if part.isdecimal() else (segment.removesuffix(".zst"), 1)


def _failure(doing: str, error: OSError) -> CaptureFailedError:
    number = error.errno or errno.EIO
    return CaptureFailedError(f"{doing} failed: {os.strerror(number)}", number)
