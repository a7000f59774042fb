"""The journal: events as chained JSON lines, one file a day, appended and never changed.

``journal/YYYY/MM/DD.jsonl`` holds the events of a UTC day; finished days become ``DD.jsonl.zst``. Each line
carries the SHA-256 of the line before it. ``journal/checkpoint.json`` keeps the count and the newest hash
outside the chain, so that a cut-off tail is noticed. A clock that jumps back never reopens an earlier day.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import zstandard

from archivefs import events
from archivefs.errors import JournalDamagedError
from archivefs.events import AnyEvent, Event
from archivefs.store.chain import (
    START,
    Checkpoint,
    Head,
    day_files,
    decode,
    decode_or_none,
    line_hash,
    lines,
    walk,
)
from archivefs.store.durable import open_append, replacing, sync_dir, sync_file, write_all

CHECKPOINT = "checkpoint.json"
TAIL_BYTES = 4 << 20
"""How far back a stop can have left gaps: more than one group of events (transaction.GROUP) takes."""


class Torn(NamedTuple):
    """Bytes at the end of the newest file that are no whole line."""

    file: Path
    offset: int
    data: bytes


def utc_text(clock_ns: int) -> str:
    """``2026-02-13T14:30:22.123456Z`` of a Unix time in nanoseconds."""
    moment = datetime.fromtimestamp(clock_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{clock_ns // 1000 % 10**6:06d}Z"


class Journal:
    """The chain, open at its end. Not thread-safe: only the committing thread appends."""

    def __init__(self, directory: Path, clock: Callable[[], int] = time.time_ns) -> None:
        """Find the end of the chain. Raises ``JournalDamagedError`` where the last whole line is no event."""
        self._directory = directory
        self._clock = clock
        self._fd: int | None = None
        self._file: Path | None = None
        self.end = 0
        self._before = (0, START)
        self.torn: Torn | None = None
        self.head = START
        self.last_at = ""
        """When the last line was found here; not that of what is appended since."""
        self._find_head()
        self._synced = self.head

    def _find_head(self) -> None:
        files = self.files()
        if files and files[-1].suffix == ".jsonl":
            self._file = files.pop()
            line, self.end, rest = _trusted_end(self._file, self._noted().seq)
            self.torn = Torn(self._file, self.end, rest) if rest else None
            if line:
                self._ends_with(line, self._file)
                return
        for file in reversed(files):
            for line in lines(file):
                self._ends_with(line[:-1], file)
            if self.head.seq:
                return

    def _ends_with(self, line: bytes, file: Path) -> None:
        event = decode(line, file)
        self.head, self.last_at = Head(event.seq, line_hash(line)), event.at

    def sync_found(self) -> None:
        """Make durable what the last process wrote and perhaps did not sync. Raises ``OSError``."""
        if self._file is not None:
            sync_file(self._file)

    def cut_torn(self) -> None:
        """Remove the torn end from the file; the caller has kept a copy. Raises ``OSError``."""
        if self.torn is None:
            return
        fd = os.open(self.torn.file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, self.torn.offset)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.torn = None

    def files(self) -> list[Path]:
        """All day files in order."""
        return day_files(self._directory)

    def append(self, batch: Sequence[Event]) -> list[AnyEvent]:
        """Number, chain and write events; durable after ``sync``. Returns them as written.

        On ``OSError`` nothing counts as written; call ``undo`` to take back what reached the file.
        """
        now = self._clock()
        at = utc_text(now)
        seq, prev = self.head
        lines: list[bytes] = []
        stamped: list[AnyEvent] = []
        for event in batch:
            seq += 1
            whole: AnyEvent = msgspec.structs.replace(event, seq=seq, at=at, prev=prev)  # type: ignore[assignment]
            line = events.encode(whole)
            prev = line_hash(line)
            lines.append(line)
            stamped.append(whole)
        data = b"\n".join(lines) + b"\n"
        self._before = (self.end, self.head)
        fd = self._open(at[:10])
        self._before = (self.end, self.head)
        self.end += len(data)
        write_all(fd, data)
        self.head = Head(seq, prev)
        return stamped

    def _open(self, day: str) -> int:
        """The file of ``day``, or the newest one where the clock stands before that."""
        file = self._directory / day[:4] / day[5:7] / f"{day[8:]}.jsonl"
        if self._file is not None:
            file = max(file, self._file)
        if self._fd is not None and self._file == file:
            return self._fd
        self.close()
        self._fd = open_append(file, self._directory)
        self._file, self.end = file, os.fstat(self._fd).st_size
        return self._fd

    def undo(self) -> None:
        """Take back the last ``append``, durably. Raises ``OSError``; then the file must not be used."""
        end, self.head = self._before
        if self._fd is not None and self.end != end:
            os.ftruncate(self._fd, end)
            os.fdatasync(self._fd)
            self.end = end

    def sync(self) -> None:
        """Make everything appended durable. After an ``OSError`` the tail must not be trusted."""
        if self._fd is not None:
            os.fdatasync(self._fd)
        self._synced = self.head

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def read(self, after: int = 0, day: str = "") -> Iterator[AnyEvent]:
        """The events with ``seq > after`` in order, checked as a chain; with ``day`` from its file on.

        Raises ``JournalDamagedError`` naming file and line where one is altered, missing or out of order.
        """
        files, noted = self.files(), self._noted()
        first = max((n for n, file in enumerate(files) if self._is_before(file, after, day)), default=0)
        for link in walk(files[first:], START if first == 0 else None):
            if link.broken or link.event is None:
                raise JournalDamagedError(link.broken)
            if link.event.seq == noted.seq and link.sha256 != noted.sha256:
                raise JournalDamagedError(
                    f"{link.file}:{link.number}: line {noted.seq} is not the one that the checkpoint noted"
                )
            if link.event.seq > after:
                yield link.event

    def _is_before(self, file: Path, after: int, day: str) -> bool:
        """Whether what is to be read is in this file or behind it."""
        if day:
            return str(file.relative_to(self._directory)).partition(".")[0] <= day.replace("-", "/")
        return _first_seq(file) <= after + 1

    def seal_finished_days(self) -> list[Path]:
        """Compress every day file but the newest; a crash at any point leaves one of the two forms whole.

        Returns the new files. Raises ``OSError``.
        """
        sealed = []
        for file in self.files()[:-1]:
            if file.suffix != ".jsonl":
                continue
            target = file.with_suffix(".jsonl.zst")
            with file.open("rb") as source, replacing(target) as out:
                size = os.fstat(source.fileno()).st_size
                zstandard.ZstdCompressor(level=9, write_checksum=True).copy_stream(source, out, size=size)
            file.unlink()
            sync_dir(target.parent)
            sealed.append(target)
        return sealed

    def write_checkpoint(self) -> None:
        """Note count and newest hash of what is durable beside the chain. Raises ``OSError``."""
        head, noted = self._synced, self._noted()
        if (noted.seq, noted.sha256) == head:
            return
        note = Checkpoint(head.seq, head.sha256, utc_text(self._clock()))
        with replacing(self._directory / CHECKPOINT) as out:
            out.write(msgspec.json.encode(note) + b"\n")

    def has_checkpoint(self) -> bool:
        """Whether the count is noted outside the chain."""
        return self._noted().seq > 0

    def _noted(self) -> Checkpoint:
        """The end of the chain as it was noted outside; that of an empty one where it was not."""
        return noted(self._directory)

    def check_checkpoint(self) -> None:
        """Raise ``JournalDamagedError`` where the journal is shorter than it once was, or ends otherwise."""
        noted = self._noted()
        if noted.seq > self.head.seq:
            raise JournalDamagedError(
                f"the journal ends at line {self.head.seq}, but the checkpoint of {noted.at} "
                f"counted {noted.seq}: its tail was cut off"
            )
        if noted.seq == self.head.seq and noted.sha256 != self.head.sha256:
            raise JournalDamagedError(f"line {noted.seq} of the journal is not the one that was noted")


def noted(directory: Path) -> Checkpoint:
    """What the note beside a journal says; that it is empty where there is none that can be read."""
    try:
        return msgspec.json.decode((directory / CHECKPOINT).read_bytes(), type=Checkpoint)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return Checkpoint()


def _first_seq(file: Path) -> int:
    """The number of the first event in a file; of an empty file, larger than any."""
    line = next(lines(file), None)
    return 2**63 if line is None else decode(line[:-1], file, 1).seq


def _trusted_end(file: Path, noted_seq: int) -> tuple[bytes, int, bytes]:
    """The last line that can be trusted, without its newline; where it ends; and what stands behind it.

    A power cut can leave any page of the last, unsynced group unwritten: those read as zeros. So the last
    ``TAIL_BYTES`` are read as a chain, and where it breaks over zeros, behind what the checkpoint noted, the
    journal ends. A break without zeros was made later; then the last line counts, and ``read`` names it.
    """
    with file.open("rb") as lines:
        size = os.fstat(lines.fileno()).st_size
        start = max(size - TAIL_BYTES, 0)
        lines.seek(start)
        data = lines.read(size - start)
    if start:
        skipped = data.find(b"\n") + 1
        start, data = start + skipped, data[skipped:]
    last, end, seq, prev = b"", 0, 0, None
    while (stop := data.find(b"\n", end)) >= 0:
        event = decode_or_none(data[end:stop])
        if event is None or (prev is not None and event.prev != prev):
            break
        last, end, seq, prev = data[end:stop], stop + 1, event.seq, line_hash(data[end:stop])
    rest = data[end:]
    if b"\n" in rest and (seq < noted_seq or b"\0" not in rest):
        end = data.rfind(b"\n") + 1
        last, rest = data[: end - 1].rpartition(b"\n")[2], data[end:]
    return last, start + end, rest
