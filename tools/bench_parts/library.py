"""Capturing without a mount: through the library, and by the commands that take many files.

    python -m bench_parts.library KIND ROOT SOURCES_DIR COUNT

is one run in a process of its own; it prints the seconds that it took.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import corpus

from archivefs.archive import Archive
from archivefs.committer import GROUP as COMMITTED
from archivefs.operations import Capture
from bench_parts import systems
from bench_parts.bench import Bench
from bench_parts.data import TOML, write_sources
from bench_parts.figures import OURS, Budget, Figure, Table, in_turn
from bench_parts.plain import PlainArchive

GROUP = "without a mount"
BULK = Budget(">= 5 k/s", at_least=5000)
PLAIN, DURABLE = "gzip+SQLite", "the same, synced"


def one_by_one(root: Path, sources: Sequence[Path]) -> None:
    """Each durable before the next."""
    in_groups(root, sources, 1)


def in_groups(root: Path, sources: Sequence[Path], group: int = COMMITTED) -> None:
    """As many at once as the committer of a mount takes."""
    with Archive(root) as archive:
        for start in range(0, len(sources), group):
            outcomes, _ = archive.commit([capture(path) for path in sources[start : start + group]])
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome


def capture(path: Path) -> Capture:
    """What is done with a file."""
    return Capture(path.parent.name, path.name.encode(), path.read_bytes(), path.stat().st_mtime_ns)


def plainly(root: Path, sources: Sequence[Path], *, durable: bool = False) -> None:
    """The plain design."""
    archive = PlainArchive(root, durable=durable)
    for path in sources:
        archive.archive(path, path.parent.name)
    archive.close()


KINDS: Mapping[str, Callable[[Path, Sequence[Path]], None]] = {
    "one": one_by_one,
    "groups": in_groups,
    "plain": plainly,
    "synced": lambda root, sources: plainly(root, sources, durable=True),
}


def small_sources(folder: Path, count: int) -> list[Path]:
    """The first of them, the kinds in turn."""
    found = sorted(
        (path for kind in corpus.KINDS for path in (folder / kind).iterdir()),
        key=lambda path: path.name.partition("SN")[2],
    )
    return found[:count]


def library(bench: Bench) -> list[Figure]:
    """Small sources of all kinds, one after the other and in groups."""
    bench.prepared()
    count, table = bench.options.sizes.bulk // 2, Table()
    runs = [("one", OURS, "one"), ("one", PLAIN, "plain"), ("one", DURABLE, "synced"),
            ("groups", OURS, "groups"), ("groups", PLAIN, "plain")]  # fmt: skip
    for number in range(min(bench.options.rounds, 3)):
        for figure, name, kind in in_turn(runs, number):
            root = bench.folder("library")
            root.rmdir()
            if name == OURS:
                Archive.create(root, TOML)
            command = [sys.executable, "-m", "bench_parts.library"]
            seconds = float(systems.run(*command, kind, root, bench.data.sources_dir, count))
            table.add(name, {figure: count / seconds})
    return [
        Figure(GROUP, "library, one capture at a time", "per_second", table.of("one"), of=DURABLE),
        Figure(GROUP, f"library, groups of {COMMITTED}", "per_second", table.of("groups"), BULK, of=PLAIN),
    ]


def commands(bench: Bench) -> list[Figure]:
    """``archivefs capture`` of files, ``archivefs import`` of a folder, without and with a dictionary."""
    count = bench.options.sizes.imported
    sources = bench.folder("bulk")
    write_sources(sources / "all", 2 * count, seed=7)
    found = small_sources(sources / "all", 2 * count)
    folders = {"import": sources / "first", "again": sources / "second"}
    for folder, paths in zip(folders.values(), (found[:count], found[count:]), strict=True):
        folder.mkdir()
        for path in paths:
            path.rename(folder / path.name)
    table, few = Table(), sorted(folders["import"].iterdir())[: bench.options.sizes.bulk // 10]
    for _ in range(min(bench.options.rounds, 3)):
        root = bench.folder("library")
        root.rmdir()
        Archive.create(root, TOML)
        start = time.perf_counter()
        systems.archivefs("capture", "--archive", root, "--converter", "files", *few)
        table.add(OURS, {"capture": len(few) / (time.perf_counter() - start)})
        for figure, folder in folders.items():
            start = time.perf_counter()
            systems.archivefs("import", "--archive", root, "--converter", "files", "--again", folder)
            table.add(OURS, {figure: count / (time.perf_counter() - start)})
    return [
        Figure(GROUP, f"archivefs capture of {len(few)} files", "per_second", table.of("capture"), of=""),
        Figure(GROUP, f"archivefs import of {count} files, a dictionary is trained", "per_second",
               table.of("import"), of=""),
        Figure(GROUP, f"archivefs import of {count} others, with the dictionary", "per_second",
               table.of("again"), BULK, of=""),
    ]  # fmt: skip


GROUPS: Mapping[str, Callable[[Bench], list[Figure]]] = {"library": library, "bulk": commands}


def main() -> None:
    """One run."""
    kind, root, folder, count = sys.argv[1:]
    sources = small_sources(Path(folder), int(count))
    start = time.perf_counter()
    KINDS[kind](Path(root), sources)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
