"""Worker processes: started when needed, kept alive, one conversion at a time, killed when they hang."""

import contextlib
import json
import os
import shutil
import signal
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Annotated, Any

import msgspec
import trio
from msgspec import Meta

from archivefs.config import ConverterConfig
from archivefs.errors import ArchiveError
from archivefs.events import Outcome

ANSWER_BYTES = 1 << 20
"""Longest answer line of a worker; reports travel as files, so an honest one is far shorter."""
REPORT_BYTES = 256 << 20
"""Largest report, and largest sum of an attempt's reports, that is archived."""
LOG_BYTES = 1 << 20
"""What is kept of an attempt's log; the end is, there the failure stands."""


OUTSIDE_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that others send: the kernel when memory runs out, a person, a machine that shuts down."""
DISMISS_SECONDS = 1.0
"""How long an idle worker may take to end by itself."""


class WorkerError(ArchiveError):
    """The worker did not answer as it must; the message is the attempt's error.

    ``is_transient``: not by the doing of its converter.
    """

    exit_code = 40

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says about a conversion; ``reports`` are names of files in the job's ``out`` folder."""

    outcome: Outcome
    version: str = ""
    error: str = ""
    warnings: list[str] = []
    reports: list[str] = []
    retry_after: Annotated[float, Meta(ge=0, le=366 * 86400)] | None = None


@dataclass(frozen=True)
class Job:
    """One conversion in a folder of its own: ``folder/source/NAME`` in, ``folder/out/`` and log out."""

    folder: Path
    source: Path
    attempt: int
    arguments: dict[str, Any]

    @property
    def out(self) -> Path:
        """Where the worker writes reports."""
        return self.folder / "out"

    @property
    def log(self) -> Path:
        """What the converter printed."""
        return self.folder / "log.txt"

    def line(self) -> bytes:
        """The job as the worker reads it."""
        message = {
            "path": str(self.source), "out": str(self.out), "log": str(self.log),
            "arguments": self.arguments, "attempt": self.attempt,
        }  # fmt: skip
        return json.dumps(message).encode() + b"\n"

    def read_log(self) -> bytes:
        """The end of the log, at most ``LOG_BYTES``; nothing where it is no file any more."""
        fd = _open_regular(self.log)
        if fd is None:
            return b""
        with os.fdopen(fd, "rb") as file:
            file.seek(max(os.fstat(fd).st_size - LOG_BYTES, 0))
            return file.read(LOG_BYTES)

    def read_reports(self, names: list[str]) -> list[tuple[str, bytes]]:
        """The reports that the worker named. Raises ``WorkerError`` for what is none, or too large."""
        reports, total = [], 0
        for name in names:
            path = self.out / Path(name).name
            fd = _open_regular(path)
            if fd is None:
                raise WorkerError(f"the worker named a report that is not there: {name!r}")
            with os.fdopen(fd, "rb") as file:
                total += os.fstat(fd).st_size
                if total > REPORT_BYTES:
                    raise WorkerError(f"the reports are larger than {REPORT_BYTES >> 20} MiB together")
                reports.append((path.name, file.read(REPORT_BYTES)))
        return reports


def _open_regular(path: Path) -> int | None:
    """A descriptor for reading; None for what is missing, a link, a pipe or anything else than a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


@dataclass
class _Worker:
    converter: str
    process: trio.Process
    rest: bytes = b""

    async def ask(self, line: bytes) -> bytes:
        """Send a line and read the one that answers. Raises ``WorkerError`` where the process is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            await self.process.stdin.send_all(line)
            while b"\n" not in self.rest:
                piece = await self.process.stdout.receive_some()
                if not piece or len(self.rest) > ANSWER_BYTES:
                    raise await self._why_silent()
                self.rest += piece
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise await self._why_silent() from None
        answer, _, self.rest = self.rest.partition(b"\n")
        return answer

    async def _why_silent(self) -> WorkerError:
        with trio.move_on_after(1):
            code = await self.process.wait()
            if code < 0:
                number = signal.Signals(-code)
                said = f"the worker was killed by {number.name}; too much memory is the usual reason"
                return WorkerError(said, is_transient=number in OUTSIDE_SIGNALS)
            return WorkerError(f"the converter ended the worker process with exit status {code}")
        return WorkerError("the worker gave no answer")

    async def dismiss(self) -> None:
        """End an idle process by closing its input; kill it where it does not go."""
        assert self.process.stdin is not None
        with trio.CancelScope(shield=True):
            await self.process.stdin.aclose()
            with trio.move_on_after(DISMISS_SECONDS):
                await self.process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End the process and everything it started in its group."""
        with trio.CancelScope(shield=True):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    await pipe.aclose()


class Pool:
    """At most ``size`` workers for all converters together; one that is idle is used again."""

    def __init__(self, root: Path, size: int) -> None:
        self._root = root.resolve()
        self._slots = trio.Semaphore(size)
        self._size = size
        self._idle: list[_Worker] = []
        self._count = 0

    async def convert(self, converter: str, config: ConverterConfig, job: Job) -> Answer:
        """Run a conversion and return what the worker answered.

        Raises ``WorkerError`` where it timed out, died or answered nonsense. Cancellation kills the worker.
        """
        async with self._slots:
            worker = await self._take(converter, config)
            alive = False
            try:
                with trio.move_on_after(config.timeout_seconds) as scope:
                    line = await worker.ask(job.line())
                if scope.cancelled_caught:
                    raise WorkerError(f"timed out: longer than {config.timeout_seconds:g} seconds")
                answer = _parse(line)
                # What is missing may have left half a module behind in that process.
                alive = answer.outcome is not Outcome.TRANSIENT
            finally:
                if alive:
                    self._idle.append(worker)
                else:
                    await worker.kill()
                    self._count -= 1
        return answer

    async def close(self) -> None:
        """End all idle workers."""
        while self._idle:
            await self._idle.pop().dismiss()
            self._count -= 1

    async def _take(self, converter: str, config: ConverterConfig) -> _Worker:
        for index, worker in enumerate(self._idle):
            if worker.converter == converter and worker.process.poll() is None:
                return self._idle.pop(index)
        if self._count >= self._size and self._idle:
            await self._idle.pop(0).dismiss()
            self._count -= 1
        self._count += 1
        try:
            return await self._start(converter, config)
        except BaseException:
            self._count -= 1
            raise

    async def _start(self, converter: str, config: ConverterConfig) -> _Worker:
        environment = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TZ") if key in os.environ}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
        for key in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            if key in os.environ:
                environment[key] = os.environ[key]
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "archivefs.convert.worker"],
            stdin=PIPE, stdout=PIPE, start_new_session=True, env=environment, cwd=self._root,
        )  # fmt: skip
        setup = {
            "run": config.run,
            "root": str(self._root),
            "path": [str(self._root / each) for each in config.path],
            "memory_bytes": config.memory_mb << 20,
            "reject_threshold": config.reject_threshold,
            "alarm_threshold": config.alarm_threshold,
        }
        assert process.stdin is not None
        worker = _Worker(converter, process)
        try:
            await process.stdin.send_all(json.dumps(setup).encode() + b"\n")
        except BaseException:
            await worker.kill()
            raise
        return worker


def _parse(line: bytes) -> Answer:
    try:
        return msgspec.json.decode(line, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WorkerError(f"the converter disturbed the worker's answer: {error}") from None


def make_job(work_dir: Path, number: int, name: bytes, attempt: int, arguments: dict[str, Any]) -> Job:
    """An empty folder for a conversion; the source is still to be written to ``job.source``."""
    folder = work_dir / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    for each in (folder, folder / "source", folder / "out"):
        each.mkdir(0o700, parents=True)
    return Job(folder, folder / "source" / os.fsdecode(name), attempt, arguments)
