"""Power cuts: the disk keeps what was synced and nothing else; what was acknowledged is among it."""

import random
from functools import partial
from pathlib import Path

import pytest
from disks import Disk
from fault_parts import Station, pause, sabotage, say, writers
from ledger import Ledger
from makers import Make, MakeDisk
from mount_parts import archivefs, poll
from test_refused_calls import paths

from archivefs.archive import Archive


def cut_again_and_again(station: Station, disk: Disk, folder: Path, rounds: int) -> None:
    """Writers write through the mount; the power goes; what comes back is compared.

    The archive was opened and closed once before: what a cut does to a new one is a test of its own.
    """
    Archive(station.root).close()
    chance = random.Random(rounds)
    with writers(station, folder, 4) as ledger:
        for _ in range(rounds):
            station.mount()
            before = ledger.noted()
            poll("some acknowledged closes", partial(ledger.passes, before + chance.randrange(80)), 30)
            pause(chance.random() * 0.05)
            disk.cut()
            station.kill()
            disk.power_on()
            station.examine(ledger)
    station.mount()
    station.umount()
    station.examine(ledger)
    with Archive(station.root) as archive:
        ledger.compare(archive, synced=True)
    say(
        f"power cut on {disk.kind}",
        rounds=rounds,
        acknowledged=ledger.size,
        lost=0,
        mount_deaths=0,
        hangs=station.hangs,
    )
    assert station.hangs == 0, (
        f"{station.hangs} of {rounds} cuts left a mount that hangs for ever: {station.hung_in}"
    )


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_new_archive_opens_after_a_power_cut_in_its_first_minute(
    station: Make, disk: MakeDisk, kind: str
) -> None:
    made = disk(kind, 400)
    archive = station(root=made.path / "archive").mount()
    archive.write("unit.csv", b"measured")
    ledger = Ledger()
    ledger.promise("files", "unit.csv", b"measured")
    made.cut()
    archive.kill()
    made.power_on()
    archive.examine(ledger)


@pytest.mark.parametrize("where", ["segment", "journal"])
def test_what_a_killed_commit_left_is_synced_before_a_command_relies_on_it(
    station: Make, disk: MakeDisk, where: str
) -> None:
    """Killed before a sync; the next command takes what it finds for granted; then the power goes."""
    made = disk("ext4")
    archive, ledger = station(root=made.path / "archive"), Ledger()
    Archive(archive.root).close()
    archive.mount()
    archive.write("before.csv", b"before")
    ledger.promise("files", "before.csv", b"before")
    ledger.trying("files", "unit.csv", b"measured")
    with sabotage(archive.pid, "fdatasync:signal=SIGKILL", paths=paths(archive)[where]):
        with pytest.raises(OSError, match=r"connect|abort"):
            archive.write("unit.csv", b"measured")
        archive.killed = True
        archive.bury()
    listed = archivefs("ls", "--archive", archive.root, "name=unit.csv", "--json").stdout
    if listed:
        ledger.promise("files", "unit.csv", b"measured")
    made.cut()
    made.power_on()
    archive.examine(ledger)
    say(f"power cut after a kill before a sync of the {where}", rounds=1, acknowledged=ledger.size, lost=0)


def test_ten_power_cuts_on_ext4_lose_nothing(station: Make, disk: MakeDisk, tmp_path: Path) -> None:
    made = disk("ext4")
    cut_again_and_again(station(root=made.path / "archive"), made, tmp_path, 10)


def test_three_power_cuts_on_xfs_lose_nothing(station: Make, disk: MakeDisk, tmp_path: Path) -> None:
    made = disk("xfs", 400)
    cut_again_and_again(station(root=made.path / "archive"), made, tmp_path, 3)


@pytest.mark.long
def test_two_hundred_power_cuts_on_ext4_lose_nothing(station: Make, disk: MakeDisk, tmp_path: Path) -> None:
    made = disk("ext4", 2048)
    cut_again_and_again(station(root=made.path / "archive"), made, tmp_path, 200)


@pytest.mark.long
def test_fifty_power_cuts_on_xfs_lose_nothing(station: Make, disk: MakeDisk, tmp_path: Path) -> None:
    made = disk("xfs", 1024)
    cut_again_and_again(station(root=made.path / "archive"), made, tmp_path, 50)
