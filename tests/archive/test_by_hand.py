"""The archive without the program: zstd, jq, sha256sum, head and tail get every byte and every fact out."""

import json
import subprocess
from pathlib import Path

import pytest
from archive_parts import (
    DAY,
    Clock,
    capture,
    captured,
    commit,
    converted,
    every_entry,
    make,
    some_bytes,
)

from archivefs.archive import Archive
from archivefs.operations import BeginAttempt

EVENTS = r"""
events() {   # every event in order, one JSON object a line; of a day that has both files the plain one counts
  find journal -name '*.jsonl' -o -name '*.jsonl.zst' | sort | while read -r file; do
    case $file in
      *.zst) [ -e "${file%.zst}" ] || zstd -dcq "$file" ;;
      *) cat "$file" ;;
    esac
  done
}
record() {   # content of the record in content/$1 at byte $2 of length $3
  tail -c +$(($2 + 1)) "content/$1" | head -c "$3" | zstd -dcq
}
"""
SOURCES = (
    EVENTS
    + r"""
mkdir out
events | jq -r 'select(.kind == "captured")
                | [.id, .sha256] + (.location | [.segment, .offset, .length]) | @tsv' |
while IFS=$'\t' read -r id sha256 segment offset length; do
  record "$segment" "$offset" "$length" > "out/$id"
  echo "$sha256  out/$id" >> SHA256SUMS
done
sha256sum --check --quiet SHA256SUMS
"""
)
REPORTS = (
    EVENTS
    + r"""
mkdir out
events | jq -r 'select(.kind == "attempt_finished") | .id as $id | .attempt as $attempt
                | (.log // empty, .reports[]?) | select(.location)
                | [$id, $attempt, .name, .sha256] + (.location | [.segment, .offset, .length]) | @tsv' |
while IFS=$'\t' read -r id attempt name sha256 segment offset length; do
  record "$segment" "$offset" "$length" > "out/$id.$attempt.$name"
  echo "$sha256  out/$id.$attempt.$name" >> SHA256SUMS
done
sha256sum --check --quiet SHA256SUMS
"""
)
CHAIN = (
    EVENTS
    + r"""
events | jq -r .prev > claimed
{
  printf '0%.0s' {1..64}; echo
  events | while IFS= read -r line; do printf %s "$line" | sha256sum | cut -c 1-64; done
} | head -n -1 | cmp - claimed
"""
)


def bash(script: str, folder: Path, *arguments: object) -> str:
    done = subprocess.run(
        ["bash", "-eu", "-c", script, "bash", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.fixture
def root(tmp_path: Path, clock: Clock) -> Path:
    """An archive of three days, two of them sealed, with sources and reports of all kinds; closed."""
    root = tmp_path / "archive"
    with make(root, clock) as archive:
        for day in range(3):
            for number, size in enumerate((0, 1, 700, 70_000)):
                name = (b"a.csv", b"two\nlines \xff.csv", "mål $(ls) 'x'.csv".encode(), b"*")[number]
                receipt = captured(archive, some_bytes(day * 10 + number, size), name, "ict")
                if receipt.status == "pending":
                    converted(archive, receipt.id, b'{"day":%d}' % day)
            commit(archive, capture(some_bytes(day, 2_500_000), b"large.bin"))
            log_only = captured(archive, b"log %d" % day, converter="log")
            converted(archive, log_only.id, converter="log")
            clock.turn(DAY)
        archive.keep_house()
        commit(archive, BeginAttempt(captured(archive, b"still running", converter="ict").id, "capture"))
        archive.keep_house()
    assert sorted(file.name for file in (root / "journal").rglob("*.jsonl*")) == [
        "13.jsonl.zst", "14.jsonl.zst", "15.jsonl.zst", "16.jsonl",
    ]  # fmt: skip
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_every_source_comes_out_by_hand(root: Path, clock: Clock) -> None:
    bash(SOURCES, root)
    with Archive(root, clock=clock) as archive:
        expected = {
            row.id: archive.content.read(archive.reader.location(row), row.size)
            for row in every_entry(archive)
        }
        assert contents(root / "out") == expected
        assert len(expected) == 3 * 6 + 1


def test_every_report_and_log_comes_out_by_hand(root: Path, clock: Clock) -> None:
    bash(REPORTS, root)
    with Archive(root, clock=clock) as archive:
        expected = {
            f"{row.id}.{piece.attempt}.{piece.name}": archive.content.read(piece.location, piece.size)
            for row in every_entry(archive)
            for piece in archive.reader.contents(row.n)
            if piece.location is not None
        }
        assert contents(root / "out") == expected
        assert len(expected) == 3 * (3 * 2 + 1)


def test_every_name_comes_out_by_hand(root: Path, clock: Clock) -> None:
    facts = bash(
        EVENTS + 'events | jq -c \'select(.kind == "captured") | [.id, .name, .name_hex // ""]\'', root
    )
    with Archive(root, clock=clock) as archive:
        for line, row in zip(facts.splitlines(), every_entry(archive), strict=True):
            id_, name, name_hex = json.loads(line)
            assert id_ == row.id
            assert (bytes.fromhex(name_hex) if name_hex else name.encode()) == row.name


def test_the_chain_is_checked_by_hand(root: Path) -> None:
    assert bash(CHAIN, root) == ""
    newest = root / "journal/2026/02/16.jsonl"
    newest.write_bytes(newest.read_bytes().replace(b'"mode":420', b'"mode":511'))
    done = subprocess.run(["bash", "-eu", "-c", CHAIN], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert " line " in done.stdout


def test_a_whole_segment_is_one_zstd_file(root: Path) -> None:
    segments = sorted((root / "content").rglob("*.zst"))
    assert len(segments) > 8
    subprocess.run(["zstd", "-tq", *segments], check=True)


def test_the_newest_hash_is_kept_outside_the_chain(root: Path) -> None:
    last = bash(EVENTS + 'printf %s "$(events | tail -n 1)" | sha256sum | head -c 64', root)
    assert json.loads((root / "journal/checkpoint.json").read_bytes())["sha256"] == last


def test_sources_come_out_while_the_archive_is_in_use(root: Path, clock: Clock) -> None:
    with Archive(root, clock=clock) as archive:
        captured(archive, b"just now")
        bash(SOURCES, root)
        assert len(contents(root / "out")) == len(every_entry(archive))


def test_a_day_that_has_both_forms_counts_once(root: Path) -> None:
    plain = bash(EVENTS + "zstd -dcq journal/2026/02/14.jsonl.zst", root)
    (root / "journal/2026/02/14.jsonl").write_text(plain)
    bash(CHAIN, root)
    bash(SOURCES, root)


def test_nothing_of_the_program_is_needed(root: Path) -> None:
    """Not even its folder: everything but content/ and journal/ may be gone."""
    for file in ("catalog.sqlite", "archive.toml", "lock"):
        (root / file).unlink()
    bash(SOURCES, root)
    assert len(contents(root / "out")) == 19
