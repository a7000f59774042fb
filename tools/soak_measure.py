"""Knows how a daemon is measured from outside, and when a series of measurements grows."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, median
from typing import NamedTuple

from archivefs.catalog.connection import PAGE_CACHE_KIB
from archivefs.rebuilding import CATALOG

OPERATIONS = {
    "close": "create, write, close",
    "stat": "stat of an entry that was not asked for",
    "read": "open, read, close of a small source",
}
CONTROL = "disk"
"""Beside them a small file is written and synced on the same disk without archivefs, for comparison."""
CONTROL_BYTES, CONTROL_TIMES = 10_000, 5
BLOCKS = 40
"""Into so many medians a life's second half is gathered: bursts and neighbours' measurements count once."""
JUDGED_SECONDS = 300.0
"""Shorter than this, the second half of a life says nothing about hours."""
CONFIDENCE = NormalDist().inv_cdf(0.975)
SHARE, LATENCY_SHARE, COUNT = 0.04, 0.25, 2
"""Tolerated in the time that is judged: of all memory, of a latency, of descriptors or threads.

Fragments of the heap and neighbours move measurements by so much. The longer the time, the less is that in
an hour.
"""
CACHES_BYTES = PAGE_CACHE_KIB << 10
MIB = 1 << 20


class Latency(NamedTuple):
    """Of ``number`` operations in an interval, in milliseconds."""

    number: int
    p50: float
    p99: float


@dataclass
class Sample:
    """The daemon and its archive at a moment; sizes in bytes.

    ``at`` counts seconds since the load began. ``cached`` is what the daemon's caches hold at most,
    ``kernel_inodes`` is of all FUSE mounts of the machine and 0 where it is not known.
    """

    at: float
    life: int
    rss: int
    anon: int
    descriptors: int
    threads: int
    cached: int
    entries: int
    journal: int
    catalog: int
    content: int
    kernel_inodes: int
    latency: dict[str, Latency] = field(default_factory=dict)


@dataclass
class Life:
    """A daemon from its mount to its end; ``end`` is how it was ended, '' while it runs."""

    number: int
    pid: int
    began: float
    ended: float = 0.0
    end: str = ""

    @property
    def seconds(self) -> float:
        """How long it lived."""
        return self.ended - self.began


class Trend(NamedTuple):
    """Growth of one quantity in one life, in its unit an hour.

    ``low`` and ``high`` enclose it with 95 % confidence. ``tolerance`` is what still counts as none.
    """

    quantity: str
    unit: str
    median: float
    slope: float
    low: float
    high: float
    tolerance: float

    @property
    def grows(self) -> bool:
        """More than is tolerated, and not by chance."""
        return self.slope > self.tolerance and self.low > 0


def percentiles(seconds: Sequence[float]) -> Latency:
    """The latencies of an interval; of few the p99 is the longest."""
    ordered = sorted(seconds)
    return Latency(
        len(ordered),
        round(ordered[len(ordered) // 2] * 1000, 3),
        round(ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)] * 1000, 3),
    )


def process_facts(pid: int) -> dict[str, int]:
    """Memory in bytes, threads and descriptors. Raises ``OSError`` when the process is gone."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    if "VmRSS" not in status:
        raise ProcessLookupError(f"process {pid} has ended")
    return {
        "rss": int(status["VmRSS"].split()[0]) * 1024,
        "anon": int(status["RssAnon"].split()[0]) * 1024,
        "threads": int(status["Threads"]),
        "descriptors": len(os.listdir(proc / "fd")),  # noqa: PTH208  names are enough
    }


def archive_facts(root: Path) -> dict[str, int]:
    """What the parts of an archive take, in bytes; the catalog with its log."""

    def size(*patterns: str) -> int:
        return sum(
            file.stat().st_size for pattern in patterns for file in root.glob(pattern) if file.is_file()
        )

    return {
        "journal": size("journal/**/*"),
        "catalog": size(f"{CATALOG}*"),
        "content": size("content/**/*"),
    }


def synced_writes(folder: Path) -> list[float]:
    """How long it takes in seconds to make a small file and have it on the disk, some times."""
    file, content, found = folder / "control", bytes(CONTROL_BYTES), []
    for _ in range(CONTROL_TIMES):
        started = time.perf_counter()
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(fd, content)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        found.append(time.perf_counter() - started)
        file.unlink()
    return found


def kernel_inodes() -> int:
    """How many inodes of FUSE mounts the kernel keeps; 0 where it does not say."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("fuse_inode ")), 0)


def slope_of(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The Theil-Sen slope and its 95 % confidence bounds (Sen 1968): outliers do not move it.

    Bounds are infinite where there are too few points to give any.
    """
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(points)
        for later in points[number + 1 :]
        if later[0] > earlier[0]
    )
    if not slopes:
        return 0.0, -math.inf, math.inf
    n = len(points)
    spread = CONFIDENCE * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = math.floor((len(slopes) - spread) / 2)
    last = math.ceil((len(slopes) + spread) / 2)
    low = slopes[first] if first >= 0 else -math.inf
    high = slopes[last] if last < len(slopes) else math.inf
    return median(slopes), low, high


def blocks(points: Sequence[tuple[float, float]], count: int = BLOCKS) -> list[tuple[float, float]]:
    """``count`` medians of consecutive points, in the middle of their times."""
    if len(points) <= count:
        return list(points)
    edges = [round(number * len(points) / count) for number in range(count + 1)]
    pieces = [points[start:end] for start, end in pairwise(edges)]
    return [(median(at for at, _ in piece), median(value for _, value in piece)) for piece in pieces]


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """How each quantity changes over the second half of a life, of which these are the samples.

    Of the memory is taken away what caches hold, for they fill up to their bounds and stay so. Latencies may
    also grow by as much as the machine became slower for others.
    """
    middle = (samples[0].at + samples[-1].at) / 2
    half = [sample for sample in samples if sample.at >= middle]
    hours = max(half[-1].at - half[0].at, 1) / 3600
    memory = SHARE * median(sample.rss for sample in half) / MIB / hours
    found = [
        trend("RSS without caches", "MiB", half, lambda each: (each.rss - each.cached) / MIB, memory),
        trend("RssAnon without caches", "MiB", half, lambda each: (each.anon - each.cached) / MIB, memory),
        trend("descriptors", "", half, lambda each: each.descriptors, COUNT / hours),
        trend("threads", "", half, lambda each: each.threads, COUNT / hours),
    ]
    control = latency_trend(half, CONTROL, f"{CONTROL_BYTES // 1000} KB synced without archivefs", math.inf)
    slower = max(control.slope / control.median, 0) if control.median else 0.0
    tolerated = LATENCY_SHARE / hours + slower
    return [*found, *(latency_trend(half, *each, tolerated) for each in OPERATIONS.items()), control]


def latency_trend(samples: Sequence[Sample], name: str, title: str, share: float) -> Trend:
    """The growth of an operation's p99, of which ``share`` of its median is tolerated in an hour."""
    measured = [each for each in samples if name in each.latency]
    found = trend(f"p99 of {title}", "ms", measured, lambda each: each.latency[name].p99, 0)
    return found._replace(tolerance=share * found.median if found.median else math.inf)


def trend(
    quantity: str, unit: str, samples: Sequence[Sample], value: Callable[[Sample], float], tolerance: float
) -> Trend:
    """The growth of one quantity; ``tolerance`` is in its unit an hour."""
    points = [(sample.at / 3600, float(value(sample))) for sample in samples]
    middle = median(each for _, each in points) if points else 0.0
    return Trend(quantity, unit, middle, *slope_of(blocks(points)), tolerance)


def cached(catalog: Path) -> int:
    """What the daemon's caches hold at most in bytes.

    Those are pages of the catalog in the connection that writes. The reading one drops its own at each
    commit, and frames of what is read from end to end are not kept.
    """
    pages = catalog.stat().st_size if catalog.exists() else 0
    return min(pages, CACHES_BYTES)


def as_json(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """For the file of results."""
    return [
        {**asdict(sample), "latency": {name: each._asdict() for name, each in sample.latency.items()}}
        for sample in samples
    ]


def entries_of(mount: Path) -> int:
    """How many entries the mount says there are; 0 while it does not answer."""
    try:
        return int(json.loads((mount / "stats.json").read_bytes())["entries"])
    except (OSError, ValueError):
        return 0
