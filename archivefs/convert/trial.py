"""A converter tried out: loaded, or run on one file, in its sandbox and with nothing archived."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import trio

from archivefs import folders
from archivefs.config import ConverterConfig
from archivefs.convert import sandbox
from archivefs.convert.preparation import Preparation
from archivefs.convert.process import Answer, Job, Worker, WorkerError, open_to_readers
from archivefs.convert.sandbox import Place
from archivefs.states import Outcome


class Trial(NamedTuple):
    """What came of it; ``code`` is the SHA-256 of the version that ran."""

    answer: Answer
    log: bytes
    reports: list[bytes]
    code: str
    seconds: float


def run(root: Path, converter: str, config: ConverterConfig, source: Path | None) -> Trial:
    """Run a converter of the archive at ``root`` on a file; None: only load it. Blocks.

    Raises ``SandboxError``, ``CodeError``, ``OSError``.
    """
    with tempfile.TemporaryDirectory(prefix="archivefs-") as folder:
        return trio.run(_run, root.resolve(), converter, config, source, Path(folder).resolve())


async def _run(
    root: Path, converter: str, config: ConverterConfig, source: Path | None, folder: Path
) -> Trial:
    code = await Preparation(root, folder).code(converter, config)
    place = Place(folder / "worker")
    worker = await Worker.start(sandbox.launch(config, code, place), place)
    clock, log, reports = time.monotonic(), b"", list[bytes]()
    try:
        if source is None:
            answer = await worker.load(config.arguments, config.timeout_seconds)
        else:
            job = Job(folder / "source", source.name, 1, config.arguments)
            await trio.to_thread.run_sync(_copy, source, job.source)
            clock = time.monotonic()
            answer = await worker.convert(job, config.timeout_seconds)
            reports = job.reports
    except WorkerError as error:
        answer = Answer(outcome=Outcome.FAILED, error=str(error))
    finally:
        seconds, log = time.monotonic() - clock, worker.read_log()
        await worker.kill()
    return Trial(answer, log, reports, code.sha256, seconds)


def _no_parts(folder: str, names: list[str]) -> list[str]:
    """What a capture of the folder would leave out, too."""
    return [name for name in names if not folders.is_part(Path(folder, name).lstat())]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=_no_parts)
    else:
        shutil.copy2(source, target)
    open_to_readers(target)
