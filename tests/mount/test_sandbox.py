"""Converters that mean it: each ends as a failed attempt that says why, and harms nobody else."""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mount_parts import Make, Mounted, an_archive, archivefs, config, converter, poll

from archivefs.states import FINAL

MIB = 1 << 20


class Case(NamedTuple):
    """A function of hostile.py, what its error.txt must say (a pattern), and the keys of its table."""

    name: str
    error: str
    keys: Mapping[str, Any]


def case(name: str, error: str, **keys: object) -> Case:
    """One with small limits, unless it says otherwise."""
    return Case(name, error, {"memory_mb": 256, "tmp_mb": 16, "timeout_seconds": 20, **keys})


CASES = [
    case("forks", "BlockingIOError: .*processes bounds how many it may start|timed out", timeout_seconds=5),
    case("hogs_with_children", r"\d children, then .*Resource temporarily unavailable", processes=8),
    case("spins", "more processor time than cpu_seconds allows", cpu_seconds=1),
    case("writes_one_large_file", "No space left on device.*tmp_mb|File too large.*tmp_mb"),
    case("writes_many_files", "No space left on device.*tmp_mb bounds"),
    case("writes_where_it_can", r'RuntimeError: \{"/tmp": \d+, "/dev/shm": \d+\}'),
    case("prints_for_ever", "File too large; tmp_mb bounds"),
    case("reads_passwords", "FileNotFoundError: .*/etc/passwd"),
    case("reads_other_sources", r"found \['/archivefs/source/reads_other_sources'\], processes \[1, 2\]"),
    case("connects", "ConnectionRefusedError|Network is unreachable"),
    case("kills_its_parent", r"tried to kill them"),
    case("links_out", "FileNotFoundError: .*/tmp/out"),
    case("becomes_root", r"(not permitted|Invalid argument)'(, 'Operation not permitted'){2}\] True True "
                         r".*CapPrm:\\t0+'.*CapEff:\\t0+'.*NoNewPrivs:\\t1"),
    case("interrupts_the_protocol", "the converter disturbed the worker's answer"),
    case("cannot_be_written", "report 1 is not JSON: Object of type socket"),
    case("is_too_large", "the reports are larger than 64 MiB together", memory_mb=2048, tmp_mb=512),
    case("lies_about_its_reports", "the converter disturbed the worker's answer"),
    case("exits_in_the_middle", "the converter ended the worker process with exit status 0"),
]  # fmt: skip


class Hostile(NamedTuple):
    """All of them in one archive, with an honest converter beside them, and what they would harm."""

    archive: Mounted
    victim: Path
    listening: socket.socket


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    folder = tmp_path_factory.mktemp("hostile")
    victim = folder / "victim"
    victim.write_text("whole")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        given = {
            "connects": {"port": listening.getsockname()[1]},
            "links_out": {"victim": str(victim)},
            "kills_its_parent": {"daemon": 1},
        }
        tables = [
            converter(
                each.name, f"function:hostile:{each.name}", arguments=given.get(each.name, {}), **each.keys
            )
            for each in CASES
        ]
        honest = converter("honest", "function:good:count", priority=1)
        with an_archive(folder, config(*tables, honest, workers=3)) as archive:
            for each in CASES:
                archive.drop(each.name, each.name, b"the other's secret")
            yield Hostile(archive, victim, listening)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_converter_fails_with_a_true_reason(station: Hostile, case: Case) -> None:
    archive = station.archive
    row = archive.wait_for_status(case.name, "failed", 60)
    error = archive.error(row)
    assert re.search(case.error, error, re.DOTALL), error
    assert archive.content(row) == b"the other's secret"
    assert not (archive.entry_dir(row) / "report.json").exists()
    archive.drop("honest", f"beside {case.name}", b"measured")
    archive.wait_for_status(f"beside {case.name}", "success")


def test_nothing_and_nobody_else_is_harmed(station: Hostile) -> None:
    archive = station.archive
    archive.wait_for("the end of all", lambda: all(row.status in FINAL for row in archive.entries()), 60)
    assert station.victim.read_text() == "whole"
    with pytest.raises(BlockingIOError):
        station.listening.accept()
    status = Path(f"/proc/{archive.pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]
    assert peak < 300_000, f"the daemon took {peak} kB"
    disk = sum(each.lstat().st_blocks for each in archive.root.rglob("*")) * 512
    assert disk < 40 * MIB, f"the archive takes {disk} bytes"
    archive.umount()
    poll("end of all that was started", lambda: not archive.workers())


def test_a_conversion_finds_nothing_of_the_one_before_it_but_the_process(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:hostile:leaves_things_behind"), workers=1))
    reports = []
    for number in range(3):
        station.drop("csv", f"{number}.csv")
        reports.append(station.report(station.wait_for_status(f"{number}.csv", "success")))
    assert len({report["pid"] for report in reports}) == 1
    assert {tuple(report["before"]) for report in reports} == {tuple(reports[0]["before"])}


def test_a_worker_is_not_used_again_after_so_many_conversions_or_when_it_grew(mounted: Make) -> None:
    tables = (
        converter("few", "function:hostile:counts", worker_conversions=2),
        converter("grows", "function:hostile:grows", memory_mb=256),
    )
    station = mounted(config(*tables, workers=1))
    kept: dict[str, list[int]] = {"few": [], "grows": []}
    for name, numbers in kept.items():
        for number in range(5):
            station.drop(name, f"{name} {number}")
            row = station.wait_for_status(f"{name} {number}", "success")
            numbers.append(station.report(row)["kept"])
    assert kept == {"few": [1, 2, 1, 2, 1], "grows": [1, 2, 3, 1, 2]}


# -- where there is no bubblewrap ----------------------------------------------------------------------


@pytest.fixture
def path_without_bubblewrap(tmp_path: Path) -> str:
    """A PATH on which every program is but one."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for each in os.environ["PATH"].split(":"):
        for program in Path(each).glob("*"):
            if program.name != "bwrap" and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def test_without_bubblewrap_a_strict_converter_says_so_and_its_entries_wait(
    mounted: Make, path_without_bubblewrap: str
) -> None:
    expected = (
        'strict cannot run, its entries wait: sandbox = "strict" needs bubblewrap, which is not installed'
    )
    tables = (
        converter("strict", "function:good:count"),
        converter("limits", "function:good:count", sandbox="limits"),
        converter("off", "function:good:count", sandbox="off"),
    )
    station = mounted(config(*tables), mount=False, expected_log=[expected])
    said = archivefs("mount", station.root, station.point, PATH=path_without_bubblewrap).stderr
    assert said.startswith(
        'archivefs: strict cannot run, the entries wait: sandbox = "strict" needs bubblewrap'
    )
    assert "apt-get install bubblewrap" in said
    station.pid = json.loads((station.root / "lock").read_bytes())["pid"]
    for name in ("strict", "limits", "off"):
        station.drop(name, name)
    station.wait_for_status("limits", "success")
    station.wait_for_status("off", "success")
    assert station.only("strict").status == "pending"
    assert station.only("strict").attempts == 0
    health = json.loads((station.point / "health.json").read_bytes())
    assert "apt-get install bubblewrap" in health["alarms"]["converters.strict"]
    station.umount()
    station.mount()
    station.wait_for_status("strict", "success")
    assert json.loads((station.point / "health.json").read_bytes())["ok"]
