"""What all measurements share: options, sources, and file systems that stay mounted from one to the next."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bench_parts import data, peers, systems
from bench_parts.client import Client
from bench_parts.data import Data, Sizes
from bench_parts.figures import Table, alternate
from bench_parts.systems import Archivefs, System


class Options(NamedTuple):
    """How thorough a run is: rounds, seconds of measurements that last as long as wanted, and sizes."""

    rounds: int
    seconds: float
    idle_seconds: float
    sizes: Sizes


SMALLEST = Options(rounds=1, seconds=0.1, idle_seconds=0.5, sizes=data.SMALLEST)
QUICK = Options(rounds=3, seconds=1.0, idle_seconds=10.0, sizes=data.QUICK)
FULL = Options(rounds=5, seconds=3.0, idle_seconds=10.0, sizes=data.FULL)


class Bench:
    """A run. Use it as a context: whatever it mounted is unmounted at its end."""

    def __init__(self, work: Path, options: Options) -> None:
        self.work = work
        self.options = options
        work.mkdir(parents=True, exist_ok=True)
        self.client = Client(work)
        self.data = Data(work, options.sizes)
        self.forgets = systems.drop_caches()
        self._stack = contextlib.ExitStack()
        self._readers: list[System] = []
        self._peers: set[str] = set()
        self._fresh = False
        self._prepared = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def say(self, what: str) -> None:
        """A line of progress, on stderr."""
        print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)

    def folder(self, name: str) -> Path:
        """An empty folder of that name."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def prepared(self) -> Data:
        """The sources, made if they are not there."""
        if not self._prepared:
            self.say("making sources")
            self._fresh = self.data.prepare()
            self._prepared = True
        return self.data

    def mounted(self, system: System) -> System:
        """Mount a system until the end of the run."""
        system.point.mkdir(exist_ok=True)
        self._stack.callback(system.stop)
        system.start()
        return system

    def readers(self) -> list[System]:
        """archivefs, the floor and the peers, all mounted and showing the same sources."""
        if not self._readers:
            made = self.prepared()
            root = self.work / "archive"
            self.say("capturing them")
            data.make_archive(root, list(made.sources()))
            self.say("making images for the peers")
            others = peers.systems(self.work, made.tree, fresh=self._fresh)
            self._peers = {each.name for each in others}
            floor = systems.floor(made.tree, self.work / "mnt-floor")
            ours = Archivefs(root, self.work / "mnt-archivefs")
            self._readers = [self.mounted(each) for each in (floor, ours, *others)]
        return self._readers

    def compare(
        self,
        measure: Callable[[System], Mapping[str, float]],
        compared: Iterable[System] | None = None,
    ) -> Table:
        """Measure the readers (or others) in turn for all rounds; peers in three of them."""
        chosen = list(self.readers() if compared is None else compared)
        return alternate(chosen, self.options.rounds, measure, lambda each: each.name, self._peers)
