"""A command to an archive: carried out here, or by the mount that holds it, through its file in control/."""

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from archivefs import control
from archivefs.archive import Archive
from archivefs.errors import ArchiveError, ControlError, LockedError
from archivefs.fs import mounts
from archivefs.parts import Actor

REPLY_BYTES = 1 << 20
BUSY_SECONDS = 0.6
"""After so long there is room for one command more (``fs/control``)."""


def tell(root: Path, command: str, words: Sequence[str], program: str) -> control.Reply:
    """The reply to a command of ``control.COMMANDS``. Raises what it raises, or ``LockedError``."""
    try:
        archive = Archive(root)
    except LockedError as error:
        where = mounts.mountpoint_of(root)
        if where is None:
            raise
        return write(where / "control" / command, words, error)
    with archive:
        me = Actor(uid=os.getuid(), program=program)
        steps = control.COMMANDS[command].run(archive, list(words), me)
        return control.carry_out(steps, lambda operations: archive.commit(operations)[0])


def write(file: Path, words: Sequence[str], locked: LockedError) -> control.Reply:
    """The reply to a line in a control file of the mount because of which an archive is locked.

    Waits while the mount takes no more commands. Raises what the mount answers, or ``LockedError``.
    """
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise LockedError(f"{locked}; {file} cannot be written to: {error.strerror}") from None
    try:
        while True:
            try:
                os.write(fd, shlex.join(words).encode() + b"\n")
            except BlockingIOError:
                time.sleep(BUSY_SECONDS)
                continue
            except OSError as error:
                answer = _read(fd)
                if answer.get("ok") is not False:
                    raise ControlError(f"{file}: {error.strerror}") from None
                raise _error(answer) from None
            return _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> control.Reply:
    data = b""
    while piece := os.pread(fd, REPLY_BYTES, len(data)):
        data += piece
    reply: control.Reply = msgspec.json.decode(data)
    return reply


def _error(answer: control.Reply) -> ArchiveError:
    """The error of the mount as if it had come up here, with its exit code."""
    kinds: list[type[ArchiveError]] = [ArchiveError]
    for each in kinds:
        kinds += each.__subclasses__()
    kind = next((each for each in kinds if each.exit_code == answer["exit_code"]), ArchiveError)
    return kind.__new__(kind, answer["error"])
