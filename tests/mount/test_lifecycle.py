"""A mount's start and end: usable when mount returns, committed when umount does, whole after a crash."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount_parts import (
    Make,
    Mounted,
    an_archive,
    archivefs,
    command,
    config,
    converter,
    environment,
    is_running,
    mount_line,
    names_in,
    poll,
    run,
)

from archivefs.store.lock import Lock

CSV = converter("csv", "function:good:count")
WAITING = converter("waiting", "function:good:count", settle_seconds=3600)
FILES = converter("files")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users or mount disks")


# -- start and end -------------------------------------------------------------------------------------


def test_mount_returns_when_the_mount_can_be_used_and_umount_when_all_is_over(mounted: Make) -> None:
    station = mounted(config(FILES, WAITING), mount=False)
    for round_ in range(5):
        archivefs("mount", station.root, station.point)
        station.pid = json.loads((station.root / "lock").read_bytes())["pid"]
        station.drop("files", f"unit {round_}.csv", b"measured")
        archivefs("umount", station.point)
        assert mount_line(station.point) == ""
        assert names_in(station.point) == []
        Lock(station.root).release()
        station.wait_for_end()
    assert [row.status for row in station.entries()] == ["archived"] * 5


@contextlib.contextmanager
def a_slow_disk(station: Mounted) -> Iterator[None]:
    """Each sync of the daemon takes a quarter of a second."""
    syncs = "fsync,fdatasync"
    with subprocess.Popen(
        ["strace", "-f", "-o", "/dev/null", "-p", str(station.pid), "-e", f"trace={syncs}",
         "-e", f"inject={syncs}:delay_enter=250000"], stderr=subprocess.DEVNULL,
    ) as tracer:  # fmt: skip
        threads = Path(f"/proc/{station.pid}/task")
        poll("the tracer", lambda: all("TracerPid:\t0" not in (each / "status").read_text()
                                       for each in threads.iterdir()))  # fmt: skip
        yield
        tracer.terminate()
        try:
            tracer.wait(5)
        except subprocess.TimeoutExpired:  # strace can miss the end of a process whose calls it delays
            tracer.kill()


@needs_strace
def test_umount_waits_for_the_last_sync_of_a_slow_disk(mounted: Make) -> None:
    station = mounted(config(WAITING))
    station.drop("waiting", "unit.csv")
    with a_slow_disk(station):
        archivefs("umount", station.point)
        Lock(station.root).release()
    assert station.only("unit.csv").status == "pending"


def test_sigterm_unmounts_and_commits_everything(mounted: Make) -> None:
    station = mounted(config(WAITING))
    station.drop("waiting", "unit.csv")
    fd = os.open(station.inbox / "waiting" / "open.csv", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"still being written")
    station.signal(signal.SIGTERM)
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)
    assert not mount_line(station.point)
    Lock(station.root).release()
    station.mount()
    assert station.only("unit.csv").status == "pending"
    row = station.only("open.csv")
    assert (row.status, station.content(row)) == ("quarantined", b"still being written")


def test_an_ordinary_umount_ends_the_daemon_too(mounted: Make) -> None:
    station = mounted(config(WAITING))
    station.drop("waiting", "unit.csv")
    run(
        "umount" if os.geteuid() == 0 else "fusermount3",
        *([] if os.geteuid() == 0 else ["-u"]),
        station.point,
    )
    station.wait_for_end()
    assert station.only("unit.csv").status == "pending"


def test_a_busy_mount_is_not_unmounted_unless_lazily(mounted: Make) -> None:
    station = mounted(config(WAITING))
    with (station.inbox / "waiting" / "unit.csv").open("wb") as file:
        file.write(b"measured")
        done = archivefs("umount", station.point, code=34)
        assert "busy" in done.stderr
        assert "--lazy" in done.stderr
        assert station.is_alive()
        archivefs("umount", "--lazy", station.point)
        assert not mount_line(station.point)
        file.write(b" and more")
    station.wait_for_end()
    assert (station.only("unit.csv").size, station.only("unit.csv").status) == (17, "pending")


@contextlib.contextmanager
def in_foreground(station: Mounted, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The mount as a process of its own; ended when the test has not."""
    log = station.root.parent / "foreground.log"
    with log.open("w") as stderr:
        daemon = subprocess.Popen(
            command("mount", "-f", *options, station.root, station.point),
            stderr=stderr, env=environment(), text=True,
        )  # fmt: skip
    station.pid = daemon.pid
    try:
        poll("mount", lambda: (station.point / "stats.json").exists(), 10, lambda: daemon.poll() is None)
        yield daemon
    finally:
        station.take_down()
        daemon.wait(20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_foreground_it_logs_to_stderr_and_ends_with_0(mounted: Make, number: signal.Signals) -> None:
    station = mounted(config(FILES), mount=False)
    with in_foreground(station) as daemon:
        station.drop("files", "unit.csv")
        os.kill(daemon.pid, signal.SIGHUP)
        assert (station.point / "README.txt").exists()
        os.kill(daemon.pid, number)
        assert daemon.wait(20) == 0
    said = (station.root.parent / "foreground.log").read_text()
    assert f"INFO archivefs.fs.daemon: mounted {station.root} at {station.point}" in said
    assert f"{number.name}: unmounting" in said
    assert station.log() == ""
    assert station.only("unit.csv").status == "archived"


@only_root
def test_an_aborted_connection_ends_the_daemon_with_35_and_loses_nothing(mounted: Make) -> None:
    station = mounted(config(FILES), mount=False)
    with in_foreground(station) as daemon:
        station.drop("files", "before.csv")
        device = os.minor(station.point.stat().st_dev)
        with tempfile.TemporaryDirectory() as folder:
            run("mount", "-t", "fusectl", "none", folder)
            try:
                (Path(folder) / str(device) / "abort").write_text("1")
            finally:
                run("umount", folder)
        assert daemon.wait(20) == 35
        with pytest.raises(OSError, match="not connected"):
            names_in(station.point)
    said = (station.root.parent / "foreground.log").read_text()
    assert "the kernel ended the connection" in said
    assert "Traceback" not in said
    station.mount()
    assert station.content(station.only("before.csv")) == b"measured"


# -- options -------------------------------------------------------------------------------------------


def test_mounted_read_only_nothing_can_be_saved_but_conversions_go_on(mounted: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    kept = converter(
        "kept", "python:good:Gate", post_action="keep", arguments={"gate": str(gate)}, sandbox="off"
    )
    station = mounted(config(kept))
    file = Path(os.fsdecode(station.drop("kept", "unit.csv")))
    station.wait_for_status("unit.csv", "converting")
    station.remount("-o", "ro")
    for action in (
        lambda: (station.inbox / "kept" / "new.csv").write_bytes(b""),
        lambda: file.open("ab"),
        lambda: file.unlink(),
        lambda: file.chmod(0o600),
        lambda: (station.inbox / "kept" / "new").mkdir(),
    ):
        with pytest.raises(OSError, match="Read-only") as caught:
            action()
        assert caught.value.errno == errno.EROFS
    assert mount_line(station.point).split(" ")[5].startswith("ro,")
    gate.touch()
    row = station.wait_for_status("unit.csv", "success")
    assert (file.read_bytes(), station.content(row)) == (b"measured", b"measured")


def test_owner_group_and_umask_are_shown_as_given(mounted: Make) -> None:
    station = mounted(config(WAITING), options=("-o", "uid=1234,gid=5678,umask=027"))
    file = Path(os.fsdecode(station.drop("waiting", "unit.csv")))
    source = station.entry_dir(station.only("unit.csv")) / "unit.csv"
    for path, mode in ((station.point / "by-id", 0o550), (source, 0o440), (station.inbox, 0o750)):
        facts = path.stat()
        assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (1234, 5678, mode)
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 5678)
    assert file.stat().st_mode & 0o027 == 0


OTHER = """\
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
exec(sys.argv[1])
"""


def as_nobody(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as the user nobody, from a Python that this user may read."""
    return subprocess.run(
        ["/usr/bin/python3", "-c", OTHER, code], capture_output=True, text=True, cwd="/", check=False
    )


@pytest.fixture
def everybody(mounted: Make, tmp_path: Path) -> Make:
    """Other users may come as far as the mountpoint."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
    return mounted


@only_root
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no Python that other users may run")
def test_other_users_see_nothing_unless_they_are_allowed(everybody: Make) -> None:
    station = everybody(config(FILES, WAITING))
    station.drop("files", "unit.csv")
    source = station.entry_dir(station.only("unit.csv")) / "unit.csv"
    assert "PermissionError" in as_nobody(f"open({str(source)!r})").stderr
    station.remount("-o", "allow_other")
    done = as_nobody(
        f"print(open({str(source)!r}).read(), open({str(station.inbox)!r} + '/waiting/by nobody', 'x'))"
    )
    assert (done.returncode, done.stdout[:8]) == (0, "measured"), done.stderr
    row = station.only("by nobody")
    assert (row.uid, row.gid) == (65534, 65534)
    assert '"actor":{"uid":65534,"program":"python3"}' in "".join(
        file.read_text() for file in (station.root / "journal").rglob("*.jsonl")
    )
    private = Path(os.fsdecode(station.drop("waiting", "private.csv")))
    private.chmod(0o600)
    assert "PermissionError" in as_nobody(f"open({str(private)!r})").stderr
    assert "PermissionError" in as_nobody(f"open({str(station.root)!r} + '/archive.toml')").stderr


# -- mountpoints ---------------------------------------------------------------------------------------


def test_a_mountpoint_must_be_an_empty_folder_that_is_not_in_use(mounted: Make) -> None:
    station = mounted(config(FILES))
    other = mounted(config(FILES), mount=False, expected_log=["mountpoint /"])
    missing = other.root.parent / "missing"
    assert "No such file" in archivefs("mount", other.root, missing, code=32).stderr
    (other.point / "a file").touch()
    assert "not empty" in archivefs("mount", other.root, other.point, code=32).stderr
    assert "Not a directory" in archivefs("mount", other.root, other.point / "a file", code=32).stderr
    assert "is mounted there already" in archivefs("mount", other.root, station.point, code=32).stderr
    assert (station.point / "stats.json").exists()
    assert names_in(other.point) == ["a file"]


def test_a_second_mount_of_an_archive_is_refused_and_told_where_the_first_is(mounted: Make) -> None:
    station = mounted(config(FILES), expected_log=["is in use by process"])
    elsewhere = station.root.parent / "elsewhere"
    elsewhere.mkdir()
    done = archivefs("mount", station.root, elsewhere, code=13)
    assert f"is in use by process {station.pid}" in done.stderr
    assert f"mounted at {station.point}" in done.stderr
    assert not mount_line(elsewhere)
    station.drop("files", "unit.csv")


def test_the_mountpoint_may_be_given_through_a_link_and_relative(mounted: Make) -> None:
    station = mounted(config(FILES), mount=False)
    link = station.root.parent.parent / "link"
    link.symlink_to(station.root.parent)
    for given in (link / "mnt", Path(os.path.relpath(station.point)), station.point / ".." / "mnt"):
        archivefs("mount", link / "archive", given)
        station.pid = json.loads((station.root / "lock").read_bytes())["pid"]
        assert (station.point / "stats.json").exists()
        archivefs("umount", given)
        station.wait_for_end()


@needs_strace
@pytest.mark.parametrize(
    "name", ["comma, and blank", "tab\tand\nnewline", "quote's \\040", "line #5, 100%", "Prüfplatz 測定"]
)
def test_odd_characters_in_the_paths_do_no_harm(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with an_archive(folder, config(FILES)) as station:
        station.drop("files", "unit.csv")
        said = json.loads(archivefs("--archive", station.root, "status", "--json").stdout)
        assert (said["mountpoint"], said["entries"]) == (str(station.point), 1)
        with a_slow_disk(station):
            archivefs("umount", station.point)
            Lock(station.root).release()


# -- crashes -------------------------------------------------------------------------------------------


def test_after_a_kill_the_next_mount_heals_the_dead_one_and_has_all_that_was_closed(mounted: Make) -> None:
    station = mounted(config(FILES, WAITING))
    closed = {f"unit {number}.csv": b"%d" % number * number for number in range(1, 30)}
    for name, content in closed.items():
        station.drop("files", name, content)
    station.drop("waiting", "waits.csv")
    station.kill()
    with pytest.raises(OSError, match="not connected"):
        names_in(station.point)
    station.mount()
    assert {os.fsdecode(row.name): station.content(row) for row in station.entries()} == closed | {
        "waits.csv": b"measured"
    }
    assert (station.inbox / "waiting" / "waits.csv").read_bytes() == b"measured"
    assert station.only("waits.csv").status == "pending"
    assert "was being written" not in station.log()


def test_a_mount_that_died_a_moment_ago_is_healed_as_well(mounted: Make) -> None:
    station = mounted(config(FILES))
    station.drop("files", "unit.csv")
    # What starts it again at once, such as systemd, comes before the kernel has forgotten the attributes.
    assert station.point.stat()
    station.killed = True
    station.signal(signal.SIGKILL)
    station.mount()
    assert station.content(station.only("unit.csv")) == b"measured"


def test_a_dead_mount_that_is_in_use_is_healed_too(mounted: Make) -> None:
    station = mounted(config(FILES))
    station.drop("files", "unit.csv")
    fd = os.open(station.point / "README.txt", os.O_RDONLY)
    station.kill()
    station.mount()
    for action in (os.fstat, os.close):
        with pytest.raises(OSError, match="not connected"):
            action(fd)
    assert station.content(station.only("unit.csv")) == b"measured"


def test_what_was_being_written_at_a_kill_comes_back_quarantined_and_unconverted(mounted: Make) -> None:
    station = mounted(config(CSV, WAITING))
    half = os.open(station.inbox / "csv" / "half.csv", os.O_WRONLY | os.O_CREAT)
    os.write(half, b"the first half")
    again = os.open(station.drop("waiting", "again.csv", b"complete"), os.O_WRONLY | os.O_APPEND)
    os.write(again, b" and then")
    (station.inbox / "csv" / "junk.part").write_bytes(b"junk")
    station.kill()
    for fd in (half, again):
        with pytest.raises(OSError, match="not connected"):
            os.close(fd)
    station.mount()
    station.drop("csv", "after.csv")
    station.wait_for_status("after.csv", "success")
    row = station.only("half.csv")
    assert (row.status, row.attempts, station.content(row)) == ("quarantined", 0, b"the first half")
    assert station.facts(row)["reason"] == "it was being written when archivefs stopped"
    complete, torn = station.entries("again.csv")
    assert (station.content(complete), station.content(torn)) == (b"complete", b"complete and then")
    assert torn.status == "quarantined"
    assert station.entries("junk.part") == []
    assert (station.inbox / "csv" / "junk.part").read_bytes() == b"junk"
    station.umount()
    archivefs("--archive", station.root, "quarantine", "adopt", row.id)
    station.mount()
    assert station.report(station.wait_for_status("half.csv", "success"))["size"] == len(b"the first half")


def test_a_conversion_that_a_kill_cut_off_is_done_again(mounted: Make, tmp_path: Path) -> None:
    interrupted_conversion(mounted, tmp_path, signal.SIGKILL)


def test_a_conversion_that_sigterm_cut_off_is_noted_so_and_done_again(mounted: Make, tmp_path: Path) -> None:
    interrupted_conversion(mounted, tmp_path, signal.SIGTERM)


def interrupted_conversion(mounted: Make, tmp_path: Path, number: signal.Signals) -> None:
    """End the daemon while a converter runs, and see the conversion through after the next start."""
    gate = tmp_path / "gate"
    station = mounted(
        config(converter("csv", "python:good:Gate", arguments={"gate": str(gate)}, sandbox="off"))
    )
    station.drop("csv", "unit.csv")
    station.wait_for("the converter's start", (tmp_path / "waiting for the gate").exists)
    if number is signal.SIGKILL:
        station.kill()
    else:
        station.signal(number)
        assert station.only("unit.csv").status == "pending"
    gate.touch()
    station.mount()
    row = station.wait_for_status("unit.csv", "success")
    first, second = station.facts(row)["attempts"]
    assert (first["outcome"], first["error"]) == (
        "interrupted",
        "archivefs stopped while this conversion ran",
    )
    assert (second["outcome"], station.report(row)["attempt"]) == ("success", 2)


def test_a_kill_in_the_middle_of_many_writers_loses_no_close_that_was_answered(mounted: Make) -> None:
    script = """
import os, sys
number = 0
while True:
    name = f"unit {sys.argv[2]} {number}.csv"
    fd = os.open(os.path.join(sys.argv[1], name), os.O_WRONLY | os.O_CREAT)
    os.write(fd, name.encode() * 100)
    os.close(fd)
    print(name, flush=True)
    number += 1
"""
    station = mounted(config(WAITING))
    folder = str(station.inbox / "waiting")
    writers = [
        subprocess.Popen([sys.executable, "-c", script, folder, str(number)], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(4)
    ]  # fmt: skip
    station.wait_for("a hundred entries", lambda: len(station.entries()) > 100)
    station.kill()
    answered = [name for writer in writers for name in writer.communicate(timeout=20)[0].splitlines()]
    station.mount()
    rows = {os.fsdecode(row.name): row for row in station.live()}
    assert len(answered) > 50
    for name in answered:
        assert rows[name].status == "pending"
        assert station.content(rows[name]) == name.encode() * 100
    assert len(station.live()) - len(answered) <= 4
    assert not any(is_running(writer.pid) for writer in writers)
