"""The folder quarantine/: bytes that were cut off files, and the former state of what was repaired."""

import shutil
from pathlib import Path
from typing import NamedTuple

from archivefs.events import TailDropped
from archivefs.operations import Note
from archivefs.parts import Actor

FOLDER = "quarantine"


class Kept(NamedTuple):
    """A file or folder in quarantine/ and the bytes in it."""

    name: str
    size: int


def kept(root: Path) -> list[Kept]:
    """Everything that is kept aside."""
    folder = root / FOLDER
    if not folder.exists():
        return []
    return [Kept(path.name, _size(path)) for path in sorted(folder.iterdir())]


def is_kept(root: Path, name: str) -> bool:
    """Whether something of that name is kept aside."""
    return any(each.name == name for each in kept(root))


def dropping(root: Path, name: str, actor: Actor) -> Note:
    """What the journal says before ``remove``. Raises ``OSError``."""
    return Note(TailDropped(kept_as=name, bytes=_size(root / FOLDER / name), actor=actor))


def remove(root: Path, name: str) -> None:
    """Remove it. Raises ``OSError``."""
    path = root / FOLDER / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
