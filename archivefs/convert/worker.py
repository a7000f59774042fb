"""The process in which converters run; the only place that imports them. Only the standard library.

Started as ``python -m archivefs.convert.worker``. Jobs come as JSON lines on standard input, answers leave as
JSON lines on what was standard output. A converter's own prints go to the log of its attempt instead. The
first line is the set-up (``sandbox.launch``). When the daemon is gone, so is this process.
"""

import contextlib
import errno
import fcntl
import importlib
import inspect
import json
import math
import os
import queue
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from archivefs.convert import confinement
from archivefs.convert.arguments import ArgumentsError
from archivefs.convert.classes import (
    PYWATS,
    Converter,
    NotAReportError,
    Thresholds,
    as_result,
    do_without_client,
    of_class,
)
from archivefs.convert.protocol import Result

EX_TEMPFAIL = 75
"""Exit status by which a command says "later" (sysexits.h)."""
ERROR_CHARACTERS = 4000
"""Longest error text that an attempt keeps; its end is what is kept, there the reason stands."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM)
"""Why a report cannot be written that is no fault of the report."""
_LIMITS = {
    errno.ENOSPC: "; tmp_mb bounds what it may write",
    errno.EFBIG: "; tmp_mb bounds what it may write",
    errno.EAGAIN: "; processes bounds how many it may start",
    errno.EMFILE: "; open_files bounds how many it may open",
}
"""Which limit an error number speaks of."""

_NOT_STARTED = {
    errno.EACCES: "is it executable (chmod +x)?",
    errno.ENOEXEC: "does it begin with a line such as #!/usr/bin/python3?",
}
"""What a person may have forgotten whose program does not start."""


class MissingError(Exception):
    """Something that the converter needs is not installed."""


def load(run: str, program: str, thresholds: Thresholds) -> tuple[Converter, str]:
    """The converter of a ``run`` line as a function, and its version; ``program`` is where a command's lies.

    Raises whatever its import raises.
    """
    kind, _, rest = run.partition(":")
    if kind == "command":
        return _command([program, *shlex.split(rest)[1:]]), ""
    module_name, _, attribute = rest.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        if not do_without_client():
            raise
        module = importlib.import_module(module_name)
    target = getattr(module, attribute)
    general = getattr(module, "__version__", "")
    if kind == "function":
        if inspect.isclass(target) or not callable(target):
            is_a = "class; run it as python:" + rest if inspect.isclass(target) else type(target).__name__
            raise TypeError(f"{rest} is no function but a {is_a}")
        return _function(target), str(getattr(target, "version", "") or general)
    if not inspect.isclass(target):
        raise TypeError(f"{rest} is a {type(target).__name__}, not a class")
    converter, version = of_class(target, thresholds)
    return converter, version or str(general)


def _function(function: Callable[[str, dict[str, Any]], object]) -> Converter:
    def convert(path: Path, arguments: dict[str, Any], _: int) -> Result:
        return as_result(function(str(path), arguments))

    return convert


def _command(command: Sequence[str]) -> Converter:
    program = Path(command[0]).name

    def convert(path: Path, arguments: dict[str, Any], _: int) -> Result:
        environment = os.environ | {"ARCHIVEFS_ARGUMENTS": json.dumps(arguments)}
        try:
            done = subprocess.run(
                [*command, str(path)],
                env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise MissingError(f"the program {program!r} cannot be started: {error}") from None
        except OSError as error:
            if error.errno not in _NOT_STARTED:
                raise
            why = _NOT_STARTED[error.errno]
            return Result.failed(f"the program {program!r} cannot be started: {error.strerror}; {why}")
        said = done.stderr.decode("utf-8", "replace")
        print(said, end="", flush=True)  # noqa: T201  into the attempt's log
        if done.returncode == EX_TEMPFAIL:
            return Result.suspended(said.strip().rpartition("\n")[2] or f"{program} asked to be run later")
        if done.returncode < 0:
            return Result.failed(f"{program} was ended by {_signal(done.returncode)}\n{said}".strip())
        if done.returncode != 0:
            return Result.failed(said.strip() or f"{program} ended with exit status {done.returncode}")
        try:
            return as_result(json.loads(done.stdout))
        except ValueError as error:
            raise NotAReportError(f"{program} printed no JSON: {error}") from None

    return convert


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _write_reports(reports: Sequence[object], fd: int, most_bytes: int) -> list[int]:
    """Each report as JSON, one after the other into a file; their sizes. Raises ``NotAReportError``."""
    sizes = list[int]()
    for number, report in enumerate(reports, 1):
        if not isinstance(report, dict):
            raise NotAReportError(f"report {number} is a {type(report).__name__}, not a dict")
        try:
            text = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1)
            data = text.encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise NotAReportError(f"report {number} is not JSON: {error}") from None
        if sum(sizes) + len(data) > most_bytes:
            raise NotAReportError(f"the reports are larger than {most_bytes >> 20} MiB together")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        sizes.append(len(data))
    return sizes


def _explain(error: BaseException) -> str:
    """One readable line: what was raised, and where in the converter."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, NotAReportError | ArgumentsError | MissingError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] in (PYWATS, "pywats"):
        return (
            f"it is written for the pyWATS client, which is not installed: pip install pywats-api ({error})"
        )
    if isinstance(error, MemoryError):
        return f"the converter used more memory than memory_mb allows{where}"
    hint = _LIMITS.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    return f"{type(error).__name__}: {error}{hint}{where}"


def run_job(converter: Converter, job: dict[str, Any], setup: dict[str, Any]) -> dict[str, Any]:
    """One conversion; whatever happens in it becomes an answer. Without a name it was only to be loaded."""
    result = None
    try:
        if job["name"] is None:
            getattr(converter, "check", bool)(job["arguments"])
            return {"outcome": "success"}
        result = converter(Path(setup["source"], job["name"]), job["arguments"], job["attempt"])
        os.lseek(setup["out"], 0, os.SEEK_SET)
        sizes = _write_reports(result.reports, setup["out"], setup["report_bytes"])
    except Exception as error:
        _print_traceback()
        is_missing = isinstance(error, ModuleNotFoundError | MissingError)
        cannot_store = result is not None and isinstance(error, OSError) and error.errno in DISK_ERRORS
        outcome = "transient" if is_missing or cannot_store else "failed"
        return {"outcome": outcome, "error": _shortened(_explain(error))}
    return {
        "outcome": str(result.outcome),
        "reports": sizes,
        "error": _shortened(str(result.error)),
        "warnings": [str(warning) for warning in result.warnings],
        "retry_after": result.retry_after,
    }


def _shortened(text: str) -> str:
    """Beginning and end of a long text: there are the kind of an error and its place."""
    if len(text) <= ERROR_CHARACTERS:
        return text
    return f"{text[: ERROR_CHARACTERS // 4]} ... {text[-3 * ERROR_CHARACTERS // 4 + 5 :]}"


def _print_traceback() -> None:
    """Into the attempt's log, where that has room."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        traceback.print_exc()


@contextlib.contextmanager
def _logging_to(log: int) -> Any:  # noqa: ANN401  a context manager without value
    """Standard output and error of this process and its children go to the file."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a full log keeps what it has
            sys.stdout.flush()
            sys.stderr.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)


class _Jobs:
    """Lines from the daemon, read by a thread of their own so that its end is noticed during a job."""

    def __init__(self, lines: IO[bytes]) -> None:
        self.busy = False
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def next(self) -> Any:  # noqa: ANN401  decoded JSON
        """The next line, decoded."""
        self.busy = False
        line = self._waiting.get()
        self.busy = True
        return json.loads(line)

    def _read(self, lines: IO[bytes]) -> NoReturn:
        """At the end of input the daemon is gone: a running job and all it started end with it."""
        for line in lines:
            self._waiting.put(line)
        if self.busy:
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


class _Traces:
    """What a conversion leaves behind: files where it may write, and processes that it started."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._folders = {folder: set(os.listdir(folder)) for folder in setup["tmp"]}  # noqa: PTH208
        self._alone: bool = setup["alone"]
        self._log: int = setup["log"]
        self._log_bytes: float = setup.get("limits", {}).get("file_bytes", math.inf)
        self._growth_bytes: int = setup["memory_bytes"] // 4
        self._first_bytes = 0

    def remove(self) -> None:
        """Make the place as it was for the next conversion, as far as that can be done from within."""
        if self._alone:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(-1, signal.SIGKILL)  # all but this process, and the first of the namespace
                while True:
                    os.waitpid(-1, 0)
        for folder, kept in self._folders.items():
            with contextlib.suppress(OSError):
                for name in set(os.listdir(folder)) - kept:  # noqa: PTH208
                    path = Path(folder, name)
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()

    def remain(self) -> bool:
        """Whether this process should not be used again.

        It has much more memory than after its first conversion (a quarter of the limit), or what it printed
        did not fit into the log and waits to be printed once more.
        """
        resident = int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
        self._first_bytes = self._first_bytes or resident
        is_full = os.fstat(self._log).st_size >= self._log_bytes
        return is_full or resident > self._first_bytes + self._growth_bytes


def _prepare(setup: dict[str, Any]) -> None:
    """Limits and privileges, before any line of a converter runs."""
    os.umask(0o077)  # what a kill leaves behind is private
    confinement.offer_to_the_oom_killer()
    if setup["drop_root"]:
        confinement.drop_root()
    if "limits" in setup:
        confinement.limit(setup["limits"])
    fcntl.fcntl(setup["log"], fcntl.F_SETFL, os.O_APPEND)
    sys.path[:0] = setup["path"]


def _probe() -> None:
    """See whether a sandbox can be had: what of ``_prepare`` depends on the machine."""
    if os.geteuid() == 0:
        confinement.drop_root()


def main() -> NoReturn:
    """Serve jobs until the daemon closes the pipe."""
    if sys.argv[1:] == ["--probe"]:
        _probe()
        sys.exit(0)
    lines, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    setup = json.loads(lines.readline())
    _prepare(setup)
    answers.write(b"{}\n")
    jobs = _Jobs(lines)
    traces = _Traces(setup)
    converter: Converter | None = None
    version, worker = "", os.getpid()
    while True:
        job = jobs.next()
        if "cpu_seconds" in setup:
            confinement.limit_cpu(setup["cpu_seconds"])
        with _logging_to(setup["log"]):
            try:
                if converter is None:
                    thresholds = Thresholds(setup["reject_threshold"], setup["alarm_threshold"])
                    converter, version = load(setup["run"], setup["program"], thresholds)
            except Exception as error:
                _print_traceback()
                outcome = "transient" if isinstance(error, ImportError) else "failed"
                answer = {"outcome": outcome, "error": f"the converter does not load: {_explain(error)}"}
            else:
                answer = run_job(converter, job, setup)
        if os.getpid() != worker:
            os._exit(0)  # the converter forked, and this is the child
        traces.remove()
        # What is missing may have left half a module behind in this process.
        retire = traces.remain() or answer["outcome"] == "transient"
        also = {"version": version, "retire": retire, "job": job["job"]}
        line = json.dumps(answer | also, ensure_ascii=False)
        answers.write(line.encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    main()
