"""How an archive behaves that has 10 000, 100 000 or 1 000 000 entries: each made once, then looked at."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import million

from archivefs import config, query, rebuilding
from archivefs.archive import Archive
from archivefs.catalog.reader import Reader
from archivefs.fs.views import VIEWS
from bench_parts import systems
from bench_parts.bench import Bench
from bench_parts.disk import du
from bench_parts.figures import OURS, Budget, Figure, at_most
from bench_parts.systems import Archivefs

FOUND = 100_000
"""Files that ``find`` goes over."""
REPEATED = 7
PAGE_BUDGET = at_most(0.01, "10 ms")
MEMORY = at_most(200e6, "200 MB")


def scale(bench: Bench, count: int) -> list[Figure]:
    """All figures of an archive of that size."""
    root = bench.work / f"scale-{count}"
    bench.say(f"making an archive of {count} entries")
    million.grow(root, count, bench.say)
    figures = Collected(f"{count} entries")
    bench.say("looking at it")
    mounted(bench, root, count, figures)
    catalog(root, count, figures)
    bench.say("rebuild")
    with Archive(root) as archive:
        events = archive.reader.changed_seq()
    start = time.perf_counter()
    rebuilding.rebuild(root)
    rate = events / (time.perf_counter() - start)
    figures.add("rebuild, events", "per_second", rate, Budget(">= 20 k/s", at_least=20_000))
    for part in ("catalog.sqlite", "journal", "content"):
        figures.add(f"size of {part}", "bytes", du(root / part))
    return figures.made


class Collected:
    """Figures of one group, as they come."""

    def __init__(self, group: str) -> None:
        self._group = group
        self.made: list[Figure] = []

    def add(self, name: str, unit: str, value: float | Sequence[float], budget: Budget | None = None) -> None:
        """A value of archivefs, or several of which the median counts."""
        values = [float(value)] if isinstance(value, int | float) else list(value)
        self.made.append(Figure(self._group, name, unit, {OURS: values}, budget, of=""))


def timed(what: Callable[[], object], times: int = 1) -> list[float]:
    """How long it takes, once or several times."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        what()
        found.append(time.perf_counter() - start)
    return found


# -- through the mount -----------------------------------------------------------------------------------


def mounted(bench: Bench, root: Path, count: int, figures: Collected) -> None:
    """Mounting, listing and searching, and what that takes of memory."""
    point = bench.work / "mnt-scale"
    point.mkdir(exist_ok=True)
    system = Archivefs(root, point)
    Archive(root).close()
    systems.drop_caches()
    try:
        start = time.perf_counter()
        system.start()
        list(point.iterdir())
        figures.add("mount, cold, until listed", "seconds", time.perf_counter() - start, at_most(2, "2 s"))
        figures.add("memory after the mount", "bytes", system.memory(), MEMORY)
        for view in VIEWS:
            listing = timed(lambda view=view: list((point / view.name).iterdir()), REPEATED)
            figures.add(f"ls {view.name}/", "seconds", listing, PAGE_BUDGET)
        days = sorted((point / "by-date").glob("*/*/*"))
        # Year, month and day are above; converter, status and entry are below.
        runs = [bench.client.run("walk", 3, days[len(days) // 2]) for _ in range(REPEATED)]
        seconds = [run.seconds for run in runs]
        title = f"names of one day, {runs[0].count} in 3 levels"
        figures.add(title, "seconds", seconds, at_most(0.2, "0.2 s"))
        found(bench, system, figures)
    finally:
        system.stop()


def found(bench: Bench, system: Archivefs, figures: Collected) -> None:
    """``find`` over so many sources of one converter, and what remains of it when the kernel forgets."""
    folders = first_days(system.point / "sources" / million.MAIN, FOUND)
    total, seconds = 0, 0.0
    system.forget_peak()
    before = system.memory()
    for folder in folders:
        run = bench.client.run("walk", 0, folder)
        total, seconds = total + run.count, seconds + run.seconds
    figures.add(f"find over {total} sources, names", "per_second", total / seconds)
    figures.add("  memory at most meanwhile", "bytes", system.memory("VmHWM"), MEMORY)
    figures.add("  more memory after it", "bytes", max(system.memory() - before, 0))
    stats = [path for folder in folders[:1] for path in folder.rglob("*")][:10_000]
    bench.client.run("stat", 0.0, paths=stats)
    systems.drop_caches(systems.DENTRIES)
    time.sleep(1)
    figures.add("  and after the kernel forgot it", "bytes", max(system.memory() - before, 0))


def first_days(folder: Path, wanted: int) -> list[Path]:
    """As many days of a converter as have so many sources."""
    days = sorted(folder.iterdir())
    return days[: max(1, -(-wanted * 100 // (91 * million.PER_DAY)))]


# -- in the catalog --------------------------------------------------------------------------------------


def catalog(root: Path, count: int, figures: Collected) -> None:
    """Pages of 100 as a directory or ``archivefs ls`` asks for them."""
    zone = config.load(root).zone
    reader = Reader.open(root / rebuilding.CATALOG)
    try:
        for words in queries(reader, count):
            wanted = query.parse(words, zone)
            seconds = timed(lambda wanted=wanted: list(reader.search(wanted)), REPEATED)
            shown = words.replace(" limit=100", "")
            figures.add(f"100 of: {shown or 'everything'}", "seconds", seconds, PAGE_BUDGET)
    finally:
        reader.close()


def queries(reader: Reader, count: int) -> Iterator[str]:
    """What people ask for: something common, something rare, something that is not there."""
    middle = reader.entry(count // 2)
    assert middle is not None
    converter, day = reader.converter_name(middle.converter_id), middle.day_text
    for words in (
        "", "status=failed", f"converter={converter} date={day}", f"converter={million.OTHERS[0]}",
        f"date={day} status=failed,skipped", f"from={day} to={day} status=success",
        f"status=failed converter={million.OTHERS[-1]}", "status=quarantined", f"sha256={middle.sha256[:12]}",
        "name=*_line-2.csv", f"name=SN{count // 2:08}*", "name=absent.csv", "text=timeout", "text=nowhere",
        "version=2.1", "version=0.0", "report=no status=success", "report=yes status=failed", "min_size=10MB",
        "max_size=0", f"date={day} name=*77_{converter}.csv", "status=failed name=*_line-2.csv",
        "status=success text=nowhere", f"converter={million.OTHERS[0]} text=timeout",
        "text=timeout version=0.0",
        "status=skipped version=2.1",
    ):  # fmt: skip
        yield f"{words} limit=100".strip()
