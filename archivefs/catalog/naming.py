"""How entries of equal names are told apart: their names in sources/, and those of their directories."""

from datetime import datetime
from zoneinfo import ZoneInfo

import apsw

from archivefs import names


def flat_name(db: apsw.Connection, name: bytes, converter_id: int, day: int) -> bytes:
    """The first form of a name that nothing has in sources/ on that day of a converter."""

    def taken(candidate: bytes) -> bool:
        sql = "SELECT 1 FROM entries WHERE converter_id = ? AND day = ? AND flat_name = ?"
        return db.execute(sql, (converter_id, day, candidate)).get is not None

    return names.first_free(name, taken)


def kept(name: bytes, flat_name: bytes) -> bytes:
    """What the column ``flat`` holds of it: nothing where both are the same."""
    return b"" if flat_name == name else flat_name


def twin(
    db: apsw.Connection,
    zone: ZoneInfo,
    captured_ms: int,
    digits: str,
    name: bytes,
    converter_id: int,
    day: int,
) -> int:
    """The first number that gives its directory a name which no other entry of that day has.

    Others in question have the same six hex digits and were captured in the same second of the local
    clock; where clocks are set back, that is one of two.
    """
    local = datetime.fromtimestamp(captured_ms // 1000, zone)
    clock = names.clock(local)
    starts = {int(local.replace(fold=fold).timestamp()) * 1000 for fold in (0, 1)}
    taken = {
        names.entry_label(clock, digits, row[0], row[1])
        for start in starts
        for row in db.execute(
            "SELECT name, twin FROM entries WHERE hex = ? AND captured_ms BETWEEN ? AND ?"
            " AND converter_id = ? AND day = ?",
            (digits, start, start + 999, converter_id, day),
        )
    }
    number = 1
    while names.entry_label(clock, digits, name, number) in taken:
        number += 1
    return number
