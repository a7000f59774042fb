"""What can be done to the outbox: noting a delivery, and what a person decides."""

from dataclasses import dataclass

from archivefs.catalog.outbox import require
from archivefs.errors import ArchiveError
from archivefs.events import DeliveryAttempted, DeliveryDecided
from archivefs.operations import sound
from archivefs.parts import Actor
from archivefs.states import Submission
from archivefs.submit.delivery import Answer
from archivefs.transaction import Operation, Transaction


@dataclass
class RecordDelivery(Operation[None]):
    """Note how a delivery ended. Times in Unix milliseconds; ``due_ms`` counts for what stays queued."""

    id: str
    attempt: int
    ordinal: int
    answer: Answer
    started_ms: int
    duration_ms: int
    due_ms: int = 0

    def run(self, txn: Transaction) -> None:
        """One event. Raises ``ArchiveError`` where the report is not queued."""
        item = require(txn.outbox_item(self.id, self.attempt, self.ordinal), self.id)
        if item.state is not Submission.QUEUED:
            raise ArchiveError(f"report {self.ordinal} of {self.id} is not queued: it is {item.state}")
        answer = self.answer
        txn.record(
            DeliveryAttempted(
                id=self.id, attempt=self.attempt, ordinal=self.ordinal, state=answer.state,
                started_ms=self.started_ms, duration_ms=self.duration_ms, http_status=answer.http_status,
                answer_id=sound(answer.answer_id), error=sound(answer.error),
                due_ms=self.due_ms if answer.state is Submission.QUEUED else 0,
            )
        )  # fmt: skip


@dataclass
class DecideDelivery(Operation[None]):
    """Put a report back into its place in the queue, or take it out for good."""

    id: str
    attempt: int
    ordinal: int
    state: Submission
    actor: Actor | None = None

    def run(self, txn: Transaction) -> None:
        """One event. Raises ``ArchiveError`` for what was sent already."""
        item = require(txn.outbox_item(self.id, self.attempt, self.ordinal), self.id)
        if item.state is Submission.SENT:
            raise ArchiveError(f"report {self.ordinal} of {self.id} was sent already, as {item.report_id}")
        txn.record(
            DeliveryDecided(
                id=self.id, attempt=self.attempt, ordinal=self.ordinal, state=self.state, actor=self.actor
            )
        )
