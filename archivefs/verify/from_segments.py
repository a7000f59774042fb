"""A journal made again from the segments alone, for when the real one is damaged or gone.

Record headers say which source came when, under which name, with which attributes and hash, and which report
belongs to which attempt. What only the journal knew is lost and listed: see ``LOST``.
"""

import hashlib
import itertools
import logging
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from archivefs import __version__, config, rebuilding
from archivefs.archive import FORMAT
from archivefs.errors import ContentDamagedError, DictionaryError
from archivefs.events import (
    AttemptFinished,
    AttemptStarted,
    Captured,
    Created,
    DictionaryTrained,
    Event,
    Rebuilt,
    Routed,
)
from archivefs.parts import Content
from archivefs.rebuilding import CATALOG
from archivefs.routing import UNROUTED
from archivefs.states import Outcome, Status
from archivefs.statuses import IMPORT_REASON, PART_REASON
from archivefs.store import dictionaries, frames, lock
from archivefs.store.content import ContentReader
from archivefs.store.dictionaries import Dictionaries
from archivefs.store.durable import fresh_dir, make_dirs, sync_dir
from archivefs.store.journal import Journal
from archivefs.store.recovery import base_of, segment_names
from archivefs.store.segment import Gap, ScannedRecord, scan_damaged
from archivefs.transaction import id_milliseconds

log = logging.getLogger(__name__)

LOST = (
    "why and how long attempts ran: errors, warnings, arguments, versions, durations",
    "attempts that stored neither a log nor a report",
    "who did what (actors), and when things other than captures happened",
    "which sources were superseded, skipped, rejected or failed: without a report they are quarantined",
    "attributes that were set after the capture",
    "which converter a source of unrouted was given, unless that left a log or a report",
    "which reports were submitted: none is queued any more",
    "holds, retain_until of then, and what was purged and why: hold again what must be kept, before retention"
    " is enforced; what a purge had not cleared yet comes back",
)
"""What cannot come back from segments."""
BATCH = 1000
TRIED = 5
"""With so many records it is tried whether a dictionary is what it was."""
FRAME_HEADER_BYTES = 18
UNKNOWN = "rebuilt without the journal: it is not known whether it was converted"


@dataclass
class Found:
    """The records of one entry."""

    source: ScannedRecord
    stored: dict[int, list[ScannedRecord]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Rescue:
    """What came back: how many entries; records that belong to none, and stretches that are no records.

    ``dictionaries``: what is wrong with those that records need.
    """

    entries: int = 0
    records: int = 0
    strays: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    dictionaries: list[str] = field(default_factory=list)
    backup: str = ""


def rebuild_from_segments(root: Path) -> Rescue:
    """Make journal and catalog again from what lies under content/; the old ones go into quarantine/.

    The archive must not be open. Raises ``LockedError``, ``ConfigError``, ``OSError``.
    """
    settings = config.load(root)
    held = lock.Lock(root)
    try:
        rescue = Rescue()
        content = ContentReader(root / "content", Dictionaries(root / "dictionaries"))
        records = _collect(root / "content", content, rescue)
        entries = _entries(records, rescue)
        rescue.entries = len(entries)
        trained = list(_trained(root, content, records, rescue))
        fresh = root / "journal.new"
        shutil.rmtree(fresh, ignore_errors=True)
        make_dirs(fresh)
        backup = fresh_dir(root / "quarantine", time.strftime("journal-%Y%m%dT%H%M%S", time.gmtime()))
        rescue.backup = backup.name
        _write_journal(fresh, trained, entries, settings, rescue)
        if (root / "journal").exists():
            (root / "journal").rename(backup / "journal")
        rebuilding.remove_catalog(root / CATALOG, keep_as=backup / CATALOG)
        # Between the two renames there is no journal, and every command says so; this one may be run again.
        fresh.rename(root / "journal")
        sync_dir(root)
        sync_dir(backup)
    finally:
        held.release()
    rebuilding.rebuild(root)
    return rescue


def _write_journal(
    directory: Path,
    trained: list[DictionaryTrained],
    entries: dict[str, Found],
    settings: config.Config,
    rescue: Rescue,
) -> None:
    """A whole journal in a folder of its own; nobody reads it before it is renamed."""
    journal = Journal(directory)
    batch: list[Event] = [
        Created(
            archive=str(uuid.uuid4()), timezone=settings.timezone, format=FORMAT,
            program=f"archivefs {__version__}",
        ),
        *trained,
    ]  # fmt: skip
    for id_ in sorted(entries):
        batch += _events(entries[id_], settings.zone, settings)
        if len(batch) >= BATCH:
            journal.append(batch)
            batch = []
    journal.append([*batch, Rebuilt(records=rescue.records, backup=rescue.backup)])
    journal.sync()
    journal.write_checkpoint()
    journal.close()


def _collect(content_dir: Path, content: ContentReader, rescue: Rescue) -> list[ScannedRecord]:
    """All whole records, each once; memory grows with their number (about 1 kB each).

    A repack that was stopped leaves some in two places: the first counts of which the content reads right.
    """
    found: dict[tuple[str, int, str, str], ScannedRecord] = {}
    for name in segment_names(content_dir):
        for record in scan_damaged(content_dir / name, name):
            if isinstance(record, Gap):
                rescue.damaged.append(f"content/{name} at {record.offset}: {record.length} bytes")
                continue
            rescue.records += 1
            header = record.header
            key = (header.id, header.attempt, header.kind, header.name if header.attempt else "")
            if key not in found or not _reads(content, found[key]):
                found[key] = record
    return list(found.values())


def _reads(content: ContentReader, record: ScannedRecord) -> bool:
    try:
        return content.sha256(record.location, record.header.size) == record.header.sha256
    except (ContentDamagedError, OSError):
        return False


def _entries(records: Iterable[ScannedRecord], rescue: Rescue) -> dict[str, Found]:
    """The records by entry."""
    entries = {each.header.id: Found(each) for each in records if each.header.kind == "source"}
    for record in records:
        if record.header.kind == "source":
            continue
        found = entries.get(record.header.id)
        if found is None:
            rescue.strays.append(f"content/{record.location.segment} at {record.location.offset}")
        else:
            found.stored[record.header.attempt].append(record)
    return entries


def _trained(
    root: Path, content: ContentReader, records: Iterable[ScannedRecord], rescue: Rescue
) -> Iterator[DictionaryTrained]:
    """Events for the dictionaries that records name, in the order of their numbers.

    Of one that is missing, or with which its records do not read, only the number is told: it may come back.
    Nobody knows for which level they were made: so none is used for what comes, and a new one is trained.
    """
    users: dict[str, list[ScannedRecord]] = defaultdict(list)
    for record in records:
        if record.header.dictionary:
            users[record.header.dictionary].append(record)
    seen: set[int] = set()
    for name in sorted(users, key=lambda each: (len(each), each)):
        tried = list(itertools.islice(_needed(root / "content", users[name]), TRIED))
        day, _, of = base_of(max(each.location.segment for each in users[name])).rpartition("/")
        converter, _, kind = of.rpartition(".")
        size, sha256, number = 0, "", tried[0][1] if tried else 0
        try:
            file = dictionaries.read(root / "dictionaries", name, "")
            if tried and not any(_reads(content, each) for each, _ in tried):
                raise DictionaryError(f"{dictionaries.file_of(name)} is damaged: no content reads with it")
            size, sha256, number = len(file.data), hashlib.sha256(file.data).hexdigest(), file.number
        except DictionaryError as error:
            rescue.dictionaries.append(str(error))
        if number and number not in seen:
            seen.add(number)
            yield DictionaryTrained(
                converter=converter, content=kind, name=name, number=number, samples=0,
                size=size, sha256=sha256, day=day.replace("/", "-"),
            )  # fmt: skip


def _needed(content_dir: Path, records: Iterable[ScannedRecord]) -> Iterator[tuple[ScannedRecord, int]]:
    """The records that were compressed with a dictionary, and its number."""
    for record in records:
        place = record.location
        if not place.stored:
            continue
        with (content_dir / place.segment).open("rb") as file:
            file.seek(place.offset + place.header)
            try:
                number = frames.dictionary_number(file.read(min(place.stored, FRAME_HEADER_BYTES)))
            except ContentDamagedError:
                continue
        if number:
            yield record, number


def _events(found: Found, zone: ZoneInfo, settings: config.Config) -> Iterator[Event]:
    header, place = found.source.header, found.source.location
    has_report = any(
        record.header.kind == "report" for records in found.stored.values() for record in records
    )
    converter = settings.converters.get(header.converter)
    is_part = converter is not None and converter.kind == "folder" and not header.members
    archived = header.imported or is_part or (converter is not None and not converter.run)
    captured_ms = id_milliseconds(header.id)
    when = datetime.fromtimestamp(captured_ms / 1000, UTC).astimezone(zone)
    first = Status.PENDING if found.stored else Status.ARCHIVED if archived else Status.QUARANTINED
    why = IMPORT_REASON if header.imported else PART_REASON if is_part else ""
    reason = why if first is Status.ARCHIVED else UNKNOWN
    yield Captured(
        id=header.id, converter=header.converter, day=when.date().isoformat(), name=header.name,
        name_hex=header.name_hex, folder=header.folder, folder_hex=header.folder_hex, size=header.size,
        sha256=header.sha256, mtime_ns=header.mtime_ns, mode=header.mode, uid=header.uid, gid=header.gid,
        xattrs=header.xattrs, captured_ms=captured_ms, members=header.members, status=first,
        reason=reason, location=place,
    )  # fmt: skip
    if header.converter == UNROUTED and found.stored:
        with_records = next(records for records in found.stored.values() if records)
        given = Path(with_records[0].location.segment).name.partition(".reports.")[0]
        yield Routed(id=header.id, converter=given, status=first)
    for attempt in range(1, max(found.stored, default=0) + 1):
        records = found.stored.get(attempt, [])
        reports = [record for record in records if record.header.kind == "report"]
        last = attempt == max(found.stored)
        outcome = Outcome.SUCCESS if reports else Outcome.FAILED
        status = Status.PENDING if not last else Status.SUCCESS if has_report else Status.QUARANTINED
        yield AttemptStarted(id=header.id, attempt=attempt, cause="unknown")
        yield AttemptFinished(
            id=header.id, attempt=attempt, outcome=outcome, status=status, started_ms=captured_ms,
            duration_ms=0, error="" if reports else UNKNOWN,
            log=next((_content(each) for each in records if each.header.kind == "log"), None),
            reports=[_content(each) for each in reports],
        )  # fmt: skip


def _content(record: ScannedRecord) -> Content:
    header = record.header
    return Content(name=header.name, size=header.size, sha256=header.sha256, location=record.location)
