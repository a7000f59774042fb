"""The full-text index of names and errors: every three letters in a row, by which a text is found anywhere.

SQLite's FTS5 keeps them (https://www.sqlite.org/fts5.html, "The Trigram Tokenizer"), without the texts and
without positions: 20 bytes and 2 us for a name. So it says which rows *can* hold a text; the caller looks at
those. Rows enter it ``BATCH`` at a time, when the last of a batch is added: a transaction that adds a single
one costs 100 us, and so what is in it follows from the journal alone. The rows behind are for the caller to
look at, all of them.
"""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apsw

BATCH = 256
WIDTH = 3
"""Letters that are indexed together; a shorter text cannot be found here."""
RANKED = 64
"""Most trigrams of a term of which it is asked how rare they are, each 50 to 100 us."""
ASKED = 4
"""So many of the rarest are asked for together; more of them choose no better, and each takes time."""
_SAMPLE = 200
_RUN = re.compile(r"[^\ud800-\udfff]+")


class Index(NamedTuple):
    """One of the two: the table of FTS5, and that whose rows it finds by ``rowid``."""

    table: str
    of: str
    number: str


NAMES = Index("name_trigrams", "entries", "n")
ERRORS = Index("error_trigrams", "errors", "number")
INDEXES = (NAMES, ERRORS)


def fold(text: str | bytes) -> str:
    """A text as it is compared: without the difference of upper and lower case; wrong UTF-8 is U+FFFD."""
    return (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).casefold()


def add_functions(db: apsw.Connection) -> None:
    """Teach a connection ``folded``."""
    db.create_scalar_function("folded", _folded, 1, deterministic=True)


def _folded(*values: object) -> str:
    (text,) = values
    return fold(text if isinstance(text, bytes) else str(text))


# -- writing ---------------------------------------------------------------------------------------------


def name_added(db: apsw.Connection, n: int) -> None:
    """Entry ``n`` is in the catalog, the last so far."""
    if n % BATCH == 0:
        rows = db.execute("SELECT n, name FROM entries WHERE n > ? AND n <= ?", (n - BATCH, n))
        _add(db, NAMES, rows)


def error_added(db: apsw.Connection, n: int, attempt: int) -> None:
    """An attempt ended with an error."""
    db.execute("INSERT INTO errors VALUES (NULL, ?, ?)", (n, attempt))
    number = db.last_insert_rowid()
    if number % BATCH == 0:
        rows = db.execute(
            "SELECT number, error FROM errors JOIN attempts USING (n, attempt)"
            " WHERE number > ? AND number <= ?",
            (number - BATCH, number),
        )
        _add(db, ERRORS, rows)


def _add(db: apsw.Connection, index: Index, rows: Iterable[tuple[int, str | bytes]]) -> None:
    prepared = [(number, _letters(fold(text))) for number, text in rows]
    db.executemany(f"INSERT INTO {index.table} (rowid, folded) VALUES (?, ?)", prepared)


def _letters(folded: str) -> str:
    """FTS5 leaves NUL out, and what stood on both sides of it together."""
    return folded.replace("\0", "\ufffd")


# -- asking ----------------------------------------------------------------------------------------------


def runs_of_glob(pattern: bytes) -> list[str]:
    """What stands literally in every name that a glob fits, folded; as ``fnmatch`` reads a pattern."""
    text, runs, start, at = os.fsdecode(pattern), [], 0, 0
    while at < len(text):
        end = at
        if text[at] == "[":
            end = text.find("]", at + (3 if text[at + 1 : at + 2] == "!" else 2))
        if text[at] in "*?" or (text[at] == "[" and end > 0):
            runs.append(text[start:at])
            start = end + 1
        at = max(at, end) + 1
    runs.append(text[start:])
    return [fold(part) for run in runs for part in _RUN.findall(run)]


def match(db: apsw.Connection, index: Index, alternatives: Sequence[Sequence[str]]) -> str | None:
    """A MATCH for the rows that hold all folded runs of any alternative, and maybe others.

    None where an alternative has no run that is long enough to say anything.
    """
    quota = max(ASKED, RANKED // len(alternatives))
    every = [_rarest(db, index, _some(_trigrams(runs), quota)) for runs in alternatives]
    if not all(every):
        return None
    return " OR ".join("(" + " AND ".join(map(_quoted, chosen)) + ")" for chosen in every)


def _trigrams(runs: Iterable[str]) -> list[str]:
    letters = [_letters(run) for run in runs]
    return list({run[at : at + WIDTH]: 0 for run in letters for at in range(len(run) - WIDTH + 1)})


def _some(trigrams: list[str], most: int) -> list[str]:
    """Not all of a long text, from all over it."""
    return trigrams[:: -(-len(trigrams) // most)] if trigrams else []


def _rarest(db: apsw.Connection, index: Index, trigrams: list[str]) -> list[str]:
    if len(trigrams) <= ASKED:
        return trigrams
    return sorted(trigrams, key=lambda each: _distance(db, index, each), reverse=True)[:ASKED]


def _distance(db: apsw.Connection, index: Index, trigram: str) -> float:
    """How far the latest rows with a trigram are from each other."""
    sql = f"SELECT rowid FROM {index.table} WHERE {index.table} MATCH ? ORDER BY rowid DESC LIMIT ?"
    rows = [row[0] for row in db.execute(sql, (_quoted(trigram), _SAMPLE))]
    return (rows[0] - rows[-1]) / _SAMPLE if len(rows) == _SAMPLE else 2.0**63 - len(rows)


def _quoted(trigram: str) -> str:
    return '"' + trigram.replace('"', '""') + '"'


def found(
    db: apsw.Connection, index: Index, wanted: str, within: tuple[int, int], *, newest_first: bool
) -> Iterator[int]:
    """The numbers of all rows ``within`` that a ``match`` can fit, in order; those not indexed yet, too."""
    first, last = within
    newest = db.execute(f"SELECT max({index.number}) FROM {index.of}").get or 0
    indexed = newest - newest % BATCH
    # What is indexed from now on is in the other part.
    behind, order = range(max(first, indexed + 1), min(last, newest) + 1), "DESC" if newest_first else "ASC"
    sql = (
        f"SELECT rowid FROM {index.table} WHERE {index.table} MATCH ? AND rowid BETWEEN ? AND ?"
        f" ORDER BY rowid {order}"
    )
    before = (row[0] for row in db.execute(sql, (wanted, first, min(last, indexed))))
    return itertools.chain(reversed(behind), before) if newest_first else itertools.chain(before, behind)


def contents(db: apsw.Connection, index: Index) -> Iterator[tuple[str, int, int, int]]:
    """Each trigram in order: how many rows hold it, and two sums of their numbers by which others differ.

    The same for two indexes of the same rows, whatever FTS5 made of them on the disk.
    """
    name = f"temp.all_{index.table}"
    db.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS {name} USING fts5vocab(main, {index.table}, instance)")
    sql = f"SELECT term, count(*), sum(doc), sum(doc * 2654435761 % 4294967296) FROM {name} GROUP BY term"
    return iter(db.execute(sql))
