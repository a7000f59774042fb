"""What converters do, the hostile ones too: each end has its status, its words, and disturbs nobody else."""

import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mount_parts import Make, Mounted, an_archive, config, converter, names_in, poll

from archivefs.convert import scheduler
from archivefs.states import FINAL


class Case(NamedTuple):
    """A converter, how its attempt must end, and what its error.txt must say (a pattern)."""

    converter: str
    run: str
    status: str
    error: str = ""
    more: Mapping[str, Any] = {}
    suffix: str = ".csv"

    @property
    def name(self) -> str:
        """The name of its source."""
        return self.converter + self.suffix


def ends(status: str, words: str = "because of the weather") -> Case:
    """A converter that says itself how it ended."""
    more = {"arguments": {"end": status, "words": words}}
    return Case(f"ends-{status}", "python:good:Ends", status, words if status != "skipped" else "", more)


def bad(name: str, status: str, error: str = "", suffix: str = ".csv", **more: object) -> Case:
    """A function of bad.py."""
    converter = f"{name}-{more['sandbox']}" if "sandbox" in more else name
    return Case(converter, f"function:bad:{name}", status, error, more, suffix)


def program(word: str, status: str, error: str = "", **more: object) -> Case:
    """The program, told how to end."""
    return Case(f"program-{word}", f"command:converters/program {word}", status, error, more)


NOT_UTF_8 = "caf\udce9.csv"
CASES = [
    Case("class", "python:good:Good", "success"),
    Case("several", "python:good:Several", "success"),
    Case("choosy", "python:good:Choosy", "rejected", "it does not begin with serial"),
    Case("function", "function:good:count", "success"),
    program("ok", "success"),
    program("fails", "failed", "the chamber door was open"),
    program("text", "failed", "printed no JSON"),
    program("dies", "failed", "SIGKILL"),
    program("later", "failed", "given up after 1 .*still running", max_retries=0),
    Case(
        "no-program", "command:no-such-program", "failed", "'no-such-program' cannot be", {"max_retries": 0}
    ),
    ends("failed"),
    ends("rejected"),
    ends("skipped"),
    bad("raises", "failed", r"ValueError: invalid literal .*'twelve' \(bad.py:\d+\)"),
    bad("names_the_file", "failed", r"ValueError: cannot read .*caf.*\(bad.py:\d+\)", NOT_UTF_8),
    bad("prints_the_name", "success", "", NOT_UTF_8),
    bad("hangs", "failed", "timed out: longer than 1.5 seconds", timeout_seconds=1.5),
    bad("spins", "failed", "timed out: longer than 1.5 seconds", timeout_seconds=1.5),
    bad("leaves_a_child", "failed", "timed out: longer than 1.5 seconds", timeout_seconds=1.5),
    bad("kills_itself", "failed", "after 1 attempt: the worker was killed by SIGKILL", max_retries=0),
    bad("breaks_itself", "failed", "^the worker was killed by SIGSEGV"),
    bad("exits", "failed", "ended the worker process with exit status 0"),
    bad("exits_hard", "failed", "ended the worker process with exit status 3"),
    bad("hogs", "failed", "more memory than memory_mb allows", memory_mb=128),
    bad("prints", "success"),
    bad("writes_to_our_pipe", "failed", "disturbed the worker's answer"),
    bad("closes_stdout", "failed", "ended the worker process"),
    bad("floods", "success"),
    bad("gives_a_set", "failed", "report 1 is not JSON: .*set"),
    bad("gives_nan", "failed", "report 1 is not JSON"),
    bad("gives_nothing", "failed", "gave a NoneType; a report is a dict"),
    bad("gives_text", "failed", "gave a str; a report is a dict"),
    bad("gives_a_list_of_text", "failed", "a report is a dict"),
    bad("gives_itself", "failed", "report 1 is not JSON"),
    bad("changes_its_source", "failed", "Read-only file system"),
    bad("removes_its_source", "failed", "Read-only file system"),
    bad("changes_its_source", "success", sandbox="limits"),
    bad("removes_its_source", "success", sandbox="limits"),
    bad("removes_its_source", "success", sandbox="off"),
    bad("spins", "failed", "more processor time than cpu_seconds", sandbox="limits", cpu_seconds=1),
    bad("hogs", "failed", "more memory than memory_mb allows", sandbox="limits", memory_mb=128),
    bad(
        "leaves_a_child",
        "failed",
        "timed out: longer than 1.5 seconds",
        sandbox="limits",
        timeout_seconds=1.5,
    ),
    Case(
        "broken",
        "python:broken:Any",
        "failed",
        "does not load: ModuleNotFoundError: .*nothing_of_that_name",
        {"max_retries": 0},
    ),
    Case("missing", "python:good:Missing", "failed", "does not load: AttributeError: .*Missing"),
    Case("no-class", "python:good:count", "failed", "does not load: TypeError: good:count is a function"),
]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """All cases in one archive, all dropped at once: each must end as if it were alone."""
    tables = [converter(case.converter, case.run, **case.more) for case in CASES]
    tables.append(converter("patterned", "function:good:count", patterns=["*.csv", "*.CSV.gz"]))
    tables.append(converter("plain"))
    folder = tmp_path_factory.mktemp("conversion")
    with an_archive(folder, config(*tables, workers=4)) as archive:
        for case in CASES:
            archive.drop(case.converter, case.name, b"measured")
        yield archive


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.converter)
def test_each_end_has_its_status_its_words_and_its_attempt(station: Mounted, case: Case) -> None:
    row = station.wait_for_status(case.name, case.status)
    here = station.entry_dir(row)
    assert station.content(row) == b"measured"
    attempt = station.attempt(row)
    assert attempt["attempt"] == row.attempts == 1
    assert attempt["arguments"] == case.more.get("arguments", {})
    assert 0 <= attempt["duration_seconds"] < 15
    if case.error:
        error = station.error(row)
        assert re.search(case.error, error, re.DOTALL)
        assert error.strip() == attempt["error"]
        assert not (here / "report.json").exists()
    else:
        assert not (here / "error.txt").exists()
        assert (here / "report.json").exists() == (case.status == "success")
    for place in station.places(row, case.status):
        assert os.path.exists(place)  # noqa: PTH110


def the(station: Mounted, converter: str) -> Path:
    """The directory of the one entry of a case."""
    case = next(case for case in CASES if case.converter == converter)
    return station.entry_dir(station.wait_for_status(case.name, case.status))


def test_reports_of_classes_functions_and_commands_are_kept_with_what_they_said(station: Mounted) -> None:
    here = the(station, "class")
    assert read(here / "report.json") == {"class": True, "text": "measured", "arguments": {}}
    assert (here / "attempts/1/log.txt").read_text() == "converting class.csv\n"
    assert read(here / "attempts/1/attempt.json")["version"] == "2.1"
    here = the(station, "several")
    names = ["report.json", "report-2.json", "report-3.json"]
    assert [read(here / name)["number"] for name in names] == [1, 2, 3]
    assert read(the(station, "function") / "report.json")["size"] == len("measured")
    here = the(station, "program-ok")
    assert read(here / "report.json") == {"command": "measured"}
    assert (here / "attempts/1/log.txt").read_text() == "arguments {}\n"


def read(file: Path) -> Any:  # noqa: ANN401  any JSON
    """A JSON file."""
    return json.loads(file.read_bytes())


def test_what_a_converter_prints_goes_to_its_log_and_nowhere_else(station: Mounted) -> None:
    log = (the(station, "prints") / "attempts/1/log.txt").read_bytes()
    assert b'{"outcome": "failed"}\n' in log
    for piece in (b"no newline", b"\xff\xfe raw\n", b"from a child\nand its errors\n", b"to stderr\n"):
        assert piece in log
    log = (the(station, "raises") / "attempts/1/log.txt").read_bytes()
    assert log.startswith(b"Traceback")
    assert b'int("twelve")' in log


def test_of_a_flood_the_end_is_kept(station: Mounted) -> None:
    log = the(station, "floods") / "attempts/1/log.txt"
    assert log.stat().st_size == 1 << 20
    assert log.read_bytes().endswith(b"xxx\nthe last line\n")


def test_names_that_no_pattern_fits_are_skipped_with_the_reason(station: Mounted) -> None:
    station.drop("patterned", "notes.txt")
    station.drop("patterned", "UNIT.csv.GZ")
    row = station.wait_for_status("notes.txt", "skipped")
    assert station.facts(row)["reason"] == "the name fits none of: *.csv, *.CSV.gz"
    assert not (station.entry_dir(row) / "attempts").exists()
    station.wait_for_status("UNIT.csv.GZ", "success")


def test_a_converter_without_run_only_archives(station: Mounted) -> None:
    station.drop("plain", "photo.jpg")
    assert station.only("photo.jpg").status == "archived"
    assert names_in(station.entry_dir(station.only("photo.jpg"))) == ["entry.json", "photo.jpg"]


def test_nothing_of_the_hostile_ones_is_left_running_or_lying_about(station: Mounted) -> None:
    station.wait_for("the end of all", lambda: all(row.status in FINAL for row in station.entries()))
    work = station.root / "staging" / "work"
    station.wait_for("no job's folder", lambda: not [each for each in work.iterdir() if each.name.isdigit()])
    assert {each.name for each in work.glob("*/source/*")} == set()
    station.umount()
    station.wait_for_end()
    poll("end of all workers", lambda: not station.workers())


# -- again, and meanwhile ------------------------------------------------------------------------------


def test_a_suspended_source_is_tried_again_until_it_succeeds(mounted: Make) -> None:
    arguments = {"times": 2, "after": 0.2}
    station = mounted(config(converter("csv", "python:good:Later", arguments=arguments)))
    station.drop("csv", "unit.csv")
    row = station.wait_for_status("unit.csv", "success")
    assert station.report(row) == {"attempt": 3}
    attempts = station.facts(row)["attempts"]
    assert [each["outcome"] for each in attempts] == ["suspended", "suspended", "success"]
    assert [each.get("error") for each in attempts] == ["part 1 is missing", "part 2 is missing", None]
    for earlier, later in itertools.pairwise(attempts):
        assert seconds(later["started_at"]) - seconds(earlier["started_at"]) >= 0.2


def seconds(text: str) -> float:
    """Of the minute in which a time lies, made comparable over its end."""
    return float(text[14:16]) * 60 + float(text[17:-1])


def test_a_source_that_stays_suspended_fails_when_its_retries_are_used_up(mounted: Make) -> None:
    table = converter(
        "csv", "python:good:Later", arguments={"times": 99}, max_retries=2, retry_delay_seconds=0.1
    )
    station = mounted(config(table))
    station.drop("csv", "unit.csv")
    row = station.wait_for_status("unit.csv", "failed")
    assert station.error(row) == "given up after 3 suspended attempts: part 3 is missing\n"
    assert [each["outcome"] for each in station.facts(row)["attempts"]] == ["suspended"] * 3


def test_other_conversions_go_on_while_one_hangs(mounted: Make) -> None:
    tables = (
        converter("hangs", "function:bad:hangs", timeout_seconds=3600),
        converter("csv", "function:bad:is_quick"),
    )
    station = mounted(config(*tables, workers=2))
    station.drop("hangs", "stuck.csv")
    station.wait_for_status("stuck.csv", "converting")
    for number in range(10):
        station.drop("csv", f"unit {number}.csv")
    for number in range(10):
        station.wait_for_status(f"unit {number}.csv", "success")
    assert station.only("stuck.csv").status == "converting"
    station.umount()
    assert station.only("stuck.csv").status in ("pending", "converting")


def test_urgent_converters_come_first(mounted: Make) -> None:
    """All that becomes due while the only worker is busy is converted by priority then."""
    tables = (
        converter("busy", "function:bad:takes_a_moment", settle_seconds=0, arguments={"seconds": 5}),
        converter("slow", "function:bad:is_quick", priority=9),
        converter("urgent", "function:bad:is_quick", priority=1),
    )
    station = mounted(config(*tables, workers=1))
    station.drop("busy", "busy")
    station.wait_for_status("busy", "converting")
    for number in range(5):
        station.drop("slow", f"slow {number}.csv")
        station.drop("urgent", f"urgent {number}.csv")
    station.wait_for_status("busy", "success")
    for row in station.entries():
        station.wait_for_status(row.name, "success")
    started = sorted((station.attempt(row)["started_at"], row.name.split()[0]) for row in station.entries())
    assert [kind for _, kind in started] == [b"busy", *[b"urgent"] * 5, *[b"slow"] * 5]


def test_many_short_conversions_are_each_done_once(mounted: Make) -> None:
    tables = [converter(name, "function:bad:is_quick", settle_seconds=0) for name in ("one", "two", "three")]
    station = mounted(config(*tables, workers=2))
    for number in range(60):
        station.drop(("one", "two", "three")[number % 3], f"{number}.csv")
    station.wait_for("all", lambda: all(row.status == "success" for row in station.entries()), 60)
    assert [row.attempts for row in station.entries()] == [1] * 60


def test_what_takes_long_is_not_begun_before_a_worker_is_free(mounted: Make) -> None:
    assert [scheduler.ahead(each) for each in (math.inf, 0.3, 0.1, 0.0)] == [0, 1, 5, 128]
    station = mounted(
        config(converter("slow", "function:bad:takes_a_moment", arguments={"seconds": 0.7}), workers=1)
    )
    for number in range(4):
        station.drop("slow", f"{number}.csv")

    def all_done() -> bool:
        statuses = [row.status for row in station.entries()]
        assert statuses.count("converting") <= 1  # type: ignore[comparison-overlap, unused-ignore]
        return all(status == "success" for status in statuses)

    station.wait_for("all", all_done, 60)


def test_a_source_is_converted_with_its_own_name_mtime_and_nothing_beside_it(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:good:look")))
    file = Path(os.fsdecode(station.drop("csv", "unit 1.csv")))
    os.utime(file, ns=(1, 1_600_000_000_000_000_001))
    report = station.report(station.wait_for_status("unit 1.csv", "success"))
    assert (report["beside"], report["mtime_ns"]) == (["unit 1.csv"], 1_600_000_000_000_000_001)
    assert "HOME" not in report["environment"]


@pytest.mark.parametrize("sandbox", ["strict", "limits"])
def test_a_worker_dies_with_the_daemon(mounted: Make, sandbox: str) -> None:
    station = mounted(config(converter("csv", "function:bad:hangs", sandbox=sandbox)))
    station.drop("csv", "unit.csv")
    station.wait_for("the worker", station.workers)
    station.kill()
    poll("the worker's end", lambda: not station.workers())


def test_what_waits_for_a_converter_that_was_taken_out_is_not_blamed(mounted: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    old = converter(
        "old", "python:good:Gate", arguments={"gate": str(gate)}, post_action="keep", sandbox="off"
    )
    others = config(converter("csv", "function:good:count"), workers=1)
    station = mounted(others + old)
    station.drop("old", "unit.csv")
    station.wait_for_status("unit.csv", "converting")
    station.umount()
    (station.root / "archive.toml").write_text(others)
    station.mount()
    assert names_in(station.inbox) == ["csv"]
    station.drop("csv", "after.csv")
    station.wait_for_status("after.csv", "success")
    row = station.only("unit.csv")
    assert station.content(row) == b"measured"
    assert row.status == "pending" or "archive.toml" in station.error(row)
    (station.root / "archive.toml").write_text(others + old)
    station.remount()
    assert (station.inbox / "old" / "unit.csv").read_bytes() == b"measured"
    assert len(station.entries("unit.csv")) == 1
