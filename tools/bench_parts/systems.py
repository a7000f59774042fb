"""The file systems that are compared: how each is mounted, unmounted, and made to forget."""

import contextlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'tools'}", "PYTHONDONTWRITEBYTECODE": ""}
"""Byte code is kept as that of an installed package is: without it, starting takes half as long again."""
ARCHIVEFS = [sys.executable, "-m", "archivefs.cli.main"]
"""The command of this checkout."""
DROP = Path("/proc/sys/vm/drop_caches")
ALL_CACHES, DENTRIES = "3", "2"
MOUNT_SECONDS = 120.0
LOOK_EVERY_SECONDS = 0.01


def drop_caches(what: str = ALL_CACHES) -> bool:
    """Make the kernel forget pages, names and attributes; returns false where that is not allowed."""
    os.sync()
    try:
        DROP.write_text(what)
    except OSError:
        return False
    return True


def run(*command: object) -> str:
    """Run a program to its end; returns what it printed. Raises ``CalledProcessError``."""
    done = subprocess.run(
        list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"tools/bench: {' '.join(map(str, command))[:200]}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def archivefs(*arguments: object) -> str:
    """Run the command of this checkout."""
    return run(*ARCHIVEFS, *arguments)


class System(ABC):
    """A file system that can be mounted at ``point``."""

    def __init__(self, name: str, point: Path) -> None:
        self.name = name
        self.point = point
        self.pid = 0

    @abstractmethod
    def start(self) -> None:
        """Mount; returns when it can be used."""

    @abstractmethod
    def wait(self) -> None:
        """Wait for the end of its process after it was unmounted."""

    def stop(self) -> None:
        """Unmount, if it is mounted."""
        if self.pid:
            unmount(self.point)
            self.wait()
            self.pid = 0

    def cold(self) -> None:
        """Unmount, forget everything, mount again."""
        self.stop()
        drop_caches()
        self.start()

    def path(self, name: str) -> Path:
        """A path in it."""
        return self.point / name

    # -- its process -----------------------------------------------------------------------------------

    def memory(self, key: str = "VmRSS") -> int:
        """Bytes of its process: VmRSS now, VmHWM at most since ``forget_peak``."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
        raise ValueError(key)

    def forget_peak(self) -> None:
        """Begin a new measurement of VmHWM."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_seconds(self) -> float:
        """Processor time of the threads that its process has now, so far."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


class Archivefs(System):
    """An archive mounted as users do it."""

    def __init__(self, root: Path, point: Path) -> None:
        super().__init__("archivefs", point)
        self.root = root

    def start(self) -> None:
        """``archivefs mount``."""
        archivefs("mount", self.root, self.point)
        self.pid = json.loads((self.root / "lock").read_bytes())["pid"]

    def wait(self) -> None:
        """It is no child of this process."""
        while Path(f"/proc/{self.pid}").exists():
            time.sleep(LOOK_EVERY_SECONDS)


class Foreground(System):
    """A program that serves a mount until it is unmounted."""

    def __init__(self, name: str, point: Path, command: Sequence[object]) -> None:
        super().__init__(name, point)
        self._command = [*map(str, command)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait for the mount."""
        self._process = subprocess.Popen(
            self._command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self.pid = self._process.pid
        deadline = time.monotonic() + MOUNT_SECONDS
        while not os.path.ismount(self.point):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                said = self._process.communicate()[1].decode(errors="replace")
                raise SystemExit(f"tools/bench: {self.name} could not be mounted: {said[-2000:]}")
            time.sleep(LOOK_EVERY_SECONDS)

    def wait(self) -> None:
        """Its child ends with the mount."""
        assert self._process is not None
        self._process.communicate()


def floor(tree: Path, point: Path) -> System:
    """The do-nothing file system."""
    return Foreground("floor", point, [sys.executable, "-m", "bench_parts.floor", tree, point])


def unmount(point: Path) -> None:
    """Unmount; programs that just ended may keep it busy for a moment."""
    command = ["umount", str(point)] if os.geteuid() == 0 else ["fusermount3", "-u", str(point)]
    for _ in range(200):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        if not os.path.ismount(point):
            return
        time.sleep(LOOK_EVERY_SECONDS)
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run([*command, "-l" if os.geteuid() == 0 else "-z"], capture_output=True, check=True)
