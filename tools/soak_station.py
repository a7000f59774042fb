"""Knows an archive under load: how it is made, mounted, killed and proven, and the crowd that uses it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
EXAMPLES = REPO / "docs" / "examples" / "converters"
TOML = """\
schema_version = 1
reserve = "1 GB"
workers = 3

[converters.ict-csv]                     # a class; one source in fifty is suspended and tried again
run = "python:ict_csv:IctConverter"
path = ["converters"]
patterns = ["*.csv"]
arguments = { retry_after_seconds = 5 }
settle_seconds = 0.5
linger_seconds = 1

[converters.functional-xml]              # a function; one source in fifty fails
run = "function:functional_xml:convert"
path = ["converters"]
patterns = ["*.xml"]
settle_seconds = 0.5
linger_seconds = 1

[converters.burnin-log]
linger_seconds = 1

[converters.images]                      # the large ones
linger_seconds = 1
"""
COMMAND_SECONDS = 120.0
END_SECONDS = 30.0
"""How long a daemon or a program may take to end before it is made to."""
AWAY = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT)
"""What programs get while the daemon is dead, and while nothing is mounted."""
WRITERS, READERS, WALKERS = 3, 2, 1
PAUSES = {"writer_pause": 0.12, "reader_pause": 0.06, "walker_pause": 0.8}
"""Seconds between two pieces of work of one program: what leaves about half of two cores to others."""
LARGE_BYTES = 4 << 30
"""Of large files in a whole run, however long."""


class SoakError(Exception):
    """The run cannot go on."""


def archivefs(*arguments: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command of this checkout; it must end with ``code`` (None: with any)."""
    done = subprocess.run(
        [sys.executable, "-m", "archivefs.cli.main", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPO)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=COMMAND_SECONDS, check=False, start_new_session=True,
    )  # fmt: skip
    if code is not None and done.returncode != code:
        raise SoakError(f"archivefs {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Asks until the answer is true; False when time is up."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


class Station:
    """An archive in a folder, and its mount."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "archive"
        self.mount_point = folder / "mount"
        self.pid = 0

    def make(self) -> None:
        """An empty archive with the converters of the documents."""
        toml = self.root.with_name("archive.toml")
        toml.write_text(TOML)
        archivefs("init", "--config", toml, self.root)
        toml.unlink()
        for file in EXAMPLES.glob("*.py"):
            shutil.copy(file, self.root / "converters")
        self.mount_point.mkdir()

    def mount(self) -> None:
        """Mounts; heals what a kill left."""
        archivefs("mount", self.root, self.mount_point)
        self.pid = json.loads((self.root / "lock").read_bytes())["pid"]

    def umount(self) -> None:
        """Unmounts; returns when the daemon has ended. Others who look around in the mount are waited for."""
        last = ""

        def unmounted() -> bool:
            nonlocal last
            done = archivefs("umount", self.mount_point, code=None)
            last = done.stderr.strip()
            return done.returncode == 0

        if not wait_for(unmounted, END_SECONDS):
            raise SoakError(f"{last}; used by: {', '.join(self._users()) or 'nobody in sight'}")
        if not wait_for(lambda: not self.is_alive(), END_SECONDS):
            raise SoakError(f"the daemon {self.pid} is unmounted and does not end")

    def _users(self) -> list[str]:
        """Processes that have something of the mount open or stand in it."""
        found = set()
        for link in (*Path("/proc").glob("[0-9]*/fd/*"), *Path("/proc").glob("[0-9]*/cwd")):
            with contextlib.suppress(OSError):
                if link.readlink().is_relative_to(self.mount_point):
                    found.add(f"{link.parts[2]} ({Path(*link.parts[:3], 'comm').read_text().strip()})")
        return sorted(found)

    def kill(self) -> None:
        """Ends the daemon as a crash does."""
        os.kill(self.pid, signal.SIGKILL)
        if not wait_for(lambda: not self.is_alive(), END_SECONDS):
            raise SoakError(f"the daemon {self.pid} was killed and does not end")

    def is_alive(self) -> bool:
        """Whether the daemon runs."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return self.pid > 0 and state not in "ZX"

    def is_mounted(self) -> bool:
        """Whether the kernel has something at the mountpoint, alive or dead."""
        point = str(self.mount_point).replace("\\", "\\134").replace(" ", "\\040")
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return any(line.split(" ")[4] == point for line in lines)

    def take_down(self) -> None:
        """Leaves no mount and no daemon, whatever state they are in."""
        if self.is_mounted():
            archivefs("umount", *([] if self.is_alive() else ["--lazy"]), self.mount_point, code=None)
        if self.is_mounted():
            archivefs("umount", "--lazy", self.mount_point, code=None)
        if not wait_for(lambda: not self.is_alive(), END_SECONDS):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            wait_for(lambda: not self.is_alive(), END_SECONDS)

    def verify(self) -> dict[str, Any]:
        """What ``archivefs verify`` finds; ``worst`` is '' or 'notice' where all is well."""
        facts: dict[str, Any] = json.loads(
            archivefs("--archive", self.root, "verify", "--json", code=None).stdout
        )
        return facts

    def archived(self) -> set[tuple[str, str, str]]:
        """Converter, name and SHA-256 of every entry."""
        lines = archivefs("--archive", self.root, "ls", "--json").stdout.splitlines()
        entries = map(json.loads, lines)
        return {(each["converter"], each["name"], each["sha256"]) for each in entries}

    def errors_logged(self) -> list[str]:
        """Lines of the log that tell of errors; those of programs that the daemon served are none."""
        lines = []
        for file in self.root.glob("archivefs.log*"):
            lines += file.read_text(errors="replace").splitlines()
        return [
            line for line in lines if " ERROR " in line or " CRITICAL " in line or "Traceback" in line
        ]  # fmt: skip


class Heard:
    """What the programs said since it was last taken. Many threads add, one takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lists: dict[str, list[Any]] = defaultdict(list)

    def add(self, said: dict[str, list[Any]]) -> None:
        """One line of one program."""
        with self._lock:
            for what, values in said.items():
                self._lists[what] += values

    def take(self) -> dict[str, list[Any]]:
        """Everything, by what it is; missing keys are empty lists."""
        with self._lock:
            taken, self._lists = self._lists, defaultdict(list)
        return taken


class Member:
    """One program of the crowd: a process of soak_load.py."""

    def __init__(self, kind: str, number: int, mount: Path, options: dict[str, Any], heard: Heard) -> None:
        self.kind = kind
        self.paused = threading.Event()
        self._heard = heard
        script = Path(__file__).with_name("soak_load.py")
        # In a session of its own: Ctrl-C is for the run, which then ends its programs in order.
        self.process = subprocess.Popen(
            [sys.executable, str(script), kind, str(number), str(mount), json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said.pop("paused", False):
                self.paused.set()
            self._heard.add(said)

    def order(self, line: str) -> None:
        """Sends an order; one that has ended is found by ``Crowd.dead``."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def end(self) -> None:
        """Ends it: by itself, or where it does not, by force. Ending it again does nothing."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Crowd:
    """All programs that use the mount."""

    def __init__(self, mount: Path, seconds: float) -> None:
        mean = 12.5 * (1 << 20)
        options = {
            **PAUSES,
            "large_seconds": max(10.0, seconds * mean / LARGE_BYTES),
            "large_first": min(14, max(1, round(seconds / 12))),
        }
        self.heard = Heard()
        kinds = ["writer"] * WRITERS + ["reader"] * READERS + ["walker"] * WALKERS
        self._members = [
            Member(kind, number, mount, options, self.heard) for number, kind in enumerate(kinds)
        ]

    def share(self, entries: list[list[Any]]) -> None:
        """Gives each reader entries that no other is given."""
        readers = [member for member in self._members if member.kind == "reader"]
        for number, reader in enumerate(readers):
            if entries[number :: len(readers)]:
                reader.order(json.dumps(entries[number :: len(readers)]))

    def pause(self) -> None:
        """Returns when nobody has anything of the mount open."""
        for member in self._members:
            member.paused.clear()
            member.order("pause")
        for member in self._members:
            if not member.paused.wait(END_SECONDS):
                raise SoakError(f"a {member.kind} is stuck")

    def go(self) -> None:
        """Lets them go on."""
        for member in self._members:
            member.order("go")

    def dead(self) -> list[str]:
        """Which of them have ended though nobody told them to."""
        return [member.kind for member in self._members if member.process.poll() is not None]

    def end(self) -> None:
        """Ends all of them."""
        for member in self._members:
            member.end()
