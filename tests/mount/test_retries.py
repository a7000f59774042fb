"""What is tried again by itself: faults of the machine, over restarts and kills. And who waits in a flood."""

import os
import signal
from pathlib import Path
from typing import Any

from mount_parts import Make, Mounted, archivefs, config, converter

from archivefs.states import FINAL

SOON = {"retry_delay_seconds": 0.2}


def outcomes(station: Mounted, name: str) -> list[str]:
    """How the attempts of the one entry of that name ended."""
    return [each["outcome"] for each in attempts(station, name)]


def attempts(station: Mounted, name: str) -> list[dict[str, Any]]:
    """The attempts of the one entry of that name."""
    found: list[dict[str, Any]] = station.facts(station.only(name))["attempts"]
    return found


def waiting(folder: Path, **keys: object) -> str:
    """A converter that tells its process number and waits; to write here it must not be shut in."""
    arguments = {"gate": str(folder / "gate"), "told": str(folder / "told")}
    return converter("csv", "python:good:TellsAndWaits", arguments=arguments, sandbox="off", **keys)


def worker_of(station: Mounted, folder: Path, attempt: int = 1) -> int:
    """The process that makes this attempt."""

    def told() -> int:
        words = (folder / "told").read_text().split() if (folder / "told").exists() else []
        return int(words[1]) if words[:1] == [str(attempt)] else 0

    return station.wait_for("the worker's number", told)


def test_a_worker_that_is_killed_from_outside_is_no_end(mounted: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    station = mounted(config(waiting(tmp_path, max_retries=1, **SOON)))
    station.drop("csv", "unit.csv")
    os.kill(worker_of(station, tmp_path), signal.SIGKILL)
    station.wait_for_status("unit.csv", "suspended")
    assert "killed by SIGKILL" in station.error(station.only("unit.csv"))
    station.wait_for_status("unit.csv", "converting")
    gate.touch()
    station.wait_for_status("unit.csv", "success")
    assert outcomes(station, "unit.csv") == ["transient", "success"]
    assert [each["cause"] for each in attempts(station, "unit.csv")] == ["capture", "retry"]


def test_a_module_that_arrives_later_needs_nobody_to_ask(mounted: Make) -> None:
    run = "function:bad:needs_what_is_not_there_yet"
    station = mounted(config(converter("csv", run, max_retries=50, **SOON)))
    station.drop("csv", "unit.csv")
    station.wait_for_status("unit.csv", "suspended")
    assert "No module named 'arrives_later'" in station.error(station.only("unit.csv"))
    (station.root / "converters" / "arrives_later.py").write_text("ANSWER = 42\n")
    row = station.wait_for_status("unit.csv", "success", 20)
    assert station.report(row) == {"answer": 42}
    assert set(outcomes(station, "unit.csv")) == {"transient", "success"}


def test_a_fault_that_stays_ends_as_failed_with_the_reason(mounted: Make) -> None:
    table = converter("csv", "command:no-such-program", max_retries=2, retry_delay_seconds=0.05)
    station = mounted(config(table))
    station.drop("csv", "unit.csv")
    row = station.wait_for_status("unit.csv", "failed")
    assert station.error(row).startswith("given up after 3 attempts: the program 'no-such-program' cannot be")
    assert outcomes(station, "unit.csv") == ["transient"] * 3


def test_counts_and_waits_survive_kills(mounted: Make) -> None:
    arguments = {"times": 99, "after": 1.0}
    table = converter("csv", "python:good:Later", arguments=arguments, max_retries=3)
    station = mounted(config(table))
    station.drop("csv", "unit.csv")
    for number in range(1, 4):
        station.wait_for(f"attempt {number}", lambda n=number: suspended(station, n))
        due_ms = station.only("unit.csv").due_ms
        station.kill()
        station.mount()
        assert station.only("unit.csv").due_ms == due_ms or station.only("unit.csv").attempts > number
    row = station.wait_for_status("unit.csv", "failed")
    assert station.error(row) == "given up after 4 suspended attempts: part 4 is missing\n"
    assert outcomes(station, "unit.csv") == ["suspended"] * 4


def suspended(station: Mounted, attempt: int) -> bool:
    """Whether the one entry waits after so many attempts."""
    row = station.only("unit.csv")
    return (row.status, row.attempts) == ("suspended", attempt)


def test_a_conversion_that_a_kill_interrupted_is_done_again_and_is_not_counted(
    mounted: Make, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    station = mounted(config(waiting(tmp_path, max_retries=0)))
    station.drop("csv", "unit.csv")
    for attempt in range(1, 4):
        worker_of(station, tmp_path, attempt)
        station.kill()
        station.mount()
    gate.touch()
    station.wait_for_status("unit.csv", "success")
    assert outcomes(station, "unit.csv") == ["interrupted"] * 3 + ["success"]


def test_after_a_kill_in_a_rush_everything_is_converted_and_nothing_twice(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:bad:is_slow"), workers=2))
    for number in range(30):
        station.drop("csv", f"unit {number}.csv", b"%d" % number)
    station.wait_for("some ends", lambda: sum(row.status == "success" for row in station.entries()) >= 3)
    station.kill()
    station.mount()
    station.wait_for("all ends", lambda: all(row.status in FINAL for row in station.entries()), 30)
    assert len(station.entries()) == 30
    for row in station.entries():
        assert outcomes(station, os.fsdecode(row.name)).count("success") == 1
        assert len(outcomes(station, os.fsdecode(row.name))) <= 2


def test_one_file_behind_a_flood_of_another_converter_need_not_wait_for_it(mounted: Make) -> None:
    tables = (converter("flood", "function:bad:is_slow"), converter("other", "function:bad:is_quick"))
    station = mounted(config(*tables, workers=1))
    for number in range(200):
        station.drop("flood", f"flood {number}.csv")
    station.wait_for("a beginning", lambda: any(row.status == "success" for row in station.entries()))
    station.drop("other", "unit.csv")
    station.wait_for_status("unit.csv", "success", 8)
    waiting = [row for row in station.entries() if row.status == "pending"]
    assert len(waiting) > 100


def test_a_person_asks_again_with_the_archive_unmounted(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:bad:raises")))
    station.drop("csv", "unit.csv")
    station.wait_for_status("unit.csv", "failed")
    station.umount()
    code = "def raises(path, arguments):\n    return {'mended': True}\n"
    (station.root / "converters" / "bad.py").write_text(code)
    archivefs("retry", "--archive", station.root, "status=failed")
    station.mount()
    row = station.wait_for_status("unit.csv", "success")
    assert station.report(row) == {"mended": True}
    assert [each["cause"] for each in attempts(station, "unit.csv")] == ["capture", "request"]
