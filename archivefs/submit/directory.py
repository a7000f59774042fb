"""Reports into a folder: each a file that is there whole or not at all."""

import contextlib
import hashlib
import os
import urllib.parse
from pathlib import Path

from archivefs.config import SubmitConfig
from archivefs.states import Submission
from archivefs.store.durable import sync_dir, write_all
from archivefs.submit.delivery import Answer, Letter, later

FILE_MODE = 0o644
"""Others are to read them."""
LONGEST_NAME = 240


def file_name(report_id: str) -> str:
    """The name of the file of a report: its id, with ``%XX`` for what a name should not have."""
    name = urllib.parse.quote(report_id, safe=" ()+,;=@~")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST_NAME:
        name = hashlib.sha256(report_id.encode()).hexdigest()
    return f"{name}.json"


def deliver(root: Path, config: SubmitConfig, letter: Letter) -> Answer:
    """Write, sync, rename, sync the folder; a file of the same id is replaced. Blocks, raises nothing.

    The folder must be there: where a share is not mounted, the reports wait. Only one delivery into a folder
    by the same converter may run at a time.
    """
    name = file_name(letter.report_id)
    try:
        folder = (root / config.path).resolve(strict=True)
        temporary = folder / f".{name}.{letter.converter}.tmp"
        try:
            _write(temporary, letter.body)
            temporary.replace(folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_dir(folder)
    except OSError as error:
        return later(f"{config.path}: {error.strerror or error}")
    return Answer(Submission.SENT, answer_id=name)


def _write(path: Path, body: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        os.fchmod(fd, FILE_MODE)
        write_all(fd, body)
        os.fsync(fd)
    finally:
        os.close(fd)
