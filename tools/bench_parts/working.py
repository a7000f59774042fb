"""Long work: how fast entries are replayed and purged, and what that does to programs that save meanwhile."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from archivefs.archive import Archive
from archivefs.operations import Capture
from bench_parts.bench import Bench
from bench_parts.converting import CODE, LOOK_EVERY_SECONDS, SOURCE_BYTES, WAIT_SECONDS, toml
from bench_parts.figures import OURS, Budget, Figure
from bench_parts.scale import Collected
from bench_parts.systems import Archivefs
from bench_parts.writing import SAVED_BYTES

GROUP = "long work"
REPLAYS = Budget(">= 300/s", at_least=300.0)
PURGES = Budget(">= 20 k/s", at_least=20_000.0)
"""100 000 entries in five seconds."""
REST = "at rest"
TWICE = Budget(f"<= 2 x {REST}", at_most=2.0, of=REST)
ENDS = ("done", "failed", "cancelled")
SAVING_SECONDS = 3.0
GROUP_SIZE = 250


def work(bench: Bench) -> list[Figure]:
    """An archive with as many small sources as are imported elsewhere: replayed, verified, purged."""
    count, figures = bench.options.sizes.imported, Collected(GROUP)
    root = bench.folder("working")
    _made(root, count)
    system = Archivefs(root, bench.folder("mnt-working"))
    system.start()
    at_rest = _close(bench, system)
    job, busy = _beside(bench, system, "reprocess", "converter=trivial promote=no")
    figures.add("replays with a trivial converter", "per_second", _rate(job), REPLAYS)
    figures.made.append(_saved("  a save meanwhile, median", busy, at_rest))
    job, busy = _beside(bench, system, "verify", "")
    figures.made.append(_saved("a save beside verify, median", busy, at_rest))
    plan = _tell(system, "retention", f"plan converter=trivial limit={count // 2}")["plan"]
    job = _alone(system, "retention", f"apply plan={plan}")
    figures.add("purging, entries", "per_second", _rate(job), PURGES)
    plan = _tell(system, "retention", "plan converter=trivial")["plan"]
    _, busy = _beside(bench, system, "retention", f"apply plan={plan}")
    figures.made.append(_saved("  a save meanwhile, median", busy, at_rest))
    system.stop()
    return figures.made


def _saved(name: str, busy: float, at_rest: float) -> Figure:
    return Figure(GROUP, name, "seconds", {OURS: [busy], REST: [at_rest]}, TWICE, of="")


def _made(root: Path, count: int) -> None:
    """An archive with sources that wait for no conversion."""
    shutil.rmtree(root, ignore_errors=True)
    Archive.create(root, toml("strict", 0) + "[converters.files]\nlinger_seconds = 0\n")
    (root / "converters" / "trivial.py").write_text(CODE)
    with Archive(root) as archive:
        for start in range(0, count, GROUP_SIZE):
            group = [
                Capture("trivial", b"%d.csv" % number, os.urandom(SOURCE_BYTES), 0, imported=True)
                for number in range(start, min(start + GROUP_SIZE, count))
            ]
            archive.commit(group)


def _close(bench: Bench, system: Archivefs) -> float:
    """Seconds that one program needs for a save, as the median of some seconds."""
    template = bench.prepared().template()
    run = bench.client.run("write", SAVING_SECONDS, SAVED_BYTES, 1, template, system.path("inbox/files"))
    return run.median_us / 1e6


def _tell(system: Archivefs, name: str, line: str) -> dict[str, Any]:
    fd = os.open(system.path(f"control/{name}"), os.O_RDWR)
    try:
        os.write(fd, line.encode() + b"\n")
        reply: dict[str, Any] = json.loads(os.pread(fd, 1 << 20, 0))
        return reply
    finally:
        os.close(fd)


def _beside(bench: Bench, system: Archivefs, name: str, line: str) -> tuple[dict[str, Any], float]:
    """A job, and how long a save takes while it runs."""
    number = _tell(system, name, line)["job"]
    busy = _close(bench, system)
    return _ended(system, number), busy


def _alone(system: Archivefs, name: str, line: str) -> dict[str, Any]:
    """A job that nobody disturbs."""
    return _ended(system, _tell(system, name, line)["job"])


def _ended(system: Archivefs, number: int) -> dict[str, Any]:
    file, deadline = system.path(f"jobs/{number}/job.json"), time.monotonic() + WAIT_SECONDS
    while (facts := json.loads(file.read_bytes()))["state"] not in ENDS:
        if time.monotonic() > deadline:
            raise SystemExit(f"tools/bench: job {number} has not ended within {WAIT_SECONDS:g} s")
        time.sleep(LOOK_EVERY_SECONDS)
    if facts["state"] != "done":
        raise SystemExit(f"tools/bench: job {number} is {facts['state']}: {facts['error']}")
    found: dict[str, Any] = facts
    return found


def _rate(job: dict[str, Any]) -> float:
    """Things a second."""
    return float(job["done"]) / max((job["ended_ms"] - job["started_ms"]) / 1000, 1e-3)


GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {"work": work}
