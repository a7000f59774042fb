"""kill -9 of the daemon at any moment: nothing that was acknowledged is lost, the archive opens by itself."""

import errno
import os
import random
import threading
from functools import partial
from pathlib import Path

import pytest
from fault_parts import Station, pause, sabotage, say, walkers, writers
from ledger import Ledger
from makers import Make
from mount_parts import config, converter, poll

from archivefs.archive import Archive

WRITERS, WALKERS = 4, 2
LOST_CONNECTION = (errno.ENOTCONN, errno.ECONNABORTED)
STAGED = "staging/inbox/files"
EXPECTED = ("stays in staging",)


def hammer(station: Station, folder: Path, rounds: int, examine_every: int) -> None:
    """Writers write without end; the daemon is killed and mounted again, and now and then all is compared."""
    chance = random.Random(rounds)
    with writers(station, folder, WRITERS) as ledger, walkers(station.point, WALKERS):
        for number in range(1, rounds + 1):
            station.mount()
            before = ledger.noted()
            poll("some acknowledged closes", partial(ledger.passes, before + chance.randrange(60)), 20)
            pause(chance.random() * 0.02)
            station.kill()
            if number % examine_every == 0:
                station.examine(ledger)
    finish(station, ledger)
    say("kill -9", rounds=rounds, acknowledged=ledger.size, lost=0, mount_deaths=0, hangs=station.hangs)
    assert station.hangs == 0, (
        f"{station.hangs} of {rounds} kills left a mount that hangs for ever: {station.hung_in}"
    )


def finish(station: Station, ledger: Ledger) -> None:
    """A last mount takes what lies in staging; a clean end; everything that was synced is there, too."""
    station.mount()
    station.umount()
    station.examine(ledger)
    with Archive(station.root) as archive:
        ledger.compare(archive, synced=True)
    assert station.unexpected(*EXPECTED) == []


def test_thirty_kills_under_four_writers_lose_nothing(station: Make, tmp_path: Path) -> None:
    hammer(station(), tmp_path, 30, 10)


@pytest.mark.long
def test_a_thousand_kills_under_four_writers_lose_nothing(station: Make, tmp_path: Path) -> None:
    hammer(station(), tmp_path, 1000, 50)


def test_a_kill_while_a_name_leaves_beside_a_rename_frees_mount_and_archive(station: Make) -> None:
    """The kernel is told to forget a name while a rename in the same folder waits for the disk.

    The thread that tells it waits for the folder, the rename for the daemon: killed now, neither ends.
    """
    archive = station(config(converter("files", settle_seconds=0, linger_seconds=0.3))).mount()
    folder, ended = archive.inbox / "files", list[int]()
    archive.write(".b.part", b"second")

    def rename() -> None:
        try:
            os.rename(folder / ".b.part", folder / "b.csv")  # noqa: PTH104  beside its errno
        except OSError as error:
            ended.append(error.errno or 0)

    renaming = threading.Thread(target=rename, daemon=True)
    archive.write("a.csv", b"first")
    with sabotage(archive.pid, "fdatasync:delay_enter=3000000"):
        renaming.start()
        archive.wait_for("the first file leaving", lambda: not (archive.root / STAGED / "a.csv").exists())
        pause(0.1)
        archive.kill()
    renaming.join(20)
    assert ended, "the program still waits in rename()"
    assert archive.hangs == 0, f"archive and mount were held until an abort: {archive.hung_in}"
    assert ended[0] in LOST_CONNECTION
    archive.mount()
