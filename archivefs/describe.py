"""What is said about an entry: entry.json, attempt.json and the extended attributes. The words of queries."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from archivefs import names
from archivefs.archive import Archive
from archivefs.catalog.outbox import Delivery, Item
from archivefs.catalog.purging import PurgedRow
from archivefs.catalog.reader import Reader
from archivefs.catalog.rows import Attempt, Entry, Stored, arguments_of
from archivefs.states import STATUSES, Status, Submission

XATTR = "user.archivefs."
DELIVERIES = 10
"""The latest deliveries of a report that are told; the journal has all."""


def time_text(when_ms: int) -> str:
    """UTC with milliseconds, ``2026-02-13T14:30:22.123Z``; '' for 0."""
    if when_ms == 0:
        return ""
    moment = datetime.fromtimestamp(when_ms // 1000, UTC)
    return f"{moment.isoformat()[:19]}.{when_ms % 1000:03d}Z"


def entry(archive: Archive, row: Entry) -> dict[str, Any]:
    """Everything about an entry, as entry.json shows it; keys without a value are left out."""
    reader = archive.reader
    contents = reader.contents(row.n) if row.attempts else []
    attempts = reader.attempts(row.n) if row.attempts else []
    sent = submissions(reader, row.n) if row.attempts else {}
    purged = reader.purges.purged(row.n) if row.status is Status.PURGED else None
    place = reader.location(row) if purged is None else None
    facts: dict[str, Any] = {
        **summary(archive, row),
        "name_hex": names.hex_if_needed(row.name),
        "folder_hex": names.hex_if_needed(row.folder),
        "reason": row.reason,
        "superseded_by": row.superseded_by,
        "confidence": row.confidence if row.confidence >= 0 else "",
        "due_at": time_text(row.due_ms),
        "mtime_ns": row.mtime_ns,
        "mode": f"{row.mode:04o}",
        "uid": row.uid,
        "gid": row.gid,
        "xattrs": msgspec.json.decode(row.xattrs),
        "members": row.members or "",
        "stored_bytes": row.length,
        "segment": f"content/{place.segment}" if place else "",
        "offset": place.offset if place else "",
        "length": place.length if place else "",
        "purged": _purged(archive, purged) if purged else "",
        "attempts": [attempt(each, contents, sent) for each in attempts],
    }
    return {key: value for key, value in facts.items() if value not in ("", [], {})}


def _purged(archive: Archive, row: PurgedRow) -> dict[str, Any]:
    """When, why and by whom the bytes of an entry went, and what it was before."""
    plan = archive.reader.purges.plan(row.plan)
    return {
        "at": time_text(row.purged_ms), "why": row.why, "plan": row.plan, "was": str(STATUSES[row.status]),
        "by_uid": plan.by_uid if plan is not None and plan.by_uid >= 0 else None,
    }  # fmt: skip


def summary(archive: Archive, row: Entry) -> dict[str, Any]:
    """The facts that fit a line of a listing."""
    facts = {
        "id": row.id,
        "converter": archive.reader.converter_name(row.converter_id),
        "status": str(row.status),
        "date": row.day_text,
        "name": names.text(row.name),
        "folder": names.text(row.folder),
        "size": row.size,
        "sha256": row.sha256,
        "captured_at": time_text(row.captured_ms),
    }
    return {key: value for key, value in facts.items() if value != ""}


Submissions = Mapping[tuple[int, int], dict[str, Any]]
"""What is said about reports in the outbox, by attempt and ordinal."""


def submissions(reader: Reader, n: int) -> Submissions:
    """What became of the reports of an entry in the outbox."""
    items = reader.outbox.of_entry(n)
    deliveries = reader.outbox.deliveries(n) if items else []
    return {
        (item.attempt, item.ordinal): submission(
            item, [each for each in deliveries if each[:2] == (item.attempt, item.ordinal)]
        )
        for item in items
    }


def submission(item: Item, deliveries: list[Delivery]) -> dict[str, Any]:
    """Where a report in the outbox stands, and its latest deliveries."""
    facts: dict[str, Any] = {
        "state": str(item.state),
        "report_id": item.report_id,
        "queued_at": time_text(item.queued_ms),
        "due_at": time_text(item.due_ms) if item.state is Submission.QUEUED else "",
        "deliveries": [_delivery(each) for each in deliveries[-DELIVERIES:]],
    }
    return {key: value for key, value in facts.items() if value not in ("", [])}


def _delivery(row: Delivery) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "number": row.number,
        "state": str(row.state),
        "started_at": time_text(row.started_ms),
        "duration_seconds": row.duration_ms / 1000,
        "http_status": row.http_status or "",
        "answer_id": row.answer_id,
        "error": row.error,
    }
    return {key: value for key, value in facts.items() if value != ""}


def attempt(row: Attempt, contents: list[Stored], sent: Submissions) -> dict[str, Any]:
    """Everything about one attempt, as attempt.json shows it."""
    facts: dict[str, Any] = {
        "attempt": row.attempt,
        "cause": row.cause,
        "outcome": row.outcome or "running",
        "started_at": time_text(row.started_ms),
        "duration_seconds": row.duration_ms / 1000,
        "version": row.version,
        "code": row.code,
        "job": row.job or "",
        "promoted": bool(row.promoted) if row.job else "",
        "arguments": arguments_of(row),
        "error": row.error,
        "warnings": msgspec.json.decode(row.warnings),
        "reports": [
            {
                "name": each.name,
                "size": each.size,
                "sha256": each.sha256,
                "archived": each.location is not None,
                **({"submission": sent[each[1:3]]} if each[1:3] in sent else {}),
            }
            for each in contents
            if each.attempt == row.attempt and each.ordinal > 0
        ],
    }
    return {key: value for key, value in facts.items() if value not in ("", [])}


def as_file(facts: dict[str, Any]) -> bytes:
    """The bytes of a JSON file for people: indented, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"


def xattrs(archive: Archive, row: Entry) -> dict[bytes, bytes]:
    """The extended attributes ``user.archivefs.*`` of an entry's directory and source."""
    facts = summary(archive, row)
    return {(XATTR + key).encode(): str(value).encode() for key, value in facts.items()}


class LazyXattrs(Mapping[bytes, bytes]):
    """``xattrs`` of entry number ``n``, made when first asked for: hardly anybody asks."""

    def __init__(self, archive: Archive, n: int) -> None:
        self._archive = archive
        self._n = n
        self._made: dict[bytes, bytes] | None = None

    def _all(self) -> dict[bytes, bytes]:
        if self._made is None:
            row = self._archive.reader.entry(self._n)
            self._made = {} if row is None else xattrs(self._archive, row)
        return self._made

    def __getitem__(self, name: bytes) -> bytes:
        return self._all()[name]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
