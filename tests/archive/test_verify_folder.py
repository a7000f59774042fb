"""What lies around the contents, which part of them is read, and who may repair."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from archive_parts import ROOT, Clock, captured, make
from test_verify_parts import (
    DAYS,
    archivefs,
    content_of,
    everything_is_as_before,
    files_below,
    flip,
    place_of,
    rows_but_meta,
    sample,
    sql,
    verify,
)

from archivefs.archive import Archive
from archivefs.rebuilding import CATALOG
from archivefs.store.journal import CHECKPOINT
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope
from archivefs.verify.verify import verify as run_verify

ORPHANS = (
    "archive.toml.tmp",
    f"journal/{CHECKPOINT}.tmp",
    "journal/2026/02/13.jsonl.zst.tmp",
    f"{CATALOG}.new",
)
"""What an interrupted write can leave, and the like."""


def plant(root: Path, name: str) -> Path:
    """A file that an interrupted write left."""
    (root / name).write_bytes(f"half of {name}".encode())
    return root / name


@pytest.mark.parametrize("name", ORPHANS)
def test_what_an_interrupted_write_left_is_a_warning(name: str, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    plant(root, name)
    ran = verify(root)
    (finding,) = ran.findings
    assert (ran.code, finding["check"], finding["where"]) == (50, "orphan-file", name)
    assert finding["repair"] == "orphan"


@pytest.mark.parametrize("name", ORPHANS)
def test_repair_keeps_it_aside_with_its_bytes(name: str, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before, rows = content_of(root), rows_but_meta(root)
    orphan = plant(root, name)
    ran = verify(root, "--repair")
    assert (ran.code, ran.checks) == (0, {"quarantine"}), ran
    assert f"repair: move the file into quarantine ({name})" in ran.err
    assert not orphan.exists()
    assert f"half of {name}".encode() in files_below(root / "quarantine").values()
    everything_is_as_before(root, before, rows)


@pytest.mark.parametrize("name", ORPHANS)
def test_it_is_kept_aside_though_the_catalog_is_mended_too(name: str, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before, rows = content_of(root), rows_but_meta(root)
    plant(root, name)
    sql(root, "UPDATE entries SET gid = 77 WHERE n = 1")
    ran = verify(root, "--repair")
    assert (ran.code, ran.checks) == (0, {"quarantine"}), ran
    assert f"half of {name}".encode() in files_below(root / "quarantine").values()
    everything_is_as_before(root, before, rows)


def test_many_orphans_are_mended_at_once(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    for name in ORPHANS:
        plant(root, name)
    assert verify(root, "--repair").code == 0
    kept = files_below(root / "quarantine").values()
    assert {f"half of {name}".encode() for name in ORPHANS} <= set(kept)


def test_what_people_keep_with_their_converters_is_no_orphan(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    plant(root, "converters/notes.tmp")
    assert verify(root).findings == []


# -- staging and quarantine --------------------------------------------------------------------------------


def test_staging_is_left_to_the_mount(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    folder = root / "staging" / "inbox" / "ict" / "sub"
    folder.mkdir(parents=True)
    for name in ("half.csv", "half.tmp", "other.new"):
        (folder / name).write_bytes(b"being written")
    for options in ((), ("--repair",)):
        assert verify(root, *options).findings == []
    assert set(files_below(folder).values()) == {b"being written"}
    assert len(files_below(folder)) == 3


def test_what_a_killed_verification_left_in_staging_is_swept_by_the_next_opening(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = root / "staging" / f"verify-{child.pid}-abc"
    alive = root / "staging" / f"verify-{os.getppid()}-abc"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / CATALOG).write_bytes(b"half a catalog")
    assert verify(root).findings == []
    Archive(root).close()
    assert not dead.exists()
    assert alive.exists()


def test_verify_leaves_nothing_in_staging(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    verify(root)
    assert list((root / "staging").iterdir()) == []


def test_what_is_in_quarantine_is_noted_and_no_fault(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    (root / "quarantine").mkdir()
    assert verify(root).findings == []
    plant(root, "quarantine/a.tail")
    plant(root, "quarantine/b.tmp")
    ran = verify(root)
    (finding,) = ran.findings
    assert (ran.code, finding["check"], finding["severity"]) == (0, "quarantine", "notice")
    assert finding["what"] == "2 things are kept aside there"
    assert finding["remedy"] == "archivefs quarantine list"


# -- who may repair ----------------------------------------------------------------------------------------


def damage_row(root: Path) -> None:
    sql(root, "UPDATE entries SET gid = 77 WHERE n = 1")


def test_repair_is_refused_while_somebody_else_writes(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    with Archive(root):
        damage_row(root)
        damaged = rows_but_meta(root)
        assert verify(root).code == 51
        ran = verify(root, "--repair")
        assert rows_but_meta(root) == damaged
    assert ran.code == 13, ran
    assert f"{root} is in use by process {os.getpid()}" in ran.err


def test_a_repair_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    with Archive(root):
        damage_row(root)
        assert verify(root, "--repair").code == 13
        assert not (root / "quarantine").exists()


def test_a_repair_that_has_nothing_to_mend_needs_nobody_to_stop(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    with Archive(root):
        assert verify(root, "--repair").code == 0


def test_orphans_are_not_judged_while_somebody_writes(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    with Archive(root):
        plant(root, "journal/2026/02/15.jsonl.zst.tmp")
        assert verify(root).findings == []


# -- which part is read ------------------------------------------------------------------------------------


def test_only_what_was_captured_since_a_day_is_read(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    every = json.loads(verify(root).out)["records"]
    place = place_of(root, b"u1.csv", 0)
    flip(place.file, place.frames + 3)
    assert verify(root, "--since", DAYS[0]).code == 52
    for day in DAYS[1:]:
        assert verify(root, "--since", day).findings == []
    counts = [json.loads(verify(root, "--since", day).out)["records"] for day in (*DAYS, "2026-02-16")]
    assert counts == [every, every * 2 // 3, every // 3, 0]


def test_a_day_begins_at_midnight_of_the_archive(root: Path, clock: Clock) -> None:
    toml = 'schema_version = 1\nreserve = 0\ntimezone = "Asia/Tokyo"\n[converters.files]\n'
    with make(root, clock, toml) as archive:  # 21:00 in Tokyo
        captured(archive, b"on the 13th")
        clock.turn(4 * 3600)
        captured(archive, b"on the 14th")
    records = [json.loads(verify(root, "--since", f"2026-02-{day}").out)["records"] for day in (13, 14, 15)]
    assert records == [2, 1, 0]


def test_the_frame_is_checked_whatever_part_of_the_contents_is_read(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    damage_row(root)
    plant(root, "archive.toml.tmp")
    assert verify(root, "--since", "2030-01-01").checks == {"catalog-differs", "orphan-file"}
    assert verify(root, "--sample", "0.001").checks == {"catalog-differs", "orphan-file"}


def test_a_sample_reads_about_its_share_of_the_records(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        for number in range(300):
            captured(archive, b"%d" % number)
        every = run_verify(archive, Scope()).records
        some = [run_verify(archive, Scope(sample=20.0)).records for _ in range(5)]
    assert every == 300
    assert len(set(some)) > 1, "another part each time"
    assert all(20 <= count <= 110 for count in some), some


@pytest.mark.parametrize("share", ["100", "100%", "0.5%", "33.3"])
def test_a_share_can_be_said_with_or_without_a_percent_sign(share: str, tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    report = json.loads(verify(root, "--sample", share).out)
    whole = share.startswith("100")
    assert report["scope"] == ("everything" if whole else f"sample {float(share.rstrip('%')):g}%")


@pytest.mark.parametrize("share", ["0", "-1", "101", "many", "", "nan", "inf"])
def test_a_share_that_is_none_is_refused(share: str, tmp_path: Path) -> None:
    ran = verify(sample(tmp_path / "archive"), "--sample", share)
    assert ran.code == 2
    assert "is not a percentage above 0 and up to 100" in ran.err


def test_a_day_that_is_none_is_refused(tmp_path: Path) -> None:
    assert verify(sample(tmp_path / "archive"), "--since", "yesterday").code == 2


def test_the_scope_names_the_day_as_people_do(tmp_path: Path) -> None:
    report = json.loads(verify(sample(tmp_path / "archive"), "--since", "2026-02-14").out)
    assert "2026-02-14" in report["scope"], report["scope"]


def test_what_is_no_archive_is_an_error_and_not_a_finding(tmp_path: Path) -> None:
    ran = verify(tmp_path)
    assert (ran.code, ran.out) == (11, "")
    assert json.loads(ran.err)["exit_code"] == 11


def test_the_progress_counts_up_to_what_will_be_read(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with Archive(sample(tmp_path / "archive")) as archive:
        report = run_verify(archive, Scope(), lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (report.bytes, report.bytes)
    assert len({total for _, total in seen}) == 1


def test_parts_together_read_every_record_once(tmp_path: Path) -> None:
    with Archive(sample(tmp_path / "archive")) as archive:
        every = run_verify(archive, Scope())
        parts = [run_verify(archive, Scope(part=number, parts=7)) for number in range(7)]
    assert sum(part.records for part in parts) == every.records
    assert sum(part.bytes for part in parts) == every.bytes
    assert all(part.events == every.events for part in parts), "the journal is checked as a whole"


def test_findings_come_worst_first(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    place = place_of(root, b"u1.csv", 0)
    flip(place.file, place.frames + 3)
    damage_row(root)
    plant(root, "archive.toml.tmp")
    (root / "quarantine").mkdir()
    plant(root, "quarantine/a.tail")
    report = json.loads(verify(root).out)
    assert [finding["severity"] for finding in report["findings"]] == [
        "critical",
        "error",
        "warning",
        "notice",
    ]
    assert report["worst"] == "critical"
    text = archivefs("verify", "--archive", root).out.splitlines()
    assert re.search(r"verified in .*: 1 critical, 1 error, 1 warning, 1 notice$", text[-1])
    assert [line.partition(":")[0] for line in text[:-1:2]] == [
        severity.name.lower() for severity in sorted(Severity, reverse=True)
    ]


# -- the document ------------------------------------------------------------------------------------------


def documented() -> dict[str, tuple[str, bool]]:
    """Severity and whether a repair mends it, of each check in the table of docs/verify.md."""
    lines = (ROOT / "docs" / "verify.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): (row[1], row[4] != "no") for row in cells if len(row) == 5}


def test_the_document_has_every_check() -> None:
    source = "".join(file.read_text() for file in (ROOT / "archivefs" / "verify").glob("*.py"))
    checks = set(re.findall(r'(?:Finding\(\s*Severity\.\w+,|_finding\()\s*"([a-z-]+)"', source))
    assert len(checks) > 10
    assert documented().keys() == checks


def test_the_document_says_how_bad_each_finding_is_and_what_is_mended(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    place = place_of(root, b"u1.csv", 0)
    flip(place.file, place.frames + 3)
    sql(root, "UPDATE entries SET offset = offset - 10 WHERE n = 2")
    (root / "content/2026/02/15/files.sources.zst").unlink()
    (root / "journal" / CHECKPOINT).unlink()
    plant(root, "archive.toml.tmp")
    plant(root, "content/2026/02/14/x.sources.zst")
    (root / "quarantine").mkdir()
    plant(root, "quarantine/a.tail")
    findings = verify(root).findings
    assert len({finding["check"] for finding in findings}) >= 8
    for finding in findings:
        assert documented()[finding["check"]] == (finding["severity"], finding["repair"] != "")


@pytest.mark.parametrize(
    ("word", "code"), [("none, or a notice", 0), ("warning", 50), ("error", 51), ("critical", 52)]
)
def test_the_document_has_the_exit_codes(word: str, code: int) -> None:
    assert f"| {code} | {word} |" in (ROOT / "docs" / "verify.md").read_text()
