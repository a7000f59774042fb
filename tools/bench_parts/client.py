"""Runs the programs that are timed: client.c where there is a compiler, else their like in Python."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SECONDS = 900.0
"""How long a single run may take."""


class Result(NamedTuple):
    """What a run did; ``median_us`` and ``p99_us`` of single operations are 0 where they were not timed."""

    count: int
    bytes: int
    seconds: float
    median_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.count / self.seconds

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds


class ClientError(Exception):
    """A program could not do what it was to be timed at."""


class Client:
    """The programs, compiled into ``folder``. ``language`` is "C" or "Python"."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        self.language = "C" if compiler else "Python"
        self._command = [sys.executable, str(HERE / "client_python.py")]
        if compiler:
            program = folder / "client"
            subprocess.run([compiler, "-O2", "-o", program, HERE / "client.c"], check=True)
            self._command = [str(program)]

    def run(self, *arguments: object, paths: Iterable[Path] = ()) -> Result:
        """One run; ``paths`` go to its standard input. Raises ``ClientError``."""
        done = subprocess.run(
            [*self._command, *map(str, arguments)],
            input="".join(f"{path}\n" for path in paths),
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ClientError(f"{arguments[0]}: {done.stderr.strip()}")
        return Result(**json.loads(done.stdout))
