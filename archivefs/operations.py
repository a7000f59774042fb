"""What can be done to an archive: each operation turns what it was given into records and events.

An operation runs inside a ``Transaction`` of the committing thread.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from archivefs import names, reports
from archivefs.catalog.catalog import DROP_REASON
from archivefs.config import ConverterConfig
from archivefs.errors import ArchiveError
from archivefs.events import (
    Adopted,
    AttemptFinished,
    AttemptStarted,
    Captured,
    CodeKept,
    DictionaryTrained,
    Dropped,
    Event,
    Repacked,
    Retried,
    Routed,
    SegmentsRemoved,
    Touched,
)
from archivefs.packing import REPORTS, SOURCES, Packing
from archivefs.parts import Actor, Content, Location, Member, Move
from archivefs.routing import UNROUTED
from archivefs.states import WAITING, Outcome, Status
from archivefs.statuses import (
    IMPORT_REASON,
    NO_CONVERTER_REASON,
    first_status,
    status_for,
    why_not_again,
)
from archivefs.store.frames import Encoded, RecordHeader
from archivefs.transaction import Operation, Transaction, id_milliseconds


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
    still waits. ``imported``: it is not converted by itself, whatever its converter. ``members``: the source
    is a folder, and the content a tar of them.
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
    members: Sequence[Member] = ()
    actor: Actor | None = None

    bears_lag = True

    def __post_init__(self) -> None:
        self.mtime_ns = clamped(self.mtime_ns)

    def prepare(self, packing: Packing) -> None:
        """Compress as the converter's sources are."""
        if isinstance(self.content, bytes):
            self.content = packing.bytes(self.converter, SOURCES, self.content)
        self.order = self.content.sha256

    def run(self, txn: Transaction) -> Receipt:
        """One record and one event."""
        content = self.content
        assert isinstance(content, Encoded)
        id_, captured_ms = txn.new_id(content.sha256)
        header = RecordHeader(
            id=id_, converter=self.converter,
            name=names.text(self.name), name_hex=names.hex_if_needed(self.name),
            folder=names.text(self.folder), folder_hex=names.hex_if_needed(self.folder),
            size=content.size, stored=content.stored, sha256=content.sha256,
            mtime_ns=self.mtime_ns, mode=self.mode, uid=self.uid, gid=self.gid, xattrs=self.xattrs,
            quarantine=self.quarantine, imported=self.imported, members=list(self.members),
        )  # fmt: skip
        place = txn.append(self.converter, SOURCES, txn.day(captured_ms), header, content)
        supersedes = [earlier for earlier in self.supersedes if txn.waits(earlier)]
        event = captured_event(txn, header, place, supersedes, self.actor)
        txn.record(event)
        return Receipt(id_, content.sha256, event.status, captured_ms)

    def close(self) -> None:
        """Free the spool file of large content."""
        if isinstance(self.content, Encoded):
            self.content.close()


def captured_event(
    txn: Transaction,
    header: RecordHeader,
    place: Location,
    supersedes: Sequence[str] = (),
    actor: Actor | None = None,
) -> Captured:
    """The event for a source record; its status follows from the header and the converter's configuration."""
    captured_ms = id_milliseconds(header.id)
    if header.quarantine:
        status, reason, due_ms = Status.QUARANTINED, header.quarantine, 0
    elif header.imported:
        status, reason, due_ms = Status.ARCHIVED, IMPORT_REASON, 0
    else:
        name = names.original(header.name, header.name_hex)
        when_ms = min(captured_ms, txn.now_ms)
        status, reason, due_ms = first_status(
            txn.config, header.converter, name, when_ms,
            is_folder=bool(header.members), is_part=bool(header.folder),
        )  # fmt: skip
    return Captured(
        id=header.id, converter=header.converter, day=txn.day(captured_ms),
        name=header.name, name_hex=header.name_hex, folder=header.folder, folder_hex=header.folder_hex,
        size=header.size, sha256=header.sha256, mtime_ns=header.mtime_ns, mode=header.mode,
        uid=header.uid, gid=header.gid, xattrs=header.xattrs, captured_ms=captured_ms,
        members=header.members,
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
        name = txn.converter_name(entry)
        status, reason, due_ms = first_status(
            txn.config, name, entry.name, txn.now_ms, is_folder=entry.members > 0, is_part=bool(entry.folder)
        )
        txn.record(Adopted(id=self.id, status=status, reason=reason, due_ms=due_ms, actor=self.actor))
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
class AddDictionary(Operation[int]):
    """Keep a dictionary and use it from now on, unless it is for a ``day``; returns its number."""

    converter: str
    content: str
    data: bytes
    samples: int
    day: str = ""

    def run(self, txn: Transaction) -> int:
        """One file and one event."""
        made = txn.save_dictionary(self.converter, self.data)
        txn.record(
            DictionaryTrained(
                converter=self.converter, content=self.content, name=made.name, number=made.number,
                samples=self.samples, size=len(made.data), sha256=hashlib.sha256(made.data).hexdigest(),
                day=self.day,
            )
        )  # fmt: skip
        return made.number


@dataclass
class KeepCode(Operation[None]):
    """Say that a version of a converter's code is kept, whose file is durable; once for each version."""

    event: CodeKept

    def run(self, txn: Transaction) -> None:
        """One event, none where the journal says so."""
        if not txn.knows_code(self.event.converter, self.event.sha256):
            txn.record(self.event)


@dataclass
class NewSegment(Operation[str]):
    """Append no more to the segments of ``base``; returns the name for one that follows them."""

    base: str

    def run(self, txn: Transaction) -> str:
        """No event."""
        return txn.new_segment(self.base)


@dataclass
class MoveRecords(Operation[int]):
    """Say that records stand in ``segment`` now, whose file is durable; returns how many.

    Records that are no longer where they were copied from are left out.
    """

    segment: str
    moves: Sequence[tuple[Location, Move]]

    def run(self, txn: Transaction) -> int:
        """One event."""
        valid = [move for place, move in self.moves if txn.place_of(move) == place]
        if valid:
            txn.record(Repacked(segment=self.segment, moves=valid))
        return len(valid)


@dataclass
class DropSegment(Operation[None]):
    """Remove the file of a segment whose events could not be written: nothing says that it is needed."""

    segment: str

    def run(self, txn: Transaction) -> None:
        """No event."""
        txn.drop_segment(self.segment)


@dataclass
class RemoveSegments(Operation[list[str]]):
    """Say of segments that they are not needed any more, and remove their files; returns which are not."""

    segments: Sequence[str]

    def run(self, txn: Transaction) -> list[str]:
        """One event."""
        unused = [name for name in self.segments if not txn.is_needed(name)]
        for name in unused:
            txn.retire(name)
        if unused:
            txn.record(SegmentsRemoved(segments=unused))
        return unused


@dataclass
class BeginAttempt(Operation[int | None]):
    """Start a conversion, unless the entry does not wait for one any more.

    ``attempt``: the number that it must get, 0 for any. With it, what was read of the entry some time ago can
    start one conversion, however often it is tried.
    """

    id: str
    cause: str
    attempt: int = 0
    code: str = ""

    def run(self, txn: Transaction) -> int | None:
        """One event; the attempt's number, or None where the entry was superseded or taken meanwhile."""
        status, attempts = txn.state(self.id)
        if status not in WAITING or (self.attempt and self.attempt != attempts + 1):
            return None
        txn.record(AttemptStarted(id=self.id, attempt=attempts + 1, cause=self.cause, code=self.code))
        return attempts + 1


@dataclass
class Route(Operation[bool]):
    """Give an entry of ``unrouted`` the converter that was found; '' where none was. Returns whether it did.

    It does not where the entry was superseded or routed meanwhile. ``asked``: what each converter said.
    """

    id: str
    converter: str
    confidence: float
    asked: dict[str, str]

    def run(self, txn: Transaction) -> bool:
        """One event, or none."""
        entry = txn.entry(self.id)
        is_routed = any(isinstance(event, Routed) and event.id == self.id for event in txn.events)
        if is_routed or txn.state(self.id)[0] is not Status.PENDING or txn.converter_name(entry) != UNROUTED:
            return False
        name = self.converter or UNROUTED
        table = txn.config.converters.get(name, ConverterConfig())
        status, reason, due_ms = status_for(table, entry.name, txn.now_ms)
        if not self.converter and status is Status.ARCHIVED:
            reason = NO_CONVERTER_REASON
        if due_ms:
            due_ms = txn.now_ms  # it was left alone for its settle time already
        txn.record(
            Routed(
                id=self.id, converter=name, status=status, reason=sound(reason), due_ms=due_ms,
                confidence=self.confidence, asked={each: sound(text) for each, text in self.asked.items()},
            )
        )  # fmt: skip
        return True


@dataclass
class Retry(Operation[str]):
    """Convert an entry again, now, because a person asks for it; returns why not, '' where it is done."""

    id: str
    actor: Actor | None = None

    def run(self, txn: Transaction) -> str:
        """One event, or none. Raises ``UnknownEntryError``."""
        entry = txn.entry(self.id)
        reason = why_not_again(txn.config, txn.converter_name(entry), entry, txn.state(self.id)[0])
        if not reason:
            txn.record(Retried(id=self.id, due_ms=txn.now_ms, actor=self.actor))
        return reason


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


def reports_of(contents: Sequence[bytes]) -> list[Report]:
    """What a conversion gave, as ``report.json``, ``report-2.json``, ..."""
    return [
        Report("report.json" if number == 1 else f"report-{number}.json", content)
        for number, content in enumerate(contents, 1)
    ]


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

    def prepare(self, packing: Packing) -> None:
        """Compress log and reports as the converter's reports are."""
        for piece in (self.log, *self.reports):
            if piece is not None:
                piece.encoded = packing.bytes(self.converter, REPORTS, piece.content)

    def run(self, txn: Transaction) -> None:
        """One record for the log and each report, and one event. Raises where the attempt is not running."""
        status, attempts = txn.state(self.id)
        if status is not Status.CONVERTING or attempts != self.attempt:
            raise ArchiveError(f"attempt {self.attempt} of {self.id} is not running: the entry is {status}")
        config = txn.config.converters.get(self.converter, ConverterConfig())
        log, stored = self._stored(txn, config)
        txn.record(
            AttemptFinished(
                id=self.id, attempt=self.attempt, outcome=self.outcome, status=self.status,
                started_ms=self.started_ms, duration_ms=self.duration_ms, version=sound(self.version),
                arguments=self.arguments, error=sound(self.error),
                warnings=[sound(each) for each in self.warnings], due_ms=self.due_ms,
                log=log, reports=stored, report_ids=self._report_ids(txn) if config.submit else [],
            )
        )  # fmt: skip

    def _report_ids(self, txn: Transaction) -> list[str]:
        """Under which ids the reports are submitted; none of an attempt that was no success."""
        if self.outcome is not Outcome.SUCCESS:
            return []
        source = txn.source_sha256(self.id)
        return [
            reports.id_of(each.content) or reports.make_id(source, self.converter, ordinal)
            for ordinal, each in enumerate(self.reports, 1)
        ]

    def _stored(self, txn: Transaction, config: ConverterConfig) -> tuple[Content | None, list[Content]]:
        """A record for the log and for each report that is archived; what the event says of them."""
        day, keep = txn.day(id_milliseconds(self.id)), config.archive_reports
        log = self._store(txn, day, "log", self.log) if self.log else None
        return log, [self._store(txn, day, "report", each, keep=keep) for each in self.reports]

    def _store(self, txn: Transaction, day: str, kind: str, piece: Report, *, keep: bool = True) -> Content:
        header = piece.header(kind, self.id, self.attempt)
        place = None
        if keep:
            assert piece.encoded is not None
            place = txn.append(self.converter, REPORTS, day, header, piece.encoded)
        return Content(name=piece.name, size=header.size, sha256=header.sha256, location=place)
