"""The facts: one struct for each kind of journal event. Imports nothing of archivefs.

An event is written as one JSON object a line (docs/format.md). Fields with their default value are left
out of the line. ``seq``, ``at`` and ``prev`` are filled in by the journal when the event is appended.
"""

from enum import StrEnum
from typing import Any

import msgspec


class Status(StrEnum):
    """Where an entry stands. The order is the order of the catalog's numbers and must never change."""

    PENDING = "pending"
    CONVERTING = "converting"
    SUCCESS = "success"
    FAILED = "failed"
    SUSPENDED = "suspended"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    ARCHIVED = "archived"
    SUPERSEDED = "superseded"
    QUARANTINED = "quarantined"


STATUSES = tuple(Status)
WAITING = frozenset({Status.PENDING, Status.SUSPENDED})
"""Statuses from which a conversion can start by itself."""
FINAL = frozenset(Status) - {Status.PENDING, Status.CONVERTING, Status.SUSPENDED}
"""Statuses in which nothing more happens by itself."""


class Outcome(StrEnum):
    """How one attempt ended.

    ``interrupted``: the daemon stopped, the entry waits again. ``transient``: a fault of the machine, not of
    the source or its converter.
    """

    SUCCESS = "success"
    FAILED = "failed"
    SUSPENDED = "suspended"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    INTERRUPTED = "interrupted"
    TRANSIENT = "transient"


class Cause(StrEnum):
    """Why an attempt was made. ``request``: a person asked for it with ``archivefs retry``."""

    CAPTURE = "capture"
    RETRY = "retry"
    REQUEST = "request"


AUTOMATIC = frozenset({Cause.RETRY})
"""Causes of attempts that follow by themselves from an earlier one."""


class Submission(StrEnum):
    """Where a report in the outbox stands. ``refused``: its receiver does not want it as it is."""

    QUEUED = "queued"
    SENT = "sent"
    REFUSED = "refused"
    DROPPED = "dropped"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the plain parts of events."""


class Location(Record, frozen=True, kw_only=True):
    """Where a record lies: bytes ``offset .. offset + length`` of ``content/segment``.

    ``header`` and ``stored`` are the lengths of the header frame and of the content frames behind it;
    what remains of ``length`` is the frame table.
    """

    segment: str
    offset: int
    header: int
    stored: int
    length: int


class Actor(Record, frozen=True, kw_only=True):
    """Who caused an event: the uid the kernel vouched for, and the program where it is known."""

    uid: int
    program: str = ""


class Content(Record, frozen=True, kw_only=True):
    """A stored piece of an attempt: a report or its log. ``location`` is None where it was not kept."""

    name: str
    size: int
    sha256: str
    location: Location | None = None


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A file or folder in a source that is a folder; in a line it is an array in this order.

    ``path`` is relative to the folder, ``path_hex`` its exact bytes where they are not UTF-8. ``mode`` has
    the kind in it, as stat(2) gives it. The bytes of a file begin at ``offset`` of the content, a tar.
    """

    path: str
    path_hex: str
    mode: int
    size: int
    mtime_ns: int
    offset: int


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Base of all events: position, time and chain.

    ``seq`` counts from 1 without gaps; ``at`` is UTC with microseconds; ``prev`` is the SHA-256 (hex) of the
    previous line without its newline, 64 zeros for the first.
    """

    seq: int = 0
    at: str = ""
    prev: str = ""
    actor: Actor | None = None


class Created(Event, frozen=True, kw_only=True, tag="created"):
    """The archive was made. ``timezone`` decides for good which day an entry belongs to."""

    archive: str
    timezone: str
    format: int
    program: str


class Captured(Event, frozen=True, kw_only=True, tag="captured"):
    """A source was archived: its bytes are at ``location``, its identity and attributes are here.

    ``due_ms``: earliest time of its conversion (Unix milliseconds), 0 where none follows by itself.
    ``supersedes``: the ids of earlier versions of the same inbox file that this one replaces.
    ``xattrs``: the extended attributes ``user.*`` of the file, values in Base64. ``members``: of a folder,
    what is in it; its content is a tar of them.
    """

    id: str
    converter: str
    day: str
    name: str
    name_hex: str = ""
    folder: str = ""
    folder_hex: str = ""
    size: int
    sha256: str
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    captured_ms: int
    status: Status
    reason: str = ""
    due_ms: int = 0
    supersedes: list[str] = []
    xattrs: dict[str, str] = {}
    members: list[Member] = []
    location: Location


class Touched(Event, frozen=True, kw_only=True, tag="touched"):
    """Attributes of a captured source changed in the inbox after its capture."""

    id: str
    mtime_ns: int
    mode: int
    uid: int
    gid: int


class AttemptStarted(Event, frozen=True, kw_only=True, tag="attempt_started"):
    """A conversion of the entry began; no other attempt ever has its number.

    ``cause``: see ``Cause``. ``code``: see ``CodeKept``.
    """

    id: str
    attempt: int
    cause: str
    code: str = ""


class AttemptFinished(Event, frozen=True, kw_only=True, tag="attempt_finished"):
    """A conversion of the entry ended. ``error`` is the text of error.txt.

    ``status`` is what the entry becomes: a suspended attempt whose retries are used up makes it failed.
    ``report_ids``: under which ids the reports are put into the outbox, in their order; none: they are not.
    They stand in this line, so that no stop can come between a success and its submission.
    """

    id: str
    attempt: int
    outcome: Outcome
    status: Status
    started_ms: int
    duration_ms: int
    version: str = ""
    arguments: dict[str, Any] = {}
    error: str = ""
    warnings: list[str] = []
    due_ms: int = 0
    log: Content | None = None
    reports: list[Content] = []
    report_ids: list[str] = []


class DeliveryAttempted(Event, frozen=True, kw_only=True, tag="delivery_attempted"):
    """A report of the outbox was delivered, or was not. ``state`` is what it becomes.

    ``http_status``: of the answer, 0 for none. ``answer_id``: the id that the receiver gave it.
    ``due_ms``: earliest time of the next delivery of one that stays queued (Unix milliseconds).
    """

    id: str
    attempt: int
    ordinal: int
    state: Submission
    started_ms: int
    duration_ms: int
    http_status: int = 0
    answer_id: str = ""
    error: str = ""
    due_ms: int = 0


class DeliveryDecided(Event, frozen=True, kw_only=True, tag="delivery_decided"):
    """A person put a report back into the queue, or took it out for good."""

    id: str
    attempt: int
    ordinal: int
    state: Submission


class Setting(Record, frozen=True, kw_only=True):
    """A key of archive.toml whose value changed; None where it was not there, or is not any more."""

    key: str
    old: Any = None
    new: Any = None


class Configured(Event, frozen=True, kw_only=True, tag="configured"):
    """archive.toml changed, by a command or under a mount that read it again.

    ``before`` and ``after`` are the SHA-256 of the file; a command writes this line before the file gets its
    name, so that a stop in between can be told from a change by a person. ``before`` is empty where the file
    was found changed. ``backup``: where the former file is kept.
    """

    changes: list[Setting]
    after: str
    before: str = ""
    backup: str = ""


class Routed(Event, frozen=True, kw_only=True, tag="routed"):
    """A file from the top of the inbox got its converter, or stays where it is because it fits none.

    ``confidence`` (0 to 1): how sure that converter is. ``asked``: what each one said, for a person.
    """

    id: str
    converter: str
    status: Status
    reason: str = ""
    due_ms: int = 0
    confidence: float = 0.0
    asked: dict[str, str] = {}


class Retried(Event, frozen=True, kw_only=True, tag="retried"):
    """A person asked for another conversion of an entry that came to its end, or waits for a later one."""

    id: str
    due_ms: int


class TailCut(Event, frozen=True, kw_only=True, tag="tail_cut"):
    """Bytes behind the last whole record or line were set aside as ``quarantine/kept_as``."""

    file: str
    offset: int
    bytes: int
    kept_as: str
    reason: str


class TailDropped(Event, frozen=True, kw_only=True, tag="tail_dropped"):
    """A person removed ``quarantine/kept_as``."""

    kept_as: str
    bytes: int


class Voided(Event, frozen=True, kw_only=True, tag="voided"):
    """The journal knows a content that the disk does not have: the source (attempt 0), a log or a report."""

    id: str
    attempt: int = 0
    ordinal: int = 0
    reason: str


class Adopted(Event, frozen=True, kw_only=True, tag="adopted"):
    """A person took an entry out of quarantine; it goes on as if it had just been captured."""

    id: str
    status: Status
    reason: str = ""
    due_ms: int = 0


class Dropped(Event, frozen=True, kw_only=True, tag="dropped"):
    """A person decided that a quarantined entry is worth nothing; it is rejected, its bytes stay."""

    id: str
    reason: str


class DictionaryTrained(Event, frozen=True, kw_only=True, tag="dictionary_trained"):
    """``dictionaries/NAME.zdict`` was made of ``samples`` contents; it is used for what is stored from then.

    ``content``: sources or reports. ``number`` is what frames name that need it. ``day``: it was made for a
    repack of that day, and what is stored from then does not use it. A rescue knows of no samples, and of a
    file that is missing neither ``size`` (0) nor ``sha256`` ('').
    """

    converter: str
    content: str
    name: str
    number: int
    samples: int
    size: int
    sha256: str
    day: str = ""


class CodeKept(Event, frozen=True, kw_only=True, tag="code_kept"):
    """A version of a converter's code lies in ``converters/CONVERTER/SHA256.zip``; attempts name its hash.

    ``run`` is the line of archive.toml, ``files`` how many files of ``path`` it holds. ``distribution`` and
    ``version``: what it is instead, where the module is installed.
    """

    converter: str
    sha256: str
    size: int
    files: int
    run: str
    distribution: str = ""
    version: str = ""


class Move(msgspec.Struct, frozen=True, array_like=True):
    """A record that was written again: the source (attempt 0), a log or a report, and its new place.

    In a line it is an array in this order, for there are many.
    """

    id: str
    attempt: int
    ordinal: int
    offset: int
    header: int
    stored: int
    length: int


class Repacked(Event, frozen=True, kw_only=True, tag="repacked"):
    """Records were written again, smaller, to ``segment``; their content is the same."""

    segment: str
    moves: list[Move]


class SegmentsRemoved(Event, frozen=True, kw_only=True, tag="segments_removed"):
    """No record of these segments is needed any more; their files are removed after this line."""

    segments: list[str]


class Verified(Event, frozen=True, kw_only=True, tag="verified"):
    """A scheduled verification ended: what it read, and how many findings of each severity it had.

    ``part`` counts from 1.
    """

    scope: str
    part: int = 0
    records: int
    bytes: int
    findings: dict[str, int] = {}


class Repaired(Event, frozen=True, kw_only=True, tag="repaired"):
    """`verify --repair` changed something; ``backup`` is where below quarantine/ the former state lies."""

    what: list[str]
    backup: str


class Rebuilt(Event, frozen=True, kw_only=True, tag="rebuilt"):
    """The journal was made again from the segments; the old one lies below quarantine/ as ``backup``."""

    records: int
    backup: str


AnyEvent = (
    Created
    | Captured
    | Touched
    | AttemptStarted
    | AttemptFinished
    | Routed
    | Retried
    | DeliveryAttempted
    | DeliveryDecided
    | Configured
    | TailCut
    | TailDropped
    | Voided
    | Adopted
    | Dropped
    | DictionaryTrained
    | CodeKept
    | Repacked
    | SegmentsRemoved
    | Verified
    | Repaired
    | Rebuilt
)


def entries_of(event: AnyEvent) -> list[str]:
    """The ids of the entries that an event tells of; none where it is about the archive itself."""
    own = getattr(event, "id", "")
    found = [own] if isinstance(own, str) and own else []
    if isinstance(event, Captured):
        found += event.supersedes
    elif isinstance(event, Repacked):
        found += [move.id for move in event.moves]
    return found


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """The event as one line of JSON, without the newline."""
    return _encoder.encode(event)


def decode(line: bytes) -> AnyEvent:
    """The event of one line. Raises ``msgspec.DecodeError`` (also for fields that do not fit)."""
    return _decoder.decode(line)
