"""Calls that the disk refuses, one kind after the other: who is told, what goes on, what is never lost."""

import contextlib
import errno
import json
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fault_parts import Station, pause, sabotage, say
from ledger import Ledger
from makers import Make
from mount_parts import poll
from test_full import attempt

from archivefs.rebuilding import CATALOG

SECOND = 1_000_000
LARGE = os.urandom(700_000)
QUICK_SECONDS = 0.5


def paths(station: Station, folder: str = "files") -> dict[str, list[Path]]:
    """The files that a capture for this converter writes today."""
    day = f"{datetime.now(UTC):%Y/%m/%d}"
    content = station.root / "content" / day
    journal = station.root / "journal" / f"{day}.jsonl"
    wal = station.root / f"{CATALOG}-wal"
    parts = [content / f"{folder}.sources.zst"] + [content / f"{folder}.sources.{n}.zst" for n in range(2, 9)]
    folders = [content, *list(content.parents)[:3], journal.parent, *list(journal.parents)[1:3]]
    return {"segment": parts, "journal": [journal], "wal": [wal, station.root / CATALOG], "folder": folders}


def begun(station: Station) -> tuple[Station, Ledger]:
    """Mounted, with two entries in it, and nothing of its own to write any more."""
    ledger = Ledger()
    station.mount()
    for name in ("kept.csv", "large.bin"):
        assert attempt(station, ledger, name, b"kept" if name == "kept.csv" else LARGE) == 0
    journal = paths(station)["journal"][0]
    poll("the code of the converter, kept", lambda: b'"code_kept"' in journal.read_bytes())
    return station, ledger


def end(station: Station, ledger: Ledger, *allowed: str) -> None:
    """It still reads and captures without a remount; all is as promised."""
    assert station.is_alive()
    assert station.content(station.entries("kept.csv")[0]) == b"kept"
    assert attempt(station, ledger, "after.csv", b"after") == 0
    station.umount()
    station.examine(ledger, allowed=allowed)


REFUSED = (
    ("write", "segment", "EIO", ""), ("write", "segment", "ENOSPC", ""), ("write", "journal", "EIO", ""),
    ("write", "journal", "ENOSPC", ""), ("write", "journal", "EDQUOT", ""),
    ("fdatasync", "segment", "EIO", ""),
    ("fdatasync", "journal", "EIO", ""), ("fdatasync", "journal", "ENOSPC", ""),
    ("write", "segment", "EIO", "ftruncate"), ("fdatasync", "segment", "EIO", "ftruncate"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "where", "name", "too"), REFUSED)
def test_a_call_that_is_refused_once_fails_one_close_with_its_errno_and_nothing_else(
    station: Make, call: str, where: str, name: str, too: str
) -> None:
    archive, ledger = begun(station())
    number = getattr(errno, name)
    rules = [f"{call}:error={name}:when=1", *([f"{too}:error={name}:when=1"] if too else [])]
    with sabotage(archive.pid, *rules, paths=paths(archive)[where]):
        assert attempt(archive, ledger, "refused.csv", b"refused") == number
    assert attempt(archive, ledger, "refused.csv", b"refused") == 0
    end(archive, ledger)
    say(f"{call} of {where}: {name}", rounds=1, acknowledged=ledger.size, lost=0, mount_deaths=0)


def test_a_folder_that_cannot_be_synced_fails_the_first_close_and_is_synced_later(station: Make) -> None:
    """A new segment whose name may not survive must not hold anything that is acknowledged."""
    archive, ledger = begun(station())
    folder = paths(archive)["folder"]
    with sabotage(archive.pid, "fsync:error=EIO", paths=folder):
        assert attempt(archive, ledger, "refused.csv", b"refused", "other") == errno.EIO
        again = attempt(archive, ledger, "again.csv", b"again", "other")
    assert again == errno.EIO, "a close was acknowledged although the folder of its segment was never synced"
    end(archive, ledger)


def test_all_writers_of_a_group_whose_sync_fails_are_told_and_a_new_part_is_begun(station: Make) -> None:
    archive, ledger = begun(station())
    results: dict[str, int] = {}

    def save(number: int) -> None:
        name = f"group-{number}.csv"
        results[name] = attempt(archive, ledger, name, f"content {number}".encode())

    crowd = [threading.Thread(target=save, args=(number,)) for number in range(6)]
    rule = f"fdatasync:error=EIO:delay_enter={SECOND // 2}:when=1"
    with sabotage(archive.pid, rule, paths=paths(archive)["segment"]):
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(30)
    assert set(results.values()) <= {0, errno.EIO}
    assert errno.EIO in results.values()
    assert attempt(archive, ledger, "next.csv", b"next") == 0
    assert paths(archive)["segment"][1].exists(), "the segment whose sync failed was appended to again"
    end(archive, ledger)


def test_a_sync_that_fails_twice_in_a_row_makes_the_archive_read_only_and_says_so(station: Make) -> None:
    archive, ledger = begun(station())
    with sabotage(archive.pid, "fdatasync:error=EIO", paths=paths(archive)["segment"]):
        assert attempt(archive, ledger, "refused.csv", b"refused") == errno.EIO
        second = attempt(archive, ledger, "second.csv", b"second")
        assert second in (errno.EIO, errno.EROFS)
    assert attempt(archive, ledger, "third.csv", b"third") == errno.EROFS
    health = json.loads((archive.point / "health.json").read_bytes())
    assert (health["ok"], health["writable"]) == (False, False)
    assert "read-only" in health["alarms"]
    assert "syncing failed twice in a row" in archive.log()
    assert archive.content(archive.entries("large.bin")[0]) == LARGE
    archive.umount()
    archive.mount()
    end(archive, ledger)


@pytest.mark.parametrize("rules", [
    ("segment", "fdatasync:error=ENOSPC"),
    ("journal", "fdatasync:error=EDQUOT", "ftruncate:error=EDQUOT"),
    ("journal", "write:error=ENOSPC", "ftruncate:error=ENOSPC"),
])  # fmt: skip
def test_room_that_lacks_for_long_is_refused_until_there_is_some(
    station: Make, rules: tuple[str, ...]
) -> None:
    """As where a disk with a quota gives out room only when it syncs, and needs room to make some."""
    archive, ledger = begun(station())
    where, *inject = rules
    with sabotage(archive.pid, *inject, paths=paths(archive)[where]):
        refused = [attempt(archive, ledger, f"refused-{count}.csv", b"refused") for count in range(4)]
    assert set(refused) <= {errno.ENOSPC, errno.EDQUOT}
    assert attempt(archive, ledger, "next.csv", b"next") == 0
    end(archive, ledger)


@pytest.mark.parametrize("name", ["EIO", "ENOSPC"])
def test_a_catalog_that_cannot_be_written_does_not_keep_a_close_from_being_acknowledged(
    station: Make, name: str
) -> None:
    """The journal has it; the tree shows it with the next commit, and after a remount at the latest."""
    archive, ledger = begun(station())
    with sabotage(archive.pid, f"pwrite64:error={name}", paths=paths(archive)["wal"]) as failed:
        for number in range(3):
            content = f"seen {number}".encode()
            assert attempt(archive, ledger, f"unseen-{number}.csv", content, "other") == 0
    assert failed
    assert "the catalog refused" in archive.log()
    archive.kill()
    archive.mount()
    assert len(archive.entries()) == ledger.size
    assert archive.content(archive.entries("unseen-1.csv")[0]) == b"seen 1"
    end(archive, ledger)


def test_a_catalog_that_can_be_written_again_catches_up_without_a_remount(station: Make) -> None:
    archive, ledger = begun(station())
    with sabotage(archive.pid, "pwrite64:error=ENOSPC", paths=paths(archive)["wal"]):
        assert attempt(archive, ledger, "unseen.csv", b"unseen", "other") == 0
    assert attempt(archive, ledger, "seen.csv", b"seen", "ict") == 0
    assert len(archive.entries()) == ledger.size
    assert archive.content(archive.entries("unseen.csv")[0]) == b"unseen"
    end(archive, ledger)


def test_a_segment_that_cannot_be_read_gives_eio_for_its_entries_only(station: Make) -> None:
    archive, ledger = begun(station())
    assert attempt(archive, ledger, "other.csv", b"elsewhere", "other") == 0
    bad, good = archive.entries("large.bin")[0], archive.entries("other.csv")[0]
    with sabotage(archive.pid, "pread64,preadv2:error=EIO", paths=paths(archive)["segment"][:1]):
        with pytest.raises(OSError, match="Input/output") as caught:
            archive.content(bad)
        assert caught.value.errno == errno.EIO
        assert archive.content(good) == b"elsewhere"
    assert archive.content(bad) == LARGE
    end(archive, ledger)


def test_a_catalog_that_cannot_be_read_does_not_end_the_mount(station: Make) -> None:
    archive, ledger = begun(station())
    archive.umount()
    archive.mount()
    with sabotage(archive.pid, "pread64:error=EIO", paths=paths(archive)["wal"]) as failed:
        attempt(archive, ledger, "unit.csv", b"measured", "ict")
        pause(0.5)
        with contextlib.suppress(OSError):
            sorted((archive.point / "by-converter").iterdir())
    assert failed
    assert archive.is_alive(), archive.log()[-2000:]
    end(archive, ledger)


def test_a_rename_that_fails_at_the_unmount_loses_nothing(station: Make) -> None:
    archive, ledger = begun(station())
    checkpoint = archive.root / "journal/checkpoint.json.tmp"
    with sabotage(archive.pid, "rename,renameat,renameat2:error=EIO", paths=[checkpoint]) as failed:
        archive.umount()
    assert failed
    archive.mount()
    end(archive, ledger, "orphan-file")


def test_a_slow_disk_keeps_nobody_waiting_who_needs_nothing_of_it(station: Make) -> None:
    archive, ledger = begun(station())
    kept = archive.entry_dir(archive.entries("kept.csv")[0])
    saved: list[int] = []
    slow = threading.Thread(target=lambda: saved.append(attempt(archive, ledger, "slow.csv", b"slow")))
    slowest: dict[str, float] = {}
    with sabotage(archive.pid, f"fdatasync:delay_enter={2 * SECOND}", paths=paths(archive)["segment"]):
        slow.start()
        poll("a close that waits", lambda: (archive.root / "staging/inbox/files/slow.csv").exists())
        start = time.monotonic()
        while slow.is_alive() and time.monotonic() < start + 1.5:
            for what, action in (
                ("stat", lambda: os.stat(kept / "kept.csv")),  # noqa: PTH116
                ("ls", lambda: os.listdir(archive.point / "by-status")),  # noqa: PTH208
                ("ls of the inbox", lambda: os.listdir(archive.inbox / "other")),  # noqa: PTH208
                ("read", lambda: (kept / "kept.csv").read_bytes()),
                ("read of a large file", lambda: archive.content(archive.entries("large.bin")[0])),
                ("health", lambda: (archive.point / "health.json").read_bytes()),
                ("statfs", lambda: os.statvfs(archive.point)),
            ):
                before = time.monotonic()
                action()
                slowest[what] = max(slowest.get(what, 0), time.monotonic() - before)
        assert slow.is_alive(), "the disk was not slow"
        slow.join(30)
    assert saved == [0]
    say("slow disk", **{f"ms {what}": round(1000 * each) for what, each in slowest.items()})
    assert max(slowest.values()) < QUICK_SECONDS, slowest
    end(archive, ledger)


def test_a_file_that_is_removed_while_it_is_captured_again_in_vain_does_not_end_the_mount(
    station: Make,
) -> None:
    """A close failed; the daemon tries again by itself; the program removes the file at that very moment."""
    archive, ledger = begun(station())
    content = os.urandom(60_000_000)
    with sabotage(archive.pid, "fdatasync:error=EIO", paths=paths(archive)["segment"]):
        assert attempt(archive, ledger, "doomed.bin", content) in (errno.EIO, errno.EROFS)
        archive.wait_for("the end of the first tries", lambda: "trying again" in archive.log(), 20)
    staged = archive.root / "staging/inbox/files/doomed.bin"
    assert staged.exists()
    archive.wait_for("the next try", lambda: _has_open(archive.pid, staged), 20)
    (archive.inbox / "files/doomed.bin").unlink()
    archive.wait_for("the end of that try", lambda: not _has_open(archive.pid, staged), 20)
    assert os.listdir(archive.inbox / "files") is not None  # noqa: PTH208
    pause(0.3)
    assert archive.is_alive(), archive.log()[-2000:]
    archive.umount()
    archive.mount()
    end(archive, ledger)


def _has_open(pid: int, path: Path) -> bool:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(link.readlink()).removesuffix(" (deleted)") == str(path):
                return True
        except OSError:
            continue
    return False


def test_a_write_error_in_staging_fails_write_or_close_and_partial_content_is_never_archived(
    station: Make,
) -> None:
    archive, ledger = begun(station())
    staged = archive.root / "staging/inbox/files/torn.csv"
    pieces = [b"a" * 4096, b"b" * 4096, b"c" * 4096]
    ledger.trying("files", "torn.csv", b"".join(pieces))
    with sabotage(archive.pid, "pwrite64:error=ENOSPC:when=2", paths=[staged]):
        fd = os.open(archive.inbox / "files/torn.csv", os.O_WRONLY | os.O_CREAT)
        os.write(fd, pieces[0])
        with pytest.raises(OSError, match="No space"):
            os.write(fd, pieces[1])
        with pytest.raises(OSError, match="No space"):
            os.close(fd)
    archive.umount()
    archive.mount()
    archive.umount()
    archive.mount()
    end(archive, ledger)


def test_a_file_whose_write_failed_is_not_archived_by_a_rename_either(station: Make) -> None:
    archive, ledger = begun(station())
    staged = archive.root / "staging/inbox/files/.torn.part"
    temporary, target = archive.inbox / "files/.torn.part", archive.inbox / "files/torn.csv"
    ledger.trying("files", "torn.csv", b"a" * 4096 + b"b" * 4096)
    with sabotage(archive.pid, "pwrite64:error=ENOSPC:when=2", paths=[staged]):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"a" * 4096)
        with pytest.raises(OSError, match="No space"):
            os.write(fd, b"b" * 4096)
        with contextlib.suppress(OSError):
            os.close(fd)
        with pytest.raises(OSError, match="No space"):
            temporary.rename(target)
    end(archive, ledger)
