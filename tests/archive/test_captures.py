"""Captures: what is kept of a source, under which names, and what becomes of its earlier versions."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from archive_parts import (
    DAY,
    HOUR,
    NOON_MS,
    TOML,
    Clock,
    capture,
    captured,
    catalog_rows,
    commit,
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

from archivefs import describe
from archivefs.archive import Archive
from archivefs.errors import (
    ArchiveError,
    UnknownEntryError,
)
from archivefs.operations import Adopt, BeginAttempt, Drop, Touch
from archivefs.parts import Actor
from archivefs.rebuilding import rebuild
from archivefs.states import Outcome, Status
from archivefs.store.frames import encode_file

MIB = 1 << 20


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
