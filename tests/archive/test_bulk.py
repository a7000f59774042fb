"""Many files at once: every file of a folder once, as it is, and of what is no such file a word why not."""

import errno
import itertools
import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from archive_parts import (
    NOON_MS,
    TOML,
    Clock,
    capture,
    captured,
    catalog_rows,
    commit,
    entry,
    every_entry,
    everything_is_readable,
    journal_lines,
    make,
    nothing_is_left_over,
    some_bytes,
    source,
)
from bulk_parts import STAMP_NS, bring, held, places, plant, things_in

from archivefs.archive import Archive
from archivefs.bulk.capture import Bulk, Manner
from archivefs.bulk.read import unchanged
from archivefs.bulk.walk import Found, LeftOut, SourceError, Tree, Why, walk
from archivefs.events import Voided
from archivefs.operations import Note, Receipt
from archivefs.quarantine import kept
from archivefs.rebuilding import rebuild
from archivefs.states import Status
from archivefs.verify.from_segments import rebuild_from_segments
from archivefs.verify.verify import Scope, verify_folder

FILES = {
    b"top.csv": b"passed",
    b"2024/01/unit.csv": b"serial;1",
    b"2024/02/unit.csv": b"serial;2",
    b"2024/02/empty": b"",
    b"deep/er/and/deeper/large.raw": some_bytes(1, 3_000_000),
}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A folder of old files."""
    return plant(tmp_path / "Done", FILES)


def left_out(things: list[Found | LeftOut], top: Path) -> dict[bytes, Why]:
    skip = len(os.fsencode(top)) + 1
    return {each.path[skip:]: each.why for each in things if isinstance(each, LeftOut)}


# -- what becomes of files ---------------------------------------------------------------------------------


def test_every_file_of_a_folder_is_archived_as_it_is_and_left_alone(archive: Archive, done: Path) -> None:
    before = {file: file.stat() for file in list(done.rglob("*"))}
    tally = bring(archive, done, "ict")
    assert held(archive) == places(FILES)
    stamps = {path: STAMP_NS + number * 10**9 for number, path in enumerate(FILES)}
    for row in every_entry(archive):
        assert (row.status, row.reason, row.due_ms) == (Status.ARCHIVED, "imported", 0)
        assert (row.mode, row.uid, row.gid) == (0o640, os.getuid(), os.getgid())
        assert row.mtime_ns == stamps[(row.folder + b"/" if row.folder else b"") + row.name]
        assert (row.captured_ms - NOON_MS) in range(len(FILES))
    assert (tally.files, tally.bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert tally.bytes < tally.stored < 3_000_500
    for file, facts in before.items():
        now = file.stat()
        assert (now.st_atime_ns, now.st_mtime_ns, now.st_ctime_ns) == (
            facts.st_atime_ns, facts.st_mtime_ns, facts.st_ctime_ns,
        )  # fmt: skip


def test_an_import_can_be_converted_as_what_is_saved_into_the_inbox(archive: Archive, tmp_path: Path) -> None:
    top = plant(tmp_path / "Done", {b"unit.csv": b"1", b"notes.txt": b"2"})
    bring(archive, top, "ict", imported=False)
    statuses = {row.name: (row.status, row.due_ms > 0) for row in every_entry(archive)}
    assert statuses == {b"unit.csv": (Status.PENDING, True), b"notes.txt": (Status.SKIPPED, False)}


def test_an_imported_archive_is_whole_and_its_catalog_follows_from_journal_and_segments(
    root: Path, done: Path
) -> None:
    with make(root, Clock()) as archive:
        bring(archive, done, "ict")
        nothing_is_left_over(archive)
        statuses = {row.id: (row.status, row.reason, row.due_ms) for row in every_entry(archive)}
    assert verify_folder(root, Scope()).findings == []
    rows = catalog_rows(root)
    rebuild(root)
    assert catalog_rows(root) == rows
    rebuild_from_segments(root)
    with Archive(root) as archive:
        assert {row.id: (row.status, row.reason, row.due_ms) for row in every_entry(archive)} == statuses
        assert held(archive) == places(FILES)


def test_extended_attributes_are_kept(archive: Archive, done: Path) -> None:
    os.setxattr(done / "top.csv", "user.station", b"A7")
    bring(archive, done)
    (row,) = [row for row in every_entry(archive) if row.name == b"top.csv"]
    assert row.xattrs == '{"user.station":"QTc="}'


NAMES = [
    b"caf\xe9.csv",
    "å ß.csv".encode(),
    b"\xff\xfe",
    b"new\nline",
    b"\x1b[31m",
    b"'\"\\",
    b"x" * 255,
    b"-rf",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file_and_a_folder_comes_through(archive: Archive, tmp_path: Path, name: bytes) -> None:
    files = {b"a/" + name: b"1", b"b/" + name + b"/u.csv": b"2"}
    top = plant(tmp_path / "Done", files)
    assert bring(archive, top).files == 2
    assert held(archive) == places(files)
    assert bring(archive, top).known == 2


def test_a_path_that_is_longer_than_any_the_system_takes_is_walked(archive: Archive, tmp_path: Path) -> None:
    top = tmp_path / "Done"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("x" * 200, dir_fd=fd)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("unit.csv", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    bring(archive, top)
    (row,) = every_entry(archive)
    assert (row.name, row.folder) == (b"unit.csv", b"/".join([b"x" * 200] * 40))


# -- what is no file ---------------------------------------------------------------------------------------


def test_links_and_special_files_are_left_out_and_named(archive: Archive, done: Path, tmp_path: Path) -> None:
    secret = plant(tmp_path / "secret", {b"key": b"secret"})
    (done / "file link").symlink_to(secret / "key")
    (done / "folder link").symlink_to(secret)
    (done / "loop").symlink_to("loop")
    (done / "up").symlink_to("..")
    os.mkfifo(done / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(done / "socket"))
    things = things_in(done)
    assert left_out(things, done) == {
        b"file link": Why.LINK, b"folder link": Why.LINK, b"loop": Why.LINK, b"up": Why.LINK,
        b"pipe": Why.SPECIAL, b"socket": Why.SPECIAL,
    }  # fmt: skip
    tally = bring(archive, done)
    assert (tally.link, tally.special, tally.failed) == (4, 2, 0)
    assert held(archive) == places(FILES)


def test_the_folder_itself_may_be_given_as_a_link(archive: Archive, done: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(done)
    bring(archive, tmp_path / "link")
    assert held(archive) == places(FILES)


@pytest.mark.parametrize("what", ["folder", "file", "pipe"])
def test_what_takes_a_place_after_it_was_seen_is_not_followed(
    archive: Archive, tmp_path: Path, what: str
) -> None:
    secret = plant(tmp_path / "secret", {b"unit.csv": b"secret"})
    top = plant(tmp_path / "Done", {b"a/unit.csv": b"1", b"b.csv": b"2"})
    things = things_in(top)
    if what == "folder":
        shutil.rmtree(top / "a")
        (top / "a").symlink_to(secret)
    else:
        (top / "a/unit.csv").unlink()
        if what == "file":
            (top / "a/unit.csv").symlink_to(secret / "unit.csv")
        else:
            os.mkfifo(top / "a/unit.csv")
    tally = Bulk(archive, Manner("files")).run(things)
    assert (tally.files, tally.failed) == (1, 1)
    assert held(archive) == {(b"", b"b.csv", b"2"): 1}


def test_junk_is_counted_and_a_folder_of_it_not_entered(archive: Archive, done: Path) -> None:
    plant(
        done,
        {b"Thumbs.db": b"", b"2024/half.part": b"", b".git/config": b"", b".git/HEAD": b"", b"~$a.xls": b""},
    )
    assert left_out(things_in(done), done) == dict.fromkeys(
        (b"Thumbs.db", b"2024/half.part", b".git", b"~$a.xls"), Why.JUNK
    )
    assert bring(archive, done).junk == 4
    assert held(archive) == places(FILES)


def test_a_folder_that_must_not_be_entered_is_named(done: Path) -> None:
    facts = (done / "2024").stat()
    things = list(walk(Tree(os.fsencode(done)), (), {(facts.st_dev, facts.st_ino)}))
    assert left_out(things, done) == {b"2024": Why.SPECIAL}
    assert sorted(each.name for each in things if isinstance(each, Found)) == [b"large.raw", b"top.csv"]


def test_files_that_are_gone_are_named_and_the_rest_goes_on(archive: Archive, done: Path) -> None:
    things = things_in(done)
    (done / "2024/01/unit.csv").unlink()
    shutil.rmtree(done / "deep")
    told: list[LeftOut] = []
    tally = Bulk(archive, Manner("files"), on_left_out=told.append).run(things)
    assert {(each.why, each.reason) for each in told} == {(Why.FAILED, os.strerror(errno.ENOENT))}
    assert sorted(each.path for each in told) == [
        os.fsencode(done / "2024/01/unit.csv"), os.fsencode(done / "deep/er/and/deeper/large.raw"),
    ]  # fmt: skip
    assert (tally.files, tally.failed) == (3, 2)


# -- files that change -------------------------------------------------------------------------------------


@pytest.fixture
def writer() -> Iterator[threading.Event]:
    """Set to end what a test does beside."""
    ended = threading.Event()
    yield ended
    ended.set()


@pytest.mark.parametrize("size", [100, 2_000_000])
def test_a_file_that_changes_all_the_time_is_left_out_or_whole(
    archive: Archive, done: Path, writer: threading.Event, size: int
) -> None:
    busy = done / "busy.log"
    busy.write_bytes(bytes(size))

    def write() -> None:
        """Fifth after fifth becomes the next value: at any moment, the first ones are one ahead."""
        with busy.open("r+b", buffering=0) as file:
            for value in itertools.cycle(range(256)):
                for at in range(0, size, size // 5):
                    if writer.is_set():
                        return
                    file.seek(at)
                    file.write(bytes([value]) * (size // 5))

    told: list[LeftOut] = []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(write)
        for _ in range(5):
            tally = Bulk(archive, Manner("files"), on_left_out=told.append).run(things_in(done))
            assert tally.files + tally.failed == len(FILES) + 1
        writer.set()
    assert set(told) <= {LeftOut(os.fsencode(busy), Why.FAILED, "it changes while it is read")}
    for row in every_entry(archive):
        if row.name == b"busy.log":
            fifths = source(archive, row.id)[:: size // 5]
            ahead = [(fifth - fifths[-1]) % 256 for fifth in fifths]
            assert sorted(ahead, reverse=True) == ahead
            assert max(ahead) <= 1
    assert sum(row.name != b"busy.log" for row in every_entry(archive)) == 5 * len(FILES)


@pytest.mark.parametrize("change", ["append", "overwrite", "truncate"])
def test_a_file_that_changed_once_is_read_again(tmp_path: Path, change: str) -> None:
    file = tmp_path / "unit.csv"
    file.write_bytes(b"before")
    fd = os.open(file, os.O_RDONLY)
    read: list[bytes] = []

    def look(facts: os.stat_result) -> bytes:
        content = os.pread(fd, facts.st_size, 0)
        if not read:  # at once: within one step of the kernel's clock
            if change == "append":
                with file.open("ab") as out:
                    out.write(b" and after")
            elif change == "overwrite":
                with file.open("r+b") as out:
                    out.write(b"behind")
            else:
                os.truncate(file, 2)
        read.append(content)
        return content

    try:
        assert unchanged(fd, look) == file.read_bytes()
        assert len(read) == 2
    finally:
        os.close(fd)


def test_a_file_with_fewer_bytes_than_it_says_is_left_out(archive: Archive) -> None:
    odd = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not odd.exists() or odd.stat().st_size != 4096:
        pytest.skip("there is no such file here")
    found = Found(b"", b"enabled", 4096, None, os.fsencode(odd))
    told: list[LeftOut] = []
    assert Bulk(archive, Manner("files"), on_left_out=told.append).run([found]).failed == 1
    assert told[0].reason.endswith(" of its 4096 bytes")


def test_a_change_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "unit.csv"
    file.write_bytes(b"1")
    fd = os.open(file, os.O_RDONLY)
    try:
        with pytest.raises(SourceError, match="it changes while it is read"):
            unchanged(fd, lambda _: file.write_bytes(b"2"))
    finally:
        os.close(fd)


# -- again -------------------------------------------------------------------------------------------------


def test_what_is_in_the_archive_already_is_passed_over(archive: Archive, done: Path) -> None:
    assert bring(archive, done).files == len(FILES)
    again = bring(archive, done)
    assert (again.files, again.known) == (0, len(FILES))
    assert held(archive) == places(FILES)
    more = bring(archive, done, again=True)
    assert (more.files, more.known) == (len(FILES), 0)
    assert set(held(archive).values()) == {2}


@pytest.mark.parametrize("what", ["content", "mtime", "name", "folder", "converter", "large"])
def test_a_file_that_differs_in_anything_is_another_one(archive: Archive, done: Path, what: str) -> None:
    bring(archive, done)
    file, converter = done / "2024/01/unit.csv", "files"
    facts = file.stat()
    if what == "content":
        file.write_bytes(b"serial;9")
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    elif what == "large":
        file = done / "deep/er/and/deeper/large.raw"
        facts = file.stat()
        with file.open("r+b") as out:
            out.seek(2_999_999)
            out.write(b"x")
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    elif what == "mtime":
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    elif what == "name":
        file.rename(file.with_name("unit 1.csv"))
    elif what == "folder":
        file.rename(done / "2024/unit.csv")
    else:
        converter = "log"
    again = bring(archive, done, converter)
    new = len(FILES) if what == "converter" else 1
    assert (again.files, again.known) == (new, len(FILES) - (new == 1) - (new > 1) * len(FILES))


def test_a_time_that_the_archive_cannot_hold_is_known_again(archive: Archive, done: Path) -> None:
    try:
        os.utime(done / "top.csv", ns=(0, 2**63 + 10**9))
    except OverflowError:
        pytest.skip("no such time can be set")
    bring(archive, done)
    assert bring(archive, done).known == len(FILES)


@pytest.mark.parametrize("converter", ["files", "ict"])
def test_a_capture_of_the_same_file_counts_as_well(archive: Archive, tmp_path: Path, converter: str) -> None:
    top = plant(tmp_path / "Done", {b"unit.csv": b"1"})
    commit(archive, capture(b"1", b"unit.csv", converter, mtime_ns=STAMP_NS))
    assert bring(archive, top, converter).known == 1


def test_a_file_whose_bytes_the_disk_lost_is_imported_again(archive: Archive, done: Path) -> None:
    bring(archive, done)
    (lost,) = [row for row in every_entry(archive) if row.name == b"top.csv"]
    commit(archive, Note(Voided(id=lost.id, reason="a test says so")))
    assert bring(archive, done).files == 1


def test_many_files_of_one_content_are_known_too(archive: Archive, tmp_path: Path) -> None:
    files = {b"%d/%d" % (number % 7, number): b"" for number in range(700)}
    top = plant(tmp_path / "Done", files)
    assert bring(archive, top).files == 700
    assert bring(archive, top).known == 700
    assert held(archive) == places(files)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(root: Path, done: Path) -> None:
    with make(root, Clock()) as archive:
        (done / "link").symlink_to("top.csv")
        would = bring(archive, done, dry_run=True)
        assert every_entry(archive) == []
        did = bring(archive, done)
        assert (would.files, would.bytes, would.link) == (did.files, did.bytes, did.link) == (5, 3_000_022, 1)
        assert bring(archive, done, dry_run=True).known == len(FILES)
    with Archive.open_for_reading(root) as reading:
        assert bring(reading, done, dry_run=True).known == len(FILES)


# -- order and groups --------------------------------------------------------------------------------------


def test_captures_are_told_when_they_are_durable_in_the_order_given(archive: Archive, done: Path) -> None:
    told: list[tuple[Found, Receipt]] = []

    def tell(found: Found, receipt: Receipt) -> None:
        assert (
            source(archive, receipt.id) == FILES[(found.folder + b"/" if found.folder else b"") + found.name]
        )
        told.append((found, receipt))

    things = things_in(done)
    Bulk(archive, Manner("files"), tell).run(things)
    assert [found for found, _ in told] == things
    assert [entry(archive, receipt.id).name for _, receipt in told] == [each.name for each in things]  # type: ignore[union-attr]


@pytest.fixture
def live(root: Path) -> Iterator[Archive]:
    """An archive whose clock goes, so that each commit has a time of its own."""
    Archive.create(root, TOML)
    with Archive(root) as archive:
        yield archive


def commits(root: Path) -> list[int]:
    """How many bytes of journal each commit wrote."""
    sizes: Counter[bytes] = Counter()
    for line in journal_lines(root)[1:]:
        sizes[line.partition(b'"at":"')[2][:27]] += len(line) + 1
    return list(sizes.values())


def test_files_are_committed_in_groups(live: Archive, tmp_path: Path) -> None:
    top = plant(tmp_path / "Done", {b"%04d" % number: b"%d" % number for number in range(2100)})
    bring(live, top)
    assert len(commits(live.root)) == 3


def test_large_files_make_small_groups(live: Archive, tmp_path: Path) -> None:
    top = plant(tmp_path / "Done", {b"%d" % number: some_bytes(number, 17 << 20) for number in range(4)})
    bring(live, top)
    assert len(commits(live.root)) == 2
    everything_is_readable(live)


def test_long_names_make_small_groups(live: Archive, tmp_path: Path) -> None:
    folder = b"/".join([b"\x01" * 250] * 14)
    top = plant(tmp_path / "Done", {b"%s/%d" % (folder, number): b"" for number in range(300)})
    bring(live, top)
    sizes = commits(live.root)
    assert sum(sizes) > 6 << 20
    assert max(sizes) < 3 << 20


def test_nothing_at_all_is_no_commit(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "Done/empty").mkdir(parents=True)
    seq = archive.reader.changed_seq()
    assert bring(archive, tmp_path / "Done").files == 0
    assert archive.reader.changed_seq() == seq


def test_a_bug_elsewhere_does_not_leave_anything_behind(archive: Archive, done: Path) -> None:
    def break_off(_found: Found, _receipt: Receipt) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Bulk(archive, Manner("files"), break_off).run(things_in(done))
    assert held(archive) == places(FILES)
    captured(archive, b"goes on")
    nothing_is_left_over(archive)
    assert kept(archive.root) == []
