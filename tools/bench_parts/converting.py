"""How fast sources that wait are converted, and how long one takes from its close to its report."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from archivefs.archive import Archive
from archivefs.operations import Capture
from bench_parts.bench import Bench
from bench_parts.figures import OURS, Budget, Figure, Table, at_most
from bench_parts.systems import Archivefs

GROUP = "converting"
SOURCE_BYTES = 5000
CODE = "def convert(path, arguments):\n    return {'bytes': len(open(path, 'rb').read())}\n"
RATE = Budget(">= 300/s", at_least=300.0)
DELAY = at_most(0.15, "0.15 s")
DELAYS = 50
"""Files that are saved one after the other; the slowest of twenty is told, too."""
WAIT_SECONDS = 300.0
LOOK_EVERY_SECONDS = 0.01


def toml(sandbox: str) -> str:
    """An archive with one trivial converter that begins at once."""
    return (
        "schema_version = 1\nreserve = 0\n[converters.trivial]\nrun = 'function:trivial:convert'\n"
        f"path = ['converters']\nsettle_seconds = 0\nlinger_seconds = 0\nsandbox = '{sandbox}'\n"
    )


def waiting(root: Path, sandbox: str, count: int) -> None:
    """A new archive in which so many sources wait for the converter."""
    shutil.rmtree(root, ignore_errors=True)
    Archive.create(root, toml(sandbox))
    (root / "converters" / "trivial.py").write_text(CODE)
    with Archive(root) as archive:
        for start in range(0, count, 200):
            numbers = range(start, min(start + 200, count))
            archive.commit([
                Capture("trivial", b"%d.csv" % number, os.urandom(SOURCE_BYTES), mtime_ns=time.time_ns())
                for number in numbers
            ])  # fmt: skip


def events(root: Path) -> Iterator[dict[str, Any]]:
    """The lines of the journal that are there."""
    for file in sorted((root / "journal").rglob("*.jsonl")):
        for line in file.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)


def seconds(event: Mapping[str, Any]) -> float:
    """When an event was written, as Unix time."""
    return datetime.fromisoformat(event["at"]).timestamp()


def until(root: Path, count: int) -> None:
    """Wait until so many attempts have ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while sum(event["kind"] == "attempt_finished" for event in events(root)) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"tools/bench: {root}: not converted within {WAIT_SECONDS:g} s")
        time.sleep(0.25)


def rate(bench: Bench) -> list[Figure]:
    """Sources that wait when an archive is mounted: from the first attempt's begin to the last one's end."""
    table, count = Table(), bench.options.sizes.small // 2
    for _ in range(bench.options.rounds):
        for sandbox in ("strict", "off"):
            root = bench.folder("converting")
            waiting(root, sandbox, count)
            system = Archivefs(root, bench.folder("mnt-converting"))
            system.start()
            until(root, count)
            system.stop()
            done = [event for event in events(root) if event["kind"].startswith("attempt_")]
            bad = [event["error"] for event in done if event.get("outcome", "success") != "success"]
            if bad:
                raise SystemExit(f"tools/bench: {bad[0]}")
            table.add(OURS, {sandbox: count / (seconds(done[-1]) - seconds(done[0]))})
    title = "conversions of {} sources of 5 KB, {} workers, sandbox {}"
    workers = os.cpu_count()
    return [
        Figure(GROUP, title.format(count, workers, each), "per_second", table.of(each), RATE, of="")
        for each in ("strict", "off")
    ]


def delay(bench: Bench) -> list[Figure]:
    """From ``close`` to the commit of the report, with a worker that runs and no settle time."""
    root = bench.folder("converting")
    waiting(root, "strict", 1)
    system = Archivefs(root, bench.folder("mnt-converting"))
    system.start()
    until(root, 1)
    closed = []
    for number in range(DELAYS):
        with (system.path("inbox/trivial") / f"saved {number}.csv").open("wb") as file:
            file.write(os.urandom(SOURCE_BYTES))
        closed.append(time.time())
        wait_for_report(system, number + 2)
    system.stop()
    ends = [seconds(event) for event in events(root) if event["kind"] == "attempt_finished"][1:]
    delays = sorted(end - close for end, close in zip(ends, closed, strict=True))
    middle, slow = delays[len(delays) // 2], delays[int(len(delays) * 0.95)]
    return [
        Figure(GROUP, "close to report, settle_seconds = 0", "seconds", {OURS: [middle]}, DELAY, of=""),
        Figure(GROUP, "close to report, the slowest of twenty", "seconds", {OURS: [slow]}, DELAY, of=""),
    ]


def wait_for_report(system: Archivefs, count: int) -> None:
    """Wait until so many entries have succeeded, as stats.json says."""
    deadline = time.monotonic() + WAIT_SECONDS
    while json.loads(system.path("stats.json").read_bytes())["by_status"].get("success", 0) < count:
        if time.monotonic() > deadline:
            raise SystemExit("tools/bench: no report")
        time.sleep(LOOK_EVERY_SECONDS)


GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {"convert": rate, "delay": delay}
