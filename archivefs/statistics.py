"""The archive in numbers: stats.json, and what ``archivefs status`` prints."""

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from archivefs.archive import Archive
from archivefs.states import STATUSES, Submission

ALARM_FAILURES = 3
"""Failed deliveries of one report after which a person should look; fewer are a server that restarts."""


def collect(archive: Archive) -> dict[str, Any]:
    """Entries by converter and status, bytes before and after compression, and the disk's room.

    ``stored_bytes`` counts the records of the sources; ``disk_bytes`` is what the whole archive takes.
    """
    by_converter: dict[str, dict[str, Any]] = {}
    by_status: dict[str, int] = defaultdict(int)
    sums = {"entries": 0, "source_bytes": 0, "stored_bytes": 0}
    for total in archive.reader.totals():
        row = by_converter.setdefault(
            total.converter, {"entries": 0, "source_bytes": 0, "stored_bytes": 0, "by_status": {}}
        )
        for target in (row, sums):
            target["entries"] += total.entries
            target["source_bytes"] += total.size
            target["stored_bytes"] += total.length
        row["by_status"][total.status] = row["by_status"].get(total.status, 0) + total.entries
        by_status[total.status] += total.entries
    disk = os.statvfs(archive.root)
    return {
        **sums,
        "by_status": {str(status): by_status[status] for status in STATUSES if status in by_status},
        "converters": by_converter,
        "outbox": _outbox(archive),
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "reserve_bytes": archive.config.reserve_bytes,
        "read_only": archive.failure,
    }


def _outbox(archive: Archive) -> dict[str, Any]:
    """How many reports stand where, together and by converter."""
    totals = archive.reader.outbox.totals()
    sums = {str(state): sum(row.get(state, 0) for row in totals.values()) for state in Submission}
    by_converter = {name: {str(state): count for state, count in row.items()} for name, row in totals.items()}
    return {**sums, "converters": by_converter}


def _outbox_alarms(archive: Archive) -> Iterator[tuple[str, str]]:
    """What keeps reports from being delivered, by converter."""
    for converter, states in archive.reader.outbox.totals().items():
        queued, texts = states.get(Submission.QUEUED, 0), list[str]()
        head = archive.reader.outbox.head(converter) if queued else None
        last = archive.reader.outbox.last_delivery(head) if head else None
        submit = archive.converter_config(converter).submit
        if archive.reader.outbox.is_full(converter, submit):
            texts.append(f"{queued} reports wait, so many that nothing is converted until some are delivered")
        if head and submit is None:
            texts.append(f"{queued} reports wait, and archive.toml has no [converters.{converter}.submit]")
        elif head and last and (head.failures >= ALARM_FAILURES or 300 <= last.http_status < 500):
            texts.append(f"{queued} reports wait since {head.failures} deliveries failed: {last.error}")
        if refused := states.get(Submission.REFUSED, 0):
            texts.append(f"{refused} reports were refused; archivefs outbox says why")
        if texts:
            yield f"outbox {converter}", "; ".join(texts)


def health(archive: Archive) -> dict[str, Any]:
    """Whether everything is well, and what is not: a probe reads ``ok``, a person the alarms."""
    alarms = {**archive.alarms, **dict(_outbox_alarms(archive))}
    if archive.failure:
        alarms["read-only"] = archive.failure
    disk = os.statvfs(archive.root)
    free = disk.f_bavail * disk.f_frsize
    if free < archive.config.reserve_bytes:
        alarms["space"] = f"{free} bytes are free, less than the reserve of {archive.config.reserve_bytes}"
    return {
        "ok": not alarms,
        "writable": archive.writable,
        "alarms": alarms,
        "journal_lines": archive.reader.changed_seq(),
        "last_verified": archive.reader.last_verified(),
        "free_bytes": free,
    }


def disk_bytes(archive: Archive) -> int:
    """What the archive's files take on the disk, as ``du`` counts them; walks the whole folder."""
    total = 0
    for folder, _, files in os.walk(archive.root):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118
            except FileNotFoundError:
                continue
    return total
