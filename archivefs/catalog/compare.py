"""Two catalogs compared row for row."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import apsw

TABLES = ("meta", "converters", "segments", "entries", "attempts", "contents", "totals")
SHOWN = 10
"""Differences of one table that are told one by one."""
_KEYS = {"applied_sha256"}
"""Rows of meta that say how far a catalog is, not what it holds."""


class Difference(NamedTuple):
    """A row that is not in both."""

    table: str
    text: str


def compare(live: apsw.Connection, right: apsw.Connection) -> Iterator[Difference]:
    """How the first differs from the second, which is right; both read in primary key order."""
    for table in TABLES:
        count = 0
        for text in _compare_table(live, right, table):
            count += 1
            if count <= SHOWN:
                yield Difference(table, text)
        if count > SHOWN:
            yield Difference(table, f"and {count - SHOWN} rows more")


def _compare_table(live: apsw.Connection, right: apsw.Connection, table: str) -> Iterator[str]:
    width = _key_width(right, table)
    order = ", ".join(str(column + 1) for column in range(width))
    sql = f"SELECT * FROM {table} ORDER BY {order}"
    left_rows, right_rows = live.execute(sql), right.execute(sql)
    mine, theirs = next(left_rows, None), next(right_rows, None)
    while mine is not None or theirs is not None:
        if mine == theirs:
            mine, theirs = next(left_rows, None), next(right_rows, None)
        elif theirs is None or (mine is not None and mine[:width] < theirs[:width]):
            assert mine is not None
            yield f"a row too much: {_short(mine)}"
            mine = next(left_rows, None)
        elif mine is None or theirs[:width] < mine[:width]:
            yield f"a row is missing: {_short(theirs)}"
            theirs = next(right_rows, None)
        else:
            if table != "meta" or mine[0] not in _KEYS:
                yield f"a row is wrong: {_short(mine)}, right is {_short(theirs)}"
            mine, theirs = next(left_rows, None), next(right_rows, None)


def _key_width(db: apsw.Connection, table: str) -> int:
    """How many of the first columns make the primary key."""
    return sum(1 for row in db.execute(f"PRAGMA table_info({table})") if row[5])


def _short(row: tuple[Any, ...]) -> str:
    text = ", ".join(str(value) for value in row)
    return text if len(text) <= 300 else text[:300] + "..."
