"""What is delivered, what comes back, and how long to wait after a failure; the same for every receiver."""

import os
import random
import shlex
from pathlib import Path
from typing import NamedTuple

from archivefs.config import SubmitConfig
from archivefs.errors import ArchiveError
from archivefs.states import Submission

ERROR_LENGTH = 500
"""Characters of an error that are kept: enough for what a server says, short enough for every attempt."""
SECRET_BYTES = 16 << 10
"""Longest token or header value that is read from a file."""
RETRY_AFTER_SECONDS = 86_400.0
"""Longest time that a receiver may ask to wait; its clock may be wrong."""


class Letter(NamedTuple):
    """A report on its way. ``body`` is JSON and has the id."""

    converter: str
    id: str
    attempt: int
    ordinal: int
    report_id: str
    body: bytes


class Answer(NamedTuple):
    """What became of a delivery: sent, refused for good, or queued: to be tried again.

    ``retry_after``: how many seconds the receiver asked to wait at least.
    """

    state: Submission
    http_status: int = 0
    answer_id: str = ""
    error: str = ""
    retry_after: float = 0.0


class SecretError(ArchiveError):
    """A token or header cannot be had from where archive.toml says; the message is the delivery's error."""

    exit_code = 44


def later(error: str, *, http_status: int = 0, retry_after: float = 0.0) -> Answer:
    """It is tried again."""
    wait = min(max(retry_after, 0.0), RETRY_AFTER_SECONDS)
    return Answer(Submission.QUEUED, http_status, error=shortened(error), retry_after=wait)


def refused(error: str, *, http_status: int = 0) -> Answer:
    """It is not tried again by itself."""
    return Answer(Submission.REFUSED, http_status, error=shortened(error))


def shortened(text: str) -> str:
    """One line of at most ``ERROR_LENGTH`` printable characters."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= ERROR_LENGTH else line[: ERROR_LENGTH - 3] + "..."


def delay_seconds(config: SubmitConfig, failures: int, retry_after: float = 0.0) -> float:
    """How long to wait after so many failures in a row (1, 2, ...): doubled each time, up to a limit.

    Half of it is left to chance, so that those who failed together do not come back together; what the
    receiver asked for is a lower bound.
    """
    longest = max(config.max_retry_delay_seconds, config.retry_delay_seconds)
    delay = min(longest, config.retry_delay_seconds * 2.0 ** min(failures - 1, 60))
    return max(delay * random.uniform(0.5, 1.0), retry_after)


def secret(value: str, root: Path) -> str:
    """The value itself, or what ``env:NAME`` or ``file:PATH`` stands for. Blocks. Raises ``SecretError``."""
    kind, _, where = value.partition(":")
    if kind == "env":
        found = os.environ.get(where, "")
        what = f"the environment variable {where}"
    elif kind == "file":
        what = str(root / where)
        try:
            with (root / where).open("rb") as file:
                found = file.read(SECRET_BYTES).decode("ascii", "replace").strip()
        except OSError as error:
            raise SecretError(f"{what} cannot be read: {error.strerror}") from None
    else:
        return value
    if not found:
        raise SecretError(f"{what} is empty or not set")
    if not found.isascii() or not found.isprintable():
        raise SecretError(f"{what} holds something other than one line of ASCII characters")
    return found


def program_of(command: str, root: Path) -> list[str]:
    """The words of a command; a program with a ``/`` in it is relative to the archive."""
    program, *arguments = shlex.split(command)
    return [str(root / program) if "/" in program else program, *arguments]
