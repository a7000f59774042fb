"""Which entries an index knows that can fit a term, by number; whether they do is for the caller to see.

Where they are few, all of them are told; else, where the index has them in order, they come one by one.
"""

import heapq
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import NamedTuple

import apsw

from archivefs.catalog import trigrams
from archivefs.catalog.conditions import stored
from archivefs.query import Term

FEW = 500
"""Entries that are read and sorted at once, within 3 ms; that there are more is seen within 1 ms."""
ALL = (0, 2**62)
Numbers = Iterator[int]


class Asked(NamedTuple):
    """Whom, for which order, and of which entries: the first and last number."""

    db: apsw.Connection
    newest_first: bool
    within: tuple[int, int] = ALL

    @property
    def order(self) -> str:
        """As SQL says it."""
        return "DESC" if self.newest_first else "ASC"

    def one_column(self, sql: str, *values: object) -> Numbers:
        """The only column of the rows."""
        return map(itemgetter(0), self.db.execute(sql, values))

    def found(self, index: trigrams.Index, wanted: str) -> Numbers:
        """What a full-text index finds."""
        within = self.within if index is trigrams.NAMES else ALL
        return trigrams.found(self.db, index, wanted, within, newest_first=self.newest_first)

    def merged(self, *found: Numbers) -> Numbers:
        """All in order, each once."""
        return (n for n, _ in itertools.groupby(heapq.merge(*found, reverse=self.newest_first)))


class Candidates(NamedTuple):
    """``numbers``: at most ``FEW``, or all in order and ``distance`` from each other where they begin."""

    numbers: Numbers
    are_few: bool
    distance: float = 0


def of(asked: Asked, term: Term) -> Candidates | None:
    """The entries that can fit a term, None where no index says so or there are many without order."""
    if term.key in _ORDERED:
        numbers = _ORDERED[term.key](asked, term)
        return None if numbers is None else _probed(numbers)
    if term.key not in _UNORDERED:
        return None
    sql = f"SELECT n FROM entries WHERE {_UNORDERED[term.key]} LIMIT ?2"
    found = (asked.one_column(sql, stored(term.key, value), FEW + 1) for value in term.values)
    probed = _probed(itertools.chain.from_iterable(found))
    return probed if probed.are_few else None


def _probed(numbers: Numbers) -> Candidates:
    first = list(itertools.islice(numbers, FEW + 1))
    if len(first) <= FEW:
        return Candidates(iter(first), are_few=True)
    distance = abs(first[0] - first[-1]) / FEW
    return Candidates(itertools.chain(first, numbers), are_few=False, distance=distance)


_UNORDERED: Mapping[str, str] = {
    "id": "id = ?1",
    "sha256": "hex = substr(?1, 1, 6) AND substr(sha256, 1, length(?1)) = ?1",
    "min_size": "size >= ?1",
    "max_size": "size <= ?1",
}


def _by_version(asked: Asked, term: Term) -> Numbers | None:
    if "" in term.values:  # as of attempts under way
        return None
    sql = (
        "SELECT n FROM attempts WHERE version = ? AND version != '' AND n BETWEEN ? AND ?"
        f" ORDER BY n {asked.order}"
    )
    return asked.merged(*(asked.one_column(sql, value, *asked.within) for value in term.values))


def _by_name(asked: Asked, term: Term) -> Numbers | None:
    runs = [trigrams.runs_of_glob(os.fsencode(str(value))) for value in term.values]
    wanted = trigrams.match(asked.db, trigrams.NAMES, runs)
    return None if wanted is None else asked.found(trigrams.NAMES, wanted)


def _by_text(asked: Asked, term: Term) -> Numbers | None:
    texts = [[trigrams.fold(str(value))] for value in term.values]
    in_names = trigrams.match(asked.db, trigrams.NAMES, texts)
    in_errors = trigrams.match(asked.db, trigrams.ERRORS, texts)
    if in_names is None or in_errors is None:
        return None
    return asked.merged(asked.found(trigrams.NAMES, in_names), _with_errors(asked, in_errors))


def _with_errors(asked: Asked, wanted: str) -> Numbers:
    """Those with one of a few errors; else all that have errors: only these are in the order of entries."""
    numbers = list(itertools.islice(asked.found(trigrams.ERRORS, wanted), FEW + 1))
    if len(numbers) > FEW:
        sql = f"SELECT n FROM errors WHERE n BETWEEN ? AND ? ORDER BY n {asked.order}"
        return asked.one_column(sql, *asked.within)
    sql = "SELECT n FROM errors WHERE number IN (SELECT value FROM json_each(?))"
    return iter(sorted(asked.one_column(sql, json.dumps(numbers)), reverse=asked.newest_first))


_ORDERED: Mapping[str, Callable[[Asked, Term], Numbers | None]] = {
    "version": _by_version,
    "name": _by_name,
    "text": _by_text,
}
