"""What programs do when they save: whatever way they take, the bytes of the last close are archived, once."""

import errno
import mmap
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from mount_parts import Mounted, an_archive, config, converter, run

from archivefs.catalog.rows import Entry

STAMP_NS = 1_700_000_000_123_456_789
"""An mtime that no clock gives by chance."""
REPORT = b"serial,SN24000017\nstep,net,value\n1,R101,9.987\nEND,1\n"
NEWER = b"serial,SN24000017\nstep,net,value\n1,R101,10.02\n2,R102,4.7\nEND,2\n"


class Saved(NamedTuple):
    """What must be archived: name, content, sub-folder of the writer's own one, and mtime where known."""

    name: str
    content: bytes
    folder: str = ""
    mtime_ns: int | None = None


Writer = Callable[[Path, Path], list[Saved]]
"""Saves into the inbox folder it is given, may use a scratch folder, and says what must be archived."""


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """An inbox whose conversions never come, so that each new version replaces the one before."""
    toml = config(converter("csv", "function:good:count", settle_seconds=3600))
    with an_archive(tmp_path_factory.mktemp("writers"), toml) as archive:
        yield archive


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder outside the mount with a source, unit.csv, in it."""
    source = tmp_path / "unit.csv"
    source.write_bytes(REPORT)
    os.utime(source, ns=(STAMP_NS, STAMP_NS))
    return tmp_path


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


# -- programs ------------------------------------------------------------------------------------------


def cp(folder: Path, scratch: Path) -> list[Saved]:
    run("cp", scratch / "unit.csv", folder)
    return [Saved("unit.csv", REPORT)]


def cp_p(folder: Path, scratch: Path) -> list[Saved]:
    run("cp", "-p", scratch / "unit.csv", folder)
    return [Saved("unit.csv", REPORT, mtime_ns=STAMP_NS)]


def cp_over_an_older_file(folder: Path, scratch: Path) -> list[Saved]:
    (folder / "unit.csv").write_bytes(NEWER * 3)
    run("cp", "-p", scratch / "unit.csv", folder)
    return [Saved("unit.csv", REPORT, mtime_ns=STAMP_NS)]


def cp_r(folder: Path, scratch: Path) -> list[Saved]:
    for part in ("line 1/left", "line 1/right"):
        (scratch / part).mkdir(parents=True)
        run("cp", "-p", scratch / "unit.csv", scratch / part)
    run("cp", "-rp", scratch / "line 1", folder)
    return [Saved("unit.csv", REPORT, f"line 1/{side}", STAMP_NS) for side in ("left", "right")]


def mv_from_another_disk(folder: Path, scratch: Path) -> list[Saved]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        shutil.copy2(scratch / "unit.csv", elsewhere)
        run("mv", f"{elsewhere}/unit.csv", folder)
        assert not any(Path(elsewhere).iterdir())
    return [Saved("unit.csv", REPORT, mtime_ns=STAMP_NS)]


def rsync(folder: Path, scratch: Path) -> list[Saved]:
    run("rsync", scratch / "unit.csv", folder)
    return [Saved("unit.csv", REPORT)]


def rsync_a(folder: Path, scratch: Path) -> list[Saved]:
    run("rsync", "-a", "--fsync", scratch / "unit.csv", folder)
    return [Saved("unit.csv", REPORT, mtime_ns=STAMP_NS)]


def rsync_inplace(folder: Path, scratch: Path) -> list[Saved]:
    (folder / "unit.csv").write_bytes(NEWER)
    run("rsync", "-a", "--inplace", "--no-whole-file", scratch / "unit.csv", folder)
    return [Saved("unit.csv", REPORT, mtime_ns=STAMP_NS)]


def tar_x(folder: Path, scratch: Path) -> list[Saved]:
    run("tar", "-C", scratch, "-cf", scratch / "batch.tar", "unit.csv")
    run("tar", "-C", folder, "-xpf", scratch / "batch.tar")
    return [Saved("unit.csv", REPORT, mtime_ns=STAMP_NS // 10**9 * 10**9)]


def install(folder: Path, scratch: Path) -> list[Saved]:
    run("install", "-p", "-m", "0640", scratch / "unit.csv", folder)
    return [Saved("unit.csv", REPORT, mtime_ns=STAMP_NS)]


def dd_in_odd_blocks(folder: Path, scratch: Path) -> list[Saved]:
    content = noise(300_001)
    (scratch / "big").write_bytes(content)
    run("dd", f"if={scratch}/big", f"of={folder}/unit.bin", "bs=7777", "conv=fsync")
    return [Saved("unit.bin", content)]


def dd_into_the_middle(folder: Path, scratch: Path) -> list[Saved]:
    (folder / "unit.bin").write_bytes(b"a" * 10_000)
    run("dd", f"if={scratch}/unit.csv", f"of={folder}/unit.bin", "bs=1", "seek=5003", "conv=notrunc")
    return [Saved("unit.bin", b"a" * 5003 + REPORT + b"a" * (10_000 - 5003 - len(REPORT)))]


def dd_past_the_cache(folder: Path, scratch: Path) -> list[Saved]:
    content = noise(8 * 4096)
    (scratch / "big").write_bytes(content)
    run("dd", f"if={scratch}/big", f"of={folder}/unit.bin", "bs=4096", "oflag=direct")
    return [Saved("unit.bin", content)]


def tee_a(folder: Path, scratch: Path) -> list[Saved]:
    for line in (b"one\n", b"two\n", b"three\n"):
        subprocess.run(["tee", "-a", folder / "unit.log"], input=line, stdout=subprocess.DEVNULL, check=True)
    return [Saved("unit.log", b"one\ntwo\nthree\n")]


def a_shell_that_redirects(folder: Path, scratch: Path) -> list[Saved]:
    run("sh", "-c", 'echo one > "$0"; { echo two; echo three; } >> "$0"', folder / "unit.log")
    return [Saved("unit.log", b"one\ntwo\nthree\n")]


def truncate_shorter(folder: Path, scratch: Path) -> list[Saved]:
    run("cp", scratch / "unit.csv", folder)
    run("truncate", "-s", "17", folder / "unit.csv")
    return [Saved("unit.csv", REPORT[:17])]


def truncate_by_name_longer(folder: Path, scratch: Path) -> list[Saved]:
    run("cp", scratch / "unit.csv", folder)
    os.truncate(folder / "unit.csv", 5000)
    return [Saved("unit.csv", REPORT.ljust(5000, b"\0"))]


def touch(folder: Path, scratch: Path) -> list[Saved]:
    run("touch", folder / "unit.csv")
    return [Saved("unit.csv", b"")]


def touch_d_after_the_copy(folder: Path, scratch: Path) -> list[Saved]:
    run("cp", scratch / "unit.csv", folder)
    run("touch", "-d", "2024-02-29T12:34:56.789Z", folder / "unit.csv")
    return [Saved("unit.csv", REPORT, mtime_ns=1_709_210_096_789_000_000)]


def chmod_after_the_copy(folder: Path, scratch: Path) -> list[Saved]:
    run("cp", "-p", scratch / "unit.csv", folder)
    run("chmod", "0640", folder / "unit.csv")
    return [Saved("unit.csv", REPORT, mtime_ns=STAMP_NS)]


def sed_i(folder: Path, scratch: Path) -> list[Saved]:
    run("cp", scratch / "unit.csv", folder)
    run("sed", "-i", "s/9.987/10.02/", folder / "unit.csv")
    return [Saved("unit.csv", REPORT.replace(b"9.987", b"10.02"))]


def vim(folder: Path, scratch: Path) -> list[Saved]:
    if shutil.which("vim") is None:
        pytest.skip("vim is not installed")
    run("cp", scratch / "unit.csv", folder)
    run("vim", "-u", "NONE", "-es", "-c", "set writebackup backupcopy=no backupskip=", "-c", "2d", "-c", "wq",
        folder / "unit.csv", stdin=subprocess.DEVNULL)  # fmt: skip
    return [Saved("unit.csv", REPORT.replace(b"step,net,value\n", b""))]


# -- what programs do ----------------------------------------------------------------------------------


def an_editor_that_keeps_a_backup(folder: Path, scratch: Path) -> list[Saved]:
    (folder / "unit.csv").write_bytes(REPORT)
    (folder / ".unit.csv.new").write_bytes(NEWER)
    (folder / "unit.csv").rename(folder / "unit.csv~")
    (folder / ".unit.csv.new").rename(folder / "unit.csv")
    (folder / "unit.csv~").unlink()
    return [Saved("unit.csv", NEWER)]


def a_temporary_that_is_renamed(folder: Path, scratch: Path) -> list[Saved]:
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(REPORT)
        os.fsync(file.fileno())
    Path(file.name).replace(folder / "unit.csv")
    return [Saved("unit.csv", REPORT)]


def a_temporary_that_replaces(folder: Path, scratch: Path) -> list[Saved]:
    (folder / "unit.csv").write_bytes(REPORT)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
        file.write(NEWER)
    Path(file.name).replace(folder / "unit.csv")
    return [Saved("unit.csv", NEWER)]


def one_that_is_renamed_while_it_is_written(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.part").open("wb", buffering=0) as file:
        file.write(REPORT)
        (folder / "unit.part").rename(folder / "unit.csv")
        file.write(NEWER)
    return [Saved("unit.csv", REPORT + NEWER)]


def a_new_content_over_the_old(folder: Path, scratch: Path) -> list[Saved]:
    (folder / "unit.csv").write_bytes(NEWER)
    (folder / "unit.csv").write_bytes(REPORT)
    return [Saved("unit.csv", REPORT)]


def seeks_and_overwrites(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.csv").open("wb") as file:
        file.write(REPORT)
        file.seek(7)
        file.write(b"XX")
        file.seek(0, os.SEEK_END)
        file.write(b"more")
    return [Saved("unit.csv", REPORT[:7] + b"XX" + REPORT[9:] + b"more")]


def reads_while_it_writes(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.csv").open("w+b") as file:
        file.write(REPORT)
        file.seek(0)
        assert file.read() == REPORT
        file.write(NEWER)
    return [Saved("unit.csv", REPORT + NEWER)]


def changes_a_byte(folder: Path, scratch: Path) -> list[Saved]:
    (folder / "unit.csv").write_bytes(REPORT)
    with (folder / "unit.csv").open("r+b") as file:
        assert file.read(6) == b"serial"
        file.seek(0)
        file.write(b"S")
    return [Saved("unit.csv", b"S" + REPORT[1:])]


def creates_exclusively(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.csv").open("xb") as file:
        file.write(REPORT)
    with pytest.raises(FileExistsError):
        (folder / "unit.csv").open("xb")
    return [Saved("unit.csv", REPORT)]


def syncs(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.csv").open("wb", buffering=0) as file:
        file.write(REPORT)
        os.fsync(file.fileno())
        file.write(NEWER)
        os.fdatasync(file.fileno())
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return [Saved("unit.csv", REPORT + NEWER)]


def preallocates(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.csv").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        file.write(REPORT)
        file.truncate()
    return [Saved("unit.csv", REPORT)]


def duplicates_and_closes_twice(folder: Path, scratch: Path) -> list[Saved]:
    fd = os.open(folder / "unit.csv", os.O_WRONLY | os.O_CREAT)
    os.write(fd, REPORT)
    again = os.dup(fd)
    os.close(fd)
    os.write(again, NEWER)
    os.close(again)
    return [Saved("unit.csv", REPORT + NEWER)]


def makes_a_node(folder: Path, scratch: Path) -> list[Saved]:
    os.mknod(folder / "unit.csv")
    return [Saved("unit.csv", b"")]


def lets_a_child_write(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.csv").open("wb", buffering=0) as file:
        file.write(REPORT)
        subprocess.run(["echo", "from the child"], stdout=file, check=True)
        file.write(NEWER)
    return [Saved("unit.csv", REPORT + b"from the child\n" + NEWER)]


def maps(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.csv").open("w+b") as file:
        file.truncate(70_000)
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[: len(REPORT)] = REPORT
            memory[60_000:60_004] = b"last"
    return [Saved("unit.csv", REPORT.ljust(60_000, b"\0") + b"last".ljust(10_000, b"\0"))]


def maps_and_writes_after_the_close(folder: Path, scratch: Path) -> list[Saved]:
    file = (folder / "unit.csv").open("w+b")
    file.write(REPORT)
    file.flush()
    with mmap.mmap(file.fileno(), 0) as memory:
        file.close()
        memory[:6] = b"SERIAL"
    return [Saved("unit.csv", b"SERIAL" + REPORT[6:])]


def leaves_holes(folder: Path, scratch: Path) -> list[Saved]:
    with (folder / "unit.bin").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(5 << 20)
    return [Saved("unit.bin", bytes(3 << 20) + b"middle" + bytes((2 << 20) - 6))]


def sends_from_a_file(folder: Path, scratch: Path) -> list[Saved]:
    content = noise(1_000_003)
    (scratch / "big").write_bytes(content)
    with (scratch / "big").open("rb") as source, (folder / "unit.bin").open("wb") as target:
        left = len(content)
        while left:
            left -= os.sendfile(target.fileno(), source.fileno(), None, left)
    return [Saved("unit.bin", content)]


def twenty_megabytes(folder: Path, scratch: Path) -> list[Saved]:
    content = REPORT * (20_000_000 // len(REPORT))
    (folder / "unit.log").write_bytes(content)
    return [Saved("unit.log", content)]


def forty_megabytes_of_noise(folder: Path, scratch: Path) -> list[Saved]:
    content = noise(40_000_000)
    (folder / "unit.bin").write_bytes(content)
    return [Saved("unit.bin", content)]


def many_small_ones(folder: Path, scratch: Path) -> list[Saved]:
    saved = [Saved(f"unit {number}.csv", b"%d" % number) for number in range(50)]
    for each in saved:
        (folder / each.name).write_bytes(each.content)
    return saved


PROGRAMS: list[Writer] = [
    cp, cp_p, cp_over_an_older_file, cp_r, mv_from_another_disk, rsync, rsync_a, rsync_inplace, tar_x,
    install, dd_in_odd_blocks, dd_into_the_middle, dd_past_the_cache, tee_a, a_shell_that_redirects,
    truncate_shorter, truncate_by_name_longer, touch, touch_d_after_the_copy, chmod_after_the_copy,
    sed_i, vim, an_editor_that_keeps_a_backup, a_temporary_that_is_renamed, a_temporary_that_replaces,
    one_that_is_renamed_while_it_is_written, a_new_content_over_the_old, seeks_and_overwrites,
    reads_while_it_writes, changes_a_byte, creates_exclusively, syncs, preallocates,
    duplicates_and_closes_twice, lets_a_child_write, makes_a_node, maps,
    maps_and_writes_after_the_close, leaves_holes, sends_from_a_file, twenty_megabytes,
    forty_megabytes_of_noise, many_small_ones,
]  # fmt: skip


def shown(row: Entry, place: Path) -> tuple[str, str]:
    """Folder below the writer's own one, and name."""
    return os.path.relpath(os.fsdecode(row.folder), place.name).removeprefix("."), os.fsdecode(row.name)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_what_a_program_saves_is_archived_once_as_it_was_at_the_last_close(
    station: Mounted, scratch: Path, program: Writer
) -> None:
    place = station.inbox / "csv" / program.__name__
    place.mkdir()
    expected = sorted(program(place, scratch))
    folder = os.fsencode(program.__name__)
    rows = [row for row in station.live() if row.folder.split(b"/")[0] == folder]
    found = sorted((shown(row, place)[::-1], row) for row in rows)
    assert [names for names, _ in found] == [(each.name, each.folder) for each in expected]
    for each, (_, row) in zip(expected, found, strict=True):
        facts = (place / each.folder / each.name).stat()
        assert row.size == facts.st_size == len(each.content)
        assert station.content(row) == each.content
        assert row.mtime_ns == facts.st_mtime_ns
        assert each.mtime_ns in (None, row.mtime_ns)
        assert (row.mode, row.uid, row.gid) == (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid)


def test_each_close_that_changed_something_is_a_version_and_the_last_one_counts(station: Mounted) -> None:
    file = station.inbox / "csv" / "versions.csv"
    for content in (b"first", b"second", b"third"):
        file.write_bytes(content)
    with file.open("ab"):
        pass
    *older, last = station.entries("versions.csv")
    assert [station.content(row) for row in older] == [b"first", b"second"]
    assert [row.status for row in older] == ["superseded", "superseded"]
    assert [row.superseded_by for row in older] == [older[1].id, last.id]
    assert station.content(last) == b"third"


def test_opening_a_file_anew_and_emptying_it_makes_no_version_of_its_own(station: Mounted) -> None:
    file = station.inbox / "csv" / "emptied.csv"
    file.write_bytes(b"first")
    with file.open("wb") as out:
        assert [row.size for row in station.entries("emptied.csv")] == [5]
        out.write(b"second")
    assert [row.size for row in station.entries("emptied.csv")] == [5, 6]


def test_a_shell_redirection_does_not_leave_an_empty_version_behind(station: Mounted) -> None:
    # The shell closes its first descriptor before the command has written anything.
    run("sh", "-c", 'echo hello > "$0"', station.inbox / "csv" / "redirected.log")
    assert [row.size for row in station.entries("redirected.log")] == [6]
    assert station.only("redirected.log").flat_name == b"redirected.log"


def test_closing_a_file_that_was_only_read_is_no_version(station: Mounted) -> None:
    file = station.inbox / "csv" / "read.csv"
    file.write_bytes(REPORT)
    assert file.read_bytes() == REPORT
    with file.open("r+b") as opened:
        assert opened.read() == REPORT
    assert len(station.entries("read.csv")) == 1


def test_a_mapped_file_is_archived_at_close_and_again_when_the_map_is_gone(station: Mounted) -> None:
    file = station.inbox / "csv" / "mapped.csv"
    with file.open("w+b") as opened:
        opened.write(REPORT)
        opened.flush()
        memory = mmap.mmap(opened.fileno(), 0)
    assert station.content(station.only("mapped.csv")) == REPORT
    memory[:6] = b"SERIAL"
    memory.close()
    first, last = station.wait_for("second version", lambda: station.entries("mapped.csv")[:2])[:2]
    assert (first.status, station.content(last)) == ("superseded", b"SERIAL" + REPORT[6:])


def test_a_file_without_a_name_is_refused_as_on_other_disks_without_them(station: Mounted) -> None:
    with pytest.raises(OSError, match="not supported") as caught:
        os.open(station.inbox / "csv", os.O_TMPFILE | os.O_WRONLY)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_a_file_that_is_removed_before_its_close_is_not_archived(station: Mounted) -> None:
    file = station.inbox / "csv" / "gone.csv"
    with file.open("w+b") as opened:
        opened.write(REPORT)
        file.unlink()
        opened.write(NEWER)
        opened.seek(0)
        assert opened.read() == REPORT + NEWER
        assert os.fstat(opened.fileno()).st_size == len(REPORT + NEWER)
    assert station.entries("gone.csv") == []


def test_many_writers_at_once_are_all_archived(station: Mounted) -> None:
    folder = station.inbox / "csv" / "crowd"
    folder.mkdir()
    script = 'for n in $(seq 40); do echo "$1 $n" | dd of="$0/unit $1 $n" status=none || exit 1; done'
    crowd = [subprocess.Popen(["sh", "-c", script, folder, str(number)]) for number in range(4)]
    assert [each.wait(60) for each in crowd] == [0, 0, 0, 0]
    rows = {row.name: row for row in station.live() if row.folder == b"crowd"}
    assert len(rows) == 160
    assert all(station.content(row) == row.name[5:] + b"\n" for row in rows.values())
