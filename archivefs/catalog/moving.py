"""Records that a repack wrote again: where they stand now."""

from collections.abc import Callable, Iterator

import apsw
import msgspec

from archivefs.catalog import totals
from archivefs.events import Repacked
from archivefs.parts import Location, Move
from archivefs.states import STATUSES, Status

Moved = tuple[int, str, int, int, Status, Status]
"""Number, id, converter and day of an entry whose source was moved, and its status twice."""


def repacked(db: apsw.Connection, event: Repacked, segment_id: Callable[[Location], int]) -> Iterator[Moved]:
    """Inside the transaction of Catalog.apply. ``segment_id``: the number of a record's segment."""
    for move in event.moves:
        place = (segment_id(_place(event.segment, move)), *msgspec.structs.astuple(move)[3:])
        if move.attempt:
            db.execute(
                "UPDATE contents SET segment_id = ?, offset = ?, header = ?, stored = ?, length = ?"
                " WHERE n = (SELECT n FROM entries WHERE id = ?) AND attempt = ? AND ordinal = ?",
                (*place, move.id, move.attempt, move.ordinal),
            )
            continue
        row = db.execute(
            "SELECT n, converter_id, day, status, length FROM entries WHERE id = ?", (move.id,)
        ).get
        if row is None:
            continue
        n, converter_id, day, number, length = row
        db.execute(
            "UPDATE entries SET segment_id = ?, offset = ?, header = ?, stored = ?, length = ?,"
            " changed_seq = ? WHERE n = ?",
            (*place, event.seq, n),
        )
        totals.count(db, converter_id, day, number, (0, 0, move.length - length, 0))
        yield n, move.id, converter_id, day, STATUSES[number], STATUSES[number]
    db.execute("UPDATE segments SET packed = end_bytes WHERE name = ?", (event.segment,))


def _place(segment: str, move: Move) -> Location:
    return Location(
        segment=segment, offset=move.offset, header=move.header, stored=move.stored, length=move.length
    )
