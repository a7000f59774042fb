"""capture of folders, mounted or not, and import: same rules, true exit codes, the same in JSON."""

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mount_parts import (
    Make,
    Mounted,
    archivefs,
    command,
    config,
    converter,
    environment,
    names_in,
    poll,
    sha256,
)

CSV = converter("csv", "python:good:Gate", patterns=["*.csv"])
WAITING = converter("waiting", "python:good:Gate", settle_seconds=3600)
FILES = converter("files", linger_seconds=0)
TOML = config(CSV, WAITING, FILES)
STAMP_NS = 1_700_000_000_123_456_789
CONTENTS = {"unit.csv": b"value;1\n", "2024/01/unit.csv": b"value;2\n", "2024/caf\udce9.csv": b"value;3\n"}
BOUND = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]
"""Root, but bound by the modes of files as others are."""


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A folder of old files, with junk and a link in it."""
    top = tmp_path / "Done"
    for name, content in CONTENTS.items():
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o640)
        os.utime(file, ns=(STAMP_NS, STAMP_NS))
    (top / "2024/Thumbs.db").touch()
    (top / "link").symlink_to("/etc/passwd")
    return top


@pytest.fixture(params=["mounted", "not mounted"])
def station(request: pytest.FixtureRequest, mounted: Make) -> Mounted:
    """An empty archive, mounted or not."""
    return mounted(TOML, mount=request.param == "mounted")


@pytest.fixture
def alone(mounted: Make) -> Mounted:
    """An empty archive that is not mounted."""
    return mounted(TOML, mount=False)


def ask(
    station: Mounted, *arguments: object, code: int = 0, under: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return archivefs("--archive", station.root, *arguments, code=code, under=under)


def lines_of_json(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def held(station: Mounted) -> dict[str, bytes]:
    """The contents' hashes by path below the folder; each file must be there once."""
    rows = [(os.fsdecode(row.folder + b"/" + row.name).lstrip("/"), row) for row in station.entries()]
    assert len(dict(rows)) == len(rows)
    return {path: row.sha256.encode() for path, row in rows}


def expected(*without: str) -> dict[str, bytes]:
    return {path: sha256(content).encode() for path, content in CONTENTS.items() if path not in without}


def shown(top: Path, path: str) -> str:
    return os.fsencode(top / path).decode("utf-8", "replace")


# -- capture of folders --------------------------------------------------------------------------------


def test_capture_of_a_folder_takes_all_that_is_below_it(station: Mounted, done: Path) -> None:
    said = ask(station, "capture", "--converter", "waiting", done, "--json")
    captured = lines_of_json(said.stdout)
    assert {each["file"] for each in captured} == {shown(done, path) for path in CONTENTS}
    assert lines_of_json(said.stderr) == [
        {"file": f"{done}/link", "error": "a symbolic link, which is not followed"}
    ]
    assert held(station) == expected()
    rows = {row.id: row for row in station.entries()}
    assert rows.keys() == {each["id"] for each in captured}
    for row in rows.values():
        assert (row.status, row.mtime_ns, row.mode) == ("pending", STAMP_NS, 0o640)
    assert names_in(done) == ["2024", "link", "unit.csv"]
    lines = ask(station, "capture", "--converter", "waiting", done).stdout.splitlines()
    assert sorted(line.split("  ")[1] for line in lines) == sorted(shown(done, path) for path in CONTENTS)


def test_capture_of_files_and_folders_together_keeps_their_order(station: Mounted, done: Path) -> None:
    given = [done / "unit.csv", done / "2024/01", done / "link", done / "2024/01/unit.csv"]
    lines = ask(station, "capture", "--converter", "files", *given).stdout.splitlines()
    paths = [str(done / path) for path in ("unit.csv", "2024/01/unit.csv", "link", "2024/01/unit.csv")]
    assert [line.split("  ")[1] for line in lines] == paths
    rows = {row.id: row for row in station.entries()}
    assert [rows[line.split()[0]].folder for line in lines] == [b""] * 4


def test_capture_through_the_mount_leaves_nothing_half_done_in_the_inbox(mounted: Make, done: Path) -> None:
    station = mounted(TOML)
    ask(station, "capture", "--converter", "files", done)
    inbox = station.inbox / "files"
    station.wait_for("empty inbox", lambda: not [each for each in inbox.rglob("*") if each.is_file()])
    assert names_in(inbox) == ["2024"]


def test_what_cannot_be_read_is_named_and_the_rest_is_captured(station: Mounted, done: Path) -> None:
    (done / "unit.csv").chmod(0)
    (done / "2024/01").chmod(0)
    said = ask(station, "capture", "--converter", "files", done, "--json", code=28, under=BOUND)
    *named, last = lines_of_json(said.stderr)
    assert last == {"error": "files that could not be read: 2", "exit_code": 28}
    denied = {"error": "Permission denied", "exit_code": 28}
    link = {"file": f"{done}/link", "error": "a symbolic link, which is not followed"}
    assert sorted(named, key=lambda each: str(each["file"])) == [
        {"file": f"{done}/2024/01", **denied}, link, {"file": f"{done}/unit.csv", **denied},
    ]  # fmt: skip
    assert held(station) == expected("unit.csv", "2024/01/unit.csv")
    text = ask(station, "capture", "--converter", "files", done / "unit.csv", code=28, under=BOUND).stderr
    assert text == (
        f"archivefs: {done}/unit.csv: Permission denied\narchivefs: files that could not be read: 1\n"
    )


def test_a_named_file_that_is_none_is_an_error(station: Mounted, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    said = ask(station, "capture", "--converter", "files", tmp_path / "pipe", code=28)
    assert f"{tmp_path}/pipe: neither a file nor a folder" in said.stderr


def test_the_archive_itself_is_not_captured(station: Mounted, tmp_path: Path, done: Path) -> None:
    for inside in (station.root, station.root / "journal"):
        assert (
            "lies in the archive itself"
            in ask(station, "capture", "--converter", "files", inside, code=2).stderr
        )
    if station.is_alive():
        assert ask(station, "capture", "--converter", "files", station.point, code=2).stdout == ""
    around = station.root.parent
    shutil.copytree(done, around / "Done", symlinks=True)
    (around / "given.toml").unlink()
    said = ask(station, "capture", "--converter", "files", around)
    assert f"{station.root}: the archive itself" in said.stderr
    assert held(station) == {f"Done/{path}": content for path, content in expected().items()}


def test_a_file_that_someone_else_writes_is_named_or_whole_lines(station: Mounted, done: Path) -> None:
    busy = done / "busy.csv"
    writing = 'for n in $(seq 100000); do echo line >> "$0"; done'
    with subprocess.Popen(["sh", "-c", writing, str(busy)]) as writer:
        try:
            poll("first line", busy.exists)
            said = archivefs("--archive", station.root, "capture", "--converter", "files", done, code=None)
        finally:
            writer.kill()
    if said.returncode == 28:
        assert f"{busy}: it changes while it is read" in said.stderr
        assert held(station) == expected()
    else:  # the writer rested for a moment
        row = station.only("busy.csv")
        assert row.sha256 == sha256(b"line\n" * (row.size // 5))


# -- import --------------------------------------------------------------------------------------------

NOTHING = {"known": 0, "junk": 1, "link": 1, "special": 0, "failed": 0, "dry_run": False}


def imported(
    station: Mounted, *arguments: object, code: int = 0, under: Sequence[str] = ()
) -> dict[str, Any]:
    """What an import says as JSON, without what cannot be foretold."""
    said: dict[str, Any] = json.loads(
        ask(station, "import", *arguments, "--json", code=code, under=under).stdout
    )
    assert said.pop("seconds") >= 0
    said.pop("stored")
    return said


def test_import_archives_a_folder_and_passes_over_what_it_has(alone: Mounted, done: Path) -> None:
    to = ("--converter", "csv", done)
    assert imported(alone, *to) == {"files": 3, "bytes": 24, **NOTHING}
    assert held(alone) == expected()
    rows = alone.entries()
    assert {(row.status, row.reason, row.mtime_ns) for row in rows} == {("archived", "imported", STAMP_NS)}
    assert imported(alone, *to) == {"files": 0, "bytes": 0, **NOTHING, "known": 3}
    assert imported(alone, *to, "--again") == {"files": 3, "bytes": 24, **NOTHING}
    assert len(alone.entries()) == 6
    events = lines_of_json(ask(alone, "log", "--json").stdout)
    assert {event["actor"]["program"] for event in events[1:]} == {"archivefs import"}


def test_import_tells_people_in_a_line(alone: Mounted, done: Path) -> None:
    said = ask(alone, "import", "--converter", "files", done)
    assert said.stdout.startswith("imported 3 files with 24 B as ")
    assert said.stdout.endswith("; left out: junk names 1, symbolic links 1\n")
    assert said.stderr == f"archivefs: {done}/link: a symbolic link, which is not followed\n"
    said = ask(alone, "import", "--converter", "files", done, "--dry-run")
    end = "left out: in the archive already 3, junk names 1, symbolic links 1"
    assert said.stdout == f"would import 0 files with 0 B; {end}\n"


def test_what_is_imported_is_converted_only_if_that_is_asked_for(alone: Mounted, done: Path) -> None:
    imported(alone, "--converter", "csv", done)
    (done / "notes.txt").write_bytes(b"nothing to convert")
    for name in CONTENTS:
        os.utime(done / name, ns=(0, STAMP_NS + 1))
    imported(alone, "--converter", "csv", done, "--convert")
    alone.mount()
    for _ in range(3):
        alone.wait_for("conversions", lambda: [row.status for row in alone.entries()].count("success") == 3)
    statuses = sorted(str(row.status) for row in alone.entries())
    assert statuses == ["archived"] * 3 + ["skipped"] + ["success"] * 3
    assert {row.mtime_ns for row in alone.entries() if row.status == "success"} == {STAMP_NS + 1}


def test_import_is_refused_while_the_archive_is_mounted(mounted: Make, done: Path) -> None:
    station = mounted(TOML)
    for form in ([], ["--json"]):
        said = ask(station, "import", "--converter", "csv", done, *form, code=13)
        assert said.stdout == ""
        assert f"is mounted at {station.point}" in said.stderr
        assert f"archivefs umount {station.point}" in said.stderr
    assert imported(station, "--converter", "csv", done, "--dry-run")["files"] == 3
    assert station.entries() == []
    assert station.is_alive()


def test_import_names_what_it_cannot_read_and_goes_on(alone: Mounted, done: Path) -> None:
    (done / "unit.csv").chmod(0)
    for more in (["--dry-run"], []):
        said = imported(alone, "--converter", "csv", done, *more, code=28, under=BOUND)
        assert (said["files"], said["failed"]) == (2, 1)
    (done / "unit.csv").chmod(0o600)
    assert imported(alone, "--converter", "csv", done)["known"] == 2
    assert held(alone) == expected()


def test_a_folder_that_cannot_be_read_at_all_is_named(alone: Mounted, done: Path) -> None:
    done.chmod(0)
    said = ask(alone, "import", "--converter", "csv", done, code=28, under=BOUND)
    assert f"archivefs: {done}: Permission denied" in said.stderr


def test_import_says_what_it_does_not_take(alone: Mounted, done: Path) -> None:
    assert "it has: csv, files, waiting" in ask(alone, "import", "--converter", "nope", done, code=15).stderr
    for words in ([done / "unit.csv"], [done / "missing"], [done, done], []):
        ask(alone, "import", "--converter", "csv", *words, code=2)
    said = ask(alone, "import", "--converter", "csv", alone.root / "content", code=2)
    assert "lies in the archive itself" in said.stderr
    assert not (alone.root / "catalog.sqlite").exists()


def test_import_fails_below_the_reserve(mounted: Make, done: Path) -> None:
    station = mounted(config(FILES, reserve="1000 TB"), mount=False)
    said = imported(station, "--converter", "files", done, code=20)
    assert said["files"] == 0
    assert station.entries() == []


def test_a_bar_shows_on_a_terminal_only(alone: Mounted, done: Path) -> None:
    ours, theirs = pty.openpty()
    words = ["--archive", alone.root, "import", "--converter", "files", done]
    with subprocess.Popen(
        command(*words), env=environment() | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # EIO: the other side is closed
                break
        assert process.stdout is not None
        assert process.stdout.read().startswith(b"imported 3 files")
    os.close(ours)
    assert process.returncode == 0
    assert b"importing" in seen
    assert b"a symbolic link, which is not followed" in seen
