"""What the inbox promises: which saves become entries, when a file leaves again, and what is refused."""

import errno
import fcntl
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mount_parts import UTC, Make, Mounted, an_archive, config, converter, names_in, run, sha256

CSV = converter("csv", "function:good:count")
WAITING = converter("waiting", "function:good:count", settle_seconds=3600)
KEPT = converter("kept", "function:good:count", post_action="keep")
FILES = converter("files")


def refused(number: int, action: Callable[[], object]) -> None:
    """The action must fail with exactly this errno."""
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        action()
    found = caught.value.errno or 0
    assert errno.errorcode[found] == errno.errorcode[number]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for the tests that only look at what the inbox takes and refuses."""
    toml = config(CSV, WAITING, KEPT, FILES)
    with an_archive(tmp_path_factory.mktemp("inbox"), toml) as archive:
        yield archive


# -- which saves become entries ------------------------------------------------------------------------


def test_the_same_name_dropped_twice_is_two_entries_and_both_are_converted(station: Mounted) -> None:
    reports = []
    for content in (b"first", b"second one"):
        path = station.drop("csv", "twice.csv", content)
        row = station.wait_for_status("twice.csv", "success")
        reports.append(station.report(row)["size"])
        station.wait_for("the file leaving", lambda path=path: not os.path.exists(path))  # noqa: PTH110
    first, second = station.entries("twice.csv")
    assert (first.flat_name, second.flat_name) == (b"twice.csv", b"twice~2.csv")
    assert (station.content(first), station.content(second)) == (b"first", b"second one")
    assert reports == [5, 10]


def test_a_name_can_be_saved_again_at_the_very_moment_its_file_leaves(mounted: Make) -> None:
    """The kernel still knows the file that left, and asks for it when the program opens the name."""
    station = mounted(config(converter("files", settle_seconds=0, linger_seconds=0)))
    for number in range(100):
        station.drop("files", "again.csv", b"%d" % number)
    kept = {station.content(row) for row in station.entries("again.csv")}
    assert kept == {b"%d" % number for number in range(100)}


def test_the_same_content_under_the_same_name_in_one_second_is_two_directories(station: Mounted) -> None:
    for _ in range(2):
        Path(os.fsdecode(station.drop("waiting", "twin.csv", b"same"))).unlink()
    labels = {row.label(UTC) for row in station.entries("twin.csv")}
    assert len(labels) == 2
    for row in station.entries("twin.csv"):
        assert all(os.path.exists(place) for place in station.places(row, "pending"))  # noqa: PTH110


def test_a_second_save_before_the_conversion_replaces_the_first(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:good:count", settle_seconds=3)))
    station.drop("csv", "unit.csv", b"first")
    station.drop("csv", "unit.csv", b"second one")
    row = station.wait_for_status("unit.csv", "success")
    first, second = station.entries("unit.csv")
    assert (first.status, first.attempts, first.superseded_by) == ("superseded", 0, second.id)
    assert (row.id, row.attempts, station.report(row)["size"]) == (second.id, 1, 10)
    assert station.facts(first)["superseded_by"] == second.id


def test_a_conversion_waits_while_a_program_goes_on_writing(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:good:count", settle_seconds=2)))
    with open(station.drop("csv", "slow.csv", b"half"), "ab", buffering=0) as file:  # noqa: PTH123
        file.write(b" of it")
        station.drop("csv", "later.csv")
        station.wait_for_status("later.csv", "success")
        assert station.only("slow.csv").status == "pending"
        assert station.only("slow.csv").attempts == 0
    row = station.wait_for_status("slow.csv", "success")
    assert station.report(row)["size"] == len(b"half of it")
    assert [each.status for each in station.entries("slow.csv")] == ["superseded", "success"]


@pytest.mark.parametrize(
    "name",
    [".hidden", "x.tmp", "X.TMP", "x.part", "~$sheet.xlsx", "._unit.csv", "unit.csv~", ".unit.csv.Xy12Za",
     "Thumbs.db", "desktop.ini", ".Trash-0/files/unit.csv", ".sync/unit.csv"],
)  # fmt: skip
def test_junk_is_accepted_and_never_archived(station: Mounted, name: str) -> None:
    file = station.inbox / "files" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"junk")
    assert file.read_bytes() == b"junk"
    assert file.stat().st_size == 4
    assert station.entries(file.name) == []
    file.unlink()


def test_a_rename_from_a_junk_name_is_the_moment_of_capture(station: Mounted) -> None:
    file = station.inbox / "csv" / "renamed.csv.part"
    file.write_bytes(b"all of it")
    os.utime(file, ns=(0, 10**18))
    file.rename(file.with_suffix(""))
    row = station.wait_for_status("renamed.csv", "success")
    assert (len(station.entries("renamed.csv")), row.mtime_ns) == (1, 10**18)
    assert station.content(row) == b"all of it"
    assert station.entries(file.name) == []


def test_a_folder_that_loses_its_junk_name_brings_its_files_with_it(station: Mounted) -> None:
    folder = station.inbox / "csv" / ".upload" / "left"
    folder.mkdir(parents=True)
    (folder / "in a folder.csv").write_bytes(b"all of it")
    assert station.entries("in a folder.csv") == []
    folder.parent.rename(station.inbox / "csv" / "batch 7")
    row = station.wait_for_status("in a folder.csv", "success")
    assert (row.folder, station.content(row)) == (b"batch 7/left", b"all of it")


def test_another_name_before_the_conversion_replaces_the_entry_of_the_old_one(station: Mounted) -> None:
    file = Path(os.fsdecode(station.drop("waiting", "old name.csv")))
    file.rename(file.with_name("new name.csv"))
    (old,), (new,) = station.entries("old name.csv"), station.entries("new name.csv")
    assert (old.status, old.superseded_by, new.status) == ("superseded", new.id, "pending")


def test_removing_a_file_from_the_inbox_keeps_the_entry_and_its_conversion(station: Mounted) -> None:
    os.unlink(station.drop("csv", "removed.csv"))  # noqa: PTH108
    row = station.wait_for_status("removed.csv", "success")
    assert station.content(row) == b"measured"


def test_a_file_leaves_the_inbox_when_its_conversion_and_the_linger_time_are_over(mounted: Make) -> None:
    station = mounted(config(converter("csv", "function:good:count", linger_seconds=2)))
    path = Path(os.fsdecode(station.drop("csv", "unit.csv")))
    row = station.wait_for_status("unit.csv", "success")
    with path.open("rb") as reader:
        assert os.getxattr(path, "user.archivefs.id") == row.id.encode()
        station.wait_for("the file leaving", lambda: not path.exists())
        assert list(path.parent.iterdir()) == []
        assert reader.read() == b"measured"
    assert not (station.root / "staging" / "inbox" / "csv" / "unit.csv").exists()


def test_a_file_with_post_action_keep_stays_also_after_a_remount(mounted: Make) -> None:
    station = mounted(config(KEPT, CSV))
    path = Path(os.fsdecode(station.drop("kept", "unit.csv")))
    station.wait_for_status("unit.csv", "success")
    gone = station.drop("csv", "leaves.csv")
    station.wait_for("the other file leaving", lambda: not os.path.exists(gone))  # noqa: PTH110
    assert path.read_bytes() == b"measured"
    station.remount()
    assert path.read_bytes() == b"measured"
    assert len(station.entries("unit.csv")) == 1
    path.unlink()
    station.remount()
    assert not path.exists()
    assert [row.status for row in station.entries("unit.csv")] == ["success"]


def test_mv_to_another_converter_is_a_copy_and_an_entry_there(station: Mounted) -> None:
    path = Path(os.fsdecode(station.drop("waiting", "moved.csv")))
    refused(errno.EXDEV, lambda: path.rename(station.inbox / "csv" / "moved.csv"))
    run("mv", path, station.inbox / "csv")
    station.wait_for_status("moved.csv", "success")
    here, there = station.entries("moved.csv")
    assert (here.status, there.status, path.exists()) == ("pending", "success", False)
    assert (station.converter_name(here), station.converter_name(there)) == ("waiting", "csv")


def test_a_renamed_folder_is_known_again_after_a_remount(mounted: Make) -> None:
    station = mounted(config(KEPT))
    (station.inbox / "kept" / "batch").mkdir()
    station.drop("kept", "batch/unit.csv")
    station.wait_for_status("unit.csv", "success")
    (station.inbox / "kept" / "batch").rename(station.inbox / "kept" / "batch 7")
    file = station.inbox / "kept" / "batch 7" / "unit.csv"
    assert file.read_bytes() == b"measured"
    station.remount()
    assert file.read_bytes() == b"measured"
    assert [row.status for row in station.live("unit.csv")] == ["success"]


def test_a_save_is_noted_with_its_user_and_program(station: Mounted) -> None:
    run("cp", station.root / "archive.toml", station.inbox / "files" / "by cp")
    journal = "".join(file.read_text() for file in (station.root / "journal").rglob("*.jsonl"))
    (line,) = [line for line in journal.splitlines() if '"name":"by cp"' in line]
    assert json.loads(line)["actor"] == {"uid": os.getuid(), "program": "cp"}


# -- names ---------------------------------------------------------------------------------------------

NAMES = [
    b"not utf-8 \xff\xfe.csv", b"n" * 251 + b".csv", b"\xc3\xa9" * 125 + b".csv", b"two\nlines.csv",
    b"-rf.csv",
    b"report.json", b"entry.json", b"error.txt", b"attempts", b"log.txt", "Prüfplatz 測定 🔧.csv".encode(),
    b"quoted \"'`$(x)\\.csv", b"a", b"a~2.csv", b"100%.csv", b" leading and trailing ", b"\x01\x1b[31m.csv",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name.decode("latin-1"))[1:13])
def test_a_name_survives_the_round_trip_byte_for_byte(station: Mounted, name: bytes) -> None:
    content = b"content of " + name
    station.drop("csv", name, content)
    row = station.wait_for_status(name, "success")
    report = station.report(row, "report~2.json" if name == b"report.json" else "report.json")
    assert report == {"size": len(content), "name_hex": name.hex(), "arguments": {}}
    *directories, flat = station.places(row, "success")
    for directory in (*directories, os.fsencode(station.entry_dir(row))):
        assert len(os.path.basename(directory)) <= 255  # noqa: PTH119
        assert name in os.listdir(directory)  # noqa: PTH208
        with open(directory + b"/" + name, "rb") as file:  # noqa: PTH123
            assert file.read() == content
    assert os.path.basename(flat) == name  # noqa: PTH119
    with open(flat, "rb") as file:  # noqa: PTH123
        assert file.read() == content
    listed = os.listdir(os.path.dirname(directories[0]))  # noqa: PTH120, PTH208
    assert os.path.basename(directories[0]) in listed  # noqa: PTH119


@pytest.mark.parametrize("name", ["report.json", "entry.json", "error.txt", "attempts"])
def test_a_source_named_as_one_of_ours_keeps_its_name_and_ours_gets_another(
    station: Mounted, name: str
) -> None:
    station.drop("csv", name, b"mine, of " + name.encode())
    row = station.wait_for_status(name, "success")
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    ours = {"entry.json", "report.json", "attempts"} - {name} | {name}
    ours |= {f"{stem}~2{suffix}"} if name != "error.txt" else set()
    assert {each.name for each in station.entry_dir(row).iterdir()} == ours
    assert station.content(row) == b"mine, of " + name.encode()


# -- what is refused -----------------------------------------------------------------------------------


def test_no_folder_can_be_made_in_the_inbox_itself_and_the_log_says_why(station: Mounted) -> None:
    refused(errno.EPERM, lambda: (station.inbox / "new").mkdir())
    refused(errno.ENOENT, lambda: (station.inbox / "new" / "unit.csv").write_bytes(b""))
    refused(errno.EPERM, lambda: (station.inbox / "csv").rmdir())
    refused(errno.EPERM, lambda: (station.inbox / "csv").rename(station.inbox / "new"))
    file = Path(os.fsdecode(station.drop("waiting", "stays.csv")))
    refused(errno.EXDEV, lambda: file.rename(station.inbox / "stays.csv"))
    assert names_in(station.inbox) == ["csv", "files", "kept", "waiting"]
    assert '"new" cannot be made, renamed or removed in inbox/' in station.log()
    assert "there are: csv, files, kept, waiting" in station.log()


def test_links_pipes_and_devices_are_refused(station: Mounted) -> None:
    folder = station.inbox / "waiting"
    file = Path(os.fsdecode(station.drop("waiting", "linked.csv")))
    refused(errno.EPERM, lambda: os.link(file, folder / "link.csv"))
    refused(errno.EPERM, lambda: (folder / "link.csv").symlink_to("/etc/passwd"))
    refused(errno.EPERM, lambda: os.mkfifo(folder / "pipe.csv"))
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(folder)
        refused(errno.EPERM, lambda: bound.bind("s"))
        os.chdir("/")
    assert station.entries("link.csv") == station.entries("pipe.csv") == []


def test_the_archive_tree_cannot_be_changed(station: Mounted) -> None:
    station.drop("files", "fixed.csv", b"fixed")
    row = station.only("fixed.csv")
    for place in (*station.places(row, "archived"), os.fsencode(station.entry_dir(row))):
        where = Path(os.fsdecode(place))
        source, folder = (where, where.parent) if where.is_file() else (where / "fixed.csv", where)
        for action in (
            lambda source=source: source.open("wb"),
            lambda source=source: source.open("r+b"),
            lambda source=source: source.open("ab"),
            lambda source=source: os.truncate(source, 0),
            lambda source=source: source.unlink(),
            lambda source=source: source.chmod(0o600),
            lambda source=source: os.utime(source),
            lambda source=source: os.chown(source, 1, 1),
            lambda source=source: os.setxattr(source, "user.mine", b"1"),
            lambda source=source: os.removexattr(source, "user.archivefs.id"),
            lambda source=source, folder=folder: source.rename(folder / "other"),
            lambda folder=folder: (folder / "new").write_bytes(b""),
            lambda folder=folder: (folder / "new").mkdir(),
            lambda where=where: where.rmdir() if where.is_dir() else where.unlink(),
        ):
            refused(errno.EROFS, action)
        assert source.read_bytes() == b"fixed"
    refused(errno.EROFS, lambda: (station.point / "README.txt").write_bytes(b""))
    refused(errno.EROFS, lambda: (station.point / "stats.json").unlink())
    refused(errno.EROFS, lambda: (station.point / "inbox").rmdir())
    refused(errno.EROFS, lambda: (station.point / "new").mkdir())


def test_a_file_cannot_be_moved_out_of_the_inbox_into_the_tree(station: Mounted) -> None:
    file = Path(os.fsdecode(station.drop("waiting", "there.csv")))
    refused(errno.EROFS, lambda: file.rename(station.point / "by-id" / "there.csv"))
    assert file.read_bytes() == b"measured"


# -- attributes ----------------------------------------------------------------------------------------


def test_mode_owner_and_times_set_in_the_inbox_belong_to_the_entry(station: Mounted) -> None:
    file = Path(os.fsdecode(station.drop("waiting", "owned.csv")))
    file.chmod(0o640)
    os.chown(file, 1234, 5678)
    os.utime(file, ns=(1, 1_600_000_000_000_000_001))
    row, facts = station.only("owned.csv"), file.stat()
    assert (row.mode, row.uid, row.gid, row.mtime_ns) == (0o640, 1234, 5678, 1_600_000_000_000_000_001)
    assert (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid) == (0o640, 1234, 5678)
    assert facts.st_mtime_ns == row.mtime_ns
    assert (station.entry_dir(row) / "owned.csv").stat().st_mtime_ns == row.mtime_ns
    assert station.facts(row)["mode"] == "0640"


def test_extended_attributes_can_be_kept_in_the_inbox_but_not_in_our_name(station: Mounted) -> None:
    file = Path(os.fsdecode(station.drop("waiting", "tagged.csv")))
    os.setxattr(file, "user.operator", b"mbauer")
    assert os.getxattr(file, "user.operator") == b"mbauer"
    assert sorted(os.listxattr(file)) == ["user.archivefs.id", "user.operator"]
    refused(errno.ENOTSUP, lambda: os.setxattr(file, "user.archivefs.id", b"forged"))
    refused(errno.ENOTSUP, lambda: os.setxattr(file, "trusted.mine", b"1"))
    os.removexattr(file, "user.operator")
    assert os.listxattr(file) == ["user.archivefs.id"]


def test_programs_can_lock_a_file_in_the_inbox(station: Mounted) -> None:
    with open(station.drop("waiting", "locked.csv"), "r+b") as first:  # noqa: PTH123
        fcntl.flock(first, fcntl.LOCK_EX)
        with open(first.name, "rb") as second:  # noqa: PTH123
            refused(errno.EWOULDBLOCK, lambda: fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB))


def test_a_folder_full_of_files_can_be_removed(station: Mounted) -> None:
    folder = station.inbox / "kept" / "full" / "below"
    folder.mkdir(parents=True)
    for number in range(300):
        (folder / f".{number:04} {'n' * 100}").touch()
    assert len(names_in(folder)) == 300
    run("rm", "-r", folder.parent)
    assert not folder.parent.exists()


# -- no room -------------------------------------------------------------------------------------------


def test_below_the_reserve_nothing_can_be_saved_and_nothing_is_half_saved(mounted: Make) -> None:
    station = mounted(config(KEPT, FILES))
    file = Path(os.fsdecode(station.drop("kept", "before.csv")))
    station.wait_for_status("before.csv", "success")
    toml = station.root / "archive.toml"
    toml.write_text(toml.read_text().replace("reserve = 0", 'reserve = "1000 TB"'))
    station.remount()
    refused(errno.ENOSPC, lambda: (station.inbox / "kept" / "new.csv").write_bytes(b"x"))
    refused(errno.ENOSPC, lambda: (station.inbox / "kept" / "new").mkdir())
    refused(errno.ENOSPC, lambda: file.open("ab"))
    refused(errno.ENOSPC, lambda: os.truncate(file, 3))
    assert file.read_bytes() == b"measured"
    assert [row.name for row in station.entries()] == [b"before.csv"]
    assert names_in(station.inbox / "kept") == ["before.csv"]
    assert "has less free than the reserve" in station.log()
    file.rename(file.with_name(".before.csv"))
    file.with_name(".before.csv").unlink()


@contextmanager
def a_small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own that is full soon."""
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield folder
    finally:
        run("umount", folder)


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


def has_room(disk: Path, size: int) -> Callable[[], bool]:
    """Whether the disk has that much free: the end of a failed save is told to the daemon after its close."""
    return lambda: shutil.disk_usage(disk).free > size


@only_root
def test_a_disk_that_fills_up_is_told_to_the_writer_and_takes_nothing_with_it(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(20 << 20)
    expected = ["could not be captured, trying again", "could still not be captured"]
    with (
        a_small_disk(tmp_path / "disk", "16m") as disk,
        an_archive(disk, config(FILES), expected_log=expected) as station,
    ):
        station.drop("files", "before.csv", noise[:1000])
        for name, size in (("larger than the disk", 20 << 20), ("no room beside it", 10 << 20)):
            file = station.inbox / "files" / name
            refused(errno.ENOSPC, lambda file=file, size=size: write_all(file, noise[:size]))
            assert station.entries(name) == []
            file.unlink()
            station.wait_for("room again", has_room(disk, 14 << 20))
        station.drop("files", "after.csv", noise[:2000])
        for name, size in (("before.csv", 1000), ("after.csv", 2000)):
            row = station.only(name)
            assert (row.status, sha256(station.content(row))) == ("archived", sha256(noise[:size]))


@only_root
def test_half_a_file_whose_writer_was_told_so_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    toml = config(CSV, reserve="8 MiB")
    with a_small_disk(tmp_path / "disk", "20m") as disk, an_archive(disk, toml) as station:
        file = station.inbox / "csv" / "half.csv"
        refused(errno.ENOSPC, lambda: write_all(file, bytes(20 << 20)))
        assert file.stat().st_size < 20 << 20
        file.unlink()
        station.wait_for("room again", has_room(disk, 15 << 20))
        station.drop("csv", "after.csv")
        station.wait_for_status("after.csv", "success")
        assert {row.status for row in station.live("half.csv")} <= {"quarantined"}


def write_all(file: Path, content: bytes) -> None:
    """As a careful program does; a close that fails counts too."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        while content:
            content = content[os.write(fd, content[: 1 << 20]) :]
    except OSError:
        with suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)
