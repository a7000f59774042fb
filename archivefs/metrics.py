"""The archive's numbers as Prometheus reads them: their names, and which of them only grow.

Names and types follow https://prometheus.io/docs/practices/naming/. What only grows is counted in the
catalog, so a mount that begins anew does not begin at zero.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from archivefs import __version__, statistics
from archivefs.archive import Archive
from archivefs.catalog import activity

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX = "archivefs_"


class Cache(NamedTuple):
    """What the frame cache of a mount takes, and may take."""

    bytes: int
    limit_bytes: int


class Kind(NamedTuple):
    """A metric: name without prefix, what it says; one in ``_total`` is a counter, any other a gauge."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


ENTRIES = Kind("entries", "Entries now.", ("converter", "status"))
SOURCE_BYTES = Kind("source_bytes", "Size of the sources of all entries.", ("converter",))
STORED_BYTES = Kind("stored_bytes", "What the records of the sources take on the disk.", ("converter",))
CAPTURES = Kind("captures_total", "Sources captured since the archive was made.", ("converter",))
CAPTURED = Kind("captured_bytes_total", "Their size.", ("converter",))
CONVERSIONS = Kind("conversions_total", "Attempts to convert that ended.", ("converter", "outcome"))
CONVERTED = Kind("conversion_seconds_total", "How long those ran.", ("converter", "outcome"))
DELIVERIES = Kind("deliveries_total", "Reports sent, by what they became.", ("converter", "state"))
DELIVERED = Kind("delivery_seconds_total", "How long sending took.", ("converter", "state"))
DUE = Kind("conversions_due", "Entries whose conversion may begin now.")
OUTBOX = Kind("outbox_reports", "Reports in the outbox now.", ("converter", "state"))
HEALTHY = Kind("healthy", "1 while there is no alarm.")
ALARMS = Kind("alarms", "How many alarms there are; health.json has their text.")
ALARM = Kind("alarm", "1 for each alarm, by what it is about.", ("about",))
FREE = Kind("disk_free_bytes", "Room on the disk of the archive, for who is not root.")
SIZE = Kind("disk_size_bytes", "Size of the disk of the archive.")
RESERVE = Kind("disk_reserve_bytes", "Captures end when less than this is free.")
LINES = Kind("journal_lines_total", "Lines of the journal: the number of its last one.")
VERIFIED = Kind("last_verified_timestamp_seconds", "When the last scheduled verification ended; 0: none did.")
WRITABLE = Kind("writable", "1 while the mount can capture.")
CACHE = Kind("frame_cache_bytes", "What the mount keeps decompressed.")
CACHE_LIMIT = Kind("frame_cache_limit_bytes", "What it may keep at most.")
BUILD = Kind("build_info", "Always 1.", ("version",))

Sample = tuple[Kind, tuple[str, ...], float]


def load() -> None:
    """Import now what ``text`` needs; a mount does so in a thread, before a request waits for it."""
    with contextlib.suppress(ImportError):  # who reads metrics then meets it, and nobody else
        # The package before its part, as who reads metrics meanwhile does it: two that take the locks of
        # imports in another order get modules that are not complete.
        importlib.import_module("prometheus_client")
        importlib.import_module("prometheus_client.core")


def text(archive: Archive, cache: Cache | None = None) -> bytes:
    """All metrics in the text format; with ``cache`` those of the process of a mount, too."""
    # Here, for it takes 50 ms that only who prints metrics shall wait for.
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(archive, cache))
    if cache is not None:
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=registry)
    return generate_latest(registry)


class _Collector:
    """What a registry asks."""

    def __init__(self, archive: Archive, cache: Cache | None) -> None:
        self._archive = archive
        self._cache = cache

    def collect(self) -> "Iterator[Metric]":
        """The families with their samples, in the order in which they are first met."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families = dict[Kind, CounterMetricFamily | GaugeMetricFamily]()
        for kind, labels, value in samples(self._archive, self._cache):
            if kind not in families:
                family = CounterMetricFamily if kind.name.endswith("_total") else GaugeMetricFamily
                families[kind] = family(PREFIX + kind.name, kind.help, labels=kind.labels)
            families[kind].add_metric(labels, value)
        yield from families.values()


def samples(archive: Archive, cache: Cache | None) -> Iterator[Sample]:
    """Every number, with its labels in the order of its kind's."""
    yield BUILD, (__version__,), 1
    yield from _entries(archive)
    yield from _activity(archive)
    yield DUE, (), archive.reader.due_count(archive.now_ms())
    for converter, states in archive.reader.outbox.totals().items():
        for state, reports in states.items():
            yield OUTBOX, (converter, state), reports
    alarms = statistics.health(archive)["alarms"]
    yield HEALTHY, (), not alarms
    yield ALARMS, (), len(alarms)
    for about in alarms:
        yield ALARM, (about,), 1
    disk = os.statvfs(archive.root)
    yield FREE, (), disk.f_bavail * disk.f_frsize
    yield SIZE, (), disk.f_blocks * disk.f_frsize
    yield RESERVE, (), archive.config.reserve_bytes
    yield LINES, (), archive.reader.changed_seq()
    verified = archive.reader.last_verified()
    yield VERIFIED, (), datetime.fromisoformat(verified).timestamp() if verified else 0
    if cache is not None:
        yield WRITABLE, (), archive.writable
        yield CACHE, (), cache.bytes
        yield CACHE_LIMIT, (), cache.limit_bytes


def _entries(archive: Archive) -> Iterator[Sample]:
    for converter, row in statistics.collect(archive)["converters"].items():
        yield SOURCE_BYTES, (converter,), row["source_bytes"]
        yield STORED_BYTES, (converter,), row["stored_bytes"]
        for status, entries in row["by_status"].items():
            yield ENTRIES, (converter, status), entries


def _activity(archive: Archive) -> Iterator[Sample]:
    for row in activity.counts(archive.reader.db):
        labels = (row.converter, row.result)
        match row.kind:
            case activity.CAPTURED:
                yield CAPTURES, labels[:1], row.times
                yield CAPTURED, labels[:1], row.bytes
            case activity.ATTEMPT:
                yield CONVERSIONS, labels, row.times
                yield CONVERTED, labels, row.duration_ms / 1000
            case activity.DELIVERY:
                yield DELIVERIES, labels, row.times
                yield DELIVERED, labels, row.duration_ms / 1000
