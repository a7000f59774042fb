"""The names of entries' directories where entries of all converters and days are together.

There two can have one label. The first of the archive has it, the others have their id: so a name stays the
same whatever else is shown.
"""

import json
from collections.abc import Iterator, Sequence, Set
from zoneinfo import ZoneInfo

import apsw

from archivefs import names
from archivefs.catalog.rows import Entry, label


def names_of(db: apsw.Connection, entries: Sequence[Entry], zone: ZoneInfo) -> list[bytes]:
    """The name of each entry."""
    firsts: dict[bytes, int] = {}
    for n, each in _labels(db, {entry.hex for entry in entries}, zone):
        firsts[each] = min(n, firsts.get(each, n))
    labels = [entry.label(zone) for entry in entries]
    return [
        each if firsts[each] == entry.n else entry.id.encode()
        for entry, each in zip(entries, labels, strict=True)
    ]


def number_of(db: apsw.Connection, name: bytes, zone: ZoneInfo) -> int | None:
    """The number of the entry of that name, or of that id."""
    n: int | None = db.execute("SELECT n FROM entries WHERE id = ?", (name.decode("ascii", "replace"),)).get
    parts = names.parse_entry_label(name)
    if n is not None or parts is None:
        return n
    return min((n for n, each in _labels(db, {parts[1]}, zone) if each == name), default=None)


def _labels(db: apsw.Connection, digits: Set[str], zone: ZoneInfo) -> Iterator[tuple[int, bytes]]:
    """Number and label of all entries whose SHA-256 begins so."""
    rows = db.execute(
        "SELECT n, captured_ms, hex, name, twin FROM entries WHERE hex IN (SELECT value FROM json_each(?))",
        (json.dumps(list(digits)),),
    )
    return ((n, label(captured_ms, zone, *rest)) for n, captured_ms, *rest in rows)
