"""Dictionaries: made when they are worth it, used from then on, and never a danger to other contents."""

import errno
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_parts import (
    DAY,
    Clock,
    capture,
    captured,
    catalog_rows,
    child_command,
    child_environment,
    commit,
    converted,
    entry,
    every_entry,
    everything_is_readable,
    journal_lines,
    make,
    measured,
    nothing_is_left_over,
    run_child,
    some_bytes,
    source,
    trained,
)
from test_verify_parts import flip

from archivefs.archive import Archive
from archivefs.catalog.rows import DictionaryRow
from archivefs.errors import CaptureFailedError, ContentDamagedError, DictionaryError
from archivefs.events import DictionaryTrained, decode
from archivefs.jobs import dictionaries
from archivefs.jobs.dictionaries import SAMPLES
from archivefs.operations import AddDictionary
from archivefs.packing import REPORTS, SOURCES
from archivefs.rebuilding import rebuild
from archivefs.store.dictionaries import FIRST_NUMBER, Dictionary
from archivefs.store.dictionaries import train as train_file
from archivefs.store.frames import DICTIONARY_BYTES, dictionary_number, encode_bytes
from archivefs.store.segment import scan
from archivefs.transaction import Operation, Transaction

LEVEL = 3


def train(archive: Archive, converter: str, content: str = SOURCES) -> DictionaryRow | None:
    """As a mount does it: a dictionary of what is there, if it is worth having."""
    given = dictionaries.samples(archive, converter, content)
    made = dictionaries.train(converter, content, given, None, LEVEL)
    if made is None:
        return None
    commit(archive, AddDictionary(converter, content, made.data, made.samples))
    return archive.reader.dictionaries()[-1]


def many(archive: Archive, count: int, start: int = 0, converter: str = "files") -> list[str]:
    """The ids of so many small reports, captured in groups."""
    ids = []
    for first in range(start, start + count, 250):
        group = [
            capture(measured(n), b"%d.json" % n, converter)
            for n in range(first, min(first + 250, start + count))
        ]
        ids += [receipt.id for receipt in commit(archive, *group)]
    return ids


def dictionary_of(archive: Archive, id_: str) -> str:
    """The dictionary that the record of a source names."""
    place = archive.reader.location(entry(archive, id_))
    path = archive.root / "content" / place.segment
    return next(scan(path, place.segment, place.offset)).header.dictionary


def needed_by(archive: Archive, id_: str) -> int:
    """The number that the frame of a small source names, 0 for none."""
    row = entry(archive, id_)
    place = archive.reader.location(row)
    return dictionary_number(
        archive.content.compressed(place, archive.content.layout(place, row.size).starts)
    )


def stored(archive: Archive, ids: list[str]) -> float:
    """Bytes of content frames, on average."""
    return sum(entry(archive, id_).stored for id_ in ids) / len(ids)


def file_of(archive: Archive, row: DictionaryRow) -> Path:
    return archive.root / "dictionaries" / f"{row.name}.zdict"


# -- made and used -----------------------------------------------------------------------------------------


def test_enough_small_sources_make_a_dictionary_that_is_used_from_then_on(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        before = many(archive, SAMPLES - 1)
        assert dictionaries.missing(archive) == {}
        before += many(archive, 1, SAMPLES)
        assert [*dictionaries.missing(archive)] == [("files", SOURCES), ("files", REPORTS)]
        row = train(archive, "files")
        assert row is not None
        assert [*dictionaries.missing(archive)] == [("files", REPORTS)]
        after = many(archive, 100, 1000)
        assert {dictionary_of(archive, id_) for id_ in before} == {""}
        assert {dictionary_of(archive, id_) for id_ in after} == {"files-1"}
        assert stored(archive, after) < 0.6 * stored(archive, before)
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    event = decode(journal_lines(root)[row.seq - 1])
    assert isinstance(event, DictionaryTrained)
    assert (event.converter, event.content, event.name, event.number) == (
        "files",
        SOURCES,
        "files-1",
        FIRST_NUMBER,
    )
    assert file_of(archive, row).stat().st_size == event.size == row.size


def test_reports_get_one_of_their_own(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        for number in range(60):
            converted(archive, captured(archive, b"%d" % number, b"x.csv", "ict").id, measured(number))
        trained(archive, "ict", REPORTS)
        after = captured(archive, measured(0), b"x.csv", "ict").id
        converted(archive, after, measured(1000))
        assert dictionary_of(archive, after) == "", "sources have none"
        (log, report) = archive.reader.contents(entry(archive, after).n)
        assert log.location is not None
        assert report.location is not None
        assert (log.location.segment, report.location.segment) == ("2026/02/13/ict.reports.2.zst",) * 2
        assert report.location.stored < 0.6 * encode_bytes(measured(1000), LEVEL).stored
        everything_is_readable(archive)


def test_what_has_nothing_in_common_gets_no_dictionary(archive: Archive) -> None:
    group = [capture(some_bytes(number, 2000)) for number in range(250)]
    commit(archive, *group)
    commit(archive, *[capture(some_bytes(1000 + number, 2000)) for number in range(250)])
    tried: dict[dictionaries.Wanted, int] = {}
    assert dictionaries.train_next(archive, tried) is None
    assert tried == {("files", SOURCES): SAMPLES, ("files", REPORTS): SAMPLES}
    assert dictionaries.missing(archive, tried) == {}, "not again before there are twice as many"
    commit(archive, *[capture(some_bytes(2000 + number, 2000)) for number in range(SAMPLES)])
    assert dictionaries.missing(archive, tried) == dict.fromkeys(tried, 2 * SAMPLES)
    assert not (archive.root / "dictionaries").exists()


def test_what_a_dictionary_would_only_make_a_little_smaller_gets_none(archive: Archive) -> None:
    """A dozen bytes in common, two thousand not."""
    contents = [b"<report xmlns=1>" + some_bytes(number, 2000) for number in range(SAMPLES)]
    assert dictionaries.train("files", SOURCES, contents, None, LEVEL) is None


def test_large_and_empty_contents_do_without_but_may_stand_beside_others(archive: Archive) -> None:
    trained(archive, "files", SOURCES)
    contents = [
        b"",
        measured(1) * 200,
        some_bytes(1, DICTIONARY_BYTES + 1),
        some_bytes(2, 3 << 20),
        measured(2),
    ]
    assert len(contents[1]) > DICTIONARY_BYTES
    ids = [captured(archive, content).id for content in contents]
    assert {archive.reader.location(entry(archive, id_)).segment for id_ in ids} == {
        "2026/02/13/files.sources.zst"
    }
    (archive.root / "dictionaries/files-1.zdict").unlink()
    with Archive.open_as_it_is(archive.root) as reading:
        assert [source(reading, id_) for id_ in ids[:-1]] == contents[:-1]
        with pytest.raises(DictionaryError):
            source(reading, ids[-1])


def test_a_segment_never_mixes_two_dictionaries(root: Path, clock: Clock) -> None:
    """Neither over several commits nor within one; and zstd reads each segment whole.

    What was compressed before there was any may stand beside others.
    """
    names = ["files-1", "files-2"]
    with make(root, clock) as archive:
        waiting = [[capture(measured(number)) for number in range(10)]]
        for _ in names:
            for each in waiting[-1]:
                each.prepare(archive.packing)
            trained(archive, "files", SOURCES)
            waiting.append([capture(measured(number)) for number in range(10)])
        commit(archive, *waiting[1][:5], *waiting[2][:5], *waiting[0][:5])
        commit(archive, *waiting[0][5:], *waiting[1][5:], *waiting[2][5:])
        everything_is_readable(archive)
        nothing_is_left_over(archive)
    found = set()
    for path in sorted((root / "content").rglob("*.zst")):
        headers = [record.header for record in scan(path, path.name)]
        (name,) = {header.dictionary for header in headers}
        found.add(name)
        options = ["-D", root / f"dictionaries/{name}.zdict"] if name else []
        done = subprocess.run(["zstd", "-dcq", *options, path], capture_output=True, check=True)
        assert len(done.stdout) == sum(header.size for header in headers)
    assert found == set(names)


def test_a_segment_that_begins_with_damage_is_not_appended_to(root: Path, clock: Clock) -> None:
    """Nobody can say which dictionary its frames need."""
    with make(root, clock) as archive:
        first, second = captured(archive, measured(1)), captured(archive, measured(2))
    flip(root / "content/2026/02/13/files.sources.zst", 20)
    with Archive(root, clock=clock) as archive:
        trained(archive, "files", SOURCES)
        third = captured(archive, measured(3))
        segments = [
            archive.reader.location(entry(archive, each.id)).segment for each in (first, second, third)
        ]
        assert segments == ["2026/02/13/files.sources.zst"] * 2 + ["2026/02/13/files.sources.2.zst"]
        assert source(archive, second.id) == measured(2)
        assert source(archive, third.id) == measured(3)


# -- kept over time ----------------------------------------------------------------------------------------


def test_a_reopened_archive_goes_on_with_the_newest_one(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        trained(archive, "files", SOURCES)
        trained(archive, "files", SOURCES)
        trained(archive, "files", SOURCES, day="2026-02-01")
        trained(archive, "ict", REPORTS)
        assert dictionary_of(archive, captured(archive, measured(1)).id) == "files-2"
        assert dictionaries.missing(archive) == {}
    clock.turn(DAY)
    with Archive(root, clock=clock) as archive:
        assert dictionary_of(archive, captured(archive, measured(2)).id) == "files-2"
        assert dictionary_of(archive, captured(archive, measured(3), b"x.csv", "ict").id) == ""
        everything_is_readable(archive)


def test_a_dictionary_for_a_repacked_day_alone_is_not_what_a_converter_lacks(archive: Archive) -> None:
    many(archive, SAMPLES)
    trained(archive, "files", SOURCES, day="2026-02-01")
    assert [*dictionaries.missing(archive)] == [("files", SOURCES), ("files", REPORTS)]
    assert dictionary_of(archive, captured(archive, measured(1)).id) == ""


def test_a_rebuilt_catalog_says_the_same(root: Path, clock: Clock) -> None:
    with make(root, clock) as archive:
        trained(archive, "files", SOURCES)
        trained(archive, "ict", REPORTS, day="2026-02-13")
        many(archive, 10)
    rows = catalog_rows(root)
    assert len(rows["dictionaries"]) == 2
    rebuild(root, clock=clock)
    assert catalog_rows(root) == rows
    with Archive(root, clock=clock) as archive:
        everything_is_readable(archive)


def test_one_who_reads_beside_a_writer_finds_a_dictionary_that_is_newer_than_itself(archive: Archive) -> None:
    captured(archive, b"before")
    with Archive.open_as_it_is(archive.root) as reading:
        trained(archive, "files", SOURCES)
        id_ = captured(archive, measured(1)).id
        assert source(reading, id_) == measured(1)


# -- names and numbers -------------------------------------------------------------------------------------


def draft(seed: int) -> bytes:
    return train_file([measured(seed + number) for number in range(50)], 2000, LEVEL)


def test_dictionaries_of_one_group_get_names_and_numbers_of_their_own(archive: Archive) -> None:
    made = commit(
        archive, *[AddDictionary(name, SOURCES, draft(0), 50) for name in ("files", "files", "ict")]
    )
    rows = archive.reader.dictionaries()
    assert [row.name for row in rows] == ["files-1", "files-2", "ict-1"]
    assert [row.number for row in rows] == made == [FIRST_NUMBER, FIRST_NUMBER + 1, FIRST_NUMBER + 2]
    for row in rows:
        assert Dictionary(row.name, file_of(archive, row).read_bytes()).number == row.number


def test_a_file_that_no_event_names_is_never_overwritten_nor_its_number_given_away(archive: Archive) -> None:
    """Nobody knows whether something needs it."""
    kept = archive.root / "dictionaries/files-1.zdict"
    kept.parent.mkdir()
    kept.write_bytes(
        Dictionary("", draft(7)).data[:4] + (FIRST_NUMBER + 5).to_bytes(4, "little") + draft(7)[8:]
    )
    before = kept.read_bytes()
    row = trained(archive, "files", SOURCES)
    assert (row.name, row.number) == ("files-2", FIRST_NUMBER + 6)
    assert kept.read_bytes() == before


def test_two_with_the_same_name_and_number_are_not_taken_for_each_other(root: Path, clock: Clock) -> None:
    """As candidates have, and archives that one process opens."""
    first, second = (Dictionary("candidate", draft(0)[:8] + draft(seed)[8:]) for seed in (0, 300))
    assert first.number == second.number
    contents = [measured(number) for number in range(20)]
    alone = [encode_bytes(each, LEVEL, second).stored for each in contents]
    [encode_bytes(each, LEVEL, first) for each in contents]
    assert [encode_bytes(each, LEVEL, second).stored for each in contents] == alone
    frame = b"".join(encode_bytes(contents[0], LEVEL, second).pieces())
    assert first.decompressor() is not second.decompressor()
    assert second.decompressor().decompress(frame) == contents[0]


# -- undone ------------------------------------------------------------------------------------------------


class Regretted(AddDictionary):
    """Makes a dictionary, then thinks better of it."""

    def run(self, txn: Transaction) -> int:
        """Fails after the file was written."""
        super().run(txn)
        raise CaptureFailedError("regretted", errno.EIO)


def test_a_dictionary_whose_operation_is_undone_leaves_no_file(archive: Archive) -> None:
    group: list[Operation[object]] = [Regretted("files", SOURCES, draft(0), 50), capture(measured(1))]
    (regretted, kept), _ = archive.commit(group)
    assert str(regretted) == "regretted"
    assert source(archive, kept.id) == measured(1)
    assert list((archive.root / "dictionaries").iterdir()) == []
    assert archive.reader.dictionaries() == []
    assert trained(archive, "files", SOURCES).name == "files-1"


def test_a_journal_that_cannot_grow_leaves_no_file(root: Path, clock: Clock) -> None:
    make(root, clock).close()
    done = run_child(
        """
import resource, sys
from pathlib import Path
from archive_parts import captured, measured, trained
from archivefs.archive import Archive
from archivefs.errors import CaptureFailedError
from archivefs.operations import Touch

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

with Archive(Path(sys.argv[1])) as archive:
    first = captured(archive, b"first")
    archive.commit([Touch(first.id, n, 0o600, 0, 0) for n in range(200)])
    limit(max(archive.root.glob("journal/*/*/*.jsonl")).stat().st_size)
    try:
        trained(archive, "files", "sources")
    except CaptureFailedError as error:
        print(error)
    limit(resource.RLIM_INFINITY)
    assert list((archive.root / "dictionaries").iterdir()) == []
    captured(archive, measured(1))
    print(trained(archive, "files", "sources").name)
""",
        root,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["writing the journal failed: File too large", "files-1"]
    with Archive(root) as archive:
        assert archive.alarms == {}
        everything_is_readable(archive)
        nothing_is_left_over(archive)


def test_a_dictionary_that_cannot_be_read_back_undoes_nothing_of_its_group(root: Path, clock: Clock) -> None:
    """Its event is durable by then, and so is the capture beside it."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    make(root, clock).close()
    script = """
import sys
from pathlib import Path
from archive_parts import capture, commit, measured
from archivefs.archive import Archive
from archivefs.operations import AddDictionary
from archivefs.store.dictionaries import train

with Archive(Path(sys.argv[1])) as archive:
    made = AddDictionary("files", "sources", train([measured(n) for n in range(50)], 2000, 3), 50)
    outcomes, _ = archive.commit([made, capture(b"beside it")])
    print(outcomes[1].id, list(archive.alarms))
"""
    file = root.resolve() / "dictionaries/files-1.zdict"
    command = ["strace", "-f", "-o", "/dev/null", "-P", file, "-e", "inject=openat:error=EMFILE"]
    done = subprocess.run(
        [*command, *child_command(script, [root])],
        capture_output=True, text=True, env=child_environment(), check=False,
    )  # fmt: skip
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    id_, alarms = done.stdout.split(" ", 1)
    assert alarms == "['dictionaries/files-1.zdict']\n"
    with Archive(root, clock=clock) as archive:
        assert source(archive, id_) == b"beside it"
        assert [row.name for row in archive.reader.dictionaries()] == ["files-1"]
        assert archive.alarms == {}
        nothing_is_left_over(archive)


# -- missing and damaged -----------------------------------------------------------------------------------


def lose(file: Path) -> None:
    file.unlink()


def damage(file: Path) -> None:
    flip(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def renumber(file: Path) -> None:
    flip(file, 4)


def make_unreadable(file: Path) -> None:
    """Reading a folder as a file fails with an errno, as a bad sector does."""
    file.unlink()
    file.mkdir()


LOST = {
    "is missing": lose,
    "is damaged: its SHA-256 is another": damage,
    "is damaged: its SHA-256 is another ": empty,
    "is damaged: its SHA-256 is another  ": renumber,
    "cannot be read: Is a directory": make_unreadable,
}
lost = pytest.mark.parametrize(("cause", "lost"), [(cause.strip(), what) for cause, what in LOST.items()])


@lost
def test_a_lost_dictionary_keeps_only_its_own_entries_from_being_read(
    root: Path, clock: Clock, expected_errors: list[str], cause: str, lost: Callable[[Path], None]
) -> None:
    expected_errors.append("dictionaries/files-2.zdict")
    with make(root, clock) as archive:
        plain = many(archive, 5)
        trained(archive, "files", SOURCES)
        older = many(archive, 5, 10)
        row = trained(archive, "files", SOURCES)
        needing = many(archive, 5, 20)
    file = file_of(archive, row)
    whole = file.read_bytes()
    lost(file)
    with Archive(root, clock=clock) as archive:
        assert list(archive.alarms) == ["dictionaries/files-2.zdict"]
        assert cause in archive.alarms["dictionaries/files-2.zdict"]
        for id_ in (*plain, *older):
            source(archive, id_)
        for id_ in needing:
            with pytest.raises(ContentDamagedError, match=f"dictionaries/files-2.zdict {cause}") as caught:
                source(archive, id_)
            assert caught.value.errno == errno.EIO
            assert "content/2026/02/13/files.sources.3.zst at " in str(caught.value)
        after = many(archive, 5, 30)
        assert [source(archive, id_) for id_ in after] == [measured(number) for number in range(30, 35)]
        assert {needed_by(archive, id_) for id_ in after} <= {0, FIRST_NUMBER}
        if file.is_dir():
            file.rmdir()
    file.write_bytes(whole)
    with Archive(root, clock=clock) as archive:
        assert archive.alarms == {}
        everything_is_readable(archive)
        assert dictionary_of(archive, captured(archive, measured(99)).id) == "files-2"
        assert len(every_entry(archive)) == 21


def test_a_dictionary_that_is_lost_while_the_archive_is_open_is_named(archive: Archive) -> None:
    row = trained(archive, "files", SOURCES)
    id_ = captured(archive, measured(1)).id
    file_of(archive, row).unlink()
    assert source(archive, id_) == measured(1), "what is in memory is used on"
    with (
        Archive.open_as_it_is(archive.root) as reading,
        pytest.raises(ContentDamagedError, match=r"dictionaries/files-1\.zdict is missing"),
    ):
        source(reading, id_)
