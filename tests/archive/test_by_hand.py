"""The archive without the program: the scripts of docs/format.md get every byte and every fact out.

They are run as they are printed; what they need is bash, zstd, jq and the coreutils.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from archive_parts import (
    DAY,
    ROOT,
    Clock,
    capture,
    captured,
    commit,
    converted,
    every_entry,
    make,
    measured,
    some_bytes,
    trained,
)
from retention_parts import left, purge

from archivefs.archive import Archive
from archivefs.jobs import repack
from archivefs.jobs.replaying import RecordReplay
from archivefs.names import hex_if_needed, original, text
from archivefs.operations import BeginAttempt, Report, Touch
from archivefs.states import Outcome
from archivefs.store.segment import scan
from archivefs.transaction import Operation


def scripts() -> dict[str, str]:
    """The scripts of the page by the heading they stand under, each with those before it in its section."""
    page = (ROOT / "docs" / "format.md").read_text().partition("\n## By hand\n")[2]
    found = {}
    for section in page.split("\n### ")[1:]:
        heading = section.partition("\n")[0]
        for number, block in enumerate(re.findall(r"(?ms)^```bash\n(.*?)^```$", section)):
            found[f"{heading} {number}"] = block
    return found


SCRIPTS = scripts()
EXTRACT = SCRIPTS["Everything 0"]
EVENTS, LIST = (
    SCRIPTS["A list, and one entry 0"].rpartition("}\n")[0] + "}\n",
    SCRIPTS["A list, and one entry 0"],
)
ONE = SCRIPTS["A list, and one entry 1"]
STATUS = SCRIPTS["A list, and one entry 2"]
CHAIN = SCRIPTS["The chain 0"]
RECORDS = SCRIPTS["Segments without a journal 1"]


def bash(script: str, folder: Path, *arguments: object) -> str:
    done = subprocess.run(
        ["bash", "-eu", "-c", script, "bash", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def repacked(archive: Archive) -> list[repack.Result]:
    """Repack all finished days."""

    def one(operation: Operation[object]) -> object:
        return commit(archive, operation)[0]

    return [repack.repack(archive, group, one) for group in repack.groups(archive, None, everything=False)]


@pytest.fixture
def root(template: Path, tmp_path: Path, clock: Clock) -> Path:
    """A copy of the archive, at the moment at which it was closed."""
    clock.turn(4 * DAY)
    return Path(shutil.copytree(template, tmp_path / "archive"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of five days, four of them sealed, with sources and reports of all kinds; closed.

    The first two were repacked, then dictionaries came, and on the fourth day another one.
    """
    root, clock = tmp_path_factory.mktemp("by hand") / "archive", Clock()
    with make(root, clock) as archive:
        for day in range(4):
            if day == 2:
                trained(archive, "ict", "sources")
                trained(archive, "ict", "reports")
                assert len(repacked(archive)) > 4
            for number, size in enumerate((0, 1, 700, 70_000)):
                name = (b"a.csv", b"two\nlines \xff.csv", "mål $(ls) 'x'.csv".encode(), b"*")[number]
                receipt = captured(archive, some_bytes(day * 10 + number, size), name, "ict")
                if receipt.status == "pending":
                    converted(archive, receipt.id, b'{"day":%d}' % day)
            for number in range(3):
                measured_id = captured(archive, measured(10 * day + number), b"m %d.csv" % number, "ict").id
                converted(archive, measured_id, measured(100 * day + number))
            commit(archive, Touch(measured_id, 1_700_000_000_000_000_000, 0o600, 0, 0))
            commit(archive, capture(some_bytes(day, 2_500_000), b"large.bin"))
            log_only = captured(archive, b"log %d" % day, converter="log")
            converted(archive, log_only.id, converter="log")
            if day < 3:
                clock.turn(DAY)
        trained(archive, "ict", "sources")
        captured(archive, measured(1000), b"another dictionary.csv", "ict")
        archive.keep_house()
        clock.turn(DAY)
        commit(archive, BeginAttempt(captured(archive, b"still running", converter="ict").id, "capture"))
        archive.keep_house()
    assert sorted(file.name for file in (root / "journal").rglob("*.jsonl*")) == [
        "13.jsonl.zst", "14.jsonl.zst", "15.jsonl.zst", "16.jsonl.zst", "17.jsonl",
    ]  # fmt: skip
    segments = {str(file.relative_to(root / "content/2026/02")) for file in root.rglob("ict.sources*.zst")}
    assert segments == {
        "13/ict.sources.2.zst", "14/ict.sources.2.zst", "15/ict.sources.zst", "16/ict.sources.zst",
        "16/ict.sources.2.zst", "17/ict.sources.zst",
    }  # fmt: skip
    return root


def contents(archive: Archive) -> dict[bytes, bytes]:
    """Every source, log and report, by the path under which the page's script writes it."""
    found = {}
    for row in left(archive):
        place = archive.reader.location(row)
        found[row.id.encode() + b"/source/" + row.name] = archive.content.read(place, row.size)
        for piece in archive.reader.contents(row.n):
            if piece.location is not None:
                path = f"{row.id}/attempts/{piece.attempt}/{piece.name}".encode()
                found[path] = archive.content.read(piece.location, piece.size)
    return found


def extracted(folder: Path) -> dict[bytes, bytes]:
    top = bytes(folder) + b"/"
    return {
        bytes(file).removeprefix(top): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "events.jsonl"
    }


def test_everything_comes_out_by_hand(root: Path, clock: Clock, tmp_path: Path) -> None:
    bash(EXTRACT, tmp_path, root, tmp_path / "out")
    with Archive(root, clock=clock) as archive:
        expected = contents(archive)
        assert extracted(tmp_path / "out") == expected
        assert len(expected) == 4 * (9 + 6 * 2 + 1) + 2
        for row in every_entry(archive):
            facts = (tmp_path / "out" / row.id / "source").iterdir()
            assert [file.stat().st_mtime_ns for file in facts] == [row.mtime_ns // 10**9 * 10**9]


def test_every_event_comes_out_by_hand(root: Path, tmp_path: Path) -> None:
    bash(EXTRACT, tmp_path, root, tmp_path / "out")
    lines = (tmp_path / "out" / "events.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines == bash(EVENTS + "events", root).encode().splitlines()


def test_one_entry_comes_out_by_hand(root: Path, clock: Clock, tmp_path: Path) -> None:
    with Archive(root, clock=clock) as archive:
        rows = [row for row in every_entry(archive) if row.name.startswith((b"m 1", b"large", b"another"))]
        for row in rows:
            script = re.sub(r"(?m)^id=.*$", f"id={row.id}", ONE).replace(
                "/tmp/entry", str(tmp_path / "entry")
            )
            assert bash(EVENTS + script, root) == f"{tmp_path / 'entry'}: OK\n"
            place = archive.reader.location(row)
            assert (tmp_path / "entry").read_bytes() == archive.content.read(place, row.size)
    assert len(rows) == 9


def test_every_name_comes_out_by_hand(root: Path, clock: Clock) -> None:
    exact = 'events | jq -c \'select(.kind == "captured") | [.id, .name, .name_hex // ""]\''
    facts = bash(EVENTS + exact, root)
    with Archive(root, clock=clock) as archive:
        for line, row in zip(facts.splitlines(), every_entry(archive), strict=True):
            id_, name, name_hex = json.loads(line)
            assert (id_, original(name, name_hex)) == (row.id, row.name)
            assert (name, name_hex) == (text(row.name), hex_if_needed(row.name))
        listed = bash(LIST, root).splitlines()
        assert [line.split("\t")[0] for line in listed] == [row.id for row in every_entry(archive)]


def test_every_status_comes_out_by_hand(root: Path, clock: Clock) -> None:
    said = dict(line.split(" ") for line in bash(EVENTS + STATUS, root).splitlines())
    assert said.pop(max(said)) == "converting"
    with Archive(root, clock=clock) as archive:
        assert said == {row.id: row.status for row in every_entry(archive)[:-1]}


def test_what_was_purged_is_passed_over_by_hand(root: Path, clock: Clock, tmp_path: Path) -> None:
    with Archive(root, clock=clock) as archive:
        before = len(every_entry(archive))
        gone = purge(archive, "name=a.csv,m 1.csv,m 2.csv", "to=2026-02-16")["purged"]
        assert gone == 4 + 2 * 4
        expected, statuses = contents(archive), {row.id: row.status for row in left(archive)}
        assert len(statuses) + gone == before
    bash(EXTRACT, tmp_path, root, tmp_path / "out")
    assert extracted(tmp_path / "out") == expected
    said = dict(line.split(" ") for line in bash(EVENTS + STATUS, root).splitlines())
    assert {id_: status for id_, status in said.items() if status != "purged"} == statuses
    assert list(said.values()).count("purged") == gone
    test_the_records_of_a_segment_are_listed_by_hand(root)


def test_the_chain_is_checked_by_hand(root: Path) -> None:
    count = len(bash(EVENTS + "events", root).splitlines())
    noted = json.loads((root / "journal/checkpoint.json").read_bytes())
    assert bash(EVENTS + CHAIN, root) == f"{count} {noted['sha256']}\n"
    assert noted["seq"] == count
    newest = root / "journal/2026/02/17.jsonl"
    newest.write_bytes(newest.read_bytes().replace(b'"mode":420', b'"mode":511'))
    assert bash(EVENTS + CHAIN, root) == f"line {count} does not follow the one before it\n"


def test_the_records_of_a_segment_are_listed_by_hand(root: Path) -> None:
    for file in sorted((root / "content").rglob("*.zst")):
        name = str(file.relative_to(root / "content"))
        script = re.sub(r"(?m)^segment=\S+", f"segment=content/{name}", RECORDS)
        listed = [json.loads(line) for line in bash(script, root).splitlines()]
        there = [
            [each.location.offset, header.kind, header.id, header.name, header.size]
            + ([header.dictionary] if header.dictionary else [])
            for each in scan(file, name)
            for header in [each.header]
        ]
        assert listed == there


def test_a_whole_segment_is_one_zstd_file_also_with_a_dictionary(root: Path) -> None:
    segments, used = sorted((root / "content").rglob("*.zst")), set()
    for file in segments:
        headers = [record.header for record in scan(file, file.name)]
        (name,) = {header.dictionary for header in headers}
        used.add(name)
        options = ["-D", root / f"dictionaries/{name}.zdict"] if name else []
        done = subprocess.run(["zstd", "-dcq", *options, file], capture_output=True, check=True)
        assert len(done.stdout) == sum(header.size for header in headers)
    assert len(segments) > 12
    assert used == {"", "ict-1", "ict-2", "ict-3"}


def test_everything_comes_out_while_the_archive_is_in_use(root: Path, clock: Clock, tmp_path: Path) -> None:
    with Archive(root, clock=clock) as archive:
        captured(archive, b"just now")
        bash(EXTRACT, tmp_path, root, tmp_path / "out")
        assert extracted(tmp_path / "out") == contents(archive)


def test_a_day_that_has_both_forms_counts_once(root: Path, tmp_path: Path) -> None:
    bash(EXTRACT, tmp_path, root, tmp_path / "before")
    plain = subprocess.run(
        ["zstd", "-dcq", root / "journal/2026/02/14.jsonl.zst"], capture_output=True, check=True
    )
    (root / "journal/2026/02/14.jsonl").write_bytes(plain.stdout)
    bash(EXTRACT, tmp_path, root, tmp_path / "after")
    assert extracted(tmp_path / "after") == extracted(tmp_path / "before")


def test_nothing_of_the_program_is_needed(root: Path, clock: Clock, tmp_path: Path) -> None:
    """Not even its folder: everything but content/, dictionaries/ and journal/ may be gone."""
    with Archive(root, clock=clock) as archive:
        expected = contents(archive)
    for file in ("catalog.sqlite", "archive.toml", "lock"):
        (root / file).unlink()
    bash(EXTRACT, tmp_path, root, tmp_path / "out")
    assert extracted(tmp_path / "out") == expected


def test_what_was_replayed_comes_out_by_hand(root: Path, clock: Clock, tmp_path: Path) -> None:
    """A replay that stands beside leaves the status, a promoted one gives its own."""
    with Archive(root, clock=clock) as archive:
        rows = [row for row in every_entry(archive) if row.status in ("success", "skipped", "archived")]
        beside, promoted = rows[0], next(row for row in rows if row.status != "success")
        for row, promote in ((beside, False), (promoted, True)):
            commit(
                archive,
                RecordReplay(
                    id=row.id, converter="ict", attempt=0, outcome=Outcome.SUCCESS, status=row.status,
                    started_ms=archive.now_ms(), duration_ms=1, job=1, promote=promote,
                    reports=[Report("report.json", b'{"replayed": %d}' % promote)],
                ),
            )  # fmt: skip
        expected = contents(archive)
        now = {row.id: row.status for row in every_entry(archive)}
    assert now[promoted.id] == "success"
    assert dict(line.split(" ") for line in bash(EVENTS + STATUS, root).splitlines()) == now
    bash(EXTRACT, tmp_path, root, tmp_path / "out")
    assert extracted(tmp_path / "out") == expected
    assert sum(b'"replayed"' in each for each in expected.values()) == 2
