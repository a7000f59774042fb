"""Names of directories: unique among the entries of a converter's day, whatever names come at one moment."""

import random
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from archive_parts import Clock, capture, catalog_rows, commit, every_entry, make

from archivefs import names
from archivefs.archive import Archive
from archivefs.rebuilding import rebuild

UTC = ZoneInfo("UTC")
SHORT = [
    b"a",
    b"a~2",
    b"a~2~2",
    b"a~3",
    b"a~10",
    b"a.csv",
    b"a~2.csv",
    b"a~2~2.csv",
    b".csv",
    b".csv~2",
    b"~2",
    b"a.",
]
LONG = [
    b"x" * 255,
    b"x" * 254,
    b"x" * 241,
    b"x" * 240,
    b"x" * 238 + b"~2",
    b"x" * 239 + b"~2",
    b"x" * 200,
    b"x" * 201,
]
TAILED = [
    b"y" * 251 + b".csv",
    b"y" * 237 + b".csv",
    b"y" * 235 + b"~2.csv",
    b"y" * 236 + b"~2.csv",
    b"z" * 100 + b"." + b"s" * 154,
]
WIDE = ["ß".encode() * 127, "ß".encode() * 120, "ß".encode() * 119 + b"~2", "ß".encode() * 120 + b"~2"]


@pytest.mark.parametrize("pool", [SHORT, LONG, TAILED, WIDE, SHORT + LONG + TAILED + WIDE])
@pytest.mark.parametrize("seed", range(5))
def test_entries_of_one_moment_and_content_have_names_of_their_own(
    root: Path, clock: Clock, pool: list[bytes], seed: int
) -> None:
    archive, chance = make(root, clock), random.Random(seed)
    given: dict[tuple[int, int], set[bytes]] = {}
    for _ in range(12):
        group = [
            capture(b"", chance.choice(pool), chance.choice(["files", "log"]))
            for _ in range(chance.randrange(1, 12))
        ]
        commit(archive, *group)
        clock.turn(chance.choice([0, 0, 0.3, 1]))
    for row in every_entry(archive):
        label = row.label(UTC)
        taken = given.setdefault((row.converter_id, row.day), set())
        assert label not in taken
        assert len(label) <= names.NAME_MAX
        clock = names.clock(datetime.fromtimestamp(row.captured_ms / 1000, UTC))
        smaller = [names.entry_label(clock, row.hex, row.name, number) for number in range(1, row.twin)]
        assert taken.issuperset(smaller)
        taken.add(label)
    archive.close()
    rows = catalog_rows(root)
    rebuild(root)
    assert catalog_rows(root) == rows


def test_a_name_that_is_free_in_sources_may_be_taken_among_the_directories(
    archive: Archive, clock: Clock
) -> None:
    for name in (b"a", b"a~2", b"a~4"):
        commit(archive, capture(b"", name))
        clock.turn(1)
    for name in (b"a", b"a", b"a", b"a~3"):
        commit(archive, capture(b"", name))
    *_, third, last = every_entry(archive)
    assert (third.label(UTC)[14:], last.flat_name, last.label(UTC)[14:]) == (b"a~3", b"a~3", b"a~3~2")
