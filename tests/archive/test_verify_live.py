"""Verification beside a process that writes: whatever that does, nothing is reported that is not so."""

import threading
from contextlib import AbstractContextManager
from pathlib import Path

from archive_parts import DAY, Clock, again_and_again, capture, captured, commit, converted, make, some_bytes
from test_verify_parts import flip

from archivefs.archive import Archive
from archivefs.store.journal import Journal
from archivefs.verify.findings import Finding, Severity
from archivefs.verify.verify import Scope
from archivefs.verify.verify import verify as run_verify


def a_busy_writer(
    archive: Archive, clock: Clock, *, seals: bool = True
) -> AbstractContextManager[threading.Event]:
    """Captures, converts, begins segments and days, seals those; the event is set at the end."""

    def turn(number: int) -> None:
        commit(
            archive,
            capture(some_bytes(number, 500), b"%d.bin" % number, f"fresh-{number}"),
            capture(b"%d" % number, b"always.bin"),
        )
        converted(archive, captured(archive, b"unit %d" % number, b"u.csv", "ict").id)
        if number % 10 == 0:
            clock.turn(DAY)
        if seals and number % 25 == 0:
            archive.keep_house()

    return again_and_again(turn)


def test_nothing_is_found_in_an_archive_that_grows(root: Path, clock: Clock) -> None:
    found: list[Finding] = []
    events: list[int] = []
    with make(root, clock) as archive, a_busy_writer(archive, clock) as ended:
        for _ in range(25):
            assert not ended.is_set()
            with Archive.open_for_reading(root, clock=clock) as reader:
                report = run_verify(reader, Scope())
            found += report.findings
            events.append(report.events)
    assert {(finding.check, finding.what) for finding in found} == set()
    assert events == sorted(events)
    assert events[-1] > events[0]


def test_damage_is_found_in_an_archive_that_grows(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, some_bytes(1, 900), b"old.bin", "old")
        segment = root / "content/2026/02/13/old.sources.zst"
        flip(segment, segment.stat().st_size // 2)
        with a_busy_writer(archive, clock), Archive.open_for_reading(root, clock=clock) as reader:
            report = run_verify(reader, Scope())
    damaged = [finding for finding in report.findings if finding.check == "record-damaged"]
    assert [finding.severity for finding in damaged] == [Severity.CRITICAL]
    assert damaged[0].where.startswith("content/2026/02/13/old.sources.zst")


def test_a_segment_that_is_begun_during_verification_is_not_unknown(root: Path, clock: Clock) -> None:
    """Between asking the catalog for the segments and looking into the folder, many may be begun."""
    with make(root, clock) as archive:
        captured(archive, b"x")
        with (
            Archive.open_for_reading(root, clock=clock) as reader,
            a_busy_writer(archive, clock, seals=False),
        ):
            found = [
                finding
                for _ in range(40)
                for finding in run_verify(reader, Scope(sample=0.001)).findings
                if finding.check == "segment-unknown"
            ]
    assert found == []


def test_a_day_that_is_sealed_while_the_journal_is_read_is_read_all_the_same(
    root: Path, clock: Clock
) -> None:
    with make(root, clock) as archive:
        for number in range(4):
            captured(archive, b"%d" % number)
            clock.turn(DAY)
        events = Journal(root / "journal").read()
        first = next(events)
        archive.keep_house()
        assert [event.seq for event in (first, *events)] == [1, 2, 3, 4, 5]


def test_a_day_that_is_sealed_before_the_newest_event_is_asked_for_is_found(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        for number in range(4):
            captured(archive, b"%d" % number)
            clock.turn(DAY)
        journal = Journal(root / "journal")
        archive.keep_house()
        assert [event.seq for event in journal.read(3)] == [4, 5]


def test_lines_that_are_written_during_verification_are_left_for_the_next(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"before")
        with Archive.open_for_reading(root, clock=clock) as reader:
            seen = run_verify(reader, Scope())
            captured(archive, b"meanwhile")
            again = run_verify(reader, Scope())
    assert (seen.records, again.records) == (1, 2)
    assert seen.findings + again.findings == []
