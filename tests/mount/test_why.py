"""archivefs why: where a file is, what happened to it and what comes next, whatever it is called by."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mount_parts import Make, Mounted, archivefs, config, converter


def why(*arguments: object, code: int = 0) -> dict[str, Any]:
    """What it says as JSON."""
    done = archivefs("why", "--json", *arguments, code=code)
    said: dict[str, Any] = json.loads(done.stdout if code == 0 else done.stderr)
    return said


@pytest.fixture
def station(mounted: Make, tmp_path: Path) -> Mounted:
    """One converter for each thing that can come next."""
    tables = (
        converter("csv", "function:good:count", patterns=["*.csv"]),
        converter("bad", "function:bad:raises"),
        converter("later", "python:good:Later", arguments={"times": 9, "after": 3600}),
        converter("slow", "function:good:count", settle_seconds=3600),
        converter(
            "gate",
            "python:good:Gate",
            arguments={"gate": str(tmp_path / "gate")},
            timeout_seconds=99,
            sandbox="off",
        ),
        converter("plain", post_action="keep"),
    )
    return mounted(config(*tables, workers=2))


def test_each_status_has_its_next_step(station: Mounted) -> None:
    for name in ("csv", "bad", "later", "slow", "gate", "plain"):
        station.drop(name, f"{name}.csv")
    station.drop("csv", "notes.txt")
    station.wait_for_status("csv.csv", "success")
    station.wait_for_status("bad.csv", "failed")
    station.wait_for_status("later.csv", "suspended")
    station.wait_for_status("gate.csv", "converting")
    said = {
        name: why(station.inbox / name / f"{name}.csv") for name in ("csv", "bad", "later", "slow", "gate")
    }
    assert {name: each["status"] for name, each in said.items()} == {
        "csv": "success", "bad": "failed", "later": "suspended", "slow": "pending", "gate": "converting"
    }  # fmt: skip
    assert said["csv"]["next"] == "nothing: it is kept"
    assert (
        said["bad"]["next"] == f"nothing by itself; archivefs retry id={said['bad']['id']} converts it again"
    )
    assert (said["later"]["next"], said["slow"]["next"]) == ("attempt 2", "attempt 1")
    assert said["later"]["next_at"] > said["later"]["attempts"][0]["started_at"]
    assert said["slow"]["next_at"] > said["slow"]["captured_at"]
    assert said["gate"]["next"] == "attempt 1 ends, at the latest by timeout_seconds"
    notes = why(station.inbox / "csv" / "notes.txt")
    assert (notes["status"], notes["next"]) == ("skipped", "nothing: the name fits none of: *.csv")
    plain = why(station.inbox / "plain" / "plain.csv")
    assert plain["inbox"] == f"{station.inbox}/plain/plain.csv, until someone removes it"
    for each in said.values():
        assert Path(each["path"]).is_dir()


def test_one_file_has_many_names(station: Mounted) -> None:
    station.drop("bad", "unit.csv")
    row = station.wait_for_status("unit.csv", "failed")
    pending = [os.fsdecode(each) for each in station.places(row, "pending")]
    now = [os.fsdecode(each) for each in station.places(row, "failed")]
    inside = [f"{now[0]}/error.txt", f"{station.entry_dir(row)}/attempts/1"]
    for path in (*pending, *now, *inside, station.inbox / "bad" / "unit.csv", station.entry_dir(row)):
        assert why(path)["id"] == row.id
    for thing in (row.id, row.id[:14], "bad/unit.csv", "inbox/bad/unit.csv"):
        assert why("--archive", station.root, thing)["id"] == row.id
    station.umount()
    for path in (*pending, *now, *inside, "bad/unit.csv"):
        said = why("--archive", station.root, path)
        assert said["id"] == row.id
        assert said["path"].startswith("by-converter/bad/")


def test_of_a_name_that_was_dropped_twice_the_file_that_is_there_counts(station: Mounted) -> None:
    station.drop("plain", "unit.csv", b"first")
    first = station.entries("unit.csv")[-1]
    (station.inbox / "plain" / "unit.csv").rename(station.inbox / "plain" / "kept.csv")
    station.drop("plain", "unit.csv", b"second")
    second = station.entries("unit.csv")[-1]
    assert why(station.inbox / "plain" / "unit.csv")["id"] == second.id
    said = why("--archive", station.root, first.id)
    assert said["inbox"] == f"another file has its name there: {second.id}"
    assert said["status"] in ("archived", "superseded")


def test_what_is_not_archived_is_told_too(station: Mounted) -> None:
    (station.inbox / "csv" / ".hidden").write_text("x")
    said = why(station.inbox / "csv" / ".hidden")
    assert said["next"] == "nothing: its name says that it is no data or not finished (junk in archive.toml)"
    assert said["inbox"].endswith("/csv/.hidden, not archived")
    file = station.inbox / "csv" / "open.csv"
    # A process of its own: whoever starts another one closes, in that one, what it has open.
    script = "import sys; file = open(sys.argv[1], 'wb', 0); file.write(b'half'); print('written'); input()"
    writer = subprocess.Popen(
        [sys.executable, "-uc", script, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        said = why(file)
    finally:
        writer.communicate(b"\n")
    assert said["next"] == "it is captured when the program that writes it closes it"


def test_what_never_was_is_an_error_that_says_where_to_look(station: Mounted) -> None:
    said = why(station.inbox / "csv" / "nobody.csv", code=14)
    assert said["error"].endswith("archivefs ls 'name=*nobody.csv*' looks for it everywhere")
    assert "is a folder of entries" in why(station.point / "by-status" / "failed", code=14)["error"]
    assert "is no file or entry" in why(station.point, code=14)["error"]
    assert "is no day" in why(station.point / "by-converter/csv/today/failed/x", code=14)["error"]
    assert archivefs("why", "20260213", code=2).stderr.rstrip().endswith("set ARCHIVEFS_ARCHIVE")


def test_a_screen_for_people_has_one_line_for_each_thing(station: Mounted) -> None:
    station.drop("bad", "unit.csv")
    row = station.wait_for_status("unit.csv", "failed")
    said = archivefs("why", station.inbox / "bad" / "unit.csv").stdout.splitlines()
    assert said[0] == "file    unit.csv, bad"
    assert said[1] == f"now     failed, {row.id}"
    assert said[4].startswith("so far  2")
    assert "attempt 1 (capture) failed: ValueError: invalid literal" in said[5]
    assert said[6] == f"next    nothing by itself; archivefs retry id={row.id} converts it again"
