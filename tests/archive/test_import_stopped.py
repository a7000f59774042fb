"""Imports that are killed, interrupted or meet a full disk: run again, they end with every file once."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archive_parts import (
    TOML,
    captured,
    catalog_rows,
    child_environment,
    every_entry,
    everything_is_readable,
    journal_lines,
    nothing_is_left_over,
    some_bytes,
)
from bulk_parts import Place, held, places, plant, plant_many

from archivefs.archive import Archive
from archivefs.rebuilding import rebuild
from archivefs.states import Status
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope, verify_folder

COUNT = 4000
SECONDS = 60
Many = tuple[Path, dict[Place, int]]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Many:
    """A folder of so many small files that helpers read them, and what an archive must hold of it."""
    top = tmp_path_factory.mktemp("many")
    return top, plant_many(top, COUNT)


@pytest.fixture
def made(root: Path) -> Path:
    """An empty archive that nobody has open."""
    Archive.create(root, TOML)
    return root


def command(root: Path, top: Path, *more: str) -> list[str]:
    words = ["--archive", str(root), "import", "--converter", "ict", "--json", *more, str(top)]
    return [sys.executable, "-m", "archivefs.cli.main", *words]


def begun(root: Path, top: Path) -> subprocess.Popen[str]:
    """An import that runs beside the test."""
    return subprocess.Popen(
        command(root, top), env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(root: Path, top: Path, code: int = 0) -> tuple[dict[str, Any], str]:
    """An import to its end: what it says, and its errors."""
    done = subprocess.run(
        command(root, top), env=child_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said, done.stderr


def children(pid: int) -> set[int]:
    """The helpers of a process."""
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found |= set(map(int, thread.read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(what: object, *, process: subprocess.Popen[str] | None = None) -> None:
    """Poll until ``what()`` holds, or the process has ended."""
    assert callable(what)
    deadline = time.monotonic() + SECONDS
    while not what() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ends_with_all(root: Path, many: Many) -> None:
    """Run again: every file exactly once, none to be converted, and nothing wrong anywhere."""
    top, expected = many
    with Archive(root) as archive:
        before = len(every_entry(archive))
        everything_is_readable(archive)
    said, _ = run(root, top)
    assert (said["files"], said["known"]) == (len(expected) - before, before)
    with Archive(root) as archive:
        assert held(archive) == expected
        assert {(row.status, row.reason) for row in every_entry(archive)} == {(Status.ARCHIVED, "imported")}
        nothing_is_left_over(archive)
    findings = verify_folder(root, Scope()).findings
    assert [each for each in findings if each.severity is not Severity.NOTICE] == []
    rows = catalog_rows(root)
    rebuild(root)
    assert catalog_rows(root) == rows


@pytest.mark.parametrize("seed", range(4))
def test_an_import_that_was_killed_is_run_again(made: Path, many: Many, seed: int) -> None:
    events = random.Random(seed).randrange(COUNT)
    with begun(made, many[0]) as process:
        wait_until(lambda: len(journal_lines(made)) > events, process=process)
        helpers = children(process.pid)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not any(map(is_running, helpers)))
    ends_with_all(made, many)


def test_records_that_a_killed_import_wrote_without_events_are_not_converted(made: Path, many: Many) -> None:
    """The journal is cut back, as if the kill had come between the content of a group and its events."""
    run(made, many[0])
    (day,) = (made / "journal").glob("*/*/*.jsonl")
    lines = day.read_bytes().splitlines(keepends=True)
    day.write_bytes(b"".join(lines[:-500]))
    (made / "journal/checkpoint.json").unlink()
    for file in made.glob("catalog.sqlite*"):
        file.unlink()
    with Archive(made) as archive:
        assert len(every_entry(archive)) == COUNT
    ends_with_all(made, many)


def test_an_interrupted_import_says_how_far_it_came(made: Path, many: Many, tmp_path: Path) -> None:
    top = tmp_path / "endless"
    shutil.copytree(many[0], top, copy_function=os.link)
    (top / "zzz").mkdir()
    with (top / "zzz/last.bin").open("wb") as file:
        file.truncate(32 << 30)
    with begun(made, top) as process:
        wait_until(lambda: len(journal_lines(made)) > 1000, process=process)
        helpers = children(process.pid)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate()
    assert (process.returncode, errors) == (1, "\nAborted!\n")
    wait_until(lambda: not any(map(is_running, helpers)))
    with Archive(made) as archive:
        assert json.loads(out)["files"] == len(every_entry(archive)) >= 1000
    ends_with_all(made, many)


def test_helpers_that_die_are_not_missed(made: Path, many: Many) -> None:
    killed = 0
    with begun(made, many[0]) as process:
        while process.poll() is None:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
                killed += 1
            time.sleep(0.005)
        out, errors = process.communicate()
    assert (process.returncode, "Traceback" in errors) == (0, False), errors
    assert (json.loads(out)["files"], killed > 0) == (COUNT, True)
    ends_with_all(made, many)


def test_a_folder_that_the_import_runs_in_cannot_lend_it_modules(made: Path, tmp_path: Path) -> None:
    top = tmp_path / "Done"
    expected = plant_many(top, 3000)
    (top / "pickle.py").write_text("raise SystemExit('taken over')")
    expected[(b"", b"pickle.py", b"raise SystemExit('taken over')")] = 1
    installed = [sys.executable, "-P", "-c", "from archivefs.cli.main import main; main()"]
    words = ["--archive", str(made), "import", "--converter", "ict", "."]
    done = subprocess.run(
        [*installed, *words], cwd=top, env=child_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Archive(made) as archive:
        assert held(archive) == expected


# -- a full disk -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


@pytest.mark.parametrize(("reserve", "code"), [("0", 23), ('"6 MB"', 20)])
def test_a_full_disk_ends_an_import_and_what_was_committed_stays(
    small_disk: Path, tmp_path: Path, reserve: str, code: int
) -> None:
    root = small_disk / "archive"
    Archive.create(root, TOML.replace("reserve = 0", f"reserve = {reserve}"))
    files = {b"%04d.raw" % number: some_bytes(number, 4000) for number in range(3000)}
    top = plant(tmp_path / "Done", files)
    said, errors = run(root, top, code)
    assert ("No space" if code == 23 else "reserve") in json.loads(errors)["error"]
    with Archive(root) as archive:
        assert said["files"] == len(every_entry(archive)) < 3000
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    grow(small_disk)
    ends_with_all(root, (top, places(files)))


def test_a_large_file_that_does_not_fit_ends_an_import_before_it_is_written(
    small_disk: Path, tmp_path: Path
) -> None:
    root = small_disk / "archive"
    Archive.create(root, TOML)
    files = {b"a": b"1", b"large": some_bytes(1, 20 << 20)}
    top = plant(tmp_path / "Done", files)
    _, errors = run(root, top, 23)
    assert json.loads(errors)["error"] == f"{top}/large could not be taken: No space left on device"
    with Archive(root) as archive:
        nothing_is_left_over(archive)
        captured(archive, b"goes on", b"other", "log")
    grow(small_disk)
    run(root, top)
    with Archive(root) as archive:
        assert held(archive) == {**places(files), (b"", b"other", b"goes on"): 1}
