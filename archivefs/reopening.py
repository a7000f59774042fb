"""What opening an archive does about what a stop left: docs/durability.md has the table.

Torn ends are kept aside and cut, whole sources become entries, conversions that ran wait again, and copies
that a repack did not finish go.
"""

import itertools
import logging
from collections.abc import Callable

from archivefs.catalog.reader import Reader
from archivefs.errors import ContentDamagedError
from archivefs.events import AttemptFinished, Event, Voided
from archivefs.operations import captured_event
from archivefs.parts import Location
from archivefs.states import Outcome, Status
from archivefs.store import recovery
from archivefs.store.content import ContentReader
from archivefs.store.durable import sync_file
from archivefs.store.frames import RecordHeader
from archivefs.store.recovery import Tail
from archivefs.store.segment import ScannedRecord
from archivefs.store.store import Store
from archivefs.transaction import Transaction

log = logging.getLogger(__name__)

PATIENCE = 3
"""So often in a row a conversion may be what runs when archivefs ends. From then on it waits each time."""
FIRST_DELAY_MS, LONGEST_DELAY_MS = 30_000, 3_600_000


class Reopening:
    """Finds what is to be done; what must be journaled is returned as events, to be written at once."""

    def __init__(
        self, store: Store, reader: Reader, content: ContentReader, alarm: Callable[[str, str], None]
    ) -> None:
        """``alarm(about, what)`` is called for what a person should look at."""
        self._store = store
        self._reader = reader
        self._content = content
        self._alarm = alarm

    def events(self, txn: Transaction) -> list[Event]:
        """Bring the files in order; ``txn`` gives entries their events. Raises ``OSError``."""
        events: list[Event] = []
        if (cut := recovery.cut_journal(self._store)) is not None:
            events.append(cut)
        recovery.remove_gone(self._store.content_dir, self._reader.gone_segments())
        for tail in recovery.find_tails(self._store.content_dir, self._reader.segment_ends()):
            events += self._tail(txn, tail)
        events += self._interrupted(txn.now_ms)
        events += self._voided()  # last: an entry that was being converted is lost, too
        return [*events, *txn.events]

    def _tail(self, txn: Transaction, tail: Tail) -> list[Event]:
        """Bytes of a segment that the journal does not know."""
        end = tail.end
        if tail.whole and all(self._is_copy(record) for record in tail.records):
            return [recovery.drop_copies(self._store, tail)]
        for record in tail.records:
            if not self._is_unknown_source(record):
                break
            txn.record(captured_event(txn, record.header, record.location))
            end = record.location.offset + record.location.length
        if end > tail.end:
            sync_file(self._store.content_dir / tail.segment)
        if end == tail.size:
            return []
        reason = "bytes behind the last record that the journal knows"
        return [recovery.cut_tail(self._store, tail._replace(end=end), reason)]

    def _is_unknown_source(self, record: ScannedRecord) -> bool:
        """Whether a record behind the journal's last is a source that is whole, and no entry yet."""
        header, place = record.header, record.location
        if header.kind != "source" or self._reader.by_id(header.id) is not None:
            return False
        try:
            return self._content.sha256(place, header.size) == header.sha256
        except ContentDamagedError:
            return False

    def _is_copy(self, record: ScannedRecord) -> bool:
        """Whether the journal knows the same content in another place, and it can be read there."""
        header, entry = record.header, self._reader.by_id(record.header.id)
        if entry is None:
            return False
        if entry.status is Status.PURGED:  # a repack was stopped, and then it was purged
            return True
        if header.kind == "source":
            return entry.sha256 == header.sha256 and self._reads(self._reader.location(entry), header)
        return any(
            (each.attempt, each.name, each.sha256) == (header.attempt, header.name, header.sha256)
            and each.location is not None
            and self._reads(each.location, header)
            for each in self._reader.contents(entry.n)
        )

    def _reads(self, place: Location, header: RecordHeader) -> bool:
        try:
            return self._content.sha256(place, header.size) == header.sha256
        except (ContentDamagedError, OSError):
            return False

    def _interrupted(self, now_ms: int) -> list[Event]:
        """Conversions that ran when the process ended. One of them may be why it did, time and again."""
        events: list[Event] = []
        for entry in self._reader.with_status(Status.CONVERTING):
            *before, attempt = self._reader.attempts(entry.n)
            others = itertools.takewhile(lambda each: each.outcome == Outcome.INTERRUPTED, reversed(before))
            delays = 1 + len([*others]) - PATIENCE
            wait_ms = min(FIRST_DELAY_MS << min(delays - 1, 20), LONGEST_DELAY_MS) if delays > 0 else 0
            events.append(
                AttemptFinished(
                    id=entry.id, attempt=attempt.attempt, outcome=Outcome.INTERRUPTED, status=Status.PENDING,
                    started_ms=attempt.started_ms, duration_ms=0, due_ms=now_ms + wait_ms,
                    error="archivefs stopped while this conversion ran",
                )
            )  # fmt: skip
        return events

    def _voided(self) -> list[Event]:
        """Events for contents that a segment should have and is too short for.

        A segment that is missing as a whole is reported only: its disk may just not be mounted.
        """
        voided: list[Event] = []
        for name, end in self._reader.segment_ends().items():
            try:
                size = (self._store.content_dir / name).stat().st_size
            except FileNotFoundError:
                self._alarm(name, f"the segment content/{name} is missing; its entries cannot be read")
                self._store.retire(name)
                continue
            if size < end:
                self._store.retire(name)
                self._alarm(name, f"the segment content/{name} ends at {size}, the journal says {end}")
                voided += self._short(name, size)
        return voided

    def _short(self, name: str, size: int) -> list[Event]:
        """Events for what a segment that ends at ``size`` does not have any more."""
        reason = f"content/{name} ends at {size}"
        voided: list[Event] = [
            Voided(id=id_, attempt=attempt, ordinal=ordinal, reason=reason)
            for id_, attempt, ordinal in self._reader.contents_beyond(name, size)
        ]
        ends = (each.offset + each.length for each in self._reader.records(name))
        whole = max((end for end in ends if end <= size), default=0)
        if whole < size:
            voided.append(recovery.cut_tail(self._store, Tail(name, whole, size, []), reason))
        return voided
