"""Quarantine and verification on real mounts: after a crash, beside writers, by themselves, in private."""

import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest
from mount_parts import Mounted, an_archive, archivefs, command, config, converter, environment, poll, run

from archivefs.archive import Archive
from archivefs.events import Verified
from archivefs.operations import Note
from archivefs.rebuilding import CATALOG

Make = Callable[..., Mounted]
MEASURE = "def convert(path, arguments):\n    return {'size': len(open(path, 'rb').read())}\n"
TWO = converter("csv", "function:measure:convert", patterns=["*.csv"]) + converter("files")
WHY = "it was being written when archivefs stopped"


def station(make: Make, *, expected_log: tuple[str, ...] = (), **top: Any) -> Mounted:  # noqa: ANN401  of archive.toml
    """A mounted archive with a converter that measures csv files, and one that archives only."""
    archive = make(config(TWO, **top), expected_log=expected_log, mount=False)
    (archive.root / "converters" / "measure.py").write_text(MEASURE)
    archive.mount()
    return archive


def quarantined(archive: Mounted) -> list[dict[str, Any]]:
    """What ``archivefs quarantine list --json`` says."""
    said = archivefs("quarantine", "list", "--json", "--archive", archive.root).stdout
    return [json.loads(line) for line in said.splitlines()]


def crash(archive: Mounted, converter_name: str, *halves: tuple[str, bytes]) -> None:
    """Kill the daemon while these files are being written, and mount again."""
    fds = []
    for name, content in halves:
        fd = os.open(archive.inbox / converter_name / name, os.O_WRONLY | os.O_CREAT)
        fds.append(fd)
        os.write(fd, content)
    kill(archive)
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
    archive.mount()


def kill(archive: Mounted) -> None:
    """End the daemon as a crash does; the kernel needs a moment to notice."""
    archive.kill()

    def is_dead() -> bool:
        try:
            archive.point.stat()
        except OSError as error:
            return error.errno == errno.ENOTCONN
        return False

    poll("dead mount", is_dead)


# -- a crash -----------------------------------------------------------------------------------------------


def test_half_written_files_come_back_quarantined_with_every_byte_and_are_left_alone(mounted: Make) -> None:
    archive = station(mounted)
    archive.drop("csv", "closed before.csv", b"whole")
    halves = {
        "one byte.csv": b"x", "nothing yet.csv": b"", "large.csv": os.urandom(3 << 20),
        "text.csv": b"line\n" * 9999,
    }  # fmt: skip
    crash(archive, "csv", *halves.items())
    for name, content in halves.items():
        row = archive.wait_for_status(name, "quarantined")
        assert archive.content(row) == content
        assert archive.facts(row)["reason"] == WHY
        *directories, flat = map(Path, map(os.fsdecode, archive.places(row, "quarantined")))
        assert flat.stat().st_size == len(content)
        assert all((directory / name).stat().st_size == len(content) for directory in directories)
    assert {(row["name"], row["reason"]) for row in quarantined(archive)} == {(name, WHY) for name in halves}
    archive.wait_for_status("closed before.csv", "success")
    archive.wait_for("an empty inbox", lambda: not list((archive.inbox / "csv").iterdir()))

    kill(archive)
    archive.mount()
    rows = [row for row in archive.entries() if row.name != b"closed before.csv"]
    assert [(row.status, row.attempts) for row in rows] == [("quarantined", 0)] * len(halves)


def test_a_person_decides_what_becomes_of_them(mounted: Make) -> None:
    archive = station(mounted)
    fds = [os.open(archive.inbox / "files" / "half.bin", os.O_WRONLY | os.O_CREAT)]
    os.write(fds[0], b"half of an image")
    crash(archive, "csv", ("worth it.csv", b"serial,SN24\n"), ("worthless.csv", b"seri"))
    with contextlib.suppress(OSError):
        os.close(fds[0])
    names = ("worth it.csv", "worthless.csv", "half.bin")
    convert, drop, keep = (archive.wait_for_status(name, "quarantined").id for name in names)
    archive.umount()
    said = archivefs("quarantine", "adopt", "--archive", archive.root, convert, keep).stdout
    assert said == f"{convert}  pending\n{keep}  archived\n"
    archivefs("quarantine", "drop", "--archive", archive.root, drop)
    assert quarantined(archive) == []
    archive.mount()
    row = archive.wait_for_status("worth it.csv", "success")
    assert archive.report(row) == {"size": 12}
    assert archive.only("half.bin").status == "archived"
    row = archive.only("worthless.csv")
    assert row.status == "rejected"
    assert all(os.path.exists(path) for path in archive.places(row, "rejected"))  # noqa: PTH110  bytes
    assert archive.content(row) == b"seri"
    assert not (archive.point / "by-status" / "quarantined").exists()


@contextmanager
def abortable(archive: Mounted) -> Iterator[Callable[[], None]]:
    """A way out for everybody who waits for a mount that hangs; only root has it."""
    connection = os.minor(archive.point.stat().st_dev)
    with tempfile.TemporaryDirectory() as control:
        run("mount", "-t", "fusectl", "none", control)

        def abort() -> None:
            (Path(control) / str(connection) / "abort").write_text("1")

        try:
            yield abort
        finally:
            run("umount", control)


def come_and_go(archive: Mounted, stop: threading.Event) -> list[threading.Thread]:
    """Programs that save files, which leave at once, and list the folder."""

    def write(number: int) -> None:
        for each in range(10**9):
            if stop.is_set():
                return
            with contextlib.suppress(OSError):
                archive.drop("files", f"{number}-{each}.bin", b"x")
                os.listdir(archive.inbox / "files")  # noqa: PTH208

    threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can end a mount that hangs")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nobody_waits_for_ever_when_the_daemon_ends_while_files_come_and_go(
    how: signal.Signals, mounted: Make
) -> None:
    archive = mounted(config(converter("files", linger_seconds=0)), mount=False)
    archive.killed = True
    for _ in range(3):
        archive.mount()
        stop, before = threading.Event(), len(archive.entries())
        with abortable(archive) as abort:
            threads = come_and_go(archive, stop)
            archive.wait_for("some files", lambda before=before: len(archive.entries()) > before + 100)  # type: ignore[misc]
            os.kill(archive.pid, how)
            stop.set()
            deadline = time.monotonic() + 5
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            waiting = sum(thread.is_alive() for thread in threads)
            if waiting:
                abort()
        assert waiting == 0, f"{waiting} of {len(threads)} programs wait for ever"
        archive.wait_for_end()
        archivefs("umount", "--lazy", archive.point, code=None)


# -- verification beside writers ---------------------------------------------------------------------------


@contextmanager
def writers(archive: Mounted, count: int = 3) -> Iterator[list[str]]:
    """Programs that save files all the time; the names saved so far."""
    stop, saved = threading.Event(), list[str]()

    def write(number: int) -> None:
        for each in range(10**9):
            if stop.is_set():
                return
            name = f"{number}-{each}.csv"
            archive.drop("csv" if each % 2 else "files", name, name.encode() * 200)
            saved.append(name)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield saved
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_nothing_is_found_in_a_mount_that_is_being_written_to(mounted: Make) -> None:
    archive = station(mounted)
    with writers(archive) as saved:
        for options in ((), ("--sample", "50%"), ("--since", "2020-01-01"), ()):
            before = len(saved)
            said = archivefs("verify", "--json", "--archive", archive.root, *options).stdout
            assert json.loads(said)["findings"] == []
            archive.wait_for("more files", lambda before=before: len(saved) > before)  # type: ignore[misc]
    rows = {os.fsdecode(row.name) for row in archive.entries()}
    assert rows == set(saved)


def test_damage_is_found_on_a_live_mount_and_repair_is_refused(mounted: Make) -> None:
    archive = station(mounted)
    archive.drop("files", "a.bin", b"x")
    db = apsw.Connection(str(archive.root / CATALOG))
    db.execute("UPDATE totals SET size = 77")
    db.close()
    for options, code in (((), 51), (("--repair",), 13)):
        done = archivefs("verify", "--json", "--archive", archive.root, *options, code=code)
        if code == 51:
            (finding,) = json.loads(done.stdout)["findings"]
            assert (finding["check"], finding["repair"]) == ("catalog-differs", "catalog")
    assert "mounted at" in done.stderr
    archive.drop("files", "b.bin", b"the mount goes on")
    archive.umount()
    done = archivefs("verify", "--json", "--repair", "--archive", archive.root)
    assert {finding["check"] for finding in json.loads(done.stdout)["findings"]} <= {"quarantine"}


# -- verification by itself --------------------------------------------------------------------------------


def health(archive: Mounted) -> dict[str, Any]:
    """The mount's health.json."""
    facts: dict[str, Any] = json.loads((archive.point / "health.json").read_bytes())
    return facts


def test_the_numbers_are_whole_whenever_a_probe_reads_them(mounted: Make) -> None:
    archive = station(mounted)
    with writers(archive):
        for _ in range(300):
            for name in ("stats.json", "health.json"):
                json.loads((archive.point / name).read_bytes())


def verified_events(archive: Mounted) -> list[dict[str, Any]]:
    """The verifications that the journal knows."""
    lines = archivefs("log", "--json", "--archive", archive.root).stdout.splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == "verified"]


def test_a_mounted_archive_verifies_itself_and_says_when(mounted: Make) -> None:
    archive = station(mounted, verify_every="1 hour")
    archive.wait_for("a verification", lambda: health(archive)["last_verified"])
    archive.drop("files", "a.bin", b"x")
    facts = health(archive)
    assert (facts["ok"], facts["alarms"]) == (True, {})
    when = datetime.fromisoformat(facts["last_verified"])
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    (event,) = verified_events(archive)
    assert (event["at"], event["scope"]) == (facts["last_verified"], "everything")
    archive.remount()
    assert health(archive)["last_verified"] == facts["last_verified"], "not again before its time"


def test_damage_that_it_finds_is_an_alarm_in_health_json(mounted: Make) -> None:
    archive = station(mounted, verify_every="1 hour", expected_log=(": verify: ",))
    archive.wait_for("a verification", lambda: health(archive)["last_verified"])
    archive.drop("files", "a.bin", os.urandom(5000))
    archive.umount()
    segment = next((archive.root / "content").rglob("files.sources.zst"))
    whole = segment.read_bytes()
    segment.write_bytes(whole[:2500] + bytes([whole[2500] ^ 1]) + whole[2501:])
    set_meta(archive.root, "verified_at", "2020-01-01T00:00:00.000000Z")
    archive.mount()
    archive.wait_for("an alarm", lambda: health(archive)["alarms"])
    facts = health(archive)
    assert facts["ok"] is False
    assert facts["alarms"] == {"verify": "1 critical, 1 error; see archivefs verify"}
    archive.drop("files", "b.bin", b"the mount goes on")
    assert verified_events(archive)[-1]["findings"] == {"critical": 1, "error": 1}
    archive.umount()
    segment.write_bytes(whole + segment.read_bytes()[len(whole) :])


def set_meta(root: Path, key: str, value: str) -> None:
    """Make the catalog believe something, which verification then finds as an error, too."""
    db = apsw.Connection(str(root / CATALOG))
    try:
        db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
    finally:
        db.close()


# -- lost segments -----------------------------------------------------------------------------------------


def two_days(archive: Mounted) -> tuple[Path, bytes]:
    """A file in the segment of each converter; the segment of ``files``, and its bytes; not mounted."""
    archive.drop("files", "lost.bin", b"lost" * 999)
    archive.drop("csv", "other.csv", b"other")
    archive.wait_for_status("other.csv", "success")
    archive.umount()
    segment = next((archive.root / "content").rglob("files.sources.zst"))
    return segment, segment.read_bytes()


def test_a_segment_that_was_cut_is_an_alarm_and_its_entries_are_quarantined(mounted: Make) -> None:
    archive = station(mounted, expected_log=("ends at 100, the journal says", "the segment ends inside"))
    segment, whole = two_days(archive)
    os.truncate(segment, 100)
    archive.mount()
    assert health(archive)["ok"] is False
    assert any("ends at 100" in what for what in health(archive)["alarms"].values())
    row = archive.only("lost.bin")
    archive.damaged.add(row.id)
    assert row.status == "quarantined"
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        archive.content(row)
    assert archive.content(archive.only("other.csv")) == b"other"
    archive.drop("files", "new.bin", b"new")
    assert archive.content(archive.only("new.bin")) == b"new"
    archive.umount()
    segment.write_bytes(whole)


def test_a_segment_that_is_missing_is_an_alarm_and_the_rest_is_served(mounted: Make) -> None:
    archive = station(mounted, expected_log=("files.sources.zst is missing",))
    segment, whole = two_days(archive)
    segment.unlink()
    archive.mount()
    assert any("is missing" in what for what in health(archive)["alarms"].values())
    row = archive.only("lost.bin")
    assert row.status == "archived", "its disk may just not be there yet"
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        archive.content(row)
    assert archive.content(archive.only("other.csv")) == b"other"
    archive.drop("files", "new.bin", b"new")
    archive.umount()
    segment.write_bytes(whole)
    archive.mount()
    assert health(archive)["alarms"] == {}
    assert archive.content(row) == b"lost" * 999
    assert archive.content(archive.only("new.bin")) == b"new"


def test_the_daemon_outlives_a_journal_that_is_damaged_under_it(mounted: Make) -> None:
    archive = station(mounted)
    archive.drop("files", "a.bin", b"x")
    file = next((archive.root / "journal").glob("*/*/*.jsonl"))
    whole = file.read_bytes()
    with file.open("r+b") as out:
        out.seek(len(whole) - 40)
        out.write(b"\xff" * 20)
    done = archivefs("verify", "--json", "--archive", archive.root, code=None)
    poll("answer", lambda: health(archive)["ok"], alive=archive.is_alive)
    with file.open("r+b") as out:
        out.write(whole)
    assert done.returncode == 52, done
    found = {finding["check"] for finding in json.loads(done.stdout)["findings"]}
    assert found & {"journal-chain", "journal-cut"}


# -- the archive's own folder ------------------------------------------------------------------------------


def own_files(root: Path) -> Iterator[tuple[str, int]]:
    """Everything in the archive's folder with its mode, but what writers and people put there.

    Nor what is in the folder of the workers, which is closed itself: they are nobody, and must read it.
    """
    theirs = (root / "staging" / "inbox", root / "staging" / "work", root / "converters")
    for path in sorted(root.rglob("*")):
        if path != root / "converters" and not any(each in path.parents for each in theirs):
            kind = "folder" if path.is_dir() else "file"
            yield f"{kind} {path.relative_to(root)}", stat.S_IMODE(path.lstat().st_mode)


def nothing_is_open_to_others(root: Path) -> None:
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    found = dict(own_files(root))
    wrong = {name: oct(mode) for name, mode in found.items()
             if mode != (0o700 if name.startswith("folder") else 0o600)}  # fmt: skip
    assert wrong == {}


def begin_a_day(archive: Mounted) -> None:
    """An event of tomorrow, so that today's journal is sealed when the archive is opened next."""
    with Archive(archive.root, clock=lambda: time.time_ns() + 86_400 * 10**9) as opened:
        opened.commit([Note(Verified(scope="nothing", records=0, bytes=0))])


@pytest.fixture
def ordinary_umask() -> Iterator[None]:
    """What most shells and service managers give."""
    before = os.umask(0o022)
    yield
    os.umask(before)


TELL_UMASK = """
import os

def convert(path, arguments):
    print('measured')
    return {'umask': os.umask(0o077)}
"""


@pytest.mark.usefixtures("ordinary_umask")
@pytest.mark.parametrize("way", ["as a daemon", "in the foreground"])
def test_the_files_of_the_archive_are_private_after_real_use(way: str, tmp_path: Path) -> None:
    toml = config(converter("csv", "function:measure:convert"))
    with an_archive(tmp_path, toml, mount=False) as archive:
        root = archive.root
        (root / "converters" / "measure.py").write_text(TELL_UMASK)
        begin_a_day(archive)
        mount_it(archive, way)
        archive.drop("csv", "a.csv", b"x" * (9 << 20))
        report = archive.report(archive.wait_for_status("a.csv", "success"))
        assert report["umask"] == 0o77, "what a killed conversion leaves behind would be open to others"
        fd = os.open(archive.inbox / "csv" / "half.csv", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, b"half")
        kill(archive)
        with contextlib.suppress(OSError):
            os.close(fd)
        nothing_is_open_to_others(root)
        archivefs("umount", "--lazy", archive.point, code=None)
        mount_it(archive, way)
        archive.wait_for_status("half.csv", "quarantined")
        archive.umount()
        with next((root / "content").rglob("csv.sources.zst")).open("ab") as out:
            out.write(b"torn")
        (root / "archive.toml.tmp").touch(0o600)
        archivefs("verify", "--repair", "--archive", root)
        archivefs("rebuild", "--from-segments", "--archive", root)
        assert {file.suffix for file in root.rglob("*")} >= {".zst", ".jsonl", ".tail", ".log", ".sqlite"}
        assert list(root.rglob("*.jsonl.zst"))
        nothing_is_open_to_others(root)


def mount_it(archive: Mounted, way: str) -> None:
    """As a daemon, or as a service manager does: in the foreground, with the manager's umask."""
    if way == "as a daemon":
        archive.mount()
        return
    log = (archive.root / "archivefs.log").open("ab")
    (archive.root / "archivefs.log").chmod(0o600)
    child = subprocess.Popen(
        command("mount", "-f", archive.root, archive.point), env=environment(), stderr=log
    )
    log.close()
    threading.Thread(target=child.wait, daemon=True).start()
    poll("mount", lambda: (archive.point / "inbox").exists(), 20)
    archive.pid = child.pid
