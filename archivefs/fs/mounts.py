"""Mounts as the system sees them: options, mountpoints, which archives are mounted where. No pyfuse3 here."""

import contextlib
import ctypes
import errno
import grp
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from archivefs.errors import FuseMissingError, MountError, MountpointError, NotMountedError, UnmountError
from archivefs.store import lock

SUBTYPE = "archivefs"
DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")
DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
"""What a mount answers whose daemon is gone."""
CONNECTIONS = Path("/sys/fs/fuse/connections")
RELEASE_SECONDS = 10.0
MNT_FORCE, MNT_DETACH = 1, 2
UNMOUNT_SECONDS = 60.0
"""How long ``umount`` waits for the daemon to commit what it has and end."""
_PASSED = {
    "allow_other",
    "allow_root",
    "ro",
    "nodev",
    "nosuid",
    "noexec",
    "noatime",
    "dev",
    "suid",
    "exec",
    "atime",
}
_IGNORED = {
    "rw",
    "user",
    "nouser",
    "users",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "defaults",
    "default_permissions",
}
"""Words that mount(8) and fstab use for themselves; libfuse's own helper ignores the same."""
_OWN = {"uid", "gid", "umask"}
_OPERATORS = "operators"


class MountOptions(NamedTuple):
    """Checked ``-o`` options. ``passed`` go to libfuse; None where uid, gid or operators were not given.

    ``operators``: number of the group whose members may write into control/ and steer jobs.
    """

    passed: frozenset[str]
    uid: int | None
    gid: int | None
    umask: int
    operators: int | None

    @property
    def readonly(self) -> bool:
        """Whether nothing can be saved into the inbox."""
        return "ro" in self.passed


def parse_options(words: str) -> MountOptions:
    """Check a comma list such as ``allow_other,uid=1000``. Raises ``MountError`` naming what is allowed."""
    passed: set[str] = set()
    own: dict[str, int] = {}
    operators: int | None = None
    for word in filter(None, words.split(",")):
        key, _, value = word.partition("=")
        if word in _PASSED:
            passed.add(word)
        elif key == _OPERATORS:
            operators = _group(value)
        elif key in _OWN:
            try:
                own[key] = int(value, 8 if key == "umask" else 10)
            except ValueError:
                kind = "an octal number" if key == "umask" else "a number"
                raise MountError(f"-o {word}: {key} must be {kind}") from None
        elif word not in _IGNORED and not key.startswith("x-"):
            allowed = ", ".join(
                [*sorted(_PASSED), *(f"{name}=N" for name in sorted(_OWN)), f"{_OPERATORS}=GROUP"]
            )
            raise MountError(f"-o {word}: unknown option; allowed are: {allowed}")
    if passed & {"allow_other", "allow_root"} and os.geteuid() != 0 and not others_allowed():
        raise MountError(f"-o allow_other needs the line user_allow_other in {FUSE_CONF} (or root)")
    return MountOptions(frozenset(passed), own.get("uid"), own.get("gid"), own.get("umask", 0), operators)


def _group(name: str) -> int:
    """The number of a group. Raises ``MountError``."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise MountError(f'-o {_OPERATORS}={name}: there is no group "{name}"') from None


def others_allowed() -> bool:
    """Whether those who are not root may mount for others."""
    try:
        return "user_allow_other" in (line.strip() for line in FUSE_CONF.read_text().splitlines())
    except OSError:
        return False


def require_fuse() -> None:
    """Raise ``FuseMissingError`` that says what to install."""
    if not DEVICE.exists():
        raise FuseMissingError(
            f"there is no {DEVICE}: load the kernel module (modprobe fuse); in a container, pass the device "
            "(docker run --device /dev/fuse --cap-add SYS_ADMIN)"
        )
    if shutil.which("fusermount3") is None:
        raise FuseMissingError("fusermount3 is missing: install the package fuse3 (apt-get install fuse3)")


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo; ``source`` is what ``source_of`` made of the archive's folder.

    ``connection`` is its number below /sys/fs/fuse/connections.
    """

    mountpoint: Path
    source: str
    connection: int

    @property
    def root(self) -> Path:
        """The archive's folder."""
        return Path(os.fsdecode(unquote_to_bytes(self.source)))


def source_of(root: Path) -> str:
    """The archive's folder as the mount table shows it: ASCII (pyfuse3 takes no other), the rest as %XX."""
    return quote(os.fsencode(root), safe="/ !#$&'()*+:;=?@[]~")


def mounted() -> list[Mount]:
    """All archives that are mounted in this mount namespace."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        kind, source = right.split(" ")[:2]
        if kind == f"fuse.{SUBTYPE}":
            words = left.split(" ")
            found.append(Mount(Path(plain(words[4])), plain(source), int(words[2].partition(":")[2])))
    return found


def plain(field: str) -> str:
    """A field of mountinfo or fstab: these write blank, tab, newline, hash and backslash as octal escapes."""
    for code in ("040", "011", "012", "043", "134"):
        field = field.replace("\\" + code, chr(int(code, 8)))
    return field


def mountpoint_of(root: Path) -> Path | None:
    """Where the archive is mounted, None where it is not."""
    who = lock.holder(root) if lock.is_held(root) else None
    return Path(who.mountpoint) if who is not None and who.mountpoint else None


def check_mountpoint(mountpoint: Path) -> None:
    """Raise ``MountpointError`` unless it is an empty folder; a dead mount left there is taken away first."""
    _release(mountpoint)
    try:
        names = os.listdir(mountpoint)  # noqa: PTH208  of a dead mount, stat may still be cached
    except OSError as error:
        if error.errno not in DEAD:
            raise MountpointError(f"mountpoint {mountpoint}: {error.strerror}") from None
        if os.geteuid() == 0:
            _force_umount(mountpoint)
        if any(each.mountpoint == mountpoint for each in mounted()):
            _run_umount(mountpoint, lazy=True)
        check_mountpoint(mountpoint)
        return
    if any(each.mountpoint == mountpoint for each in mounted()):
        raise MountpointError(f"mountpoint {mountpoint}: an archive is mounted there already")
    if names:
        raise MountpointError(
            f"mountpoint {mountpoint}: not empty; move away what is in it, a mount would hide it"
        )


def _release(mountpoint: Path) -> None:
    """Free a mount whose daemon was killed while a thread of it waited for the kernel.

    Such a thread keeps connection and archive, and whoever asks the mount waits with it: so the connection is
    ended from the kernel's side. Raises ``MountpointError`` where that does not help.
    """
    for mount in mounted():
        who = lock.holder(mount.root) if mount.mountpoint == mountpoint and lock.is_held(mount.root) else None
        if who is None or not lock.is_dead(who.pid):
            continue
        file = CONNECTIONS / str(mount.connection) / "abort"
        if os.geteuid() == 0:
            _force_umount(mountpoint)
        else:
            with contextlib.suppress(OSError):  # perhaps it is not mounted there, as in containers
                file.write_text("1")
        deadline = time.monotonic() + RELEASE_SECONDS
        while lock.is_held(mount.root):
            if time.monotonic() > deadline:
                raise MountpointError(
                    f"mountpoint {mountpoint}: process {who.pid} was killed and waits in the kernel; "
                    f"as root: echo 1 > {file}"
                )
            time.sleep(0.02)


def _force_umount(mountpoint: Path) -> None:
    """End the connection for those who still wait for an answer, and unmount, as umount2(2) says.

    umount(8) would ask the mount for its attributes first, and wait for them.
    """
    ctypes.CDLL(None).umount2(os.fsencode(mountpoint), MNT_FORCE | MNT_DETACH)


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount, and wait until the daemon has committed everything and ended.

    Raises ``NotMountedError``; ``UnmountError`` where it is busy, or the daemon does not end in time.
    """
    mountpoint = absolute(mountpoint)
    mount = next((each for each in mounted() if each.mountpoint == mountpoint), None)
    if mount is None:
        places = ", ".join(str(each.mountpoint) for each in mounted()) or "nowhere"
        raise NotMountedError(f"no archive is mounted at {mountpoint}; archives are mounted at: {places}")
    who = lock.holder(mount.root)
    _release(mountpoint)
    if any(each.mountpoint == mountpoint for each in mounted()):
        _run_umount(mountpoint, lazy=lazy)
    deadline = time.monotonic() + UNMOUNT_SECONDS
    while not lazy and who is not None and lock.is_held(mount.root):
        now = lock.holder(mount.root)
        if now is None or now.pid != who.pid:
            return
        if time.monotonic() > deadline:
            raise UnmountError(f"{mountpoint} is unmounted, but process {who.pid} still holds {mount.root}")
        time.sleep(0.02)


def _run_umount(mountpoint: Path, *, lazy: bool) -> None:
    if os.geteuid() == 0:
        command = ["umount", *(["-l"] if lazy else []), str(mountpoint)]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), str(mountpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        hint = "; close what is open there, or use --lazy" if "busy" in done.stderr else ""
        raise UnmountError(f"{mountpoint}: {done.stderr.strip().rstrip('.')}{hint}")


def absolute(mountpoint: Path) -> Path:
    """Absolute and without links; a dead mount cannot be asked where it leads, so only its parent is."""
    whole = Path(os.path.abspath(mountpoint))  # noqa: PTH100
    return whole.parent.resolve() / whole.name
