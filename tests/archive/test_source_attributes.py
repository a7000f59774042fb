"""What a source had besides its bytes: kept at the capture, shown in entry.json, given back by restore."""

import base64
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from archive_parts import (
    Clock,
    capture,
    captured,
    child_command,
    child_environment,
    commit,
    entry,
    make,
    run_child,
)
from test_verify_parts import Ran, archivefs, events_of

from archivefs import archive as archives
from archivefs import describe, rebuilding
from archivefs.archive import Archive
from archivefs.events import Captured
from archivefs.operations import Touch

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
XATTRS = {
    "user.station": b"A7",
    "user.binary": bytes(range(256)),
    "user.empty": b"",
    "user.gr\u00fc\u00df": b"1",
}
MOMENTS = (0, 1, -1, 1_700_000_000_123_456_789, -2_000_000_000_000_000_001, 4_102_444_800_000_000_000)
NAMES = (
    b"unit.csv", b"\xff\xfe\x80", b"a\nb", b"\x01\x1b[2J", "gr\u00fc\u00df.csv".encode(), b"n" * 255,
    b"\xc3" * 255, b" lead", b"trail ", b"-f", b"*?[", b"...", b'a"b\\c',
)  # fmt: skip


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty folder to restore into."""
    (tmp_path / "restored").mkdir()
    return tmp_path / "restored"


@pytest.fixture
def takes_xattrs(tmp_path: Path) -> None:
    """Skips where the file system of the test has no extended attributes."""
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"1")
    except OSError:
        pytest.skip("this file system has no user.* attributes")
    probe.unlink()


def names_in(folder: Path) -> list[bytes]:
    return os.listdir(os.fsencode(folder))  # noqa: PTH208  names are bytes


def encoded(xattrs: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in xattrs.items()}


def one(root: Path, clock: Clock, name: bytes = b"unit.csv", **more: Any) -> str:  # noqa: ANN401  of Capture
    """An archive with one source; returns its id."""
    with make(root, clock) as archive:
        (receipt,) = commit(archive, capture(b"measured", name, **more))
    return str(receipt.id)


def facts_of(root: Path, id_: str) -> dict[str, Any]:
    """The source's entry.json."""
    with Archive.open_for_reading(root) as archive:
        facts: dict[str, Any] = json.loads(describe.as_file(describe.entry(archive, entry(archive, id_))))
    return facts


def restore(root: Path, id_: str, target: Path) -> subprocess.CompletedProcess[bytes]:
    """``archivefs restore`` as a person on a desktop runs it: what it prints must be UTF-8."""
    script = "import sys; from archivefs.cli.main import main; sys.argv[0] = 'archivefs'; main()"
    command = child_command(script, ["restore", "--archive", root, id_, target])
    environment = {**child_environment(), "PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.run(command, capture_output=True, env=environment, timeout=30, check=False)


# -- name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_its_bytes_all_the_way(name: bytes, root: Path, clock: Clock, target: Path) -> None:
    id_ = one(root, clock, name)
    facts = facts_of(root, id_)
    assert bytes.fromhex(facts.get("name_hex", "")) in (b"", name)
    assert facts["name"] == name.decode("utf-8", "replace")
    with Archive(root, clock=clock) as archive:
        assert entry(archive, id_).name == name
    ran = archivefs("restore", "--archive", root, id_, target)
    assert ran.code == 0
    assert names_in(target) == [name]


@pytest.mark.parametrize("name", [b"\xff.csv", "gr\u00fc\u00df.csv".encode(), b"a\nb.csv"])
def test_any_name_can_be_restored_by_the_real_command(
    name: bytes, root: Path, clock: Clock, target: Path
) -> None:
    id_ = one(root, clock, name)
    done = restore(root, id_, target)
    assert (done.returncode, done.stderr) == (0, b"")
    assert names_in(target) == [name]


@pytest.mark.parametrize("name", [b"\xff.csv", b"a\nb.csv"])
def test_any_name_can_be_told_as_json(name: bytes, root: Path, clock: Clock, target: Path) -> None:
    id_ = one(root, clock, name)
    ran = archivefs("restore", "--json", "--archive", root, id_, target)
    assert ran.code == 0, ran
    assert json.loads(ran.out)["id"] == id_


def test_a_name_does_not_steer_the_terminal(root: Path, clock: Clock, target: Path) -> None:
    id_ = one(root, clock, b"\x1b]2;owned\x07.csv")
    for ran in (
        archivefs("restore", "--archive", root, id_, target),
        archivefs("show", "--archive", root, id_),
        archivefs("ls", "--archive", root),
        archivefs("log", "--archive", root),
    ):
        assert ran.code == 0
        assert "\x1b" not in ran.out


@pytest.mark.parametrize("folder", [b"line 1", b"\xff/\xfe", b"a/b/c/d", b"x" * 255])
def test_the_folder_of_the_inbox_is_kept(folder: bytes, root: Path, clock: Clock) -> None:
    id_ = one(root, clock, folder=folder)
    facts = facts_of(root, id_)
    assert facts["folder"] == folder.decode("utf-8", "replace")
    assert bytes.fromhex(facts.get("folder_hex", "")) in (b"", folder)


# -- time, mode, owner -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mtime_ns", MOMENTS)
def test_the_modification_time_is_kept_to_the_nanosecond(
    mtime_ns: int, root: Path, clock: Clock, target: Path
) -> None:
    id_ = one(root, clock, mtime_ns=mtime_ns)
    assert facts_of(root, id_)["mtime_ns"] == mtime_ns
    assert archivefs("restore", "--archive", root, id_, target).code == 0
    assert (target / "unit.csv").stat().st_mtime_ns == mtime_ns


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o444, 0o400, 0o755, 0o000, 0o1777, 0o4755, 0o2750])
def test_the_mode_is_kept_and_rights_to_be_somebody_else_are_not_given_back(
    mode: int, root: Path, clock: Clock, target: Path
) -> None:
    id_ = one(root, clock, mode=mode)
    assert facts_of(root, id_)["mode"] == f"{mode:04o}"
    assert archivefs("restore", "--archive", root, id_, target).code == 0
    assert stat.S_IMODE((target / "unit.csv").stat().st_mode) == mode & 0o777


@AS_ROOT
@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (1000, 100), (65534, 65534), (4_000_000_000, 1)])
def test_root_gives_the_source_back_to_its_owner(
    uid: int, gid: int, root: Path, clock: Clock, target: Path
) -> None:
    id_ = one(root, clock, uid=uid, gid=gid)
    facts = facts_of(root, id_)
    assert (facts["uid"], facts["gid"]) == (uid, gid)
    assert archivefs("restore", "--archive", root, id_, target).code == 0
    restored = (target / "unit.csv").stat()
    assert (restored.st_uid, restored.st_gid) == (uid, gid)


def test_what_was_set_after_the_capture_counts(root: Path, clock: Clock, target: Path) -> None:
    id_ = one(root, clock, mtime_ns=1, mode=0o600)
    with Archive(root, clock=clock) as archive:
        uid, gid = os.getuid(), os.getgid()
        commit(archive, Touch(id_, MOMENTS[3], 0o640, uid, gid))
    facts = facts_of(root, id_)
    assert (facts["mtime_ns"], facts["mode"]) == (MOMENTS[3], "0640")
    assert archivefs("restore", "--archive", root, id_, target).code == 0
    restored = (target / "unit.csv").stat()
    assert (restored.st_mtime_ns, stat.S_IMODE(restored.st_mode)) == (MOMENTS[3], 0o640)


# -- extended attributes -----------------------------------------------------------------------------------


def test_extended_attributes_are_in_the_journal_and_in_entry_json(root: Path, clock: Clock) -> None:
    id_ = one(root, clock, xattrs=encoded(XATTRS))
    assert facts_of(root, id_)["xattrs"] == encoded(XATTRS)
    (event,) = [event for event in events_of(root) if isinstance(event, Captured)]
    assert event.xattrs == encoded(XATTRS)


def test_a_source_without_any_says_nothing_of_them(root: Path, clock: Clock) -> None:
    id_ = one(root, clock)
    assert "xattrs" not in facts_of(root, id_)


@pytest.mark.usefixtures("takes_xattrs")
@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_extended_attributes_come_back_byte_for_byte(
    mode: int, root: Path, clock: Clock, target: Path
) -> None:
    id_ = one(root, clock, mode=mode, xattrs=encoded(XATTRS))
    assert archivefs("restore", "--archive", root, id_, target).code == 0
    file = target / "unit.csv"
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == XATTRS


@AS_ROOT
@pytest.mark.usefixtures("takes_xattrs")
@pytest.mark.parametrize("mode", [0o644, 0o444, 0o400])
def test_an_ordinary_user_gets_all_of_it_back_though_the_file_is_not_writable(mode: int) -> None:
    if not all(folder.stat().st_mode & stat.S_IXOTH for folder in Path(archives.__file__).parents):
        pytest.skip("an ordinary user cannot reach the folder of this checkout")
    script = """if True:
        import os, sys, tempfile, base64
        from pathlib import Path
        from archive_parts import Clock, make, capture, commit
        from archivefs import restoring
        from archivefs.archive import Archive
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "archive", Clock()).close()  # imports what that user cannot read
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        with tempfile.TemporaryDirectory() as folder:
            with make(Path(folder) / "archive", Clock()) as archive:
                xattrs = {"user.station": base64.b64encode(b"A7").decode()}
                mode = int(sys.argv[1])
                (receipt,) = commit(archive, capture(b"x", b"u.csv", mode=mode, uid=1, gid=1, xattrs=xattrs))
                target = os.fsencode(folder) + b"/u.csv"
                restoring.restore(archive, archive.reader.get(receipt.id), target)
                assert os.stat(target).st_uid == 65534
                assert os.stat(target).st_mode & 0o7777 == mode
                assert os.listxattr(target) == ["user.station"], os.listxattr(target)
                assert os.getxattr(target, "user.station") == b"A7"
    """
    done = run_child(script, mode, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_target_that_takes_no_attributes_still_gets_the_source(root: Path, clock: Clock) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        pytest.skip("there is no other file system to write to")
    id_ = one(root, clock, xattrs=encoded({"user.station": b"x" * 60_000}))
    target = shm / f"restored-{os.getpid()}"
    try:
        assert archivefs("restore", "--archive", root, id_, target).code == 0
        assert target.read_bytes() == b"measured"
    finally:
        target.unlink(missing_ok=True)


def test_a_rebuilt_catalog_has_them_too(root: Path, clock: Clock) -> None:
    id_ = one(root, clock, b"\xff", folder=b"\xfe", mode=0o640, uid=7, gid=8, xattrs=encoded(XATTRS))
    before = facts_of(root, id_)
    rebuilding.rebuild(root)
    assert facts_of(root, id_) == before


# -- the capture command -----------------------------------------------------------------------------------


def captured_by_command(root: Path, file: Path) -> Ran:
    return archivefs("capture", "--json", "--archive", root, "--converter", "files", file)


@pytest.mark.usefixtures("takes_xattrs")
def test_the_capture_command_takes_all_attributes_along(
    root: Path, clock: Clock, tmp_path: Path, target: Path
) -> None:
    make(root, clock).close()
    file = tmp_path / "unit.csv"
    file.write_bytes(b"measured")
    file.chmod(0o640)
    os.setxattr(file, "user.station", b"A7")
    os.utime(file, ns=(MOMENTS[3], MOMENTS[3]))
    id_ = json.loads(captured_by_command(root, file).out)["id"]
    assert archivefs("restore", "--archive", root, id_, target).code == 0
    restored = target / "unit.csv"
    assert restored.read_bytes() == b"measured"
    assert (restored.stat().st_mtime_ns, stat.S_IMODE(restored.stat().st_mode)) == (MOMENTS[3], 0o640)
    assert {name: os.getxattr(restored, name) for name in os.listxattr(restored)} == {"user.station": b"A7"}


def test_every_restored_file_is_new(root: Path, clock: Clock, target: Path) -> None:
    with make(root, clock) as archive:
        id_ = captured(archive, b"measured").id
    (target / "unit.csv").write_bytes(b"somebody's")
    assert archivefs("restore", "--archive", root, id_, target).code == 18
    assert (target / "unit.csv").read_bytes() == b"somebody's"
