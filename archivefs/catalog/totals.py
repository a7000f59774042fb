"""The sums of each place: the entries of a converter, a day and a status."""

import apsw


def count(
    db: apsw.Connection, converter_id: int, day: int, status: int, sums: tuple[int, int, int, int]
) -> None:
    """Add ``(entries, size, length, reported)`` to the sums of a place; one without entries has no row."""
    db.execute(
        "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " entries = entries + excluded.entries, size = size + excluded.size,"
        " length = length + excluded.length, reported = reported + excluded.reported",
        (converter_id, day, status, *sums),
    )
    if sums[0] < 0:
        db.execute(
            "DELETE FROM totals WHERE converter_id = ? AND day = ? AND status = ? AND entries = 0",
            (converter_id, day, status),
        )
