"""Queries against a real catalog: the entries they select are those that Python would pick one by one."""

import fnmatch
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from archive_parts import Clock, capture, commit, every_entry, finish, make

from archivefs.archive import Archive
from archivefs.catalog.rows import Entry
from archivefs.config import parse_size
from archivefs.errors import QueryError
from archivefs.operations import BeginAttempt, Report
from archivefs.query import parse
from archivefs.states import Outcome

TOML = """\
schema_version = 1
timezone = "Europe/Oslo"
[converters.ict]
run = "command:true"
patterns = ["*.csv"]
[converters.log]
run = "command:true"
[converters.files]
"""
OSLO = ZoneInfo("Europe/Oslo")
NAMES = [b"unit.csv", b"UNIT.csv", b"a b.csv", "måling.csv".encode(), b"\xff\xfe.csv", b"x.xml", b"it's.csv",
         b"[1].csv", b"two\nlines.csv", b"timeout.csv", b"100%_sure.csv", b"a!b.csv"]  # fmt: skip
ERRORS = ["timeout while reading", "Timeout: 5 s", "no such column 'a b'", "100% wrong", "måling mangler", ""]
VERSIONS = ["1.0", "1.1", "2.0", ""]


class Facts(NamedTuple):
    """What a term looks at."""

    row: Entry
    converter: str
    errors: list[str]
    versions: list[str]
    reports: int
    local: datetime


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """300 entries of three converters around the end of summer time, with attempts of all outcomes."""
    clock, chance = Clock(int(datetime(2026, 10, 23, 20, tzinfo=OSLO).timestamp() * 1000)), random.Random(11)
    with make(tmp_path_factory.mktemp("search") / "archive", clock, TOML) as archive:
        for _ in range(300):
            clock.turn(chance.choice([0, 0.001, 0.5, 60, 1800, 7200]))
            converter = chance.choice(["ict", "log", "files"])
            content = b"x" * chance.choice([0, 1, 2, 999, 1000, 1001, 1024, 5000]) + chance.choice(
                [b"", b"\0", b"\1"]
            )
            earlier = chance.choice(["", archive.reader.last_id()])
            (receipt,) = commit(
                archive,
                capture(content, chance.choice(NAMES), converter, supersedes=[earlier] if earlier else []),
            )
            attempts(archive, receipt.id, converter, chance)
        yield archive


def attempts(archive: Archive, id_: str, converter: str, chance: random.Random) -> None:
    for number in range(1, chance.randrange(4)):
        if commit(archive, BeginAttempt(id_, "retry")) != [number]:
            return
        outcome = chance.choice([*Outcome])
        reports = [Report("report.json", b"{}")] * (chance.randrange(3) if outcome is Outcome.SUCCESS else 0)
        log = Report("log.txt", b"log") if chance.random() < 0.5 else None
        commit(
            archive,
            finish(id_, number, outcome, converter=converter, error=chance.choice(ERRORS), reports=reports,
                   version=chance.choice(VERSIONS), log=log),
        )  # fmt: skip


def facts(archive: Archive) -> list[Facts]:
    found = []
    for row in every_entry(archive):
        runs = archive.reader.attempts(row.n)
        found.append(
            Facts(
                row,
                archive.reader.converter_name(row.converter_id),
                [each.error for each in runs],
                [each.version for each in runs],
                len([each for each in archive.reader.contents(row.n) if each.ordinal > 0]),
                datetime.fromtimestamp(row.captured_ms / 1000, OSLO),
            )
        )
    return found


def lowered(text: bytes) -> bytes:
    """Letters of ASCII in lower case, as SQLite does it."""
    return bytes(text).lower()


def globbed(name: bytes, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name.decode("utf-8", "surrogateescape"), pattern)


def first(value: str) -> datetime:
    """The first moment of a day or time."""
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=OSLO)


PICKS: dict[str, Callable[[Facts, str], bool]] = {
    "id": lambda each, value: each.row.id == value,
    "converter": lambda each, value: each.converter == value,
    "status": lambda each, value: each.row.status == value,
    "from": lambda each, value: each.row.captured_ms >= first(value).timestamp() * 1000,
    "to": lambda each, value: (
        each.local.date().isoformat() <= value
        if len(value) == 10
        else each.row.captured_ms < first(value).timestamp() * 1000 + 1000
    ),
    "date": lambda each, value: each.local.date().isoformat() == value,
    "name": lambda each, value: globbed(each.row.name, value),
    "sha256": lambda each, value: each.row.sha256.startswith(value),
    "version": lambda each, value: value in each.versions,
    "report": lambda each, value: (each.reports > 0) == (value == "yes"),
    "min_size": lambda each, value: each.row.size >= parse_size(value),
    "max_size": lambda each, value: each.row.size <= parse_size(value),
}


def picked(all_facts: list[Facts], terms: list[tuple[str, str]]) -> list[int]:
    """The numbers of the entries for which all terms hold, newest first."""

    def holds(each: Facts, key: str, value: str) -> bool:
        if key == "text":
            looked_at = [each.row.name, *[error.encode() for error in each.errors]]
            return any(lowered(value.encode()) in lowered(text) for text in looked_at)
        one_value = key in ("from", "to", "min_size", "max_size")
        return any(PICKS[key](each, part) for part in ([value] if one_value else value.split(",")))

    return [each.row.n for each in reversed(all_facts) if all(holds(each, *term) for term in terms)]


def found(archive: Archive, words: list[str]) -> list[int]:
    return [row.n for row in archive.reader.search(parse(words, archive.zone))]


def some_values(all_facts: list[Facts]) -> dict[str, list[str]]:
    ids = [each.row.id for each in all_facts[::37]]
    return {
        "id": [*ids, ",".join(ids), "20200101T000000000-abcdef"],
        "converter": ["ict", "log,files", "unknown", "files,unknown"],
        "status": ["failed", "pending,suspended", "success", "superseded,archived", "converting", "skipped"],
        "from": ["2026-10-24", "2026-10-25", "2026-10-25T02:30:00", "2026-10-25T01:00:00Z", "2027-01-01"],
        "to": ["2026-10-24", "2026-10-25", "2026-10-25T01:30:00", "2026-10-26T01:00:00+05:30", "2020-01-01"],
        "date": ["2026-10-25", "2026-10-24,2026-10-26", "2026-10-20"],
        "name": ["*.csv", "unit*", "?nit.csv", "*.xml,it's*", "*å*", "[[]1].csv", "[ux]*", "*%*", "*\n*"],
        "sha256": [all_facts[n].row.sha256[:length] for n, length in ((0, 6), (70, 7), (140, 20), (280, 64))],
        "text": ["timeout", "TIMEOUT", "'a b'", "100%", "_", "måling", ".csv", "nothing"],
        "version": ["1.0", "1.1,2.0", "9"],
        "report": ["yes", "no", "yes,no"],
        "min_size": ["0", "1 kB", "1 KiB", "1001", "1 GB"],
        "max_size": ["0", "1 kB", "1 KiB", "4999", "1 GB"],
    }  # fmt: skip


def test_each_condition_selects_what_python_would(filled: Archive) -> None:
    all_facts = facts(filled)
    for key, values in some_values(all_facts).items():
        for value in values:
            assert found(filled, [f"{key}={value}"]) == picked(all_facts, [(key, value)]), f"{key}={value}"


def test_conditions_together_select_what_python_would(filled: Archive) -> None:
    all_facts, chance = facts(filled), random.Random(3)
    values = some_values(all_facts)
    hits = 0
    for _ in range(400):
        terms = [
            (key, chance.choice(values[key])) for key in chance.choices([*values], k=chance.randrange(1, 4))
        ]
        expected = picked(all_facts, terms)
        hits += 0 < len(expected) < len(all_facts)
        assert found(filled, [f"{key}={value}" for key, value in terms]) == expected, terms
    assert hits > 50


def test_every_status_and_many_days_were_searched(filled: Archive) -> None:
    rows = every_entry(filled)
    assert len({row.status for row in rows}) >= 7
    assert len({row.day for row in rows}) >= 4


def test_a_limit_keeps_the_newest_or_the_oldest(filled: Archive) -> None:
    query = parse("limit=7", OSLO)
    newest = [row.n for row in filled.reader.search(query)]
    oldest = [row.n for row in filled.reader.search(query, newest_first=False)]
    assert newest == list(range(300, 293, -1))
    assert oldest == list(range(1, 8))


def test_no_condition_selects_everything(filled: Archive) -> None:
    assert len(found(filled, [])) == 300


def test_a_glob_can_exclude_letters_as_in_a_shell(filled: Archive) -> None:
    all_facts = facts(filled)
    assert found(filled, ["name=[!u]*"]) == picked(all_facts, [("name", "[!u]*")])


def test_text_finds_letters_of_either_case(filled: Archive) -> None:
    assert found(filled, ["text=MÅLING"]) == found(filled, ["text=måling"])


@pytest.mark.parametrize("words", ["name=\udcff\udcfe.csv", "name=\udcff*", "text=\udcff", "version=\udcff"])
def test_bytes_that_are_not_utf8_are_found_or_refused(filled: Archive, words: str) -> None:
    try:
        matching = found(filled, [words])
    except QueryError:
        return
    if words.startswith("name="):
        assert matching == picked(facts(filled), [("name", words[5:])])


@pytest.mark.parametrize(
    "words",
    ["limit=" + "9" * 30, "min_size=" + "9" * 30, "max_size=1000000000000 TB", "limit=9223372036854775808"],
)
def test_numbers_beyond_63_bits_select_or_are_refused(filled: Archive, words: str) -> None:
    try:
        matching = found(filled, [words])
    except QueryError:
        return
    assert len(matching) == (0 if words.startswith("min_size") else 300)


def test_thousands_of_alternatives_select_or_are_refused(filled: Archive) -> None:
    ids = [row.id for row in every_entry(filled)]
    many = [f"20200101T{n:09d}-abcdef" for n in range(3000)]
    try:
        matching = found(filled, ["id=" + ",".join(ids + many)])
    except QueryError:
        return
    assert len(matching) == 300


def test_a_search_goes_on_while_entries_are_added(tmp_path: Path) -> None:
    clock = Clock()
    with make(tmp_path / "archive", clock) as archive:
        commit(archive, *[capture(b"%d" % n) for n in range(20)])
        search = archive.reader.search(parse("", archive.zone))
        next(search)
        commit(archive, *[capture(b"%d" % n) for n in range(20)])
        assert len(list(search)) == 19
