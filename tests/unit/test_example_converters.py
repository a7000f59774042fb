"""The example converters, run over generated sources and compared with what the sources plainly say."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any
from xml.etree.ElementTree import ParseError

import pytest

from archivefs.convert import Result

ROOT = Path(__file__).parents[2]
CONVERTERS = ROOT / "docs" / "examples" / "converters"
COUNT = 60
VERDICTS = {"PASS": "passed", "FAIL": "failed"}


@pytest.fixture(scope="module", autouse=True)
def _import_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CONVERTERS)
        patch.syspath_prepend(ROOT / "tools")
        yield


@pytest.fixture(scope="module")
def corpus(_import_path: None) -> ModuleType:
    return importlib.import_module("corpus")


@pytest.fixture(scope="module")
def ict_csv(_import_path: None) -> ModuleType:
    return importlib.import_module("ict_csv")


@pytest.fixture(scope="module")
def functional_xml(_import_path: None) -> ModuleType:
    return importlib.import_module("functional_xml")


def some_samples(corpus: ModuleType, converter: str, seed: int) -> list[Any]:
    """Returns COUNT samples of one converter, those that cannot be converted among them."""
    found = [sample for sample in corpus.samples(COUNT * 5, seed) if sample.converter == converter]
    assert len(found) >= COUNT
    return found[:COUNT]


# The generator


def test_samples_depend_on_the_seed_alone(corpus: ModuleType) -> None:
    first = list(corpus.samples(30, seed=1))
    assert first == list(corpus.samples(60, seed=1))[:30]
    assert first != list(corpus.samples(30, seed=2))


def test_samples_are_mixed_uniquely_named_and_of_realistic_size(corpus: ModuleType) -> None:
    samples = list(corpus.samples(1500, seed=5))
    assert len({sample.name for sample in samples}) == len(samples)
    kinds = Counter(sample.converter for sample in samples)
    assert set(kinds) == set(corpus.KINDS)
    assert min(kinds.values()) > 400
    statuses = Counter(sample.expected_status for sample in samples)
    assert 15 <= statuses["failed"] <= 50
    assert 15 <= statuses["suspended"] <= 50
    limits = {"ict-csv": (4, 12), "functional-xml": (5, 15), "burnin-log": (5, 60)}
    for sample in samples:
        smallest, largest = limits[sample.converter]
        if sample.expected_status == "success":
            assert smallest * 1000 <= len(sample.content) <= largest * 1000


def test_the_generator_writes_a_folder_per_converter(corpus: ModuleType, tmp_path: Path) -> None:
    script = str(ROOT / "tools" / "corpus.py")
    subprocess.run(
        [sys.executable, script, str(tmp_path), "--count=9", "--seed=4"], check=True, capture_output=True
    )
    for sample in corpus.samples(9, seed=4):
        assert (tmp_path / sample.converter / sample.name).read_bytes() == sample.content
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 9


# In-circuit tests


@dataclass
class MemorySource:
    content: bytes
    name: str = "ICT.csv"

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def size(self) -> int:
        return len(self.content)

    def read_bytes(self) -> bytes:
        return self.content

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.content.decode(encoding)


@dataclass
class MemoryContext:
    arguments: dict[str, Any] = field(default_factory=dict)
    attempt: int = 1
    messages: list[str] = field(default_factory=list)

    def log(self, message: str) -> None:
        self.messages.append(message)


def convert_ict(ict_csv: ModuleType, content: bytes, **arguments: object) -> Result:
    result = ict_csv.IctConverter().convert(MemorySource(content), MemoryContext(arguments))
    assert isinstance(result, Result)
    return result


def expected_ict(content: bytes) -> Result:
    head, table = content.decode("utf-8-sig").split("\r\n\r\n")
    said = dict(line.split(",") for line in head.split("\r\n"))
    rows = [line.split(",") for line in table.split("\r\n")[1:-2]]
    assert len(rows) > 100
    report = {
        "type": "ict",
        "serial_number": said["serial"],
        "part_number": said["part number"],
        "station": said["station"],
        "operator": said["operator"] or None,
        "started_at": said["started"],
        "result": "failed" if b",FAIL\r\n" in content else "passed",
        "measurements": [
            {
                "name": net,
                "value": float(value),
                "unit": unit,
                "low": float(low) if low else None,
                "high": float(high) if high else None,
                "result": VERDICTS[verdict],
            }
            for _, net, value, unit, low, high, verdict in rows
        ],
    }
    return Result.success(report, warnings=[] if said["operator"] else ["the file names no operator"])


def truncated_ict(content: bytes) -> Result:
    last = content.decode("utf-8-sig").rstrip().count("\n") + 1
    return Result.failed(f"line {last}: the file is truncated, its last line is not END")


def test_ict_converts_each_sample_to_what_it_says(corpus: ModuleType, ict_csv: ModuleType) -> None:
    seen = Counter[str]()
    for sample in some_samples(corpus, "ict-csv", seed=11):
        if sample.expected_status == "success":
            expected = expected_ict(sample.content)
        elif sample.expected_status == "failed":
            expected = truncated_ict(sample.content)
        else:
            expected = Result.suspended("the station is still testing", retry_after=60)
        assert convert_ict(ict_csv, sample.content) == expected, sample.name
        seen[sample.expected_status] += 1
    assert seen["success"] > COUNT // 2
    assert seen["suspended"] > 0


def test_ict_of_failed_boards(corpus: ModuleType, ict_csv: ModuleType) -> None:
    rng = random.Random(12)
    for _ in range(COUNT):
        content = corpus.ict_csv(rng, failed=True)
        assert b",FAIL\r\n" in content
        assert convert_ict(ict_csv, content) == expected_ict(content)


def test_ict_of_truncated_files(corpus: ModuleType, ict_csv: ModuleType) -> None:
    rng = random.Random(13)
    for _ in range(COUNT):
        content = corpus.ict_csv(rng, truncated=True)
        assert convert_ict(ict_csv, content) == truncated_ict(content)


def test_ict_waits_as_long_as_it_is_told(corpus: ModuleType, ict_csv: ModuleType) -> None:
    content = corpus.ict_csv(random.Random(14), incomplete=True)
    preamble, _, _ = content.partition(b"\r\n\r\n")
    expected = Result.suspended("the station is still testing", retry_after=5)
    assert convert_ict(ict_csv, content, retry_after_seconds=5) == expected
    assert convert_ict(ict_csv, preamble, retry_after_seconds=5) == expected


def test_ict_with_another_delimiter(corpus: ModuleType, ict_csv: ModuleType) -> None:
    content = corpus.ict_csv(random.Random(15))
    assert convert_ict(ict_csv, content.replace(b",", b";"), delimiter=";") == expected_ict(content)


PREAMBLE = "serial,SN1\npart number,P\nstation,S\noperator,O\nstarted,2024-03-18T09:14:22\nstatus,COMPLETE\n"
TABLE = PREAMBLE + "\nstep,net,value,unit,low,high,result\n"
ROW = "1,R1,4.7,kOhm,4.6,4.8,PASS\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "line 0: the preamble lacks operator, part number, serial, started, station, status"),
        ("hello\n", "line 1: expected a key and a value, found ['hello']"),
        (PREAMBLE.replace("operator,O\n", ""), "line 5: the preamble lacks operator"),
        (PREAMBLE.replace("2024-03-18T", "18.3. "), "line 5: Invalid isoformat string: '18.3. 09:14:22'"),
        (PREAMBLE, "line 6: the file is truncated, its last line is not END"),
        (TABLE + ROW, "line 9: the file is truncated, its last line is not END"),
        (TABLE + ROW + "END,2", "line 10: expected ['END', '1'], found ['END', '2']"),
        (TABLE + "ENDING,0", "line 9: expected 7 fields, found 2"),
        (TABLE + "END" + ROW, "line 9: the measurements have no END"),
        (TABLE + ROW[5:] + "END,1", "line 9: expected 7 fields, found 5"),
        (TABLE + ROW.replace("4.7", "4;7") + "END,1", "line 9: value is not a number: '4;7'"),
        (TABLE + ROW.replace("4.8", "inf") + "END,1", "line 9: high is not a number: 'inf'"),
        (TABLE + ROW.replace("PASS", "?") + "END,1", "line 9: result is neither PASS nor FAIL: '?'"),
        (
            PREAMBLE + "\nstep,net\nEND,0",
            "line 8: expected the columns ['step', 'net', 'value', 'unit', 'low', 'high', 'result'], "
            "found ['step', 'net']",
        ),
    ],
)
def test_ict_errors_name_the_line(ict_csv: ModuleType, text: str, error: str) -> None:
    assert convert_ict(ict_csv, text.encode()) == Result.failed(error)


def test_ict_fails_on_bytes_that_are_no_text(ict_csv: ModuleType) -> None:
    with pytest.raises(UnicodeDecodeError):
        convert_ict(ict_csv, b"serial,\xff\n")


def test_ict_recognises_its_files(corpus: ModuleType, ict_csv: ModuleType) -> None:
    def validate(content: bytes) -> Any:  # noqa: ANN401
        return ict_csv.IctConverter().validate(MemorySource(content), MemoryContext())

    assert validate(corpus.ict_csv(random.Random(16))).can_convert
    assert not validate(b"time;temperature\n").can_convert
    assert validate(b"\xff\xfe\x00").message == "the file does not begin with a serial number"


# Functional tests


def attributes(line: str) -> dict[str, str]:
    return dict(re.findall(r'([\w-]+)="([^"]*)"', line))


def expected_functional(content: bytes) -> dict[str, Any]:
    """Reads the file line by line, as the generator writes one element on each."""
    said: dict[str, str] = {}
    sequences: list[str] = []
    steps: list[dict[str, Any]] = []
    for line in content.decode().splitlines():
        found = attributes(line)
        tag = line.split()[0].strip("<>")
        if tag == "functional-test":
            said = found
        elif tag == "sequence":
            sequences.append(found["name"])
        elif tag == "/sequence":
            sequences.pop()
        elif tag == "step":
            name = "/".join([*sequences, found["name"]])
            steps.append({"name": name, "result": found["result"], "seconds": float(found["seconds"])})
        elif tag == "number":
            limits = {key: float(found[key]) if key in found else None for key in ("low", "high")}
            steps[-1] |= {"value": float(found["value"]), "unit": found["unit"], **limits}
        elif tag == "string":
            steps[-1] |= {"value": found["value"], "expected": found["expected"]}
    assert len(steps) > 30
    return {
        "type": "functional",
        "serial_number": said["serial"],
        "part_number": said["part-number"],
        "station": said["station"],
        "operator": said["operator"],
        "started_at": said["started"],
        "result": said["result"],
        "measurements": steps,
    }


def test_functional_converts_each_sample_to_what_it_says(
    corpus: ModuleType, functional_xml: ModuleType, tmp_path: Path
) -> None:
    for sample in some_samples(corpus, "functional-xml", seed=21):
        path = tmp_path / sample.name
        path.write_bytes(sample.content)
        if sample.expected_status == "success":
            assert functional_xml.convert(str(path), {}) == expected_functional(sample.content)
        else:
            with pytest.raises(ParseError):
                functional_xml.convert(str(path), {})


def test_functional_of_failed_units(corpus: ModuleType, functional_xml: ModuleType, tmp_path: Path) -> None:
    rng = random.Random(22)
    for _ in range(COUNT):
        path = tmp_path / "FCT.xml"
        path.write_bytes(corpus.functional_xml(rng, failed=True))
        report = functional_xml.convert(str(path), {})
        assert report == expected_functional(path.read_bytes())
        assert report["result"] == "failed"
        assert [step["result"] for step in report["measurements"]].count("failed") == 1


def test_functional_of_truncated_files(
    corpus: ModuleType, functional_xml: ModuleType, tmp_path: Path
) -> None:
    rng = random.Random(23)
    for _ in range(COUNT):
        path = tmp_path / "FCT.xml"
        path.write_bytes(corpus.functional_xml(rng, truncated=True))
        with pytest.raises(ParseError, match=r"line \d+"):
            functional_xml.convert(str(path), {})


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("functional-test", "html", "expected <functional-test>, found <html>"),
        (' serial="', ' number="', "<functional-test> has no serial"),
        ('value="2.4"', 'value="n/a"', "Power/3V3: <number> has a value that is not a number: 'n/a'"),
        ('value="2.4"', 'value="nan"', "Power/3V3: <number> has a value that is not a number: 'nan'"),
        ('unit="V"', "", "Power/3V3: <number> has no unit"),
        ("<number", "<image", "Power/3V3: expected <number> or <string>, found <image>"),
        (' seconds="1"', "", "Power/3V3: <step> has no seconds"),
    ],
)
def test_functional_errors_name_the_step(
    functional_xml: ModuleType, tmp_path: Path, old: str, new: str, error: str
) -> None:
    text = (
        '<functional-test serial="1" part-number="2" station="3" operator="4" started="5" result="passed">'
        '<sequence name="Power"><step name="3V3" result="passed" seconds="1"><number value="2.4" unit="V" />'
        "</step></sequence></functional-test>"
    )
    path = tmp_path / "FCT.xml"
    path.write_text(text)
    assert functional_xml.convert(str(path), {})["measurements"][0]["value"] == 2.4
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(error)):
        functional_xml.convert(str(path), {})


# Burn-in


def run_burnin(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CONVERTERS / "burnin_log.py", path], capture_output=True, text=True, check=False)


def expected_burnin(content: bytes) -> dict[str, Any]:
    lines = [line.split(" ", 2) for line in content.decode().splitlines()]
    said = dict(word.split("=") for word in lines[0][2].split())
    data = [text.split() for _, kind, text in lines if kind == "DATA"]
    channels = []
    for column in zip(*data, strict=True):
        name, _, measured = column[0].partition("=")
        unit = measured[-1]
        values = [float(word.removeprefix(f"{name}=").removesuffix(unit)) for word in column]
        limits = {"min": min(values), "max": max(values), "mean": pytest.approx(fmean(values), abs=1e-4)}
        channels.append({"name": name, "unit": unit, "samples": len(values), **limits})
    assert len(channels) == 5
    return {
        "type": "burn-in",
        "serial_number": said["serial"],
        "part_number": said["part"],
        "station": said["station"],
        "operator": said["operator"],
        "started_at": lines[0][0],
        "finished_at": lines[-1][0],
        "result": VERDICTS[lines[-1][2]],
        "channels": channels,
        "events": [{"at": time, "message": text} for time, kind, text in lines if kind == "EVENT"],
    }


def test_burnin_converts_each_sample_to_what_it_says(corpus: ModuleType, tmp_path: Path) -> None:
    events = 0
    for sample in some_samples(corpus, "burnin-log", seed=31):
        path = tmp_path / sample.name
        path.write_bytes(sample.content)
        run = run_burnin(path)
        if sample.expected_status == "success":
            assert (run.returncode, run.stderr) == (0, "")
            report = json.loads(run.stdout)
            assert report == expected_burnin(sample.content)
            events += len(report["events"])
        else:
            assert (run.returncode, run.stdout) == (1, "")
    assert events > COUNT


def test_burnin_of_a_failed_unit(corpus: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "BURNIN.log"
    path.write_bytes(corpus.burnin_log(random.Random(32), hours=2, failed=True))
    report = json.loads(run_burnin(path).stdout)
    assert report == expected_burnin(path.read_bytes())
    assert report["result"] == "failed"
    assert "board above 105C" in [event["message"] for event in report["events"]]


def test_burnin_names_the_garbled_line(corpus: ModuleType, tmp_path: Path) -> None:
    rng = random.Random(33)
    for _ in range(10):
        content = corpus.burnin_log(rng, garbled=True)
        path = tmp_path / "BURNIN.log"
        path.write_bytes(content)
        number = content.partition(b"\0")[0].count(b"\n") + 1
        run = run_burnin(path)
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith(f"line {number}: expected a time, a kind and a text, found ")


def test_burnin_waits_for_the_verdict(corpus: ModuleType, tmp_path: Path) -> None:
    content = corpus.burnin_log(random.Random(34))
    path = tmp_path / "BURNIN.log"
    for size in (200, 201, 5000, 12345, len(content) - 5):
        path.write_bytes(content[:size])
        run = run_burnin(path)
        assert (run.returncode, run.stdout) == (os.EX_TEMPFAIL, "")
        lines = content[:size].count(b"\n")
        assert run.stderr == f"the chamber is still running after {lines} lines\n"


START = "2024-03-18T06:00:00Z START serial=S part=P station=B operator=O\n"
DATA = "2024-03-18T06:01:00Z DATA board=91.2C\n"
END = "2024-03-18T06:02:00Z VERDICT PASS\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "line 1: the log does not begin with START"),
        (DATA + END, "line 1: the log does not begin with START"),
        ("\x7fELF\n", "line 1: expected a time, a kind and a text, found '\\x7fELF'"),
        (START.replace("part=P ", "") + END, "line 1: START lacks part"),
        (
            START + DATA.replace("91.2", "9x.2") + END,
            "line 2: expected samples such as board=91.2C, found 'board=9x.2C'",
        ),
    ],
)
def test_burnin_errors_name_the_line(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "BURNIN.log"
    path.write_text(text)
    run = run_burnin(path)
    assert (run.returncode, run.stdout, run.stderr) == (1, "", f"{error}\n")
