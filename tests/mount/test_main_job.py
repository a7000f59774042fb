"""The main job on real input: reports of three kinds, saved by several stations at once, right at the end."""

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from mount_parts import CONVERTERS, ROOT, Make, Mounted, archivefs, sha256

from archivefs.catalog.rows import Entry
from archivefs.convert import Context, Source

sys.path.insert(0, str(ROOT))
from tools.corpus import KINDS, Sample, samples

EXAMPLES = ROOT / "docs" / "examples"
COUNT = 300
WRITERS = 4
WRITER = """\
import os, shutil, sys
folder, inbox = sys.argv[1:]
for kind in sorted(os.listdir(folder)):
    for number, name in enumerate(sorted(os.listdir(f"{folder}/{kind}"))):
        source, target = f"{folder}/{kind}/{name}", f"{inbox}/{kind}/{name}"
        if number % 3 == 0:
            shutil.copy2(source, target)
        elif number % 3 == 1:
            shutil.copyfile(source, target + ".part")
            os.rename(target + ".part", target)
        else:
            with open(source, "rb") as file, open(target, "wb") as out:
                while piece := file.read(1000):
                    out.write(piece)
                    out.flush()
"""


@pytest.fixture
def factory(mounted: Make) -> Mounted:
    """The archive of the examples, with a short settle time."""
    toml = (EXAMPLES / "archive.toml").read_text()
    toml = toml.replace("settle_seconds = 0.5", "settle_seconds = 0.3\nlinger_seconds = 0.3")
    return mounted(toml, converters=EXAMPLES / "converters")


def save_all(factory: Mounted, folder: Path) -> dict[str, Sample]:
    """Let the stations save everything at once; returns what they saved by name."""
    made = list(samples(COUNT, seed=20260213))
    for number, each in enumerate(made):
        file = folder / f"station {number % WRITERS}" / each.converter / each.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(each.content)
    stations = [
        subprocess.Popen([sys.executable, "-c", WRITER, station, factory.inbox])
        for station in sorted(folder.iterdir())
    ]
    assert [station.wait(60) for station in stations] == [0] * WRITERS
    return {each.name: each for each in made}


def all_converted(factory: Mounted) -> bool:
    """Whether nothing waits any more but what is suspended."""
    rows = factory.live()
    return len(rows) == COUNT and all(row.status not in ("pending", "converting") for row in rows)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Sample], object]:
    """Makes the report of a source as a person would who has only the converters."""
    monkeypatch.syspath_prepend(EXAMPLES / "converters")
    ict = importlib.import_module("ict_csv").IctConverter()
    functional = importlib.import_module("functional_xml").convert

    def convert(sample: Sample) -> object:
        file = tmp_path / sample.name
        file.write_bytes(sample.content)
        match sample.converter:
            case "ict-csv":
                (report,) = ict.convert(
                    Source(file), Context({"delimiter": ","}, log=lambda message: None)
                ).reports
                return report
            case "functional-xml":
                return functional(str(file), {})
        program = EXAMPLES / "converters" / "burnin_log.py"
        return json.loads(subprocess.run([program, file], stdout=subprocess.PIPE, check=True).stdout)

    return convert


def test_what_the_stations_save_is_archived_converted_and_proven(
    factory: Mounted, tmp_path: Path, by_hand: Callable[[Sample], object]
) -> None:
    saved = save_all(factory, tmp_path / "stations")
    factory.wait_for("the end of all conversions", lambda: all_converted(factory), 90)
    rows = {row.name.decode(): row for row in factory.live()}
    assert rows.keys() == saved.keys()
    for name, sample in saved.items():
        everything_is_right(factory, rows[name], sample)
    the_tree_agrees(factory, saved)
    good = [each for each in saved.values() if each.expected_status == "success"]
    few = [each for each in good if each.converter == "burnin-log"][:10]
    for sample in [each for each in good if each.converter != "burnin-log"] + few:
        assert as_read(factory.report(rows[sample.name])) == as_read(by_hand(sample))
    before = factory.entries()
    factory.umount()
    (factory.root / "catalog.sqlite").unlink()
    archivefs("--archive", factory.root, "rebuild")
    assert factory.entries() == before


def as_read(report: object) -> object:
    """A report as it comes back from JSON: tuples as lists."""
    return json.loads(json.dumps(report))


def everything_is_right(factory: Mounted, row: Entry, sample: Sample) -> None:
    """Bytes, hash, status, report and error of one source."""
    assert (row.sha256, row.size) == (sha256(sample.content), len(sample.content))
    assert factory.content(row) == sample.content
    assert (factory.converter_name(row), str(row.status)) == (sample.converter, sample.expected_status)
    facts, here = factory.facts(row), factory.entry_dir(row)
    assert [each["outcome"] for each in facts["attempts"]] == [sample.expected_status]
    if sample.expected_status == "success":
        report = factory.report(row)
        assert report["serial_number"] in sample.name
        assert report["result"] in ("passed", "failed")
        assert not (here / "error.txt").exists()
    else:
        assert len(factory.error(row)) > 10
        assert not (here / "report.json").exists()


def the_tree_agrees(factory: Mounted, saved: dict[str, Sample]) -> None:
    """The views and the numbers count the same, and the inbox holds only what is tried again."""
    expected = Counter((each.converter, each.expected_status) for each in saved.values())
    for (kind, status), count in expected.items():
        days = (factory.point / "by-status" / status / kind).iterdir()
        assert sum(len(list(day.iterdir())) for day in days) == count
        flat = (factory.point / "sources" / kind).glob(f"*/{status}/*")
        assert sorted(file.name for file in flat) == sorted(
            each.name for each in saved.values() if (each.converter, each.expected_status) == (kind, status)
        )
    statuses = json.loads((factory.point / "stats.json").read_bytes())["by_status"]
    assert Counter(statuses) == Counter(each.expected_status for each in saved.values())
    suspended = {each.name for each in saved.values() if each.expected_status == "suspended"}
    factory.wait_for("the inbox", lambda: {file.name for file in factory.inbox.glob("*/*")} == suspended)


def test_the_examples_are_what_the_tests_think_they_are() -> None:
    made = list(samples(COUNT, seed=20260213))
    assert {each.converter for each in made} == set(KINDS)
    assert {each.expected_status for each in made} == {"success", "failed", "suspended"}
    assert len({each.name for each in made}) == COUNT >= 240
    assert CONVERTERS.is_dir()
