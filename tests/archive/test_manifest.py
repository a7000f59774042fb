"""What a manifest lists ``sha256sum -c`` checks after a restore, whatever the names; and its tables."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from archive_parts import (
    Clock,
    capture,
    captured,
    child_environment,
    commit,
    converted,
    finish,
    journal_lines,
    make,
    run_child,
)
from test_verify_parts import flip, sample

from archivefs.folders import contents, pack
from archivefs.manifest import COLUMNS
from archivefs.operations import BeginAttempt
from archivefs.states import Outcome

NAMES = (
    b"plain.csv", b"two words", b"line\nfeed", b"back\\slash", b"both\\\n", b"ends with \r", b"caf\xc3\xa9",
    b"no utf-8 \xff\xfe", b"*?[x]", b"-dash", b"x" * 255, b"'quote\"", b"=1+1", b"a,b;c",
)  # fmt: skip


def run(root: Path, *words: object) -> subprocess.CompletedProcess[bytes]:
    """The command; what it prints is bytes, for names are."""
    return subprocess.run(
        [sys.executable, "-m", "archivefs.cli.main", *map(str, words), "--archive", str(root)],
        capture_output=True, env=child_environment(), check=False,
    )  # fmt: skip


def checked(root: Path, dest: Path, *query: str) -> tuple[int, list[bytes]]:
    """Restore what a query selects, and let sha256sum check it: how many, and what it complains of."""
    dest.mkdir()
    manifest = run(root, "manifest", *query)
    assert manifest.returncode == 0, manifest.stderr
    assert run(root, "restore", *query, dest).returncode == 0
    (dest.parent / "sums").write_bytes(manifest.stdout)
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "--quiet", str(dest.parent / "sums")],
        cwd=dest, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (done.stdout + done.stderr == b"")
    return manifest.stdout.count(b"\n"), done.stdout.splitlines()


@pytest.fixture
def named(root: Path, clock: Clock) -> Path:
    """An archive of sources of all sorts of names, some of them twice."""
    with make(root, clock) as archive:
        for number, name in enumerate((*NAMES, *NAMES[:5])):
            captured(archive, b"content %d" % number, name)
            clock.turn(3600)
    return root


def test_after_a_restore_sha256sum_checks_every_file(named: Path, tmp_path: Path) -> None:
    lines, complaints = checked(named, tmp_path / "dest", "converter=files")
    assert (lines, complaints) == (len(NAMES) + 5, [])
    files = [file for file in (tmp_path / "dest").rglob("*") if file.is_file()]
    assert len(files) == lines
    damaged = next(file for file in files if file.name == "line\nfeed")
    damaged.write_bytes(b"other")
    done = subprocess.run(
        ["sha256sum", "-c", str(tmp_path / "sums")], cwd=tmp_path / "dest", capture_output=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.count(b"FAILED") == 1


def test_a_query_selects_what_is_listed_and_restored(named: Path, tmp_path: Path) -> None:
    assert checked(named, tmp_path / "dest", "name=plain*") == (2, [])
    restored = sorted(each.name for each in (tmp_path / "dest" / "files" / "2026-02-13").iterdir())
    assert restored == ["plain.csv"]
    (other,) = (tmp_path / "dest" / "files").glob("2026-02-14/*")
    assert other.name == "plain.csv"


def test_what_was_saved_twice_on_a_day_has_two_names(root: Path, clock: Clock, tmp_path: Path) -> None:
    with make(root, clock) as archive:
        captured(archive, b"1", b"unit.csv")
        captured(archive, b"2", b"unit.csv")
    assert checked(root, tmp_path / "dest", "name=unit.csv") == (2, [])
    names = sorted(each.name for each in (tmp_path / "dest" / "files" / "2026-02-13").iterdir())
    assert names == ["unit.csv", "unit~2.csv"]


def test_a_second_restore_overwrites_nothing_and_says_so(named: Path, tmp_path: Path) -> None:
    checked(named, tmp_path / "dest", "name=plain*")
    done = run(named, "restore", "name=plain*", tmp_path / "dest")
    assert done.returncode == 18
    assert done.stderr.count(b"exists; nothing was overwritten") == 2
    done = run(named, "restore", "name=plain*", tmp_path / "nowhere")
    assert done.returncode == 18


def test_each_file_of_a_folder_is_listed(root: Path, clock: Clock, tmp_path: Path) -> None:
    folder = tmp_path / "unit"
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "a.csv").write_bytes(b"measured")
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / "raw\n.bin").write_bytes(os.urandom(3 << 20))
    (folder / "z").write_bytes(b"z")
    out = io.BytesIO()
    members = pack(os.fsencode(folder), contents(os.fsencode(folder)), out)
    with make(root, clock) as archive:
        commit(archive, capture(out.getvalue(), b"unit", members=members))
        captured(archive, b"1", b"x")
    assert checked(root, tmp_path / "dest", "converter=files") == (5, [])


def test_a_folder_whose_bytes_are_damaged_is_left_out_and_said(
    root: Path, clock: Clock, tmp_path: Path
) -> None:
    folder = tmp_path / "unit"
    folder.mkdir()
    (folder / "raw.bin").write_bytes(os.urandom(3000))
    out = io.BytesIO()
    members = pack(os.fsencode(folder), contents(os.fsencode(folder)), out)
    with make(root, clock) as archive:
        commit(archive, capture(out.getvalue(), b"unit", members=members))
        captured(archive, b"1", b"x", "log")
    (segment,) = (root / "content").rglob("files.sources.zst")
    flip(segment, segment.stat().st_size - 1500)
    done = run(root, "manifest")
    assert done.returncode == 16
    assert done.stdout.count(b"\n") == 1
    assert b"it is left out" in done.stderr


# -- compliance --------------------------------------------------------------------------------------------


@pytest.fixture
def attempted(root: Path, clock: Clock) -> Path:
    """An entry that was suspended and then succeeded, and one that was only archived."""
    with make(root, clock) as archive:
        first = captured(archive, b"1", b"no utf-8 \xff,.csv", "ict")
        (number,) = commit(archive, BeginAttempt(first.id, "capture", code="c" * 64))
        commit(
            archive,
            finish(first.id, number, Outcome.SUSPENDED, error='line "1"\nline 2', arguments={"a": [1, 2]}),
        )
        converted(archive, first.id, b'{"good":true}')
        captured(archive, b"2", b"b.txt")
    return root


def test_the_table_has_a_row_for_each_attempt(attempted: Path) -> None:
    done = run(attempted, "manifest", "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert tuple(rows[0]) == COLUMNS
    mine = {(row["converter"], row["attempt"]): row for row in rows}
    assert mine.keys() == {("ict", "1"), ("ict", "2"), ("files", "")}
    failed, done_well, alone = mine["ict", "1"], mine["ict", "2"], mine["files", ""]
    assert failed["outcome"] == "suspended"
    assert failed["error"] == 'line "1"\nline 2'
    assert json.loads(failed["arguments"]) == {"a": [1, 2]}
    assert failed["code"] == "c" * 64
    assert bytes.fromhex(failed["name_hex"]) == b"no utf-8 \xff,.csv"
    assert done_well["outcome"] == "success"
    assert done_well["version"] == "1.0"
    (report,) = json.loads(done_well["reports"])
    assert (report["name"], len(report["sha256"])) == ("report.json", 64)
    assert alone["outcome"] == ""
    assert alone["path"] == "files/2026-02-13/b.txt"


def test_each_line_of_json_is_all_that_show_says_and_the_path(attempted: Path) -> None:
    done = run(attempted, "manifest", "--format", "json", "converter=ict")
    (facts,) = [json.loads(line) for line in done.stdout.splitlines()]
    shown = json.loads(run(attempted, "show", "--json", facts["id"]).stdout)
    assert facts.items() >= shown.items()
    assert [each["outcome"] for each in facts["attempts"]] == ["suspended", "success"]
    assert bytes.fromhex(facts["path_hex"]) == b"ict/2026-02-13/no utf-8 \xff,.csv"


def test_wrong_words_are_refused(attempted: Path) -> None:
    assert run(attempted, "manifest", "nmae=x").returncode == 19
    assert run(attempted, "manifest", "--format", "xml").returncode == 2
    assert run(attempted, "restore", "nmae=x", "/tmp").returncode == 19


LISTING = """
import os, resource, sys
from pathlib import Path
from archivefs import manifest
from archivefs.archive import Archive
from archivefs.query import parse
with Archive.open_as_it_is(Path(sys.argv[1])) as archive:
    before, count = 0, 0
    for entry in archive.reader.search(parse(sys.argv[2], archive.zone)):
        for line in manifest.sums(archive, entry):
            count += 1
        if count == 1000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def many(root: Path, clock: Clock, rows: int) -> None:
    """An archive whose catalog says that it has so many entries."""
    with make(root, clock) as archive:
        captured(archive, b"1")
        db = archive._catalog.db
        names = [row[1] for row in db.execute("PRAGMA table_info(entries)")]
        other = {
            "n": "NULL", "id": "printf('20260213T%09d-abcdef', 200000000 + i)",
            "flat": "CAST('n' || i AS BLOB)",
        }  # fmt: skip
        columns = ", ".join(other.get(name, name) for name in names)
        db.execute(
            "WITH RECURSIVE many(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM many WHERE i < ?)"
            f" INSERT INTO entries SELECT {columns} FROM many, (SELECT * FROM entries WHERE n = 1)",
            (rows,),
        )
    assert len(journal_lines(root)) == 2


@pytest.mark.parametrize("query", ["", "converter=files"])
def test_the_length_of_a_manifest_takes_no_memory(query: str, root: Path, clock: Clock) -> None:
    many(root, clock, 200_000)
    done = run_child(LISTING, root, query)
    assert done.returncode == 0, done.stderr
    count, more = map(int, done.stdout.split())
    assert count == 200_001
    assert more < 10_000, "kB"


def test_sources_that_are_lost_are_listed_and_so_found_missing(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    before = run(root, "manifest").stdout.splitlines()
    assert len(before) > 10
    for segment in (root / "content").rglob("*.sources.zst"):
        segment.unlink()
        break
    after = run(root, "manifest").stdout.splitlines()
    assert after == before
