"""What happened so far, counted: captures, attempts and deliveries, by converter and result."""

from collections import defaultdict
from typing import NamedTuple

import apsw

from archivefs.events import AnyEvent, AttemptFinished, Captured, DeliveryAttempted, Replayed

CAPTURED, ATTEMPT, DELIVERY = "captured", "attempt", "delivery"
_ADD = (
    "INSERT INTO activity VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET times = times + excluded.times,"
    " bytes = bytes + excluded.bytes, duration_ms = duration_ms + excluded.duration_ms"
)


class Count(NamedTuple):
    """One row of ``activity``, with the name of the converter."""

    converter: str
    kind: str
    result: str
    times: int
    bytes: int
    duration_ms: int


class Tally:
    """What the events of one transaction add; sums, so that it does not matter how events are grouped."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])

    def take(self, event: AnyEvent, converter_id: int) -> None:
        """Count an event about an entry of that converter."""
        match event:
            case Captured():
                self._add((converter_id, CAPTURED, ""), event.size, 0)
            case AttemptFinished() | Replayed():
                self._add((converter_id, ATTEMPT, str(event.outcome)), 0, event.duration_ms)
            case DeliveryAttempted():
                self._add((converter_id, DELIVERY, str(event.state)), 0, event.duration_ms)

    def _add(self, key: tuple[int, str, str], size: int, duration_ms: int) -> None:
        row = self._sums[key]
        row[0] += 1
        row[1] += size
        row[2] += duration_ms

    def write(self, db: apsw.Connection) -> None:
        """Add it to the rows."""
        db.executemany(_ADD, [(*key, *sums) for key, sums in self._sums.items()])


def counts(db: apsw.Connection) -> list[Count]:
    """All counts, by converter, kind and result."""
    rows = db.execute(
        "SELECT name, kind, result, times, bytes, duration_ms FROM activity"
        " JOIN converters USING (converter_id) ORDER BY name, kind, result"
    )
    return [Count(*row) for row in rows]
