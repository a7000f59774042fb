"""The archive in numbers: stats.json, and what ``archivefs status`` prints."""

import os
from collections import defaultdict
from typing import Any

from archivefs.archive import Archive
from archivefs.events import STATUSES


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
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "reserve_bytes": archive.config.reserve_bytes,
        "read_only": archive.failure,
    }


def health(archive: Archive) -> dict[str, Any]:
    """Whether everything is well, and what is not: a probe reads ``ok``, a person the alarms."""
    alarms = dict(archive.alarms)
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
