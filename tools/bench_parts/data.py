"""What is measured on: sources as stations make them, an archive of them, and the same tree as plain files.

Sources and tree are kept between runs, the archive is made anew. Its clock stands still but for one second a
group, so that names are the same in every run and images of the tree stay true.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import corpus

from archivefs.archive import Archive
from archivefs.jobs import dictionaries
from archivefs.operations import Capture

SEED = 2024
CAPTURED = datetime(2024, 3, 18, 8, 0, tzinfo=UTC)
GROUP = 200
DAY = f"{CAPTURED:%Y-%m-%d}"
LARGE = "large"
"""The converter of large logs; those of small sources are corpus.KINDS."""
WALKED = "functional-xml"
"""The converter whose entries the tree has as directories, too: its files are of 7 KB."""
TOML = 'schema_version = 1\ntimezone = "UTC"\n' + "".join(
    f"[converters.{name}]\n" for name in (*corpus.KINDS, LARGE, "files")
)
"""All converters archive only, so that nothing runs but what is measured."""


class Sizes(NamedTuple):
    """How much is measured on, in files and bytes."""

    small: int
    large: int
    readers: int
    reader: int
    disk: int
    bulk: int
    imported: int


QUICK = Sizes(small=3000, large=128 << 20, readers=8, reader=16 << 20, disk=1200, bulk=600, imported=8000)
FULL = Sizes(
    small=15_000, large=512 << 20, readers=32, reader=32 << 20, disk=4000, bulk=4000, imported=20_000
)
SMALLEST = Sizes(small=60, large=2 << 20, readers=2, reader=2 << 20, disk=20, bulk=20, imported=20)


class Clock:
    """A clock of an archive that goes only when told."""

    def __init__(self) -> None:
        self.now_ns = int(CAPTURED.timestamp()) * 10**9

    def __call__(self) -> int:
        """Unix time in nanoseconds."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Let it be later."""
        self.now_ns += int(seconds * 10**9)


class Source(NamedTuple):
    """A file of the corpus."""

    converter: str
    path: Path


class Data:
    """The sources, and the tree that every file system shows."""

    def __init__(self, work: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        self.sources_dir = work / "sources"
        self.tree = work / "tree"
        self._stamp = work / "stamp.json"

    def prepare(self) -> bool:
        """Make sources where those of an earlier run do not fit; returns whether it had to."""
        wanted = json.dumps({"seed": SEED, **self.sizes._asdict()})
        if self._stamp.exists() and self._stamp.read_text() == wanted:
            return False
        for folder in (self.sources_dir, self.tree):
            shutil.rmtree(folder, ignore_errors=True)
        self._stamp.unlink(missing_ok=True)
        write_sources(self.sources_dir, self.sizes.small, SEED)
        rng = random.Random(SEED)
        folder = self.sources_dir / LARGE
        folder.mkdir()
        sizes = [("large.log", self.sizes.large)]
        sizes += [(f"reader-{number:02}.log", self.sizes.reader) for number in range(self.sizes.readers)]
        for name, size in sizes:
            with (folder / name).open("wb") as file:
                file.writelines(corpus.large_log(rng, size))
        self._make_tree()
        self._stamp.write_text(wanted)
        return True

    def _make_tree(self) -> None:
        """What the mount of the archive shows in sources/, and in by-converter/ for one converter."""
        root = self.tree.with_name("tree-archive")
        shutil.rmtree(root, ignore_errors=True)
        make_archive(root, [each for each in self.sources() if each.converter != LARGE])
        with Archive(root) as archive:
            for entry in archive.reader.all_after(0, self.sizes.small):
                name = os.fsdecode(entry.name)
                converter = archive.reader.converter_name(entry.converter_id)
                source = self.sources_dir / converter / name
                link(source, self.tree / "sources" / converter / DAY / "archived" / name)
                if converter == WALKED:
                    label = os.fsdecode(entry.label(archive.zone))
                    folder = self.tree / "by-converter" / converter / DAY / "archived" / label
                    link(source, folder / name)
                    (folder / "entry.json").write_text(json.dumps(entry._asdict(), default=str))
        shutil.rmtree(root)
        for file in (self.sources_dir / LARGE).iterdir():
            link(file, self.tree / "sources" / LARGE / DAY / "archived" / file.name)

    def sources(self) -> Iterator[Source]:
        """All of them, the kinds of small ones in turn as they came."""
        small = (path for kind in corpus.KINDS for path in (self.sources_dir / kind).iterdir())
        for path in sorted(small, key=lambda path: path.name.partition("SN")[2]):
            yield Source(path.parent.name, path)
        for path in sorted((self.sources_dir / LARGE).iterdir()):
            yield Source(LARGE, path)

    def template(self) -> Path:
        """A file of 1 MiB of reports, from which writers take what they save."""
        file = self.sources_dir.with_name("template.csv")
        if not file.exists():
            reports = (corpus.ict_csv(random.Random(number)) for number in range(300))
            file.write_bytes(b"".join(reports)[: 1 << 20])
        return file


def write_sources(folder: Path, count: int, seed: int) -> None:
    """Small sources as ``folder/CONVERTER/NAME``."""
    for kind in corpus.KINDS:
        (folder / kind).mkdir(parents=True)
    for made in corpus.samples(count, seed):
        (folder / made.converter / made.name).write_bytes(made.content)


def link(file: Path, name: Path) -> None:
    """A further name of a file, in a folder that may have to be made."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.hardlink_to(file)


def make_archive(root: Path, *days: Sequence[Source], toml: str = TOML) -> None:
    """A new archive of these sources, captured in groups through the library, a day after the other.

    At the end of a day that another one follows, dictionaries are made, as a mount makes them.
    """
    clock = Clock()
    shutil.rmtree(root, ignore_errors=True)
    Archive.create(root, toml, clock=clock)
    for number, sources in enumerate(days):
        if number:
            clock.advance(86_400)
        with Archive(root, clock=clock) as archive:
            if number:
                dictionaries.train_missing(archive)
            for start in range(0, len(sources), GROUP):
                capture(archive, sources[start : start + GROUP])
                clock.advance(1)


def capture(archive: Archive, sources: Sequence[Source]) -> None:
    """Archive sources as one group. Raises the first error."""
    operations = [operation(archive, source) for source in sources]
    outcomes, _ = archive.commit(operations)
    for each, outcome in zip(operations, outcomes, strict=True):
        each.close()
        if isinstance(outcome, Exception):
            raise outcome


def operation(archive: Archive, source: Source) -> Capture:
    """The capture of a file."""
    with source.path.open("rb") as file:
        facts = os.fstat(file.fileno())
        content = archive.packing.file(source.converter, file.fileno(), archive.root / "staging")
    return Capture(source.converter, os.fsencode(source.path.name), content, facts.st_mtime_ns)
