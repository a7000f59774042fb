"""The writer of the catalog: how each kind of event changes the rows.

``apply`` is the only code that writes. Given the same journal it makes the same rows, number for number, so
a catalog that was kept up to date and one that was rebuilt are equal.
"""

import contextlib
import importlib.resources
import os
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import apsw
import msgspec

from archivefs import names
from archivefs.catalog import activity, moving, naming, notes, outbox, purging, totals, trigrams
from archivefs.catalog.connection import connect, fill_in_one_go
from archivefs.errors import OtherSchemaError
from archivefs.events import (
    Adopted,
    AnyEvent,
    AttemptFinished,
    AttemptStarted,
    Captured,
    DeliveryAttempted,
    DeliveryDecided,
    Dropped,
    Purged,
    Repacked,
    Replayed,
    Retried,
    Routed,
    SegmentsRemoved,
    Touched,
    Voided,
)
from archivefs.parts import Content, Location
from archivefs.routing import UNROUTED
from archivefs.states import STATUSES, Cause, Status

SCHEMA_VERSION = 14
SHORT_NAME = 200
"""A name up to this length is not shortened in that of its directory, nor is another one shortened to it."""
GIVEN_BACK = 500
"""Pages that are given back at once: 2 MB."""
DROP_REASON = "dropped from quarantine"
"""``reason`` of an entry that a person found to be worth nothing."""
VOID_REASON = "its content is not on the disk"
"""``reason`` of an entry whose record the journal knows and the disk has not."""
RETRY_REASON = "a person asked for another conversion"
"""``reason`` of an entry from the moment of asking until that conversion begins."""
_INSERT_ENTRY = f"INSERT INTO entries VALUES (NULL{', ?' * 14}, unhex(?){', ?' * 14})"
_NUMBER = {status: number for number, status in enumerate(STATUSES)}
_PURGED = _NUMBER[Status.PURGED]
_EPOCH = date(1970, 1, 1).toordinal()


class Change(NamedTuple):
    """What a commit did to one entry, for those who cache it. ``before`` is None for a new entry.

    ``left`` is the number of the converter from which it was routed to this one, else 0. ``replayed``: it has
    another attempt, and perhaps other reports.
    """

    n: int
    id: str
    converter_id: int
    day: int
    before: Status | None
    after: Status
    left: int = 0
    replayed: bool = False


def day_number(day: str) -> int:
    """Days since 1970-01-01 of ``YYYY-MM-DD``."""
    return date.fromisoformat(day).toordinal() - _EPOCH


def day_text(number: int) -> str:
    """``YYYY-MM-DD`` of days since 1970-01-01."""
    return date.fromordinal(number + _EPOCH).isoformat()


def status_number(status: Status) -> int:
    """The number by which the catalog stores a status."""
    return _NUMBER[status]


def require_schema(db: apsw.Connection, path: Path) -> None:
    """Close the connection and raise ``OtherSchemaError`` where the tables are those of another version."""
    found = db.execute("SELECT value FROM meta WHERE key = 'schema'").get
    if found != SCHEMA_VERSION:
        db.close()
        raise OtherSchemaError(
            f"{path}: schema {found!r}, known here is {SCHEMA_VERSION}; archivefs rebuild makes it again"
        )


class Catalog:
    """The writing connection. One thread at a time; readers use their own connection."""

    def __init__(self, path: Path, *, in_one_go: bool = False) -> None:
        """Open or create. Raises ``OtherSchemaError`` or ``apsw.Error`` (damaged).

        ``in_one_go``: to be filled from the start to the end and thrown away where that fails. Nothing is on
        the disk for sure before ``close``.
        """
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.db = connect(path)
        self._path = path
        self._in_one_go = in_one_go
        if in_one_go:
            fill_in_one_go(self.db)
        # Not the file's size: after a power cut the schema can be gone with the log it was written to.
        fresh = self.db.execute("SELECT count(*) FROM sqlite_schema").get == 0
        self._segments: dict[str, int] = {}
        self._converters: dict[str, int] = {}
        self._latest = -1, 0
        """Number and day of the entry that was captured last."""
        if fresh:
            schema = importlib.resources.files("archivefs.catalog").joinpath("schema.sql").read_text()
            with self.transaction():
                self.db.execute(schema)
                notes.set_meta(self.db, "schema", SCHEMA_VERSION)
                notes.set_meta(self.db, "applied_seq", 0)
                notes.set_meta(self.db, "applied_sha256", "0" * 64)
                notes.set_meta(self.db, "turned_back", 0)
                notes.set_meta(self.db, "rules_seq", 0)
        require_schema(self.db, path)

    def check(self) -> None:
        """Look through the whole file. Raises ``apsw.CorruptError`` where it is damaged."""
        found = self.db.pragma("quick_check", 1)
        if found != "ok":
            self.db.close()
            raise apsw.CorruptError(found)

    def close(self) -> None:
        """Close the file; the WAL is folded in, what was filled in one go is synced. Raises ``OSError``."""
        if self._in_one_go:
            self.db.pragma("journal_mode", "WAL")
        self.db.close()
        if self._in_one_go:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def give_back(self) -> None:
        """Return some pages that nothing uses any more to the disk; takes some milliseconds."""
        self.db.execute(f"PRAGMA incremental_vacuum({GIVEN_BACK})").fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing for what is applied inside."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            self._segments.clear()
            self._converters.clear()
            raise

    def _meta(self, key: str) -> Any:  # noqa: ANN401  a SQLite value of any type
        try:
            return self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).get
        except apsw.SQLError:
            return None

    @property
    def applied(self) -> tuple[int, str]:
        """Number and hash of the last journal line that is in the catalog."""
        return self._meta("applied_seq"), self._meta("applied_sha256")

    @property
    def format(self) -> int:
        """The version of the files on disk, as the archive's first event says."""
        return int(self._meta("format"))

    @property
    def timezone(self) -> str:
        """The time zone that the archive was made with."""
        return str(self._meta("timezone"))

    def apply_all(self, batch: Sequence[AnyEvent], head_sha256: str) -> list[Change]:
        """Apply consecutive events in one transaction; ``head_sha256`` is the hash of the last one's line."""
        changes: list[Change] = []
        tally = activity.Tally()
        with self.transaction():
            for event in batch:
                made = self.apply(event)
                if made:
                    tally.take(event, made[0].converter_id)
                    changes.extend(made)
            tally.write(self.db)
            if batch:
                notes.set_meta(self.db, "applied_seq", batch[-1].seq)
                notes.set_meta(self.db, "applied_sha256", head_sha256)
        return changes

    def apply(self, event: AnyEvent) -> list[Change]:
        """Bring the rows up to what the event says; inside a transaction."""
        match event:
            case Captured():
                return self._captured(event)
            case AttemptStarted():
                return self._attempt_started(event)
            case AttemptFinished():
                return self._attempt_finished(event)
            case Replayed():
                return self._replayed(event)
            case Routed():
                return self._routed(event)
            case Retried():
                return self._decided(event.id, Status.PENDING, RETRY_REASON, event.due_ms, event.seq)
            case Touched():
                return self._touched(event)
            case Voided():
                return self._voided(event)
            case Adopted():
                return self._decided(event.id, event.status, event.reason, event.due_ms, event.seq)
            case Dropped():
                return self._decided(event.id, Status.REJECTED, self._dropped(event), 0, event.seq)
            case DeliveryAttempted():
                outbox.attempted(self.db, event)
                return self._unmoved(event.id)
            case DeliveryDecided():
                outbox.decided(self.db, event)
                return self._unmoved(event.id)
            case Repacked():
                return self._repacked(event)
            case Purged():
                return self._purged(event)
            case SegmentsRemoved():
                self._gone(event.segments)
            case _:
                notes.apply(self.db, event)
        return []

    # -- entries ---------------------------------------------------------------------------------------

    def _captured(self, event: Captured) -> list[Change]:
        name = names.original(event.name, event.name_hex)
        converter_id = self._converter_id(event.converter)
        day = day_number(event.day)

        place, flat_name = event.location, naming.flat_name(self.db, name, converter_id, day)
        # Nobody else has its label: who has the same name came later, and others have a number or are cut.
        is_first = flat_name == name and b"~" not in name and len(name) <= SHORT_NAME
        if is_first and event.converter != UNROUTED:  # from there others may have left, and freed their names
            twin = 1
        else:
            twin = self._twin(event.captured_ms, event.sha256[:6], name, converter_id, day)
        row = (
            event.id, converter_id, day, _NUMBER[event.status], name,
            names.original(event.folder, event.folder_hex), twin, event.size,
            event.mtime_ns, event.mode, event.uid, event.gid, event.captured_ms,
            naming.kept(name, flat_name), event.sha256, event.reason,
            msgspec.json.encode(event.xattrs).decode(), "",
            event.due_ms, 0, event.seq, self._segment_id(place), place.offset, place.header,
            place.stored, place.length, -1.0, len(event.members), 0,
        )  # fmt: skip
        self.db.execute(_INSERT_ENTRY, row)
        n = self.db.last_insert_rowid()
        self.db.executemany(
            "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (n, ordinal, names.original(each.path, each.path_hex), each.mode, each.size, each.mtime_ns,
                 each.offset)
                for ordinal, each in enumerate(event.members, 1)
            ],
        )  # fmt: skip
        if self._turns_back(n, day):
            notes.set_meta(self.db, "turned_back", n)
        trigrams.name_added(self.db, n)
        totals.count(self.db, converter_id, day, _NUMBER[event.status], (1, event.size, place.length, 0))
        changes = [Change(n, event.id, converter_id, day, None, event.status)]
        for earlier in event.supersedes:
            self.db.execute("UPDATE entries SET superseded_by = ? WHERE id = ?", (event.id, earlier))
            changes += self._move(earlier, Status.SUPERSEDED, 0, event.seq)
        return changes

    def _turns_back(self, n: int, day: int) -> bool:
        """Whether the clock was set back over midnight since the entry before."""
        before_n, before = self._latest
        if before_n != n - 1:  # after opening, or after a transaction that failed
            before = self.db.execute("SELECT day FROM entries WHERE n = ?", (n - 1,)).get or 0
        self._latest = n, day
        return day < before

    def _twin(self, captured_ms: int, digits: str, name: bytes, converter_id: int, day: int) -> int:
        return naming.twin(self.db, ZoneInfo(self.timezone), captured_ms, digits, name, converter_id, day)

    def _routed(self, event: Routed) -> list[Change]:
        """Under another converter an entry needs other names."""
        row = self.db.execute(
            "SELECT n, converter_id, day, status, size, length, reports > 0, name, captured_ms, hex"
            " FROM entries WHERE id = ?",
            (event.id,),
        ).get
        if row is None:
            return []
        n, left, day, number, size, length, has_report, name, captured_ms, digits = row
        if number == _PURGED:
            return []
        before, converter_id = STATUSES[number], self._converter_id(event.converter)
        if converter_id == left:
            return self._decided(event.id, event.status, event.reason, event.due_ms, event.seq)
        self.db.execute(
            "UPDATE entries SET converter_id = ?, flat = ?, twin = ?, status = ?, reason = ?,"
            " due_ms = ?, confidence = ?, changed_seq = ? WHERE n = ?",
            (
                converter_id, naming.kept(name, naming.flat_name(self.db, name, converter_id, day)),
                self._twin(captured_ms, digits, name, converter_id, day), _NUMBER[event.status],
                event.reason, event.due_ms, event.confidence, event.seq, n,
            ),
        )  # fmt: skip
        totals.count(self.db, left, day, number, (-1, -size, -length, -has_report))
        totals.count(self.db, converter_id, day, _NUMBER[event.status], (1, size, length, has_report))
        return [Change(n, event.id, converter_id, day, before, event.status, left)]

    def _move(self, id_: str, after: Status, due_ms: int, seq: int, reports: int = 0) -> list[Change]:
        """Give an entry another status, and as many more reports; and keep the totals."""
        row = self.db.execute(
            "SELECT n, converter_id, day, status, size, length, reports FROM entries WHERE id = ?", (id_,)
        ).get
        if row is None:
            return []
        n, converter_id, day, number, size, length, known = row
        if number == _PURGED:  # whatever a journal of before says behind that
            return []
        before, had, has = STATUSES[number], int(known > 0), int(known + reports > 0)
        self.db.execute(
            "UPDATE entries SET status = ?, due_ms = ?, changed_seq = ?, reports = ? WHERE n = ?",
            (_NUMBER[after], due_ms, seq, known + reports, n),
        )
        if before != after or had != has:
            totals.count(self.db, converter_id, day, number, (-1, -size, -length, -had))
            totals.count(self.db, converter_id, day, _NUMBER[after], (1, size, length, has))
        return [Change(n, id_, converter_id, day, before, after)]

    def _touched(self, event: Touched) -> list[Change]:
        self.db.execute(
            "UPDATE entries SET mtime_ns = ?, mode = ?, uid = ?, gid = ?, changed_seq = ? WHERE id = ?",
            (event.mtime_ns, event.mode, event.uid, event.gid, event.seq, event.id),
        )
        return self._unmoved(event.id)

    def _unmoved(self, id_: str) -> list[Change]:
        """Facts of an entry changed, its status did not."""
        rows = self.db.execute("SELECT n, converter_id, day, status FROM entries WHERE id = ?", (id_,))
        return [Change(n, id_, converter, day, STATUSES[at], STATUSES[at]) for n, converter, day, at in rows]

    def _decided(self, id_: str, status: Status, reason: str, due_ms: int, seq: int) -> list[Change]:
        self.db.execute("UPDATE entries SET reason = ? WHERE id = ? AND status != ?", (reason, id_, _PURGED))
        return self._move(id_, status, due_ms, seq)

    def _voided(self, event: Voided) -> list[Change]:
        if event.attempt == 0:
            return self._decided(event.id, Status.QUARANTINED, VOID_REASON, 0, event.seq)
        self.db.execute(
            "UPDATE contents SET segment_id = 0, offset = 0, header = 0, stored = 0, length = 0"
            " WHERE n = (SELECT n FROM entries WHERE id = ?) AND attempt = ? AND ordinal = ?",
            (event.id, event.attempt, event.ordinal),
        )
        return []

    def _dropped(self, event: Dropped) -> str:
        """Why the entry is rejected; of one that is lost that stays the reason, for nobody should read it."""
        before = self.db.execute("SELECT reason FROM entries WHERE id = ?", (event.id,)).get
        return VOID_REASON if before == VOID_REASON else event.reason

    # -- places ----------------------------------------------------------------------------------------

    def _repacked(self, event: Repacked) -> list[Change]:
        return [Change(*facts) for facts in moving.repacked(self.db, event, self._segment_id)]

    def _purged(self, event: Purged) -> list[Change]:
        changes, sums = [], dict[tuple[int, int, int], list[int]]()
        for n, id_, converter_id, day, number, size, length, has_report in purging.purged(self.db, event):
            mine = sums.setdefault((converter_id, day, number), [0, 0, 0, 0])
            for index, value in enumerate((1, size, length, has_report)):
                mine[index] -= value
            changes.append(Change(n, id_, converter_id, day, STATUSES[number], Status.PURGED))
        for place, (entries, size, length, reported) in sums.items():
            totals.count(self.db, *place, (entries, size, length, reported))
        return changes

    def _gone(self, segments: Sequence[str]) -> None:
        for name in segments:
            purging.gone(self.db, name)
            self.db.execute("UPDATE segments SET gone = 1 WHERE name = ?", (name,))
        self._segments.clear()

    # -- attempts --------------------------------------------------------------------------------------

    def _attempt_started(self, event: AttemptStarted) -> list[Change]:
        self.db.execute(
            "UPDATE entries SET attempts = ?, reason = '' WHERE id = ?", (event.attempt, event.id)
        )
        self.db.execute(
            "INSERT INTO attempts SELECT n, ?, ?, '', ?, 0, '', '{}', '', '[]', ?, 0, 1"
            " FROM entries WHERE id = ?",
            (event.attempt, event.cause, event.at_ms, event.code, event.id),
        )
        return self._move(event.id, Status.CONVERTING, 0, event.seq)

    def _attempt_finished(self, event: AttemptFinished) -> list[Change]:
        n = self.db.execute("SELECT n FROM entries WHERE id = ?", (event.id,)).get
        self.db.execute(
            "UPDATE attempts SET outcome = ?, started_ms = ?, duration_ms = ?, version = ?, arguments = ?,"
            " error = ?, warnings = ? WHERE n = ? AND attempt = ?",
            (
                event.outcome, event.started_ms, event.duration_ms, event.version,
                msgspec.json.encode(event.arguments).decode(), event.error,
                msgspec.json.encode(event.warnings).decode(), n, event.attempt,
            ),
        )  # fmt: skip
        self._given(n, event)
        return self._move(event.id, event.status, event.due_ms, event.seq, len(event.reports))

    def _replayed(self, event: Replayed) -> list[Change]:
        row = self.db.execute("SELECT n, status FROM entries WHERE id = ?", (event.id,)).get
        if row is None:
            return []
        n, number = row
        self.db.execute("UPDATE entries SET attempts = ? WHERE n = ?", (event.attempt, n))
        self.db.execute(
            "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                n, event.attempt, Cause.REPLAY, event.outcome, event.started_ms, event.duration_ms,
                event.version, msgspec.json.encode(event.arguments).decode(), event.error,
                msgspec.json.encode(event.warnings).decode(), event.code, event.job, event.promoted,
            ),
        )  # fmt: skip
        self._given(n, event)
        if event.promoted:
            self.db.execute("UPDATE entries SET reason = '' WHERE n = ?", (n,))
        after = Status(event.outcome) if event.promoted else STATUSES[number]
        changes = self._move(event.id, after, 0, event.seq, len(event.reports))
        return [change._replace(replayed=True) for change in changes]

    def _given(self, n: int, event: AttemptFinished | Replayed) -> None:
        """What an attempt made."""
        if event.log is not None:
            self._content(n, event.attempt, 0, event.log)
        for ordinal, report in enumerate(event.reports, 1):
            self._content(n, event.attempt, ordinal, report)
        if event.error:
            trigrams.error_added(self.db, n, event.attempt)
        outbox.queue(self.db, event)

    def _content(self, n: int, attempt: int, ordinal: int, content: Content) -> None:
        place = content.location
        where = (0, 0, 0, 0, 0)
        if place is not None:
            where = (self._segment_id(place), place.offset, place.header, place.stored, place.length)
        self.db.execute(
            f"INSERT INTO contents VALUES (?, ?, ?, ?, ?{', ?' * len(where)}, unhex(?))",
            (n, attempt, ordinal, content.name, content.size, *where, content.sha256),
        )

    # -- names with numbers ----------------------------------------------------------------------------

    def _converter_id(self, name: str) -> int:
        if name not in self._converters:
            self.db.execute("INSERT OR IGNORE INTO converters (name) VALUES (?)", (name,))
            sql = "SELECT converter_id FROM converters WHERE name = ?"
            self._converters[name] = self.db.execute(sql, (name,)).get
        return self._converters[name]

    def _segment_id(self, place: Location) -> int:
        """The number of the record's segment, whose journaled end moves behind the record."""
        if place.segment not in self._segments:
            self.db.execute(
                "INSERT INTO segments (name, end_bytes, packed, gone) VALUES (?, 0, 0, 0)"
                " ON CONFLICT DO UPDATE SET end_bytes = 0, packed = 0, gone = 0 WHERE gone = 1",
                (place.segment,),
            )
            sql = "SELECT segment_id FROM segments WHERE name = ?"
            self._segments[place.segment] = self.db.execute(sql, (place.segment,)).get
        segment_id = self._segments[place.segment]
        self.db.execute(
            "UPDATE segments SET end_bytes = max(end_bytes, ?) WHERE segment_id = ?",
            (place.offset + place.length, segment_id),
        )
        return segment_id
