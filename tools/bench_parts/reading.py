"""Reading through a mount: names, attributes and bytes, cold and cached."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bench_parts.bench import Bench
from bench_parts.data import DAY, LARGE, WALKED
from bench_parts.figures import Budget, Figure, at_least, at_most
from bench_parts.systems import System

STATS = 3000
OPENS = 1500
PAGES = 1000
GROUP = "reading"
CPU = "  processor time of the mount for each"


def sources(bench: Bench, converter: str, count: int) -> list[str]:
    """Paths of sources in every mount."""
    names = [each.path.name for each in bench.prepared().sources() if each.converter == converter]
    return [f"sources/{converter}/{DAY}/archived/{name}" for name in names[:count]]


def paths(system: System, names: list[str]) -> list[Path]:
    """The same in one of them."""
    return [system.path(name) for name in names]


def stat(bench: Bench) -> list[Figure]:
    """lstat of files whose attributes the kernel has already."""
    names = sources(bench, WALKED, STATS)

    def measure(system: System) -> Mapping[str, float]:
        run = bench.client.run("stat", bench.options.seconds / 3, paths=paths(system, names))
        return {"stat": run.rate}

    table = bench.compare(measure)
    return [Figure(GROUP, "stat, cached", "per_second", table.of("stat"), at_least(0.9))]


def walk(bench: Bench) -> list[Figure]:
    """All names of large folders, and of many small ones."""

    def measure(system: System) -> Mapping[str, float]:
        system.cold()
        found = {}
        for when in (", cold", ""):
            for name, top in (("flat", "sources"), ("deep", f"by-converter/{WALKED}")):
                before = system.cpu_seconds()
                run = bench.client.run("walk", 0, system.path(top))
                found[name + when] = run.rate
                found[f"{name}{when}: cpu"] = (system.cpu_seconds() - before) / run.count
        return found

    table = bench.compare(measure)
    small = bench.options.sizes.small
    flat, deep = f"walk of {small} names in 3 folders", f"walk of {small // 3} entry folders, 2 files each"
    return [
        Figure(GROUP, f"{flat}, warm", "per_second", table.of("flat"), at_least(0.5)),
        Figure(GROUP, CPU, "seconds", table.of("flat: cpu")),
        Figure(GROUP, f"{flat}, cold", "per_second", table.of("flat, cold")),
        Figure(GROUP, f"{deep}, warm", "per_second", table.of("deep"), at_least(0.5)),
        Figure(GROUP, CPU, "seconds", table.of("deep: cpu")),
        Figure(GROUP, f"{deep}, cold", "per_second", table.of("deep, cold")),
    ]


def small_files(bench: Bench) -> list[Figure]:
    """Files of 7 KB that nobody has looked at since the mount."""
    names = sources(bench, WALKED, OPENS)

    def measure(system: System) -> Mapping[str, float]:
        system.cold()
        before = system.cpu_seconds()
        cold = bench.client.run("read", paths=paths(system, names)).rate
        used = (system.cpu_seconds() - before) / len(names)
        again = bench.client.run("read", paths=paths(system, names)).rate
        return {"cold": cold, "cpu": used, "again": again}

    table = bench.compare(measure)
    return [
        Figure(GROUP, "open+read+close of 7 KB, cold", "per_second", table.of("cold"), at_least(0.8)),
        Figure(GROUP, CPU, "seconds", table.of("cpu")),
        Figure(GROUP, "open+read+close of 7 KB, again", "per_second", table.of("again")),
    ]


def sequential(bench: Bench) -> list[Figure]:
    """A large log from its beginning to its end."""
    names = [f"sources/{LARGE}/{DAY}/archived/large.log"]

    def measure(system: System) -> Mapping[str, float]:
        system.cold()
        cold = bench.client.run("read", paths=paths(system, names)).bandwidth
        return {"cold": cold, "again": bench.client.run("read", paths=paths(system, names)).bandwidth}

    table = bench.compare(measure)
    size = bench.options.sizes.large >> 20
    title = f"sequential read of a log of {size} MiB"
    return [
        Figure(GROUP, f"{title}, cold", "bytes_per_second", table.of("cold"), at_least(0.6)),
        Figure(GROUP, f"{title}, again", "bytes_per_second", table.of("again")),
    ]


def random_pages(bench: Bench) -> list[Figure]:
    """4 KiB at random places of that log."""
    name = f"sources/{LARGE}/{DAY}/archived/large.log"

    def measure(system: System) -> Mapping[str, float]:
        system.cold()
        run = bench.client.run("random", PAGES, 1, system.path(name))
        return {"median": run.median_us / 1e6, "p99": run.p99_us / 1e6}

    table = bench.compare(measure)
    title = "random 4 KiB in that log, cold"
    return [
        Figure(GROUP, f"{title}, median", "seconds", table.of("median"), at_most(1e-3, "1 ms")),
        Figure(GROUP, f"{title}, p99", "seconds", table.of("p99")),
    ]


def readers(bench: Bench) -> list[Figure]:
    """Many processes that read large logs at once; how much memory that takes at most."""
    sizes = bench.options.sizes
    names = [f"sources/{LARGE}/{DAY}/archived/reader-{number:02}.log" for number in range(sizes.readers)]
    kinds = {f"{count} readers of one log": names[:1] * count for count in (8, 32)}
    kinds |= {
        f"{count} readers of {count} logs": names[:count] for count in (8, 32) if count <= sizes.readers
    }

    def measure(system: System) -> Mapping[str, float]:
        found = {}
        for kind, wanted in kinds.items():
            system.cold()
            before = system.memory()
            system.forget_peak()
            found[kind] = bench.client.run("readers", paths=paths(system, wanted)).bandwidth
            found[f"{kind}: memory"] = max(system.memory("VmHWM") - before, 0)
        return found

    compared = [each for each in bench.readers() if each.name in ("floor", "archivefs", "squashfuse")]
    table = bench.compare(measure, compared)
    size = f"{sizes.reader >> 20} MiB"
    figures = []
    for kind in kinds:
        figures.append(Figure(GROUP, f"{kind} of {size}, cold", "bytes_per_second", table.of(kind)))
        memory = Budget("<= 128 MiB + 64 MiB", at_most=192 << 20)
        figures.append(
            Figure(GROUP, "  more memory meanwhile", "bytes", table.of(f"{kind}: memory"), memory, of="")
        )
    return figures


GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {
    "stat": stat,
    "walk": walk,
    "open": small_files,
    "sequential": sequential,
    "random": random_pages,
    "readers": readers,
}
