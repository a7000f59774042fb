"""Saving through a mount: create, write and close of small files, by one program and by several."""

import time
from collections.abc import Callable, Mapping

from archivefs.archive import Archive
from bench_parts import systems
from bench_parts.bench import Bench
from bench_parts.data import TOML
from bench_parts.figures import Figure, at_least
from bench_parts.reading import CPU
from bench_parts.systems import LOOK_EVERY_SECONDS, Archivefs, System

SAVED_BYTES = 10 * 1024
GROUP = "saving"
WRITERS = {1: 0.4, 8: 0.6}
"""How many programs save at once, and how much of the floor's speed must be reached."""
LEAVING_SECONDS = 60.0


def write(bench: Bench) -> list[Figure]:
    """Files of 10 KB: durable at close in an archive, in memory with the floor; and what the disk allows."""
    root = bench.folder("writing")
    root.rmdir()
    Archive.create(root, TOML)
    ours = bench.mounted(Archivefs(root, bench.work / "mnt-writing"))
    floor = bench.mounted(systems.floor(bench.folder("empty"), bench.work / "mnt-memory"))
    template, seconds = bench.prepared().template(), bench.options.seconds

    def measure(system: System) -> Mapping[str, float]:
        found = {}
        inbox = system.path("inbox/files")
        for count in WRITERS:
            before = system.cpu_seconds()
            run = bench.client.run("write", seconds, SAVED_BYTES, count, template, inbox)
            found[f"cpu {count}"] = (system.cpu_seconds() - before) / run.count
            found[f"rate {count}"] = run.rate
            found[f"median {count}"] = run.median_us / 1e6
            found[f"p99 {count}"] = run.p99_us / 1e6
            if system is ours:
                wait_until_empty(system)
        return found

    table = bench.compare(measure, [floor, ours])
    file = bench.work / "synced"
    for _ in range(bench.options.rounds):
        for count in WRITERS:
            file.unlink(missing_ok=True)
            run = bench.client.run("sync", min(seconds, 1.0), SAVED_BYTES, count, file)
            table.add("fdatasync", {f"rate {count}": run.rate})
            table.add("fdatasync", {f"median {count}": run.median_us / 1e6})
            table.add("fdatasync", {f"p99 {count}": run.p99_us / 1e6})
    file.unlink(missing_ok=True)
    ours.stop()
    floor.stop()
    figures = []
    for count, ratio in WRITERS.items():
        who = "1 program" if count == 1 else f"{count} programs"
        title = f"create+write+close of 10 KB, {who}"
        figures.append(Figure(GROUP, title, "per_second", table.of(f"rate {count}"), at_least(ratio)))
        figures.append(Figure(GROUP, CPU, "seconds", table.of(f"cpu {count}")))
        figures.append(Figure(GROUP, "  one of them, median", "seconds", table.of(f"median {count}")))
        figures.append(Figure(GROUP, "  one of them, p99", "seconds", table.of(f"p99 {count}")))
    return figures


def wait_until_empty(system: System) -> None:
    """Captured files leave the inbox by themselves; that must not weigh on the next measurement."""
    deadline = time.monotonic() + LEAVING_SECONDS
    while any(system.path("inbox/files").iterdir()):
        if time.monotonic() > deadline:
            raise SystemExit("tools/bench: the inbox does not become empty")
        time.sleep(LOOK_EVERY_SECONDS * 10)


GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {"write": write}
