"""A folder as one content: a tar in the pax format (POSIX.1-2001), the same bytes for the same folder.

Whoever has the content alone gets the folder back with ``tar -x``. archivefs itself reads by the list of
members, which says where the bytes of each file begin.
"""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterable
from typing import IO, NamedTuple

from archivefs import names
from archivefs.errors import ContentDamagedError
from archivefs.parts import Member

PIECE_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE


class Found(NamedTuple):
    """A file or folder below a folder on the disk: its path from there, and what lstat says."""

    path: bytes
    facts: os.stat_result

    @property
    def state(self) -> tuple[bytes, int, int, int, int]:
        """What is another when it was changed."""
        return self.path, self.facts.st_mode, self.facts.st_size, self.facts.st_mtime_ns, self.facts.st_ino


def is_part(facts: os.stat_result) -> bool:
    """Whether what lstat says is of something that a source can hold: no link, no device."""
    return stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode)


def contents(folder: bytes, is_wanted: Callable[[bytes], bool] = lambda _: True) -> list[Found]:
    """All files and folders in a folder whose names are wanted, in the order of path. Raises ``OSError``."""
    found: list[Found] = []
    waiting = [b""]
    while waiting:
        below = waiting.pop()
        for entry in os.scandir(os.path.join(folder, below)):  # noqa: PTH118  names are bytes
            path = os.path.join(below, entry.name)  # noqa: PTH118
            facts = entry.stat(follow_symlinks=False)
            if is_wanted(entry.name) and is_part(facts):
                found.append(Found(path, facts))
                if stat.S_ISDIR(facts.st_mode):
                    waiting.append(path)
    return sorted(found, key=lambda each: each.path)


def pack(folder: bytes, found: Iterable[Found], out: IO[bytes]) -> list[Member]:
    """Write the tar of what was found, and say where what is in it. Raises ``OSError``.

    The caller looks afterwards whether something changed meanwhile; a file that shrank is an ``OSError``.
    """
    members = []
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for path, facts in found:
            info = _info(path, facts)
            offset = 0
            if info.isdir():
                tar.addfile(info)
            else:
                with open(os.path.join(folder, path), "rb") as file:  # noqa: PTH118, PTH123
                    tar.addfile(info, file)
                offset = tar.offset - -(-info.size // _BLOCK) * _BLOCK
            text, exact = names.text(path), names.hex_if_needed(path)
            members.append(Member(text, exact, facts.st_mode, info.size, facts.st_mtime_ns, offset))
    return members


def _info(path: bytes, facts: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(os.fsdecode(path))
    info.type = tarfile.DIRTYPE if stat.S_ISDIR(facts.st_mode) else tarfile.REGTYPE
    info.size = 0 if info.isdir() else facts.st_size
    info.mode = stat.S_IMODE(facts.st_mode)
    info.uid, info.gid = facts.st_uid, facts.st_gid
    seconds, rest = divmod(facts.st_mtime_ns, 10**9)
    info.mtime = seconds
    if rest:
        info.pax_headers = {"mtime": f"{seconds}.{rest:09d}"}
    return info


class Packed(NamedTuple):
    """A member of a tar: path, mode with the kind in it, size, mtime, and where its bytes begin."""

    path: bytes
    mode: int
    size: int
    mtime_ns: int
    offset: int


def unpack(tar: int, members: Iterable[Packed], folder: bytes) -> None:
    """Make the files and folders of a tar that is open as ``tar`` in a folder that is empty.

    Modes and times are set, owners are not. Raises ``ContentDamagedError`` for a path that leads elsewhere or
    bytes that are not there, ``OSError``.
    """
    folders = []
    for path, mode, size, mtime_ns, offset in members:
        if path.startswith(b"/") or b".." in path.split(b"/"):
            raise ContentDamagedError(f"{names.text(path)!r} leads out of its folder")
        target = os.path.join(folder, path)  # noqa: PTH118
        if stat.S_ISDIR(mode):
            os.mkdir(target, 0o700)  # noqa: PTH102
            folders.append((target, mode, mtime_ns))
            continue
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:  # noqa: PTH123  a descriptor
            _copy(tar, offset, size, file, path)
            os.fchmod(fd, stat.S_IMODE(mode) & 0o777)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
    for target, mode, mtime_ns in reversed(folders):
        os.chmod(target, stat.S_IMODE(mode) & 0o777 | 0o700)  # noqa: PTH101
        os.utime(target, ns=(mtime_ns, mtime_ns))


def _copy(tar: int, offset: int, size: int, out: io.FileIO, path: bytes) -> None:
    done = 0
    while done < size:
        piece = os.pread(tar, min(PIECE_BYTES, size - done), offset + done)
        if not piece:
            raise ContentDamagedError(f"{names.text(path)!r} ends after {done} of {size} bytes")
        view = memoryview(piece)
        while view:
            view = view[out.write(view) :]
        done += len(piece)
