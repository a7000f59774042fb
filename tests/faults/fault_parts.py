"""What the fault tests share: an archive to maltreat, strace as a saboteur, and the numbers they report."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from ledger import Ledger
from mount_parts import Mounted, archivefs, config, converter, poll, run

from archivefs.archive import Archive
from archivefs.verify.findings import Report, Severity
from archivefs.verify.verify import Scope, verify

LOG_VARIABLE = "ARCHIVEFS_FAULTS_LOG"
HANG_SECONDS = 3.0
"""A killed process is gone within milliseconds; what is there after this time waits for ever."""
CONVERT = 'def convert(path, arguments):\n    return {"size": len(open(path, "rb").read())}\n'
FILES = converter("files", settle_seconds=0, linger_seconds=0.05)
OTHER = converter("other", settle_seconds=0, linger_seconds=0.05)
ICT = converter("ict", "function:conv:convert", settle_seconds=0, linger_seconds=0.05)
_control: list[Path] = []
TOML = config(FILES, OTHER, ICT)
MODULES = {"conv.py": CONVERT}


def missing(what: str) -> NoReturn:
    """What the machine lacks: skips here, fails in CI."""
    if "CI" in os.environ:
        pytest.fail(what)
    pytest.skip(what)


def require_tools(*names: str) -> None:
    """Skip (in CI: fail) unless these programs are installed."""
    for name in names:
        if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            missing(f"the program {name} is not installed")


def say(family: str, **numbers: float | str) -> None:
    """The numbers of a family: printed, and a line of JSON in the file that ARCHIVEFS_FAULTS_LOG names."""
    print(f"\n{family}: " + ", ".join(f"{value} {key}" for key, value in numbers.items()))
    file = os.environ.get(LOG_VARIABLE)
    if file:
        with Path(file).open("a") as out:
            out.write(json.dumps({"family": family, **numbers}) + "\n")


def pause(seconds: float) -> None:
    """Let the others run for a chosen time: the moment of a fault is random, nothing is waited for."""
    threading.Event().wait(seconds)


def is_mountpoint(path: Path) -> bool:
    """Whether something is mounted exactly there, dead or alive; the mount itself is not asked."""
    wanted = str(path).replace("\\", "\\134").replace(" ", "\\040")
    mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return any(line.split(" ")[4] == wanted for line in mounts)


class Station(Mounted):
    """An archive and its mountpoint; ``root`` may lie on another disk than the mountpoint."""

    def __init__(
        self,
        folder: Path,
        toml: str = TOML,
        modules: Mapping[str, str] = MODULES,
        *,
        root: Path | None = None,
    ) -> None:
        self.root = root or folder / "archive"
        self.point = folder / "mnt"
        self.expected_log: list[str] = []
        self.pid = 0
        self.killed = False
        self.hangs = 0
        self.hung_in = ""
        self.connection = 0
        file = folder / "given.toml"
        file.write_text(toml)
        archivefs("init", self.root, "--config", file)
        for name, code in modules.items():
            (self.root / "converters" / name).write_text(code)
        self.point.mkdir()
        self.log_file = folder / "daemon.log"

    def mount(self, *options: str) -> "Station":
        """Mount as a daemon that logs beside the archive, so that a dead disk does not take the log along."""
        archivefs("mount", "--log-file", self.log_file, *options, self.root, self.point)
        self.pid = json.loads((self.root / "lock").read_bytes())["pid"]
        self.connection = os.minor(self.point.stat().st_dev)
        return self

    def log(self) -> str:
        """All that the daemons wrote."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def kill(self) -> None:
        """End the daemon as a crash does, and take the dead mount away.

        A thread of it that waits in the kernel for ever would keep archive and mount: that is counted in
        ``hangs``, and resolved by aborting the connection, so that the test can go on to its other questions.
        """
        assert self.is_alive(), f"the mount had died before it was killed: {self.log()[-3000:]}"
        self.killed = True
        os.kill(self.pid, signal.SIGKILL)
        self.bury()

    def bury(self, seconds: float = HANG_SECONDS) -> None:
        """Wait until nothing is left of a daemon that was killed, by force where needed; unmount."""
        try:
            poll("end of all threads of the daemon", lambda: threads(self.pid) == 0, seconds)
        except AssertionError:
            self.hangs += 1
            self.hung_in = waits(self.pid)
            abort(self.connection)
            poll("end of the daemon after an abort", lambda: threads(self.pid) == 0, 20)
        while is_mountpoint(self.point):
            run("umount", "-l", self.point, code=None)

    def take_down(self) -> None:
        """Leave nothing behind, whatever state a test left it in."""
        if self.pid and threads(self.pid):
            os.kill(self.pid, signal.SIGKILL)
            self.bury()
        while is_mountpoint(self.point):
            run("umount", "-l", self.point, code=None)
        super().take_down()

    def unexpected(self, *expected: str) -> list[str]:
        """Errors and tracebacks in the log that hold none of these words."""
        records = re.split(r"(?m)^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} )", self.log())
        bad = [each for each in records if re.search(r"\A\S+ \S+ (ERROR|CRITICAL) |^Traceback", each, re.M)]
        return [each for each in bad if not any(part in each for part in (*expected, *self.expected_log))]

    def write(self, name: str, content: bytes, folder: str = "files") -> None:
        """Save a file into the inbox with one write; raises the errno of open, write or close."""
        fd = os.open(self.inbox / folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
        except BaseException:
            close_anyhow(fd)
            raise
        os.close(fd)

    def examine(self, ledger: Ledger, *, allowed: Sequence[str] = ()) -> Report:
        """Open as the next command would, verify everything, and compare with what was promised."""
        with Archive(self.root) as archive:
            report = verify(archive, Scope())
            bad = [each for each in report.findings if each.severity > Severity.NOTICE]
            assert [each for each in bad if each.check not in allowed] == []
            ledger.compare(archive)
        return report


def threads(pid: int) -> int:
    """How many threads of a process are left; a zombie that waits for its parent has none."""
    count = 0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        count += state not in "ZX"
    return count


def waits(pid: int) -> str:
    """Where in the kernel the threads of a process wait; for messages."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            stack = [line.split()[-1].partition("+")[0] for line in (task / "stack").read_text().splitlines()]
            found.append(f"{state}: {' < '.join(stack[:4])}")
    return "; ".join(found)


@contextmanager
def connections(folder: Path) -> Iterator[None]:
    """The kernel's list of FUSE connections, for ``abort``."""
    run("mount", "-t", "fusectl", "none", folder)
    _control.append(folder)
    try:
        yield
    finally:
        _control.pop()
        run("umount", folder)


def abort(connection: int) -> None:
    """End a FUSE connection from the kernel's side, as an administrator can.

    Starts no process: a child would close its copies of our files on a mount that does not answer.
    """
    with contextlib.suppress(FileNotFoundError):
        (_control[-1] / str(connection) / "abort").write_text("1")


def close_anyhow(fd: int) -> None:
    """Close; an error that closing reports is not the one that is looked for."""
    with contextlib.suppress(OSError):
        os.close(fd)


@contextmanager
def sabotage(pid: int, *inject: str, paths: Sequence[Path] = ()) -> Iterator[list[str]]:
    """Attach strace to a process with these ``--inject`` rules, for calls on ``paths`` only where given.

    The rules are in force when the block begins; at its end strace lets go. ``when=`` counts by thread.
    Gives a list that at the end holds the calls that were made to fail: a fault that never came proves
    nothing.
    """
    require_tools("strace")
    with Path(f"/tmp/strace-{pid}-{os.getpid()}.err").open("w+") as said:
        Path(said.name).unlink()
        failed: list[str] = []
        trace = Path(f"/tmp/strace-{pid}-{os.getpid()}.out")
        command = ["strace", "-f", "-o", str(trace), "-p", str(pid)]
        calls = {name for rule in inject for name in rule.split(":")[0].split(",")}
        command += ["-e", f"trace={','.join(sorted(calls))}"]
        for rule in inject:
            command += ["-e", f"inject={rule}"]
        for path in paths:
            command += ["-P", str(path)]
        tracer = subprocess.Popen(command, stderr=said, stdin=subprocess.DEVNULL)

        def attached() -> bool:
            said.seek(0)
            text = said.read()
            assert "attached" in text or tracer.poll() is None, f"strace ended: {text}"
            return "attached" in text

        poll("an attached strace", attached, 20)
        try:
            yield failed
        finally:
            if tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
            try:
                tracer.wait(20)
            except subprocess.TimeoutExpired:
                tracer.kill()
                tracer.wait()
            lines = trace.read_text(errors="replace").splitlines()
            failed += [line for line in lines if "(INJECTED)" in line]
            trace.unlink()


@contextmanager
def writers(station: Station, folder: Path, count: int, kinds: str = "files,other,ict") -> Iterator[Ledger]:
    """Processes that save files until the block ends; the ledger knows what each was promised."""
    script = Path(__file__).parent / "writer.py"
    ledger = Ledger()
    crowd = []
    try:
        for number in range(count):
            log = folder / f"writer {number}.jsonl"
            ledger.follow(log)
            command = [sys.executable, str(script), str(station.inbox), str(log), str(number), kinds]
            crowd.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        yield ledger
        assert [each.poll() for each in crowd] == [None] * count, "a writer died"
    finally:
        for each in crowd:
            each.kill()
        for each in crowd:
            each.wait()
            if each.stdin is not None:
                each.stdin.close()


@contextmanager
def walkers(point: Path, count: int) -> Iterator[None]:
    """Processes that list every folder of the mount again and again, also while it is dead."""
    loop = 'while :; do find "$0" -path "$0/inbox" -prune -o -print >/dev/null 2>&1; sleep 0.01; done'
    crowd = [subprocess.Popen(["sh", "-c", loop, str(point)], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for each in crowd:
            os.killpg(each.pid, signal.SIGKILL)
        for each in crowd:
            each.wait()


def deadline(seconds: float) -> float:
    """The monotonic time by which something must have happened."""
    return time.monotonic() + seconds
