"""Every way to damage the journal is found, named, never "repaired" by guessing, and harms no content."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree

import pytest
from archive_parts import Clock, captured, journal_lines, make
from test_verify_parts import (
    archivefs,
    content_of,
    day_file,
    edit_lines,
    events_of,
    everything_is_as_before,
    files_below,
    flip,
    read_lines,
    rows_but_meta,
    sample,
    verify,
)

from archivefs.archive import Archive
from archivefs.rebuilding import CATALOG
from archivefs.store.chain import line_hash
from archivefs.store.journal import CHECKPOINT
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope
from archivefs.verify.verify import verify as run_verify

Damage = Callable[[Path], None]
FIRST, MIDDLE, LAST = 0, 1, 2
"""The days of the sample; the first two are sealed."""


def altered(day: int, line: int) -> Damage:
    """Another fact in a line, which stays a readable event."""

    def change(lines: list[bytes]) -> None:
        before = lines[line]
        for old, new in ((b'"mtime_ns":1', b'"mtime_ns":2'), (b'"at":"2026', b'"at":"2025')):
            if old in before:
                lines[line] = before.replace(old, new)
                break
        assert lines[line] != before

    return lambda root: edit_lines(root, day, change)


def unreadable(day: int, line: int) -> Damage:
    def change(lines: list[bytes]) -> None:
        lines[line] = b"\xff" * (len(lines[line]) - 1) + b"\n"

    return lambda root: edit_lines(root, day, change)


def removed(day: int, line: int) -> Damage:
    return lambda root: edit_lines(root, day, lambda lines: lines.pop(line))


def swapped(day: int, line: int) -> Damage:
    return lambda root: edit_lines(root, day, lambda lines: lines.insert(line, lines.pop(line + 1)))


def repeated(day: int, line: int) -> Damage:
    return lambda root: edit_lines(root, day, lambda lines: lines.insert(line, lines[line]))


def without_day(day: int) -> Damage:
    return lambda root: day_file(root, day).unlink()


def without_lines(root: Path) -> None:
    for day in (FIRST, MIDDLE, LAST):
        day_file(root, day).unlink()


def without_journal(root: Path) -> None:
    rmtree(root / "journal")
    (root / "journal").mkdir(0o700)


def emptied(root: Path) -> None:
    day_file(root, LAST).write_bytes(b"")


def without_tail_and_checkpoint(root: Path) -> None:
    removed(LAST, -1)(root)
    (root / "journal" / CHECKPOINT).unlink()


def forged(root: Path) -> None:
    """A fact is changed and the chain behind it computed anew, as somebody would who knows how."""

    def change(lines: list[bytes]) -> None:
        altered_line = lines[2]
        lines[2] = altered_line.replace(b'"at":"2026', b'"at":"2025')
        assert lines[2] != altered_line
        for number in range(3, len(lines)):
            old = line_hash(altered_line[:-1])
            altered_line = lines[number]
            lines[number] = altered_line.replace(old.encode(), line_hash(lines[number - 1][:-1]).encode())

    edit_lines(root, LAST, change)


def not_decompressible(root: Path) -> None:
    file = day_file(root, MIDDLE)
    flip(file, file.stat().st_size // 2)


BEHIND_THE_END: dict[str, Damage] = {
    "the first line of all is altered": altered(FIRST, 0),
    "a line of a sealed day is altered": altered(MIDDLE, 4),
    "the last line of a sealed day is altered": altered(MIDDLE, -1),
    "a line of the open day is altered": altered(LAST, 3),
    "a line of a sealed day is unreadable": unreadable(MIDDLE, 4),
    "a line of the open day is unreadable": unreadable(LAST, 4),
    "the first line of all is removed": removed(FIRST, 0),
    "the first line of a day is removed": removed(MIDDLE, 0),
    "a middle line is removed": removed(MIDDLE, 5),
    "the last line of a sealed day is removed": removed(MIDDLE, -1),
    "a line of the open day is removed": removed(LAST, 5),
    "two lines are swapped": swapped(MIDDLE, 3),
    "the last two lines of a day are swapped": swapped(FIRST, -2),
    "a line stands there twice": repeated(FIRST, 3),
    "the first day is gone": without_day(FIRST),
    "a middle day is gone": without_day(MIDDLE),
    "a sealed day does not decompress": not_decompressible,
}
"""The journal still ends where it did, so the archive opens."""
AT_THE_END: dict[str, Damage] = {
    "the last line of all is altered": altered(LAST, -1),
    "the last line of all is unreadable": unreadable(LAST, -1),
    "the last line of all is removed": removed(LAST, -1),
    "the last day is gone": without_day(LAST),
    "the last day is empty": emptied,
    "all lines are gone": without_lines,
    "the chain was computed anew": forged,
}
"""The journal ends otherwise than it did, which opening refuses."""
ONLY_THE_CATALOG_KNOWS: dict[str, Damage] = {
    "all lines and the checkpoint are gone": without_journal,
    "the tail is cut and the checkpoint gone": without_tail_and_checkpoint,
}
REFUSED = AT_THE_END | ONLY_THE_CATALOG_KNOWS
EVERYTHING = BEHIND_THE_END | REFUSED


def named(breaks: Mapping[str, Damage]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("damage", breaks.values(), ids=breaks.keys())


@named(REFUSED)
def test_a_journal_that_ends_otherwise_is_never_overlooked(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before = content_of(root)
    damage(root)
    ran = verify(root)
    assert ran.code in (17, 52), ran
    assert "journal" in ran.out + ran.err
    assert content_of(root) == before


@named(BEHIND_THE_END | AT_THE_END)
def test_it_is_seen_without_the_catalog_too(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before = content_of(root)
    damage(root)
    (root / CATALOG).unlink()
    ran = verify(root)
    assert ran.code in (17, 52), ran
    assert content_of(root) == before


@named(BEHIND_THE_END)
def test_no_line_can_be_altered_removed_or_moved_unseen(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before = content_of(root)
    damage(root)
    ran = verify(root)
    assert content_of(root) == before
    assert (ran.code, ran.checks) == (52, {"journal-chain"})
    (finding,) = ran.findings
    assert "/journal/2026/02/1" in finding["what"]
    assert "from-segments" in finding["remedy"]
    assert finding["repair"] == ""


@named(REFUSED)
def test_a_journal_that_ends_otherwise_is_a_critical_finding(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    damage(root)
    ran = verify(root)
    assert ran.code == 52, ran
    assert ran.checks & {"journal-cut", "journal-chain"}
    assert json.loads(ran.out)["records"] > 0, "contents are proven whatever the journal's state"


@named(EVERYTHING)
def test_repair_leaves_a_damaged_journal_and_the_catalog_as_they_are(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before, rows = content_of(root), rows_but_meta(root)
    damage(root)
    lines = {name: data for name, data in files_below(root / "journal").items() if name != CHECKPOINT}
    ran = verify(root, "--repair")
    assert ran.code in (17, 52), ran
    assert {name: data for name, data in files_below(root / "journal").items() if name != CHECKPOINT} == lines
    assert content_of(root) == before
    assert rows_but_meta(root) == rows


@named({"a middle line is removed": removed(MIDDLE, 5), "the first day is gone": without_day(FIRST)})
def test_restoring_the_journal_from_a_backup_is_all_it_takes(damage: Damage, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before, rows = content_of(root), rows_but_meta(root)
    backup = files_below(root / "journal")
    damage(root)
    assert verify(root).code == 52
    rmtree(root / "journal")
    for name, data in backup.items():
        (root / "journal" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "journal" / name).write_bytes(data)
    assert (verify(root).code, verify(root).findings) == (0, [])
    everything_is_as_before(root, before, rows)


# -- the checkpoint ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("note", [None, b"", b"{", b"[]", b"\xff\xff", b"{}", b'{"seq":"9"}'])
def test_a_checkpoint_that_is_missing_or_unreadable_is_a_warning_that_repair_mends(
    note: bytes | None, tmp_path: Path
) -> None:
    for number, options in enumerate(((), ("--repair",))):
        root = sample(tmp_path / f"archive {number}")
        before, rows = content_of(root), rows_but_meta(root)
        checkpoint = root / "journal" / CHECKPOINT
        good = json.loads(checkpoint.read_bytes())
        checkpoint.unlink() if note is None else checkpoint.write_bytes(note)
        ran = verify(root, *options)
        if not options:
            assert (ran.code, ran.checks) == (50, {"checkpoint-missing"})
            assert ran.findings[0]["repair"] == "checkpoint"
            continue
        assert ran.code == 0, ran
        assert "repair: write journal/checkpoint.json" in ran.err
        assert json.loads(checkpoint.read_bytes())["seq"] >= good["seq"]
        assert type(events_of(root)[-1]).__name__ == "Repaired"
        everything_is_as_before(root, before, rows)


def test_a_checkpoint_that_counted_more_lines_means_that_the_tail_was_cut(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    checkpoint = root / "journal" / CHECKPOINT
    note = json.loads(checkpoint.read_bytes())
    checkpoint.write_text(json.dumps({**note, "seq": note["seq"] + 3}))
    ran = verify(root)
    assert ran.code in (17, 52)
    assert f"ends at line {note['seq']}" in ran.out + ran.err
    assert f"counted {note['seq'] + 3}" in ran.out + ran.err


def test_a_tail_cut_while_somebody_else_writes_is_found_beside_the_writer(root: Path, clock: Clock) -> None:
    with make(root, clock) as writer:
        for number in range(5):
            captured(writer, b"%d" % number)
        writer.keep_house()
        file = next((root / "journal").glob("*/*/*.jsonl"))
        whole = file.read_bytes()
        file.write_bytes(b"".join(line + b"\n" for line in journal_lines(root)[:-2]))
        with Archive.open_for_reading(root, clock=clock) as reader:
            report = run_verify(reader, Scope())
        file.write_bytes(whole)
    assert report.worst is Severity.CRITICAL
    assert "journal-cut" in {finding.check for finding in report.findings}


# -- repair of what else is broken -------------------------------------------------------------------------


def test_what_can_be_mended_is_mended_beside_a_broken_chain_that_stays_reported(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before = content_of(root)
    altered(MIDDLE, 4)(root)
    (root / "archive.toml.tmp").write_bytes(b"half")
    assert verify(root).checks == {"journal-chain", "orphan-file"}
    ran = verify(root, "--repair")
    assert ran.code == 52, ran
    assert "journal-chain" in ran.checks
    assert "orphan-file" not in ran.checks
    assert content_of(root) == before


def test_a_chain_that_cannot_be_mended_is_reported_by_its_exit_code_after_the_repair(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    altered(MIDDLE, 4)(root)
    (root / "journal" / CHECKPOINT).unlink()
    ran = verify(root, "--repair")
    assert ran.code == 52, ran
    assert ran.checks >= {"journal-chain"}


def test_the_log_command_names_the_broken_line_too(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    altered(FIRST, 3)(root)
    ran = archivefs("log", "--archive", root)
    assert ran.code == 17
    assert ran.err.startswith("archivefs: ")
    assert "13.jsonl" in ran.err
    assert len(ran.out.splitlines()) < len(read_lines(day_file(root, FIRST)))
