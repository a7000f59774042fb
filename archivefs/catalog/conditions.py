"""How the catalog answers the terms of a query: each key as a piece of WHERE on ``entries``."""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from datetime import date

import apsw

from archivefs.catalog import trigrams
from archivefs.catalog.catalog import day_number, status_number
from archivefs.query import Term, Value
from archivefs.states import Status

_SQL: Mapping[str, str] = {
    "id": "id = {0}",
    "converter": "converter_id = (SELECT converter_id FROM converters WHERE name = {0})",
    "status": "status = {0}",
    "from": "captured_ms >= {0}",
    "to": "captured_ms <= {0}",
    "date": "day = {0}",
    "name": "name_fits(name, {0})",
    "sha256": "(hex = substr({0}, 1, 6) AND substr(sha256, 1, length({0})) = {0})",
    "text": "(instr(folded(name), folded({0})) OR EXISTS (SELECT 1 FROM errors f JOIN attempts"
    " USING (n, attempt) WHERE f.n = entries.n AND instr(folded(error), folded({0}))))",
    "version": "EXISTS (SELECT 1 FROM attempts a WHERE a.n = entries.n AND a.version = {0})",
    "report": "({0} = 'yes') = (reports > 0)",
    "min_size": "size >= {0}",
    "max_size": "size <= {0}",
}

_PLACED: Mapping[str, str] = {
    "converter": _SQL["converter"],
    "status": _SQL["status"],
    "date": _SQL["date"],
    # A day begins at most 14 hours before UTC's and ends at most 12 hours after it.
    "from": "day >= {0} / 86400000 - 1",
    "to": "day <= {0} / 86400000 + 1",
    "report": "CASE {0} WHEN 'yes' THEN reported > 0 ELSE reported < entries END",
}
"""What the totals know of a term."""


def add_functions(db: apsw.Connection) -> None:
    """Teach a connection the functions that conditions use."""
    db.create_scalar_function("name_fits", _name_fits, 2, deterministic=True)
    trigrams.add_functions(db)


def _name_fits(*values: object) -> bool:
    name, pattern = values
    assert isinstance(name, bytes)
    assert isinstance(pattern, bytes)
    return fnmatch.fnmatchcase(os.fsdecode(name), os.fsdecode(pattern))


def compile_terms(terms: Sequence[Term]) -> tuple[str, list[str | int | bytes]]:
    """The WHERE of all terms together, and its values in order. No terms: everything."""
    return _compiled(terms, _SQL)


def placed_terms(terms: Sequence[Term]) -> tuple[str, list[str | int | bytes]] | None:
    """The WHERE on ``totals`` that chooses where entries can be; None where no term says anything of it."""
    placed = [term for term in terms if term.key in _PLACED]
    return _compiled(placed, _PLACED) if placed else None


def _compiled(terms: Sequence[Term], pieces_of: Mapping[str, str]) -> tuple[str, list[str | int | bytes]]:
    pieces: list[str] = []
    values: list[str | int | bytes] = []
    for term in terms:
        alternatives = []
        for value in term.values:
            values.append(stored(term.key, value))
            alternatives.append(pieces_of[term.key].format(f"?{len(values)}"))
        pieces.append("(" + " OR ".join(alternatives) + ")")
    return " AND ".join(pieces) or "1", values


def stored(key: str, value: Value) -> str | int | bytes:
    """A value as the catalog's columns hold it."""
    if key == "name":
        return os.fsencode(str(value))
    if isinstance(value, Status):
        return status_number(value)
    return day_number(value.isoformat()) if isinstance(value, date) else value
