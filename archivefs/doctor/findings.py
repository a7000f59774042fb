"""What the doctor says: a line for each thing looked at, how bad it is, and what a person types then."""

import shlex
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from archivefs.archive import Archive
from archivefs.config import Config


class State(IntEnum):
    """How a thing stands. The exit code of ``archivefs doctor`` follows the worst."""

    OK = 0
    WARNING = 1
    PROBLEM = 2


EXIT_CODES = {State.OK: 0, State.WARNING: 53, State.PROBLEM: 54}


class Line(NamedTuple):
    """One thing that was looked at. ``remedy`` is '' where there is nothing to do."""

    check: str
    state: State
    seen: str
    remedy: str = ""


def ok(check: str, seen: str, hint: str = "") -> Line:
    """Nothing to do; ``hint``: what could be."""
    return Line(check, State.OK, seen, hint)


def warning(check: str, seen: str, remedy: str) -> Line:
    """Nothing is in danger now."""
    return Line(check, State.WARNING, seen, remedy)


def problem(check: str, seen: str, remedy: str) -> Line:
    """Something does not work, or is about to be lost."""
    return Line(check, State.PROBLEM, seen, remedy)


@dataclass
class Case:
    """What is known of an archive so far; what could not be had is None.

    ``archive`` is open for reading, as it is; ``alarms`` are those of the process that has it mounted, None
    where none answers; ``has_sandbox``: a strict sandbox was started.
    ``is_archive``: there is something to look at.
    ``mountpoints``: where else to look for files that nobody captured.
    """

    root: Path
    mountpoints: tuple[Path, ...] = ()
    config: Config | None = None
    archive: Archive | None = None
    alarms: dict[str, str] | None = None
    has_sandbox: bool = False
    is_archive: bool = True

    def command(self, *words: object) -> str:
        """A command about this archive, as a person types it."""
        return shlex.join(["archivefs", "--archive", str(self.root), *map(str, words)])
