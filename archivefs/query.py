"""The query language: ``key=value`` words that select entries, the same everywhere.

Words are separated by blanks and quoted as in a shell; commas separate alternatives. Here the words are
checked and become typed terms; ``catalog/conditions.py`` alone knows how the catalog answers them.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from archivefs.config import parse_size
from archivefs.errors import QueryError
from archivefs.states import STATUSES, Status

NO_LIMIT = 2**62
MAX_ALTERNATIVES = 500
"""Most values of one key; SQLite refuses expressions deeper than 1000."""
Value = str | int | Status | date
Parser = Callable[[str, ZoneInfo], tuple[Value, ...]]


class Term(NamedTuple):
    """One condition: the key and its alternatives, any of which may hold.

    Values: ``Status`` for status, ``date`` for date, Unix milliseconds for from and to, bytes for sizes, text
    for the others.
    """

    key: str
    values: tuple[Value, ...]


class Query(NamedTuple):
    """A checked query: all terms must hold; at most ``limit`` entries."""

    terms: tuple[Term, ...]
    limit: int


def _words(value: str, _: ZoneInfo) -> tuple[Value, ...]:
    return tuple(value.split(","))


def _whole(value: str, _: ZoneInfo) -> tuple[Value, ...]:
    return (value,)


def _matching(pattern: str, allowed: str) -> Parser:
    def parse_each(value: str, _: ZoneInfo) -> tuple[Value, ...]:
        for each in value.split(","):
            if not re.fullmatch(pattern, each):
                raise ValueError(allowed)
        return tuple(value.split(","))

    return parse_each


def _sha256(value: str, zone: ZoneInfo) -> tuple[Value, ...]:
    return _matching(r"[0-9a-f]{6,64}", "6 to 64 hexadecimal digits")(value.lower(), zone)


def _status(value: str, _: ZoneInfo) -> tuple[Value, ...]:
    for each in value.split(","):
        if each not in STATUSES:
            near = _meant(each, STATUSES)
            raise ValueError("one of " + ", ".join(STATUSES) + (f"; {near}" if near else ""))
    return tuple(Status(each) for each in value.split(","))


def _moment(value: str, zone: ZoneInfo, *, end: bool) -> tuple[Value, ...]:
    """Unix milliseconds of a date or time; of the end of what it names where ``end``."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            day = date.fromisoformat(value)
            if end and day == date.max:
                return (NO_LIMIT,)
            return (_milliseconds(datetime.combine(day + timedelta(days=end), time(), zone)) - end,)
        moment = datetime.fromisoformat(value)
    except (ValueError, OverflowError):
        raise ValueError("YYYY-MM-DD or an ISO time such as 2026-02-13T14:30:22") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    rest = 999 if end and "." not in value else 0
    return (_milliseconds(moment) + rest,)


def _milliseconds(moment: datetime) -> int:
    """Unix milliseconds, exactly."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _from(value: str, zone: ZoneInfo) -> tuple[Value, ...]:
    return _moment(value, zone, end=False)


def _to(value: str, zone: ZoneInfo) -> tuple[Value, ...]:
    return _moment(value, zone, end=True)


def _date(value: str, _: ZoneInfo) -> tuple[Value, ...]:
    try:
        return tuple(date.fromisoformat(each) for each in value.split(","))
    except ValueError:
        raise ValueError("YYYY-MM-DD, or several separated by commas") from None


def _size(value: str, _: ZoneInfo) -> tuple[Value, ...]:
    return (parse_size(value),)


KEYS: Mapping[str, Parser] = {
    "id": _matching(r"\d{8}T\d{9}-[0-9a-f]{6}", "an archive id such as 20260213T143022123-a1b2c3"),
    "converter": _words,
    "status": _status,
    "from": _from,
    "to": _to,
    "date": _date,
    "name": _words,
    "sha256": _sha256,
    "text": _whole,
    "version": _words,
    "report": _matching("yes|no", "yes or no"),
    "min_size": _size,
    "max_size": _size,
}


MEANING: Mapping[str, str] = {
    "id": "archive ids",
    "converter": "names of converters",
    "status": ", ".join(STATUSES),
    "from": "captured then or later: YYYY-MM-DD, or a time such as 2026-02-13T14:30:22",
    "to": "captured then or earlier; a day or second counts to its end",
    "date": "captured on one of these days, YYYY-MM-DD",
    "name": "patterns of the whole name: * any letters, ? one, [abc] one of these",
    "sha256": "of the source, or its first 6 or more digits",
    "text": "anywhere in the name or in an error message, in upper or lower case",
    "version": "of the converter, in any attempt",
    "report": "yes or no: whether it has any",
    "min_size": "of the source, such as 10 kB",
    "max_size": "of the source",
    "limit": "at most so many, the newest",
}
"""What a person may write behind each key."""


def split(text: str) -> list[str]:
    """The words of a query, quoted as in a shell. Raises ``QueryError``."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise QueryError(f"the query {text!r} is not quoted well: {error}") from None


def parse(words: str | list[str], zone: ZoneInfo) -> Query:
    """Check a query: one text with shell quoting, or words that a shell has already split.

    An empty query selects everything. Raises ``QueryError`` naming the key, the value and what is allowed.
    """
    if isinstance(words, str):
        words = split(words)
    limit = NO_LIMIT
    terms: list[Term] = []
    for word in words:
        key, separator, value = word.partition("=")
        if key != "name" and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise QueryError(f"{key}=...: the value is not UTF-8")
        if value.count(",") >= MAX_ALTERNATIVES:
            raise QueryError(f"{key}=...: more than {MAX_ALTERNATIVES} alternatives; ask in several queries")
        if not separator or not value:
            raise QueryError(_no_condition(word))
        if key == "limit":
            limit = _limit(value)
        elif key in KEYS:
            try:
                terms.append(Term(key, KEYS[key](value, zone)))
            except ValueError as error:
                raise QueryError(f"{key}={value}: must be {error}") from None
        else:
            hints = [f'unknown key "{key}":', _meant(key, MEANING), f"allowed are: {_known()}"]
            raise QueryError(" ".join(filter(None, hints)))
    return Query(tuple(terms), limit)


def _known() -> str:
    return " ".join(MEANING)


def _meant(word: str, allowed: Iterable[str]) -> str:
    """What a person may have wanted to write, '' for nothing near."""
    near = difflib.get_close_matches(word.lower(), list(allowed), 3)
    return "did you mean " + " or ".join(f'"{each}"' for each in near) + "?" if near else ""


def _no_condition(word: str) -> str:
    """What a word lacks, and what it would be as a condition."""
    told = f'"{word}" is no condition; write key=value with a key of: {_known()}'
    key, separator, _ = word.partition("=")
    if separator:
        return f"{told}; {key}= takes: {MEANING[key]}" if key in MEANING else told
    if word in STATUSES:
        return f"{told}; such as status={word}"
    return f"{told}; such as text={shlex.quote(word)}" if word else told


def _limit(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise QueryError(f"limit={value}: must be a whole number of at least 1")
    return min(int(value), NO_LIMIT)
