"""Replay with code that is not installed: of a folder, tried, kept, and never promoted."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from mount_parts import (
    Make,
    Mounted,
    archivefs,
    config,
    converter,
)
from replay_parts import SECOND, attempts, counts, past_of
from test_control import refused

past = pytest.fixture(past_of)


def test_code_that_is_not_installed_is_tried_and_never_promoted(past: Mounted, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "ict.py").write_text(SECOND)
    done = archivefs("reprocess", "--code", fresh, "--compare", "name=u0*", "--archive", past.root)
    assert done.stdout.startswith("job 1: 10 of 10 converted, 0 failed, 0 skipped\n")
    assert counts(past) == {"success": 50, "failed": 10}
    assert [each.promoted for each in attempts(past, "u05.csv")] == [1, 0]
    shutil.rmtree(fresh)
    number, said = refused(past, "reprocess", f"name=u00.csv code=path:{fresh}\n".encode())
    assert (number > 0, "path:FOLDER" in said["error"]) == (True, True)


def program(path: Path, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"""#!/bin/sh
echo '{{"version": "{version}", "beside": "'"$(cat "${{0%/*}}/beside.txt")"'", "word": "'"$1"'"}}'
""")
    path.chmod(0o755)
    (path.parent / "beside.txt").write_text(f"beside {version}")


@pytest.mark.parametrize(
    ("run", "path", "place"),
    [
        ("converters/print.sh", [], "print.sh"),
        ("tools/bin/print.sh", ["tools"], "bin/print.sh"),
        ("{folder}/installed/print.sh", [], "print.sh"),
    ],
    ids=["beside the archive's code", "in a folder of path", "installed elsewhere"],
)
def test_a_program_that_is_not_installed_is_tried_and_kept(
    mounted: Make, tmp_path: Path, run: str, path: list[str], place: str
) -> None:
    run = run.format(folder=tmp_path)
    table = converter("cmd", f"command:{run} 'a word'", settle_seconds=0, path=path)
    archive = mounted(config(table), mount=False)
    program(archive.root / run, "1")
    archive.mount()
    archive.drop("cmd", "a.txt")
    entry = archive.wait_for_status("a.txt", "success")
    assert archive.report(entry) == {"version": "1", "beside": "beside 1", "word": "a word"}
    fresh = tmp_path / "fresh folder"
    program(fresh / place, "2")
    done = archivefs("reprocess", "--code", fresh, "--compare", "converter=cmd", "--archive", archive.root)
    assert done.stdout.splitlines()[:4] == [
        "job 1: 1 of 1 converted, 0 failed, 0 skipped",
        "0 newly failing, 0 newly passing, 1 changed, 0 identical, 0 still failing, 0 incomparable",
        "  $.beside: 1",
        "  $.version: 1",
    ]
    assert archive.report(entry)["version"] == "1"
    made = archive.entry_dir(entry) / "attempts/2/report.json"
    assert json.loads(made.read_bytes()) == {"version": "2", "beside": "beside 2", "word": "a word"}
    shutil.rmtree(fresh)
    with zipfile.ZipFile(archive.root / f"converters/cmd/{archive.attempt(entry, 2)['code']}.zip") as kept:
        assert {f"0/{place}", f"0/{Path(place).parent / 'beside.txt'}"} < set(kept.namelist())
    done = archivefs("reproduce", "converter=cmd", "--archive", archive.root)
    assert done.stdout.startswith("1 of 1 reproduced")


@pytest.mark.parametrize(
    ("beside", "error"),
    [
        ({}, "the program 'print.sh' cannot be started: [Errno 2] No such file"),
        (
            {"print.sh": 0o644},
            "the program 'print.sh' cannot be started: Permission denied; is it executable",
        ),
        ({"print.sh": 0o755}, "the program 'print.sh' cannot be started: Exec format error; does it begin"),
    ],
    ids=["missing", "not executable", "no program"],
)
def test_a_program_of_a_folder_that_does_not_start_says_why(
    mounted: Make, tmp_path: Path, beside: dict[str, int], error: str
) -> None:
    archive = mounted(config(converter("cmd", "command:converters/print.sh", settle_seconds=0)), mount=False)
    program(archive.root / "converters/print.sh", "1")
    archive.mount()
    archive.drop("cmd", "a.txt")
    archive.wait_for_status("a.txt", "success")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for name, mode in beside.items():
        (fresh / name).write_bytes(b"\0")
        (fresh / name).chmod(mode)
    archivefs("reprocess", "--code", fresh, "converter=cmd", "--archive", archive.root, code=28)
    assert json.loads((archive.point / "jobs/1/errors.jsonl").read_bytes())["error"].startswith(error)


def test_a_program_of_path_has_no_code_in_a_folder(mounted: Make, tmp_path: Path) -> None:
    archive = mounted(config(converter("cmd", "command:echo {}", settle_seconds=0)))
    archive.drop("cmd", "a.txt")
    archive.wait_for_status("a.txt", "failed")
    (tmp_path / "echo").write_text("#!/bin/sh\n")
    words = ("reprocess", "--code", tmp_path, "converter=cmd", "--archive", archive.root)
    said = archivefs(*words, "--dry-run")
    assert "skipped, 1 entries: its program 'echo' is looked up in PATH" in said.stdout
    said = archivefs(*words, code=28)
    assert said.stdout == "job 1: 0 of 1 converted, 0 failed, 1 skipped\n"
    assert "'echo' is looked up in PATH" in (archive.point / "jobs/1/errors.jsonl").read_text()
