"""What is made of an archive whose writer was stopped at any moment: nothing is lost, nothing is invented."""

import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from archive_parts import (
    DAY,
    NOON_MS,
    Clock,
    capture,
    captured,
    catalog_rows,
    commit,
    converted,
    entry,
    every_entry,
    everything_is_readable,
    finish,
    journal_lines,
    make,
    nothing_is_left_over,
    some_bytes,
    source,
)

from archivefs import names
from archivefs.archive import Archive
from archivefs.errors import ContentDamagedError
from archivefs.operations import BeginAttempt, Receipt, Report
from archivefs.rebuilding import CATALOG, rebuild
from archivefs.states import Outcome, Status
from archivefs.store.segment import scan
from archivefs.store.store import Store
from archivefs.transaction import Transaction

SOURCES = "2026/02/13/ict.sources.zst"
REPORTS = "2026/02/13/ict.reports.zst"


def forget_last_lines(root: Path, count: int) -> list[bytes]:
    """Take the last lines off the journal, and everything that remembers them; returns the lines."""
    file = max((root / "journal").glob("*/*/*.jsonl"))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-count]))
    (root / "journal" / "checkpoint.json").unlink(missing_ok=True)
    for path in root.glob(f"{CATALOG}*"):
        path.unlink()
    return lines[-count:]


def events(root: Path, kind: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in journal_lines(root)]
    return [event for event in found if event["kind"] == kind]


def quarantined(root: Path) -> dict[str, bytes]:
    folder = root / "quarantine"
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}


# -- torn ends of segments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"\0", b"torn", b"\x5a\x2a\x4d\x18\x10\0\0\0{", b"\0" * 5000])
def test_bytes_behind_the_last_record_are_kept_aside_and_cut(root: Path, clock: Clock, tail: bytes) -> None:
    with make(root, clock) as archive:
        receipt = captured(archive, b"1", converter="ict")
    file = root / "content" / SOURCES
    end = file.stat().st_size
    with file.open("ab") as out:
        out.write(tail)
    with Archive(root, clock=clock) as archive:
        assert source(archive, receipt.id) == b"1"
        nothing_is_left_over(archive)
    (cut,) = events(root, "tail_cut")
    assert (cut["file"], cut["offset"], cut["bytes"]) == (f"content/{SOURCES}", end, len(tail))
    assert quarantined(root) == {cut["kept_as"]: tail}
    before = journal_lines(root)
    Archive(root, clock=clock).close()
    assert journal_lines(root) == before


def test_a_record_torn_at_any_byte_is_cut_and_its_bytes_are_kept(tmp_path: Path, clock: Clock) -> None:
    template, root = tmp_path / "template", tmp_path / "archive"
    with make(template, clock) as archive:
        first = captured(archive, b"first", converter="ict")
        start = (template / "content" / SOURCES).stat().st_size
        captured(archive, b"second", converter="ict")
    forget_last_lines(template, 1)
    Archive(template, clock=clock).close()
    whole = (template / "content" / SOURCES).read_bytes()
    forget_last_lines(template, 1)
    for end in range(start + 1, len(whole), 7):
        shutil.copytree(template, root)
        os.truncate(root / "content" / SOURCES, end)
        with Archive(root, clock=clock) as archive:
            assert [row.id for row in every_entry(archive)] == [first.id]
            nothing_is_left_over(archive)
            captured(archive, b"later", converter="ict")
            everything_is_readable(archive)
        assert list(quarantined(root).values()) == [whole[start:end]]
        shutil.rmtree(root)


def test_a_new_segment_that_the_journal_never_heard_of_is_emptied(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    file = root / "content" / "2026" / "02" / "13" / "ict.sources.zst"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"garbage")
    with Archive(root, clock=clock) as archive:
        assert every_entry(archive) == []
        assert file.stat().st_size == 0
        everything_is_readable(archive)
        captured(archive, b"1", converter="ict")
        nothing_is_left_over(archive)
    assert list(quarantined(root).values()) == [b"garbage"]


def test_two_tails_of_one_segment_are_kept_apart(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    file = root / "content" / SOURCES
    file.parent.mkdir(parents=True)
    for tail in (b"one", b"two"):
        with file.open("ab") as out:
            out.write(tail)
        Archive(root, clock=clock).close()
    assert sorted(quarantined(root).values()) == [b"one", b"two"]


# -- whole records without an event ------------------------------------------------------------------------


def facts(archive: Archive) -> list[tuple[object, ...]]:
    """What a recovered entry must have in common with the captured one."""
    return [
        (row.id, archive.reader.converter_name(row.converter_id), row.name, row.folder, row.sha256, row.size,
         row.mtime_ns, row.mode, row.uid, row.gid, row.xattrs, row.captured_ms, row.day, row.status,
         row.due_ms)
        for row in every_entry(archive)
    ]  # fmt: skip


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_whole_records_without_an_event_become_entries_again(root: Path, clock: Clock, lost: int) -> None:
    with make(root, clock) as archive:
        captured(archive, b"first", converter="ict")
        for number, name in enumerate((b"a\xff.csv", b"x.xml", b"two\nlines.csv")):
            clock.turn(1)
            commit(
                archive,
                capture(
                    some_bytes(number, 100),
                    name,
                    "ict",
                    folder=b"sub/\xfe",
                    uid=5,
                    gid=6,
                    mode=0o640,
                    xattrs={"user.a": "AP8="},
                ),
            )
        before = facts(archive)
    forget_last_lines(root, lost)
    clock.turn(DAY)
    with Archive(root, clock=clock) as archive:
        assert facts(archive) == before
        everything_is_readable(archive)
        nothing_is_left_over(archive)
        assert captured(archive, b"later").id > before[-1][0]  # type: ignore[operator]
    assert quarantined(root) == {}
    rows = catalog_rows(root)
    rebuild(root, clock=clock)
    assert catalog_rows(root) == rows


def test_a_large_record_without_an_event_becomes_an_entry_again(root: Path, clock: Clock) -> None:
    content = some_bytes(1, 3 << 20)
    with make(root, clock) as archive:
        receipt = captured(archive, content, converter="ict")
    forget_last_lines(root, 1)
    with Archive(root, clock=clock) as archive:
        assert source(archive, receipt.id) == content


def test_whole_records_before_a_torn_one_become_entries(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        kept = [captured(archive, content, converter="ict") for content in (b"1", b"2")]
        captured(archive, b"3", converter="ict")
    file = root / "content" / SOURCES
    forget_last_lines(root, 2)
    os.truncate(file, file.stat().st_size - 5)
    with Archive(root, clock=clock) as archive:
        assert [row.id for row in every_entry(archive)] == [receipt.id for receipt in kept]
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    assert len(quarantined(root)) == 1


def test_a_whole_record_whose_content_is_damaged_is_kept_aside(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"first", converter="ict")
        receipt = captured(archive, some_bytes(1, 1000), converter="ict")
        row = entry(archive, receipt.id)
    forget_last_lines(root, 1)
    file = root / "content" / SOURCES
    with file.open("r+b") as out:
        out.seek(row.offset + row.header + 500)
        out.write(b"\0" * 50)
    with Archive(root, clock=clock) as archive:
        assert len(every_entry(archive)) == 1
        nothing_is_left_over(archive)
    assert [len(data) for data in quarantined(root).values()] == [row.length]


def test_reports_without_an_event_are_kept_aside_and_the_attempt_is_interrupted(
    root: Path, clock: Clock
) -> None:
    with make(root, clock) as archive:
        receipt = captured(archive, b"1", converter="ict")
        converted(archive, receipt.id)
        size = (root / "content" / REPORTS).stat().st_size
    forget_last_lines(root, 1)
    with Archive(root, clock=clock) as archive:
        row = entry(archive, receipt.id)
        assert (row.status, row.attempts) == (Status.PENDING, 1)
        assert archive.reader.contents(row.n) == []
        nothing_is_left_over(archive)
        converted(archive, receipt.id)
        everything_is_readable(archive)
    assert [len(data) for data in quarantined(root).values()] == [size]


def test_what_must_not_be_converted_stays_so_when_its_event_is_lost(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        (receipt,) = commit(archive, capture(b"half", converter="ict", quarantine="the machine stopped"))
    forget_last_lines(root, 1)
    with Archive(root, clock=clock) as archive:
        assert entry(archive, receipt.id).status is Status.QUARANTINED


def test_a_recovered_name_is_exactly_the_captured_one(root: Path, clock: Clock) -> None:
    everything = [bytes([byte]) * 3 for byte in range(1, 256) if byte != ord("/")]
    with make(root, clock) as archive:
        commit(archive, *[capture(b"x", name, "ict") for name in everything])
    forget_last_lines(root, len(everything))
    with Archive(root, clock=clock) as archive:
        assert sorted(row.name for row in every_entry(archive)) == sorted(everything)
    file = root / "content" / SOURCES
    headers = [record.header for record in scan(file, SOURCES)]
    assert sorted(names.original(each.name, each.name_hex) for each in headers) == sorted(everything)


# -- contents that the journal knows and the disk has not --------------------------------------------------


def test_sources_that_the_disk_lost_are_quarantined_and_the_others_stay(
    root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    """As a disk leaves it that lied about a sync, or a person who cut a file."""
    with make(root, clock) as archive:
        receipts = [captured(archive, some_bytes(n, 500), converter="ict") for n in range(3)]
        converted(archive, receipts[0].id)
        rows = [entry(archive, receipt.id) for receipt in receipts]
    os.truncate(root / "content" / SOURCES, rows[1].offset + 100)
    for end in (rows[1].offset + 100, rows[1].offset):
        expected_errors.append(f"the segment content/{SOURCES} ends at {end}, the journal says")
    for _ in range(2):
        with Archive(root, clock=clock) as archive:
            found = [entry(archive, receipt.id).status for receipt in receipts]
            assert found == [Status.SUCCESS, Status.QUARANTINED, Status.QUARANTINED]
            assert source(archive, receipts[0].id) == some_bytes(0, 500)
            assert list(archive.alarms) == [SOURCES]
            later = captured(archive, b"later", converter="ict")
            assert source(archive, later.id) == b"later"
            assert archive.reader.location(entry(archive, later.id)).segment != SOURCES
    assert [event["id"] for event in events(root, "voided")] == [receipt.id for receipt in receipts[1:]]
    rows_before = catalog_rows(root)
    rebuild(root, clock=clock)
    assert catalog_rows(root) == rows_before


def test_a_report_that_the_disk_lost_is_noted_and_its_entry_stays(
    root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    with make(root, clock) as archive:
        receipt = captured(archive, b"1", converter="ict")
        converted(archive, receipt.id)
    expected_errors.append(f"the segment content/{REPORTS} ends at")
    file = root / "content" / REPORTS
    os.truncate(file, file.stat().st_size - 1)
    with Archive(root, clock=clock) as archive:
        row = entry(archive, receipt.id)
        assert row.status is Status.SUCCESS
        assert [piece.location is None for piece in archive.reader.contents(row.n)] == [False, True]


def test_a_missing_segment_is_told_and_nothing_is_given_up(
    root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    with make(root, clock) as archive:
        receipt = captured(archive, b"1", converter="ict")
    expected_errors.append(f"the segment content/{SOURCES} is missing")
    (root / "content" / SOURCES).rename(root / "elsewhere")
    with Archive(root, clock=clock) as archive:
        assert entry(archive, receipt.id).status is Status.PENDING
        later = captured(archive, b"later", converter="ict")
        with pytest.raises(ContentDamagedError, match="is missing"):
            source(archive, receipt.id)
    (root / "elsewhere").rename(root / "content" / SOURCES)
    with Archive(root, clock=clock) as archive:
        assert [source(archive, each.id) for each in (receipt, later)] == [b"1", b"later"]
        assert archive.alarms == {}


# -- torn ends of the journal ------------------------------------------------------------------------------


def test_a_torn_line_is_kept_aside_and_its_record_becomes_an_entry(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        receipts = [captured(archive, content, converter="ict") for content in (b"1", b"2")]
    (line,) = forget_last_lines(root, 1)
    file = max((root / "journal").glob("*/*/*.jsonl"))
    end = file.stat().st_size
    with file.open("ab") as out:
        out.write(line[:50])
    with Archive(root, clock=clock) as archive:
        assert [row.id for row in every_entry(archive)] == [receipt.id for receipt in receipts]
        everything_is_readable(archive)
    (cut,) = events(root, "tail_cut")
    assert (cut["file"], cut["offset"], cut["bytes"]) == ("journal/2026/02/13.jsonl", end, 50)
    assert list(quarantined(root).values()) == [line[:50]]
    rebuild(root, clock=clock)


def test_a_journal_that_ends_anywhere_opens_with_every_source(tmp_path: Path, clock: Clock) -> None:
    template, root = tmp_path / "template", tmp_path / "archive"
    with make(template, clock) as archive:
        first = captured(archive, b"first", converter="ict")
        second = captured(archive, b"second", converter="ict")
        converted(archive, second.id)
    lines = forget_last_lines(template, 3)
    journal = "journal/2026/02/13.jsonl"
    with (template / journal).open("ab") as out:
        start = out.tell()
        out.write(b"".join(lines))
    for end in range(start, (template / journal).stat().st_size, 23):
        shutil.copytree(template, root)
        os.truncate(root / journal, end)
        with Archive(root, clock=clock) as archive:
            assert [row.id for row in every_entry(archive)] == [first.id, second.id]
            assert archive.reader.with_status(Status.CONVERTING) == []
            everything_is_readable(archive)
            nothing_is_left_over(archive)
        rows = catalog_rows(root)
        rebuild(root, clock=clock)
        assert catalog_rows(root) == rows
        shutil.rmtree(root)


# -- attempts that were running ----------------------------------------------------------------------------


def test_running_attempts_become_interrupted_and_their_entries_wait_again(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        receipts = [captured(archive, b"%d" % n, converter="ict") for n in range(3)]
        commit(archive, *[BeginAttempt(receipt.id, "capture") for receipt in receipts])
        commit(archive, finish(receipts[0].id))
        commit(archive, finish(receipts[1].id, outcome=Outcome.SUSPENDED, due_ms=NOON_MS + 1))
        commit(archive, BeginAttempt(receipts[1].id, "retry"))
    clock.turn(60)
    with Archive(root, clock=clock) as archive:
        rows = [entry(archive, receipt.id) for receipt in receipts]
        assert [row.status for row in rows] == [Status.SUCCESS, Status.PENDING, Status.PENDING]
        assert [row.attempts for row in rows] == [1, 2, 1]
        assert [row.due_ms for row in rows] == [0, clock.ms, clock.ms]
        outcomes = [[each.outcome for each in archive.reader.attempts(row.n)] for row in rows]
        assert outcomes == [["success"], ["suspended", "interrupted"], ["interrupted"]]
        assert archive.reader.attempts(rows[2].n)[0].error == "archivefs stopped while this conversion ran"
        assert commit(archive, BeginAttempt(receipts[2].id, "capture")) == [2]


def test_a_conversion_that_runs_at_every_stop_waits_longer_each_time(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        id_ = captured(archive, b"1", converter="ict").id
    waits = []
    for _ in range(13):
        with Archive(root, clock=clock) as archive:
            commit(archive, BeginAttempt(id_, "retry"))
        with Archive(root, clock=clock) as archive:
            waits.append((entry(archive, id_).due_ms - clock.ms) // 1000)
            assert entry(archive, id_).status is Status.PENDING
        clock.turn(waits[-1])
    assert waits == [0, 0, 0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    with Archive(root, clock=clock) as archive:
        commit(archive, BeginAttempt(id_, "retry"))
        commit(archive, finish(id_, 14, outcome=Outcome.SUSPENDED, due_ms=clock.ms))
        commit(archive, BeginAttempt(id_, "retry"))
    with Archive(root, clock=clock) as archive:
        assert entry(archive, id_).due_ms == clock.ms, "it came to an end in between"


def test_recovering_is_logged_once(root: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with make(root, clock) as archive:
        commit(archive, BeginAttempt(captured(archive, b"1", converter="ict").id, "capture"))
    with caplog.at_level(logging.WARNING):
        Archive(root, clock=clock).close()
        Archive(root, clock=clock).close()
    assert [record.getMessage() for record in caplog.records] == ["recovered after an unclean stop: 1 events"]


def test_a_reader_that_comes_first_brings_things_in_order(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        receipt = captured(archive, b"1", converter="ict")
    forget_last_lines(root, 1)
    with Archive.open_for_reading(root, clock=clock) as archive:
        assert source(archive, receipt.id) == b"1"


def test_a_reader_beside_the_writer_brings_nothing_in_order(archive: Archive, root: Path) -> None:
    receipt = captured(archive, b"1", converter="ict")
    commit(archive, BeginAttempt(receipt.id, "capture"))
    lines = journal_lines(root)
    with Archive.open_for_reading(root) as reading:
        assert entry(reading, receipt.id).status is Status.CONVERTING
    assert journal_lines(root) == lines


# -- what a stopped operation leaves -----------------------------------------------------------------------


def test_records_of_a_group_that_never_reached_the_journal(root: Path, clock: Clock) -> None:
    """As a process leaves it that dies between writing records and writing events."""
    with make(root, clock) as archive:
        store = Store(root, clock)
        txn = Transaction(store, archive.reader, archive.config, archive._ids, archive.now_ms())
        receipts: list[Receipt] = []
        for content in (b"1", b"2"):
            operation = capture(content, converter="ict")
            operation.prepare(archive.packing)
            receipts.append(operation.run(txn))
        store.close()
    with Archive(root, clock=clock) as archive:
        assert [row.id for row in every_entry(archive)] == [receipt.id for receipt in receipts]
        everything_is_readable(archive)


# -- nothing else -----------------------------------------------------------------------------------------


def test_restoring_order_changes_nothing_else(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        for number in range(5):
            converted(archive, captured(archive, b"%d" % number, converter="ict").id)
        receipt = captured(archive, b"last", converter="ict")
        commit(archive, BeginAttempt(receipt.id, "capture"))
        before = {row.id: row for row in every_entry(archive)}
    lines = journal_lines(root)
    with (root / "content" / REPORTS).open("ab") as out:
        out.write(b"torn")
    with Archive(root, clock=clock) as archive:
        after = {row.id: row for row in every_entry(archive)}
        assert {id_ for id_ in before if before[id_] != after[id_]} == {receipt.id}
        assert before.keys() == after.keys()
    assert journal_lines(root)[: len(lines)] == lines
    assert [json.loads(line)["kind"] for line in journal_lines(root)[len(lines) :]] == [
        "tail_cut",
        "attempt_finished",
    ]


def test_a_report_in_quarantine_is_the_very_bytes(root: Path, clock: Clock, tmp_path: Path) -> None:
    with make(root, clock) as archive:
        receipt = captured(archive, b"1", converter="ict")
        commit(archive, BeginAttempt(receipt.id, "capture"))
        commit(archive, finish(receipt.id, reports=[Report("report.json", b'{"precious":true}')]))
    forget_last_lines(root, 1)
    Archive(root, clock=clock).close()
    (kept,) = (root / "quarantine").iterdir()
    shutil.copy(kept, tmp_path / "kept.zst")
    done = subprocess.run(["zstd", "-dcq", tmp_path / "kept.zst"], capture_output=True, check=True)
    assert done.stdout == b'{"precious":true}'
