"""Where the code of converters is kept: ``converters/CONVERTER/SHA256.zip``, each written once."""

import hashlib
import re
from pathlib import Path

from archivefs.store.durable import make_dirs, replacing, sync_dir

FOLDER = "converters"
SUFFIX = ".zip"
_NAME = re.compile(r"[0-9a-f]{64}")
_PIECE_BYTES = 1 << 20


def file_of(converter: str, sha256: str) -> str:
    """The path of a version's file in the archive."""
    return f"{FOLDER}/{converter}/{sha256}{SUFFIX}"


def save(root: Path, converter: str, sha256: str, data: bytes) -> None:
    """Keep a version, durably; one that is there as it should be stays. Raises ``OSError``."""
    path = root / file_of(converter, sha256)
    make_dirs(path.parent)
    try:
        whole = damage(root, converter, sha256) is None
    except FileNotFoundError:
        whole = False
    if whole:
        sync_dir(path.parent)  # who wrote it may have been killed before it could
        return
    with replacing(path) as out:
        out.write(data)


def files(root: Path) -> list[str]:
    """The paths of all versions that are there."""
    found = (root / FOLDER).glob(f"*/*{SUFFIX}")
    return sorted(str(path.relative_to(root)) for path in found if _NAME.fullmatch(path.stem))


def damage(root: Path, converter: str, sha256: str) -> str | None:
    """What is wrong with a kept version, None for nothing.

    Raises ``FileNotFoundError`` where it is missing.
    """
    digest = hashlib.sha256()
    try:
        with (root / file_of(converter, sha256)).open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None if digest.hexdigest() == sha256 else "its SHA-256 is not that of its name"
