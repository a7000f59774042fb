"""The sessions in README.md and docs/scenario.md, run as printed: the same commands give the same lines."""

import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from mount_parts import ROOT, environment, mount_line, poll, run
from receiver_parts import free_port

HOME, PORT = "/home/me", "8765"
"""Where a session in a document takes place, and where its server listens."""
COMMAND_SECONDS = 30.0
SHOWN_SECONDS = 20.0
"""How long it may take until what a command looks at is there; the documents say two or three seconds."""
LOOKS = re.compile(r"(ls|cat|tail|cut|jq) [^<>]*")
"""A command that only looks, and may be given again."""
ID = re.compile(r"\d{8}T\d{9}-([0-9a-f]{6})")
MASKS = (
    (ID, r"ID-\1"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DATE"),
    (re.compile(r"\b\d{6}_(?=[0-9a-f]{6}_)"), "TIME_"),
    (re.compile(r"(?<= in )\d+ B(?=; the archive takes )"), "SIZE"),
    (re.compile(r"\d+(\.\d+)? [kMGT]?B(?= on disk| are free)"), "SIZE"),
    (re.compile(r"(?<= in )\d+\.\d s \(\d+(\.\d+)? [kMGT]?B/s(?=,)"), "TIME (RATE"),
    (re.compile(r"(?<= running, )\d+ of \d+ \(\d+ %\).*"), "SO FAR"),
    (re.compile(r"^ +\d+  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z  "), "LINE AND TIME  "),
    (re.compile(r"(?<= duration_ms=)\d+"), "DURATION"),
    (re.compile(r"(?<= code=)[0-9a-f]{64}"), "CODE"),
    (re.compile(r"(?<= by uid )\d+"), "UID"),
    (re.compile(r"\b\d{3} events"), "HUNDREDS OF events"),
)
"""What differs from one run to the next. That an id ends in the beginning of the SHA-256 does not.

The code of a folder has the folder's path in its SHA-256. Deliveries that failed are events, as many as there
was time for.
"""


class Step(NamedTuple):
    """A command of the session, and the lines that are printed below it."""

    command: str
    lines: list[str]


def first_session() -> str:
    text = (ROOT / "README.md").read_text()
    return text.partition("\n## A first session\n")[2].partition("\n## ")[0]


def scenario() -> str:
    return (ROOT / "docs" / "scenario.md").read_text()


def steps(text: str) -> Iterator[Step]:
    """The commands of all console blocks; one with a here-document goes on up to its end."""
    for block in re.findall(r"(?ms)^```console\n(.*?)^```$", text):
        step, end = None, ""
        for line in block.splitlines():
            if end and step is not None:
                step = step._replace(command=f"{step.command}\n{line}")
                end = "" if line == end else end
            elif line.startswith("$ "):
                if step is not None:
                    yield step
                step = Step(line.removeprefix("$ "), [])
                here = re.search(r"<<'(\w+)'", line)
                end = here[1] if here else ""
            else:
                assert step is not None, f"output before the first command: {line}"
                step.lines.append(line)
        if step is not None:
            yield step


def files(text: str) -> dict[str, str]:
    """The files that the session tells a person to write, by their path."""
    return dict(re.findall(r"(?ms)`([\w./-]+\.py)`:\n\n```python\n(.*?)^```$", text))


class Session:
    """One bash that gets commands one after the other, as at a terminal."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self._bash = subprocess.Popen(
            ["bash", "--norc"], cwd=folder, env=variables,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def run(self, command: str) -> list[str]:
        """What it prints, line by line. Fails where it has not ended in time."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        mark = f"--- {time.monotonic_ns()} ---\n".encode()
        self._bash.stdin.write(f"{command}\nprintf %s {shlex.quote(mark.decode())}\n".encode())
        self._bash.stdin.flush()
        said, deadline = b"", time.monotonic() + COMMAND_SECONDS
        with selectors.DefaultSelector() as ready:
            ready.register(self._bash.stdout, selectors.EVENT_READ)
            while not said.endswith(mark):
                assert ready.select(deadline - time.monotonic()), f"{command}: no end; so far: {said!r}"
                piece = os.read(self._bash.stdout.fileno(), 65536)
                assert piece, f"{command}: bash ended; it said: {said!r}"
                said += piece
        return said.removesuffix(mark).decode().splitlines()

    def close(self) -> None:
        """End it, and what it left running in the background; not what made itself a daemon."""
        os.killpg(self._bash.pid, signal.SIGKILL)
        for pipe in (self._bash.stdin, self._bash.stdout):
            assert pipe is not None
            pipe.close()
        self._bash.wait(COMMAND_SECONDS)


def masked(lines: list[str], folder: Path) -> list[str]:
    found = []
    for line in lines:
        text = line.replace(str(folder), HOME).rstrip()
        for pattern, word in MASKS:
            text = pattern.sub(word, text)
        found.append(text)
    return found


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A shell in an empty folder that has ``archivefs`` on its path; nothing stays mounted."""
    program, folder = tmp_path / "bin" / "archivefs", tmp_path / "me"
    program.parent.mkdir()
    folder.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m archivefs.cli.main "$@"\n')
    program.chmod(0o755)
    variables = environment() | {"PATH": f"{program.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    variables.pop("ARCHIVEFS_ARCHIVE", None)
    shell = Session(folder, variables)
    try:
        yield shell
    finally:
        shell.close()
        if mount_line(folder / "mnt"):
            run(program, "umount", folder / "mnt", env=variables)


def output(session: Session, command: str, expected: list[str]) -> list[str]:
    """What a command prints; one that only looks is asked again until it shows what is expected."""
    got: list[str] = []

    def fits() -> bool:
        got[:] = session.run(command)
        return masked(got, session.folder) == expected

    if LOOKS.fullmatch(command):
        with suppress(AssertionError):
            poll("what is printed", fits, SHOWN_SECONDS)
    else:
        fits()
    return got


def write_what_can_be_written(waiting: dict[str, str], folder: Path) -> None:
    """The files whose folder the session has made by now."""
    for path in [each for each in waiting if (folder / each).parent.is_dir()]:
        (folder / path).write_text(waiting.pop(path))


@pytest.mark.parametrize("text", [first_session(), scenario()], ids=["README", "scenario"])
def test_a_session_in_a_document_gives_what_is_printed(session: Session, text: str) -> None:
    text, ids = text.replace(PORT, str(free_port())), dict[str, str]()
    waiting = files(text)
    assert waiting
    for step in steps(text):
        write_what_can_be_written(waiting, session.folder)
        command = step.command
        for digits in ID.findall(command):
            command = re.sub(rf"\S+-{digits}", ids[digits], command)
        expected = masked(step.lines, session.folder)
        got = output(session, command, expected)
        assert masked(got, session.folder) == expected, command
        ids |= {match[1]: match[0] for line in got for match in ID.finditer(line)}
    assert not waiting
