"""What is done about the ends of files after a stop at any moment (docs/durability.md has the table).

Only bytes behind the last thing the journal knows are touched, and they are kept under quarantine/ first.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from archivefs.events import TailCut
from archivefs.store.segment import ScannedRecord, scan
from archivefs.store.store import Store

SCRATCH = "verify-"
"""Folders in staging/ for the time of a verification: ``verify-PID-...``."""


def sweep_staging(staging: Path) -> None:
    """Remove what a verification that was killed left in staging/."""
    for path in staging.glob(f"{SCRATCH}*"):
        pid = path.name.removeprefix(SCRATCH).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


class Tail(NamedTuple):
    """Bytes of a segment behind the journal's last record: whole records first, then perhaps a torn one."""

    segment: str
    end: int
    size: int
    records: list[ScannedRecord]


def segment_names(content_dir: Path) -> Iterator[str]:
    """The names of all segments on disk."""
    for path in sorted(content_dir.glob("*/*/*/*.zst")):
        yield str(path.relative_to(content_dir))


def find_tails(content_dir: Path, ends: Mapping[str, int]) -> Iterator[Tail]:
    """The segments that are longer than the journal says. Raises ``OSError``."""
    for name in segment_names(content_dir):
        path, end = content_dir / name, ends.get(name, 0)
        size = path.stat().st_size
        if size > end:
            yield Tail(name, end, size, list(scan(path, name, end)))


def cut_tail(store: Store, tail: Tail, reason: str) -> TailCut:
    """Keep the bytes behind ``tail.end`` aside, then cut them off. Returns the event that says so."""
    path = store.content_dir / tail.segment
    with path.open("rb") as file:
        file.seek(tail.end)
        data = file.read()
    kept = store.keep_aside(f"{tail.segment.replace('/', '_')}.{tail.end}.tail", data)
    _truncate(path, tail.end)
    return TailCut(
        file=f"content/{tail.segment}", offset=tail.end, bytes=len(data), kept_as=kept, reason=reason
    )


def cut_journal(store: Store, root: Path) -> TailCut | None:
    """Keep the torn end of the journal aside, then cut it off."""
    torn = store.journal.torn
    if torn is None:
        return None
    file = str(torn.file.relative_to(root))
    kept = store.keep_aside(f"{file.replace('/', '_')}.{torn.offset}.tail", torn.data)
    store.journal.cut_torn()
    reason = "the last line was not written whole"
    return TailCut(file=file, offset=torn.offset, bytes=len(torn.data), kept_as=kept, reason=reason)


def _truncate(path: Path, end: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, end)
        os.fsync(fd)
    finally:
        os.close(fd)
