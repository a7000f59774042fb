"""Makes an archive of as many entries as wanted, the real way: captures and conversions committed in groups.

    python tools/million.py ARCHIVE ENTRIES

Journal, segments and catalog are written by archivefs itself, with a clock that is moved through the days. An
archive that is there already goes on growing; one that has the entries stays as it is. Each day has 10 000
entries, nine in ten of one converter; half of all were converted, some of these without success. Nothing
waits, so that a mount of it is at rest.
"""

import argparse
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archivefs.archive import Archive
from archivefs.operations import BeginAttempt, Capture, FinishAttempt, Operation, Receipt, Report
from archivefs.states import Outcome, Status

FIRST_DAY = int(datetime(2021, 1, 1, 6, tzinfo=UTC).timestamp() * 1000)
PER_DAY = 10_000
DAY_MS = 86_400_000
GROUP = 500
"""Entries in a commit; more cost more in each savepoint than they save in syncs."""
MAIN = "line-1"
OTHERS = tuple(f"line-{number}" for number in range(2, 11))
TOML = 'schema_version = 1\ntimezone = "UTC"\nreserve = 0\n' + "".join(
    f'[converters.{name}]\nrun = "function:none:convert"\npatterns = ["*.csv"]\n' for name in (MAIN, *OTHERS)
)
ENDS = (
    (Outcome.SUCCESS, Status.SUCCESS, ""),
    (Outcome.FAILED, Status.FAILED, "step 14, rail 3V3: no answer from the supply, timeout after 30 s"),
    (Outcome.SKIPPED, Status.SKIPPED, "a retest of a unit that passed"),
)
WEIGHTS = (94, 4, 2)


class Sketch(NamedTuple):
    """What an entry of the archive is going to be."""

    number: int
    converter: str
    when_ms: int
    is_converted: bool


class Clock:
    """The archive's clock: shows what it was set to."""

    now_ms = FIRST_DAY

    def __call__(self) -> int:
        """Unix time in nanoseconds."""
        return self.now_ms * 10**6


def sketch(number: int) -> Sketch:
    """Entry ``number``, the same each time."""
    rng = random.Random(number)
    day, of_day = divmod(number, PER_DAY)
    converter = MAIN if rng.random() < 0.91 else rng.choice(OTHERS)
    when = FIRST_DAY + day * DAY_MS + of_day * (DAY_MS // 2 // PER_DAY)
    return Sketch(number, converter, when, rng.random() < 0.5)


def source(about: Sketch) -> bytes:
    """A short report of a station, unlike any other."""
    rng = random.Random(about.number)
    lines = [f"serial,SN{about.number:08}", f"station,{about.converter}", "step,value,unit,result"]
    lines += [f"{step},{rng.gauss(5, 1):.4f},V,PASS" for step in range(8)]
    return "\n".join(lines).encode()


def captured(about: Sketch) -> Capture:
    """Its capture."""
    name = f"SN{about.number:08}_{about.converter}.{'csv' if about.is_converted else 'txt'}"
    return Capture(about.converter, name.encode(), source(about), about.when_ms * 10**6)


def converted(about: Sketch, receipt: Receipt) -> tuple[Operation[Any], Operation[Any]]:
    """Its conversion, begun and ended."""
    rng = random.Random(-about.number)
    outcome, status, error = rng.choices(ENDS, WEIGHTS)[0]
    report = {
        "serial": f"SN{about.number:08}",
        "result": "passed",
        "values": [rng.random() for _ in range(4)],
    }
    finish = FinishAttempt(
        receipt.id, about.converter, 1, outcome, status, about.when_ms + 3000, rng.randrange(20, 900),
        version="2.1", arguments={"limit": 5.5}, error=error,
        reports=[Report("report.json", msgspec.json.encode(report))] if status is Status.SUCCESS else [],
    )  # fmt: skip
    return BeginAttempt(receipt.id, "capture"), finish


def commit(archive: Archive, operations: list[Operation[Any]]) -> list[Any]:
    """As one group. Raises the first error."""
    outcomes, _ = archive.commit(operations)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


def grow(root: Path, count: int, say: Callable[[str], None] = print) -> None:
    """Make the archive at ``root``, or go on with it until it has ``count`` entries."""
    clock = Clock()
    if not root.exists():
        Archive.create(root, TOML, clock=clock)
    with Archive(root, clock=clock) as archive:
        first = archive.reader.db.execute("SELECT max(n) FROM entries").get or 0
        start = time.monotonic()
        for begin in range(first, count, GROUP):
            end = min(begin + GROUP, count)
            add(archive, clock, [sketch(number) for number in range(begin, end)])
            if end % PER_DAY == 0 or end == count:
                archive.keep_house()
                say(f"{end} entries, {(end - first) / (time.monotonic() - start):.0f} a second")


def add(archive: Archive, clock: Clock, group: list[Sketch]) -> None:
    """Capture a group, then convert those of it that are."""
    clock.now_ms = group[0].when_ms
    receipts = commit(archive, [captured(each) for each in group])
    clock.now_ms += 3000
    both = [
        converted(each, receipt) for each, receipt in zip(group, receipts, strict=True) if each.is_converted
    ]
    commit(archive, [operation for pair in both for operation in pair])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make an archive of many entries, or let it grow.")
    parser.add_argument("archive", type=Path, metavar="ARCHIVE")
    parser.add_argument("entries", type=int, metavar="ENTRIES")
    options = parser.parse_args()
    grow(options.archive, options.entries)


if __name__ == "__main__":
    main()
