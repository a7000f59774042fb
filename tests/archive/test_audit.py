"""Whatever is done to the journal is found and named; and an entry's history is what its events say."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from archive_parts import Clock, captured, commit, converted, make, run_child
from test_verify_parts import (
    Ran,
    archivefs,
    day_file,
    edit_lines,
    events_of,
    files_below,
    flip,
    read_lines,
    sample,
)

from archivefs.archive import Archive
from archivefs.events import Verified
from archivefs.operations import Note
from archivefs.parts import Actor
from archivefs.rebuilding import CATALOG
from archivefs.store.chain import line_hash, walk
from archivefs.store.journal import CHECKPOINT
from archivefs.verify import audit as auditing

FIRST, MIDDLE, LAST = 0, 1, 2
"""The days of the sample; the first two are sealed."""


def audit(root: Path, *options: object) -> tuple[Ran, list[dict[str, str]]]:
    """``audit verify``: how it ended, and its findings; it changes nothing."""
    before = {name: data for name, data in files_below(root).items() if not name.startswith(CATALOG)}
    ran = archivefs("audit", "verify", "--json", "--archive", root, *options)
    assert {n: d for n, d in files_below(root).items() if not n.startswith(CATALOG)} == before
    return ran, json.loads(ran.out)["findings"]


def checkpoint(root: Path, file: Path) -> dict[str, str]:
    """Print a checkpoint and append it to a file elsewhere."""
    ran = archivefs("audit", "checkpoint", "--archive", root)
    assert ran.code == 0, ran
    with file.open("a") as out:
        out.write(ran.out)
    facts: dict[str, str] = json.loads(ran.out)
    return facts


def lines_of(root: Path, day: int) -> int:
    return len(read_lines(day_file(root, day)))


def seqs(root: Path, day: int) -> tuple[int, int]:
    """First and last number of a day's lines."""
    lines = [json.loads(line)["seq"] for line in read_lines(day_file(root, day))]
    return lines[0], lines[-1]


def test_of_a_whole_journal_there_is_nothing_to_find(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    kept = tmp_path / "kept"
    made = checkpoint(root, kept)
    assert made["seq"] == len(events_of(root))
    assert made["archive"] == json.loads(read_lines(day_file(root, FIRST))[0])["archive"]
    ran, findings = audit(root, "--checkpoint", kept)
    assert (ran.code, findings) == (0, [])
    assert json.loads(ran.out)["events"] == made["seq"]


# -- lines and days that are gone --------------------------------------------------------------------------


def test_the_first_line_gone_is_named(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    edit_lines(root, FIRST, lambda lines: lines.pop(0))
    ran, (finding,) = audit(root)
    assert ran.code == 52
    assert finding["check"] == "journal-chain"
    assert finding["where"] == f"{day_file(root, FIRST).relative_to(root)}:1"
    assert "line 1 is gone" in finding["what"]


def test_a_middle_line_gone_is_named(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    start, _ = seqs(root, MIDDLE)
    edit_lines(root, MIDDLE, lambda lines: lines.pop(5))
    ran, (finding,) = audit(root)
    assert ran.code == 52
    assert finding["where"] == f"{day_file(root, MIDDLE).relative_to(root)}:6"
    assert f"line {start + 5} is gone" in finding["what"]


def test_several_lines_gone_at_two_places_are_both_named(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    start, _ = seqs(root, MIDDLE)
    first, _ = seqs(root, LAST)

    def cut(lines: list[bytes]) -> None:
        del lines[2:5]

    edit_lines(root, MIDDLE, cut)
    edit_lines(root, LAST, lambda lines: lines.pop(3))
    _, findings = audit(root)
    assert f"lines {start + 2} to {start + 4} are gone" in findings[0]["what"]
    assert f"line {first + 3} is gone" in findings[1]["what"]
    assert len(findings) == 2


def test_the_last_line_gone_is_named_by_all_who_noted_it(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    kept = tmp_path / "kept"
    end = checkpoint(root, kept)["seq"]
    edit_lines(root, LAST, lambda lines: lines.pop())
    ran, findings = audit(root, "--checkpoint", kept)
    assert ran.code == 52
    assert {finding["check"] for finding in findings} == {"journal-cut"}
    assert len(findings) == 3
    assert all(f"line {end} is gone" in finding["what"] for finding in findings)
    for name in (CATALOG, f"journal/{CHECKPOINT}", f"{kept}:1"):
        assert any(name in finding["what"] for finding in findings)


def without_days(root: Path, *days: int) -> None:
    for day in days:
        day_file(root, day).unlink()


def test_all_lines_gone_are_named(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    end = len(events_of(root))
    without_days(root, FIRST, MIDDLE, LAST)
    ran, findings = audit(root)
    assert ran.code == 52
    assert findings
    assert all(f"lines 1 to {end} are gone" in finding["what"] for finding in findings)


def test_the_whole_journal_gone_with_its_checkpoint_and_the_catalog_is_found(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    kept = tmp_path / "kept"
    end = checkpoint(root, kept)["seq"]
    rmtree(root / "journal")
    (root / "journal").mkdir()
    for file in root.glob(f"{CATALOG}*"):
        file.unlink()
    ran, findings = audit(root)
    assert ran.code == 52
    assert any("the journal is empty: even its first line is gone" in each["what"] for each in findings)
    assert "checkpoint-missing" in {each["check"] for each in findings}
    _, findings = audit(root, "--checkpoint", kept)
    assert any(f"lines 1 to {end} are gone" in each["what"] for each in findings)


@pytest.mark.parametrize("day", [FIRST, MIDDLE])
def test_a_whole_day_gone_is_named(day: int, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    first, last = seqs(root, day)
    without_days(root, day)
    ran, findings = audit(root)
    assert ran.code == 52
    assert [each["check"] for each in findings] == ["journal-chain"]
    assert f"lines {first} to {last} are gone" in findings[0]["what"]
    assert findings[0]["where"] == f"{day_file(root, day + 1).relative_to(root)}:1"


def test_the_last_day_gone_is_named(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    first, last = seqs(root, LAST)
    without_days(root, LAST)
    _, findings = audit(root)
    assert all(f"lines {first} to {last} are gone" in each["what"] for each in findings)
    assert {each["check"] for each in findings} == {"journal-cut"}


# -- lines that were altered -------------------------------------------------------------------------------


def alter(lines: list[bytes], at: int) -> None:
    before = lines[at]
    lines[at] = before.replace(b'"at":"2026', b'"at":"2025')
    assert lines[at] != before


@pytest.mark.parametrize(("day", "line"), [(FIRST, 0), (FIRST, -1), (MIDDLE, 4), (LAST, 1)])
def test_an_altered_line_is_named(day: int, line: int, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    number = range(1, lines_of(root, day) + 1)[line]
    seq = seqs(root, day)[0] + number - 1
    edit_lines(root, day, lambda lines: alter(lines, line))
    ran, findings = audit(root)
    assert ran.code == 52
    assert any(
        f"line {seq} at {day_file(root, day)}:{number} was altered" in each["what"] for each in findings
    )


def test_the_last_line_altered_is_named_by_who_noted_it(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    end = len(events_of(root))
    edit_lines(root, LAST, lambda lines: alter(lines, -1))
    ran, findings = audit(root)
    assert ran.code == 52
    assert {each["check"] for each in findings} == {"checkpoint-differs"}
    where = f"{day_file(root, LAST).relative_to(root)}:{lines_of(root, LAST)}"
    assert {each["where"] for each in findings} == {where}
    assert all(f"line {end} is not the one noted in " in each["what"] for each in findings)


def test_an_unreadable_line_is_named_once_and_the_rest_is_read(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")

    def spoil(lines: list[bytes]) -> None:
        lines[3] = b"\xff" * (len(lines[3]) - 1) + b"\n"

    edit_lines(root, MIDDLE, spoil)
    _, (finding,) = audit(root)
    assert finding["where"] == f"{day_file(root, MIDDLE).relative_to(root)}:4"
    assert "not a readable event" in finding["what"]


def test_lines_that_were_swapped_or_repeated_are_named(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    edit_lines(root, MIDDLE, lambda lines: lines.insert(4, lines.pop(5)))
    edit_lines(root, LAST, lambda lines: lines.insert(2, lines[2]))
    _, findings = audit(root)
    assert sum("a line was moved or repeated" in each["what"] for each in findings) == 2
    assert {each["where"].rpartition(":")[0] for each in findings} == {
        str(day_file(root, day).relative_to(root)) for day in (MIDDLE, LAST)
    }


def test_a_day_that_does_not_decompress_is_named_with_what_is_lost(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    _, last = seqs(root, MIDDLE)
    flip(day_file(root, MIDDLE), 0)
    _, findings = audit(root)
    assert any("does not decompress" in each["what"] for each in findings)
    assert any(f" {last} " in each["what"] and "gone" in each["what"] for each in findings)


def test_wherever_a_bit_of_a_sealed_day_flips_no_line_is_lost_unsaid(tmp_path: Path) -> None:
    """Bits behind the last line, as those of the checksum, cost no line."""
    root = sample(tmp_path / "archive")
    file = day_file(root, MIDDLE)
    content, lines = file.read_bytes(), [link.sha256 for link in walk([file])]
    lost = 0
    for offset in range(0, len(content), 31):
        file.write_bytes(content)
        flip(file, offset)
        if [link.sha256 for link in walk([file]) if link.event] != lines:
            lost += 1
            assert any(each.check == "journal-chain" for each in auditing.audit(root).findings), offset
    assert lost > len(content) / 31 * 0.9


def forge(root: Path, change: Callable[[list[bytes]], None]) -> None:
    """Change the last day and compute the chain anew, with checkpoint and catalog, as one who knows how."""
    edit_lines(root, LAST, change)

    def chain(lines: list[bytes]) -> None:
        prev = json.loads(lines[0])["prev"]
        first = json.loads(lines[0])["seq"]
        for number, line in enumerate(lines):
            event = json.loads(line) | {"prev": prev, "seq": first + number}
            lines[number] = json.dumps(event, separators=(",", ":")).encode() + b"\n"
            prev = line_hash(lines[number][:-1])

    edit_lines(root, LAST, chain)
    (root / "journal" / CHECKPOINT).unlink()
    for file in root.glob(f"{CATALOG}*"):
        file.unlink()
    ran = archivefs("rebuild", "--archive", root)
    assert ran.code == 0, ran
    Archive(root).close()


@pytest.mark.parametrize("what", ["altered", "gone"])
def test_a_chain_that_was_made_anew_is_found_by_a_checkpoint_from_outside(what: str, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    kept = tmp_path / "kept"
    checkpoint(root, kept)
    forge(root, lambda lines: alter(lines, 1) if what == "altered" else lines.pop(2) and None)
    ran, findings = audit(root)
    assert ran.code in (0, 50), "from the inside nothing shows"
    assert {each["check"] for each in findings} <= {"checkpoint-missing"}
    ran, findings = audit(root, "--checkpoint", kept)
    assert ran.code == 52
    found = [each for each in findings if each["check"] in ("checkpoint-differs", "journal-cut")]
    assert f"{kept}:1" in found[0]["what"]


def test_of_several_checkpoints_the_last_that_agrees_narrows_the_place(
    root: Path, clock: Clock, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    with make(root, clock) as archive:
        captured(archive, b"1")
    early = checkpoint(root, kept)["seq"]
    with Archive(root, clock=clock) as archive:
        for number in range(5):
            captured(archive, b"%d" % number)
    late = checkpoint(root, kept)["seq"]
    for file in root.glob(f"{CATALOG}*"):
        file.unlink()
    (root / "journal" / CHECKPOINT).unlink()
    edit_lines(root, 0, lambda lines: alter(lines, late - 1))
    _, findings = audit(root, "--checkpoint", kept)
    (found,) = [each for each in findings if each["check"] == "checkpoint-differs"]
    assert f"{kept}:2" in found["what"]
    assert f"agrees with (line {early})" in found["what"]


def test_a_checkpoint_of_another_archive_is_told_from_one_that_differs(tmp_path: Path) -> None:
    root, other = sample(tmp_path / "archive"), tmp_path / "other"
    Archive.create(other)
    Archive(other).close()
    checkpoint(other, tmp_path / "kept")
    ran, (finding,) = audit(root, "--checkpoint", tmp_path / "kept")
    assert ran.code == 52
    assert "it is of the archive" in finding["what"]


def test_a_file_that_holds_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    (tmp_path / "kept").write_text('{"seq": "many"}\n\nhello\n')
    ran, findings = audit(root, "--checkpoint", tmp_path / "kept")
    assert ran.code == 51
    assert [each["where"] for each in findings] == [f"{tmp_path}/kept:1", f"{tmp_path}/kept:3"]
    ran = archivefs("audit", "verify", "--archive", root, "--checkpoint", tmp_path / "none")
    assert ran.code == 2


def test_a_copy_of_checkpoint_json_is_a_checkpoint_too(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    copytree(root / "journal", tmp_path / "copy")
    edit_lines(root, LAST, lambda lines: lines.pop())
    _, findings = audit(root, "--checkpoint", tmp_path / "copy" / CHECKPOINT)
    assert any(f"{tmp_path}/copy/{CHECKPOINT}:1" in each["what"] for each in findings)


def test_a_folder_without_archive_is_refused(tmp_path: Path) -> None:
    ran = archivefs("audit", "verify", "--archive", tmp_path)
    assert ran.code == 11
    assert "neither a journal nor a catalog" in ran.err


def test_it_may_run_while_somebody_writes(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        for number in range(3):
            captured(archive, b"%d" % number)
            ran = archivefs("audit", "verify", "--json", "--archive", root)
            assert {each["check"] for each in json.loads(ran.out)["findings"]} <= {"checkpoint-missing"}


# -- what was done -----------------------------------------------------------------------------------------


def kinds(ran: Ran) -> list[tuple[str, int]]:
    assert ran.code == 0, ran
    return [(json.loads(line)["kind"], json.loads(line)["seq"]) for line in ran.out.splitlines()]


def test_the_events_of_selected_entries_are_shown_in_order_and_no_others(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        first = captured(archive, b"1", b"a.csv", "ict")
        captured(archive, b"2", b"b.csv", "ict")
        converted(archive, first.id)
        commit(
            archive, Note(Verified(scope="everything", records=1, bytes=1, actor=Actor(uid=7, program="me")))
        )
    for query in (f"id={first.id}", "name=a.csv", "status=success"):
        ran = archivefs("audit", "--archive", root, "--json", query)
        assert kinds(ran) == [("captured", 2), ("attempt_started", 4), ("attempt_finished", 5)]
    assert kinds(archivefs("audit", "show", "--json", "--archive", root)) == [("created", 1), ("verified", 6)]
    assert kinds(archivefs("audit", "--json", "--archive", root, "name=none")) == []
    text = archivefs("audit", "--archive", root).out.splitlines()
    assert text[-1].endswith("by uid 7 (me)")
    assert archivefs("audit", "--archive", root, "nmae=x").code == 19
    assert archivefs("audit", "-h").code == 0


def test_only_the_days_since_the_first_selected_entry_are_read(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    days = {
        json.loads(line)["at"][:10] for line in archivefs("log", "--json", "--archive", root).out.splitlines()
    }
    assert len(days) == 3
    wanted = [event for event in events_of(root) if getattr(event, "day", "") == max(days)]
    ran = archivefs("audit", "--archive", root, "--json", f"date={max(days)}")
    shown = [seq for kind, seq in kinds(ran) if kind == "captured"]
    assert shown == [event.seq for event in wanted]
    flip(day_file(root, FIRST), 40)
    assert archivefs("audit", "--archive", root, "--json", f"date={max(days)}").code == 0


SELECTING = """
import resource, sys
from pathlib import Path
from archivefs.archive import Archive
from archivefs.cli.auditing import _selected
from archivefs.events import Touched
with Archive.open_as_it_is(Path(sys.argv[1])) as archive:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    is_wanted, _ = _selected(archive, ("converter=files",))
    row = archive.reader.entry(archive.reader.number(archive.reader.last_id()))
    assert is_wanted(Touched(id=row.id, mtime_ns=0, mode=0, uid=0, gid=0))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_selection_takes_a_bit_for_each_entry(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        for _ in range(5):
            captured(archive, b"1")
        rows = 100_000
        db = archive._catalog.db
        names = [row[1] for row in db.execute("PRAGMA table_info(entries)")]
        other = {"n": "NULL", "id": "printf('20260213T%09d-abcdef', 200000000 + i)", "flat": "'n' || i"}
        columns = ", ".join(other.get(name, name) for name in names).replace(
            "'n' || i", "CAST('n' || i AS BLOB)"
        )
        db.execute(
            "WITH RECURSIVE many(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM many WHERE i < ?)"
            f" INSERT INTO entries SELECT {columns} FROM many, (SELECT * FROM entries WHERE n = 1)",
            (rows,),
        )
    done = run_child(SELECTING, root)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000, "kB for 100 000 entries"
