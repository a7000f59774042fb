"""What the tests of verify share: a sample archive, ways to damage it, the command in this process.

And that the sample is whole, has some of everything, and that a copy of it is as good as itself.
"""

import contextlib
import functools
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest
import zstandard
from archive_parts import (
    DAY,
    Clock,
    Rows,
    capture,
    captured,
    catalog_rows,
    commit,
    converted,
    every_entry,
    everything_is_readable,
    finish,
    make,
    nothing_is_left_over,
    some_bytes,
    trained,
)

from archivefs.archive import Archive
from archivefs.catalog.catalog import VOID_REASON
from archivefs.cli.main import main
from archivefs.events import Event, decode
from archivefs.operations import BeginAttempt, Report, Touch
from archivefs.rebuilding import CATALOG
from archivefs.states import Outcome, Status
from archivefs.verify.findings import EXIT_CODES, Severity

MIB = 1 << 20
DAYS = ("2026-02-13", "2026-02-14", "2026-02-15")
CODES = {severity.name.lower(): code for severity, code in EXIT_CODES.items()}
_templates: list[tempfile.TemporaryDirectory[str]] = []


class Ran(NamedTuple):
    """What a command gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The findings that ``verify --json`` printed."""
        found: list[dict[str, Any]] = json.loads(self.out)["findings"]
        return found

    @property
    def checks(self) -> set[str]:
        """The names of the checks that found something."""
        return {finding["check"] for finding in self.findings}


def archivefs(*arguments: object) -> Ran:
    """Run the command in this process, with its own mapping of errors to exit codes."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["archivefs", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    finally:
        sys.argv = before
    assert isinstance(code, int)
    return Ran(code, out.getvalue(), err.getvalue())


def verify(root: Path, *options: str) -> Ran:
    """``archivefs verify --json``; the exit code follows the worst finding, which ``worst`` names."""
    ran = archivefs("verify", "--json", "--archive", root, *options)
    if ran.out:
        report = json.loads(ran.out)
        words = [finding["severity"] for finding in report["findings"]]
        assert ran.code == max(map(CODES.__getitem__, words), default=0)
        assert CODES[report["worst"] or "notice"] == ran.code
        assert all(finding["where"] and finding["what"] and finding["remedy"] for finding in ran.findings)
    return ran


# -- the sample --------------------------------------------------------------------------------------------


def sample(root: Path) -> Path:
    """A copy of an archive of three days, two of them sealed, closed, with some of everything."""
    shutil.copytree(_template(), root)
    return root


@functools.cache
def _template() -> Path:
    _templates.append(tempfile.TemporaryDirectory(prefix="archivefs-sample-"))
    root, clock = Path(_templates[-1].name) / "archive", Clock()
    with make(root, clock) as archive:
        trained(archive, "ict", "reports")
    for number in range(len(DAYS)):
        with Archive(root, clock=clock) as archive:
            _one_day(archive, number)
        clock.turn(DAY)
    Archive(root, clock=clock).close()
    return root


def _one_day(archive: Archive, number: int) -> None:
    for each in range(3):
        content = some_bytes(10 * number + each, 3000)
        converted(archive, captured(archive, content, b"u%d.csv" % each, "ict").id)
    for each in range(3):
        captured(archive, some_bytes(100 + 10 * number + each, 2000), b"f%d.bin" % each)
    captured(archive, b"%d of many " % number * (MIB // 4), b"w\xff\nave.bin")
    captured(archive, b"", b"empty.bin")
    failed = captured(archive, b"two attempts %d" % number, b"twice.csv", "ict").id
    commit(archive, BeginAttempt(failed, "capture"))
    log = Report("log.txt", b"first")
    commit(archive, finish(failed, outcome=Outcome.FAILED, status=Status.SUSPENDED, error="later", log=log))
    converted(archive, failed)
    draft = captured(archive, b"draft %d" % number, b"saved twice.csv", "ict").id
    (last,) = commit(
        archive,
        capture(b"last %d" % number, b"saved twice.csv", "ict", folder=b"line 1/\xfe", supersedes=[draft],
                xattrs={"user.station": "QTc="}),
    )  # fmt: skip
    converted(archive, last.id)
    commit(archive, Touch(last.id, 1_700_000_000_123_456_789, 0o640, 1000, 100))
    half = capture(b"half %d" % number, b"half.csv", "ict", quarantine="it was being written")
    commit(archive, half)
    kept_no_report = captured(archive, b"no report kept %d" % number, b"x.log", "log").id
    converted(archive, kept_no_report, converter="log")


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def content_of(root: Path) -> dict[str, bytes]:
    """Every segment with its bytes."""
    return files_below(root / "content")


def rows_but_meta(root: Path) -> Rows:
    """All tables but the one that says how far the catalog is."""
    return {table: rows for table, rows in catalog_rows(root).items() if table != "meta"}


def everything_is_as_before(root: Path, before: Mapping[str, bytes], rows: Rows) -> None:
    """Content bytes are the same, all of it can be read, and the catalog says what it said."""
    assert content_of(root) == before
    with Archive(root) as archive:
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    assert rows_but_meta(root) == rows


# -- damage ------------------------------------------------------------------------------------------------


def sql(root: Path, *statements: str) -> None:
    """Change the catalog behind archivefs' back."""
    db = apsw.Connection(str(root / CATALOG))
    try:
        db.execute("PRAGMA foreign_keys=OFF")
        for statement in statements:
            db.execute(statement)
    finally:
        db.close()


def overwrite(file: Path, offset: int, data: bytes) -> None:
    """Bytes on the disk are not what was written any more."""
    with file.open("r+b") as out:
        out.seek(offset)
        out.write(data)


def flip(file: Path, offset: int) -> None:
    """One bit is another."""
    with file.open("rb") as source:
        source.seek(offset)
        (byte,) = source.read(1)
    overwrite(file, offset, bytes([byte ^ 4]))


def day_file(root: Path, number: int) -> Path:
    """The journal of the sample's day of that number, sealed or not."""
    stem = root / "journal" / DAYS[number].replace("-", "/")
    return next(file for suffix in (".jsonl", ".jsonl.zst") if (file := stem.with_suffix(suffix)).exists())


def read_lines(file: Path) -> list[bytes]:
    """The lines of a day file with their newlines."""
    data = file.read_bytes()
    if file.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data.splitlines(keepends=True)


def edit_lines(root: Path, number: int, change: Callable[[list[bytes]], object]) -> None:
    """Change the lines of a day file; it stays sealed where it was."""
    file = day_file(root, number)
    lines = read_lines(file)
    change(lines)
    data = b"".join(lines)
    file.write_bytes(zstandard.ZstdCompressor().compress(data) if file.suffix == ".zst" else data)


def events_of(root: Path) -> list[Event]:
    """The whole journal."""
    files = sorted((root / "journal").glob("*/*/*.jsonl*"))
    return [decode(line) for file in files for line in read_lines(file)]


class Place(NamedTuple):
    """Where a record lies on the disk."""

    file: Path
    offset: int
    header: int
    stored: int
    length: int

    @property
    def frames(self) -> int:
        """Where its content begins."""
        return self.offset + self.header

    @property
    def table(self) -> int:
        """Where its frame table begins."""
        return self.frames + self.stored

    def read(self) -> bytes:
        """The whole record."""
        return self.file.read_bytes()[self.offset : self.offset + self.length]


def place_of(root: Path, name: bytes, day: int = 0) -> Place:
    """The record of the source of that name of the sample's day of that number (its last version)."""
    with Archive.open_for_reading(root) as archive:
        rows = [row for row in every_entry(archive) if row.name == name and row.day_text == DAYS[day]]
        where = archive.reader.location(rows[-1])
    file = root / "content" / where.segment
    return Place(file, where.offset, where.header, where.stored, where.length)


# -- the sample is what it should be -----------------------------------------------------------------------


def test_the_sample_has_some_of_everything(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    rows = catalog_rows(root)
    # These have tests of their own.
    elsewhere = {
        "code",
        "deliveries",
        "members",
        "outbox",
        "outbox_totals",
        "name_trigrams",
        "error_trigrams",
        "held",
        "holds",
        "holes",
        "jobs",
        "plans",
        "purged",
        "retained",
    }
    assert {table for table in rows if not rows[table]} == elsewhere
    kinds = [type(event).__name__ for event in events_of(root)]
    wanted = {"Created", "DictionaryTrained", "Captured", "Touched", "AttemptStarted", "AttemptFinished"}
    assert set(kinds) == wanted
    assert [day_file(root, number).suffix for number in range(3)] == [".zst", ".zst", ".jsonl"]
    with Archive(root) as archive:
        statuses = {row.status for row in every_entry(archive)}
        assert statuses == {Status.SUCCESS, Status.ARCHIVED, Status.SUPERSEDED, Status.QUARANTINED}
        assert not any(row.reason == VOID_REASON for row in every_entry(archive))


def test_a_whole_archive_has_no_findings(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before, rows = content_of(root), rows_but_meta(root)
    ran = verify(root)
    assert (ran.code, ran.findings, ran.err) == (0, [], "")
    report = json.loads(ran.out)
    assert report["events"] == len(events_of(root))
    assert report["worst"] == ""
    assert report["scope"] == "everything"
    everything_is_as_before(root, before, rows)


def test_verify_reads_every_record_and_every_byte_that_is_archived(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    report = json.loads(verify(root).out)
    rows = catalog_rows(root)
    with Archive(root) as archive:
        stored = [
            each
            for row in every_entry(archive)
            for each in archive.reader.contents(row.n)
            if each.location is not None
        ]
        sources = every_entry(archive)
    assert report["records"] == len(rows["entries"]) + len(stored)
    assert report["bytes"] == sum(row.size for row in sources) + sum(each.size for each in stored)


def test_repair_of_a_whole_archive_changes_nothing(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    verify(root)
    before = {name: data for name, data in files_below(root).items() if "checkpoint" not in name}
    ran = verify(root, "--repair")
    assert (ran.code, ran.findings, ran.err) == (0, [], "")
    after = {name: data for name, data in files_below(root).items() if "checkpoint" not in name}
    assert after == before


@pytest.mark.parametrize("severity", Severity)
def test_each_severity_has_the_documented_exit_code(severity: Severity) -> None:
    documented = {"notice": 0, "warning": 50, "error": 51, "critical": 52}
    assert EXIT_CODES[severity] == documented[severity.name.lower()]


def test_people_get_a_line_for_each_finding_its_remedy_and_the_sum(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    whole = archivefs("verify", "--archive", root)
    assert whole.code == 0
    assert "records" in whole.out
    assert whole.out.rstrip().endswith("nothing to find")
    sql(root, "UPDATE totals SET entries = entries + 1 WHERE status = 2 AND day = 20497")
    ran = archivefs("verify", "--archive", root)
    assert ran.code == 51
    lines = ran.out.splitlines()
    assert lines[0].startswith("error: catalog.sqlite, table totals: a row is wrong: ")
    assert lines[1] == "  remedy: archivefs verify --repair makes it again from the journal"
    assert lines[-1].endswith(": 2 error") or lines[-1].endswith(": 1 error")
