"""The process in which converters run; the only place that imports them. Only the standard library.

Started as ``python -m archivefs.convert.worker``. Jobs come as JSON lines on standard input, answers leave as
JSON lines on what was standard output. A converter's own prints go to the log of its attempt instead. The
first line is the set-up: ``{"run", "path", "memory_bytes", "reject_threshold", "alarm_threshold"}``. When the
daemon is gone, so is this process.
"""

import contextlib
import errno
import importlib
import inspect
import json
import os
import queue
import resource
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

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


class MissingError(Exception):
    """Something that the converter needs is not installed."""


def load(run: str, root: Path, thresholds: Thresholds) -> tuple[Converter, str]:
    """The converter of a ``run`` line as a function, and its version. Raises whatever its import raises."""
    kind, _, rest = run.partition(":")
    if kind == "command":
        return _command(shlex.split(rest), root), ""
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
        return _function(target), str(getattr(target, "version", "") or general)
    if not inspect.isclass(target):
        raise TypeError(f"{rest} is a {type(target).__name__}, not a class")
    converter, version = of_class(target, thresholds)
    return converter, version or str(general)


def _function(function: Callable[[str, dict[str, Any]], object]) -> Converter:
    def convert(path: Path, arguments: dict[str, Any], _: int) -> Result:
        return as_result(function(str(path), arguments))

    return convert


def _command(command: Sequence[str], root: Path) -> Converter:
    program = str(root / command[0]) if "/" in command[0] else command[0]

    def convert(path: Path, arguments: dict[str, Any], _: int) -> Result:
        environment = os.environ | {"ARCHIVEFS_ARGUMENTS": json.dumps(arguments)}
        try:
            done = subprocess.run(
                [program, *command[1:], str(path)],
                env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise MissingError(f"the program {program!r} cannot be started: {error}") from None
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


def _write_reports(reports: Sequence[object], directory: Path) -> list[str]:
    """Each report as a file of JSON; the names of the files. Raises ``NotAReportError``."""
    written = []
    for number, report in enumerate(reports, 1):
        if not isinstance(report, dict):
            raise NotAReportError(f"report {number} is a {type(report).__name__}, not a dict")
        try:
            text = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1)
            data = text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise NotAReportError(f"report {number} is not JSON: {error}") from None
        name = "report.json" if number == 1 else f"report-{number}.json"
        (directory / name).write_bytes(data + b"\n")
        written.append(name)
    return written


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
    return f"{type(error).__name__}: {error}{where}"


def run_job(converter: Converter, job: dict[str, Any]) -> dict[str, Any]:
    """One conversion; whatever happens in it becomes an answer."""
    result = None
    try:
        result = converter(Path(job["path"]), job["arguments"], job["attempt"])
        names = _write_reports(result.reports, Path(job["out"]))
    except Exception as error:
        sys.stdout.flush()
        traceback.print_exc()
        is_missing = isinstance(error, ModuleNotFoundError | MissingError)
        cannot_store = result is not None and isinstance(error, OSError) and error.errno in DISK_ERRORS
        outcome = "transient" if is_missing or cannot_store else "failed"
        return {"outcome": outcome, "error": _explain(error)[-ERROR_CHARACTERS:]}
    return {
        "outcome": str(result.outcome),
        "reports": names,
        "error": str(result.error)[-ERROR_CHARACTERS:],
        "warnings": [str(warning) for warning in result.warnings],
        "retry_after": result.retry_after,
    }


@contextlib.contextmanager
def _logging_to(path: str) -> Any:  # noqa: ANN401  a context manager without value
    """Standard output and error of this process and its children go to the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    try:
        yield
    finally:
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


def main() -> NoReturn:
    """Serve jobs until the daemon closes the pipe."""
    lines, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    jobs = _Jobs(lines)
    setup = jobs.next()
    os.umask(0o077)  # what a kill leaves behind is private
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"], setup["memory_bytes"]))
    sys.path[:0] = setup["path"]
    converter: Converter | None = None
    version = ""
    while True:
        job = jobs.next()
        with _logging_to(job["log"]):
            try:
                if converter is None:
                    thresholds = Thresholds(setup["reject_threshold"], setup["alarm_threshold"])
                    converter, version = load(setup["run"], Path(setup["root"]), thresholds)
            except Exception as error:
                traceback.print_exc()
                outcome = "transient" if isinstance(error, ImportError) else "failed"
                answer = {"outcome": outcome, "error": f"the converter does not load: {_explain(error)}"}
            else:
                answer = run_job(converter, job)
        line = json.dumps(answer | {"version": version}, ensure_ascii=False)
        answers.write(line.encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    main()
