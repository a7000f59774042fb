"""The archive itself: made and opened, ids, attempts, groups, one writer and many readers."""

import errno
import hashlib
import json
import os
import random
from pathlib import Path

import pytest
from archive_parts import (
    DAY,
    HOUR,
    NOON_MS,
    YEAR,
    Clock,
    capture,
    captured,
    catalog_rows,
    commit,
    converted,
    due,
    entry,
    every_entry,
    everything_is_readable,
    finish,
    journal_lines,
    make,
    nothing_is_left_over,
    run_child,
    some_bytes,
    source,
)

from archivefs import describe
from archivefs.archive import DEFAULT_TOML, Archive
from archivefs.errors import (
    ArchiveError,
    ArchiveExistsError,
    ConfigError,
    LockedError,
    NotAnArchiveError,
    ReadOnlyError,
    UnknownEntryError,
)
from archivefs.operations import BeginAttempt, Report, Touch
from archivefs.packing import Packing
from archivefs.states import Outcome, Status
from archivefs.transaction import Operation, Transaction

MIB = 1 << 20


# -- making and opening ------------------------------------------------------------------------------------


def test_a_new_archive_is_empty_and_private(root: Path) -> None:
    Archive.create(root)
    assert (root / "archive.toml").read_text() == DEFAULT_TOML
    assert root.stat().st_mode & 0o777 == 0o700
    with Archive(root) as archive:
        assert every_entry(archive) == []
        assert archive.reader.last_id() == ""
        assert archive.writable


def test_nothing_is_made_where_something_is(root: Path, clock: Clock, tmp_path: Path) -> None:
    Archive.create(root, clock=clock)
    with pytest.raises(ArchiveExistsError, match="is already an archive; nothing was changed"):
        Archive.create(root, clock=clock)
    with pytest.raises(ArchiveExistsError, match="is not an empty folder; nothing was changed"):
        Archive.create(tmp_path, clock=clock)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArchiveExistsError, match="nothing was changed"):
        Archive.create(tmp_path / "file", clock=clock)


def test_an_empty_folder_can_become_an_archive(root: Path) -> None:
    root.mkdir()
    Archive.create(root)
    Archive(root).close()


def test_a_bad_configuration_makes_no_archive(root: Path) -> None:
    with pytest.raises(ConfigError):
        Archive.create(root, "schema_version = 5")
    assert not root.exists()


def test_what_is_no_archive_is_not_opened(root: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAnArchiveError, match=r"has no archive\.toml"):
        Archive(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotAnArchiveError):
        Archive(root / "nowhere")


def test_an_archive_without_its_journal_is_not_opened(root: Path) -> None:
    root.mkdir()
    (root / "archive.toml").write_text(DEFAULT_TOML)
    with pytest.raises(NotAnArchiveError, match="the journal is empty"):
        Archive(root)


def test_the_timezone_is_fixed_once_set(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    toml = (root / "archive.toml").read_text()
    (root / "archive.toml").write_text(toml.replace('"UTC"', '"Europe/Oslo"'))
    with pytest.raises(ConfigError, match=r"archive\.toml: timezone: is 'Europe/Oslo', must stay 'UTC'"):
        Archive(root, clock=clock)
    (root / "archive.toml").write_text(toml)
    Archive(root, clock=clock).close()


def test_opening_and_closing_changes_nothing(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        converted(archive, captured(archive, b"1", converter="ict").id)
    lines, rows = journal_lines(root), catalog_rows(root)
    for _ in range(3):
        Archive(root, clock=clock).close()
    assert (journal_lines(root), catalog_rows(root)) == (lines, rows)


# -- ids ---------------------------------------------------------------------------------------------------


def test_ids_ascend_whatever_the_clock_does(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    ids = []
    random_ = random.Random(5)
    for leap in (0, 0, -HOUR, 0, 1, YEAR, -YEAR, 0, -HOUR, 2 * YEAR, 0):
        clock.turn(leap)
        with Archive(root, clock=clock) as archive:
            for _ in range(3):
                group = [capture(random_.randbytes(3), b"%d" % n) for n in range(random_.randrange(1, 5))]
                ids += sorted(receipt.id for receipt in commit(archive, *group))
    assert ids == sorted(set(ids))
    with Archive(root, clock=clock) as archive:
        assert [row.id for row in every_entry(archive)] == ids
        assert archive.reader.last_id() == ids[-1]
        everything_is_readable(archive)


def test_a_clock_that_was_wrong_for_a_moment_does_not_delay_conversions(
    archive: Archive, clock: Clock
) -> None:
    clock.turn(YEAR)
    captured(archive, b"1", converter="ict")
    clock.turn(-YEAR)
    row = entry(archive, captured(archive, b"2", converter="ict").id)
    assert row.due_ms == NOON_MS + 2000


def test_an_entry_is_found_by_the_beginning_of_its_id(archive: Archive, clock: Clock) -> None:
    first = captured(archive, b"1")
    clock.turn(DAY)
    second = captured(archive, b"2")
    captured(archive, b"3")
    assert archive.reader.get(first.id).id == first.id
    assert archive.reader.get(first.id[:8]).id == first.id
    assert archive.reader.get(second.id[:20]).id == second.id
    for unknown, why in (
        (first.id[:7], "see"),
        ("20260214", "more than one"),
        ("20990101", "see"),
        ("", "see"),
    ):
        with pytest.raises(UnknownEntryError, match=f'no entry with id "{unknown}": {why}'):
            archive.reader.get(unknown)


# -- attempts ----------------------------------------------------------------------------------------------


def test_an_attempt_stores_its_log_and_reports(archive: Archive) -> None:
    receipt = captured(archive, b"1", converter="ict")
    assert commit(archive, BeginAttempt(receipt.id, "capture")) == [1]
    assert entry(archive, receipt.id).status is Status.CONVERTING
    commit(
        archive,
        finish(
            receipt.id, version="2.1", arguments={"delimiter": ",", "deep": [1, {"ø": None}]},
            warnings=["w1", "w2"], log=Report("log.txt", b"a log"),
            reports=[Report("report.json", b"{}"), Report("report-2.json", b"[]" * MIB)],
        ),
    )  # fmt: skip
    row = entry(archive, receipt.id)
    assert (row.status, row.attempts, row.due_ms) == (Status.SUCCESS, 1, 0)
    pieces = archive.reader.contents(row.n)
    assert [(piece.ordinal, piece.name, piece.size) for piece in pieces] == [
        (0, "log.txt", 5), (1, "report.json", 2), (2, "report-2.json", 2 * MIB),
    ]  # fmt: skip
    everything_is_readable(archive)
    assert describe.entry(archive, row)["attempts"][0]["arguments"] == {
        "delimiter": ",",
        "deep": [1, {"ø": None}],
    }


def test_reports_that_are_not_kept_are_only_noted(archive: Archive) -> None:
    receipt = captured(archive, b"1", converter="log")
    converted(archive, receipt.id, converter="log")
    log, report = archive.reader.contents(entry(archive, receipt.id).n)
    assert log.location is not None
    assert (report.location, report.size) == (None, 11)
    assert report.sha256 == hashlib.sha256(b'{"ok":true}').hexdigest()


def test_retries_are_attempts_of_their_own(archive: Archive, clock: Clock) -> None:
    receipt = captured(archive, b"1", converter="ict")
    for number in (1, 2):
        assert commit(archive, BeginAttempt(receipt.id, "retry")) == [number]
        due_ms = NOON_MS + number * 60_000
        commit(archive, finish(receipt.id, number, Outcome.SUSPENDED, error=f"no {number}", due_ms=due_ms))
        assert entry(archive, receipt.id).due_ms == due_ms
        assert entry(archive, receipt.id).status is Status.SUSPENDED
    commit(archive, BeginAttempt(receipt.id, "retry"))
    commit(archive, finish(receipt.id, 3, Outcome.SUSPENDED, status=Status.FAILED, error="no 3"))
    row = entry(archive, receipt.id)
    assert (row.status, row.attempts, row.due_ms) == (Status.FAILED, 3, 0)
    assert [each.error for each in archive.reader.attempts(row.n)] == ["no 1", "no 2", "no 3"]


def test_an_attempt_that_does_not_run_cannot_end(archive: Archive) -> None:
    receipt = captured(archive, b"1", converter="ict")
    before = catalog_rows(archive.root)
    with pytest.raises(ArchiveError, match=f"attempt 1 of {receipt.id} is not running: the entry is pending"):
        commit(archive, finish(receipt.id, log=Report("log.txt", b"lost")))
    assert catalog_rows(archive.root) == before
    commit(archive, BeginAttempt(receipt.id, "capture"))
    with pytest.raises(ArchiveError, match="attempt 2 of"):
        commit(archive, finish(receipt.id, 2))
    commit(archive, finish(receipt.id, 1))
    with pytest.raises(ArchiveError, match="the entry is success"):
        commit(archive, finish(receipt.id, 1))
    nothing_is_left_over(archive)


def test_two_that_begin_the_same_attempt_get_it_once(archive: Archive) -> None:
    receipt = captured(archive, b"1", converter="ict")
    assert commit(archive, BeginAttempt(receipt.id, "capture"), BeginAttempt(receipt.id, "capture")) == [
        1,
        None,
    ]


def test_changes_say_what_a_commit_did(archive: Archive) -> None:
    (receipt,), (change,) = archive.commit([capture(b"1", converter="ict")])
    assert (change.id, change.before, change.after) == (receipt.id, None, Status.PENDING)
    _, changes = archive.commit(
        [BeginAttempt(receipt.id, "capture"), Touch(receipt.id, 1, 0, 0, 0), finish(receipt.id)]
    )
    assert [(each.before, each.after) for each in changes] == [
        (Status.PENDING, Status.CONVERTING),
        (Status.CONVERTING, Status.CONVERTING),
        (Status.CONVERTING, Status.SUCCESS),
    ]
    _, (old, new) = archive.commit([capture(b"2", converter="files"), capture(b"3", converter="files")])
    assert old.n + 1 == new.n


@pytest.mark.parametrize("error", ["two\nlines", "", "\0", "\udcff", "ø" * 10_000])
def test_any_error_text_can_be_recorded_or_harms_only_its_attempt(
    archive: Archive, error: str, expected_errors: list[str]
) -> None:
    expected_errors.append("a FinishAttempt failed")
    receipt = captured(archive, b"1", converter="ict")
    commit(archive, BeginAttempt(receipt.id, "capture"))
    outcomes, _ = archive.commit(
        [finish(receipt.id, outcome=Outcome.FAILED, error=error), capture(b"beside it")]
    )
    assert not isinstance(outcomes[1], Exception)
    if outcomes[0] is None:
        assert entry(archive, receipt.id).status is Status.FAILED
    captured(archive, b"later")


# -- groups ------------------------------------------------------------------------------------------------


class Failing(Operation[None]):
    """Fails after it has written a record, or before anything."""

    def __init__(self, error: Exception, *, in_prepare: bool = False) -> None:
        self.error = error
        self.in_prepare = in_prepare
        self.written = capture(b"must not stay", b"failing")

    def prepare(self, packing: Packing) -> None:
        """Fails, or does what a capture does."""
        if self.in_prepare:
            raise self.error
        self.written.prepare(packing)

    def run(self, txn: Transaction) -> None:
        """Writes, then fails."""
        self.written.run(txn)
        raise self.error


@pytest.mark.parametrize("error", [ArchiveError("no"), OSError(errno.EIO, "no"), ValueError("a bug")])
@pytest.mark.parametrize("in_prepare", [False, True], ids=["in run", "in prepare"])
def test_one_failing_operation_does_not_fail_the_others(
    archive: Archive,
    expected_errors: list[str],
    error: Exception,
    in_prepare: bool,  # noqa: FBT001
) -> None:
    expected_errors.append("a Failing failed")
    outcomes, changes = archive.commit(
        [capture(b"1", b"a"), Failing(error, in_prepare=in_prepare), capture(b"2", b"b")]
    )
    assert outcomes[1] is error
    assert [source(archive, outcome.id) for outcome in (outcomes[0], outcomes[2])] == [b"1", b"2"]
    assert len(changes) == 2
    assert [row.name for row in every_entry(archive) if row.name == b"failing"] == []
    nothing_is_left_over(archive)
    everything_is_readable(archive)


def test_a_group_of_failures_leaves_nothing(archive: Archive, root: Path) -> None:
    before = (journal_lines(root), catalog_rows(root))
    outcomes, changes = archive.commit([Failing(ArchiveError("no")), Failing(ArchiveError("no"))])
    assert [str(each) for each in outcomes] == ["no", "no"]
    assert (changes, journal_lines(root), catalog_rows(root)) == ([], *before)
    nothing_is_left_over(archive)
    assert archive.commit([]) == ([], [])


def test_results_come_in_the_order_of_the_operations(archive: Archive) -> None:
    contents = [some_bytes(n, 10) for n in range(50)]
    receipts = commit(archive, *[capture(content) for content in contents])
    assert [source(archive, receipt.id) for receipt in receipts] == contents


def test_a_group_of_many_converters_is_one_commit(archive: Archive, root: Path) -> None:
    names = [f"c{n}" for n in range(40)]
    for round_ in range(3):
        commit(archive, *[capture(b"%d" % round_, converter=name) for name in names])
    assert len({json.loads(line)["at"] for line in journal_lines(root)}) == 1, "the clock stands still"
    everything_is_readable(archive)
    nothing_is_left_over(archive)


# -- one writer, many readers ------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_archive(archive: Archive, root: Path) -> None:
    with pytest.raises(LockedError, match=f"{root} is in use by process {os.getpid()} on "):
        Archive(root)
    archive.note_mountpoint("/mnt/tests")
    with pytest.raises(LockedError, match="mounted at /mnt/tests"):
        Archive(root)
    archive.note_mountpoint("")
    with pytest.raises(LockedError) as caught:
        Archive(root)
    assert "mounted" not in str(caught.value)


def test_another_process_is_told_too_and_can_read(archive: Archive, root: Path) -> None:
    receipt = captured(archive, b"1")
    script = """
import sys
from pathlib import Path
from archivefs.archive import Archive
from archivefs.errors import LockedError
try:
    Archive(Path(sys.argv[1]))
except LockedError as error:
    print(error)
with Archive.open_for_reading(Path(sys.argv[1])) as archive:
    entry = archive.reader.get(sys.argv[2])
    print(archive.writable, archive.content.read(archive.reader.location(entry), entry.size))
"""
    done = run_child(script, root, receipt.id)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith(f"{root} is in use by process {os.getpid()}")
    assert done.stdout.splitlines()[1] == "False b'1'"


def test_the_lock_is_free_after_close(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    with Archive(root, clock=clock), pytest.raises(LockedError):
        Archive(root, clock=clock)
    Archive(root, clock=clock).close()


def test_a_failed_open_frees_the_lock(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    toml = (root / "archive.toml").read_text()
    (root / "archive.toml").write_text(toml.replace('"UTC"', '"Europe/Oslo"'))
    with pytest.raises(ConfigError):
        Archive(root, clock=clock)
    (root / "archive.toml").write_text(toml)
    Archive(root, clock=clock).close()


def test_a_reader_beside_the_writer_sees_each_commit(archive: Archive, root: Path) -> None:
    first = captured(archive, b"1")
    with Archive.open_for_reading(root) as reading:
        assert not reading.writable
        assert source(reading, first.id) == b"1"
        second = captured(archive, b"2")
        assert source(reading, second.id) == b"2"
        assert reading.reader.changed_seq() == archive.reader.changed_seq()
        with pytest.raises(ReadOnlyError, match="is open for reading only: another process writes"):
            reading.commit([capture(b"3")])
        with pytest.raises(ReadOnlyError):
            reading.keep_house()
    assert len(every_entry(archive)) == 2


def test_who_reads_keeps_nobody_from_writing(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    with Archive.open_for_reading(root, clock=clock) as reading, Archive(root, clock=clock) as writing:
        receipt = captured(writing, b"1")
        assert not reading.writable
        assert entry(reading, receipt.id).size == 1


def test_finished_days_are_sealed(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"1")
        clock.turn(DAY)
        captured(archive, b"2")
        archive.keep_house()
        files = sorted(file.name for file in (root / "journal").rglob("*.jsonl*"))
        assert files == ["13.jsonl.zst", "14.jsonl"]
        captured(archive, b"3")
    with Archive(root, clock=clock) as archive:
        assert len(every_entry(archive)) == 3


# -- what is said about an entry ---------------------------------------------------------------------------


def test_entry_json_says_everything_in_the_words_of_queries(archive: Archive) -> None:
    receipt = captured(archive, b"1", b"a\xff.csv", "ict")
    converted(archive, receipt.id)
    facts = describe.entry(archive, entry(archive, receipt.id))
    assert {
        "id": receipt.id, "converter": "ict", "status": "success", "date": "2026-02-13",
        "name": "a\ufffd.csv", "name_hex": "61ff2e637376", "size": 1, "sha256": receipt.sha256,
        "captured_at": "2026-02-13T12:00:00.000Z", "mode": "0644",
        "segment": "content/2026/02/13/ict.sources.zst", "offset": 0,
    }.items() <= facts.items()  # fmt: skip
    (attempt,) = facts["attempts"]
    assert (attempt["outcome"], attempt["version"]) == ("success", "1.0")
    assert [report["name"] for report in attempt["reports"]] == ["report.json"]
    text = describe.as_file(facts)
    assert json.loads(text) == facts
    assert text.endswith(b"}\n")


def test_extended_attributes_are_text_of_the_summary(archive: Archive) -> None:
    receipt = captured(archive, b"1", b"a.csv", "ict")
    found = describe.xattrs(archive, entry(archive, receipt.id))
    assert found[b"user.archivefs.id"] == receipt.id.encode()
    assert found[b"user.archivefs.status"] == b"pending"
    assert found[b"user.archivefs.converter"] == b"ict"
    assert found[b"user.archivefs.sha256"] == receipt.sha256.encode()
    assert found[b"user.archivefs.captured_at"] == b"2026-02-13T12:00:00.000Z"


@pytest.mark.parametrize(
    ("when_ms", "text"), [(0, ""), (1, "1970-01-01T00:00:00.001Z"), (NOON_MS + 7, "2026-02-13T12:00:00.007Z")]
)
def test_times_are_told_in_utc_with_milliseconds(when_ms: int, text: str) -> None:
    assert describe.time_text(when_ms) == text


# -- waiting -----------------------------------------------------------------------------------------------


def test_what_is_due_is_told_in_the_order_of_time(archive: Archive, clock: Clock) -> None:
    late = captured(archive, b"1", converter="ict")
    clock.turn(1)
    soon = captured(archive, b"2", converter="log")
    captured(archive, b"3", converter="files")
    reader = archive.reader
    assert due(archive, clock.ms + 5000) == [soon.id, late.id]
    assert due(archive, clock.ms) == [soon.id]
    assert [row.id for row in reader.due(1, clock.ms + 5000)] == [late.id]
    assert reader.next_due_ms(1, clock.ms) == NOON_MS + 2000
    assert reader.next_due_ms(1, NOON_MS + 2000) is None
    assert reader.next_due_ms(2, clock.ms) is None
