"""How a query finds its entries in order: from the totals to the places that have any, not through all."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import apsw

from archivefs.catalog.catalog import status_number
from archivefs.catalog.conditions import compile_terms, placed_terms
from archivefs.catalog.rows import Entry
from archivefs.events import Status
from archivefs.query import Query


def search(db: apsw.Connection, query: Query, *, newest_first: bool) -> Iterator[Entry]:
    """The entries that a query selects, day by day, in a day in the order of capture.

    What is purged is found only where the query asks for that status.

    With a term about converter, status or time only those days, converters and statuses are looked at that
    the totals name, each by its index; so the first entries come at once, and that there is none, too.
    """
    where, values = compile_terms(query.terms)
    order = "DESC" if newest_first else "ASC"
    wanted = next((term.values for term in query.terms if term.key == "status"), ())
    if Status.PURGED in wanted:  # the totals know nothing of these
        places = None
        where += " AND n IN (SELECT n FROM purged)" if set(wanted) == {Status.PURGED} else ""
    else:
        places = placed_terms(query.terms)
        where += f" AND status != {status_number(Status.PURGED)}"
    last = len(values)
    if places is None:
        sql = f"SELECT * FROM entries WHERE {where} ORDER BY n {order} LIMIT ?{last + 1}"
        return (Entry(*row) for row in db.execute(sql, (*values, query.limit)))
    known, limits = places
    found: Any = db.execute(
        "SELECT converter_id, day, status FROM totals"
        f" WHERE {known} AND entries > 0 ORDER BY day {order}", limits
    )  # fmt: skip
    sql = (
        f"SELECT * FROM entries WHERE converter_id = ?{last + 1} AND day = ?{last + 2}"
        f" AND status = ?{last + 3} AND {where} ORDER BY n {order} LIMIT ?{last + 4}"
    )
    days = [list(some) for _, some in groupby(found, key=itemgetter(1))]
    rows = (
        row
        for day in days
        for row in heapq.merge(
            *_each(db, sql, values, day, query.limit), key=itemgetter(0), reverse=newest_first
        )
    )
    return (Entry(*row) for row in islice(rows, query.limit))


def _each(
    db: apsw.Connection, sql: str, values: Sequence[object], places: Sequence[Sequence[object]], limit: int
) -> Iterator[Iterator[Any]]:
    """The rows of each place of a day, in order, read as they are wanted."""
    for place in places:
        yield db.execute(sql, (*values, *place, limit))
