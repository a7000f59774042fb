"""What the tests of the archive share: a clock to turn, captures in short, and a look into the catalog."""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from archivefs.archive import Archive
from archivefs.catalog import trigrams
from archivefs.catalog.rows import DictionaryRow, Entry
from archivefs.operations import AddDictionary, BeginAttempt, Capture, FinishAttempt, Receipt, Report
from archivefs.rebuilding import CATALOG
from archivefs.states import Outcome, Status
from archivefs.store import dictionaries
from archivefs.transaction import Operation

ROOT = Path(__file__).parents[2]
NOON_MS = int(datetime(2026, 2, 13, 12, tzinfo=UTC).timestamp()) * 1000
HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365 * DAY
TOML = """\
schema_version = 1
timezone = "UTC"
reserve = 0
[converters.ict]
run = "command:true"
patterns = ["*.csv"]
[converters.log]
run = "command:true"
archive_reports = false
settle_seconds = 0
[converters.files]
"""
WAITS_AS = {Outcome.INTERRUPTED: Status.PENDING, Outcome.TRANSIENT: Status.SUSPENDED}
"""What an entry becomes by an attempt that has another word for its end."""
Rows = dict[str, list[tuple[Any, ...]]]


class Clock:
    """A clock that stands still until it is turned; gives nanoseconds as ``time.time_ns`` does."""

    def __init__(self, ms: int = NOON_MS) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms * 10**6

    def turn(self, seconds: float) -> None:
        """Forward, or back where negative."""
        self.ms += int(seconds * 1000)


def make(root: Path, clock: Clock, toml: str = TOML) -> Archive:
    """A new archive, open for writing."""
    Archive.create(root, toml, clock=clock)
    return Archive(root, clock=clock)


def capture(content: bytes, name: bytes = b"unit.csv", converter: str = "files", **more: Any) -> Capture:  # noqa: ANN401
    """A capture of which only what matters is said."""
    return Capture(converter, name, content, mtime_ns=more.pop("mtime_ns", 1_770_000_000_000_000_000), **more)


def commit(archive: Archive, *operations: Operation[Any]) -> list[Any]:
    """Commit as one group; all must succeed."""
    outcomes, _ = archive.commit(operations)
    for operation in operations:
        operation.close()
    for each in outcomes:
        if isinstance(each, Exception):
            raise each
    return outcomes


def captured(
    archive: Archive, content: bytes, name: bytes = b"unit.csv", converter: str = "files"
) -> Receipt:
    """Capture one source in a group of its own."""
    (receipt,) = commit(archive, capture(content, name, converter))
    assert isinstance(receipt, Receipt)
    return receipt


def finish(id_: str, attempt: int = 1, outcome: Outcome = Outcome.SUCCESS, **more: Any) -> FinishAttempt:  # noqa: ANN401
    """The end of an attempt, of which only what matters is said."""
    status = more.pop("status", None) or WAITS_AS.get(outcome) or Status(outcome)
    return FinishAttempt(
        id_, more.pop("converter", "ict"), attempt, outcome, status, started_ms=NOON_MS, duration_ms=5, **more
    )


def converted(archive: Archive, id_: str, report: bytes = b'{"ok":true}', converter: str = "ict") -> None:
    """A successful attempt with a log and a report."""
    (number,) = commit(archive, BeginAttempt(id_, "capture"))
    commit(
        archive,
        finish(
            id_, number, converter=converter, version="1.0",
            log=Report("log.txt", b"log of " + id_.encode()), reports=[Report("report.json", report)],
        ),
    )  # fmt: skip


def entry(archive: Archive, id_: str) -> Entry:
    """The entry, which must be there."""
    found = archive.reader.by_id(id_)
    assert found is not None
    return found


def due(archive: Archive, until_ms: int) -> list[str]:
    """The ids of what would be converted up to then, of all converters, earliest first."""
    numbers = {row.converter_id for row in every_entry(archive)}
    rows = [row for number in numbers for row in archive.reader.due(number, until_ms)]
    return [row.id for row in sorted(rows, key=lambda row: (row.due_ms, row.n))]


def source(archive: Archive, id_: str) -> bytes:
    """The bytes of an entry's source, compared with its hash."""
    row = entry(archive, id_)
    content = archive.content.read(archive.reader.location(row), row.size)
    assert hashlib.sha256(content).hexdigest() == row.sha256
    return content


def every_entry(archive: Archive) -> list[Entry]:
    """All entries in the order of the journal."""
    return archive.reader.all_after(0, 10**6)


def everything_is_readable(archive: Archive) -> None:
    """Read every source, log and report, and compare it with its hash."""
    for row in every_entry(archive):
        source(archive, row.id)
        for piece in archive.reader.contents(row.n):
            if piece.location is not None:
                assert archive.content.sha256(piece.location, piece.size) == piece.sha256


def nothing_is_left_over(archive: Archive) -> None:
    """Each segment ends where the journal says."""
    ends = archive.reader.segment_ends()
    content = archive.root / "content"
    on_disk = {str(file.relative_to(content)): file.stat().st_size for file in content.rglob("*.zst")}
    assert {name: size for name, size in on_disk.items() if size} == {n: e for n, e in ends.items() if e}


def catalog_rows(root: Path) -> Rows:
    """Every row of every table, sorted by all columns; of a full-text index what it finds."""
    db = apsw.Connection(str(root / CATALOG), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        tables = [
            row[0]
            for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
            if "_trigrams" not in row[0]
        ]
        rows: Rows = {index.table: list(trigrams.contents(db, index)) for index in trigrams.INDEXES}
        for table in tables:
            width = len(list(db.execute(f"PRAGMA table_info({table})")))
            order = ", ".join(str(column) for column in range(1, width + 1))
            rows[table] = list(db.execute(f"SELECT * FROM {table} ORDER BY {order}"))
        return rows
    finally:
        db.close()


def journal_lines(root: Path) -> list[bytes]:
    """All lines of the plain day files."""
    files = sorted((root / "journal").glob("*/*/*.jsonl"))
    return [line for file in files for line in file.read_bytes().splitlines()]


def some_bytes(seed: int, size: int) -> bytes:
    """Bytes that do not compress, the same for each seed."""
    return random.Random(seed).randbytes(size)


def run_child(script: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    """Run a script in a Python process of its own, with this checkout on its path."""
    return subprocess.run(
        child_command(script, arguments),
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
        **more,
    )


def measured(number: int) -> bytes:
    """A small report of a test station; all of them have most of their words in common."""
    chance = random.Random(number)
    steps = [
        {"step": f"Voltage at test point {point}", "limits": [point, point + 2], "unit": "V",
         "value": round(point + 2 * chance.random(), 3), "result": "PASS"}
        for point in range(12)
    ]  # fmt: skip
    return json.dumps({"serial": f"SN{chance.randrange(10**8):08}", "steps": steps}).encode()


def trained(archive: Archive, converter: str, content: str, day: str = "") -> DictionaryRow:
    """Make a dictionary of such reports, and use it from now on."""
    data = dictionaries.train([measured(number) for number in range(-50, 0)], 2000, 3)
    commit(archive, AddDictionary(converter, content, data, 50, day))
    return archive.reader.dictionaries()[-1]


def child_command(script: str, arguments: Sequence[object]) -> list[str]:
    """The command that ``run_child`` runs."""
    return [sys.executable, "-c", script, *map(str, arguments)]


def child_environment() -> dict[str, str]:
    """The environment in which a child finds archivefs and this module."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "PYTHONDONTWRITEBYTECODE": "1"}


@contextmanager
def again_and_again(turn: Callable[[int], object]) -> Iterator[threading.Event]:
    """Call ``turn`` with 1, 2, ... in a thread meanwhile; the event is set when it has ended.

    Raises what ``turn`` raised.
    """
    stop, failed, ended = threading.Event(), list[BaseException](), threading.Event()

    def work() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                turn(number)
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ended
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
