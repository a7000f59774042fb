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
    converter_id: int
    why: str
    length: int
    is_early: bool = False


class Choice(NamedTuple):
    """What a plan is made of; ``kept``: by the first words of what protects, how many entries stay.

    ``erase``: it must go whatever retention says.
    """

    scope: str
    chosen: list[Chosen]
    kept: dict[str, int]
    erase: bool = False

    def without_early(self) -> "Choice":
        """What is left where nothing is to go before the promised days are over."""
        return self._replace(chosen=[each for each in self.chosen if not each.is_early])


def by_query(archive: Archive, query: Query, words: str) -> Choice:
    """Everything that a query selects, but for what is protected."""
    scope, look = words or "everything", _Look(archive)
    rows = archive.reader.search(query, newest_first=False)
    found = (archive.reader.purges.facts(row.n) for row in rows if row.status is not Status.PURGED)
    chosen = [
        Chosen(each.n, each.id, each.converter_id, f"asked for: {scope}", each.length)
        for each in look.allowed(filter(None, found), Rule.AGE)
    ]
    return Choice(scope, chosen, look.kept)


def to_erase(archive: Archive, id_: str, reason: str) -> Choice:
    """One entry, whatever retention says; raises ``UnknownEntryError``."""
    entry = archive.reader.get(id_)
    facts = archive.reader.purges.facts(entry.n)
    assert facts is not None
    found = Gate(archive.reader, archive.config, archive.now_ms()).protections(facts, Rule.ERASE)
    chosen = (
        [] if found else [Chosen(entry.n, entry.id, entry.converter_id, f"erased: {reason}", facts.length)]
    )
    return Choice(f"id={entry.id}", chosen, dict.fromkeys(found, 1), erase=True)


class _Look:
    """One look at an archive at one time; counts what may not go."""

    def __init__(self, archive: Archive) -> None:
        self.now_ms = archive.now_ms()
        self.gate = Gate(archive.reader, archive.config, self.now_ms)
        self.kept: dict[str, int] = {}

    def allowed(self, found: Iterable[Facts], rule: Rule) -> Iterator[Facts]:
        """Those that nothing protects."""
        for facts in found:
            protections = self.gate.protections(facts, rule)
            if not protections:
                yield facts
                continue
            what = protections[0].partition(", until ")[0]  # not the moment at which it ends for this entry
            self.kept[what] = self.kept.get(what, 0) + 1


class _Policies(_Look):
    """A look through the policies."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive)
        self._archive = archive
        self._reader = archive.reader
        self.chosen: dict[int, Chosen] = {}

    def _new(self, found: Iterable[Facts], rule: Rule) -> Iterator[Facts]:
        """Those that may go and are not chosen yet."""
        return self.allowed((facts for facts in found if facts.n not in self.chosen), rule)

    def _take(self, facts: Facts, why: str) -> None:
        early = self.gate.is_promised(facts)
        self.chosen[facts.n] = Chosen(facts.n, facts.id, facts.converter_id, why, facts.length, early)

    def age(self, converter_id: int) -> None:
        """What is older than its policy keeps it."""
        name = self._reader.converter_name(converter_id)
        days = self._archive.config.policy(name).days
        if days is None:
            return
        before_ms = self.now_ms - days * DAY_MS
        for facts in self._new(self._reader.purges.oldest(converter_id, before_ms), Rule.AGE):
            over = datetime.fromtimestamp(self.gate.expires_ms(facts) / 1000, UTC)
            self._take(facts, f"days = {days} of {name}, over on {over:%Y-%m-%d}")

    def size(self, converter_id: int) -> None:
        """The oldest of a converter that has more than its policy allows."""
        name = self._reader.converter_name(converter_id)
        limit = self._archive.config.policy(name).max_size
        if limit is None:
            return
        gone = sum(each.length for each in self.chosen.values() if each.converter_id == converter_id)
        excess = self._reader.purges.bytes_of(converter_id) - gone - limit
        found = self._reader.purges.oldest(converter_id, FOREVER_MS)
        self._until(found, excess, f"max_size = {limit} bytes of {name}")

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
        for facts in self._new(found, Rule.SIZE):
            self._take(facts, why)
            excess -= facts.length
            if excess <= 0:
                return


def by_policies(archive: Archive, converter: str = "") -> Choice:
    """What the policies want to go now, of one converter or of all. Reads everything that is old enough."""
    names = [converter] if converter else sorted({each.converter for each in archive.reader.totals()})
    wanted = [number for name in names if (number := archive.reader.converter_id(name))]
    look = _Policies(archive)
    for each in wanted:
        look.age(each)
    for each in wanted:
        look.size(each)
    if not converter:
        look.total(wanted)
    return Choice(f"retention of {converter or 'all converters'}", sorted(look.chosen.values()), look.kept)


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
