"""Converters that are classes: thresholds, arguments, and what was written for the pyWATS client."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from archivefs.convert import Context, Result, Source, Validation
from archivefs.convert.arguments import ArgumentsError, complete
from archivefs.convert.classes import NotAReportError, Thresholds, of_class
from archivefs.convert.worker import load

THRESHOLDS = Thresholds(0.2, 0.5)
STANDIN = Path(__file__).parent / "standin"
Told = Callable[..., Result]
HAS_PYWATS = importlib.util.find_spec("pywats") is not None


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in is what is imported, and only here."""
    monkeypatch.syspath_prepend(str(STANDIN))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("pywats_client", "written_for")):
            del sys.modules[name]


@pytest.fixture
def told(standin: None, tmp_path: Path) -> Told:
    """Converts a source of one word with the converter that does what it is told."""
    converter, version = load("python:written_for_pywats:Told", "", THRESHOLDS)
    assert version == "2.1"

    def convert(word: str, **arguments: object) -> Result:
        path = tmp_path / "unit.csv"
        path.write_text(f"{word} and so on")
        return converter(path, arguments, 1)

    return convert


# -- pyWATS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reports"),
    [("one", ({"by": ","},)), ("two", ({"a": 1}, {"b": 2})), ("model", ({"model": ["json", True, True]},)),
     ("list", ({"a": 1}, {"model": ["json", True, True]})),
     ("both", ({"first": 1}, {"second": 2})), ("more", ({"first": 1}, {"second": 2}))],
)  # fmt: skip
def test_every_report_counts_whatever_it_is_made_of(
    told: Told, word: str, reports: tuple[object, ...]
) -> None:
    assert told(word) == Result("success", reports)


def test_suspensions_failures_and_refusals_keep_their_reason(told: Told) -> None:
    assert told("suspended") == Result("suspended", error="later", retry_after=90)
    for word in ("failed", "skipped", "rejected"):
        assert told(word) == Result(word, error=f"it {word}", warnings=("careful",))


def test_a_validation_decides_before_the_conversion(told: Told) -> None:
    assert told("foreign") == Result("rejected", error="not mine")
    assert told("doubtful") == Result("rejected", error="hardly mine (confidence 0.10)")
    assert told("unsure").warnings == ("converted with low confidence, 0.40: perhaps mine", "an odd header")
    early = told("early")
    assert (early.outcome, early.retry_after) == ("suspended", 120)
    assert "limits.xml" in early.error


def test_what_it_detected_and_counted_is_logged(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told("both")
    assert capsys.readouterr().out.splitlines() == [
        "detected serial number: SN1", "metadata: {'lot': 7}", "records processed: 3",
        "processing time ms: 12",
    ]  # fmt: skip
    told("one")
    assert capsys.readouterr().out.splitlines() == ["detected serial number: SN1"]


def test_what_is_no_report_is_refused(told: Told) -> None:
    with pytest.raises(NotAReportError, match="a report is a str"):
        told("text")


def test_arguments_are_checked_against_what_the_converter_declares(told: Told) -> None:
    assert told("one", delimiter=";").reports == ({"by": ";"},)
    with pytest.raises(ArgumentsError, match=r"arguments\.delimiter: is '\|', must be one of: ,, ;"):
        told("one", delimiter="|")
    with pytest.raises(ArgumentsError, match=r"arguments\.columns: is 0, must be at least 1"):
        told("one", columns=0)
    with pytest.raises(
        ArgumentsError, match=r"arguments\.colums: unknown, the converter takes: columns, del"
    ):
        told("one", colums=3)


def test_without_the_package_its_absence_is_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_pywats.py").write_text("from pywats_client.converters.models import ConverterResult\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "pywats_client", None)
    with pytest.raises(ImportError, match="pywats_client"):
        load("python:needs_pywats:Any", "", THRESHOLDS)


@pytest.mark.skipif(not HAS_PYWATS, reason="pywats-api is not installed")
def test_a_converter_runs_with_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real_one.py").write_text(
        "from pywats_client.converters.file_converter import FileConverter\n"
        "from pywats_client.converters.models import ConverterResult\n"
        "class Real(FileConverter):\n"
        "    name = 'real'\n"
        "    file_patterns = ['*.csv']\n"
        "    def convert(self, source, context):\n"
        "        return ConverterResult.success_result(report={'name': source.path.name})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    converter, version = load("python:real_one:Real", "", THRESHOLDS)
    source = tmp_path / "unit.csv"
    source.write_text("x")
    assert converter(source, {}, 1).reports == ({"name": "unit.csv"},)
    assert version
    assert converter(tmp_path / "real_one.py", {}, 1).outcome == "rejected"


# -- archivefs' own ------------------------------------------------------------------------------------


class Own:
    """Is as sure as its argument says."""

    version = "3"
    arguments_schema = {"sure": {"type": "float", "default": 1.0, "max_value": 1}}  # noqa: RUF012

    def validate(self, source: Source, context: Context) -> Validation:
        return Validation(can_convert=True, confidence=context.arguments["sure"], message="by its name")

    def convert(self, source: Source, context: Context) -> Result:
        return Result.success({"name": source.name}, warnings=["its own"])


@pytest.mark.parametrize(
    ("sure", "outcome", "warnings"),
    [(1.0, "success", ("its own",)), (0.5, "success", ("its own",)), (0.19, "rejected", ()),
     (0.49, "success", ("converted with low confidence, 0.49: by its name", "its own"))],
)  # fmt: skip
def test_confidence_is_compared_with_both_thresholds(
    tmp_path: Path, sure: float, outcome: str, warnings: tuple[str, ...]
) -> None:
    converter, version = of_class(Own, THRESHOLDS)
    result = converter(tmp_path / "unit.csv", {"sure": sure}, 1)
    assert (version, result.outcome, result.warnings) == ("3", outcome, warnings)


@pytest.mark.parametrize(
    ("description", "value", "message"),
    [({"type": "integer"}, True, "is True, must be a integer"), ({"type": "boolean"}, 1, "must be a boolean"),
     ({"type": "colour"}, "red", "unknown type, 'colour'"), ({"required": True}, None, "must be given"),
     ({"type": "string", "pattern": "[a-z]+"}, "A1", r"must match \[a-z\]\+")],
)  # fmt: skip
def test_a_wrong_argument_is_named_with_what_is_allowed(
    description: dict[str, Any], value: object, message: str
) -> None:
    with pytest.raises(ArgumentsError, match=message):
        complete({"it": description}, {} if value is None else {"it": value})


def test_without_a_schema_arguments_are_what_they_are() -> None:
    assert complete({}, {"any": 1}) == {"any": 1}
