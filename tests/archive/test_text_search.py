"""What is found through the full-text index is what a look at every name and error would find."""

import fnmatch
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from archive_parts import NOON_MS, Clock, capture, catalog_rows, commit, every_entry, finish, make
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from archivefs.archive import Archive
from archivefs.catalog import candidates, trigrams
from archivefs.catalog.trigrams import BATCH
from archivefs.operations import BeginAttempt, FinishAttempt
from archivefs.query import parse
from archivefs.rebuilding import rebuild
from archivefs.states import Outcome

COUNT = 6 * candidates.FEW + 10
TOML = """\
schema_version = 1
timezone = "UTC"
[converters.ict]
run = "command:true"
[converters.log]
run = "command:true"
"""
LETTERS = [
    *"abBsiIK01-_.()*?[]!:%\"' ", "ss", "fi",
    "\N{LATIN SMALL LETTER SHARP S}", "\N{LATIN CAPITAL LETTER SHARP S}",
    "\N{LATIN SMALL LETTER LONG S}", "\N{KELVIN SIGN}", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}",
    "\N{GREEK SMALL LETTER SIGMA}", "\N{GREEK SMALL LETTER FINAL SIGMA}", "\N{LATIN SMALL LIGATURE FI}",
    "\N{LATIN SMALL LETTER A WITH RING ABOVE}", "a\N{COMBINING RING ABOVE}", "\N{ANGSTROM SIGN}", "\N{BOMB}",
    "\u6f22", "\ufffd", "\ufffe", "\uffff",
]  # fmt: skip
BYTES = [b"\xff", b"\xc3", b"\xa5", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f"]
WORDS = ["unit", "UNIT", "abc", "serial", "12345", "timeout", "Straße", "_line-2.csv"]
VERSIONS = ["1.0", "2.0", "2.1"]


class Row(NamedTuple):
    """What the model knows of an entry."""

    n: int
    day: int
    name: bytes
    status: str
    converter: str
    versions: list[str]
    errors: list[str]


def some_name(chance: random.Random) -> bytes:
    parts = [chance.choice(WORDS + LETTERS).encode() for _ in range(chance.randrange(1, 8))]
    parts += [chance.choice(BYTES) for _ in range(chance.choice([0, 0, 0, 1, 2]))]
    chance.shuffle(parts)
    return b"".join(parts)[:200]


def some_error(chance: random.Random) -> str:
    if chance.random() < 0.4:
        return "timeout after 30 s"
    return "".join(chance.choice([*WORDS, *LETTERS, "\0", "\n", "/"]) for _ in range(chance.randrange(12)))


def fill(archive: Archive, clock: Clock, days: list[int], chance: random.Random) -> None:
    """As many entries as make all ways to search worth while, two in three of them converted."""
    for begin in range(0, COUNT, 100):
        clock.ms = NOON_MS + days[begin * len(days) // COUNT] * 86_400_000 + begin * 1000
        receipts = commit(
            archive,
            *(capture(b"x", some_name(chance), chance.choice(["ict", "log"])) for _ in range(100)),
        )
        chance.shuffle(receipts)
        ids = [receipt.id for receipt in receipts[:66]]
        commit(archive, *(BeginAttempt(id_, "capture") for id_ in ids))
        commit(archive, *(ended(id_, chance) for id_ in ids))


def ended(id_: str, chance: random.Random) -> FinishAttempt:
    version = chance.choice(VERSIONS)
    if chance.random() < 0.3:
        return finish(id_, version=version)
    return finish(id_, 1, Outcome.FAILED, error=some_error(chance), version=version)


@pytest.fixture(scope="module", params=["days in order", "a clock set back"])
def filled(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Archive]:
    clock, chance = Clock(), random.Random(5)
    days = [0, 1, 2, 3, 4] if request.param == "days in order" else [0, 3, 1, 4, 2]
    with make(tmp_path_factory.mktemp("text") / "archive", clock, TOML) as archive:
        fill(archive, clock, days, chance)
        yield archive


_MODELS: dict[Path, list[Row]] = {}


def model(archive: Archive) -> list[Row]:
    if archive.root not in _MODELS:
        reader = archive.reader
        _MODELS[archive.root] = [
            Row(
                row.n, row.day, bytes(row.name), str(row.status), reader.converter_name(row.converter_id),
                [each.version for each in reader.attempts(row.n)],
                [each.error for each in reader.attempts(row.n) if each.error],
            )
            for row in every_entry(archive)
        ]  # fmt: skip
    return _MODELS[archive.root]


def holds(row: Row, key: str, value: str) -> bool:
    if key == "text":
        wanted = value.casefold()
        looked_at = [row.name.decode("utf-8", "replace"), *row.errors]
        return any(wanted in text.casefold() for text in looked_at)
    if key == "name":
        return any(fnmatch.fnmatchcase(os.fsdecode(row.name), part) for part in value.split(","))
    if key == "version":
        return any(part in row.versions for part in value.split(","))
    return value == {"status": row.status, "converter": row.converter}[key]


def expected(archive: Archive, terms: list[tuple[str, str]], *, newest_first: bool) -> list[int]:
    rows = [row for row in model(archive) if all(holds(row, *term) for term in terms)]
    by_day = any(key in ("status", "converter") for key, _ in terms)
    rows.sort(key=lambda row: (row.day if by_day else 0, row.n), reverse=newest_first)
    return [row.n for row in rows]


def found(archive: Archive, terms: list[tuple[str, str]], *, newest_first: bool = True) -> list[int]:
    query = parse([f"{key}={value}" for key, value in terms], archive.zone)
    return [row.n for row in archive.reader.search(query, newest_first=newest_first)]


texts = st.one_of(
    st.sampled_from(WORDS + LETTERS),
    st.lists(st.sampled_from(WORDS + LETTERS), min_size=1, max_size=4).map("".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6),
)
globs = st.lists(
    st.one_of(
        st.sampled_from(WORDS + LETTERS),
        st.sampled_from(["*", "*", "?", "[ab]", "[!a]", "[]a]", "[", "[!", "]"]),
        st.sampled_from(BYTES).map(os.fsdecode),
    ),
    min_size=1, max_size=6,
).map(lambda parts: os.fsdecode(os.fsencode("".join(parts))))  # fmt: skip
cuts = st.tuples(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 40), st.booleans())


@st.composite
def terms_of(draw: st.DrawFn, rows: list[Row]) -> list[tuple[str, str]]:
    """Up to three conditions, most of them on a part of what some entry has."""
    number, start, length, in_name = draw(cuts)
    row = rows[number % len(rows)]
    terms = []
    if in_name:
        part = os.fsdecode(row.name)[start : start + length]
        before, behind = draw(st.sampled_from([("*", "*"), ("", "*"), ("*", ""), ("?", "*"), ("", "")]))
        pattern = draw(st.one_of(st.just(before + part + behind), globs))
        terms.append(("name", pattern))
    else:
        shown = [row.name.decode("utf-8", "replace"), *row.errors]
        part = shown[number % len(shown)][start : start + length].replace("\0", "")
        terms.append(("text", draw(st.one_of(st.just(part), texts))))
    if draw(st.booleans()):
        extra = ("status", "failed"), ("converter", "log"), ("version", "2.0"), ("version", "9")
        terms.append(draw(st.sampled_from(extra)))
    return [(key, value) for key, value in terms if value]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), newest_first=st.booleans())
def test_any_name_or_text_finds_what_a_look_at_all_finds(
    filled: Archive, data: st.DataObject, *, newest_first: bool
) -> None:
    terms = data.draw(terms_of(model(filled)))
    assert found(filled, terms, newest_first=newest_first) == expected(
        filled, terms, newest_first=newest_first
    )


@pytest.mark.parametrize(
    "terms",
    [
        [("text", "timeout")], [("text", "TIMEOUT")], [("text", "strasse")], [("text", "STRASSE")],
        [("text", "\ufffd\ufffd\ufffd")], [("text", "\ufffe\uffff\ufffd")], [("text", '"""')],
        [("name", "*unit*")], [("name", "*unit*,*UNIT*"), ("status", "failed")], [("name", "*abc*,?")],
        [("name", "[[]*"), ("version", "2.0")], [("name", "nobody-has-this")], [("version", "1.0,2.1")],
        [("text", "timeout"), ("version", "2.1"), ("status", "failed"), ("converter", "log")],
        [("text", "timeout after 30 s")], [("text", "x" * 5000)], [("version", "1.0"), ("status", "success")],
    ],
)  # fmt: skip
@pytest.mark.parametrize("newest_first", [True, False])
def test_what_many_have_and_nobody_has(
    filled: Archive, terms: list[tuple[str, str]], *, newest_first: bool
) -> None:
    assert found(filled, terms, newest_first=newest_first) == expected(
        filled, terms, newest_first=newest_first
    )


@pytest.mark.parametrize("terms", [
    [], [("text", "timeout")], [("status", "failed")], [("name", "*unit*"), ("converter", "log")],
    [("version", "2.0"), ("status", "failed")], [("name", "*i*")],
])  # fmt: skip
@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_one_after_the_other_are_the_whole(
    filled: Archive, terms: list[tuple[str, str]], *, newest_first: bool
) -> None:
    whole = found(filled, terms, newest_first=newest_first)
    query = parse([f"{key}={value}" for key, value in [*terms, ("limit", "97")]], filled.zone)
    pages: list[int] = []
    behind: tuple[int, int] | None = None
    while page := list(filled.reader.search(query, newest_first=newest_first, behind=behind)):
        pages += [row.n for row in page]
        behind = page[-1].day, page[-1].n
    assert pages == whole
    assert len(whole) > 97


def test_hundreds_of_names_in_one_query(filled: Archive) -> None:
    rows = model(filled)
    value = ",".join(f"absent-{number}*" for number in range(499)) + ",*unit*"
    assert found(filled, [("name", value)]) == [
        row.n for row in reversed(rows) if fnmatch.fnmatchcase(os.fsdecode(row.name), "*unit*")
    ]


def test_most_names_are_in_the_index_and_the_last_are_found_without(filled: Archive) -> None:
    rows = model(filled)
    indexed = sum(count for _, count, *_ in trigrams.contents(filled.reader.db, trigrams.NAMES))
    assert indexed > len(rows)
    assert len(rows) % BATCH > 0
    assert found(filled, [("name", os.fsdecode(rows[-1].name).replace("[", "[[]"))])[0] == rows[-1].n


@settings(max_examples=300)
@given(pattern=globs, name=globs)
@example("[!]x]abc", "[!]x]abc")
@example("[]]abcd[", "]abcd[")
def test_what_stands_literally_in_a_glob_stands_in_each_name_it_fits(pattern: str, name: str) -> None:
    """Of names made of the pattern's own parts many fit."""
    for each in (name, pattern, pattern.replace("*", name).replace("?", "a")):
        if fnmatch.fnmatchcase(each, pattern):
            folded = trigrams.fold(os.fsencode(each))
            assert all(run in folded for run in trigrams.runs_of_glob(os.fsencode(pattern)))


def test_a_rebuild_makes_the_same_index_whatever_the_commits_were(tmp_path: Path) -> None:
    clock, chance = Clock(), random.Random(9)
    with make(tmp_path / "archive", clock, TOML) as archive:
        while (archive.reader.db.execute("SELECT count(*) FROM errors").get or 0) < BATCH + 5:
            clock.turn(1)
            group = [capture(b"x", some_name(chance), "ict") for _ in range(chance.choice([1, 2, 30]))]
            ids = [receipt.id for receipt in commit(archive, *group)]
            commit(archive, *(BeginAttempt(id_, "capture") for id_ in ids))
            error = some_error(chance) or "x"
            commit(archive, *(finish(id_, 1, Outcome.FAILED, error=error) for id_ in ids))
    before = catalog_rows(tmp_path / "archive")
    assert len(before["errors"]) > BATCH
    assert len(before["error_trigrams"]) > 5
    rebuild(tmp_path / "archive")
    assert catalog_rows(tmp_path / "archive") == before
