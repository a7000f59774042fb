"""Daemons that stop, hang, are cut off or meet each other; clocks that jump; processes without means."""

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from fault_parts import Station, abort, is_mountpoint, pause, say, threads, waits, writers
from ledger import Ledger
from makers import Make
from mount_parts import archivefs, command, environment, is_running, poll, run
from test_full import attempt
from test_refused_calls import begun, end

from archivefs.archive import Archive
from archivefs.events import Captured
from archivefs.operations import Capture
from archivefs.store.journal import Journal
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope, verify

LOCKED = 13
CONNECTION_LOST = 35
ENDS = 6
DAY = 86_400
NOON = 1_770_984_000


def test_a_daemon_that_stood_still_and_was_killed_keeps_what_it_promised(station: Make) -> None:
    archive, ledger = begun(station())
    os.kill(archive.pid, signal.SIGSTOP)
    done: list[int] = []
    waiting = threading.Thread(target=lambda: done.append(attempt(archive, ledger, "waits.csv", b"waits")))
    waiting.start()
    pause(0.2)
    assert not done
    archive.kill()
    waiting.join(20)
    assert done
    assert done[0] in (errno.ENOTCONN, errno.ECONNABORTED)
    archive.mount()
    end(archive, ledger)
    assert archive.hangs == 0


def test_an_aborted_connection_ends_the_daemon_with_its_own_exit_code(station: Make) -> None:
    archive, ledger = station(), Ledger()
    with archive.log_file.open("wb") as log:
        daemon = subprocess.Popen(
            command("mount", "-f", archive.root, archive.point), stderr=log, env=environment()
        )
        archive.pid = daemon.pid
        poll("a mount", lambda: is_mountpoint(archive.point), alive=lambda: daemon.poll() is None)
        archive.connection = os.minor(archive.point.stat().st_dev)
        for number in range(20):
            assert attempt(archive, ledger, f"unit-{number}.csv", b"measured %d" % number) == 0
        abort(archive.connection)
        assert daemon.wait(20) == CONNECTION_LOST
    with pytest.raises(OSError, match="not connected"):
        os.listdir(archive.point)  # noqa: PTH208
    archive.mount()
    assert len(archive.entries()) == 20
    archive.umount()
    archive.examine(ledger)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_daemon_that_is_told_to_end_while_programs_write_commits_and_is_gone(
    station: Make, tmp_path: Path, name: str
) -> None:
    archive = station()
    Archive(archive.root).close()
    with writers(archive, tmp_path, 4) as ledger:
        for number in range(1, ENDS + 1):
            archive.mount()
            poll("some acknowledged closes", partial(ledger.passes, 40 * number), 20)
            os.kill(archive.pid, getattr(signal, name))
            archive.bury(15)
    archive.examine(ledger)
    say(f"{name} under load", rounds=ENDS, acknowledged=ledger.size, lost=0, hangs=archive.hangs)
    assert archive.hangs == 0, f"{archive.hangs} of {ENDS} daemons never ended: {archive.hung_in}"


def test_two_daemons_and_commands_exclude_each_other_without_damage(station: Make, tmp_path: Path) -> None:
    archive, ledger = begun(station())
    second = tmp_path / "second"
    second.mkdir()
    for words in (("mount", archive.root, second), ("rebuild", "--archive", archive.root)):
        said = archivefs(*words, code=LOCKED).stderr
        assert str(archive.pid) in said
    file = tmp_path / "unit.csv"
    file.write_bytes(b"by command")
    archivefs("capture", "--archive", archive.root, "--converter", "files", file)
    ledger.promise("files", "unit.csv", b"by command")
    end(archive, ledger)


def test_two_commands_that_capture_side_by_side_lose_nothing_and_say_who_was_refused(
    station: Make, tmp_path: Path
) -> None:
    archive, ledger = station(), Ledger()
    refused = [0, 0]

    def loop(label: int) -> None:
        for number in range(12):
            file = tmp_path / f"{label}-{number}.csv"
            content = b"%d %d" % (label, number)
            file.write_bytes(content)
            ledger.trying("files", file.name, content)
            done = archivefs("capture", "--archive", archive.root, "--converter", "files", file, code=None)
            if done.returncode == 0:
                ledger.promise("files", file.name, content)
            else:
                assert done.returncode == LOCKED, done.stderr
                assert "in use by" in done.stderr
                refused[label] += 1

    crowd = [threading.Thread(target=loop, args=(label,)) for label in range(2)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    archive.examine(ledger)
    say("two commands", rounds=24, acknowledged=ledger.size, refused=sum(refused), lost=0)


def test_a_stale_mount_and_a_dead_holder_are_healed_by_the_next_mount(station: Make) -> None:
    archive, ledger = begun(station())
    os.kill(archive.pid, signal.SIGKILL)
    poll("the end", lambda: threads(archive.pid) == 0)
    assert is_mountpoint(archive.point)
    assert archivefs("ls", "--archive", archive.root).stdout
    archive.mount()
    end(archive, ledger)


@pytest.mark.parametrize("command_word", ["mount", "umount"])
def test_a_killed_daemon_that_waits_in_the_kernel_for_ever_is_freed_by_the_next_command(
    station: Make, command_word: str
) -> None:
    """Whoever looks at such a mount waits with it; the command must not."""
    archive = station()
    script = Path(__file__).parent / "hanging_mount.py"
    hanging = subprocess.Popen(
        [sys.executable, str(script), str(archive.root), str(archive.point)],
        env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert hanging.stdout is not None
    try:
        assert hanging.stdout.readline() == "mounted\n"
        reader = subprocess.Popen(["ls", str(archive.point / "stuck")], stderr=subprocess.DEVNULL)
        assert hanging.stdout.readline() == "stuck\n"
        poll("the thread that waits", lambda: "fuse_reverse_inval_entry" in waits(hanging.pid))
        hanging.kill()
        poll("a leader that ended", lambda: not is_running(hanging.pid))
        assert threads(hanging.pid), "nothing is left, so nothing hangs"
        said = json.loads(archivefs("doctor", "--json", "--archive", archive.root, code=54).stdout)
        seen = {line["check"]: line["seen"] for line in said["checks"] if line["state"] == "problem"}
        assert "was killed and waits in the kernel" in seen["lock"]
        assert "does not answer" in seen["mount"]
        archivefs(command_word, *([archive.root] if command_word == "mount" else []), archive.point)
        assert reader.wait(10) != 0
        assert hanging.wait(10) == -signal.SIGKILL
    finally:
        hanging.stdout.close()
        hanging.kill()
    if command_word == "mount":
        archive.umount()
    archivefs("ls", "--archive", archive.root)


def test_reading_commands_on_a_read_only_disk_work_or_say_why_not(station: Make, tmp_path: Path) -> None:
    archive, ledger = begun(station())
    archive.umount()
    shown = tmp_path / "shown"
    shown.mkdir()
    run("mount", "--bind", archive.root, shown)
    try:
        run("mount", "-o", "remount,bind,ro", shown)
        for words in (("ls",), ("status",), ("verify",), ("log",)):
            done = archivefs(words[0], "--archive", shown, *words[1:], code=None)
            assert done.returncode == 0 or "ead-only" in done.stderr, done.stderr
        done = archivefs("mount", shown, archive.point, code=None)
        assert done.returncode != 0
        assert "ead-only" in done.stderr, done.stderr
    finally:
        run("umount", shown)
    archive.mount()
    end(archive, ledger)


def test_an_archive_that_was_moved_between_mounts_is_the_same(station: Make) -> None:
    archive, ledger = begun(station())
    archive.umount()
    moved = archive.root.with_name("moved archive")
    shutil.move(archive.root, moved)
    archive.root = moved
    archive.mount()
    end(archive, ledger)


def test_a_clock_that_jumps_keeps_ids_unique_and_ascending(tmp_path: Path) -> None:
    root, now = tmp_path / "archive", [NOON * 10**9]
    Archive.create(root, clock=lambda: now[0])
    ledger = Ledger()
    for turn in (0, -3600, 0, 365 * DAY, -365 * DAY, 5, -3600, DAY):
        now[0] += turn * 10**9
        with Archive(root, clock=lambda: now[0]) as archive:
            for number in range(3):
                content = b"%d %d %d" % (turn, number, now[0])
                name = f"{turn}-{number}-{now[0]}.csv"
                outcomes, _ = archive.commit([Capture("files", name.encode(), content, mtime_ns=1)] * 2)
                assert not any(isinstance(each, Exception) for each in outcomes)
                ledger.promise("files", name, content)
    with Archive(root, clock=lambda: now[0]) as archive:
        events = list(Journal(root / "journal").read())
        ids = [event.id for event in events if isinstance(event, Captured)]
        assert len(ids) == 48
        assert ids == sorted(set(ids))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        report = verify(archive, Scope())
        assert report.worst is Severity.NOTICE, report.findings
        ledger.compare(archive)


def _limited(station: Station, kind: int, limit: int, act: Callable[[], None]) -> None:
    before = resource.prlimit(station.pid, kind)
    resource.prlimit(station.pid, kind, (limit, before[1]))
    try:
        act()
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(station.pid, kind, before)


def test_a_daemon_without_file_descriptors_refuses_and_recovers(station: Make) -> None:
    archive, ledger = begun(station())
    seen: dict[int, int] = {}

    def act() -> None:
        for number in range(40):
            kind = ("files", "other", "ict")[number % 3]
            got = attempt(archive, ledger, f"unit-{number}.csv", b"measured %d" % number, kind)
            seen[got] = seen.get(got, 0) + 1
        for entry in archive.entries()[:5]:
            try:
                archive.content(entry)
            except OSError as error:
                seen[error.errno or -1] = seen.get(error.errno or -1, 0) + 1

    used = len(list(Path(f"/proc/{archive.pid}/fd").iterdir()))
    for spare in range(5):
        _limited(archive, resource.RLIMIT_NOFILE, used + spare, act)
        assert archive.is_alive(), archive.log()[-2000:]
    assert set(seen) <= {0, errno.EMFILE, errno.ENFILE, errno.EIO}, seen
    assert seen.get(errno.EMFILE), seen
    assert attempt(archive, ledger, "converted.csv", b"converted", "ict") == 0
    archive.wait_for_status("converted.csv", "success", 30)
    poll(
        "an end of all conversions",
        lambda: not [e for e in archive.entries() if e.status == "converting"],
        30,
    )
    end(archive, ledger)


STUCK_SECONDS = 15
"""A daemon without memory that has not ended after so long is killed."""


def serves(archive: Station) -> bool:
    """Whether a request is answered by the daemon."""
    try:
        (archive.point / "README.txt").stat()
    except OSError:
        return False
    return True


def test_a_daemon_without_memory_refuses_and_recovers(station: Make) -> None:
    """Where there is none even to read a request, it leaves by itself, unmounted, and says why.

    Or, seldom, a thread dies before it can say so to who waits for it, and the daemon has to be killed. What
    was acknowledged is there in any case.
    """
    archive, ledger = begun(station())
    seen: dict[int, int] = {}
    ends, killed = 0, list[int]()
    status = Path(f"/proc/{archive.pid}/status").read_text()
    used = int(next(line for line in status.splitlines() if line.startswith("VmData")).split()[1]) * 1024

    def act() -> None:
        for number, size in enumerate((100, 5_000_000, 30_000_000, 100, 60_000_000, 100)):
            got = attempt(archive, ledger, f"unit-{spare}-{number}.bin", b"%d" % spare + os.urandom(size))
            seen[got] = seen.get(got, 0) + 1

    def kill() -> None:
        killed.append(spare)
        archive.kill()

    for spare in (30, 8, 2, 0, -4):
        watch = threading.Timer(STUCK_SECONDS, kill)
        watch.start()
        _limited(archive, resource.RLIMIT_DATA, used + (spare << 20), act)
        watch.cancel()
        watch.join()
        if spare not in killed and not serves(archive):  # it may be about to leave
            ends += 1
            with contextlib.suppress(AssertionError):
                poll("its end", lambda: threads(archive.pid) == 0, STUCK_SECONDS)
            if threads(archive.pid):
                kill()
            else:
                assert "not enough memory to serve" in archive.log()
                assert not is_mountpoint(archive.point)
                archive.expected_log.append("not enough memory")
                archive.mount()
        if spare in killed:
            archive.mount()
    assert sum(seen.values()) > seen.get(0, 0), "memory never was short"
    refused = sum(seen.values()) - seen.get(0, 0)
    say(
        "memory limit",
        rounds=5,
        acknowledged=ledger.size,
        refused=refused,
        lost=0,
        mount_ends=ends,
        killed=len(killed),
    )
    end(archive, ledger)


def test_the_lock_file_of_a_dead_process_keeps_nobody_out(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    Archive.create(root)
    (root / "lock").write_text(
        json.dumps({"pid": 1, "host": "elsewhere", "program": "x", "mountpoint": "/mnt"})
    )
    archivefs("ls", "--archive", root)
