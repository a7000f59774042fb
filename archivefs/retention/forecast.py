"""When limits of size will be reached, at the rate at which entries came lately."""

import os
from typing import NamedTuple

from archivefs.archive import Archive

LATELY_DAYS = 7
"""Days before today whose captures make the rate."""


class Forecast(NamedTuple):
    """A limit: what it is of, its bytes, the bytes now, and bytes a day; ``days``: until then, None: never.

    ``early``: whether the limit will then purge before the days that retention promises are over.
    """

    limit: str
    bytes: int
    now: int
    per_day: float
    days: float | None
    early: bool


def forecast(archive: Archive) -> list[Forecast]:
    """For each limit of size there is."""
    rates, found = _rates(archive), []
    reader, config = archive.reader, archive.config
    for name, rate in sorted(rates.items()):
        number = reader.converter_id(name)
        policy = config.policy(name)
        if policy.max_size is not None and number is not None:
            now = reader.purges.bytes_of(number)
            early = policy.days is not None and rate * policy.days > policy.max_size
            found.append(_of(f"max_size of {name}", policy.max_size, now, rate, early=early))
    total = sum(rates.values())
    if config.retention.max_total_size is not None:
        limit = config.retention.max_total_size
        now = sum(reader.purges.bytes_of(n) for name in rates if (n := reader.converter_id(name)))
        promised = sum(rate * (config.policy(name).days or 0) for name, rate in rates.items())
        found.append(_of("max_total_size", limit, now, total, early=promised > limit))
    if config.retention.min_free_space is not None:
        disk = os.statvfs(archive.root)
        free = disk.f_bavail * disk.f_frsize
        left = free - config.retention.min_free_space
        days = None if total <= 0 else max(left / total, 0.0)
        found.append(
            Forecast("min_free_space", config.retention.min_free_space, free, total, days, early=False)
        )
    return found


def _rates(archive: Archive) -> dict[str, float]:
    """Bytes a day of each converter: sources and, as they were on the average, reports and logs."""
    today, lately, whole = archive.today(), dict[str, int](), dict[str, int]()
    days, rates = dict[str, set[int]](), dict[str, float]()
    for name, day, length in archive.reader.purges.by_day():
        whole[name] = whole.get(name, 0) + length
        if today - LATELY_DAYS <= day < today:
            lately[name] = lately.get(name, 0) + length
        days.setdefault(name, set()).add(day)
    for name, length in whole.items():
        number = archive.reader.converter_id(name)
        share = archive.reader.purges.bytes_of(number) / length if number and length else 1.0
        span = min(max(today - min(days[name]), 1), LATELY_DAYS)
        rates[name] = (lately.get(name, 0) or (length if min(days[name]) == today else 0)) * share / span
    return rates


def _of(limit: str, size: int, now: int, rate: float, *, early: bool) -> Forecast:
    days = 0.0 if now >= size else None if rate <= 0 else (size - now) / rate
    return Forecast(limit, size, now, rate, days, early)


def sentence(row: Forecast) -> str:
    """A forecast for people."""
    rate = f"{row.now / 1e6:.1f} of {row.bytes / 1e6:.1f} MB, {row.per_day / 1e6:.2f} MB a day"
    when = (
        "never at this rate" if row.days is None else f"in {row.days:.1f} days" if row.days else "reached now"
    )
    early = "; it will purge before the promised days are over" if row.early else ""
    return f"{row.limit}: {when} ({rate}){early}"
