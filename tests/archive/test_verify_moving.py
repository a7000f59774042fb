"""Verification while records leave and move: nothing is reported that is not so, and all that is."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from archive_parts import (
    DAY,
    Clock,
    again_and_again,
    capture,
    captured,
    commit,
    converted,
    make,
    measured,
    some_bytes,
)
from retention_parts import all_is_well, purge
from test_repacking import repacked
from test_verify_parts import flip

from archivefs.archive import Archive
from archivefs.catalog.rows import Record
from archivefs.verify import contents
from archivefs.verify.contents import Chunk, SegmentResult
from archivefs.verify.findings import Finding, Severity
from archivefs.verify.readers import Readers
from archivefs.verify.verify import Scope, verify, verify_folder

DAY_ONE, SEGMENT = "2026/02/13", "2026/02/13/files.sources.zst"
COUNT = 12
CONVERTED = 3
RECORDS = COUNT + 3 * CONVERTED + 1
"""A conversion leaves a log and a report."""


@pytest.fixture
def closed(root: Path, clock: Clock) -> Path:
    """A finished day of two converters, one with reports; and a new day."""
    with make(root, clock) as made:
        commit(made, *(capture(some_bytes(n, 40_000), b"%d.bin" % n) for n in range(COUNT)))
        for n in range(CONVERTED):
            converted(made, captured(made, measured(n), b"%d.csv" % n, "ict").id, measured(-n))
        clock.turn(DAY)
        captured(made, b"new", b"new.bin")
    return root


@pytest.fixture
def archive(closed: Path, clock: Clock) -> Iterator[Archive]:
    """The same, open."""
    with Archive(closed, clock=clock) as opened:
        yield opened


def listed(archive: Archive) -> list[Chunk]:
    """All records, as a verification lists them before it reads them."""
    return [
        chunk
        for name in sorted(archive.reader.segment_ends())
        for chunk in contents.chunks(name, archive.reader.records(name), 0)
    ]


def read(archive: Archive, chunks: list[Chunk]) -> list[SegmentResult]:
    with Readers(archive, background=True) as readers:
        return list(readers.chunks(chunks))


def found(results: list[SegmentResult]) -> list[Finding]:
    return [finding for result in results for finding in result.findings]


def test_what_is_purged_between_being_listed_and_being_read_is_no_damage(archive: Archive) -> None:
    before = listed(archive)
    assert purge(archive, "name=*1.bin,3.bin,1.csv")["purged"] == 4
    assert found(read(archive, before)) == []


def test_a_segment_that_a_purge_removed_is_not_missed(archive: Archive) -> None:
    before = listed(archive)
    purge(archive, "converter=files", "name=*.bin")
    assert not (archive.root / "content" / SEGMENT).exists()
    assert found(read(archive, before)) == []


def test_what_a_repack_moved_is_read_where_it_is_now(archive: Archive) -> None:
    before = listed(archive)
    repacked(archive)
    results = read(archive, before)
    assert found(results) == []
    assert sum(result.records for result in results) == RECORDS


def test_damage_is_found_where_a_repack_put_the_record(archive: Archive) -> None:
    before = listed(archive)
    repacked(archive)
    (damaged,) = (row for row in archive.reader.records("2026/02/13/files.sources.2.zst") if not row.offset)
    flip(archive.root / "content/2026/02/13/files.sources.2.zst", 20_000)
    (finding,) = found(read(archive, before))
    assert (finding.severity, finding.check) == (Severity.CRITICAL, "record-damaged")
    assert finding.where == "content/2026/02/13/files.sources.2.zst at 0"
    assert finding.what.startswith(damaged.id)


def test_what_is_moved_and_then_purged_is_no_damage(archive: Archive) -> None:
    before = listed(archive)
    repacked(archive)
    purge(archive, "name=*.bin,*.csv")
    assert found(read(archive, before)) == []


def test_damage_is_found_beside_what_is_purged(archive: Archive) -> None:
    before = listed(archive)
    stays = next(row for row in archive.reader.records(SEGMENT) if row.id == by_name(archive, b"2.bin").id)
    flip(archive.root / "content" / SEGMENT, stays.offset + stays.length // 2)
    purge(archive, "name=1.bin,3.bin,4.bin")
    (finding,) = found(read(archive, before))
    assert (finding.check, finding.where) == ("record-damaged", f"content/{SEGMENT} at {stays.offset}")


def by_name(archive: Archive, name: bytes) -> Record:
    """The record of a source."""
    (row,) = (row for row in archive.reader.all_after(0, 100) if row.name == name)
    return next(each for each in archive.reader.records(archive.reader.location(row).segment)
                if (each.id, each.attempt) == (row.id, 0))  # fmt: skip


def test_a_segment_that_vanished_after_the_folder_was_looked_through_is_missed(archive: Archive) -> None:
    before = listed(archive)
    (archive.root / "content" / SEGMENT).unlink()
    results = read(archive, before)
    assert [(each.check, each.where) for each in found(results)] == [
        ("segment-missing", f"content/{SEGMENT}")
    ]
    assert sum(result.records for result in results) == RECORDS - COUNT
    report = verify(archive, Scope())
    assert [each.check for each in report.findings] == ["segment-missing"], "told once"


def test_what_was_moved_before_its_segment_had_its_turn_is_read(archive: Archive, clock: Clock) -> None:
    """The segments are listed at the start, their records one segment after the other."""
    for number in range(20):
        captured(archive, b"%d" % number, converter=f"a{number:02}")
    clock.turn(DAY)
    moved, stop = list[str](), threading.Event()

    def progress(done: int, total: int) -> None:
        if not stop.is_set():
            stop.set()
            repacked(archive)
            moved.append(SEGMENT)

    ends = len(archive.reader.segment_ends())
    with Archive.open_for_reading(archive.root, clock=clock) as reader:
        report = verify(reader, Scope(background=True), progress)
    assert (moved, report.findings) == ([SEGMENT], [])
    assert len(archive.reader.segment_ends()) == ends
    assert report.records >= RECORDS + 20


def purges_and_repacks(archive: Archive, clock: Clock) -> AbstractContextManager[threading.Event]:
    """Days come, are thinned out and repacked, and go; the event is set once that has failed."""

    def turn(number: int) -> None:
        commit(archive, *(capture(some_bytes(n, 3000), b"%d.bin" % n) for n in range(60)))
        converted(archive, captured(archive, measured(number), b"%d.csv" % number, "ict").id)
        clock.turn(DAY)
        purge(archive, "name=*1.bin,*3.bin,*7.bin")
        repacked(archive)
        purge(archive, "name=*2.bin")
        if number % 3 == 0:
            purge(archive, "name=*.bin")

    return again_and_again(turn)


@pytest.mark.parametrize("background", [False, True])
def test_nothing_is_found_beside_purges_and_repacks(root: Path, clock: Clock, *, background: bool) -> None:
    reported = list[Finding]()
    with make(root, clock) as archive, purges_and_repacks(archive, clock) as ended:
        for _ in range(25):
            assert not ended.is_set()
            reported += verify_folder(root, Scope(background=background)).findings
    assert {(each.check, each.what) for each in reported} == set()
    all_is_well(root)


def test_a_daemon_that_begins_during_a_verification_leaves_no_findings(closed: Path, clock: Clock) -> None:
    """What is being written then is no orphan, no unknown segment, and no tail."""
    with Archive(closed, clock=clock) as archive:
        for number in range(20):
            captured(archive, b"%d" % number, converter=f"a{number:02}")
    daemons = list[Archive]()

    def progress(done: int, total: int) -> None:
        if not daemons:
            daemons.append(Archive(closed, clock=clock))
            for number in range(20):
                captured(daemons[0], b"again", converter=f"a{number:02}")

    (closed / "journal/of-a-writer.tmp").write_bytes(b"on its way")
    try:
        report = verify_folder(closed, Scope(background=True), progress)
    finally:
        daemons[0].close()
    assert report.findings == []
    assert [each.check for each in verify_folder(closed, Scope()).findings] == ["orphan-file"]


def test_a_file_that_is_gone_when_everything_is_read_was_no_orphan(closed: Path) -> None:
    orphan = closed / "journal/of-a-writer.tmp"
    orphan.write_bytes(b"")
    assert [each.check for each in verify_folder(closed, Scope()).findings] == ["orphan-file"]
    report = verify_folder(closed, Scope(), lambda done, total: orphan.unlink(missing_ok=True))
    assert report.findings == []
