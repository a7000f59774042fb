"""The facts: one struct for each kind of journal event.

An event is written as one JSON object a line (docs/format.md). Fields with their default value are left
out of the line. ``seq``, ``at`` and ``prev`` are filled in by the journal when the event is appended.
"""

from datetime import datetime
from typing import Any

import msgspec

from archivefs.parts import Actor, Content, Location, Member, Move, Purging, Setting
from archivefs.states import JobState, Outcome, Status, Submission


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Base of all events: position, time and chain.

    ``seq`` counts from 1 without gaps; ``at`` is UTC with microseconds; ``prev`` is the SHA-256 (hex) of the
    previous line without its newline, 64 zeros for the first.
    """

    seq: int = 0
    at: str = ""
    prev: str = ""
    actor: Actor | None = None

    @property
    def at_ms(self) -> int:
        """``at`` in Unix milliseconds; of an event as it was written."""
        return int(datetime.fromisoformat(self.at).timestamp() * 1000)


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


class Replayed(Event, frozen=True, kw_only=True, tag="replayed"):
    """An entry was converted again by a job, beside what it is; the fields are those of both events above.

    ``promoted``: from now on this attempt says what the entry is and what its reports are; else it only
    stands beside the others. ``report_ids``: as there; none: its reports are not delivered.
    """

    id: str
    attempt: int
    job: int
    outcome: Outcome
    promoted: bool = False
    code: str = ""
    started_ms: int
    duration_ms: int
    version: str = ""
    arguments: dict[str, Any] = {}
    error: str = ""
    warnings: list[str] = []
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


class Repacked(Event, frozen=True, kw_only=True, tag="repacked"):
    """Records were written again, smaller, to ``segment``; their content is the same."""

    segment: str
    moves: list[Move]


class SegmentsRemoved(Event, frozen=True, kw_only=True, tag="segments_removed"):
    """No record of these segments is needed any more; their files are removed after this line."""

    segments: list[str]


class Planned(Event, frozen=True, kw_only=True, tag="planned"):
    """``plans/PLAN.jsonl`` lists what a purge would take: so many entries, so many bytes on the disk.

    ``scope``: the query or policy it was made for. ``sha256``: of that file. ``erase``: see ``Plan``.
    """

    plan: int
    scope: str
    entries: int
    bytes: int
    sha256: str
    erase: bool = False


class PurgeBegun(Event, frozen=True, kw_only=True, tag="purge_begun"):
    """From now on the purge of a plan goes on until it is done, whatever stops it meanwhile."""

    plan: int


class Purged(Event, frozen=True, kw_only=True, tag="purged"):
    """Sources, reports and logs of these entries are not needed any more; their bytes go after this line."""

    plan: int
    entries: list[Purging]


class PurgeEnded(Event, frozen=True, kw_only=True, tag="purge_ended"):
    """The bytes are gone: so many of so many entries came back to the disk.

    ``kept``: entries that something came to protect after the purge had begun.
    """

    plan: int
    entries: int
    bytes: int
    kept: int = 0


class HoldAdded(Event, frozen=True, kw_only=True, tag="hold_added"):
    """Nothing that the hold covers is purged until it is released.

    ``HoldCovered`` events that follow name the entries. ``future``: later entries that ``query`` selects at
    the time of a purge are covered, too. ``last``: the id of the newest entry of then.
    """

    hold: str
    query: str
    reason: str
    last: str = ""
    future: bool = False


class HoldCovered(Event, frozen=True, kw_only=True, tag="hold_covered"):
    """Entries that a hold covers."""

    hold: str
    ids: list[str]


class HoldReleased(Event, frozen=True, kw_only=True, tag="hold_released"):
    """The hold protects nothing any more."""

    hold: str
    reason: str


class Retained(Event, frozen=True, kw_only=True, tag="retained"):
    """Nothing of a converter is purged before ``until`` (YYYY-MM-DD); it is never shortened."""

    converter: str
    until: str


class JobCreated(Event, frozen=True, kw_only=True, tag="job_created"):
    """A long piece of work waits to be done. ``work``: of which kind; ``request``: what was asked for."""

    job: int
    work: str
    request: dict[str, Any] = {}


class JobChanged(Event, frozen=True, kw_only=True, tag="job_changed"):
    """A job came into another state, with so many of ``total`` things done, failed and skipped.

    ``error``: why it failed, or was stopped.
    """

    job: int
    state: JobState
    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    error: str = ""


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
    | Replayed
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
    | Planned
    | PurgeBegun
    | Purged
    | PurgeEnded
    | HoldAdded
    | HoldCovered
    | HoldReleased
    | Retained
    | JobCreated
    | JobChanged
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
    elif isinstance(event, Purged):
        found += [each.id for each in event.entries]
    elif isinstance(event, HoldCovered):
        found += event.ids
    return found


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """The event as one line of JSON, without the newline."""
    return _encoder.encode(event)


def decode(line: bytes) -> AnyEvent:
    """The event of one line. Raises ``msgspec.DecodeError`` (also for fields that do not fit)."""
    return _decoder.decode(line)
