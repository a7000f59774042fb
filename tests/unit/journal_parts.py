"""What the tests of the journal share: a clock, events, and where they lie."""

from datetime import UTC, datetime
from pathlib import Path

from archivefs.events import Touched
from archivefs.store.journal import Journal

DAY_SECONDS = 86_400


class Clock:
    """A clock that stands still until it is turned; nanoseconds."""

    def __init__(self) -> None:
        self.ns = int(datetime(2026, 2, 13, 12, tzinfo=UTC).timestamp()) * 10**9

    def __call__(self) -> int:
        return self.ns

    def turn(self, *, days: float = 0) -> None:
        self.ns += int(days * DAY_SECONDS) * 10**9


def event(number: int) -> Touched:
    return Touched(id=f"entry {number}", mtime_ns=number, mode=0o644, uid=0, gid=0)


def append(journal: Journal, count: int) -> None:
    """Append that many events, one by one, each of its own size."""
    for number in range(journal.head.seq + 1, journal.head.seq + count + 1):
        journal.append([event(number)])
    journal.sync()


def seqs(directory: Path, after: int = 0) -> list[int]:
    return [event.seq for event in Journal(directory).read(after)]


def day_file(directory: Path, day: int = 13) -> Path:
    return directory / "2026" / "02" / f"{day}.jsonl"


def five_lines(directory: Path, clock: Clock) -> tuple[Path, list[bytes]]:
    journal = Journal(directory, clock)
    append(journal, 5)
    journal.close()
    file = day_file(directory)
    return file, file.read_bytes().splitlines(keepends=True)
