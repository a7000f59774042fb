"""One writer: the flock on ARCHIVE/lock, and its note of who holds it and where it is mounted."""

import fcntl
import logging
import os
import socket
import sys
import time
from pathlib import Path

import msgspec

from archivefs.errors import LockedError
from archivefs.store.durable import FILE_MODE

log = logging.getLogger(__name__)

FILE = "lock"
PROBE_ATTEMPTS, PROBE_SECONDS = 5, 0.02
"""``is_held`` of another process takes the lock for microseconds, and writes no note."""


class Holder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who holds the lock. ``mountpoint`` is '' where the archive is not mounted.

    ``last_mountpoint`` is where it was mounted before; that alone stays after a clean end.
    """

    pid: int
    host: str
    program: str
    mountpoint: str = ""
    last_mountpoint: str = ""


class _Left(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a note that outlives its holder."""

    mountpoint: str = ""
    last_mountpoint: str = ""


class Lock:
    """The held lock; the kernel frees it when the process ends, however it ends."""

    def __init__(self, root: Path) -> None:
        """Take the lock or raise ``LockedError`` that names the holder. Raises ``OSError``."""
        self._fd = os.open(root / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        for attempt in range(PROBE_ATTEMPTS):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                who = holder(root)
                if who is None and attempt < PROBE_ATTEMPTS - 1:
                    time.sleep(PROBE_SECONDS)
                    continue
                os.close(self._fd)
                raise LockedError(_message(root, who)) from None
        self._last_mountpoint = last_mountpoint(root)
        self.note("")

    def note(self, mountpoint: str) -> None:
        """Write who holds it; for people and for commands that look for the mount."""
        who = Holder(
            pid=os.getpid(), host=socket.gethostname(), program=Path(sys.argv[0]).name, mountpoint=mountpoint,
            last_mountpoint=self._last_mountpoint,
        )  # fmt: skip
        self._last_mountpoint = mountpoint or self._last_mountpoint
        self._write(msgspec.json.encode(who) + b"\n")

    def _write(self, data: bytes) -> None:
        try:
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
        except OSError as error:  # a full disk must not keep readers out
            log.warning("%s could not be written: %s", FILE, error)

    def release(self) -> None:
        """Give the lock back."""
        os.ftruncate(self._fd, 0)
        if self._last_mountpoint:
            self._write(msgspec.json.encode(_Left(last_mountpoint=self._last_mountpoint)) + b"\n")
        os.close(self._fd)


def holder(root: Path) -> Holder | None:
    """Who says to hold the lock; only true while someone does."""
    try:
        return msgspec.json.decode((root / FILE).read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def last_mountpoint(root: Path) -> str:
    """Where the archive is or was mounted last, '' for nowhere."""
    try:
        left = msgspec.json.decode((root / FILE).read_bytes(), type=_Left)
    except (OSError, msgspec.MsgspecError):
        return ""
    return left.mountpoint or left.last_mountpoint


def is_held(root: Path) -> bool:
    """Whether a process holds the lock now."""
    try:
        fd = os.open(root / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_dead(pid: int) -> bool:
    """Whether the process has ended, but for threads that wait for the kernel."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in "ZX"


def _message(root: Path, who: Holder | None) -> str:
    if who is None:
        return f"{root} is in use by another process"
    where = f", mounted at {who.mountpoint}" if who.mountpoint else ""
    return f"{root} is in use by process {who.pid} on {who.host} ({who.program}{where})"
