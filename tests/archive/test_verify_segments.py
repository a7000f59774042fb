"""Damaged content: found record by record, local to the entries in it, never touched by a repair."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from archive_parts import Clock, capture, captured, commit, every_entry, make, source
from test_verify_parts import (
    DAYS,
    archivefs,
    content_of,
    flip,
    overwrite,
    place_of,
    sample,
    verify,
)

from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.errors import ContentDamagedError
from archivefs.verify.verify import Scope
from archivefs.verify.verify import verify as run_verify

SMALL, LARGE, EMPTY = b"f1.bin", b"w\xff\nave.bin", b"empty.bin"
"""Sources of one frame, of three, and of none; each stands between others in its segment."""


class Break(NamedTuple):
    """Damages the record of one source of the first day; ``check`` finds it."""

    name: bytes
    damage: Callable[[Path], None]
    check: str = "record-damaged"
    severity: str = "critical"


def flipped(name: bytes, where: Callable[[int, int, int, int], int]) -> Break:
    """One bit at ``where(start of record, of content, of table, end)``."""

    def damage(root: Path) -> None:
        place = place_of(root, name)
        flip(place.file, where(place.offset, place.frames, place.table, place.offset + place.length))

    return Break(name, damage)


def zeroed(root: Path) -> None:
    place = place_of(root, SMALL)
    overwrite(place.file, place.offset, b"\0" * place.length)


def _another_content(root: Path) -> None:
    """Whole, valid frames, but those of another source: only the SHA-256 tells."""
    place, other = place_of(root, SMALL), place_of(root, b"f2.bin")
    assert place.stored == other.stored
    overwrite(place.file, place.frames, other.read()[other.header : other.header + other.stored])


def _another_record(root: Path) -> None:
    """A whole record of another entry lies where this one should."""
    place, other = place_of(root, SMALL), place_of(root, b"f2.bin")
    assert place.length == other.length
    overwrite(place.file, place.offset, other.read())


BREAKS: Mapping[str, Break] = {
    "the magic number of the header": flipped(SMALL, lambda start, content, table, end: start),
    "the length of the header": flipped(SMALL, lambda start, content, table, end: start + 5),
    "the JSON of the header": flipped(SMALL, lambda start, content, table, end: start + 20),
    "the end of the header": flipped(SMALL, lambda start, content, table, end: content - 3),
    "the magic number of the frame": flipped(SMALL, lambda start, content, table, end: content),
    "the middle of the frame": flipped(SMALL, lambda start, content, table, end: (content + table) // 2),
    "the checksum of the frame": flipped(SMALL, lambda start, content, table, end: table - 1),
    "the magic number of the table": flipped(SMALL, lambda start, content, table, end: table),
    "the length of the table": flipped(SMALL, lambda start, content, table, end: table + 4),
    "the JSON of the table": flipped(SMALL, lambda start, content, table, end: table + 20),
    "the last byte": flipped(SMALL, lambda start, content, table, end: end - 1),
    "the first frame of three": flipped(LARGE, lambda start, content, table, end: content + 9),
    "the last frame of three": flipped(LARGE, lambda start, content, table, end: table - 1),
    "the table of three frames": flipped(LARGE, lambda start, content, table, end: end - 5),
    "the header of a source without bytes": flipped(EMPTY, lambda start, content, table, end: start + 30),
    "all of a record is zeros": Break(SMALL, zeroed),
    "the content is another's": Break(SMALL, _another_content),
    "the record is another's": Break(SMALL, _another_record, "record-differs", "error"),
}
named = pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS.keys())


def all_but(archive: Archive, name: bytes) -> list[Entry]:
    """Every entry but the one of that name of the first day."""
    return [row for row in every_entry(archive) if (row.name, row.day_text) != (name, DAYS[0])]


@named
def test_a_damaged_record_is_found_and_is_the_only_one(broken: Break, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    broken.damage(root)
    ran = verify(root)
    (finding,) = ran.findings
    assert (finding["check"], finding["severity"]) == (broken.check, broken.severity)
    assert ran.code == {"error": 51, "critical": 52}[broken.severity]
    with Archive(root) as archive:
        (row,) = [row for row in every_entry(archive) if row not in all_but(archive, broken.name)]
        assert row.id in finding["what"]
        assert finding["where"] == f"content/{DAYS[0].replace('-', '/')}/files.sources.zst at {row.offset}"
        for other in all_but(archive, broken.name):
            source(archive, other.id)


@named
def test_repair_neither_hides_nor_touches_damaged_content(broken: Break, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    broken.damage(root)
    damaged = content_of(root)
    found = verify(root)
    ran = verify(root, "--repair")
    assert (ran.code, ran.findings, ran.err) == (found.code, found.findings, "")
    assert content_of(root) == damaged
    assert not (root / "quarantine").exists()


def test_damaged_content_is_refused_and_not_restored(tmp_path: Path, expected_errors: list[str]) -> None:
    expected_errors.append("the record")
    root, target = sample(tmp_path / "archive"), tmp_path / "restored"
    target.mkdir()
    BREAKS["the middle of the frame"].damage(root)
    with Archive(root) as archive:
        (row,) = [row for row in every_entry(archive) if row not in all_but(archive, SMALL)]
        with pytest.raises(ContentDamagedError):
            source(archive, row.id)
    ran = archivefs("restore", "--archive", root, row.id, target)
    assert ran.code == 16
    assert list(target.iterdir()) == []


def test_reports_and_logs_are_read_too(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    segment = root / "content/2026/02/13/ict.reports.zst"
    data = segment.read_bytes()
    flip(segment, data.index(b"log of") + 2 if b"log of" in data else len(data) // 2)
    ran = verify(root)
    assert ran.code == 52
    assert {finding["where"].partition(" at ")[0] for finding in ran.findings} == {
        "content/2026/02/13/ict.reports.zst"
    }


def test_several_damaged_records_are_all_found_worst_first(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    for day in range(3):
        place = place_of(root, b"u1.csv", day)
        flip(place.file, place.frames + 20)
    first, second = place_of(root, SMALL), place_of(root, b"f2.bin")
    left, right = first.read(), second.read()
    overwrite(first.file, first.offset, right)
    overwrite(second.file, second.offset, left)
    severities = [finding["severity"] for finding in verify(root).findings]
    assert severities == ["critical"] * 3 + ["error"] * 2


def test_records_of_further_parts_are_read_whatever_converters_are_called(
    root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    expected_errors.append("the segment content/2026/02/13/x.sources.zst is missing")
    toml = 'schema_version = 1\nreserve = 0\n[converters.x]\n[converters."x.sources"]\n'
    with make(root, clock, toml) as archive:
        captured(archive, b"first part", converter="x")
        captured(archive, b"of the other", converter="x.sources")
    segment = root / "content/2026/02/13/x.sources.zst"
    aside = segment.rename(root / "aside")
    with Archive(root, clock=clock) as archive:
        captured(archive, b"second part", converter="x")
    aside.rename(segment)
    with Archive(root, clock=clock) as archive:
        assert run_verify(archive, Scope()).records == 3


# -- whole segments ----------------------------------------------------------------------------------------


def test_a_missing_segment_is_critical_and_costs_only_its_own_entries(
    tmp_path: Path, expected_errors: list[str]
) -> None:
    expected_errors.append("the segment content/2026/02/14/files.sources.zst is missing")
    root = sample(tmp_path / "archive")
    segment = root / "content/2026/02/14/files.sources.zst"
    aside = segment.rename(tmp_path / "aside")
    for options in ((), ("--repair",), ()):
        ran = verify(root, *options)
        assert (ran.code, ran.checks) == (52, {"segment-missing"})
        assert ran.findings[0]["where"] == "content/2026/02/14/files.sources.zst"
    with Archive(root) as archive:
        assert "2026/02/14/files.sources.zst" in archive.alarms
        rows = every_entry(archive)
        lost = [row for row in rows if archive.reader.location(row).segment.endswith("14/files.sources.zst")]
        assert lost
        for row in rows:
            if row not in lost:
                source(archive, row.id)
    aside.rename(segment)
    assert verify(root).findings == []


def test_captures_go_on_in_a_new_part_while_a_segment_is_missing(
    root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    expected_errors.append("the segment content/2026/02/13/files.sources.zst is missing")
    with make(root, clock) as archive:
        old = captured(archive, b"before").id
    segment = root / "content/2026/02/13/files.sources.zst"
    aside = segment.rename(root / "aside")
    with Archive(root, clock=clock) as archive:
        new = captured(archive, b"meanwhile").id
        assert source(archive, new) == b"meanwhile"
        assert not segment.exists(), "the disk that comes back must find its name free"
    aside.rename(segment)
    with Archive(root, clock=clock) as archive:
        assert source(archive, old) == b"before"
        assert source(archive, new) == b"meanwhile"
        assert run_verify(archive, Scope()).findings == []


def test_whole_records_of_an_unknown_segment_become_entries(tmp_path: Path, root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"of here")
    other, elsewhere = Clock(clock.ms + 5000), tmp_path / "elsewhere"
    with make(elsewhere, other) as archive:
        commit(archive, capture(b"of elsewhere", b"other.bin"), capture(b"second", b"two.bin"))
    stray = root / "content/2026/02/13/files.sources.2.zst"
    shutil.copy(elsewhere / "content/2026/02/13/files.sources.zst", stray)
    data = stray.read_bytes()
    for options in ((), ("--repair",)):
        ran = verify(root, *options)
        assert (ran.code, ran.checks) == (50, {"segment-unknown"})
        assert ran.findings[0]["where"] == "content/2026/02/13/files.sources.2.zst"
    with Archive(root, clock=clock) as archive:
        contents = {source(archive, row.id) for row in every_entry(archive)}
    assert contents == {b"of here", b"of elsewhere", b"second"}
    assert stray.read_bytes() == data
    assert verify(root).findings == []


@pytest.mark.parametrize("name", ["2026/02/13/files.sources.2.zst", "2026/02/20/new.sources.zst"])
def test_what_is_no_record_in_an_unknown_file_is_kept_byte_for_byte(name: str, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before = content_of(root)
    stray = root / "content" / name
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"what is this?" * 99)
    assert verify(root).checks == {"segment-unknown"}
    assert stray.read_bytes() == b"what is this?" * 99, "looking changes nothing"
    Archive(root).close()
    ran = verify(root)
    assert (ran.code, ran.checks) == (0, {"quarantine"})
    (kept,) = (root / "quarantine").iterdir()
    assert kept.read_bytes() == b"what is this?" * 99
    assert {segment: data for segment, data in content_of(root).items() if segment != name} == before


# -- bytes behind the end ----------------------------------------------------------------------------------


def with_a_tail(root: Path, clock: Clock) -> bytes:
    """An archive whose segment has more bytes than the journal knows; those it knows."""
    with make(root, clock) as archive:
        captured(archive, b"whole")
    segment = root / "content/2026/02/13/files.sources.zst"
    before = segment.read_bytes()
    with segment.open("ab") as out:
        out.write(b"half a record")
    return before


def test_bytes_behind_the_last_record_are_a_warning_until_the_next_opening_keeps_them(
    root: Path, clock: Clock
) -> None:
    before = with_a_tail(root, clock)
    for options in ((), ("--repair",)):
        ran = verify(root, *options)
        assert (ran.code, ran.checks) == (50, {"segment-tail"})
        assert ran.findings[0]["what"].startswith("13 bytes behind")
    Archive(root, clock=clock).close()
    assert (verify(root).code, verify(root).checks) == (0, {"quarantine"})
    assert (root / "content/2026/02/13/files.sources.zst").read_bytes() == before
    (kept,) = (root / "quarantine").iterdir()
    assert kept.read_bytes() == b"half a record"


def test_a_tail_is_not_looked_for_in_a_part_of_the_records(root: Path, clock: Clock) -> None:
    with_a_tail(root, clock)
    assert verify(root, "--since", "2026-02-14").findings == []
    assert verify(root, "--sample", "50%").findings == []
