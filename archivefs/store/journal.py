"""The journal: events as chained JSON lines, one file a day, appended and never changed.

``journal/YYYY/MM/DD.jsonl`` holds the events of a UTC day; finished days become ``DD.jsonl.zst``. Each line
carries the SHA-256 of the line before it. ``journal/checkpoint.json`` keeps the count and the newest hash
outside the chain, so that a cut-off tail is noticed. A clock that jumps back never reopens an earlier day.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import zstandard

from archivefs import events
from archivefs.errors import JournalDamagedError
from archivefs.events import AnyEvent, Event
from archivefs.store.durable import open_append, replacing, sync_dir, write_all

ZERO = "0" * 64
"""``prev`` of the very first line."""
CHECKPOINT = "checkpoint.json"


class Head(NamedTuple):
    """The end of the chain: number of lines and SHA-256 of the last one."""

    seq: int
    sha256: str


class Torn(NamedTuple):
    """Bytes at the end of the newest file that are no whole line."""

    file: Path
    offset: int
    data: bytes


def utc_text(clock_ns: int) -> str:
    """``2026-02-13T14:30:22.123456Z`` of a Unix time in nanoseconds."""
    moment = datetime.fromtimestamp(clock_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{clock_ns // 1000 % 10**6:06d}Z"


def line_hash(line: bytes) -> str:
    """The hash that the next line carries as ``prev``; ``line`` is without its newline."""
    return hashlib.sha256(line).hexdigest()


class Journal:
    """The chain, open at its end. Not thread-safe: only the committing thread appends."""

    def __init__(self, directory: Path, clock: Callable[[], int] = time.time_ns) -> None:
        """Find the end of the chain. Raises ``JournalDamagedError`` where the last whole line is no event."""
        self._directory = directory
        self._clock = clock
        self._fd: int | None = None
        self._file: Path | None = None
        self.end = 0
        self._before = (0, Head(0, ZERO))
        self.torn: Torn | None = None
        self.head = Head(0, ZERO)
        self._find_head()

    def _find_head(self) -> None:
        files = self.files()
        if files and files[-1].suffix == ".jsonl":
            self._file = files[-1]
        for file in reversed(files):
            line, end, rest = _last_line(file)
            if file == self._file:
                self.end = end
                self.torn = Torn(file, end, rest) if rest else None
            if line:
                self.head = Head(_decode(line, file).seq, line_hash(line))
                return

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
        """All day files in order, the plain one where a day has both (a crash while sealing)."""
        days: dict[str, Path] = {}
        for file in sorted(self._directory.glob("*/*/*.jsonl*")):
            if file.name.endswith((".jsonl", ".jsonl.zst")):
                days.setdefault(str(file).partition(".jsonl")[0], file)
        return [days[day] for day in sorted(days)]

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
        self._fd = open_append(file)
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

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def read(self, after: int = 0) -> Iterator[AnyEvent]:
        """The events with ``seq > after`` in order, checked as a chain.

        Raises ``JournalDamagedError`` naming file and line where one is altered, missing or out of order.
        """
        files = self.files()
        first = max((n for n, file in enumerate(files) if _first_seq(file) <= after + 1), default=0)
        seq, prev = None, None
        for file in files[first:]:
            with _open_text(file) as lines:
                for number, line in enumerate(lines, 1):
                    if not line.endswith(b"\n"):
                        break
                    event = _decode(line[:-1], file, number)
                    if seq is None and number == 1:
                        seq, prev = event.seq - 1, event.prev
                    if event.seq != (seq or 0) + 1 or event.prev != prev:
                        raise JournalDamagedError(
                            f"{file}:{number}: line {event.seq} does not follow line {seq}: "
                            "a line was altered, removed or moved"
                        )
                    seq, prev = event.seq, line_hash(line[:-1])
                    if event.seq > after:
                        yield event

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
        """Note count and newest hash beside the chain, durably. Raises ``OSError``."""
        note = {"seq": self.head.seq, "sha256": self.head.sha256, "at": utc_text(self._clock())}
        with replacing(self._directory / CHECKPOINT) as out:
            out.write(msgspec.json.encode(note) + b"\n")

    def has_checkpoint(self) -> bool:
        """Whether the count is noted outside the chain."""
        return (self._directory / CHECKPOINT).exists()

    def check_checkpoint(self) -> None:
        """Raise ``JournalDamagedError`` where the journal is shorter than it once was."""
        try:
            note = msgspec.json.decode((self._directory / CHECKPOINT).read_bytes())
            seq = int(note["seq"])
        except (FileNotFoundError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
            return
        if seq > self.head.seq:
            raise JournalDamagedError(
                f"the journal ends at line {self.head.seq}, but the checkpoint of {note.get('at')} "
                f"counted {seq}: its tail was cut off"
            )


def _open_text(file: Path) -> IO[bytes]:
    """The lines of a day file, decompressed where it is sealed."""
    if file.suffix == ".jsonl":
        return file.open("rb")
    return io.BufferedReader(zstandard.open(file, "rb"))


def _first_seq(file: Path) -> int:
    """The number of the first event in a file; of an empty file, larger than any."""
    with _open_text(file) as lines:
        line = lines.readline()
    return _decode(line[:-1], file, 1).seq if line.endswith(b"\n") else 2**63


def _last_line(file: Path) -> tuple[bytes, int, bytes]:
    """The last whole line without its newline, where it ends, and what stands torn behind it."""
    with _open_text(file) as lines:
        if file.suffix != ".jsonl":
            data = lines.read()
            size = len(data)
        else:
            size, reach = os.fstat(lines.fileno()).st_size, 1 << 16
            while True:
                lines.seek(max(size - reach, 0))
                data = lines.read(size - max(size - reach, 0))
                if data.count(b"\n") > 1 or reach >= size:
                    break
                reach *= 8
    stop = data.rfind(b"\n") + 1
    line = data[data.rfind(b"\n", 0, max(stop - 1, 0)) + 1 : max(stop - 1, 0)]
    return line, size - len(data) + stop, data[stop:]


def _decode(line: bytes, file: Path, number: int | None = None) -> AnyEvent:
    try:
        return events.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        where = f"{file}:{number}" if number else f"{file}: last line"
        raise JournalDamagedError(f"{where}: not a readable event: {error}") from None
