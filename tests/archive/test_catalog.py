"""The catalog is an index of the journal: however it came to be, its rows are the same."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from archive_parts import (
    DAY,
    HOUR,
    Clock,
    capture,
    captured,
    catalog_rows,
    commit,
    every_entry,
    everything_is_readable,
    finish,
    journal_lines,
    make,
    nothing_is_left_over,
)

from archivefs.archive import Archive
from archivefs.catalog.catalog import Catalog, day_number, day_text
from archivefs.catalog.connection import connect
from archivefs.errors import JournalDamagedError, LockedError
from archivefs.events import Verified
from archivefs.operations import Adopt, BeginAttempt, Drop, Note, Report, Retry, Route, Touch
from archivefs.rebuilding import CATALOG, rebuild
from archivefs.routing import ROUTING_REASON, UNROUTED
from archivefs.states import Outcome, Status
from archivefs.statuses import RETRIABLE
from archivefs.transaction import Operation

NAMES = [
    b"unit.csv",
    b"unit.csv",
    b"UNIT.csv",
    b"a\xff.csv",
    b"two\nlines",
    b"x" * 255,
    b".hidden",
    b"x.tar.gz",
]
FOLDERS = [b"", b"", b"shift 1", b"a/b/\xfe"]
LEAPS = [0, 0, 0, 0.001, 0.3, 60, HOUR, -HOUR, DAY]


class Mix:
    """Random operations on an archive, the same for each seed."""

    def __init__(self, archive: Archive, clock: Clock, seed: int) -> None:
        self.archive = archive
        self.clock = clock
        self.chance = random.Random(seed)

    def run(self, groups: int) -> None:
        """That many groups, the days sealed now and then."""
        for _ in range(groups):
            self.clock.turn(self.chance.choice(LEAPS))
            outcomes, _ = self.archive.commit([self.operation() for _ in range(self.chance.randrange(1, 8))])
            for outcome in outcomes:
                assert not isinstance(outcome, Exception) or " is not " in str(outcome)
        self.archive.keep_house()

    def operation(self) -> Operation[Any]:
        """One of all kinds, mostly captures."""
        kind = self.chance.random()
        if kind < 0.5:
            return self.capture()
        known = self.archive.reader.all_after(max(0, len(self.some_ids()) - 10), 10)
        if not known:
            return self.capture()
        row = self.chance.choice(known)
        if kind < 0.6:
            return Touch(row.id, self.chance.randrange(10**18), 0o600, 5, 6)
        if row.status is Status.CONVERTING:
            return self.finish(row.id, row.attempts)
        if row.status is Status.QUARANTINED:
            return self.chance.choice([Adopt, Drop])(row.id)
        if row.reason == ROUTING_REASON:
            return Route(row.id, self.chance.choice(["", "ict", "log", "files"]), 0.75, {"ict": "ø"})
        if kind > 0.9 and row.status in RETRIABLE:
            return Retry(row.id)
        if kind > 0.98:
            return Note(Verified(scope="all", records=1, bytes=2, findings={"warning": 1}))
        return BeginAttempt(row.id, self.chance.choice(["capture", "retry", "replay"]))

    def some_ids(self) -> list[str]:
        return [row.id for row in every_entry(self.archive)]

    def capture(self) -> Operation[Any]:
        ids = self.some_ids()
        return capture(
            b"%d;" % self.chance.randrange(5) * self.chance.choice([0, 1, 1000]),
            self.chance.choice(NAMES),
            self.chance.choice(["ict", "log", "files", UNROUTED]),
            mtime_ns=self.chance.randrange(-(10**18), 10**18),
            folder=self.chance.choice(FOLDERS),
            supersedes=[self.chance.choice(ids[-5:])] if ids and self.chance.random() < 0.3 else [],
            xattrs={"user.\u00f8": "AP8="} if self.chance.random() < 0.2 else {},
            quarantine="by chance" if self.chance.random() < 0.1 else "",
        )

    def finish(self, id_: str, attempt: int) -> Operation[Any]:
        outcome = self.chance.choice([*Outcome])
        waits = outcome in (Outcome.SUSPENDED, Outcome.INTERRUPTED, Outcome.TRANSIENT)
        return finish(
            id_, attempt, outcome,
            converter=self.chance.choice(["ict", "log"]), version=self.chance.choice(["", "1.0"]),
            arguments={"delimiter": ";", "limits": [1, 2.5, None, 1e300], "deep": {"ø\ufffd": "\n"}},
            error="" if outcome is Outcome.SUCCESS else "line 1\nline 2",
            warnings=["w"] * self.chance.randrange(3),
            due_ms=self.clock.ms + 1000 if waits else 0,
            log=Report("log.txt", b"log") if self.chance.random() < 0.5 else None,
            reports=[Report(f"report-{n}.json", b"{}") for n in range(self.chance.randrange(3))],
        )  # fmt: skip


@pytest.fixture(params=[1, 2, 3])
def mixed(root: Path, clock: Clock, request: pytest.FixtureRequest) -> Path:
    """An archive after 60 random groups, closed; no attempt runs."""
    with make(root, clock) as archive:
        Mix(archive, clock, request.param).run(60)
    reopen(root, clock)
    return root


def reopen(root: Path, clock: Clock) -> None:
    Archive(root, clock=clock).close()


def test_the_mix_has_something_of_everything(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        for seed in (1, 2, 3):
            Mix(archive, clock, seed).run(60)
        rows = every_entry(archive)
        outcomes = {each.outcome for row in rows for each in archive.reader.attempts(row.n)}
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    assert len(rows) > 200
    assert len({row.status for row in rows}) >= 8
    assert {*map(str, Outcome), ""} >= outcomes >= {*map(str, Outcome)}
    assert max(row.twin for row in rows) > 1
    assert any(b"~3" in row.flat_name for row in rows)
    assert len({row.day for row in rows}) > 3


def test_a_rebuilt_catalog_is_equal_row_for_row(mixed: Path) -> None:
    before = catalog_rows(mixed)
    count = rebuild(mixed)
    assert sorted(file.name for file in mixed.glob("catalog*")) == [CATALOG]
    assert catalog_rows(mixed) == before
    assert ("applied_seq", count) in before["meta"]


def test_a_deleted_catalog_comes_back_equal(mixed: Path, clock: Clock) -> None:
    before = catalog_rows(mixed)
    (mixed / CATALOG).unlink()
    reopen(mixed, clock)
    assert catalog_rows(mixed) == before


def test_an_emptied_catalog_comes_back_equal(mixed: Path, clock: Clock) -> None:
    before = catalog_rows(mixed)
    (mixed / CATALOG).write_bytes(b"")
    reopen(mixed, clock)
    assert catalog_rows(mixed) == before


@pytest.mark.parametrize("batch", [1, 7, 100_000])
def test_an_older_catalog_catches_up(
    root: Path, clock: Clock, tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archivefs.rebuilding.APPLY_BATCH", batch)
    with make(root, clock) as archive:
        Mix(archive, clock, 5).run(30)
    shutil.copy(root / CATALOG, tmp_path / "older")
    with Archive(root, clock=clock) as archive:
        Mix(archive, clock, 6).run(30)
    reopen(root, clock)
    after = catalog_rows(root)
    shutil.copy(tmp_path / "older", root / CATALOG)
    reopen(root, clock)
    assert catalog_rows(root) == after


def test_totals_are_the_sums_of_the_entries(mixed: Path) -> None:
    db = connect(mixed / CATALOG, readonly=True)
    try:
        expected = list(
            db.execute(
                "SELECT converter_id, day, status, count(*), sum(size), sum(length),"
                " sum(EXISTS (SELECT 1 FROM contents c WHERE c.n = e.n AND ordinal > 0)) FROM entries e"
                " GROUP BY converter_id, day, status ORDER BY 1, 2, 3"
            )
        )
        assert list(db.execute("SELECT * FROM totals ORDER BY 1, 2, 3")) == expected
        counted = "SELECT count(*) FROM contents c WHERE c.n = e.n AND ordinal > 0"
        assert db.execute(f"SELECT count(*) FROM entries e WHERE reports != ({counted})").get == 0
        assert db.execute("PRAGMA integrity_check").get == "ok"
        assert db.execute("PRAGMA foreign_key_check").get is None
    finally:
        db.close()


def test_every_page_and_group_of_the_tree_is_found_through_the_reader(mixed: Path, clock: Clock) -> None:
    with Archive(mixed, clock=clock) as archive:
        reader, rows = archive.reader, every_entry(archive)
        found = []
        for total in reader.totals():
            converter_id = reader.converter_id(total.converter)
            assert converter_id is not None
            number = [*Status].index(total.status)
            fixed = {"converter_id": (converter_id, converter_id), "status": (number, number)}
            page = []
            for day in reader.groups("day", fixed):
                after = 0
                while more := reader.label_page(converter_id, day, total.status, after, 3):
                    after = more[-1][0]
                    page += [row for row in rows if row.n in {number for number, *_ in more}]
                bounds = {"converter_id": (converter_id, converter_id), "day": (day, day)}
                assert reader.any_entries(bounds)
                assert number in reader.groups("status", bounds)
            assert (len(page), sum(row.size for row in page)) == (total.entries, total.size)
            found += page
        assert sorted(found) == rows
        assert reader.groups("day", {}) == sorted({row.day for row in rows})
        assert not reader.any_entries({"day": (1, 2)})
        for status in Status:
            assert reader.with_status(status) == [row for row in rows if row.status is status]


def test_a_rebuild_waits_for_no_writer(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"1")
        with pytest.raises(LockedError):
            rebuild(root)
        captured(archive, b"2")
        assert len(every_entry(archive)) == 2


def test_a_rebuild_from_a_damaged_journal_leaves_the_old_catalog(mixed: Path) -> None:
    before = catalog_rows(mixed)
    file = max((mixed / "journal").glob("*/*/*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b'"seq":', b'"seq" :', 1))
    with pytest.raises(JournalDamagedError):
        rebuild(mixed)
    assert catalog_rows(mixed) == before
    file.write_bytes(file.read_bytes().replace(b'"seq" :', b'"seq":', 1))
    rebuild(mixed)
    assert catalog_rows(mixed) == before


def cut_last_lines(root: Path, count: int) -> None:
    file = max((root / "journal").glob("*/*/*.jsonl"))
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-count]))


@pytest.mark.parametrize("without", [[], ["journal/checkpoint.json"], [CATALOG]])
def test_a_journal_that_was_cut_is_noticed_by_whatever_remembers_it(
    root: Path, clock: Clock, without: list[str]
) -> None:
    with make(root, clock) as archive:
        for content in (b"1", b"2", b"3"):
            captured(archive, content)
    cut_last_lines(root, 1)
    for name in without:
        (root / name).unlink()
    with pytest.raises(JournalDamagedError, match="the journal ends at line 3"):
        Archive(root, clock=clock)
    with pytest.raises(JournalDamagedError):
        Archive(root, clock=clock)


def test_a_cut_journal_can_be_accepted_with_a_rebuild(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        receipts = [captured(archive, content) for content in (b"1", b"2", b"3")]
    cut_last_lines(root, 1)
    rebuild(root, clock=clock)
    with Archive(root, clock=clock) as archive:
        assert [row.id for row in every_entry(archive)] == [receipt.id for receipt in receipts]
        everything_is_readable(archive)


def test_a_changed_journal_is_noticed_by_the_catalog(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"1")
    file = max((root / "journal").glob("*/*/*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b'"mode":420', b'"mode":511'))
    with pytest.raises(JournalDamagedError):
        Archive(root, clock=clock)


def test_a_first_line_that_was_removed_is_noticed_by_a_rebuild(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"1")
    file = max((root / "journal").glob("*/*/*.jsonl"))
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(JournalDamagedError):
        rebuild(root)


def altered(change: Callable[[bytes], bytes], root: Path) -> None:
    file = root / CATALOG
    file.write_bytes(change(file.read_bytes()))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "no header": lambda data: b"\0" * 100 + data[100:],
    "only text": lambda data: b"this is no database" * 500,
    "all zeros": lambda data: b"\0" * len(data),
    "half of it": lambda data: data[: len(data) // 2],
    "first page only": lambda data: data[:4096],
    "zeros behind the first page": lambda data: data[:4096] + b"\0" * (len(data) - 4096),
    "zeros in the second half": lambda data: data[: len(data) // 2 // 4096 * 4096] + b"\0" * (len(data) // 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_catalog_is_set_aside_and_made_again(
    root: Path, clock: Clock, damage: str, expected_errors: list[str]
) -> None:
    expected_errors.append("the catalog is damaged")
    with make(root, clock) as archive:
        Mix(archive, clock, 1).run(60)
    reopen(root, clock)
    before = catalog_rows(root)
    reopen(root, clock)
    altered(DAMAGES[damage], root)
    damaged = (root / CATALOG).read_bytes()
    with Archive(root, clock=clock) as archive:
        everything_is_readable(archive)
    assert catalog_rows(root) == before
    assert (root / "catalog.sqlite.damaged").read_bytes() == damaged


def test_whichever_page_of_the_catalog_is_damaged_the_archive_opens(
    root: Path, clock: Clock, expected_errors: list[str]
) -> None:
    expected_errors.append("the catalog is damaged")
    with make(root, clock) as archive:
        Mix(archive, clock, 1).run(60)
    reopen(root, clock)
    before = catalog_rows(root)
    reopen(root, clock)
    whole = (root / CATALOG).read_bytes()
    for start in range(4096, len(whole), 4096):
        for filling in (b"\0", b"\xff"):
            (root / CATALOG).write_bytes(whole[:start] + filling * 4096 + whole[start + 4096 :])
            reopen(root, clock)
    rebuild(root, clock=clock)
    assert catalog_rows(root) == before


def test_an_interrupted_rebuild_leaves_nothing_in_the_way(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"1")
    before = catalog_rows(root)
    for name in ("catalog.sqlite.new", "catalog.sqlite.new-wal", "catalog.sqlite.new-shm"):
        (root / name).write_bytes(b"half written")
    rebuild(root, clock=clock)
    assert sorted(file.name for file in root.glob("catalog*")) == [CATALOG]
    assert catalog_rows(root) == before


def test_the_catalog_is_opened_as_its_documentation_says(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    db = connect(root / CATALOG)
    settings = {
        name: db.execute(f"PRAGMA {name}").get for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    db.close()
    assert settings == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1}


def test_a_transaction_that_fails_leaves_the_catalog_as_it_was(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        captured(archive, b"1")
    before = catalog_rows(root)
    catalog = Catalog(root / CATALOG)
    with pytest.raises(apsw.ConstraintError), catalog.transaction():
        catalog.db.execute("DELETE FROM totals; INSERT INTO converters VALUES (1, 'twice')")
    catalog.close()
    assert catalog_rows(root) == before


@pytest.mark.parametrize("day", ["1970-01-01", "2026-02-13", "2024-02-29", "9999-12-31", "0001-01-01"])
def test_days_are_numbered_from_1970(day: str) -> None:
    assert day_text(day_number(day)) == day
    assert day_number("1970-01-02") == 1


def test_the_schema_says_what_each_column_is() -> None:
    schema = (Path(__file__).parents[2] / "archivefs" / "catalog" / "schema.sql").read_text()
    tables = re.split("CREATE (?:VIRTUAL )?TABLE ", schema)[1:]
    assert len(tables) == 24
    documented = {"gid", "converter_id", "day", "status", "name", "size", "sha256", "n", "attempt", "offset"}
    for table in tables:
        for line in table.splitlines()[1:]:
            if line.startswith("    ") and not line.strip().startswith(("PRIMARY", "content=", "--")):
                assert "--" in line or line.split()[0] in documented | {
                    "started_ms", "duration_ms", "header", "stored", "length", "segment_id", "entries",
                    "ordinal", "queued_ms", "state", "reports", "converter",
                }, line  # fmt: skip


def test_a_journal_of_one_catalog_fits_no_other_archive(root: Path, clock: Clock, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for each in (root, other):
        with make(each, clock) as archive:
            captured(archive, b"1")
    shutil.copy(other / CATALOG, root / CATALOG)
    with pytest.raises(JournalDamagedError):
        Archive(root, clock=clock)
    with Archive(other, clock=clock) as archive:
        captured(archive, b"2")
    shutil.copytree(root / "journal", other / "journal", dirs_exist_ok=True)
    (other / "journal" / "checkpoint.json").unlink()
    with pytest.raises(JournalDamagedError):
        Archive(other, clock=clock)
    assert len(journal_lines(root)) == 2


QUESTIONS: dict[str, Callable[[Archive], object]] = {
    "entry": lambda archive: archive.reader.entry(1),
    "by_id": lambda archive: archive.reader.by_id("20260213T120000000-5f1637"),
    "get": lambda archive: archive.reader.get(archive.reader.last_id()[:23]),
    "by_flat_name": lambda archive: archive.reader.by_flat_name(1, 20497, b"unit.csv"),
    "by_label": lambda archive: archive.reader.by_label(b"120000_5f1637_unit.csv", 20497, archive.zone, 1),
    "newest_with_content": lambda archive: archive.reader.newest_with_content("ict", b"x", "a" * 64),
    "label_page": lambda archive: archive.reader.label_page(1, 20497, Status.PENDING, 0, 10),
    "with_status": lambda archive: archive.reader.with_status(Status.CONVERTING),
    "due": lambda archive: list(archive.reader.due(1, archive.now_ms())),
    "next_due_ms": lambda archive: archive.reader.next_due_ms(1, archive.now_ms()),
    "last_id": lambda archive: archive.reader.last_id(),
    "attempts": lambda archive: archive.reader.attempts(1),
    "contents": lambda archive: archive.reader.contents(1),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_index_answers_every_question_of_the_tree(root: Path, clock: Clock, question: str) -> None:
    with make(root, clock) as archive:
        Mix(archive, clock, 1).run(5)
        asked: list[tuple[str, Any]] = []

        def note(_: object, sql: str, bindings: Any) -> bool:  # noqa: ANN401
            asked.append((sql, bindings))
            return True

        archive.reader.db.exec_trace = note
        QUESTIONS[question](archive)
        archive.reader.db.exec_trace = None
        for sql, bindings in asked:
            for row in archive.reader.db.execute(f"EXPLAIN QUERY PLAN {sql}", bindings):
                looks_at_entries = row[3].split()[1] in ("entries", "e")
                assert not looks_at_entries or " USING " in row[3], (sql, row[3])
        assert asked


def test_commits_after_a_refused_one_go_on(root: Path, clock: Clock, expected_errors: list[str]) -> None:
    """Another connection holds the catalog too long: events stay in the journal and are applied later."""
    expected_errors.append("the catalog refused 1 events")
    with make(root, clock) as archive:
        first = captured(archive, b"1")
        archive._catalog.db.set_busy_timeout(1)
        stranger = connect(root / CATALOG)
        stranger.execute("BEGIN IMMEDIATE")
        (second,) = commit(archive, capture(b"2"))
        assert archive.reader.by_id(second.id) is None
        stranger.execute("ROLLBACK")
        stranger.close()
        third = captured(archive, b"3")
        assert [row.id for row in every_entry(archive)] == [first.id, second.id, third.id]
    before = catalog_rows(root)
    rebuild(root, clock=clock)
    assert catalog_rows(root) == before
