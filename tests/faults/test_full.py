"""Disks that fill up: the true errno reaches the program, nothing acknowledged is lost, and it goes on."""

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count

import pytest
from disks import Disk
from fault_parts import MODULES, TOML, Station, require_tools, say, threads
from ledger import Ledger
from makers import Make, MakeDisk
from mount_parts import archivefs, poll, run

from archivefs.rebuilding import CATALOG

FREE_KB = (0, 4, 8, 16, 28, 44, 64, 100, 160, 300)
CONTENT = bytes(range(256)) * 40
SPACE = (errno.ENOSPC,)

Squeeze = Callable[[], object]
"""Takes a little more away. Saving alone need not: an inode comes back as soon as its file is archived."""
Full = AbstractContextManager[Squeeze | None]


def attempt(station: Station, ledger: Ledger, name: str, content: bytes, folder: str = "files") -> int:
    """Save a file; 0 where it was acknowledged, else the errno that the program saw."""
    ledger.trying(folder, name, content)
    try:
        station.write(name, content, folder)
    except OSError as error:
        return error.errno or -1
    ledger.promise(folder, name, content)
    return 0


def still_serves(station: Station, ledger: Ledger) -> None:
    """The daemon lives, lists, and reads what is archived."""
    assert station.is_alive()
    assert any((station.point / "by-converter/files").iterdir())
    entry = station.entries("kept.csv")[0]
    assert station.content(entry) == b"kept"
    assert '"ok"' in (station.point / "health.json").read_text()
    assert ledger.size > 0


def fill_up(station: Station, ledger: Ledger, label: str, expected: tuple[int, ...],
            squeeze: Squeeze | None = None) -> int:  # fmt: skip
    """Save files of several sizes until none fits any more; returns how many were acknowledged."""
    saved = 0
    for turn in range(400):
        content = f"{label} {turn}\n".encode() + os.urandom((100, 3000, 20_000, 70_000)[turn % 4])
        refused = attempt(station, ledger, f"{label}-{turn}.csv", content, ("files", "other")[turn % 2])
        if refused == 0:
            saved += 1
            if squeeze:
                squeeze()
            continue
        assert refused in expected, f"errno {errno.errorcode.get(refused)} after {saved} files"
        if turn % 4 == 0:
            break
    else:
        pytest.fail("the disk never became full")
    return saved


@contextmanager
def ballast(disk: Disk, free_kb: int) -> Iterator[None]:
    """A file that leaves so much free, however much its neighbours take or leave in between."""
    file = disk.path / "ballast"
    file.touch()

    def fits() -> bool:
        facts = os.statvfs(disk.path)
        size = max(facts.f_bavail * facts.f_frsize - free_kb * 1024, 1)
        with file.open("wb") as out, contextlib.suppress(OSError):
            os.posix_fallocate(out.fileno(), 0, size)
            return True
        return False

    poll("a ballast that fits", fits)
    yield
    file.unlink()


@contextmanager
def few_inodes(disk: Disk, free: int) -> Iterator[Squeeze]:
    """Empty files that leave so few inodes, and one less each time it is asked to."""
    folder = disk.path / "many"
    folder.mkdir()
    numbers = count()

    def take() -> bool:
        with contextlib.suppress(OSError):
            (folder / str(next(numbers))).touch()
            return True
        return False

    for _ in range(os.statvfs(disk.path).f_ffree - free):
        if not take():
            break
    yield take
    run("rm", "-r", folder)


def begin(station: Station) -> Ledger:
    """Mount it, with something in it."""
    ledger = Ledger()
    station.mount()
    assert attempt(station, ledger, "kept.csv", b"kept") == 0
    return ledger


def finish(station: Station, ledger: Ledger, family: str, rounds: int, deaths: int = 0) -> None:
    """After the disk has room again: captures work without a remount, and all is as promised."""
    assert attempt(station, ledger, "after.csv", b"after " + family.encode()) == 0
    station.umount()
    station.examine(ledger)
    say(family, rounds=rounds, acknowledged=ledger.size, lost=0, mount_deaths=deaths)


def fill_again_and_again(station: Station, family: str, filled: Sequence[Full],
                         expected: tuple[int, ...] = SPACE) -> None:  # fmt: skip
    """Let the disk become full in each of these ways, with room in between."""
    ledger = begin(station)
    for number, full in enumerate(filled):
        with full as squeeze:
            fill_up(station, ledger, f"{family.replace(' ', '-')}-{number}", expected, squeeze)
            still_serves(station, ledger)
        assert attempt(station, ledger, f"between-{number}.csv", os.urandom(5000)) == 0
        still_serves(station, ledger)
    finish(station, ledger, family, len(filled))


def test_a_disk_without_room_refuses_with_enospc_and_goes_on_when_there_is_room(
    station: Make, disk: MakeDisk
) -> None:
    made = disk("tmpfs", options="size=24m")
    archive = station(root=made.path / "archive")
    fill_again_and_again(archive, "full tmpfs", [ballast(made, free) for free in FREE_KB])


def test_a_disk_without_inodes_refuses_with_enospc_and_goes_on_when_there_are_some(
    station: Make, disk: MakeDisk
) -> None:
    made = disk("tmpfs", options="size=64m,nr_inodes=400")
    archive = station(root=made.path / "archive")
    fill_again_and_again(archive, "no inodes", [few_inodes(made, free) for free in (0, 1, 2, 3, 5, 9)])


def test_a_quota_on_btrfs_loses_nothing_even_where_it_ends_the_mount(station: Make, disk: MakeDisk) -> None:
    """SQLite shares memory through a mapped file; where btrfs refuses it a page, the kernel sends SIGBUS.

    docs/durability.md names this under what is not covered.
    """
    require_tools("btrfs")
    made = disk("btrfs", 256)
    archive = station(root=made.path / "archive")
    ledger, deaths = begin(archive), 0

    def limit(size: str) -> None:
        # What was written under the former limit may not be accounted yet; then btrfs refuses another one.
        run("sync", "--file-system", made.path)
        run("btrfs", "qgroup", "limit", size, "0/5", made.path)

    @contextmanager
    def limited(size: str) -> Iterator[None]:
        run("btrfs", "quota", "enable", made.path)
        limit(size)
        yield
        limit("none")

    refused = (errno.EDQUOT, errno.ECONNABORTED, errno.ENOTCONN)
    for number, size in enumerate(("2M", "4M", "7M")):
        with limited(size):
            fill_up(archive, ledger, f"quota-{number}", refused)
        poll("an end, or none", lambda: archive.is_alive() or threads(archive.pid) == 0)
        if not archive.is_alive():
            deaths += 1
            archive.killed = True
            archive.mount()
        assert attempt(archive, ledger, f"between-{number}.csv", os.urandom(5000)) == 0
        still_serves(archive, ledger)
    finish(archive, ledger, "quota of btrfs", 3, deaths)


def test_a_limit_on_file_sizes_refuses_with_efbig_and_goes_on_when_it_is_raised(station: Make) -> None:
    require_tools("prlimit")
    archive = station()
    segment_bytes = 200_000

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        resource.prlimit(archive.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        yield
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(archive.pid, resource.RLIMIT_FSIZE, unlimited)

    sizes = (segment_bytes, 50, segment_bytes * 2, segment_bytes * 6)
    fill_again_and_again(archive, "file size limit", [limited(size) for size in sizes], (errno.EFBIG,))


def test_the_reserve_keeps_captures_out_before_the_disk_is_full(station: Make, disk: MakeDisk) -> None:
    made = disk("tmpfs", options="size=24m")
    toml = TOML.replace("reserve = 0", 'reserve = "2 MiB"')
    archive = station(toml, MODULES, root=made.path / "archive")
    ledger = begin(archive)
    with ballast(made, 2500):
        fill_up(archive, ledger, "reserve", SPACE)
        assert os.statvfs(made.path).f_bavail * 4096 > 1 << 20
        # The catalog may have given back a little since the last capture was refused.
        more = made.path / "more"
        more.write_bytes(b"x" * (256 << 10))
        assert '"space"' in (archive.point / "health.json").read_text()
        more.unlink()
    finish(archive, ledger, "reserve", 1)


@pytest.mark.parametrize("free_kb", [0, 4, 12, 40, 80])
def test_an_archive_on_a_full_disk_opens_again_when_there_is_room(
    station: Make, disk: MakeDisk, free_kb: int
) -> None:
    """Killed or unmounted while the disk is full; opening it then may fail, but must not break anything."""
    made = disk("tmpfs", options="size=24m")
    archive = station(root=made.path / "archive")
    ledger = begin(archive)
    catalog = made.path / "archive" / CATALOG
    with ballast(made, free_kb):
        fill_up(archive, ledger, "full", SPACE)
        archive.kill()
        said = archivefs("ls", "--archive", archive.root, code=None)
        assert said.returncode in (0, 1) or "space" in said.stderr or "full" in said.stderr, said.stderr
        assert not catalog.with_name(f"{CATALOG}.damaged").exists(), (
            "a full disk was taken for a damaged catalog"
        )
    archive.mount()
    still_serves(archive, ledger)
    finish(archive, ledger, f"opened with {free_kb} kB free", 1)


def test_a_full_disk_at_the_unmount_loses_nothing(station: Make, disk: MakeDisk) -> None:
    made = disk("tmpfs", options="size=24m")
    archive = station(root=made.path / "archive")
    ledger = begin(archive)
    with ballast(made, 0):
        fill_up(archive, ledger, "full", SPACE)
        archive.umount()
    archive.mount()
    still_serves(archive, ledger)
    finish(archive, ledger, "unmounted when full", 1)


def test_a_scheduled_verification_on_a_full_disk_does_not_end_the_mount(
    station: Make, disk: MakeDisk
) -> None:
    made = disk("tmpfs", options="size=24m")
    toml = TOML.replace("reserve = 0\n", 'reserve = 0\nverify_every = "1 day"\n')
    archive = station(toml, MODULES, root=made.path / "archive")
    ledger = Ledger()
    ledger.promise("files", "kept.csv", b"kept")
    file = archive.point.parent / "kept.csv"
    file.write_bytes(b"kept")
    archivefs("capture", "--archive", archive.root, "--converter", "files", file)
    with ballast(made, 120):
        done = archivefs("mount", "--log-file", archive.log_file, archive.root, archive.point, code=None)
        assert done.returncode == 0, done.stderr
        if done.returncode == 0:
            archive.pid = int((archive.root / "lock").read_text().split('"pid":')[1].split(",")[0])
            archive.wait_for("a verification that ended or failed", lambda: "verify" in archive.log(), 10)
            assert archive.is_alive(), archive.log()[-2000:]
