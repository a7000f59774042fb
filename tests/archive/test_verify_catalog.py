"""Whatever is wrong in the catalog is found and mended from the journal, and costs no byte of content."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from archive_parts import Clock, capture, catalog_rows, commit, make
from test_verify_parts import (
    archivefs,
    content_of,
    day_file,
    everything_is_as_before,
    overwrite,
    read_lines,
    rows_but_meta,
    sample,
    sql,
    verify,
)

from archivefs.archive import Archive
from archivefs.catalog.catalog import SCHEMA_VERSION, Catalog
from archivefs.catalog.compare import Snapshot
from archivefs.catalog.reader import Reader
from archivefs.errors import OtherSchemaError
from archivefs.events import Repaired, decode
from archivefs.rebuilding import CATALOG
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope, verify_folder

Damage = Callable[[Path], None]
SEGMENT = "2026/02/14/ict.sources.zst"
OF_SEGMENT = f"segment_id = (SELECT segment_id FROM segments WHERE name = '{SEGMENT}')"


def rows(*statements: str) -> Damage:
    return lambda root: sql(root, *statements)


ROWS: dict[str, Damage] = {
    "meta, a wrong value": rows("UPDATE meta SET value = 'Europe/Oslo' WHERE key = 'timezone'"),
    "meta, a missing row": rows("DELETE FROM meta WHERE key = 'timezone'"),
    "meta, a row too much": rows("INSERT INTO meta VALUES ('verified_at', '2026-02-13T00:00:00Z')"),
    "converters, a wrong name": rows("UPDATE converters SET name = 'other' WHERE name = 'ict'"),
    "converters, a missing row": rows("DELETE FROM converters WHERE name = 'files'"),
    "converters, a row too much": rows("INSERT INTO converters VALUES (99, 'other')"),
    "dictionaries, a wrong name": rows("UPDATE dictionaries SET name = 'ict-2'"),
    "dictionaries, a wrong hash": rows("UPDATE dictionaries SET sha256 = replace(sha256, '1', '2')"),
    "dictionaries, a missing row": rows("DELETE FROM dictionaries"),
    "segments, repacked by nobody": rows(f"UPDATE segments SET packed = end_bytes WHERE {OF_SEGMENT}"),
    "segments, one that is gone": rows(f"UPDATE segments SET gone = 1 WHERE {OF_SEGMENT}"),
    "segments, a wrong name": rows(
        f"UPDATE segments SET name = replace(name, 'ict', 'icx') WHERE {OF_SEGMENT}"
    ),
    "segments, a name that is none": rows(f"UPDATE segments SET name = 'x' || name WHERE {OF_SEGMENT}"),
    "segments, an end too low": rows(f"UPDATE segments SET end_bytes = end_bytes - 1 WHERE {OF_SEGMENT}"),
    "segments, an end too high": rows(f"UPDATE segments SET end_bytes = end_bytes + 1 WHERE {OF_SEGMENT}"),
    "segments, a missing row": rows(f"DELETE FROM segments WHERE {OF_SEGMENT}"),
    "segments, a row too much": rows("INSERT INTO segments VALUES (99, '2026/02/14/x.sources.zst', 0, 0, 0)"),
    "entries, a wrong status": rows("UPDATE entries SET status = 3 WHERE n = 1"),
    "entries, a wrong name": rows("UPDATE entries SET name = x'ff' WHERE n = 2"),
    "entries, a wrong name in sources/": rows("UPDATE entries SET flat = x'ff' WHERE n = 2"),
    "entries, a wrong time": rows("UPDATE entries SET captured_ms = captured_ms + 1 WHERE n = 3"),
    "entries, a wrong day": rows("UPDATE entries SET day = 20600 WHERE n = 4"),
    "entries, a wrong size": rows("UPDATE entries SET size = size + 1 WHERE n = 5"),
    "entries, a wrong SHA-256": rows(
        "UPDATE entries SET digest = unhex(replace(sha256, '1', '2')) WHERE n = 6"
    ),
    "entries, a wrong offset": rows("UPDATE entries SET offset = offset + 1 WHERE n = 2"),
    "entries, overlapping records": rows("UPDATE entries SET offset = offset - 10 WHERE n = 2"),
    "entries, an offset behind the end": rows("UPDATE entries SET offset = 99999999 WHERE n = 2"),
    "entries, a wrong length": rows("UPDATE entries SET length = length - 1 WHERE n = 3"),
    "entries, another segment": rows("UPDATE entries SET segment_id = 3 WHERE n = 1"),
    "entries, two records swapped": rows(
        "CREATE TEMP TABLE t AS SELECT n, offset FROM entries WHERE n IN (1, 2)",
        "UPDATE entries SET offset = (SELECT offset FROM t WHERE t.n = 3 - entries.n) WHERE n IN (1, 2)",
    ),
    "entries, a missing row": rows("DELETE FROM entries WHERE n = 2"),
    "entries, a row too much": rows(
        "INSERT INTO entries SELECT NULL, '20260213T120000999-abcdef', converter_id, day, status, name,"
        " folder, twin, size, mtime_ns, mode, uid, gid, captured_ms, x'7a7a', digest, reason,"
        " xattrs, superseded_by, due_ms, attempts, changed_seq, segment_id, offset, header, stored, length,"
        " confidence, members, reports"
        " FROM entries WHERE n = 1"
    ),
    "entries, all rows gone": rows("DELETE FROM entries"),
    "attempts, a wrong error": rows("UPDATE attempts SET error = 'none' WHERE outcome = 'failed'"),
    "attempts, a missing row": rows("DELETE FROM attempts WHERE n = 1"),
    "attempts, a row too much": rows(
        "INSERT INTO attempts VALUES (1, 9, '', '', 0, 0, '', '{}', '', '[]', '', 0, 1)"
    ),
    "errors, a missing row": rows("DELETE FROM errors"),
    "errors, a row too much": rows("INSERT INTO errors VALUES (99, 1, 1)"),
    "the index of names, a row too much": rows(
        "INSERT INTO name_trigrams (rowid, folded) VALUES (1, 'abcd')"
    ),
    "the index of errors, a row too much": rows(
        "INSERT INTO error_trigrams (rowid, folded) VALUES (1, 'abc')"
    ),
    "contents, a wrong offset": rows("UPDATE contents SET offset = offset + 1 WHERE n = 1 AND ordinal = 1"),
    "contents, a wrong SHA-256": rows("UPDATE contents SET digest = x'00' WHERE n = 1 AND ordinal = 0"),
    "contents, a missing row": rows("DELETE FROM contents WHERE n = 1 AND ordinal = 0"),
    "contents, a row too much": rows(
        "INSERT INTO contents VALUES (1, 7, 0, 'log.txt', 1, 0, 0, 0, 0, 0, x'00')"
    ),
    "totals, wrong entries": rows("UPDATE totals SET entries = entries + 1 WHERE status = 2"),
    "totals, a wrong size": rows("UPDATE totals SET size = 0 WHERE status = 7"),
    "totals, reports of nobody": rows("UPDATE totals SET reported = reported + 1 WHERE status = 7"),
    "totals, a missing row": rows("DELETE FROM totals WHERE status = 7 AND day = 20497"),
    "totals, a row too much": rows("INSERT INTO totals VALUES (1, 20000, 4, 1, 1, 1, 0)"),
    "more rows than are told one by one": rows("UPDATE entries SET gid = 77"),
}
NO_PLACE: dict[str, Damage] = {
    "a line behind": rows("UPDATE meta SET value = value - 1 WHERE key = 'applied_seq'"),
    "no last line": rows("DELETE FROM meta WHERE key = 'applied_seq'"),
}
ANOTHER_PLACE: Mapping[str, Damage] = {
    "a line ahead": rows("UPDATE meta SET value = value + 1 WHERE key = 'applied_seq'"),
    "another last line": rows("UPDATE meta SET value = '00' WHERE key = 'applied_sha256'"),
    "another schema": rows("UPDATE meta SET value = 99 WHERE key = 'schema'"),
}
"""The catalog says that it is of another journal, or of another version: a person has to decide."""


def _page(number: int) -> Damage:
    return lambda root: overwrite(root / CATALOG, 4096 * number, b"\xa5" * 4096)


def _truncated(root: Path) -> None:
    data = (root / CATALOG).read_bytes()
    (root / CATALOG).write_bytes(data[: len(data) // 2])


def _replaced(data: bytes) -> Damage:
    def damage(root: Path) -> None:
        (root / CATALOG).write_bytes(data)

    return damage


def _gone(root: Path) -> None:
    (root / CATALOG).unlink()


FILE: dict[str, Damage] = {
    "its header is overwritten": _page(0),
    **{f"page {number} is overwritten": _page(number) for number in (2, 4, 6, 8, 10, 12)},
    "it is cut in half": _truncated,
    "it is something else": _replaced(b"no database at all\n" * 500),
    "it is empty": _replaced(b""),
    "it is gone": _gone,
}
LOGGED = ["the catalog is damaged", "the segment content/"]


def named(breaks: Mapping[str, Damage]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("damage", breaks.values(), ids=breaks.keys())


@named(ROWS)
def test_a_wrong_row_is_found_and_mended_from_the_journal(
    damage: Damage, tmp_path: Path, expected_errors: list[str]
) -> None:
    expected_errors += LOGGED
    root = sample(tmp_path / "archive")
    content, catalog = content_of(root), rows_but_meta(root)
    damage(root)
    found = verify(root)
    assert found.code in (51, 52), found
    assert "catalog-differs" in found.checks
    differs = next(finding for finding in found.findings if finding["check"] == "catalog-differs")
    assert (differs["severity"], differs["repair"]) == ("error", "catalog")
    assert content_of(root) == content, "looking must not change what it looks at"
    mended = verify(root, "--repair")
    assert mended.code == 0, mended
    assert mended.checks <= {"quarantine"}
    assert "repair: make catalog.sqlite again from the journal\n" in mended.err
    everything_is_as_before(root, content, catalog)


@named({key: damage for key, damage in ROWS.items() if key.startswith(("segments", "totals"))})
def test_a_wrong_row_is_mended_by_a_repair_without_a_look_before(
    damage: Damage, tmp_path: Path, expected_errors: list[str]
) -> None:
    expected_errors += LOGGED
    root = sample(tmp_path / "archive")
    content, catalog = content_of(root), rows_but_meta(root)
    damage(root)
    assert verify(root, "--repair").code == 0
    everything_is_as_before(root, content, catalog)


@named(FILE | NO_PLACE)
def test_a_damaged_catalog_never_stops_verify_from_mending_it(
    damage: Damage, tmp_path: Path, expected_errors: list[str]
) -> None:
    expected_errors += LOGGED
    root = sample(tmp_path / "archive")
    content, catalog = content_of(root), rows_but_meta(root)
    damage(root)
    found = verify(root)
    assert found.code in (0, 51), found
    assert content_of(root) == content
    mended = verify(root, "--repair")
    assert mended.code == 0, mended
    everything_is_as_before(root, content, catalog)


@named(ANOTHER_PLACE)
def test_a_catalog_of_another_journal_or_version_is_found_and_rebuild_makes_it_right(
    damage: Damage, tmp_path: Path
) -> None:
    root = sample(tmp_path / "archive")
    content, catalog = content_of(root), rows_but_meta(root)
    damage(root)
    found = verify(root)
    assert found.code in (51, 52), found
    assert "rebuild" in found.out or "--repair" in found.out
    assert archivefs("rebuild", "--archive", root).code == 0
    assert verify(root).findings == []
    everything_is_as_before(root, content, catalog)


INDEX: dict[str, Damage] = {
    "it is empty": rows("INSERT INTO name_trigrams (name_trigrams) VALUES ('delete-all')"),
    "a row is found twice": rows("INSERT INTO name_trigrams (rowid, folded) VALUES (300, 'unit-300')"),
    "its pages are gone": rows("DELETE FROM name_trigrams_data WHERE id > 10"),
    "its pages are something else": rows("UPDATE name_trigrams_data SET block = x'a5a5a5' WHERE id > 10"),
}


@named(INDEX)
def test_a_wrong_full_text_index_is_found_and_made_again(
    damage: Damage, tmp_path: Path, expected_errors: list[str]
) -> None:
    expected_errors += LOGGED
    root = tmp_path / "archive"
    with make(root, Clock()) as archive:
        commit(archive, *(capture(b"x", b"unit-%d" % number) for number in range(300)))
    content, catalog = content_of(root), rows_but_meta(root)
    assert dict(row[:2] for row in catalog["name_trigrams"])["nit"] == 256
    assert verify(root).findings == []
    damage(root)
    found = verify(root)
    assert found.code in (51, 52), found
    assert found.checks <= {"catalog-differs", "catalog-damaged"}
    mended = verify(root, "--repair")
    assert mended.code == 0, mended
    everything_is_as_before(root, content, catalog)


def test_only_the_wrong_tables_are_named_and_only_some_rows_of_many(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    count = len(rows_but_meta(root)["entries"])
    sql(root, "UPDATE entries SET gid = 77", "UPDATE totals SET size = 0 WHERE status = 2 AND day = 20497")
    differs = [finding for finding in verify(root).findings if finding["check"] == "catalog-differs"]
    tables = [finding["where"] for finding in differs]
    assert set(tables) == {"catalog.sqlite, table entries", "catalog.sqlite, table totals"}
    assert any(f"and {count - 10} rows more" in finding["what"] for finding in differs)
    assert tables.count("catalog.sqlite, table entries") == 11


def test_plan_and_former_state_are_kept_and_the_repair_is_journaled(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    sql(root, "UPDATE entries SET gid = 77 WHERE n = 1")
    wrong = rows_but_meta(root)
    ran = verify(root, "--repair")
    (backup,) = (root / "quarantine").iterdir()
    assert f"repair: done; what was there before is in {backup}" in ran.err
    (finding,) = json.loads((backup / "plan.json").read_bytes())
    assert finding["check"] == "catalog-differs"
    assert "77" in finding["what"]
    (backup / "plan.json").rename(tmp_path / "plan.json")
    (backup / "checkpoint.json").rename(tmp_path / "checkpoint.json")
    assert rows_but_meta(backup) == wrong
    event = decode(read_lines(day_file_of_now(root))[-1])
    assert isinstance(event, Repaired)
    assert event.what == ["make catalog.sqlite again from the journal"]
    assert event.backup == backup.name


def day_file_of_now(root: Path) -> Path:
    """The newest file of the journal, behind those of the sample."""
    assert day_file(root, 0).exists()
    return max((root / "journal").glob("*/*/*.jsonl"))


def test_repair_says_what_it_does_before_it_does_it(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    sql(root, "UPDATE entries SET gid = 77 WHERE n = 1")
    ran = verify(root, "--repair")
    said = ran.err.splitlines()
    assert said[0] == "repair: make catalog.sqlite again from the journal"
    assert said[1].startswith("repair: done; ")
    assert json.loads(ran.out)["findings"][0]["check"] == "quarantine"


def test_two_repairs_within_a_second_keep_both_former_states(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    for gid in (77, 78, 79):
        sql(root, f"UPDATE entries SET gid = {gid} WHERE n = 1")
        assert verify(root, "--repair").code == 0
    plans = [file.read_text() for file in (root / "quarantine").rglob("plan.json")]
    assert len(plans) == 3


def test_every_record_is_read_though_its_converter_is_missing_in_the_catalog(tmp_path: Path) -> None:
    root = sample(tmp_path / "archive")
    every = json.loads(verify(root).out)["records"]
    sql(root, "DELETE FROM converters WHERE name = 'ict'")
    assert json.loads(verify(root).out)["records"] == every


def test_a_catalog_of_another_schema_is_made_again(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    before = catalog_rows(root)
    sql(root, "UPDATE meta SET value = 99 WHERE key = 'schema'")
    words = f"schema 99, known here is {SCHEMA_VERSION}; archivefs rebuild makes it"
    for look in (Catalog, Reader.open, Snapshot):
        with pytest.raises(OtherSchemaError, match=words):
            look(root / CATALOG)
    with pytest.raises(OtherSchemaError, match=words):
        Archive.open_as_it_is(root)
    (finding,) = verify_folder(root, Scope()).findings
    assert (finding.check, finding.severity) == ("catalog-damaged", Severity.ERROR)
    assert words in finding.what
    Archive(root, clock=clock).close()
    assert catalog_rows(root) == before
    assert not (root / "catalog.sqlite.damaged").exists(), "it was whole"
