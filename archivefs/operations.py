"""What can be done to an archive: each operation turns what it was given into records and events.

An operation runs inside a ``Transaction`` of the committing thread. Either all its records and events become
durable, or none.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from archivefs import names
from archivefs.catalog.catalog import DROP_REASON
from archivefs.catalog.reader import Entry, Reader
from archivefs.config import Config, ConverterConfig
from archivefs.errors import ArchiveError, UnknownEntryError
from archivefs.events import (
    WAITING,
    Actor,
    Adopted,
    AttemptFinished,
    AttemptStarted,
    Captured,
    Content,
    Dropped,
    Event,
    Location,
    Outcome,
    Status,
    Touched,
    encode,
)
from archivefs.store.frames import Encoded, RecordHeader, encode_bytes
from archivefs.store.store import Mark, Store

T_co = TypeVar("T_co", covariant=True)
SUPERSEDABLE = WAITING | {Status.ARCHIVED, Status.SKIPPED}
"""Statuses that a later version of the same inbox file turns into ``superseded``."""
IMPORT_REASON = "imported"
"""``reason`` of an entry that came with an import and waits for no conversion."""


class IdClock:
    """Hands out archive ids that are unique and ascending whatever the clock does.

    An id is ``YYYYMMDDTHHMMSSmmm-xxxxxx``: UTC capture time and the first six hex digits of the SHA-256.
    """

    def __init__(self, last_id: str) -> None:
        """Go on after ``last_id`` ('' for a new archive)."""
        self._last = last_id
        self._last_ms = id_milliseconds(last_id) if last_id else 0

    def next(self, sha256: str, now_ms: int) -> tuple[str, int]:
        """The id for a capture now, and its time in Unix milliseconds: the next free one after the last."""
        when = max(now_ms, self._last_ms)
        new = _id(when, sha256)
        if new <= self._last:
            when += 1
            new = _id(when, sha256)
        self._last, self._last_ms = new, when
        return new, when


def _id(when_ms: int, sha256: str) -> str:
    moment = datetime.fromtimestamp(when_ms // 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}{when_ms % 1000:03d}-{sha256[:6]}"


def id_milliseconds(id_: str) -> int:
    """The capture time in an archive id, in Unix milliseconds."""
    moment = datetime.strptime(id_[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1000 + int(id_[15:18])


def require_storable(event: Event) -> None:
    """Raise ``ArchiveError`` for text that is no UTF-8, and numbers that SQLite cannot hold."""
    try:
        encode(event)
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"a {type(event).__name__} event cannot be written: {error}") from None
    for field_name, value in msgspec.structs.asdict(event).items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ArchiveError(f"{field_name} of a {type(event).__name__} event is out of range: {value}")


class Savepoint(NamedTuple):
    """How far a transaction has come."""

    segments: Mark
    events: int
    overlay: dict[str, tuple[Status, int]]


class Transaction:
    """The group that is being committed: its events so far, and the state as they leave it."""

    def __init__(self, store: Store, reader: Reader, config: Config, ids: IdClock, now_ms: int) -> None:
        self.config = config
        self.now_ms = now_ms
        self.events: list[Event] = []
        self._store = store
        self._reader = reader
        self._ids = ids
        self._zone = ZoneInfo(config.timezone)
        self._overlay: dict[str, tuple[Status, int]] = {}

    def savepoint(self) -> Savepoint:
        """Where to come back to with ``rollback``."""
        return Savepoint(self._store.mark(), len(self.events), dict(self._overlay))

    def rollback(self, to: Savepoint) -> None:
        """Forget what was done since the savepoint."""
        self._store.rollback(to.segments)
        del self.events[to.events :]
        self._overlay = to.overlay

    def new_id(self, sha256: str) -> tuple[str, int]:
        """A fresh archive id and its capture time in Unix milliseconds."""
        return self._ids.next(sha256, self.now_ms)

    def day(self, when_ms: int) -> str:
        """The day in the archive's time zone, ``YYYY-MM-DD``."""
        return datetime.fromtimestamp(when_ms / 1000, self._zone).date().isoformat()

    def state(self, id_: str) -> tuple[Status, int]:
        """Status and number of attempts, this group's events included. Raises ``UnknownEntryError``."""
        if id_ not in self._overlay:
            entry = self._reader.by_id(id_)
            if entry is None:
                raise UnknownEntryError(f'no entry with id "{id_}"')
            self._overlay[id_] = (entry.status, entry.attempts)
        return self._overlay[id_]

    def waits(self, id_: str) -> bool:
        """Whether a later version of the same file would supersede this entry."""
        try:
            return self.state(id_)[0] in SUPERSEDABLE
        except UnknownEntryError:
            return False

    def quarantined(self, id_: str) -> Entry:
        """The entry, which must be in quarantine. Raises ``ArchiveError``."""
        status = self.state(id_)[0]
        entry = self._reader.by_id(id_)
        if status is not Status.QUARANTINED or entry is None:
            raise ArchiveError(f"{id_} is not quarantined: its status is {status}")
        return entry

    def converter_name(self, entry: Entry) -> str:
        """The name of the entry's converter."""
        return self._reader.converter_name(entry.converter_id)

    def record(self, event: Event) -> None:
        """Add an event to the group. Raises ``ArchiveError`` for what journal or catalog could not hold."""
        require_storable(event)
        self.events.append(event)
        match event:
            case Captured():
                self._overlay[event.id] = (event.status, 0)
                for earlier in event.supersedes:
                    self._overlay[earlier] = (Status.SUPERSEDED, self.state(earlier)[1])
            case AttemptStarted():
                self._overlay[event.id] = (Status.CONVERTING, event.attempt)
            case AttemptFinished():
                self._overlay[event.id] = (event.status, event.attempt)
            case Adopted():
                self._overlay[event.id] = (event.status, self.state(event.id)[1])
            case Dropped():
                self._overlay[event.id] = (Status.REJECTED, self.state(event.id)[1])

    def append(self, converter: str, kind: str, day: str, header: RecordHeader, content: Encoded) -> Location:
        """Write a record into the day's segment of ``kind`` (sources, reports)."""
        return self._store.append(f"{day.replace('-', '/')}/{converter}.{kind}", header, content)


class Operation(ABC, Generic[T_co]):
    """One thing to be done; ``prepare`` does the work that needs no transaction."""

    order: str = ""

    def prepare(self, config: Config) -> None:
        """Compress and hash; in any thread, before the group is formed."""

    @abstractmethod
    def run(self, txn: Transaction) -> T_co:
        """Write records and events. An ``ArchiveError`` undoes this operation only."""

    def close(self) -> None:
        """Free what ``prepare`` made."""


def clamped(time_ns: int) -> int:
    """The nearest time that 64 bits hold: from 1677 to 2262. Some programs set others."""
    return max(-(2**63), min(time_ns, 2**63 - 1))


def sound(text: str) -> str:
    """Text that can be written as UTF-8, whatever a converter said."""
    return text.encode("utf-8", "replace").decode()


class Receipt(NamedTuple):
    """What a capture made."""

    id: str
    sha256: str
    status: Status
    captured_ms: int


@dataclass
class Capture(Operation[Receipt]):
    """Archive a source. ``quarantine`` says why it must not be converted by itself, '' for a normal capture.

    ``supersedes`` are the ids that earlier versions of the same inbox file got; each is honoured while it
    still waits. ``imported``: it is not converted by itself, whatever its converter.
    """

    converter: str
    name: bytes
    content: bytes | Encoded
    mtime_ns: int
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    folder: bytes = b""
    supersedes: Sequence[str] = ()
    quarantine: str = ""
    imported: bool = False
    xattrs: dict[str, str] = field(default_factory=dict)
    actor: Actor | None = None

    def __post_init__(self) -> None:
        self.mtime_ns = clamped(self.mtime_ns)

    def prepare(self, config: Config) -> None:
        """Compress at the converter's level."""
        if isinstance(self.content, bytes):
            level = config.converters.get(self.converter, ConverterConfig()).compression_level
            self.content = encode_bytes(self.content, level)
        self.order = self.content.sha256

    def run(self, txn: Transaction) -> Receipt:
        """One record and one event."""
        content = self.content
        assert isinstance(content, Encoded)
        id_, captured_ms = txn.new_id(content.sha256)
        header = RecordHeader(
            kind="source", id=id_, converter=self.converter,
            name=names.text(self.name), name_hex=names.hex_if_needed(self.name),
            folder=names.text(self.folder), folder_hex=names.hex_if_needed(self.folder),
            size=content.size, stored=content.stored, sha256=content.sha256, captured_ms=captured_ms,
            mtime_ns=self.mtime_ns, mode=self.mode, uid=self.uid, gid=self.gid, xattrs=self.xattrs,
            quarantine=self.quarantine, imported=self.imported,
        )  # fmt: skip
        place = txn.append(self.converter, "sources", txn.day(captured_ms), header, content)
        supersedes = [earlier for earlier in self.supersedes if txn.waits(earlier)]
        event = captured_event(txn, header, place, supersedes, self.actor)
        txn.record(event)
        return Receipt(id_, content.sha256, event.status, captured_ms)

    def close(self) -> None:
        """Free the spool file of large content."""
        if isinstance(self.content, Encoded):
            self.content.close()


def first_status(converter: ConverterConfig, name: bytes, when_ms: int) -> tuple[Status, str, int]:
    """Status, reason and time of the first conversion (0: none) of a source archived at ``when_ms``."""
    if not converter.run:
        return Status.ARCHIVED, "", 0
    if converter.patterns and not names.matches(name, converter.patterns):
        return Status.SKIPPED, f"the name fits none of: {', '.join(converter.patterns)}", 0
    return Status.PENDING, "", when_ms + int(converter.settle_seconds * 1000)


def captured_event(
    txn: Transaction,
    header: RecordHeader,
    place: Location,
    supersedes: Sequence[str] = (),
    actor: Actor | None = None,
) -> Captured:
    """The event for a source record; its status follows from the header and the converter's configuration."""
    if header.quarantine:
        status, reason, due_ms = Status.QUARANTINED, header.quarantine, 0
    elif header.imported:
        status, reason, due_ms = Status.ARCHIVED, IMPORT_REASON, 0
    else:
        name = names.original(header.name, header.name_hex)
        converter = txn.config.converters.get(header.converter, ConverterConfig())
        status, reason, due_ms = first_status(converter, name, min(header.captured_ms, txn.now_ms))
    return Captured(
        id=header.id, converter=header.converter, day=txn.day(header.captured_ms),
        name=header.name, name_hex=header.name_hex, folder=header.folder, folder_hex=header.folder_hex,
        size=header.size, sha256=header.sha256, mtime_ns=header.mtime_ns, mode=header.mode,
        uid=header.uid, gid=header.gid, xattrs=header.xattrs, captured_ms=header.captured_ms,
        status=status, reason=reason,
        due_ms=due_ms, supersedes=list(supersedes), location=place, actor=actor,
    )  # fmt: skip


@dataclass
class Touch(Operation[None]):
    """Note attributes that an inbox file got after its capture."""

    id: str
    mtime_ns: int
    mode: int
    uid: int
    gid: int

    def __post_init__(self) -> None:
        self.mtime_ns = clamped(self.mtime_ns)

    def run(self, txn: Transaction) -> None:
        """One event."""
        txn.state(self.id)
        txn.record(Touched(id=self.id, mtime_ns=self.mtime_ns, mode=self.mode, uid=self.uid, gid=self.gid))


@dataclass
class Adopt(Operation[Status]):
    """Take an entry out of quarantine; returns what it becomes."""

    id: str
    actor: Actor | None = None

    def run(self, txn: Transaction) -> Status:
        """One event. Raises ``ArchiveError`` where the entry is not quarantined."""
        entry = txn.quarantined(self.id)
        converter = txn.config.converters.get(txn.converter_name(entry), ConverterConfig())
        status, _, due_ms = first_status(converter, entry.name, txn.now_ms)
        txn.record(Adopted(id=self.id, status=status, due_ms=due_ms, actor=self.actor))
        return status


@dataclass
class Drop(Operation[None]):
    """Reject a quarantined entry; its bytes stay until retention takes them."""

    id: str
    actor: Actor | None = None

    def run(self, txn: Transaction) -> None:
        """One event. Raises ``ArchiveError`` where the entry is not quarantined."""
        txn.quarantined(self.id)
        txn.record(Dropped(id=self.id, reason=DROP_REASON, actor=self.actor))


@dataclass
class Note(Operation[None]):
    """Put an event into the journal that changes no entry."""

    event: Event

    def run(self, txn: Transaction) -> None:
        """One event."""
        txn.record(self.event)


@dataclass
class BeginAttempt(Operation[int | None]):
    """Start a conversion, unless the entry does not wait for one any more."""

    id: str
    cause: str

    def run(self, txn: Transaction) -> int | None:
        """One event; the attempt's number, or None where the entry was superseded or taken meanwhile."""
        status, attempts = txn.state(self.id)
        if status not in WAITING:
            return None
        txn.record(AttemptStarted(id=self.id, attempt=attempts + 1, cause=self.cause))
        return attempts + 1


@dataclass
class Report:
    """A report or log to be stored: its name under attempts/N/, and its bytes."""

    name: str
    content: bytes
    encoded: Encoded | None = None

    def header(self, kind: str, id_: str, attempt: int) -> RecordHeader:
        """The header of its record."""
        assert self.encoded is not None
        return RecordHeader(
            kind=kind, id=id_, name=self.name, size=self.encoded.size, stored=self.encoded.stored,
            sha256=self.encoded.sha256, attempt=attempt,
        )  # fmt: skip


@dataclass
class FinishAttempt(Operation[None]):
    """Store what an attempt gave and move the entry on. Times in Unix milliseconds."""

    id: str
    converter: str
    attempt: int
    outcome: Outcome
    status: Status
    started_ms: int
    duration_ms: int
    version: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    warnings: Sequence[str] = ()
    due_ms: int = 0
    log: Report | None = None
    reports: Sequence[Report] = ()

    def prepare(self, config: Config) -> None:
        """Compress log and reports at the converter's level."""
        level = config.converters.get(self.converter, ConverterConfig()).compression_level
        for piece in (self.log, *self.reports):
            if piece is not None:
                piece.encoded = encode_bytes(piece.content, level)

    def run(self, txn: Transaction) -> None:
        """One record for the log and each report, and one event. Raises where the attempt is not running."""
        status, attempts = txn.state(self.id)
        if status is not Status.CONVERTING or attempts != self.attempt:
            raise ArchiveError(f"attempt {self.attempt} of {self.id} is not running: the entry is {status}")
        keep = txn.config.converters.get(self.converter, ConverterConfig()).archive_reports
        day = txn.day(id_milliseconds(self.id))
        txn.record(
            AttemptFinished(
                id=self.id, attempt=self.attempt, outcome=self.outcome, status=self.status,
                started_ms=self.started_ms, duration_ms=self.duration_ms, version=sound(self.version),
                arguments=self.arguments, error=sound(self.error),
                warnings=[sound(each) for each in self.warnings], due_ms=self.due_ms,
                log=self._store(txn, day, "log", self.log) if self.log else None,
                reports=[self._store(txn, day, "report", each, keep=keep) for each in self.reports],
            )
        )  # fmt: skip

    def _store(self, txn: Transaction, day: str, kind: str, piece: Report, *, keep: bool = True) -> Content:
        header = piece.header(kind, self.id, self.attempt)
        place = None
        if keep:
            assert piece.encoded is not None
            place = txn.append(self.converter, "reports", day, header, piece.encoded)
        return Content(name=piece.name, size=header.size, sha256=header.sha256, location=place)
