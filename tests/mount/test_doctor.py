"""Each thing that can be wrong with an archive, its mount or its machine is named, and what mends it."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest
from mount_parts import Make, Mounted, archivefs, config, converter, names_in, run

from archivefs.rebuilding import CATALOG

FILES = "[converters.files]\nsettle_seconds = 0\nlinger_seconds = 0\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change what a process sees")
Said = dict[str, list[dict[str, str]]]


def doctor(
    archive: Mounted, *options: object, code: int, under: Sequence[str] = (), **variables: str
) -> Said:
    """What the doctor says, by check; whatever it is, nothing in the archive has changed by it."""
    before = state(archive.root)
    done = archivefs(
        "doctor", "--json", "--archive", archive.root, *options, code=code, under=under, **variables
    )
    assert state(archive.root) == before
    facts = json.loads(done.stdout)
    assert facts["worst"] == {0: "ok", 53: "warning", 54: "problem"}[code]
    found: Said = {}
    for line in facts["checks"]:
        assert line["remedy"] or line["state"] == "ok", line
        found.setdefault(line["check"], []).append(line)
    return found


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Size and mtime of every file of an archive, but for those that SQLite keeps beside an open catalog."""
    found = {}
    for file in root.rglob("*"):
        if not file.name.startswith(CATALOG + "-") and "work" not in file.parts:
            facts = file.lstat()
            found[str(file)] = (facts.st_size, facts.st_mtime_ns)
    return found


def only(said: Said, check: str) -> dict[str, str]:
    """The one line of a check, of a state other than ok where there is one."""
    lines = [line for line in said[check] if line["state"] != "ok"] or said[check]
    assert len(lines) == 1, lines
    return lines[0]


def mended_by(line: dict[str, str]) -> None:
    """Run the remedy as it stands there, up to what a person has to look at."""
    words = shlex.split(line["remedy"].partition(";")[0])
    assert words[0] == "archivefs", line
    archivefs(*words[1:])


# -- nothing is wrong ------------------------------------------------------------------------------------


def test_of_a_sound_archive_nothing_is_wrong_mounted_or_not(mounted: Make) -> None:
    archive = mounted(config(FILES, converter("good", "function:good:count")))
    archive.drop("good", "a", b"1")
    archive.wait_for_status("a", "success")
    archive.wait_for("an empty inbox", lambda: not names_in(archive.inbox / "good"))
    said = doctor(archive, code=0)
    assert f"mounted at {archive.point}, and answers" in only(said, "mount")["seen"]
    assert str(archive.pid) in only(said, "lock")["seen"]
    archive.umount()
    said = doctor(archive, code=0)
    assert only(said, "mount")["seen"] == "not mounted"
    assert only(said, "inbox")["seen"] == f"nothing was saved into {archive.point}"
    assert "2 have their code" not in only(said, "converters")["seen"]
    text = archivefs("doctor", "--archive", archive.root).stdout
    assert text.splitlines()[-1].strip() == f"{sum(map(len, said.values()))} ok"


# -- the mount -------------------------------------------------------------------------------------------


def test_a_mount_whose_daemon_died_is_named_and_the_remedy_heals_it(mounted: Make) -> None:
    archive = mounted(config(FILES))
    archive.kill()
    said = doctor(archive, code=54)
    assert (
        f"the mount at {archive.point} is dead: Transport endpoint is not connected"
        in only(said, "mount")["seen"]
    )
    assert only(said, "lock")["state"] == "warning"
    mended_by(only(said, "mount"))
    archive.pid = json.loads((archive.root / "lock").read_bytes())["pid"]
    doctor(archive, code=0)


def test_a_mount_that_hangs_is_named_in_time_and_nobody_waits_for_it(mounted: Make) -> None:
    archive = mounted(config(FILES))
    os.kill(archive.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        said = doctor(archive, code=54)
        assert time.monotonic() - start < 20
        line = only(said, "mount")
        assert "does not answer within 5 s" in line["seen"]
        assert f"umount -f -l {archive.point}" in line["remedy"]
    finally:
        os.kill(archive.pid, signal.SIGCONT)
    archive.wait_for("an answer", (archive.point / "health.json").read_bytes)
    doctor(archive, code=0)


def test_a_lock_that_names_a_dead_process_is_an_unclean_end_that_any_command_heals(mounted: Make) -> None:
    archive = mounted(config(FILES))
    archive.kill()
    archivefs("umount", "--lazy", archive.point, code=None)
    line = only(doctor(archive, code=53), "lock")
    assert f"process {archive.pid}" in line["seen"]
    archivefs("status", "--archive", archive.root)
    doctor(archive, code=0)


@as_root
def test_another_user_is_told_that_the_mount_is_not_for_him(mounted: Make) -> None:
    archive = mounted(config(FILES))
    run("chmod", "-R", "a+rX", archive.root)
    for folder in (archive.root, *archive.root.parents):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 0o11)
    under = ("setpriv", "--reuid=4242", "--clear-groups", "--regid=4242")
    done = archivefs("doctor", "--json", "--archive", archive.root, code=None, under=under)
    lines = [each for each in json.loads(done.stdout)["checks"] if each["check"] == "mount"]
    assert [line["state"] for line in lines] == ["warning"]
    assert "for another user; uid 4242 may not look" in lines[0]["seen"]
    archive.root.chmod(0o700)


# -- files that nobody captured --------------------------------------------------------------------------


def test_files_saved_while_nothing_was_mounted_are_named_and_the_remedies_bring_them_in(
    mounted: Make,
) -> None:
    archive = mounted(config(FILES, converter("good", "function:good:count")))
    archive.umount()
    folder = archive.point / "inbox" / "files"
    folder.mkdir(parents=True)
    for name in (b"a b.csv", b"caf\xe9"):
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_bytes(b"measured")
    (archive.point / "inbox" / "nobody").mkdir()
    (archive.point / "inbox" / "nobody" / "x").write_bytes(b"x")
    (archive.point / "top").write_bytes(b"y")
    said = doctor(archive, code=54)
    lines = {shlex.split(line["remedy"])[5]: line for line in said["inbox"]}
    assert lines.keys() == {"files", "CONVERTER"}
    assert "2 files in" in lines["files"]["seen"]
    assert "a b.csv" in lines["files"]["seen"]
    assert "inbox/nobody/x" in lines["CONVERTER"]["seen"]
    assert str(archive.point / "top") in lines["CONVERTER"]["seen"]
    assert "(CONVERTER: files, good)" in lines["CONVERTER"]["remedy"]
    mended_by(lines["files"])
    assert {row.name for row in archive.entries()} == {b"a b.csv", b"caf\xe9"}
    other = lines["CONVERTER"]["remedy"].partition(" (CONVERTER")[0].replace("CONVERTER", "files")
    archivefs(*shlex.split(other)[1:])
    assert {row.name for row in archive.entries()} == {b"a b.csv", b"caf\xe9", b"x", b"top"}
    run("sh", "-c", lines["files"]["remedy"].rpartition(": ")[2])
    doctor(archive, code=0)
    archive.mount()


def test_a_folder_that_is_named_is_searched_too(mounted: Make, tmp_path: Path) -> None:
    archive = mounted(config(FILES), mount=False)
    other = tmp_path / "other"
    other.mkdir()
    assert only(doctor(archive, other, code=0), "inbox")["seen"] == f"nothing was saved into {other}"
    (other / "lost.csv").write_bytes(b"1")
    assert str(other / "lost.csv") in only(doctor(archive, other, code=54), "inbox")["seen"]


@as_root
def test_a_mountpoint_of_fstab_is_searched_too(mounted: Make, tmp_path: Path) -> None:
    archive = mounted(config(FILES), mount=False)
    source = str(archive.root).replace(" ", "\\040")
    line = f"archivefs#{source} {tmp_path}/there fuse.archivefs noauto 0 0\n"
    (tmp_path / "fstab").write_text("# fstab\n" + line)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "lost").write_bytes(b"1")
    under = ("unshare", "-m", "sh", "-c", f'mount --bind {tmp_path}/fstab /etc/fstab && exec "$@"', "sh")
    assert "there/lost" in only(doctor(archive, code=54, under=under), "inbox")["seen"]


# -- the machine -----------------------------------------------------------------------------------------


@as_root
def test_a_machine_without_fuse_is_named(mounted: Make, tmp_path: Path) -> None:
    archive = mounted(config(FILES), mount=False)
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "null").touch()
    script = f'mount --bind /dev/null {dev}/null && mount --rbind {dev} /dev && exec "$@"'
    line = only(doctor(archive, code=54, under=("unshare", "-m", "sh", "-c", script, "sh")), "fuse")
    assert "there is no /dev/fuse" in line["seen"]
    assert "modprobe fuse" in line["remedy"]


def without(program: str, folder: Path) -> str:
    """A PATH of links to all programs but one."""
    folder.mkdir()
    for place in os.environ["PATH"].split(":"):
        for each in Path(place).iterdir() if Path(place).is_dir() else ():
            if each.name != program and not (folder / each.name).is_symlink():
                (folder / each.name).symlink_to(each)
    return str(folder)


def test_a_missing_program_is_named_with_its_package(mounted: Make, tmp_path: Path) -> None:
    archive = mounted(config(converter("strict", "function:good:count")), mount=False)
    line = only(doctor(archive, code=54, PATH=without("fusermount3", tmp_path / "a")), "fuse")
    assert "fusermount3 is missing" in line["seen"]
    assert "apt-get install fuse3" in line["remedy"]
    line = only(doctor(archive, code=54, PATH=without("bwrap", tmp_path / "b")), "sandbox")
    assert "strict cannot run, their entries wait" in line["seen"]
    assert "apt-get install bubblewrap" in line["remedy"]
    assert "config set converters.strict.sandbox" in line["remedy"]


def test_too_little_room_is_named(mounted: Make) -> None:
    archive = mounted(config(FILES, reserve="900 TB"), mount=False)
    line = only(doctor(archive, code=54), "space")
    assert "the reserve is 900.0 TB: nothing is captured" in line["seen"]
    free = shutil.disk_usage(archive.root).free
    toml = (archive.root / "archive.toml").read_text()
    (archive.root / "archive.toml").write_text(toml.replace('"900 TB"', str(int(free / 1.2))))
    assert "captures end soon" in only(doctor(archive, code=53), "space")["seen"]


@as_root
def test_a_disk_that_is_read_only_is_named(mounted: Make, tmp_path: Path) -> None:
    archive = mounted(config(FILES), mount=False)
    script = (
        f"mount --bind {shlex.quote(str(archive.root))} {shlex.quote(str(archive.root))} && "
        f'mount -o remount,bind,ro {shlex.quote(str(archive.root))} && exec "$@"'
    )
    said = doctor(archive, code=54, under=("unshare", "-m", "sh", "-c", script, "sh"))
    assert any("is mounted read-only" in line["seen"] for line in said["space"])


# -- converters ------------------------------------------------------------------------------------------


def test_a_converter_whose_code_is_missing_or_does_not_load_is_named(mounted: Make) -> None:
    archive = mounted(
        config(
            converter("good", "function:good:count"),
            converter("gone", "function:not_there:convert"),
            converter("odd", "function:good:no_such_function"),
        ),
        mount=False,
    )
    lines = doctor(archive, code=54)["converters"]
    assert [line["seen"].split()[0] for line in lines] == ["gone", "odd"]
    assert "No module named 'not_there'" in lines[0]["seen"]
    assert "converter check gone" in lines[0]["remedy"]


def test_a_version_of_code_that_is_gone_is_named(mounted: Make) -> None:
    archive = mounted(config(converter("good", "function:good:count")))
    archive.drop("good", "a", b"1")
    archive.wait_for_status("a", "success")
    archive.umount()
    (kept,) = (archive.root / "converters" / "good").glob("*.zip")
    kept.rename(archive.root / "elsewhere")
    assert kept.name in only(doctor(archive, code=53), "converters")["seen"]
    (archive.root / "elsewhere").rename(kept)


# -- the archive -----------------------------------------------------------------------------------------


def test_a_folder_that_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        done = archivefs("doctor", "--json", "--archive", folder, code=54)
        lines = json.loads(done.stdout)["checks"]
        assert [(line["check"], line["state"]) for line in lines] == [("archive", "problem"), ("fuse", "ok")]


def test_a_wrong_line_of_archive_toml_is_named_and_the_rest_is_still_looked_at(mounted: Make) -> None:
    archive = mounted(config(FILES), mount=False)
    archivefs("status", "--archive", archive.root)
    file = archive.root / "archive.toml"
    toml = file.read_text()
    file.write_text(toml + "[converters.files]\npriority = 99\n")
    said = doctor(archive, code=54)
    assert "archive.toml" in only(said, "archive")["seen"]
    assert said.keys() >= {"catalog", "journal", "clock", "lock", "mount", "inbox", "space", "fuse"}
    file.write_text(toml)
    doctor(archive, code=0)


@pytest.mark.parametrize("damage", ["missing", "garbage", "schema"])
def test_what_is_wrong_with_the_catalog_is_named_and_the_remedy_mends_it(mounted: Make, damage: str) -> None:
    archive = mounted(config(FILES))
    archive.drop("files", "a")
    archive.umount()
    path = archive.root / CATALOG
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"no database " * 1000)
    else:
        db = apsw.Connection(str(path))
        db.execute("UPDATE meta SET value = 1 WHERE key = 'schema'")
        db.close()
    said = doctor(archive, code=54 if damage == "garbage" else 53)
    line = only(said, "catalog")
    assert {"missing": "is missing", "garbage": "cannot be read", "schema": "schema 1, known here"}[
        damage
    ] in line["seen"]
    mended_by(line | {"remedy": line["remedy"].partition(" (while")[0]})
    doctor(archive, code=0)


def test_a_journal_that_was_cut_is_named(mounted: Make) -> None:
    archive = mounted(config(FILES))
    archive.drop("files", "a")
    archive.umount()
    (file,) = (archive.root / "journal").glob("*/*/*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    line = only(doctor(archive, code=54), "journal")
    assert "its tail was cut off" in line["seen"]
    assert "audit verify" in line["remedy"]
    file.write_bytes(b"")
    assert only(doctor(archive, code=54), "journal")["state"] == "problem"
    file.write_bytes(whole)
    doctor(archive, code=0)


def test_a_clock_that_stands_before_the_journal_is_named(mounted: Make) -> None:
    archive = mounted(config(FILES), mount=False)
    ahead = (
        "import sys, time; from pathlib import Path; from archivefs.archive import Archive;"
        "from archivefs.operations import Capture;"
        "a = Archive(Path(sys.argv[1]), clock=lambda: time.time_ns() + 7200 * 10**9);"
        "a.commit([Capture('files', b'x', b'1', mtime_ns=1)]); a.close()"
    )
    run("/usr/bin/env", f"PYTHONPATH={Path(__file__).parents[2]}", sys.executable, "-c", ahead, archive.root)
    line = only(doctor(archive, code=54), "clock")
    assert "before the journal's last line" in line["seen"]
    assert "timedatectl" in line["remedy"]


def test_what_waits_for_a_person_is_named(mounted: Make) -> None:
    archive = mounted(config(FILES))
    fd = os.open(archive.inbox / "files" / "open.bin", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"half")
    archive.kill()
    with contextlib.suppress(OSError):
        os.close(fd)
    archive.mount()
    line = only(doctor(archive, code=53), "quarantine")
    assert "1 entries need a decision" in line["seen"]
    assert "quarantine list" in line["remedy"]


def test_alarms_of_the_mount_are_told_with_their_remedy(mounted: Make) -> None:
    archive = mounted(config(FILES), expected_log=["archive.toml was not read again"])
    (archive.root / "archive.toml").write_text("nonsense")
    os.kill(archive.pid, signal.SIGHUP)
    archive.wait_for("the alarm", lambda: b"configuration" in (archive.point / "health.json").read_bytes())
    line = only(doctor(archive, code=54), "alarms")
    assert line["seen"].startswith("configuration: ")
    assert "config check" in line["remedy"]
    (archive.root / "archive.toml").write_text(config(FILES))
    os.kill(archive.pid, signal.SIGHUP)
    archive.wait_for("its end", lambda: b"configuration" not in (archive.point / "health.json").read_bytes())
    doctor(archive, code=0)
