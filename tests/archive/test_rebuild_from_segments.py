"""Journal and catalog made again from the segments alone: what comes back, what is listed as lost."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree

import pytest
from archive_parts import (
    Clock,
    capture,
    captured,
    commit,
    converted,
    due,
    entry,
    every_entry,
    everything_is_readable,
    finish,
    make,
    nothing_is_left_over,
    some_bytes,
    source,
)
from test_verify_parts import (
    DAYS,
    Ran,
    archivefs,
    content_of,
    day_file,
    edit_lines,
    events_of,
    files_below,
    flip,
    overwrite,
    place_of,
    sample,
    verify,
)

from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.events import Created, Rebuilt
from archivefs.operations import BeginAttempt, Report
from archivefs.rebuilding import CATALOG
from archivefs.states import Outcome, Status
from archivefs.verify.from_segments import LOST

Damage = Callable[[Path], None]
LASTING = (
    "id", "converter_id", "day", "name", "folder", "flat_name", "hex", "sha256", "size", "captured_ms",
    "xattrs", "offset", "header", "stored", "length",
)  # fmt: skip
"""What the rebuilt catalog must say of each source as before."""
ATTRIBUTES = ("mtime_ns", "mode", "uid", "gid")
"""The same as at the capture; what was set later is lost."""


def rebuild(root: Path, *options: str) -> Ran:
    return archivefs("rebuild", "--from-segments", "--archive", root, *options)


def known(root: Path) -> dict[str, Entry]:
    """All entries by id."""
    with Archive(root) as archive:
        return {row.id: row for row in every_entry(archive)}


def contents(root: Path) -> dict[tuple[str, int, str], bytes]:
    """All sources (attempt 0), logs and reports with their bytes."""
    found = {}
    with Archive(root) as archive:
        for row in every_entry(archive):
            found[row.id, 0, "source"] = source(archive, row.id)
            for piece in archive.reader.contents(row.n):
                if piece.location is not None:
                    data = archive.content.read(piece.location, piece.size)
                    found[row.id, piece.attempt, piece.name] = data
    return found


def broken_line(root: Path) -> None:
    edit_lines(root, 1, lambda lines: lines.pop(4))


def unreadable_end(root: Path) -> None:
    edit_lines(root, 2, lambda lines: lines.append(b"\xff\xff\n"))


def no_days(root: Path) -> None:
    for day in range(3):
        day_file(root, day).unlink()


def no_journal(root: Path) -> None:
    rmtree(root / "journal")


def no_catalog(root: Path) -> None:
    (root / CATALOG).unlink()


def damaged_catalog(root: Path) -> None:
    overwrite(root / CATALOG, 0, b"x" * 5000)


def both(*damages: Damage) -> Damage:
    def damage(root: Path) -> None:
        for each in damages:
            each(root)

    return damage


BREAKS: Mapping[str, Damage] = {
    "nothing is damaged": lambda root: None,
    "a line is missing": broken_line,
    "the end is unreadable": unreadable_end,
    "all days are gone": no_days,
    "the journal's folder is gone": no_journal,
    "the catalog is gone": no_catalog,
    "journal damaged, catalog gone": both(broken_line, no_catalog),
    "journal damaged, catalog damaged": both(unreadable_end, damaged_catalog),
    "all days and the catalog are gone": both(no_days, no_catalog),
    "the journal's folder and the catalog are gone": both(no_journal, no_catalog),
}
named = pytest.mark.parametrize("damage", BREAKS.values(), ids=BREAKS.keys())


def test_dictionaries_come_back_for_what_needs_them_and_not_for_captures(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    with Archive(root) as archive:
        (before,) = archive.reader.dictionaries()
        assert archive.packing.dictionary("ict", "reports") is not None
    assert rebuild(root).code == 0
    with Archive(root) as archive:
        (row,) = archive.reader.dictionaries()
        assert (row.name, row.sha256, row.day) == (before.name, before.sha256, DAYS[-1])
        assert archive.packing.dictionary("ict", "reports") is None
        everything_is_readable(archive)


@named
def test_sources_reports_and_what_headers_say_come_back(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before, rows, segments = contents(root), known(root), content_of(root)
    damage(root)
    ran = rebuild(root)
    assert ran.code == 0, ran
    assert contents(root) == before
    assert content_of(root) == segments
    again = known(root)
    assert again.keys() == rows.keys()
    touched = {row.id for row in rows.values() if row.mode == 0o640}
    assert touched
    for id_, row in rows.items():
        for key in LASTING + (() if id_ in touched else ATTRIBUTES):
            assert getattr(again[id_], key) == getattr(row, key), (key, row)


@named
def test_verify_finds_nothing_afterwards(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    damage(root)
    assert rebuild(root).code == 0
    ran = verify(root)
    assert (ran.code, ran.checks) == (0, {"quarantine"})
    with Archive(root) as archive:
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    assert verify(root).code == 0


@named
def test_the_old_journal_and_catalog_are_kept_byte_for_byte(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    damage(root)
    journal = files_below(root / "journal") if (root / "journal").exists() else {}
    catalog = (root / CATALOG).read_bytes() if (root / CATALOG).exists() else None
    facts = json.loads(rebuild(root, "--json").out)
    backup = root / "quarantine" / facts["backup"]
    kept = files_below(backup)
    assert {name.removeprefix("journal/"): data for name, data in kept.items() if "/" in name} == journal
    assert kept.get(CATALOG) == catalog
    assert isinstance(events_of(root)[0], Created)
    rebuilt = next(event for event in events_of(root) if isinstance(event, Rebuilt))
    assert rebuilt.backup == facts["backup"]


def test_what_cannot_come_back_is_listed(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    count = len(known(root))
    copy = sample(tmp_path / "copy")
    lines = rebuild(root).out.splitlines()
    assert lines[0].startswith(f"{count} entries came back from ")
    assert lines[1 : 1 + len(LOST)] == [f"  - {line}" for line in LOST]
    assert lines[-1].startswith(f"the former journal and catalog are in {root / 'quarantine' / 'journal-'}")
    facts = json.loads(rebuild(copy, "--json").out)
    assert (facts["entries"], facts["strays"], facts["lost"]) == (count, [], list(LOST))


def test_statuses_follow_from_what_is_left(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        success = captured(archive, b"success", b"a.csv", "ict").id
        converted(archive, success)
        waiting = captured(archive, b"waiting", b"b.csv", "ict").id
        failed = captured(archive, b"failed", b"c.csv", "ict").id
        commit(archive, BeginAttempt(failed, "capture"))
        log = Report("log.txt", b"why")
        commit(archive, finish(failed, outcome=Outcome.FAILED, log=log, error="why"))
        kept = captured(archive, b"archive only", b"d.bin").id
        retired = captured(archive, b"of a converter that is gone", b"e.bin", "gone").id
    rebuild(root)
    with Archive(root, clock=clock) as archive:
        assert [entry(archive, id_).status for id_ in (success, waiting, failed, kept, retired)] == [
            Status.SUCCESS, Status.QUARANTINED, Status.QUARANTINED, Status.ARCHIVED, Status.QUARANTINED
        ]  # fmt: skip
        assert due(archive, 10**15) == [], "nothing is converted again by itself"
        assert entry(archive, waiting).reason
        (stored,) = archive.reader.contents(entry(archive, failed).n)
        assert stored.name == "log.txt"


def test_all_attempts_and_reports_keep_their_numbers_and_order(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        id_ = captured(archive, b"x", b"a.csv", "ict").id
        for number in (1, 2, 3):
            commit(archive, BeginAttempt(id_, "retry"))
            reports = [Report("report.json", b"%d" % number), Report("report-2.json", b"second")]
            status = Status.SUCCESS if number == 3 else Status.SUSPENDED
            outcome = Outcome(status)
            commit(
                archive, finish(id_, number, outcome, status=status, reports=reports if number != 2 else [])
            )
        before = [
            (piece.attempt, piece.ordinal, piece.name, piece.sha256)
            for piece in archive.reader.contents(entry(archive, id_).n)
        ]
    rebuild(root)
    with Archive(root, clock=clock) as archive:
        row = entry(archive, id_)
        assert [
            (piece.attempt, piece.ordinal, piece.name, piece.sha256)
            for piece in archive.reader.contents(row.n)
        ] == before
        assert (row.status, row.attempts) == (Status.SUCCESS, 3)


NAMES = (
    b"plain.csv", b"\xff\xfe.bin", b"two\nlines", b"tab\tand\x01control", "grüße.txt".encode(), b"a" * 255,
    b"\xe4" * 255, b"-rf", b"~1", b" ", b'"quoted"', b"back\\slash",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_folders_and_attributes_come_back_byte_for_byte(name: bytes, root: Path, clock: Clock) -> None:
    xattrs = {"user.station": "QTc=", "user.binary": "/wA=", "user.empty": ""}
    with make(root, clock) as archive:
        (receipt,) = commit(
            archive,
            capture(b"x", name, mtime_ns=-1_234_567_890_123_456_789, mode=0o4751, uid=12345, gid=54321,
                    folder=b"line \xff/" + name[:100], xattrs=xattrs),
        )  # fmt: skip
        before = entry(archive, receipt.id)
    rebuild(root)
    with Archive(root, clock=clock) as archive:
        after = entry(archive, receipt.id)
    assert after._replace(n=0, changed_seq=0) == before._replace(n=0, changed_seq=0)


def test_days_are_those_of_the_archives_time_zone(root: Path, clock: Clock) -> None:
    toml = 'schema_version = 1\nreserve = 0\ntimezone = "Asia/Tokyo"\n[converters.files]\n'
    with make(root, clock, toml) as archive:
        early = captured(archive, b"21:00 in Tokyo").id
        clock.turn(4 * 3600)
        late = captured(archive, b"01:00 in Tokyo").id
        days = [entry(archive, id_).day_text for id_ in (early, late)]
    assert days == ["2026-02-13", "2026-02-14"]
    rebuild(root)
    with Archive(root, clock=clock) as archive:
        assert [entry(archive, id_).day_text for id_ in (early, late)] == days


def test_archiving_goes_on_after_a_rebuild(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        old = captured(archive, b"old").id
    rebuild(root)
    with Archive(root, clock=clock) as archive:
        new = captured(archive, b"new").id
        assert new > old
        assert {source(archive, id_) for id_ in (old, new)} == {b"old", b"new"}
    assert verify(root).checks == {"quarantine"}


def test_it_can_be_done_again_also_after_it_was_interrupted(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        id_ = captured(archive, b"x").id
    assert rebuild(root).code == 0
    (root / "journal").rename(root / "set aside by a rebuild that was killed")
    (root / CATALOG).unlink()
    assert rebuild(root).code == 0
    with Archive(root, clock=clock) as archive:
        assert source(archive, id_) == b"x"


def test_twice_within_a_second_keeps_both_former_states(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"x")
    backups = {json.loads(rebuild(root, "--json").out)["backup"] for _ in range(3)}
    assert len(backups) == 3


def test_it_is_refused_and_changes_nothing_while_the_archive_is_in_use(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"x")
        before = files_below(root / "journal")
        assert rebuild(root).code == 13
        assert files_below(root / "journal") == before
        assert not (root / "quarantine").exists()


def test_an_archive_without_any_record_can_be_rebuilt(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    rmtree(root / "content")
    assert rebuild(root).code == 0
    assert verify(root).code == 0


# -- damaged segments --------------------------------------------------------------------------------------


def in_header(root: Path, name: bytes) -> tuple[Path, int]:
    place = place_of(root, name)
    return place.file, place.offset + 30


def in_magic(root: Path, name: bytes) -> tuple[Path, int]:
    place = place_of(root, name)
    return place.file, place.offset


def in_length(root: Path, name: bytes) -> tuple[Path, int]:
    place = place_of(root, name)
    return place.file, place.offset + 5


def in_table(root: Path, name: bytes) -> tuple[Path, int]:
    place = place_of(root, name)
    return place.file, place.table + 20


@pytest.mark.parametrize("where", [in_header, in_magic, in_length, in_table])
def test_a_damaged_header_is_reported_and_all_other_records_come_back(
    where: Callable[[Path, bytes], tuple[Path, int]], tmp_path: Path
) -> None:
    root = sample(tmp_path / "archive")
    before = contents(root)
    place = place_of(root, b"f0.bin")
    file, offset = where(root, b"f0.bin")
    flip(file, offset)
    no_journal(root)
    (root / "journal").mkdir()
    no_catalog(root)
    segments = content_of(root)
    ran = rebuild(root)
    assert ran.code == 0, ran
    assert f"content/2026/02/13/files.sources.zst at {place.offset}" in ran.out, "the damage is reported"
    (lost,) = [row for row in before if row not in contents(root)]
    assert before[lost] == some_bytes(100, 2000)
    assert content_of(root) == segments, "what could not be read stays where it was"


def test_a_damaged_content_comes_back_as_an_entry_that_verify_names(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    place = place_of(root, b"f0.bin")
    flip(place.file, place.frames + 50)
    no_days(root)
    assert rebuild(root).code == 0
    ran = verify(root)
    assert ran.checks == {"record-damaged", "quarantine"}
    (finding,) = [finding for finding in ran.findings if finding["check"] == "record-damaged"]
    assert finding["where"] == f"content/2026/02/13/files.sources.zst at {place.offset}"


def test_reports_whose_source_is_gone_are_named_as_strays(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    (root / "content/2026/02/14/ict.sources.zst").unlink()
    no_days(root)
    facts = json.loads(rebuild(root, "--json").out)
    assert facts["strays"]
    assert all(stray.startswith("content/2026/02/14/ict.reports.zst at ") for stray in facts["strays"])
    ran = rebuild(sample_without_sources(tmp_path / "other"))
    for stray in facts["strays"]:
        assert f"  - {stray} belongs to no source that was found" in ran.out


def sample_without_sources(root: Path) -> Path:
    sample(root)
    (root / "content/2026/02/14/ict.sources.zst").unlink()
    return root


def test_a_torn_end_is_kept_aside_when_the_archive_is_opened(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before = contents(root)
    with (root / "content/2026/02/13/files.sources.zst").open("ab") as out:
        out.write(b"half a record")
    no_days(root)
    assert rebuild(root).code == 0
    assert contents(root) == before
    assert b"half a record" in files_below(root / "quarantine").values()
