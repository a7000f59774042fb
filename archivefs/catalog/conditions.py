"""How the catalog answers the terms of a query: each key as a piece of WHERE on ``entries``."""

from collections.abc import Mapping, Sequence
from datetime import date

from archivefs.catalog.catalog import day_number, status_number
from archivefs.events import Status
from archivefs.query import Term, Value

_SQL: Mapping[str, str] = {
    "id": "id = {0}",
    "converter": "converter_id = (SELECT converter_id FROM converters WHERE name = {0})",
    "status": "status = {0}",
    "from": "captured_ms >= {0}",
    "to": "captured_ms <= {0}",
    "date": "day = {0}",
    "name": "CAST(name AS TEXT) GLOB {0}",
    "sha256": "(hex = substr({0}, 1, 6) AND substr(sha256, 1, length({0})) = {0})",
    "text": "(instr(lower(CAST(name AS TEXT)), lower({0})) OR n IN"
    " (SELECT n FROM attempts WHERE instr(lower(error), lower({0}))))",
    "version": "n IN (SELECT n FROM attempts WHERE version = {0})",
    "report": "({0} = 'yes') = EXISTS (SELECT 1 FROM contents c WHERE c.n = entries.n AND c.ordinal > 0)",
    "min_size": "size >= {0}",
    "max_size": "size <= {0}",
}


def compile_terms(terms: Sequence[Term]) -> tuple[str, list[str | int]]:
    """The WHERE of all terms together, and its values in order. No terms: everything."""
    pieces: list[str] = []
    values: list[str | int] = []
    for term in terms:
        alternatives = []
        for value in term.values:
            values.append(_stored(value))
            alternatives.append(_SQL[term.key].format(f"?{len(values)}"))
        pieces.append("(" + " OR ".join(alternatives) + ")")
    return " AND ".join(pieces) or "1", values


def _stored(value: Value) -> str | int:
    """A value as the catalog's columns hold it."""
    if isinstance(value, Status):
        return status_number(value)
    return day_number(value.isoformat()) if isinstance(value, date) else value
