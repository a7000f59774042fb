"""What happened so far, counted: captures, attempts and deliveries, by converter and result."""

from typing import NamedTuple

import apsw

from archivefs.events import AnyEvent, AttemptFinished, Captured, DeliveryAttempted

CAPTURED, ATTEMPT, DELIVERY = "captured", "attempt", "delivery"
_ADD = (
    "INSERT INTO activity VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET times = times + 1,"
    " bytes = bytes + excluded.bytes, duration_ms = duration_ms + excluded.duration_ms"
)
_CONVERTER = "SELECT c.name FROM entries JOIN converters c USING (converter_id) WHERE id = ?"


class Count(NamedTuple):
    """One row of ``activity``, in the order of the table's columns."""

    converter: str
    kind: str
    result: str
    times: int
    bytes: int
    duration_ms: int


def count(db: apsw.Connection, event: AnyEvent) -> None:
    """Count an event that was applied; one of an entry that is not there counts for no converter."""
    match event:
        case Captured():
            db.execute(_ADD, (event.converter, CAPTURED, "", event.size, 0))
        case AttemptFinished():
            converter = db.execute(_CONVERTER, (event.id,)).get or ""
            db.execute(_ADD, (converter, ATTEMPT, event.outcome, 0, event.duration_ms))
        case DeliveryAttempted():
            converter = db.execute(_CONVERTER, (event.id,)).get or ""
            db.execute(_ADD, (converter, DELIVERY, event.state, 0, event.duration_ms))


def counts(db: apsw.Connection) -> list[Count]:
    """All counts, by converter, kind and result."""
    return [Count(*row) for row in db.execute("SELECT * FROM activity ORDER BY converter, kind, result")]
