"""What is done about the ends of files after a stop at any moment (docs/durability.md has the table).

Only bytes behind the last thing the journal knows are touched, and they are kept under quarantine/ first.
"""

import functools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from archivefs.events import TailCut
from archivefs.store.durable import remove_tree, sync_dir
from archivefs.store.segment import ScannedRecord, scan
from archivefs.store.store import Store, split_name

REPACKING = ".repack"
"""What the name of a segment ends with that a repack is writing."""
PIECE_BYTES = 1 << 20
REPLAYS = "replay"
"""The folder in staging/ that replays work in."""
SCRATCH = "verify-"
"""Folders in staging/ for the time of a verification: ``verify-PID-...``."""


def sweep(root: Path) -> None:
    """Remove what a verification, a repack or a replay that was killed left in the middle of its work.

    Only who may write calls it: then nobody replays.
    """
    for path in (root / "staging").glob(f"{SCRATCH}*"):
        pid = path.name.removeprefix(SCRATCH).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)
    for path in (root / "content").glob(f"*/*/*/*{REPACKING}"):
        path.unlink()
    if (root / "staging" / REPLAYS).exists():
        remove_tree(root / "staging" / REPLAYS)


class Tail(NamedTuple):
    """Bytes of a segment behind the journal's last record: whole records first, then perhaps a torn one."""

    segment: str
    end: int
    size: int
    records: list[ScannedRecord]

    @property
    def whole(self) -> bool:
        """Whether it is nothing but whole records."""
        last = self.records[-1].location if self.records else None
        return last is not None and last.offset + last.length == self.size


def segment_names(content_dir: Path) -> Iterator[str]:
    """The names of all segments on disk."""
    for path in sorted(content_dir.glob("*/*/*/*.zst")):
        yield str(path.relative_to(content_dir))


def base_of(segment: str) -> str:
    """What all parts of a converter's day have in common: ``2026/02/13/ict-csv.sources``."""
    return split_name(segment)[0]


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
        pieces = iter(functools.partial(file.read, PIECE_BYTES), b"")
        kept = store.keep_aside(f"{tail.segment.replace('/', '_')}.{tail.end}.tail", pieces)
    _truncate(path, tail.end)
    size = (store.quarantine_dir / kept).stat().st_size
    return TailCut(file=f"content/{tail.segment}", offset=tail.end, bytes=size, kept_as=kept, reason=reason)


def drop_copies(store: Store, tail: Tail) -> TailCut:
    """Cut off a tail of records that are elsewhere, too; returns the event that says so, nothing is kept."""
    path = store.content_dir / tail.segment
    if tail.end:
        _truncate(path, tail.end)
    else:
        path.unlink()
        sync_dir(path.parent)
    reason = "a repack was stopped; these records are whole in another segment"
    return TailCut(
        file=f"content/{tail.segment}", offset=tail.end, bytes=tail.size - tail.end, kept_as="", reason=reason
    )


def remove_gone(content_dir: Path, gone: Iterable[str]) -> None:
    """Remove the files of segments of which the journal says that nothing in them is needed."""
    for name in gone:
        path = content_dir / name
        if path.exists():
            path.unlink()
            sync_dir(path.parent)


def cut_journal(store: Store) -> TailCut | None:
    """Keep the torn end of the journal aside, then cut it off."""
    torn = store.journal.torn
    if torn is None:
        return None
    file = str(torn.file.relative_to(store.content_dir.parent))
    kept = store.keep_aside(f"{file.replace('/', '_')}.{torn.offset}.tail", [torn.data])
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
