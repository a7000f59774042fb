"""What a purge and a hold are in the journal."""

from collections.abc import Sequence
from dataclasses import dataclass

from archivefs.errors import RetentionError
from archivefs.events import (
    HoldAdded,
    HoldCovered,
    HoldReleased,
    Planned,
    PurgeBegun,
    Purged,
    PurgeEnded,
    Retained,
)
from archivefs.parts import Actor, Purging
from archivefs.retention.gate import Gate, Rule
from archivefs.transaction import Operation, Transaction

COVERED = 2000
"""Entries in one event of a hold."""


@dataclass
class MakePlan(Operation[int | None]):
    """Say what a plan lists, whose file is durable; returns its number, None where that is taken by now."""

    event: Planned

    def run(self, txn: Transaction) -> int | None:
        """One event, or none."""
        if any(isinstance(each, Planned) for each in txn.events) or txn.reader.purges.plan(self.event.plan):
            return None
        txn.record(self.event)
        return self.event.plan


@dataclass
class BeginPurge(Operation[None]):
    """From now on a plan is carried out."""

    plan: int
    actor: Actor | None = None

    def run(self, txn: Transaction) -> None:
        """One event. Raises ``RetentionError``."""
        row = txn.reader.purges.plan(self.plan)
        if row is None or row.begun_ms:
            state = "unknown" if row is None else row.state
            raise RetentionError(f"plan {self.plan} cannot be applied: it is {state}")
        txn.record(PurgeBegun(plan=self.plan, actor=self.actor))


@dataclass
class Purge(Operation[list[tuple[str, str]]]):
    """Let entries of a plan go, but those that something protects by now; returns these, and what does.

    ``entries``: each with the rule that chose it. ``checked``: the journal line up to which it is known that
    nothing protects them, 0 for none: of what was not changed since nothing more is asked. It is alone in its
    group, so that nothing in it can protect or change what goes.
    """

    plan: int
    entries: Sequence[tuple[Purging, Rule]]
    checked: int = 0

    is_alone = True

    def run(self, txn: Transaction) -> list[tuple[str, str]]:
        """One event, or none."""
        going, kept = list[Purging](), list[tuple[str, str]]()
        known = txn.reader.purges.unchanged([each.id for each, _ in self.entries], self.checked)
        gate = Gate(txn.reader, txn.config, txn.now_ms) if len(known) < len(self.entries) else None
        for each, rule in self.entries:
            found = [] if gate is None or each.id in known else self._protections(txn, gate, each.id, rule)
            if found:
                kept.append((each.id, found[0]))
            else:
                going.append(each)
        if going:
            txn.record(Purged(plan=self.plan, entries=going))
        return kept

    @staticmethod
    def _protections(txn: Transaction, gate: Gate, id_: str, rule: Rule) -> list[str]:
        entry = txn.entry(id_)
        facts = txn.reader.purges.facts(entry.n)
        assert facts is not None
        return gate.protections(facts, rule)


@dataclass
class EndPurge(Operation[None]):
    """Say that the bytes of a plan are gone, which stood in the segments that were ``cleared``."""

    plan: int
    freed: int
    kept: int
    cleared: Sequence[str]

    def run(self, txn: Transaction) -> None:
        """One event. Raises ``RetentionError`` where the plan has bytes elsewhere, too."""
        row = txn.reader.purges.plan(self.plan)
        assert row is not None
        if left := set(txn.reader.purges.segments_of(self.plan)).difference(self.cleared):
            raise RetentionError(f"plan {self.plan} is not done: {', '.join(sorted(left))} is not cleared")
        txn.record(PurgeEnded(plan=self.plan, entries=row.purged, bytes=self.freed, kept=self.kept))


@dataclass
class AddHold(Operation[None]):
    """Protect entries from now on.

    ``query``: as it was given; ``last``: the id of an entry up to which ``ids`` has all that are meant.
    """

    name: str
    query: str
    reason: str
    ids: Sequence[str]
    last: str
    future: bool
    actor: Actor | None = None

    def run(self, txn: Transaction) -> None:
        """One group: a stop leaves no hold, or one that covers everything. Raises ``RetentionError``."""
        names = {row.name for row in txn.reader.purges.holds()}
        names |= {event.hold for event in txn.events if isinstance(event, HoldAdded)}
        if self.name in names:
            raise RetentionError(f'a hold "{self.name}" was there already; names of holds are not used again')
        txn.record(
            HoldAdded(
                hold=self.name, query=self.query, reason=self.reason, last=self.last, future=self.future,
                actor=self.actor,
            )
        )  # fmt: skip
        for start in range(0, len(self.ids), COVERED):
            txn.record(HoldCovered(hold=self.name, ids=list(self.ids[start : start + COVERED])))


@dataclass
class ReleaseHold(Operation[None]):
    """Let a hold protect nothing any more."""

    name: str
    reason: str
    actor: Actor | None = None

    def run(self, txn: Transaction) -> None:
        """One event. Raises ``RetentionError``."""
        known = {row.name: row for row in txn.reader.purges.holds()}
        if self.name not in known or known[self.name].released_ms:
            active = ", ".join(name for name, row in known.items() if not row.released_ms) or "none"
            raise RetentionError(f'no hold "{self.name}" holds anything; these do: {active}')
        txn.record(HoldReleased(hold=self.name, reason=self.reason, actor=self.actor))


@dataclass
class Retain(Operation[None]):
    """Note until when a converter is retained, where that is later than what was noted."""

    converter: str
    until: str

    def run(self, txn: Transaction) -> None:
        """One event, or none."""
        if self.until > txn.reader.purges.retained().get(self.converter, ""):
            txn.record(Retained(converter=self.converter, until=self.until))
