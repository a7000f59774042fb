"""How fast sources that wait are converted, and how long one takes from its close to its report."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import trio

from archivefs import config as configuration
from archivefs.archive import Archive
from archivefs.config import ConverterConfig
from archivefs.convert.pool import Pool
from archivefs.convert.preparation import Preparation
from archivefs.convert.process import Job
from archivefs.operations import Capture
from bench_parts.bench import Bench
from bench_parts.figures import OURS, Budget, Figure, Table, at_most
from bench_parts.systems import Archivefs

GROUP = "converting"
SOURCE_BYTES = 5000
CODE = """\
import time

def convert(path, arguments):
    end = time.process_time() + arguments["work_ms"] / 1000
    while time.process_time() < end:
        pass
    return {"bytes": len(open(path, "rb").read())}
"""
WORK_MS = 20
"""What a converter does that parses a file of some KB and checks its report against a model."""
RATE = Budget(">= 300/s", at_least=300.0)
DELAY = at_most(0.15, "0.15 s")
POOL = "workers alone"
ADDED = Budget(f">= 0.91 x {POOL}", at_least=1 / 1.1, of=POOL)
DELAYS = 50
"""Files that are saved one after the other; the slowest of twenty is told, too."""
WAIT_SECONDS = 300.0
LOOK_EVERY_SECONDS = 0.01


def toml(sandbox: str, work_ms: int) -> str:
    """An archive with one converter that begins at once."""
    return (
        "schema_version = 1\nreserve = 0\n[converters.trivial]\nrun = 'function:trivial:convert'\n"
        f"path = ['converters']\nsettle_seconds = 0\nlinger_seconds = 0\nsandbox = '{sandbox}'\n"
        f"arguments = {{ work_ms = {work_ms} }}\n"
    )


def waiting(root: Path, sandbox: str, count: int, work_ms: int = 0) -> None:
    """A new archive in which so many sources wait for the converter."""
    shutil.rmtree(root, ignore_errors=True)
    Archive.create(root, toml(sandbox, work_ms))
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


def archived(bench: Bench, sandbox: str, count: int, work_ms: int = 0) -> float:
    """Conversions a second of sources that wait when an archive is mounted.

    From the first attempt's begin to the last one's end.
    """
    root = bench.folder("converting")
    waiting(root, sandbox, count, work_ms)
    system = Archivefs(root, bench.folder("mnt-converting"))
    system.start()
    until(root, count)
    system.stop()
    done = [event for event in events(root) if event["kind"].startswith("attempt_")]
    bad = [event["error"] for event in done if event.get("outcome", "success") != "success"]
    if bad:
        raise SystemExit(f"tools/bench: {bad[0]}")
    return count / (seconds(done[-1]) - seconds(done[0]))


def plain(bench: Bench, count: int, work_ms: int) -> float:
    """Conversions a second by the same workers, of files in a folder, whose reports are not kept."""
    folder = bench.folder("plain-converting")
    (folder / "converters").mkdir()
    (folder / "converters" / "trivial.py").write_text(CODE)
    for number in range(count):
        (folder / f"{number}.csv").write_bytes(os.urandom(SOURCE_BYTES))
        (folder / f"{number}.csv").chmod(0o444)
    config = configuration.parse(toml("strict", work_ms).encode(), "bench").converters["trivial"]
    return trio.run(_plain, folder, config, count)


async def _plain(folder: Path, config: ConverterConfig, count: int) -> float:
    workers = os.cpu_count() or 1
    pool, work = Pool(folder / "work", workers), iter(range(count))
    code = await Preparation(folder, folder / "code").code("trivial", config)

    async def convert() -> None:
        for number in work:
            job = Job(folder / f"{number}.csv", f"{number}.csv", 1, config.arguments)
            await pool.convert("trivial", config, code, job)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(convert)
    taken = time.perf_counter() - start
    await pool.close()
    return count / taken


def rate(bench: Bench) -> list[Figure]:
    """A converter that does nothing, and one that does something beside the same without an archive."""
    table, count = Table(), bench.options.sizes.small // 2
    some = max(count // 5, 10)
    for _ in range(bench.options.rounds):
        for sandbox in ("strict", "off"):
            table.add(OURS, {sandbox: archived(bench, sandbox, count)})
        table.add(POOL, {"work": plain(bench, some, WORK_MS)})
        table.add(OURS, {"work": archived(bench, "strict", some, WORK_MS)})
    title = "conversions of {} sources of 5 KB, {} workers, sandbox {}"
    workers = os.cpu_count()
    return [
        Figure(GROUP, title.format(count, workers, each), "per_second", table.of(each), RATE, of="")
        for each in ("strict", "off")
    ] + [
        Figure(
            GROUP,
            f"conversions that take {WORK_MS} ms of processor time",
            "per_second",
            table.of("work"),
            ADDED,
            of=POOL,
        )
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
