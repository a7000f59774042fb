"""One worker process: how it is started and spoken to, what is read of it, and its end.

Its log and its reports come through files without a name (memfd) that this process made: whatever a converter
does to files and folders, there is nothing that could be followed out of the sandbox.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Annotated, Any, Self

import msgspec
import trio
from msgspec import Meta

from archivefs.convert.sandbox import Launch, Place, SandboxError
from archivefs.errors import ArchiveError
from archivefs.states import Outcome

ANSWER_BYTES = 1 << 20
"""Longest answer line of a worker; reports travel beside it, so an honest one is far shorter."""
REPORT_BYTES = 64 << 20
"""Largest sum of an attempt's reports; they are in memory while they are stored."""
MOST_REPORTS = 10_000
LOG_BYTES = 1 << 20
"""What is kept of an attempt's log; the end is, there the failure stands."""
START_SECONDS = 60.0
DISMISS_SECONDS = 1.0
"""How long an idle worker may take to end by itself."""
SMALL_BYTES = 256 << 10
"""What is read in the trio thread: copying it takes no longer than going to another."""
OUTSIDE_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that others send: the kernel when memory runs out, a person, a machine that shuts down."""
_SIGNALLED = 128
"""A program that ends with a higher status, as bubblewrap does, says that a signal ended another."""


class WorkerError(ArchiveError):
    """The worker did not answer as it must; the message is the attempt's error.

    ``is_transient``: not by the doing of its converter.
    """

    exit_code = 40

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says about a conversion; ``reports`` are the sizes of the reports, one after the other.

    ``job`` is what the job was called, so that nothing that a converter prints passes for an answer.
    ``retire``: the process should not be used again.
    """

    outcome: Outcome
    job: str = ""
    version: str = ""
    error: str = ""
    warnings: list[str] = []
    reports: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=MOST_REPORTS)] = []
    retry_after: Annotated[float, Meta(ge=0, le=366 * 86400)] | None = None
    retire: bool = False


@dataclass
class Job:
    """One conversion: ``source`` is the file or folder to convert, which gets ``name`` in the worker's sight.

    It is moved there, so it must be on the disk of the workers' folders, and open to all who get to it.
    What comes of it, however it ends: ``log`` is the end of what the converter printed, ``reports`` are the
    bytes of each report, ``seconds`` is how long the worker took.
    """

    source: Path
    name: str
    attempt: int
    arguments: dict[str, Any]
    log: bytes = b""
    seconds: float = 0.0
    reports: list[bytes] = field(default_factory=list)


class Worker:
    """A running worker. Its methods are called by one task at a time."""

    def __init__(self, process: subprocess.Popen[bytes], place: Place, log: int, out: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._place = place
        self._log, self._out = log, out
        self._ended = os.pidfd_open(process.pid)
        self._send = trio.lowlevel.FdStream(os.dup(process.stdin.fileno()))
        self._receive = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
        process.stdin.close()
        process.stdout.close()
        self._rest = b""
        self.conversions = 0

    @classmethod
    async def start(cls, launch: Launch, place: Place) -> Self:
        """Start a worker in ``place``, which is made. Raises ``SandboxError``, ``OSError``."""
        await trio.to_thread.run_sync(place.make)
        log, out = os.memfd_create("log"), os.memfd_create("reports")
        try:
            # Not in another thread: bubblewrap ends with the thread that started it.
            process = subprocess.Popen(  # noqa: ASYNC220  takes about 1 ms
                launch.command, stdin=PIPE, stdout=PIPE, stderr=log, pass_fds=(log, out), bufsize=0,
                env=launch.environment, cwd=launch.folder, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(log)
            os.close(out)
            raise
        worker = cls(process, place, log, out)
        try:
            setup = launch.setup | {"log": log, "out": out, "report_bytes": REPORT_BYTES}
            with trio.fail_after(START_SECONDS):
                await worker.ask(json.dumps(setup).encode() + b"\n")
        except (WorkerError, trio.TooSlowError):
            why = worker.read_log().decode(errors="replace").strip().rpartition("\n")[2]
            await worker.kill()
            raise SandboxError(f"the worker does not start: {why or 'it gave no reason'}") from None
        except BaseException:
            await worker.kill()
            raise
        return worker

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    async def convert(self, job: Job, timeout_seconds: float) -> Answer:
        """Run a conversion; whatever happens, ``job.log`` is what the converter printed by then.

        Raises ``WorkerError`` where it timed out, the process ended or answered nonsense; then, and when
        cancelled, the worker is to be killed.
        """
        source = self._place.source / job.name
        message = {"name": job.name, "arguments": job.arguments, "attempt": job.attempt}
        self.conversions += 1
        try:
            os.rename(job.source, source)  # noqa: PTH104
            answer = await self._do(message, timeout_seconds)
            job.reports = await self._read_reports(answer.reports)
            return answer
        finally:
            job.log = self.read_log()
            remove(source)

    async def load(self, arguments: dict[str, Any], timeout_seconds: float) -> Answer:
        """Import the converter, as before the first conversion, and see whether it takes these arguments.

        Raises ``WorkerError``, as ``convert``.
        """
        return await self._do({"name": None, "arguments": arguments}, timeout_seconds)

    async def _do(self, message: dict[str, Any], timeout_seconds: float) -> Answer:
        os.ftruncate(self._log, 0)
        os.ftruncate(self._out, 0)
        job = secrets.token_hex(8)
        with trio.move_on_after(timeout_seconds) as scope:
            line = await self.ask(json.dumps(message | {"job": job}).encode() + b"\n")
        if scope.cancelled_caught:
            raise WorkerError(f"timed out: longer than {timeout_seconds:g} seconds")
        answer = _parse(line, job)
        if self._rest:
            raise WorkerError("the converter disturbed the worker's answer: there is something behind it")
        return answer

    async def ask(self, line: bytes) -> bytes:
        """Send a line and read the one that answers. Raises ``WorkerError`` where the process is gone."""
        try:
            await self._send.send_all(line)
            while b"\n" not in self._rest:
                piece = await self._receive.receive_some()
                if not piece or len(self._rest) > ANSWER_BYTES:
                    raise await self._why_silent()
                self._rest += piece
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise await self._why_silent() from None
        answer, _, self._rest = self._rest.partition(b"\n")
        return answer

    def read_log(self) -> bytes:
        """The end of what it printed, at most ``LOG_BYTES``."""
        return os.pread(self._log, LOG_BYTES, max(os.fstat(self._log).st_size - LOG_BYTES, 0))

    async def _read_reports(self, sizes: list[int]) -> list[bytes]:
        total = sum(sizes)
        if total > REPORT_BYTES:
            raise WorkerError(f"the reports are larger than {REPORT_BYTES >> 20} MiB together")
        if total > SMALL_BYTES:
            return await trio.to_thread.run_sync(self._reports, sizes)
        return self._reports(sizes)

    def _reports(self, sizes: list[int]) -> list[bytes]:
        reports, at = list[bytes](), 0
        for size in sizes:
            report = os.pread(self._out, size, at)
            if len(report) != size:
                raise WorkerError("the worker named a report that is not there")
            reports.append(report)
            at += size
        return reports

    async def _why_silent(self) -> WorkerError:
        with trio.move_on_after(1):
            await self._wait()
            code = self._process.returncode
            number = -code if code < 0 else code - _SIGNALLED
            if number == signal.SIGXCPU:
                return WorkerError("the converter used more processor time than cpu_seconds allows")
            if number in set(signal.Signals):
                name = signal.Signals(number).name
                said = f"the worker was killed by {name}; too much memory is the usual reason"
                return WorkerError(said, is_transient=number in OUTSIDE_SIGNALS)
            return WorkerError(f"the converter ended the worker process with exit status {code}")
        return WorkerError("the worker gave no answer")

    async def _wait(self) -> None:
        await trio.lowlevel.wait_readable(self._ended)
        self._process.wait()

    async def dismiss(self) -> None:
        """End an idle process by closing its input; kill it where it does not go."""
        with trio.CancelScope(shield=True):
            await self._send.aclose()
            with trio.move_on_after(DISMISS_SECONDS):
                await self._wait()
        await self.kill()

    async def kill(self) -> None:
        """End the process and everything it started, and remove its folder."""
        with trio.CancelScope(shield=True):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._wait()
            await self._send.aclose()
            await self._receive.aclose()
            for fd in (self._ended, self._log, self._out):
                os.close(fd)
            await trio.to_thread.run_sync(remove, self._place.folder)


def open_to_readers(source: Path) -> None:
    """Let a worker read a source, or a folder of them, whoever it runs as. Raises ``OSError``."""
    if not source.is_dir():
        source.chmod(0o444)
    for here, _, names in os.walk(source):
        Path(here).chmod(0o755)
        for name in names:
            Path(here, name).chmod(0o444)


def _parse(line: bytes, job: str) -> Answer:
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WorkerError(f"the converter disturbed the worker's answer: {error}") from None
    if answer.job != job:
        raise WorkerError("the converter disturbed the worker's answer: it is not of this conversion")
    return answer


def remove(path: Path) -> None:
    """Remove a file or folder; what cannot be removed now goes when the daemon starts again."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
