"""Which entries the policies want to go, and because of which rule; a person's query is one more."""

import heapq
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple

from archivefs.archive import Archive
from archivefs.catalog.purging import Facts
from archivefs.query import Query
from archivefs.retention.gate import DAY_MS, Gate, Rule
from archivefs.states import STATUSES, Status

FOREVER_MS = 2**62


class Chosen(NamedTuple):
    """An entry that is to go: the rule in words, and whether it goes before the promised days are over."""

    n: int
    id: str
    why: str
    length: int
    is_early: bool


class Choice(NamedTuple):
    """What a plan is made of; ``kept``: by the first words of what protects, how many entries stay."""

    scope: str
    rule: Rule
    chosen: list[Chosen]
    kept: dict[str, int]


def by_query(archive: Archive, query: Query, words: str) -> Choice:
    """Everything that a query selects, but for what is protected."""
    kept: dict[str, int] = {}
    chosen = list(_queried(archive, query, words, Rule.AGE, kept))
    return Choice(words or "everything", Rule.AGE, chosen, kept)


def to_erase(archive: Archive, id_: str, reason: str) -> Choice:
    """One entry, whatever retention says; raises ``UnknownEntryError``."""
    entry = archive.reader.get(id_)
    facts = archive.reader.purges.facts(entry.n)
    assert facts is not None
    found = Gate(archive.reader, archive.config, archive.now_ms()).protections(facts, Rule.ERASE)
    chosen = [] if found else [Chosen(entry.n, entry.id, f"erased: {reason}", facts.length, is_early=False)]
    return Choice(f"id={entry.id}", Rule.ERASE, chosen, dict.fromkeys(found, 1))


def _queried(
    archive: Archive, query: Query, words: str, rule: Rule, kept: dict[str, int]
) -> Iterator[Chosen]:
    gate = Gate(archive.reader, archive.config, archive.now_ms())
    for entry in archive.reader.search(query, newest_first=False):
        facts = archive.reader.purges.facts(entry.n)
        if facts is None or entry.status is Status.PURGED:
            continue
        found = gate.protections(facts, rule)
        if found:
            kind = _kind(found[0])
            kept[kind] = kept.get(kind, 0) + 1
        else:
            yield Chosen(
                entry.n, entry.id, f"asked for: {words or 'everything'}", facts.length, is_early=False
            )


def _kind(protection: str) -> str:
    """What protects, without the moment at which it ends for this very entry."""
    return protection.partition(", until ")[0]


class _Policies:
    """One look at an archive through its policies."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._reader = archive.reader
        self._now_ms = archive.now_ms()
        self._gate = Gate(archive.reader, archive.config, self._now_ms)
        self.chosen: dict[int, Chosen] = {}
        self.kept: dict[str, int] = {}

    def _allowed(self, found: Iterable[Facts], rule: Rule) -> Iterator[Facts]:
        for facts in found:
            if facts.n in self.chosen:
                continue
            protections = self._gate.protections(facts, rule)
            if not protections:
                yield facts
            else:
                kind = _kind(protections[0])
                self.kept[kind] = self.kept.get(kind, 0) + 1

    def _take(self, facts: Facts, why: str) -> None:
        early = self._gate.is_promised(facts)
        self.chosen[facts.n] = Chosen(facts.n, facts.id, why, facts.length, early)

    def age(self, converter_id: int) -> None:
        """What is older than its policy keeps it."""
        name = self._reader.converter_name(converter_id)
        days = self._archive.config.policy(name).days
        if days is None:
            return
        before_ms = self._now_ms - days * DAY_MS
        for facts in self._allowed(self._reader.purges.oldest(converter_id, before_ms), Rule.AGE):
            over = datetime.fromtimestamp(self._gate.expires_ms(facts) / 1000, UTC)
            self._take(facts, f"days = {days} of {name}, over on {over:%Y-%m-%d}")

    def size(self, converter_id: int) -> None:
        """The oldest of a converter that has more than its policy allows."""
        name = self._reader.converter_name(converter_id)
        limit = self._archive.config.policy(name).max_size
        if limit is None:
            return
        gone = sum(each.length for each in self.chosen.values() if self._is_of(each.n, converter_id))
        excess = self._reader.purges.bytes_of(converter_id) - gone - limit
        found = self._reader.purges.oldest(converter_id, FOREVER_MS)
        self._until(found, excess, f"max_size = {limit} bytes of {name}")

    def _is_of(self, n: int, converter_id: int) -> bool:
        entry = self._reader.entry(n)
        return entry is not None and entry.converter_id == converter_id

    def total(self, converter_ids: list[int]) -> None:
        """The oldest of all converters, where the archive has more than it may, or the disk too little."""
        policy, gone = self._archive.config.retention, sum(each.length for each in self.chosen.values())
        wanted = []
        if policy.max_total_size is not None:
            taken = sum(self._reader.purges.bytes_of(each) for each in converter_ids)
            excess = taken - gone - policy.max_total_size
            wanted.append((excess, f"max_total_size = {policy.max_total_size} bytes"))
        if policy.min_free_space is not None:
            disk = os.statvfs(self._archive.root)
            excess = policy.min_free_space - disk.f_bavail * disk.f_frsize - gone
            wanted.append((excess, f"min_free_space = {policy.min_free_space} bytes"))
        for excess, why in sorted(wanted):
            before = sum(each.length for each in self.chosen.values())
            found = [self._reader.purges.oldest(each, FOREVER_MS) for each in converter_ids]
            self._until(heapq.merge(*found, key=attrgetter("captured_ms")), excess - before + gone, why)

    def _until(self, found: Iterable[Facts], excess: int, why: str) -> None:
        """Take the oldest until the excess is gone."""
        if excess <= 0:
            return
        for facts in self._allowed(found, Rule.SIZE):
            self._take(facts, why)
            excess -= facts.length
            if excess <= 0:
                return


def by_policies(archive: Archive, converter: str = "") -> Choice:
    """What the policies want to go now, of one converter or of all. Reads everything that is old enough."""
    numbers = {name: number for name in _converters(archive) if (number := archive.reader.converter_id(name))}
    wanted = [number for name, number in numbers.items() if converter in ("", name)]
    look = _Policies(archive)
    for each in wanted:
        look.age(each)
    for each in wanted:
        look.size(each)
    if not converter:
        look.total(wanted)
    chosen = sorted(look.chosen.values())
    rule = Rule.SIZE if any(each.is_early for each in chosen) else Rule.AGE
    return Choice(f"retention of {converter or 'all converters'}", rule, chosen, look.kept)


def _converters(archive: Archive) -> list[str]:
    return sorted({total.converter for total in archive.reader.totals()})


def explain(archive: Archive, id_: str) -> dict[str, object]:
    """What decides when one entry goes. Raises ``UnknownEntryError``."""
    entry = archive.reader.get(id_)
    facts = archive.reader.purges.facts(entry.n)
    assert facts is not None
    gate = Gate(archive.reader, archive.config, archive.now_ms())
    name = archive.reader.converter_name(entry.converter_id)
    policy, expires = archive.config.policy(name), gate.expires_ms(facts)
    purged = archive.reader.purges.purged(entry.n)
    said: dict[str, object] = {
        "id": entry.id, "converter": name, "status": str(STATUSES[facts.status]),
        "bytes": facts.length, "protected_by": gate.protections(facts, Rule.AGE),
        "expires_at": _utc(expires) if expires else None,
        "limits": {"days": policy.days, "max_size": policy.max_size},
    }  # fmt: skip
    if purged is not None:
        said |= {"protected_by": [], "expires_at": None}
        said["purged"] = {"at": _utc(purged.purged_ms), "plan": purged.plan, "why": purged.why}
    return said


def _utc(when_ms: int) -> str:
    return f"{datetime.fromtimestamp(when_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
