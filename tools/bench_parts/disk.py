"""What the disk has to hold, as ``du`` counts it: sources, a gzip file for each, and an archive of them."""

import gzip
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import corpus

from archivefs.archive import Archive
from archivefs.events import Verified
from archivefs.operations import Note
from bench_parts import systems
from bench_parts.bench import Bench
from bench_parts.data import Source, make_archive, write_sources
from bench_parts.figures import OURS, Budget, Figure
from bench_parts.plain import LEVEL

GROUP = "disk use"
DAY_NS = 24 * 60 * 60 * 10**9
SOURCES, GZIP = "sources", "gzip -6 each"
CAPTURED, REPACKED = 0.6, 0.35
"""Goals: how much of the space of the gzip files an archive may take, journal and catalog included."""


def du(path: Path) -> int:
    """Bytes that a file or folder takes on the disk: ``du --block-size=1 --summarize``."""
    return int(systems.run("du", "--block-size=1", "--summarize", path).split()[0])


def gzip_each(sources: Iterable[Source], folder: Path) -> None:
    """The plain design's files."""
    folder.mkdir()
    for source in sources:
        (folder / f"{source.path.name}.gz").write_bytes(gzip.compress(source.path.read_bytes(), LEVEL))


def disk(bench: Bench) -> list[Figure]:
    """Small reports of each kind, then all kinds together."""
    top = bench.folder("disk")
    per_kind, figures = bench.options.sizes.disk, []
    write_sources(top / "all", 3 * per_kind, seed=11)
    everything = [
        Source(kind, path) for kind in corpus.KINDS for path in sorted((top / "all" / kind).iterdir())
    ]
    everything.sort(key=lambda source: source.path.name.partition("SN")[2])
    for kind in (*corpus.KINDS, "all kinds"):
        chosen = [each for each in everything if kind in (each.converter, "all kinds")]
        figures += measured(top / kind.replace(" ", "-"), kind, chosen)
    return figures


def measured(folder: Path, kind: str, sources: list[Source]) -> list[Figure]:
    """An archive of these sources and its parts beside the files.

    They are the work of two days. Dictionaries are made after the first; the journal of the first is
    compressed. Before all is repacked a third day has begun, so that the journal of the second is, too; and
    a fourth before that is measured, for what a repack did stands in the journal of its day.
    """
    copies = folder / "sources"
    copies.mkdir(parents=True)
    for source in sources:
        (copies / source.path.name).write_bytes(source.path.read_bytes())
    gzip_each(sources, folder / "gzip")
    root = folder / "archive"
    half = len(sources) // 2
    make_archive(root, sources[:half], sources[half:])
    others = {SOURCES: [float(du(copies))], GZIP: [float(du(folder / "gzip"))]}
    second = [folder / "gzip" / f"{source.path.name}.gz" for source in sources[half:]]
    goal = Budget(f"<= {CAPTURED} x gzip", at_most=CAPTURED, of=GZIP)
    title = f"{len(sources)} sources, {kind}"
    figures = [Figure(GROUP, title, "bytes", {OURS: [float(parts(root)["all"])], **others}, goal)]
    later = {
        OURS: [float(of_last_day(root, len(second) / len(sources)))],
        GZIP: [float(sum(map(du, second)))],
    }
    figures.append(Figure(GROUP, "  the second day, with dictionaries", "bytes", later, goal))
    figures += [
        Figure(GROUP, f"  of it {part}", "bytes", {OURS: [float(size)]}, of="")
        for part, size in parts(root).items()
        if part != "all"
    ]
    goal = goal._replace(text=f"<= {REPACKED} x gzip", at_most=REPACKED)
    begin_a_day(root)
    start = time.perf_counter()
    systems.archivefs("repack", "--archive", root, "--all")
    seconds = time.perf_counter() - start
    begin_a_day(root, days=1)
    sizes = parts(root)
    figures.append(Figure(GROUP, "  repacked", "bytes", {OURS: [float(sizes["all"])], **others}, goal))
    figures.append(Figure(GROUP, "  of it content", "bytes", {OURS: [float(sizes["content"])]}, of=""))
    rate = [sum(each.path.stat().st_size for each in sources) / seconds]
    return [*figures, Figure(GROUP, "  repacking", "bytes_per_second", {OURS: rate}, of="")]


def of_last_day(root: Path, share: float) -> float:
    """Content and journal of the last day, and its share of the catalog."""
    content = max(folder for folder in (root / "content").glob("*/*/*") if folder.is_dir())
    journal = max((root / "journal").glob("*/*/*.jsonl"))
    return du(content) + du(journal) + share * du(root / "catalog.sqlite")


def begin_a_day(root: Path, days: int = 0) -> None:
    """Something happens on a later day: today, or so many days from now."""
    with Archive(root, clock=lambda: time.time_ns() + days * DAY_NS) as archive:
        archive.commit_one(Note(Verified(scope="bench", records=0, bytes=0)))


def parts(root: Path) -> dict[str, int]:
    """What the parts of an archive take; it is opened and closed once, so that nothing waits in a log."""
    Archive(root).close()
    sizes = {name: du(root / name) for name in ("content", "journal", "catalog.sqlite", "dictionaries")
             if (root / name).exists()}  # fmt: skip
    return {"all": du(root), **sizes}


GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {"disk": disk}
