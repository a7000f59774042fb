"""A segment that ends before the journal says: what is lost is named, and everything else goes on."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from archive_parts import (
    Clock,
    capture,
    captured,
    catalog_rows,
    commit,
    converted,
    due,
    entry,
    everything_is_readable,
    make,
    some_bytes,
    source,
)
from test_verify_parts import archivefs, events_of, verify

from archivefs import describe, rebuilding, statistics
from archivefs.archive import Archive
from archivefs.catalog.catalog import VOID_REASON
from archivefs.errors import ContentDamagedError
from archivefs.events import Voided
from archivefs.operations import Adopt, BeginAttempt, Drop
from archivefs.states import Status
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope
from archivefs.verify.verify import verify as run_verify

SEGMENT = "content/2026/02/13/files.sources.zst"
ENDS = f"the segment {SEGMENT} ends at"


@pytest.fixture
def ids(root: Path, clock: Clock, expected_errors: list[str]) -> list[str]:
    """A closed archive with five sources in one segment."""
    expected_errors.append(ENDS)
    with make(root, clock) as archive:
        return [captured(archive, some_bytes(number, 1000), b"%d.bin" % number).id for number in range(5)]


def cut(root: Path, clock: Clock, id_: str, extra: int = 0) -> None:
    """Cut the segment off where this entry's record begins, or ``extra`` bytes behind."""
    with Archive(root, clock=clock) as archive:
        end = entry(archive, id_).offset + extra
    os.truncate(root / SEGMENT, end)


def voided(root: Path) -> list[Voided]:
    return [event for event in events_of(root) if isinstance(event, Voided)]


def status_of(archive: Archive, ids: Iterable[str]) -> list[Status]:
    return [entry(archive, id_).status for id_ in ids]


@pytest.mark.parametrize(("first_lost", "extra"), [(0, 0), (2, 0), (2, 5), (3, 700), (4, 0)])
def test_what_is_lost_is_quarantined_and_the_rest_is_readable(
    first_lost: int, extra: int, root: Path, clock: Clock, ids: list[str]
) -> None:
    cut(root, clock, ids[first_lost], extra)
    left = (root / SEGMENT).read_bytes()
    with Archive(root, clock=clock) as archive:
        assert status_of(archive, ids[:first_lost]) == [Status.ARCHIVED] * first_lost
        assert status_of(archive, ids[first_lost:]) == [Status.QUARANTINED] * (5 - first_lost)
        for number, id_ in enumerate(ids[:first_lost]):
            assert source(archive, id_) == some_bytes(number, 1000)
        for id_ in ids[first_lost:]:
            assert entry(archive, id_).reason == VOID_REASON
            with pytest.raises(ContentDamagedError):
                source(archive, id_)
    assert [event.id for event in voided(root)] == ids[first_lost:]
    assert {event.reason for event in voided(root)} == {f"{SEGMENT} ends at {len(left)}"}
    kept = [file.read_bytes() for file in (root / "quarantine").glob("*")]
    assert b"".join([(root / SEGMENT).read_bytes(), *kept]) == left, "no byte of what is left is lost"


def test_it_is_an_alarm_at_every_opening_and_journaled_once(root: Path, clock: Clock, ids: list[str]) -> None:
    cut(root, clock, ids[3])
    for _ in range(3):
        with Archive(root, clock=clock) as archive:
            health = statistics.health(archive)
            assert health["ok"] is False
            assert any(what.startswith(ENDS) for what in health["alarms"].values())
    assert [event.id for event in voided(root)] == ids[3:]


def test_captures_go_on_in_a_new_part(root: Path, clock: Clock, ids: list[str]) -> None:
    cut(root, clock, ids[3])
    left = (root / SEGMENT).read_bytes()
    for number in range(2):
        with Archive(root, clock=clock) as archive:
            new = captured(archive, b"new %d" % number).id
            assert source(archive, new) == b"new %d" % number
            assert archive.reader.location(entry(archive, new)).segment.endswith("files.sources.2.zst")
    assert (root / SEGMENT).read_bytes() == left


def test_a_rebuilt_catalog_says_the_same(root: Path, clock: Clock, ids: list[str]) -> None:
    cut(root, clock, ids[2], 100)
    with Archive(root, clock=clock) as archive:
        captured(archive, b"new")
    kept = catalog_rows(root)
    rebuilding.rebuild(root, clock=clock)
    assert catalog_rows(root) == kept


def test_a_lost_source_is_not_restored(root: Path, clock: Clock, ids: list[str], tmp_path: Path) -> None:
    cut(root, clock, ids[3])
    target = tmp_path / "restored"
    target.mkdir()
    ran = archivefs("restore", "--archive", root, ids[4], target)
    assert ran.code == 16
    assert list(target.iterdir()) == []


def test_lost_reports_leave_the_entry_as_it_is(root: Path, clock: Clock, expected_errors: list[str]) -> None:
    expected_errors.append("the segment content/2026/02/13/ict.reports.zst ends at")
    with make(root, clock) as archive:
        whole = captured(archive, b"first", converter="ict").id
        converted(archive, whole)
        lost = captured(archive, b"second", converter="ict").id
        converted(archive, lost)
    reports = root / "content/2026/02/13/ict.reports.zst"
    os.truncate(reports, reports.stat().st_size - 1)
    with Archive(root, clock=clock) as archive:
        everything_is_readable(archive)
        row = entry(archive, lost)
        assert row.status is Status.SUCCESS
        (attempt,) = describe.entry(archive, row)["attempts"]
        assert [report["archived"] for report in attempt["reports"]] == [False]
        (attempt,) = describe.entry(archive, entry(archive, whole))["attempts"]
        assert [report["archived"] for report in attempt["reports"]] == [True]
    assert [(event.id, event.attempt, event.ordinal) for event in voided(root)] == [(lost, 1, 1)]


def test_an_entry_that_was_being_converted_is_quarantined_too(
    root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    expected_errors.append("the segment content/2026/02/13/ict.sources.zst ends at 0")
    with make(root, clock) as archive:
        lost = captured(archive, b"being converted", b"unit.csv", "ict").id
        commit(archive, BeginAttempt(lost, "capture"))
    os.truncate(root / "content/2026/02/13/ict.sources.zst", 0)
    with Archive(root, clock=clock) as archive:
        assert entry(archive, lost).status is Status.QUARANTINED
        assert due(archive, clock.ms + 10**9) == []


def test_a_lost_entry_that_was_dropped_stays_dropped(root: Path, clock: Clock, ids: list[str]) -> None:
    cut(root, clock, ids[4])
    with Archive(root, clock=clock) as archive:
        commit(archive, Drop(ids[4]))
    for _ in range(2):
        with Archive(root, clock=clock) as archive:
            assert entry(archive, ids[4]).status is Status.REJECTED
    assert len(voided(root)) == 1


def test_verify_says_no_more_of_a_lost_entry_that_was_dropped(
    root: Path, clock: Clock, ids: list[str]
) -> None:
    cut(root, clock, ids[4])
    with Archive(root, clock=clock) as archive:
        assert run_verify(archive, Scope()).worst is Severity.CRITICAL
        commit(archive, Drop(ids[4]))
        assert run_verify(archive, Scope()).worst is Severity.NOTICE
        assert entry(archive, ids[4]).reason == VOID_REASON


def test_a_dropped_entry_that_is_lost_later_is_told_of(root: Path, clock: Clock, ids: list[str]) -> None:
    with Archive(root, clock=clock) as archive:
        half = commit(archive, capture(b"half", quarantine="it was being written"))[0].id
        commit(archive, Drop(half))
    cut(root, clock, half)
    with Archive(root, clock=clock) as archive:
        assert entry(archive, half).status is Status.QUARANTINED
        assert {each.check for each in run_verify(archive, Scope()).findings} == {"content-lost"}


def test_bytes_from_a_backup_make_the_entries_whole_again(root: Path, clock: Clock, ids: list[str]) -> None:
    whole = (root / SEGMENT).read_bytes()
    cut(root, clock, ids[3], 50)
    Archive(root, clock=clock).close()
    (root / SEGMENT).write_bytes(whole)
    with Archive(root, clock=clock) as archive:
        assert archive.alarms == {}
        for id_ in ids[3:]:
            commit(archive, Adopt(id_))
        assert status_of(archive, ids) == [Status.ARCHIVED] * 5
        everything_is_readable(archive)
        report = run_verify(archive, Scope())
    assert (report.records, report.worst) == (5, Severity.NOTICE)


def test_verify_goes_on_saying_that_sources_are_lost(root: Path, clock: Clock, ids: list[str]) -> None:
    cut(root, clock, ids[3])
    Archive(root, clock=clock).close()
    for options in ((), ("--repair",), ()):
        ran = verify(root, *options)
        told = " ".join(finding["where"] + finding["what"] for finding in ran.findings)
        assert ids[3] in told or SEGMENT in told, ran
