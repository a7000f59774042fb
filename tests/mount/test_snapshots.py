"""Which code ran: each version is kept before it runs, attempts name it, and an edit makes the next one."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from mount_parts import Make, Mounted, archivefs, config, converter

from archivefs.catalog.rows import Entry


def write(station: Mounted, number: int, name: str = "counted.py") -> None:
    """The code of a converter that gives its number."""
    text = f"NUMBER = {number}\ndef convert(path, arguments):\n    return {{'number': NUMBER}}\n"
    (station.root / "converters" / name).write_text(text)


def converted(station: Mounted, name: str, converter: str = "csv") -> Entry:
    station.drop(converter, name)
    return station.wait_for_status(name, "success")


def kept(station: Mounted, converter: str = "csv") -> list[Path]:
    return sorted((station.root / "converters" / converter).glob("*.zip"))


@pytest.mark.parametrize("sandbox", ["strict", "limits"])
def test_an_edit_runs_with_the_next_conversion_and_both_versions_are_kept(
    mounted: Make, sandbox: str
) -> None:
    table = converter(
        "csv", "function:counted:convert", sandbox=sandbox, arguments={"limit": 3}, settle_seconds=1.2
    )
    station = mounted(config(table, workers=1), mount=False)
    write(station, 1)
    station.mount()
    rows = [converted(station, "one.csv"), converted(station, "also one.csv")]
    write(station, 2)  # noticed before the next file has settled
    rows.append(converted(station, "two.csv"))
    assert [station.report(row)["number"] for row in rows] == [1, 1, 2]
    attempts = [station.attempt(row) for row in rows]
    assert all(attempt["arguments"] == {"limit": 3} for attempt in attempts)
    first, again, second = (attempt["code"] for attempt in attempts)
    assert first == again != second
    assert {file.stem for file in kept(station)} == {first, second}
    for sha256, number in ((first, 1), (second, 2)):
        with zipfile.ZipFile(station.root / "converters" / "csv" / f"{sha256}.zip") as archive:
            assert archive.read("0/counted.py").startswith(f"NUMBER = {number}\n".encode())
    write(station, 1)
    assert station.attempt(converted(station, "three.csv"))["code"] == first
    assert len(kept(station)) == 2


def test_a_version_is_in_the_journal_before_the_attempt_that_names_it(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:good:count")))
    row = converted(station, "unit.csv")
    lines = archivefs("log", "--json", "--archive", station.root).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    (keeping,) = [event for event in events if event["kind"] == "code_kept"]
    (start,) = [event for event in events if event["kind"] == "attempt_started"]
    assert keeping["seq"] < start["seq"]
    assert keeping["sha256"] == start["code"] == station.attempt(row)["code"]
    assert keeping["files"] == len(list((station.root / "converters").glob("*.*"))) + 1  # "program"


def test_a_remount_keeps_nothing_twice(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:good:count")))
    first = station.attempt(converted(station, "1.csv"))["code"]
    station.remount()
    assert station.attempt(converted(station, "2.csv"))["code"] == first
    lines = archivefs("log", "--json", "--archive", station.root).stdout
    assert lines.count('"kind":"code_kept"') == 1


def test_what_runs_is_the_copy_and_not_what_is_being_edited(mounted: Make) -> None:
    """A module that is imported late is that of the version which runs."""
    late = "def convert(path, arguments):\n    import late\n    return {'late': late.NUMBER}\n"
    table = converter("csv", "function:early:convert", settle_seconds=0.5)
    station = mounted(config(table, workers=1), mount=False)
    (station.root / "converters" / "early.py").write_text(late)
    write(station, 1, "late.py")
    station.mount()
    station.wait_for("the version that runs", lambda: kept(station))
    row = converted(station, "unit.csv")
    assert station.report(row) == {"late": 1}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"path": ["."]}, "is the archive itself or around it"),
        ({"path": ["large"]}, "holds more than 64 MiB"),
    ],
)
def test_code_that_cannot_be_kept_is_not_run_and_its_entries_wait(
    mounted: Make, keys: dict[str, Any], reason: str
) -> None:
    tables = (converter("csv", "function:good:count", **keys), converter("other", "function:good:count"))
    station = mounted(config(*tables), mount=False, expected_log=[reason])
    (station.root / "large").mkdir()
    with (station.root / "large" / "data").open("wb") as file:
        file.truncate(65 << 20)
    station.mount()
    station.drop("csv", "unit.csv")
    converted(station, "other.csv", "other")
    assert station.only("unit.csv").status == "pending"
    health = json.loads((station.point / "health.json").read_bytes())
    assert reason in health["alarms"]["converters.csv"]
