"""Knows the CSV files of the in-circuit testers: a preamble, an empty line, the measurements, END.

    serial,SN24000017
    part number,PCB-4471-C
    station,ICT-03
    operator,mbauer
    started,2024-03-18T09:14:22+00:00
    status,COMPLETE

    step,net,value,unit,low,high,result
    1,R101,9.987,kOhm,9.9,10.1,PASS
    2,GND-VCC,212,MOhm,10,,PASS
    END,2

Either limit may be empty, and so may the operator. A file whose status is INCOMPLETE is still being written.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile
from typing import Any, ClassVar

from archivefs.convert import Context, Result, Source, Validation

PREAMBLE = {"serial", "part number", "station", "operator", "started", "status"}
COLUMNS = ["step", "net", "value", "unit", "low", "high", "result"]
RESULTS = {"PASS": "passed", "FAIL": "failed"}


class IctConverter:
    """Turns the file of one tested board into one report."""

    name = "ict-csv"
    version = "1.0.0"
    file_patterns = ("*.csv",)
    arguments_schema: ClassVar[dict[str, dict[str, Any]]] = {
        "delimiter": {"type": "string", "default": ",", "description": "what separates two fields"},
        "retry_after_seconds": {"type": "float", "default": 60, "description": "pause while a test runs"},
    }

    def validate(self, source: Source, context: Context) -> Validation:
        """Looks at the first word only: other stations write CSV files too."""
        if source.read_bytes().removeprefix(codecs.BOM_UTF8).startswith(b"serial"):
            return Validation(can_convert=True)
        return Validation(can_convert=False, message="the file does not begin with a serial number")

    def convert(self, source: Source, context: Context) -> Result:
        """Reads the preamble, then the measurements; errors name the line they were found on.

        What is not foreseen here, such as bytes that are not UTF-8, is raised and fails the source as well.
        """
        # The testers run Windows, so a byte order mark may come first.
        lines = source.read_text(encoding="utf-8-sig").rstrip().splitlines()
        rows = csv.reader(lines, delimiter=context.arguments.get("delimiter", ","))
        try:
            preamble = read_preamble(rows)
            if preamble["status"] == "INCOMPLETE":
                retry_after = context.arguments.get("retry_after_seconds", 60)
                return Result.suspended("the station is still testing", retry_after=retry_after)
            if not lines[-1].startswith("END"):
                return Result.failed(f"line {len(lines)}: the file is truncated, its last line is not END")
            measurements = read_measurements(rows)
        except (ValueError, csv.Error) as error:
            return Result.failed(f"line {rows.line_num}: {error}")
        context.log(f"read {len(measurements)} measurements")
        warnings = [] if preamble["operator"] else ["the file names no operator"]
        return Result.success(build_report(preamble, measurements), warnings=warnings)


def read_preamble(rows: Iterator[list[str]]) -> dict[str, str]:
    """Reads keys and values up to the first empty line."""
    preamble: dict[str, str] = {}
    for row in takewhile(bool, rows):
        if len(row) != 2:
            raise ValueError(f"expected a key and a value, found {row}")
        key, value = row
        preamble[key] = datetime.fromisoformat(value).isoformat() if key == "started" else value
    if missing := PREAMBLE - preamble.keys():
        raise ValueError(f"the preamble lacks {', '.join(sorted(missing))}")
    return preamble


def read_measurements(rows: Iterator[list[str]]) -> list[dict[str, Any]]:
    """Reads the table up to END, which repeats the number of measurements."""
    heading = next(rows, [])
    if heading != COLUMNS:
        raise ValueError(f"expected the columns {COLUMNS}, found {heading}")
    measurements: list[dict[str, Any]] = []
    for row in rows:
        if row[:1] == ["END"]:
            end = ["END", str(len(measurements))]
            if row != end:
                raise ValueError(f"expected {end}, found {row}")
            return measurements
        measurements.append(read_measurement(row))
    raise ValueError("the measurements have no END")


def read_measurement(row: list[str]) -> dict[str, Any]:
    """Reads one line of the table; either limit may be empty."""
    if len(row) != len(COLUMNS):
        raise ValueError(f"expected {len(COLUMNS)} fields, found {len(row)}")
    _, name, value, unit, low, high, result = row
    if result not in RESULTS:
        raise ValueError(f"result is neither PASS nor FAIL: {result!r}")
    return {
        "name": name,
        "value": read_number("value", value),
        "unit": unit,
        "low": read_number("low", low) if low else None,
        "high": read_number("high", high) if high else None,
        "result": RESULTS[result],
    }


def read_number(column: str, text: str) -> float:
    """Reads a finite number, as JSON has no other."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{column} is not a number: {text!r}")
    return number


def build_report(preamble: dict[str, str], measurements: list[dict[str, Any]]) -> dict[str, Any]:
    """Builds the report; a board has passed when each of its measurements has."""
    passed = all(measurement["result"] == "passed" for measurement in measurements)
    return {
        "type": "ict",
        "serial_number": preamble["serial"],
        "part_number": preamble["part number"],
        "station": preamble["station"],
        "operator": preamble["operator"] or None,
        "started_at": preamble["started"],
        "result": "passed" if passed else "failed",
        "measurements": measurements,
    }
