"""The archive itself: captures, attempts and attributes, ids and names, one writer and many readers."""

import errno
import hashlib
import json
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from archive_parts import (
    DAY,
    HOUR,
    NOON_MS,
    TOML,
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
from archivefs.archive import DEFAULT_TOML, Archive, rebuild
from archivefs.errors import (
    ArchiveError,
    ArchiveExistsError,
    ConfigError,
    LockedError,
    NotAnArchiveError,
    ReadOnlyError,
    UnknownEntryError,
)
from archivefs.events import Actor, Outcome, Status
from archivefs.operations import Adopt, BeginAttempt, Drop, Report, Touch
from archivefs.packing import Packing
from archivefs.store.frames import encode_file
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


# -- captures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5000, MIB, 3 * MIB + 1])
def test_a_source_is_read_as_it_was_captured(archive: Archive, size: int) -> None:
    content = some_bytes(size, size)
    receipt = captured(archive, content)
    assert receipt.sha256 == hashlib.sha256(content).hexdigest()
    assert source(archive, receipt.id) == content


def test_a_capture_keeps_every_attribute(archive: Archive) -> None:
    name, folder = "mål\n~$.csv".encode() + b"\xff", b"shift \xfe/b"
    (receipt,) = commit(
        archive,
        capture(b"x", name, "ict", mtime_ns=-5, mode=0o4750, uid=1000, gid=100, folder=folder,
                actor=Actor(uid=1000, program="cp")),
    )  # fmt: skip
    row = entry(archive, receipt.id)
    assert (row.name, row.folder, row.flat_name) == (name, folder, row.flat_name)
    assert (row.mtime_ns, row.mode, row.uid, row.gid) == (-5, 0o4750, 1000, 100)
    assert (row.captured_ms, row.day_text, row.size) == (NOON_MS, "2026-02-13", 1)
    assert json.loads(journal_lines(archive.root)[-1])["actor"] == {"uid": 1000, "program": "cp"}


@pytest.mark.parametrize(
    ("converter", "name", "status", "settle_ms"),
    [
        ("ict", b"a.csv", Status.PENDING, 2000),
        ("ict", b"A.CSV", Status.PENDING, 2000),
        ("ict", b"a.xml", Status.SKIPPED, None),
        ("log", b"a.xml", Status.PENDING, 0),
        ("files", b"a.csv", Status.ARCHIVED, None),
        ("forgotten", b"a.csv", Status.ARCHIVED, None),
    ],
)
def test_the_status_of_a_capture_follows_from_the_configuration(
    archive: Archive, converter: str, name: bytes, status: Status, settle_ms: int | None
) -> None:
    row = entry(archive, captured(archive, b"1", name, converter).id)
    assert row.status is status
    assert row.due_ms == (0 if settle_ms is None else NOON_MS + settle_ms)
    assert (row.reason != "") is (status is Status.SKIPPED)


def test_a_quarantined_capture_never_waits_for_conversion(archive: Archive) -> None:
    (receipt,) = commit(archive, capture(b"half", converter="ict", quarantine="the machine stopped"))
    row = entry(archive, receipt.id)
    assert (row.status, row.reason, row.due_ms) == (Status.QUARANTINED, "the machine stopped", 0)
    assert commit(archive, BeginAttempt(receipt.id, "capture")) == [None]


def test_an_adopted_entry_goes_on_as_if_it_had_just_been_captured(archive: Archive, clock: Clock) -> None:
    names = (b"a.csv", b"a.xml")
    receipts = commit(archive, *[capture(b"half", name, "ict", quarantine="stopped") for name in names])
    clock.turn(HOUR)
    assert commit(archive, *[Adopt(receipt.id) for receipt in receipts]) == [Status.PENDING, Status.SKIPPED]
    row = entry(archive, receipts[0].id)
    assert (row.status, row.reason, row.due_ms) == (Status.PENDING, "", clock.ms + 2000)
    assert commit(archive, BeginAttempt(row.id, "capture")) == [1]
    with pytest.raises(ArchiveError, match=f"{row.id} is not quarantined: its status is converting"):
        commit(archive, Adopt(row.id))


def test_a_dropped_entry_is_rejected_and_keeps_its_bytes(archive: Archive) -> None:
    (receipt,) = commit(archive, capture(b"half", converter="ict", quarantine="stopped"))
    outcomes, _ = archive.commit([Drop(receipt.id, Actor(uid=7)), Adopt(receipt.id)])
    assert outcomes[0] is None
    assert str(outcomes[1]) == f"{receipt.id} is not quarantined: its status is rejected"
    assert entry(archive, receipt.id).status is Status.REJECTED
    assert source(archive, receipt.id) == b"half"
    assert json.loads(journal_lines(archive.root)[-1])["actor"] == {"uid": 7}


def test_a_capture_keeps_its_extended_attributes(archive: Archive) -> None:
    (receipt,) = commit(archive, capture(b"1", xattrs={"user.station": "AP8="}))
    assert describe.entry(archive, entry(archive, receipt.id))["xattrs"] == {"user.station": "AP8="}


def test_the_same_name_twice_is_two_entries(archive: Archive, clock: Clock) -> None:
    first, second = captured(archive, b"one"), captured(archive, b"two")
    clock.turn(5)
    third = captured(archive, b"one")
    assert [source(archive, each.id) for each in (first, second, third)] == [b"one", b"two", b"one"]


def test_flat_names_get_a_number_before_the_suffix(archive: Archive, clock: Clock) -> None:
    for content in (b"1", b"2", b"3"):
        captured(archive, content)
    captured(archive, b"4", b"unit~2.csv")
    captured(archive, b"5", b"unit~4.csv")
    captured(archive, b"6")
    captured(archive, b"1", converter="ict")
    clock.turn(DAY)
    captured(archive, b"1")
    assert [row.flat_name for row in every_entry(archive)] == [
        b"unit.csv", b"unit~2.csv", b"unit~3.csv", b"unit~2~2.csv", b"unit~4.csv", b"unit~5.csv",
        b"unit.csv", b"unit.csv",
    ]  # fmt: skip
    for row in every_entry(archive):
        source = archive.reader.by_flat_name(row.converter_id, row.day, row.flat_name)
        assert source is not None
        assert (source.n, source.size, source.status) == (row.n, row.size, row.status)


def labels(archive: Archive) -> list[bytes]:
    found = []
    for row in every_entry(archive):
        label = row.label(archive.zone)
        assert archive.reader.by_label(label, row.day, archive.zone, row.converter_id) == row
        found.append(label)
    return found


def test_entries_of_equal_name_and_content_in_one_second_get_numbered_folders(
    archive: Archive, clock: Clock
) -> None:
    for seconds in (0, 0.2, 0.7, 0.1):
        clock.turn(seconds)
        captured(archive, b"one")
    assert labels(archive) == [
        b"120000_7692c3_unit.csv", b"120000_7692c3_unit~2.csv", b"120000_7692c3_unit~3.csv",
        b"120001_7692c3_unit.csv",
    ]  # fmt: skip


def test_long_names_that_differ_only_at_the_end_get_numbered_folders(archive: Archive) -> None:
    for ending in (b"a", b"b", b"c"):
        captured(archive, b"one", b"x" * 254 + ending)
    found = labels(archive)
    assert len(set(found)) == 3
    assert all(len(label) <= 255 for label in found)


def test_a_name_that_looks_numbered_gets_a_folder_of_its_own(archive: Archive) -> None:
    for name in (b"unit.csv", b"unit.csv", b"unit~2.csv"):
        captured(archive, b"one", name)
    assert len(set(labels(archive))) == 3


def test_the_hour_that_the_clocks_repeat_gives_folders_of_their_own(root: Path) -> None:
    first_half_past_two = int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()) * 1000
    clock = Clock(first_half_past_two)
    with make(root, clock, TOML.replace('"UTC"', '"Europe/Oslo"')) as archive:
        captured(archive, b"one")
        clock.turn(HOUR)
        captured(archive, b"two")
        captured(archive, b"one")
        assert len(set(labels(archive))) == 3


@pytest.mark.parametrize(
    "zone", ["Pacific/Kiritimati", "America/Los_Angeles", "Asia/Kathmandu", "Europe/Oslo"]
)
def test_the_day_of_an_entry_is_that_of_the_archives_zone(root: Path, zone: str) -> None:
    clock = Clock()
    with make(root, clock, TOML.replace('"UTC"', f'"{zone}"')) as archive:
        for hours in (0, 7, 6, 6, 24 * 44, 1, 1, 22):
            clock.turn(hours * HOUR)
            row = entry(archive, captured(archive, b"x").id)
            local = datetime.fromtimestamp(clock.ms / 1000, ZoneInfo(zone))
            assert row.day_text == local.date().isoformat()
            assert row.label(archive.zone).startswith(local.strftime("%H%M%S_").encode())
        labels(archive)


def test_large_sources_come_from_files(archive: Archive, tmp_path: Path) -> None:
    content = some_bytes(1, 9 * MIB)
    (tmp_path / "large").write_bytes(content)
    fd = os.open(tmp_path / "large", os.O_RDONLY)
    try:
        operation = capture(b"", converter="files")
        operation.content = encode_file(fd, 3, tmp_path)
        (receipt,) = commit(archive, operation)
    finally:
        os.close(fd)
    assert source(archive, receipt.id) == content


def test_a_later_version_supersedes_the_one_that_waits(archive: Archive) -> None:
    first = captured(archive, b"1", converter="ict")
    (second,) = commit(archive, capture(b"2", converter="ict", supersedes=[first.id]))
    row = entry(archive, first.id)
    assert (row.status, row.superseded_by, row.due_ms) == (Status.SUPERSEDED, second.id, 0)
    assert commit(archive, BeginAttempt(first.id, "capture")) == [None]
    assert source(archive, first.id) == b"1"


def test_a_later_version_in_the_same_group_supersedes_too(archive: Archive) -> None:
    first = captured(archive, b"1", converter="ict")
    second, attempt = commit(
        archive, capture(b"2", converter="ict", supersedes=[first.id]), BeginAttempt(first.id, "capture")
    )
    assert (entry(archive, first.id).superseded_by, attempt) in ((second.id, None), ("", 1))


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILED, Outcome.REJECTED])
def test_a_version_that_was_converted_is_not_superseded(archive: Archive, outcome: Outcome) -> None:
    first = captured(archive, b"1", converter="ict")
    commit(archive, BeginAttempt(first.id, "capture"), finish(first.id, outcome=outcome))
    (second,) = commit(archive, capture(b"2", converter="ict", supersedes=[first.id]))
    assert entry(archive, first.id).status == Status(outcome)
    assert entry(archive, first.id).superseded_by == ""
    assert entry(archive, second.id).status is Status.PENDING


def test_an_unknown_earlier_version_is_no_obstacle(archive: Archive) -> None:
    (receipt,) = commit(archive, capture(b"2", supersedes=["20200101T000000000-abcdef"]))
    assert source(archive, receipt.id) == b"2"


def test_attributes_that_came_later_are_kept(archive: Archive) -> None:
    receipt = captured(archive, b"1")
    commit(archive, Touch(receipt.id, mtime_ns=7, mode=0o600, uid=1, gid=2))
    row = entry(archive, receipt.id)
    assert (row.mtime_ns, row.mode, row.uid, row.gid, row.status) == (7, 0o600, 1, 2, Status.ARCHIVED)
    with pytest.raises(UnknownEntryError):
        commit(archive, Touch("20200101T000000000-abcdef", mtime_ns=7, mode=0, uid=1, gid=2))


EXTREMES = [-(2**63) - 1, -(2**63), 2**63 - 1, 2**63, 2**64 - 1, 2**64, 15 * 10**18]


@pytest.mark.parametrize("mtime_ns", EXTREMES)
def test_no_modification_time_can_break_the_archive(root: Path, clock: Clock, mtime_ns: int) -> None:
    """Any program can set a time in the year 2262 or later, where nanoseconds leave 63 bits."""
    with make(root, clock) as archive:
        fine = captured(archive, b"fine")
        outcomes, _ = archive.commit([capture(b"far away", mtime_ns=mtime_ns), capture(b"beside it")])
        assert not isinstance(outcomes[1], Exception)
        archive.commit([Touch(fine.id, mtime_ns=mtime_ns, mode=0o644, uid=0, gid=0)])
        later = captured(archive, b"later")
    with Archive(root, clock=clock) as again:
        everything_is_readable(again)
        assert {outcomes[1].id, fine.id, later.id} <= {row.id for row in every_entry(again)}
        nothing_is_left_over(again)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64])
def test_no_number_that_sqlite_cannot_hold_can_break_the_archive(
    root: Path, clock: Clock, number: int, expected_errors: list[str]
) -> None:
    """What is in the journal must be taken by the catalog: now, and at each rebuild."""
    expected_errors.append("a FinishAttempt failed")
    with make(root, clock) as archive:
        receipt = captured(archive, b"1", converter="ict")
        commit(archive, BeginAttempt(receipt.id, "capture"))
        operations = [finish(receipt.id, outcome=Outcome.SUSPENDED, due_ms=number), capture(b"beside it")]
        outcomes, _ = archive.commit(operations)
        assert not isinstance(outcomes[1], Exception)
        later = captured(archive, b"later")
    with Archive(root, clock=clock) as again:
        everything_is_readable(again)
        assert {receipt.id, outcomes[1].id, later.id} == {row.id for row in every_entry(again)}
        nothing_is_left_over(again)
    rows = catalog_rows(root)
    rebuild(root, clock=clock)
    assert catalog_rows(root) == rows


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
