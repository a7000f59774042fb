"""Converters that are classes: archivefs' own, and those written for the pyWATS client, which run unchanged.

A pyWATS converter is recognised by what it inherits; its package is imported for it alone. Only the standard
library otherwise.
"""

import functools
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from archivefs.convert.arguments import complete
from archivefs.convert.protocol import Context, Result, Source, Validation

Converter = Callable[[Path, dict[str, Any], int], Result]
PYWATS = "pywats_client"
DETECTED = "detected_"
TOLD = ("metadata", "records_processed", "processing_time_ms")
"""Of a pyWATS validation and result: what is for people."""


class NotAReportError(Exception):
    """What the converter gave cannot be stored as a report."""


class Thresholds(NamedTuple):
    """Confidences (0 to 1) below which a source is rejected, and below which its conversion has a warning."""

    reject: float
    alarm: float


def do_without_client() -> bool:
    """Make the converters of pyWATS importable where its client is not; returns whether that may have helped.

    The package imports a service and a user interface (Qt) before anything else; converters need neither, and
    a server does not have them.
    """
    found = importlib.util.find_spec(PYWATS)
    if found is None or found.submodule_search_locations is None or PYWATS in sys.modules:
        return False
    bare = types.ModuleType(PYWATS)
    bare.__path__ = list(found.submodule_search_locations)
    sys.modules[PYWATS] = bare
    return True


def of_class(made: type, thresholds: Thresholds) -> tuple[Converter, str]:
    """The converter of a class, and its version. Raises whatever making an object of it raises."""
    is_foreign = any(base.__module__.partition(".")[0] == PYWATS for base in made.__mro__)
    converter = made()
    adapted = _pywats(converter, thresholds) if is_foreign else _own(converter, thresholds)
    return adapted, str(getattr(converter, "version", "") or "")


def as_result(value: object) -> Result:
    """What a converter returned: a result, a report, or a list of reports. Raises ``NotAReportError``."""
    if isinstance(value, Result):
        return value
    reports = [value] if isinstance(value, dict) else value
    if not isinstance(reports, list) or not all(isinstance(report, dict) for report in reports):
        kind = type(value).__name__
        raise NotAReportError(f"the converter gave a {kind}; a report is a dict, several are a list of dicts")
    return Result.success(*reports)


def _judged(verdict: Any, thresholds: Thresholds) -> Result | str:  # noqa: ANN401  of either protocol
    """The result that a validation decides, or the warning that it adds to the conversion ('' for none)."""
    message = str(getattr(verdict, "message", "") or "")
    if not getattr(verdict, "ready", True):
        lacking = ", ".join(map(str, getattr(verdict, "missing_dependencies", None) or ()))
        reason = message or f"not ready: waits for {lacking or 'something'}"
        return Result.suspended(reason, _seconds(getattr(verdict, "retry_after", None)))
    confidence = float(verdict.confidence)
    if not verdict.can_convert or confidence < thresholds.reject:
        reason = message or "the converter does not recognise this file"
        return Result.rejected(f"{reason} (confidence {confidence:.2f})" if verdict.can_convert else reason)
    if confidence < thresholds.alarm:
        return f"converted with low confidence, {confidence:.2f}: {message}".rstrip(": ")
    return ""


def _own(converter: Any, thresholds: Thresholds) -> Converter:  # noqa: ANN401  any object of the right shape
    schema: Mapping[str, Any] = getattr(converter, "arguments_schema", None) or {}

    def convert(path: Path, arguments: dict[str, Any], attempt: int) -> Result:
        source = Source(path)
        context = Context(
            complete(schema, arguments), attempt, lambda message: print(message, flush=True)  # noqa: T201
        )  # fmt: skip
        warning = ""
        if hasattr(converter, "validate"):
            verdict = converter.validate(source, context)
            if isinstance(verdict, Validation):
                judged = _judged(verdict, thresholds)
                if isinstance(judged, Result):
                    return judged
                warning = judged
        return _warned(as_result(converter.convert(source, context)), [warning])

    return _with_schema(convert, schema)


def _pywats(converter: Any, thresholds: Thresholds) -> Converter:  # noqa: ANN401  of a package that may be missing
    from pywats_client.converters.context import (  # type: ignore[import-not-found, unused-ignore]
        ConverterContext,
    )
    from pywats_client.converters.models import (  # type: ignore[import-not-found, unused-ignore]
        ConverterSource,
    )

    schema: Mapping[str, Any] = converter.arguments_schema or {}

    def convert(path: Path, arguments: dict[str, Any], attempt: int) -> Result:
        source = ConverterSource.from_folder(path) if path.is_dir() else ConverterSource.from_file(path)
        context = ConverterContext(
            arguments=complete(schema, arguments),
            alarm_threshold=thresholds.alarm,
            reject_threshold=thresholds.reject,
        )
        verdict = converter.validate(source, context)
        judged = _judged(verdict, thresholds)
        if isinstance(judged, Result):
            return judged
        _tell((name, value) for name, value in vars(verdict).items() if name.startswith(DETECTED))
        warnings = [judged, *map(str, getattr(verdict, "warnings", None) or ())]
        given = converter.convert(source, context)
        _tell((name, getattr(given, name, None)) for name in TOLD)
        return _warned(_translated(given), warnings)

    return _with_schema(convert, schema)


def _with_schema(convert: Converter, schema: Mapping[str, Any]) -> Converter:
    """The converter, and with it a way to ask whether it takes given arguments: ``check``."""
    convert.check = functools.partial(complete, schema)  # type: ignore[attr-defined]
    return convert


def _tell(facts: Iterable[tuple[str, object]]) -> None:
    """What the client of pyWATS would show a person goes into the attempt's log."""
    for name, value in facts:
        if value not in (None, 0, "", {}):
            print(f"{name.replace('_', ' ')}: {value}", flush=True)  # noqa: T201


def _translated(given: Any) -> Result:  # noqa: ANN401  a ConverterResult
    """A pyWATS result in archivefs' words; every report counts."""
    status = given.status.value if isinstance(given.status, Enum) else str(given.status)
    warnings = tuple(map(str, given.warnings or ()))
    if status == "success":
        reports = list(given.reports or ())
        if given.report is not None and given.report not in reports:
            reports.insert(0, given.report)
        return Result.success(*(each for report in reports for each in _plain(report)), warnings=warnings)
    reason = str((given.suspend_reason if status == "suspended" else given.error) or "no reason was given")
    if status == "suspended":
        return Result(status, error=reason, retry_after=_seconds(given.retry_after), warnings=warnings)
    if status in ("failed", "skipped", "rejected"):
        return Result(status, error=reason, warnings=warnings)
    raise NotAReportError(f"the converter gave the status {status!r}")


def _plain(report: Any) -> Sequence[dict[str, Any]]:  # noqa: ANN401  a dict, a list or a pydantic model
    if hasattr(report, "model_dump"):
        report = report.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(report, dict):
        return [report]
    if isinstance(report, list | tuple):
        return [each for item in report for each in _plain(item)]
    raise NotAReportError(f"a report is a {type(report).__name__}, not a dict, a list or a model")


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value) if isinstance(value, int | float) else None


def _warned(result: Result, warnings: Sequence[str]) -> Result:
    more = tuple(warning for warning in warnings if warning)
    return Result(result.outcome, result.reports, result.error, result.retry_after, (*more, *result.warnings))
