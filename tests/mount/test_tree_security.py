"""What a hostile writer or another user can do on a mount: nothing outside staging or to others' files."""

import contextlib
import ctypes
import errno
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from mount_parts import Mounted, an_archive, config, converter, run

Make = Callable[..., Mounted]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")
OTHERS = ("-o", "allow_other") if os.geteuid() == 0 else ()
ALICE, BOB = 12_001, 12_002
TWO = config(converter("files"), converter("csv", post_action="keep"))
RENAME_EXCHANGE = 2
VIEWS = ("by-converter", "by-date", "by-status", "by-id", "sources")


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users reach, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="archivefs-others-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def station() -> Iterator[Mounted]:
    """One mount for all tests that leave it usable; at the end staging must be a plain tree."""
    with open_folder() as folder, an_archive(folder, TWO, options=OTHERS) as archive:
        yield archive
        staging_is_a_plain_tree(archive)


def staging_is_a_plain_tree(archive: Mounted) -> None:
    """Folders and files below the converters' own, none of them a link, none linked twice."""
    top = archive.root / "staging" / "inbox"
    assert {path.name for path in top.iterdir()} == {"files", "csv"}
    for path in top.rglob("*"):
        facts = path.lstat()
        assert stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode), path
        assert stat.S_ISDIR(facts.st_mode) or facts.st_nlink == 1, path


def names_in(folder: Path | bytes) -> list[bytes]:
    return os.listdir(os.fsencode(folder))  # noqa: PTH208  names are bytes


def refused(*allowed: int) -> "pytest.RaisesExc[OSError]":
    """The call must fail with one of these errnos."""
    return pytest.raises(OSError, check=lambda error: error.errno in allowed)


def outside(archive: Mounted) -> set[str]:
    """The names around the mountpoint and in the archive's folder, but not in what it is for."""
    own = ("content", "journal", "staging")
    beside = {str(path) for path in archive.point.parent.iterdir()}
    inside = {str(path) for path in archive.root.iterdir() if path.name not in own}
    return {name for name in beside | inside if not name.endswith(("-wal", "-shm", "quarantine"))}


# -- names and links ---------------------------------------------------------------------------------------


def test_no_link_or_device_can_be_made(station: Mounted) -> None:
    inbox = station.inbox / "files"
    station.drop("files", "real.bin", b"real")
    row = station.only("real.bin")
    for target in ("/etc/passwd", "../../../../etc/passwd", "real.bin", "."):
        with refused(errno.EPERM):
            (inbox / "link").symlink_to(target)
    for source in (station.entry_dir(row) / "real.bin", inbox / "real.bin"):
        with contextlib.suppress(FileNotFoundError), refused(errno.EPERM, errno.EROFS, errno.EXDEV):
            os.link(source, inbox / "hard")
    for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        with refused(errno.EPERM):
            os.mknod(inbox / "node", 0o666 | kind, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener, refused(errno.EPERM):
        listener.bind(str(inbox / "s"))
    assert not {"link", "hard", "node", "s"} & {path.name for path in inbox.iterdir()}
    staging_is_a_plain_tree(station)


@pytest.mark.parametrize(
    "path",
    ["x", "inbox/files/../../x", "by-id/x", "sources/x", "by-status/new/x",
     "README.txt", "stats.json", "inbox/other/x", "inbox/files/../other/x"],
)  # fmt: skip
def test_nothing_can_be_saved_outside_the_inbox(path: str, station: Mounted) -> None:
    before = outside(station)
    with refused(errno.EROFS, errno.ENOENT, errno.EPERM, errno.EACCES):
        (station.point / path).write_bytes(b"escaped")
    with refused(errno.EROFS, errno.ENOENT, errno.EPERM, errno.EEXIST, errno.ENOTDIR):
        (station.point / path).mkdir()
    assert outside(station) == before


JUNK = (b"...", b".. ", b"..\n", b"..\\..\\x", b"~$x", b"x~")
STRANGE = (
    b"%2e%2e%2fx", b"a\nb", b"\x01\x1b[31m\x7f", b"\t", b" ", b"-rf", b"~root", b"$(touch x)", b"; ls",
    b"C:x", b"nul", b"\xff\xfe", b"\xe2\x80\xaegpj", b"n" * 255, b"\xff" * 255, b"entry.json", b"attempts",
)  # fmt: skip


def test_strange_names_are_only_names(station: Mounted) -> None:
    before = outside(station)
    for name in JUNK + STRANGE:
        station.drop("csv", name, b"of " + name)
    for name in STRANGE:
        row = station.only(name)
        folder = os.fsencode(station.entry_dir(row))
        assert name in names_in(folder)
        with open(folder + b"/" + name, "rb") as file:  # noqa: PTH123  names are bytes
            assert file.read() == b"of " + name
    assert {*JUNK, *STRANGE} <= set(names_in(station.root / "staging" / "inbox" / "csv"))
    assert [name for name in JUNK if station.entries(name)] == []
    assert outside(station) == before


@pytest.mark.parametrize("name", [b"n" * 256, b"\xff" * 1000])
def test_a_name_that_is_too_long_is_refused(name: bytes, station: Mounted) -> None:
    with refused(errno.ENAMETOOLONG):
        station.drop("files", name)


# -- renames -----------------------------------------------------------------------------------------------


def test_nothing_can_be_renamed_out_of_the_inbox_or_over_it(station: Mounted) -> None:
    inbox = station.inbox / "csv"
    file, folder = inbox / "r.csv", inbox / "sub"
    file.write_bytes(b"x")
    (folder / "deeper").mkdir(parents=True)
    row = station.only("r.csv")
    elsewhere = [station.point / "r.csv", station.inbox / "r.csv", station.entry_dir(row) / "r2.csv",
                 *(station.point / view / "r.csv" for view in VIEWS)]  # fmt: skip
    for source in (file, folder):
        for target in elsewhere:
            with refused(errno.EROFS, errno.EPERM, errno.EXDEV):
                source.rename(target)
        with refused(errno.EXDEV):
            source.rename(station.inbox / "files" / "r.csv")
        with refused(errno.EXDEV):
            source.rename(station.root / "escaped")
    for source, target in (
        (inbox, station.inbox / "other"), (inbox, station.inbox / "files"), (station.inbox, inbox / "inbox"),
        (station.point / "by-id", inbox / "by-id"), (station.entry_dir(row), inbox / "entry"),
        (folder, station.inbox / "csv"), (folder, folder / "deeper" / "loop"), (file, inbox),
    ):  # fmt: skip
        with refused(errno.EROFS, errno.EPERM, errno.EINVAL, errno.EBUSY, errno.EEXIST, errno.ENOTEMPTY,
                     errno.EXDEV, errno.EISDIR, errno.ENOTDIR):  # fmt: skip
            source.rename(target)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, os.fsencode(file), -100, os.fsencode(folder), RENAME_EXCHANGE) == -1
    assert ctypes.get_errno() == errno.EINVAL
    assert file.read_bytes() == b"x"
    assert (folder / "deeper").is_dir()
    staging_is_a_plain_tree(station)


def test_the_archive_cannot_be_changed_through_its_views(station: Mounted) -> None:
    station.drop("files", "kept.bin", b"kept")
    row = station.only("kept.bin")
    *folders, flat = map(Path, map(os.fsdecode, station.places(row, "archived")))
    for source in (flat, *(folder / "kept.bin" for folder in folders), folders[0] / "entry.json"):
        for attempt in (
            lambda path: path.write_bytes(b""), Path.unlink, lambda path: path.chmod(0o777),
            lambda path: os.truncate(path, 0), os.utime, lambda path: os.chown(path, 1, 1),
            lambda path: path.rename(path.with_name("x")), lambda path: os.setxattr(path, "user.x", b"1"),
            lambda path: os.setxattr(path, "user.archivefs.sha256", b"0"),
        ):  # fmt: skip
            with refused(errno.EROFS, errno.EPERM, errno.EACCES):
                attempt(source)
    fixed = (*folders, station.point, *(station.point / view for view in VIEWS))
    for folder in (*fixed, station.inbox):
        for attempt in (Path.rmdir, lambda path: (path / "new").mkdir()):
            with refused(errno.EROFS, errno.EPERM, errno.EACCES, errno.EBUSY, errno.ENOTEMPTY):
                attempt(folder)
    for folder in fixed:
        for attempt in (Path.rmdir, lambda path: (path / "new").touch()):
            with refused(errno.EROFS, errno.EPERM, errno.EACCES, errno.EBUSY, errno.ENOTEMPTY):
                attempt(folder)
    assert station.content(row) == b"kept"


@pytest.mark.parametrize(
    "name", ["user.archivefs.id", "user.archivefs.x", "security.capability", "trusted.x", "system.x"]
)
def test_only_plain_user_attributes_can_be_set(name: str, station: Mounted) -> None:
    file = station.inbox / "csv" / "attributes.csv"
    file.touch()
    with refused(errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL):
        os.setxattr(file, name, b"\x01\x00\x00\x02" + b"\x00" * 16)
    os.setxattr(file, "user.mine", b"1")
    assert os.getxattr(file, "user.mine") == b"1"


# -- too much of everything --------------------------------------------------------------------------------


def nest(folder: Path, count: int, name: str = "d") -> tuple[int, int]:
    """Make folders in each other without long paths; how many were made, and the errno that ended it (0)."""
    fd, made = os.open(folder, os.O_RDONLY), 0
    try:
        for _ in range(count):
            try:
                os.mkdir(name, dir_fd=fd)
                deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
            except OSError as error:
                return made, error.errno or 0
            os.close(fd)
            fd, made = deeper, made + 1
        return made, 0
    finally:
        os.close(fd)


def test_folders_without_end_are_answered_and_can_be_removed(station: Mounted) -> None:
    top = station.inbox / "csv" / "deep"
    top.mkdir()
    made, ended = nest(top, 10_000)
    assert (made, ended) == (10_000, 0) or ended in (errno.ENAMETOOLONG, errno.ELOOP)
    assert made > 100
    assert station.is_alive()
    station.drop("files", "beside.bin", b"the others go on")
    assert station.only("beside.bin").status == "archived"
    run("rm", "-r", top)
    assert not top.exists()


def test_a_rename_that_would_make_a_path_too_long_is_refused(mounted: Make) -> None:
    archive, part = mounted(TWO), "d" * 200
    inbox = archive.inbox / "csv"
    for name in ("left", "right"):
        (inbox / name).mkdir()
        nest(inbox / name, 1000, part)
    (inbox / "left" / part / "in the depths.csv").write_bytes(b"saved")
    (inbox / "right" / part / "moved.csv").write_bytes(b"saved, too")
    bottom = inbox / "left" / "/".join([part] * 10)
    with pytest.raises(OSError, match="too long"):
        (inbox / "right").rename(bottom / "right")
    archive.drop("files", "after.bin", b"the others go on")
    archive.remount()
    assert archive.content(archive.only("in the depths.csv")) == b"saved"
    assert archive.content(archive.only("moved.csv")) == b"saved, too"
    assert archive.content(archive.only("after.bin")) == b"the others go on"
    run("rm", "-r", archive.root / "staging" / "inbox" / "csv" / "left")


@contextlib.contextmanager
def many_open(folder: Path, count: int) -> Iterator[tuple[list[int], int]]:
    """Up to ``count`` new files open for writing, and the errno that ended it (0: none)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fds, ended = list[int](), 0
    try:
        for number in range(min(count, hard - 200)):
            try:
                fds.append(os.open(folder / f"{number}.bin", os.O_WRONLY | os.O_CREAT, 0o644))
            except OSError as error:
                ended = error.errno or 0
                break
        yield fds, ended
    finally:
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_files_can_be_open_at_once(station: Mounted) -> None:
    folder = station.inbox / "csv" / "many"
    folder.mkdir()
    with many_open(folder, 10_000) as (fds, ended):
        assert ended in (0, errno.EMFILE, errno.ENFILE)
        assert len(fds) > 500
        os.write(fds[-1], b"the last of many")
        station.drop("files", "meanwhile.bin", b"the others go on")
        for number in range(len(fds) - 1):
            (folder / f"{number}.bin").unlink()
    assert station.is_alive()
    assert station.content(station.only(f"{len(fds) - 1}.bin")) == b"the last of many"
    assert station.content(station.only("meanwhile.bin")) == b"the others go on"


def test_a_daemon_out_of_descriptors_refuses_and_keeps_what_it_took(mounted: Make) -> None:
    archive = mounted(TWO, expected_log=("could not be captured, trying again",))
    archive.drop("files", "before.bin", b"x")
    used = len(names_in(Path(f"/proc/{archive.pid}/fd")))
    _, hard = resource.prlimit(archive.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(archive.pid, resource.RLIMIT_NOFILE, (used + 40, hard))
    acknowledged = []
    with many_open(archive.inbox / "files", 100) as (fds, ended):
        assert ended in (errno.EMFILE, errno.ENFILE)
        for number, fd in enumerate(fds):
            os.write(fd, b"%d" % number)
            with contextlib.suppress(OSError):
                os.close(fd)
                acknowledged.append(number)
    assert archive.is_alive()
    resource.prlimit(archive.pid, resource.RLIMIT_NOFILE, (hard, hard))
    archive.drop("files", "after.bin", b"the others go on")
    assert len(acknowledged) > 10
    for number in acknowledged:
        assert archive.content(archive.only(f"{number}.bin")) == b"%d" % number


def tiny_files(archive: Mounted, count: int, writers: int = 8) -> None:
    """Programs save tiny files as fast as they can; all are archived with their bytes."""
    each = count // writers
    children = list[subprocess.Popen[bytes]]()
    split = ["split", "--bytes=9", "--suffix-length=6", "--numeric-suffixes", "-"]
    for number in range(writers):
        arguments = [*split, str(archive.inbox / "files" / f"t{number}-")]
        children.append(subprocess.Popen(arguments, stdin=subprocess.PIPE))
        content = b"".join(b"%d-%06d\n" % (number, one) for one in range(each))
        threading.Thread(target=children[-1].communicate, args=(content,)).start()
    assert [child.wait() for child in children] == [0] * writers
    rows = {row.name: row for row in archive.entries() if row.name.startswith(b"t")}
    assert len(rows) == each * writers
    for number in range(0, each, each // 20):
        assert archive.content(rows[b"t3-%06d" % number]) == b"3-%06d\n" % number
    archive.wait_for("an empty inbox", lambda: not names_in(archive.inbox / "files"), 120)


def test_five_thousand_tiny_files_are_archived(mounted: Make) -> None:
    tiny_files(mounted(TWO), 5_000)


@pytest.mark.long
def test_a_million_tiny_files_are_archived(mounted: Make) -> None:
    tiny_files(mounted(TWO), 1_000_000)


# -- other users -------------------------------------------------------------------------------------------

AS_USER = """if True:
    import errno, json, os, stat, sys
    uid, requests = int(sys.argv[1]), json.loads(sys.argv[2])
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
    def write(path, flags, mode=0o644):
        os.close(os.open(path, flags | os.O_WRONLY, mode))
    calls = {
        "create": lambda path, mode=0o644: write(path, os.O_CREAT | os.O_EXCL, mode),
        "overwrite": lambda path: write(path, os.O_TRUNC), "append": lambda path: write(path, os.O_APPEND),
        "read": lambda path: open(path, "rb").read(), "list": os.listdir, "unlink": os.unlink,
        "rename": os.rename, "mkdir": os.mkdir, "rmdir": os.rmdir, "chmod": os.chmod, "chown": os.chown,
        "truncate": os.truncate, "touch": lambda path: os.utime(path, (1, 1)), "stat": os.stat,
        "setxattr": lambda path: os.setxattr(path, "user.x", b"1"),
    }
    answers = []
    for call, *arguments in requests:
        try:
            calls[call](*arguments)
            answers.append("ok")
        except OSError as error:
            answers.append(errno.errorcode[error.errno])
    print(json.dumps(answers))
"""
NO = {"EACCES", "EPERM"}


def ask(uid: int, *requests: Sequence[object]) -> list[str]:
    """What another user gets for each request: "ok" or the name of an errno."""
    text = json.dumps([[str(each) if isinstance(each, Path) else each for each in one] for one in requests])
    done = subprocess.run(
        [sys.executable, "-c", AS_USER, str(uid), text], capture_output=True, timeout=60, check=True
    )
    answers: list[str] = json.loads(done.stdout)
    return answers


@AS_ROOT
def test_a_file_belongs_to_its_writer_and_others_may_what_its_mode_says(station: Mounted) -> None:
    folder = station.inbox / "csv" / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    private, public = folder / "private.csv", folder / "public.csv"
    assert ask(ALICE, ["create", private, 0o600], ["create", public, 0o644]) == ["ok", "ok"]
    assert [path.stat().st_uid for path in (private, public)] == [ALICE, ALICE]
    denied: list[list[object]] = [[verb, path] for path in (private, public) for verb in
              ("overwrite", "append", "unlink", "touch", "setxattr")]  # fmt: skip
    denied += [["truncate", public, 0], ["chmod", public, 0o777], ["chown", public, BOB, BOB],
               ["rename", public, folder / "x.csv"], ["read", private], ["chmod", folder, 0o777]]  # fmt: skip
    assert set(ask(BOB, *denied)) <= NO
    assert ask(BOB, ["read", public], ["list", folder], ["create", folder / "bob.csv"]) == ["ok"] * 3
    assert set(ask(BOB, ["rename", folder / "bob.csv", public])) <= NO
    assert ask(ALICE, ["overwrite", private], ["chmod", private, 0o640], ["unlink", private]) == ["ok"] * 3
    assert {row.uid for row in station.entries("private.csv")} == {ALICE}


@AS_ROOT
def test_a_converters_folder_can_be_closed_to_others(station: Mounted) -> None:
    folder = station.inbox / "files"
    station.drop("csv", "roots.csv")
    folder.chmod(0o755)
    try:
        answers = ask(ALICE, ["create", folder / "a.bin"], ["mkdir", folder / "a"], ["list", folder])
        assert answers[0] in NO
        assert answers[1:] == [answers[0], "ok"]
        folder.chmod(0o700)
        assert set(ask(ALICE, ["list", folder], ["create", folder / "a.bin"])) <= NO
    finally:
        folder.chmod(0o777)
    assert ask(ALICE, ["create", folder / "a.bin"]) == ["ok"]
    inbox = station.inbox
    denied = ask(ALICE, ["chmod", folder, 0o700], ["rmdir", folder], ["rename", folder, inbox / "x"],
                 ["mkdir", inbox / "x"], ["chown", folder, ALICE, ALICE])  # fmt: skip
    assert set(denied) <= NO | {"EROFS"}


@AS_ROOT
def test_nobody_becomes_somebody_else_through_the_inbox(station: Mounted) -> None:
    file = station.inbox / "csv" / "setuid"
    assert ask(ALICE, ["create", file, 0o4777]) == ["ok"]
    shown = file.stat()
    assert (shown.st_uid, os.statvfs(file).f_flag & os.ST_NOSUID) == (ALICE, os.ST_NOSUID)
    staged = (station.root / "staging" / "inbox" / "csv" / "setuid").stat()
    assert staged.st_uid == ALICE, "never one of root's"
    assert set(ask(ALICE, ["chown", file, 0, 0], ["chown", file, BOB, BOB])) <= NO


@AS_ROOT
@pytest.mark.parametrize("options", [("-o", "allow_other,umask=077"), ("-o", "allow_other,umask=0027"), ()])
def test_others_see_nothing_where_the_mount_is_not_for_them(options: tuple[str, ...]) -> None:
    with open_folder() as folder, an_archive(folder, TWO, options=options) as archive:
        archive.drop("files", "secret.bin", b"secret")
        row = archive.only("secret.bin")
        file = archive.entry_dir(row) / "secret.bin"
        flat = Path(os.fsdecode(archive.places(row, "archived")[-1]))
        inbox = archive.inbox / "files"
        requests = [["read", file], ["read", flat], ["list", archive.point], ["list", inbox],
                    ["create", inbox / "a"], ["read", archive.point / "stats.json"], ["list", archive.root],
                    ["read", archive.root / "archive.toml"]]  # fmt: skip
        assert set(ask(ALICE, *requests)) <= NO
        assert archive.content(row) == b"secret"
