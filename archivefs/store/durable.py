"""Files and folders that are there after a power cut: write, fsync, rename, fsync the folder."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FILE_MODE = 0o600
DIR_MODE = 0o700


def make_dirs(directory: Path) -> None:
    """Create a folder and its missing parents, each durable in its parent when this returns."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            each.mkdir(DIR_MODE)
        sync_dir(each.parent)


def sync_dir(directory: Path) -> None:
    """Make the names in a folder durable. Raises ``OSError``."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable that another process wrote. Raises ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``; a short write goes on, an error is raised."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def open_append(path: Path, top: Path) -> int:
    """A descriptor that appends to ``path``; the file and its folders below ``top`` are durable by name.

    They are synced also where they exist: who made them may have been killed before it could. Raises
    ``OSError``.
    """
    make_dirs(path.parent)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
    try:
        sync_up(path.parent, top)
    except OSError:
        os.close(fd)
        raise
    return fd


def fresh_dir(parent: Path, name: str) -> Path:
    """A new folder ``name`` in ``parent``, or ``name.2`` and so on where that is taken; durable."""
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}.{number}"
    make_dirs(path)
    return path


def sync_up(directory: Path, top: Path) -> None:
    """Make the names in a folder durable, and those of all folders from it up to ``top``."""
    while directory != top.parent:
        sync_dir(directory)
        directory = directory.parent


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all: the old one stays until the new one is durable."""
    temporary = target.with_name(target.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(fd, "wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(target)
    sync_dir(target.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder; what cannot be removed now goes when the daemon starts again."""
    shutil.rmtree(folder, ignore_errors=True)
