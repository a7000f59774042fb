"""Two catalogs compared row for row; and their full-text indexes, trigram for trigram."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from archivefs.catalog import trigrams
from archivefs.catalog.catalog import Catalog, require_schema
from archivefs.catalog.connection import connect
from archivefs.errors import CatalogError

TABLES = (
    "meta",
    "converters",
    "code",
    "dictionaries",
    "segments",
    "entries",
    "members",
    "attempts",
    "errors",
    "contents",
    "outbox",
    "deliveries",
    "outbox_totals",
    "totals",
    "plans",
    "purged",
    "holes",
    "holds",
    "held",
    "retained",
    "jobs",
    "activity",
)
Row = tuple[Any, ...]
Differing = Iterator[tuple[Row, str]]
"""Rows that are not in both, and what is said of them."""
SHOWN = 10
"""Differences of one table that are told one by one."""
_KEYS = {"applied_sha256"}
"""Rows of meta that say how far a catalog is, not what it holds."""


class Snapshot:
    """A catalog in use, seen as of one moment; what is committed meanwhile does not show.

    All methods raise ``CatalogError`` where SQLite cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        """Open and fix the moment. Raises ``OtherSchemaError``, too."""
        with told(path):
            self._db = connect(path, readonly=True)
            self._db.execute("BEGIN")
            require_schema(self._db, path)
        self._path = path

    def applied_seq(self) -> int:
        """The last journal line that is in it."""
        with told(self._path):
            return int(self._db.execute("SELECT value FROM meta WHERE key = 'applied_seq'").get or 0)

    def applied_sha256(self) -> str:
        """The hash of that line."""
        with told(self._path):
            return str(self._db.execute("SELECT value FROM meta WHERE key = 'applied_sha256'").get)

    def damage(self) -> str:
        """What SQLite finds wrong with the file, '' for nothing; reads all of it."""
        with told(self._path):
            return "; ".join(row[0] for row in self._db.execute("PRAGMA quick_check(10)") if row[0] != "ok")

    def differences(self, right: Catalog) -> list["Difference"]:
        """How it differs from the one that is right."""
        with told(self._path):
            return list(compare(self._db, right.db))

    def close(self) -> None:
        """Let go of the moment."""
        self._db.close()


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """What SQLite raises inside, as ``CatalogError``."""
    try:
        yield
    except apsw.Error as error:
        raise CatalogError(f"{path.name}: {error}") from None


class Difference(NamedTuple):
    """A row that is not in both."""

    table: str
    text: str


def compare(live: apsw.Connection, right: apsw.Connection) -> Iterator[Difference]:
    """How the first differs from the second, which is right; both read in primary key order."""
    found = {table: _compare_table(live, right, table) for table in TABLES}
    for index in trigrams.INDEXES:
        found[index.table] = _compare_rows(trigrams.contents(live, index), trigrams.contents(right, index), 1)
    for table, differences in found.items():
        count = 0
        for row, text in differences:
            if table == "meta" and row[0] in _KEYS:
                continue
            count += 1
            if count <= SHOWN:
                yield Difference(table, text)
        if count > SHOWN:
            yield Difference(table, f"and {count - SHOWN} rows more")


def _compare_table(live: apsw.Connection, right: apsw.Connection, table: str) -> Differing:
    width = _key_width(right, table)
    order = ", ".join(str(column + 1) for column in range(width))
    sql = f"SELECT * FROM {table} ORDER BY {order}"
    return _compare_rows(live.execute(sql), right.execute(sql), width)


def _compare_rows(left_rows: Iterator[Row], right_rows: Iterator[Row], width: int) -> Differing:
    """What differs, with its row, of rows in the order of their first ``width`` columns, which are a key."""
    mine, theirs = next(left_rows, None), next(right_rows, None)
    while mine is not None or theirs is not None:
        if mine == theirs:
            mine, theirs = next(left_rows, None), next(right_rows, None)
        elif theirs is None or (mine is not None and mine[:width] < theirs[:width]):
            assert mine is not None
            yield mine, f"a row too much: {_short(mine)}"
            mine = next(left_rows, None)
        elif mine is None or theirs[:width] < mine[:width]:
            yield theirs, f"a row is missing: {_short(theirs)}"
            theirs = next(right_rows, None)
        else:
            yield mine, f"a row is wrong: {_short(mine)}, right is {_short(theirs)}"
            mine, theirs = next(left_rows, None), next(right_rows, None)


def _key_width(db: apsw.Connection, table: str) -> int:
    """How many of the first columns make the primary key."""
    return sum(1 for row in db.execute(f"PRAGMA table_info({table})") if row[5])


def _short(row: Row) -> str:
    text = ", ".join(str(value) for value in row)
    return text if len(text) <= 300 else text[:300] + "..."
