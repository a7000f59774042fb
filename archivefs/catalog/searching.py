"""How a query finds its entries in order: from the totals to the places that have any, not through all."""

import heapq
import json
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple

import apsw

from archivefs.catalog import candidates
from archivefs.catalog.candidates import ALL, FEW, Asked, Numbers
from archivefs.catalog.catalog import status_number
from archivefs.catalog.conditions import compile_terms, placed_terms
from archivefs.catalog.rows import Entry
from archivefs.query import Query, Term
from archivefs.states import Status

CHUNK = 200
"""Candidates of many that are looked at together."""
Place = tuple[int, int, int, int]
"""Converter, day, status; and how many entries are there."""


class Search(NamedTuple):
    """What all ways to the entries need: the condition, its values, and the direction."""

    db: apsw.Connection
    where: str
    values: Sequence[object]
    newest_first: bool
    within: tuple[int, int] = ALL
    """The first and last number that can be wanted, where the order of days is that of capture."""

    @property
    def order(self) -> str:
        """As SQL says it."""
        return "DESC" if self.newest_first else "ASC"

    def value(self, number: int) -> str:
        """How a statement names the first, second, ... value behind those of the condition."""
        return f"?{len(self.values) + number}"


def search(
    db: apsw.Connection, query: Query, *, newest_first: bool, behind: tuple[int, int] | None = None
) -> Iterator[Entry]:
    """The entries that a query selects, day by day, in a day in the order of capture.

    With a term about converter, status, time or reports only those days, converters and statuses are looked
    at that the totals name, each by its index; so the first entries come at once, and that there is none.
    Without, the order is that of capture.

    Where an index knows of another term which entries can fit it, and these are few, only they are looked at;
    many are looked at one by one, unless the places have fewer.

    ``behind``: day and number of an entry; only what comes after it. What is purged is found only where the
    query asks for that status, in the order of capture.
    """
    wanted = Search(db, *_condition(query.terms), newest_first)
    places = None if _asks_for_purged(query.terms) else _places(wanted, query.terms)
    if behind is not None:
        wanted, places = _behind(wanted, places, *behind)
    return (Entry(*row) for row in islice(_rows(wanted, query, places), query.limit))


def _asks_for_purged(terms: Sequence[Term]) -> bool:
    """Whether it is about entries of which the totals know nothing."""
    return any(term.key == "status" and Status.PURGED in term.values for term in terms)


def _condition(terms: Sequence[Term]) -> tuple[str, list[str | int | bytes]]:
    """The WHERE of all terms; without what is purged, or where nothing else is wanted with that alone."""
    where, values = compile_terms(terms)
    if not _asks_for_purged(terms):
        return f"{where} AND status != {status_number(Status.PURGED)}", values
    is_alone = any(term.key == "status" and set(term.values) == {Status.PURGED} for term in terms)
    return where + (" AND n IN (SELECT n FROM purged)" if is_alone else ""), values


def _places(wanted: Search, terms: Sequence[Term]) -> list[Place] | None:
    """Where entries can be, day by day; None: anywhere."""
    placed = placed_terms(terms)
    if placed is None:
        return None
    known, limits = placed
    found: Any = wanted.db.execute(
        "SELECT converter_id, day, status, entries FROM totals"
        f" WHERE {known} AND entries > 0 ORDER BY day {wanted.order}", limits
    )  # fmt: skip
    return list(found)


def selects(db: apsw.Connection, query: Query, n: int) -> bool:
    """Whether an entry fits all terms of a query."""
    where, values = _condition(query.terms)
    sql = f"SELECT 1 FROM entries NOT INDEXED WHERE n = ?{len(values) + 1} AND {where}"
    return db.execute(sql, (*values, n)).get is not None


def _behind(
    wanted: Search, places: list[Place] | None, day: int, n: int
) -> tuple[Search, list[Place] | None]:
    """The same search, of what comes after an entry."""
    sign, first, second = "<" if wanted.newest_first else ">", wanted.value(1), wanted.value(2)
    if places is None:
        where, values = f"{wanted.where} AND n {sign} {first}", [*wanted.values, n]
    else:
        where = f"{wanted.where} AND (day, n) {sign} ({first}, {second})"
        values = [*wanted.values, day, n]
        places = [place for place in places if (place[1] <= day if wanted.newest_first else place[1] >= day)]
    last = (0, n - 1) if wanted.newest_first else (n + 1, ALL[1])
    return wanted._replace(where=where, values=values, within=last), places


def _rows(wanted: Search, query: Query, places: list[Place] | None) -> Iterator[Any]:
    inside = _last(wanted.db) if places is None else sum(place[3] for place in places)
    if inside > FEW:
        is_in_order = places is None or _days_are_in_order(wanted.db)
        within = wanted.within if is_in_order else ALL
        if places and is_in_order:
            first, last = _within(wanted.db, places)
            within = max(within[0], first), min(within[1], last)
        asked = Asked(wanted.db, wanted.newest_first, within)
        found = []
        for each in (candidates.of(asked, term) for term in query.terms):
            if each is not None and each.are_few:
                return _few(wanted, each.numbers, by_day=places is not None)
            if each is not None and is_in_order:
                found.append(each)
        rarest = max(found, key=lambda each: each.distance, default=None)
        if rarest is not None and (places is None or rarest.distance > _last(wanted.db) / inside):
            return _many(wanted, rarest.numbers)
    if places is not None:
        return _in_places(wanted, places)
    # NOT INDEXED: an index would have to be sorted before the first entry comes.
    sql = f"SELECT * FROM entries NOT INDEXED WHERE {wanted.where} ORDER BY n {wanted.order}"
    return wanted.db.execute(sql, tuple(wanted.values))


def _last(db: apsw.Connection) -> int:
    return int(db.execute("SELECT max(n) FROM entries").get or 0)


def _days_are_in_order(db: apsw.Connection) -> bool:
    return bool(db.execute("SELECT value = 0 FROM meta WHERE key = 'turned_back'").get)


def _within(db: apsw.Connection, places: list[Place]) -> tuple[int, int]:
    """The first and the last entry of the first and the last day."""

    def ends(which: str, day: int) -> list[int]:
        sql = f"SELECT {which}(n) FROM entries WHERE converter_id = ? AND day = ? AND status = ?"
        found = [db.execute(sql, place[:3]).get for place in places if place[1] == day]
        return [n for n in found if n is not None]

    days = {place[1] for place in places}
    return min(ends("min", min(days)), default=0), max(ends("max", max(days)), default=0)


def _few(wanted: Search, numbers: Numbers, *, by_day: bool) -> Iterator[Any]:
    chosen = sorted(set(numbers), reverse=wanted.newest_first)
    days = f" ORDER BY day {wanted.order}, n {wanted.order}" if by_day else ""
    return _chosen(wanted, chosen, days)


def _many(wanted: Search, numbers: Numbers) -> Iterator[Any]:
    while chunk := list(islice(numbers, CHUNK)):
        yield from _chosen(wanted, chunk)


def _chosen(wanted: Search, numbers: list[int], order: str = "") -> Iterator[Any]:
    """The rows of these entries that fit, in this order or in another."""
    # CROSS JOIN: in this order and by no other index.
    sql = (
        f"SELECT entries.* FROM (SELECT value AS number FROM json_each({wanted.value(1)})) CROSS JOIN entries"
        f" ON n = number WHERE {wanted.where}{order}"
    )
    return wanted.db.execute(sql, (*wanted.values, json.dumps(numbers)))


def _in_places(wanted: Search, places: list[Place]) -> Iterator[Any]:
    sql = (
        f"SELECT * FROM entries INDEXED BY entries_by_place WHERE converter_id = {wanted.value(1)}"
        f" AND day = {wanted.value(2)} AND status = {wanted.value(3)} AND {wanted.where}"
        f" ORDER BY n {wanted.order}"
    )
    for _, day in groupby(places, key=itemgetter(1)):
        each = [wanted.db.execute(sql, (*wanted.values, *place[:3])) for place in day]
        yield from heapq.merge(*each, key=itemgetter(0), reverse=wanted.newest_first)
