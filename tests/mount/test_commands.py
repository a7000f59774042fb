"""The commands on a mounted archive and on one that is not: same words, same answers, true exit codes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mount_parts import (
    Make,
    Mounted,
    an_archive,
    archivefs,
    command,
    config,
    converter,
    environment,
    names_in,
    sha256,
)

from archivefs import query
from archivefs.archive import Archive
from archivefs.operations import Capture
from archivefs.states import STATUSES

CSV = converter("csv", "python:good:Gate", patterns=["*.csv"])
WAITING = converter("waiting", "python:good:Gate", settle_seconds=3600)
FILES = converter("files")
TOML = config(CSV, WAITING, FILES)
STAMP_NS = 1_700_000_000_123_456_789


@pytest.fixture(scope="module", params=["mounted", "not mounted"])
def station(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """An archive with a good, a bad, a skipped and two archived sources; mounted, then one that is not."""
    with an_archive(tmp_path_factory.mktemp("commands"), TOML) as archive:
        for kind, name in (
            ("csv", "good.csv"),
            ("csv", "bad.csv"),
            ("csv", "notes.txt"),
            ("files", "a"),
            ("files", "b"),
        ):
            archive.drop(kind, name, b"content of " + name.encode())
        for name, status in (("good.csv", "success"), ("bad.csv", "failed"), ("notes.txt", "skipped")):
            archive.wait_for_status(name, status)
        if request.param == "not mounted":
            archive.umount()
        yield archive


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file to capture, with a mode and an mtime of its own."""
    file = tmp_path / "unit.csv"
    file.write_bytes(b"measured")
    file.chmod(0o640)
    os.utime(file, ns=(STAMP_NS, STAMP_NS))
    return file


def ask(station: Mounted, *arguments: object, code: int = 0) -> str:
    """What a command says about the archive."""
    return archivefs("--archive", station.root, *arguments, code=code).stdout


def lines_of_json(text: str) -> list[Any]:
    """One value a line, and nothing else."""
    return [json.loads(line) for line in text.splitlines()]


def failure(station: Mounted, *arguments: object, code: int) -> str:
    """What a command says when it fails: the same for people and, with --json, for programs."""
    said = archivefs("--archive", station.root, *arguments, code=code)
    assert said.stderr.startswith("archivefs: ")
    assert said.stdout == ""
    as_json = archivefs("--archive", station.root, *arguments, "--json", code=code)
    assert as_json.stdout == ""
    facts = json.loads(as_json.stderr)
    assert facts["exit_code"] == code
    assert f"archivefs: {facts['error']}\n" == said.stderr
    return str(facts["error"])


# -- init ----------------------------------------------------------------------------------------------


def test_init_makes_an_archive_that_can_be_used_at_once(tmp_path: Path) -> None:
    root, point = tmp_path / "new archive", tmp_path / "mnt"
    point.mkdir()
    assert f"archivefs mount {root}" in archivefs("init", root).stdout
    archivefs("mount", root, point)
    try:
        (point / "inbox" / "files" / "photo.jpg").write_bytes(b"photo")
    finally:
        archivefs("umount", point)
    (row,) = lines_of_json(archivefs("--archive", root, "ls", "--json").stdout)
    assert (row["name"], row["status"], row["size"]) == ("photo.jpg", "archived", 5)


def test_init_changes_nothing_where_something_is(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    archivefs("init", root)
    assert "already an archive" in archivefs("init", root, code=12).stderr
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a file").touch()
    assert "not an empty folder" in archivefs("init", tmp_path / "folder", code=12).stderr
    (tmp_path / "bad.toml").write_text("schema_version = 1\n[converters.csv]\nsettle = 3\n")
    done = archivefs("init", tmp_path / "other", "--config", tmp_path / "bad.toml", code=10)
    assert 'did you mean "settle_seconds"?' in done.stderr
    assert not (tmp_path / "other").exists()


# -- looking -------------------------------------------------------------------------------------------


def sizeless(text: str) -> str:
    """Without the sizes of files and disk, which change while others use it."""
    return re.sub(r"[\d.]+ .?B\b", "", text)


def test_status_counts_and_says_where_it_is_mounted(station: Mounted) -> None:
    (facts,) = lines_of_json(ask(station, "status", "--json"))
    assert facts["by_status"] == {"success": 1, "failed": 1, "skipped": 1, "archived": 2}
    assert (facts["entries"], facts["archive"]) == (5, str(station.root))
    assert facts["mountpoint"] == (str(station.point) if station.is_alive() else "")
    text = ask(station, "status")
    assert "mounted at" in text if station.is_alive() else "not mounted" in text
    assert re.search(r"csv +failed +1", text)
    for other in (
        archivefs("status", ARCHIVEFS_ARCHIVE=str(station.root)),
        archivefs("status", "--archive", station.root),
    ):
        assert sizeless(other.stdout) == sizeless(text)


QUERIES = {
    "": ["b", "a", "notes.txt", "bad.csv", "good.csv"],
    "status=failed": ["bad.csv"],
    "status=failed,skipped": ["notes.txt", "bad.csv"],
    "converter=files": ["b", "a"],
    "converter=csv name=*.csv": ["bad.csv", "good.csv"],
    "text=value": ["bad.csv"],
    "report=yes": ["good.csv"],
    "version=1.2 status=success": ["good.csv"],
    "min_size=15 max_size=19 converter=csv": ["bad.csv", "good.csv"],
    "limit=2": ["b", "a"],
    "from=2020-01-01 to=2099-12-31 limit=1": ["b"],
    "date=1999-01-01": [],
    f"sha256={sha256(b'content of a')}": ["a"],
}


@pytest.mark.parametrize("words", QUERIES)
def test_ls_lists_what_the_query_selects_newest_first(station: Mounted, words: str) -> None:
    rows = lines_of_json(ask(station, "ls", *words.split(), "--json"))
    assert [row["name"] for row in rows] == QUERIES[words]
    assert all(row["sha256"] == sha256(b"content of " + row["name"].encode()) for row in rows)


def test_ls_for_people_shows_the_same(station: Mounted) -> None:
    rows = lines_of_json(ask(station, "ls", "converter=csv", "--json"))
    _, *listed = ask(station, "ls", "converter=csv").splitlines()
    assert [line.split()[0] for line in listed] == [row["id"] for row in rows]
    assert all(row["name"] in line and row["status"] in line for row, line in zip(rows, listed, strict=True))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("statsu=failed", 'did you mean "status"?'),
        ("status=broken", "must be one of pending, converting"),
        ("failed", "write key=value"),
        ("from=yesterday", "YYYY-MM-DD"),
        ("limit=0", "at least 1"),
        ("max_size=much", "a size such as"),
    ],
)
def test_a_query_that_is_none_is_refused_with_what_is_allowed(
    station: Mounted, words: str, reason: str
) -> None:
    assert reason in failure(station, "ls", words, code=19)


def test_the_help_of_ls_names_every_key_and_show_knows_every_status(station: Mounted) -> None:
    text = archivefs("ls", "--help").stdout
    assert all(re.search(rf"\b{key}\b", text) for key in (*query.KEYS, "limit"))
    assert {row["status"] for row in lines_of_json(ask(station, "ls", "--json"))} <= set(STATUSES)


def test_show_tells_everything_about_an_entry_also_by_the_beginning_of_its_id(station: Mounted) -> None:
    row = station.only("good.csv")
    (facts,) = lines_of_json(ask(station, "show", row.id, "--json"))
    assert (facts["id"], facts["name"], facts["attempts"][0]["outcome"]) == (row.id, "good.csv", "success")
    if station.is_alive():
        assert facts == station.facts(row)
    unique = next(
        row.id[:n] for n in range(8, 26) if sum(e.id[:n] == row.id[:n] for e in station.entries()) == 1
    )
    assert lines_of_json(ask(station, "show", unique, "--json")) == [facts]
    assert "line 7: no value" in ask(station, "show", station.only("bad.csv").id)
    assert "more than one entry" in failure(station, "show", row.id[:8], code=14)
    assert "no entry" in failure(station, "show", "20200101T000000000-abcdef", code=14)
    assert "no entry" in failure(station, "show", row.id[:7], code=14)


def test_log_shows_the_journal_in_order(station: Mounted) -> None:
    events = lines_of_json(ask(station, "log", "--json"))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["kind"] for event in events].count("captured") == 5
    assert len(ask(station, "log").splitlines()) == len(events)
    (last,) = lines_of_json(ask(station, "log", "-n", "1", "--json"))
    assert last == events[-1]


def test_verify_finds_nothing_wrong_mounted_or_not(station: Mounted) -> None:
    (said,) = lines_of_json(ask(station, "verify", "--json"))
    assert (said["findings"], said["worst"]) == ([], "")
    assert said["events"] == len(ask(station, "log").splitlines())


# -- capture -------------------------------------------------------------------------------------------


def test_capture_is_as_a_save_into_the_inbox_with_name_mode_and_mtime(station: Mounted, source: Path) -> None:
    (facts,) = lines_of_json(ask(station, "capture", "--converter", "waiting", source, "--json"))
    row = station.entries("unit.csv")[-1]
    assert (facts["id"], facts["file"], row.status) == (row.id, str(source), "pending")
    assert (row.sha256, row.size, row.mtime_ns, row.mode) == (sha256(b"measured"), 8, STAMP_NS, 0o640)
    again = ask(station, "capture", "--converter", "waiting", source)
    assert again.split()[1] == str(source)
    assert source.read_bytes() == b"measured"
    assert len([row for row in station.entries() if b"capture" in row.name]) == 0


def test_capture_says_what_it_does_not_take(station: Mounted, source: Path, tmp_path: Path) -> None:
    before = len(station.entries())
    said = failure(station, "capture", "--converter", "nope", source, code=15)
    assert said == 'no converter "nope" in archive.toml; it has: csv, files, waiting'
    junk = source.rename(tmp_path / "unit.csv.tmp")
    assert "junk name" in failure(station, "capture", "--converter", "waiting", junk, code=22)
    archivefs("--archive", station.root, "capture", "--converter", "waiting", tmp_path / "missing", code=2)
    archivefs("capture", "--converter", "waiting", junk, code=2)
    assert len(station.entries()) == before


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_capture_and_restore_of_a_name_that_is_not_utf_8(
    station: Mounted, tmp_path: Path, form: list[str]
) -> None:
    name = b"caf\xe9 %d.csv" % len(form)
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    file.write_bytes(b"measured")
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    archivefs("--archive", station.root, "capture", "--converter", "waiting", file, *form, **strict)
    row = station.only(name)
    file.unlink()
    archivefs("--archive", station.root, "restore", row.id, tmp_path, *form, **strict)
    assert file.read_bytes() == b"measured"
    archivefs("--archive", station.root, "ls", "converter=waiting", *form, **strict)
    archivefs("--archive", station.root, "show", row.id, *form, **strict)


def test_capture_fails_below_the_reserve_and_says_so(mounted: Make, source: Path) -> None:
    station = mounted(config(FILES, reserve="1000 TB"), expected_log=["less free than the reserve"])
    for _ in ("mounted", "not mounted"):
        done = archivefs("--archive", station.root, "capture", "--converter", "files", source, code=None)
        assert done.returncode in (20, 23)
        assert re.search("reserve|space", done.stderr)
        assert station.entries() == []
        if station.is_alive():
            station.umount()


def test_capture_works_where_files_leave_the_inbox_at_once(mounted: Make, source: Path) -> None:
    station = mounted(config(converter("files", settle_seconds=0, linger_seconds=0)))
    for _ in range(5):
        ask(station, "capture", "--converter", "files", source)
    assert [row.name for row in station.live()] == [b"unit.csv"] * 5


# -- restore -------------------------------------------------------------------------------------------


def test_restore_brings_back_bytes_name_mtime_and_mode(
    station: Mounted, source: Path, tmp_path: Path
) -> None:
    (facts,) = lines_of_json(ask(station, "capture", "--converter", "waiting", source, "--json"))
    out = tmp_path / "out"
    out.mkdir()
    (said,) = lines_of_json(ask(station, "restore", facts["id"], out, "--json"))
    assert said == {"id": facts["id"], "file": str(out / "unit.csv"), "sha256": sha256(b"measured")}
    ask(station, "restore", facts["id"], tmp_path / "under another name")
    for file in (out / "unit.csv", tmp_path / "under another name"):
        there = file.stat()
        assert file.read_bytes() == b"measured"
        assert (there.st_mtime_ns, there.st_mode & 0o777) == (STAMP_NS, 0o640)
    assert names_in(out) == ["unit.csv"]


def test_restore_never_overwrites(station: Mounted, tmp_path: Path) -> None:
    good, bad = station.only("good.csv"), station.only("bad.csv")
    (tmp_path / "good.csv").write_bytes(b"mine")
    assert "nothing was overwritten" in failure(station, "restore", good.id, tmp_path, code=18)
    assert "exists and is no folder" in failure(station, "restore", good.id, tmp_path / "good.csv", code=18)
    assert "is no folder" in failure(station, "restore", good.id, bad.id, tmp_path / "new", code=18)
    archivefs("--archive", station.root, "restore", good.id, bad.id, tmp_path, code=18)
    assert (tmp_path / "good.csv").read_bytes() == b"mine"
    assert (tmp_path / "bad.csv").read_bytes() == b"content of bad.csv"
    assert names_in(tmp_path) == ["bad.csv", "good.csv"]


def test_restore_of_several_goes_to_a_folder(station: Mounted, tmp_path: Path) -> None:
    rows = [station.only(name) for name in ("good.csv", "bad.csv", "a")]
    said = lines_of_json(ask(station, "restore", *(row.id for row in rows), tmp_path, "--json"))
    assert [each["id"] for each in said] == [row.id for row in rows]
    for row in rows:
        assert sha256((tmp_path / row.name.decode()).read_bytes()) == row.sha256
    assert "no entry" in failure(station, "restore", "20200101T000000000-abcdef", tmp_path, code=14)


# -- rebuild, umount, help -----------------------------------------------------------------------------


def test_rebuild_is_refused_while_mounted_and_makes_the_same_catalog_otherwise(mounted: Make) -> None:
    station = mounted(config(CSV))
    station.drop("csv", "good.csv")
    station.wait_for_status("good.csv", "success")
    assert f"mounted at {station.point}" in failure(station, "rebuild", code=13)
    station.umount()
    before = station.entries()
    (station.root / "catalog.sqlite").unlink()
    (said,) = lines_of_json(ask(station, "rebuild", "--json"))
    assert said["events"] == len(ask(station, "log").splitlines())
    assert station.entries() == before


def test_a_listing_that_someone_still_reads_does_not_keep_the_mount_out(mounted: Make) -> None:
    station = mounted(config(FILES), mount=False)
    with Archive(station.root) as archive:
        archive.commit([Capture("files", b"n" * 200, b"%d" % n, mtime_ns=n) for n in range(1000)])
    listing = subprocess.Popen(
        command("--archive", station.root, "ls", "--json"), env=environment(), stdout=subprocess.PIPE
    )
    with listing:
        assert listing.stdout is not None
        assert json.loads(listing.stdout.readline())["status"] == "archived"
        station.mount()
        assert len(listing.stdout.readlines()) == 999
    assert listing.returncode == 0


def test_what_is_no_archive_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    for words in (["ls"], ["status"], ["log"], ["rebuild"], ["show", "20260101"]):
        done = archivefs("--archive", tmp_path / "nowhere", *words, code=11)
        assert "is not an archive" in done.stderr
    assert "is not an archive" in archivefs("mount", tmp_path / "nowhere", tmp_path / "mnt", code=11).stderr
    assert "which archive?" in archivefs("ls", code=2).stderr


def test_umount_of_what_is_not_mounted_says_what_is(mounted: Make) -> None:
    station = mounted(config(FILES))
    for place in (station.root.parent, station.root.parent / "missing", station.point / "inbox"):
        assert str(station.point) in archivefs("umount", place, code=33).stderr
    assert station.is_alive()


BLOCKED = """\
import sys
sys.modules["pyfuse3"] = None
from archivefs.cli.main import main
sys.argv[0] = "archivefs"
main()
"""
COMMANDS = [
    "init",
    "mount",
    "umount",
    "status",
    "ls",
    "show",
    "log",
    "capture",
    "import",
    "restore",
    "rebuild",
]


def blocked(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine whose Python has no pyfuse3."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, arguments)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_help_and_version_need_no_fuse() -> None:
    assert re.fullmatch(r"archivefs, version \d+\.\d+\S*\n", blocked("--version").stdout)
    text = blocked("--help").stdout
    for name in COMMANDS:
        assert re.search(rf"(?m)^  {name} ", text)
        assert blocked(name, "--help").stdout.startswith(f"Usage: archivefs {name} ")


def test_without_pyfuse3_all_but_mounting_works(tmp_path: Path, source: Path) -> None:
    root, point = tmp_path / "archive", tmp_path / "mnt"
    point.mkdir()
    assert blocked("init", root).returncode == 0
    assert blocked("--archive", root, "capture", "--converter", "files", source).returncode == 0
    assert "unit.csv" in blocked("--archive", root, "ls").stdout
    for how in ([], ["-f"]):
        done = blocked("mount", *how, root, point)
        assert (done.returncode, "pip install 'archivefs[mount]'" in done.stderr) == (31, True)


def test_an_option_that_mount_does_not_know_is_named(tmp_path: Path) -> None:
    archivefs("init", tmp_path / "archive")
    (tmp_path / "mnt").mkdir()
    for words, reason in (
        ("nonsense", "unknown option"),
        ("uid=me", "must be a number"),
        ("umask=9", "octal"),
    ):
        said = archivefs("mount", "-o", words, tmp_path / "archive", tmp_path / "mnt", code=30).stderr
        assert f"-o {words}: " in said
        assert reason in said
    archivefs("mount", "-o", "rw,nofail,_netdev,x-systemd.automount", tmp_path / "archive", tmp_path / "mnt")
    archivefs("umount", tmp_path / "mnt")
