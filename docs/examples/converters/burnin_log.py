#!/usr/bin/env python3
"""Knows the logs of the burn-in chambers: samples every minute, events between them, a verdict last.

    2024-03-18T06:00:00Z START serial=SN24000017 part=PCB-4471-C station=BI-01 operator=mbauer
    2024-03-18T06:01:00Z DATA chamber=84.7C board=91.2C vcc12=12.03V
    2024-03-18T06:01:12Z EVENT fan 2 restarted
    2024-03-18T06:02:00Z VERDICT PASS

Run as `burnin_log.py LOG`, it prints the report; anything else it has to say goes to stderr.
"""

import json
import os
import re
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (START|DATA|EVENT|VERDICT) (.+)")
SAMPLE = re.compile(r"(\w+)=(-?\d+(?:\.\d+)?)([A-Za-z%]+)")

Entry = tuple[str, str, str]


def main() -> None:
    """Prints the report, or says on stderr why there is none."""
    text = Path(sys.argv[-1]).read_text(encoding="utf-8", errors="replace")
    # What follows the last newline is a line that the chamber is still writing.
    complete, _, _ = text.rpartition("\n")
    try:
        entries = [read_line(number, line) for number, line in enumerate(complete.splitlines(), 1)]
        match entries:
            case [(_, "START", _), *_, (_, "VERDICT", _)]:
                json.dump(build_report(entries), sys.stdout)
            case [(_, "START", _), *_]:
                print(f"the chamber is still running after {len(entries)} lines", file=sys.stderr)
                sys.exit(os.EX_TEMPFAIL)
            case _:
                raise ValueError("line 1: the log does not begin with START")
    except ValueError as error:
        sys.exit(str(error))  # to stderr, with exit status 1


def read_line(number: int, line: str) -> Entry:
    """Splits a line into its time, its kind and its text."""
    match = LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"line {number}: expected a time, a kind and a text, found {line!r}")
    time, kind, text = match.groups()
    if kind == "DATA" and not all(SAMPLE.fullmatch(word) for word in text.split()):
        raise ValueError(f"line {number}: expected samples such as board=91.2C, found {text!r}")
    return time, kind, text


def build_report(entries: list[Entry]) -> dict[str, Any]:
    """Summarises a finished log."""
    (started_at, _, start), *_, (finished_at, _, verdict) = entries
    unit = dict(re.findall(r"(\w+)=(\S+)", start))
    if missing := {"serial", "part", "station", "operator"} - unit.keys():
        raise ValueError(f"line 1: START lacks {', '.join(sorted(missing))}")
    return {
        "type": "burn-in",
        "serial_number": unit["serial"],
        "part_number": unit["part"],
        "station": unit["station"],
        "operator": unit["operator"],
        "started_at": started_at,
        "finished_at": finished_at,
        "result": "passed" if verdict == "PASS" else "failed",
        "channels": summarise([text for _, kind, text in entries if kind == "DATA"]),
        "events": [{"at": time, "message": text} for time, kind, text in entries if kind == "EVENT"],
    }


def summarise(data: list[str]) -> list[dict[str, Any]]:
    """Returns the extremes and the mean of each channel, in the order the log names them."""
    channels: dict[tuple[str, str], list[float]] = {}
    for text in data:
        for name, value, unit in SAMPLE.findall(text):
            channels.setdefault((name, unit), []).append(float(value))
    return [
        {
            "name": name,
            "unit": unit,
            "samples": len(values),
            "min": min(values),
            "max": max(values),
            "mean": round(fmean(values), 4),
        }
        for (name, unit), values in channels.items()
    ]


if __name__ == "__main__":
    main()
