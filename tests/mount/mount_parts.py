"""A real mount to test with: made and mounted by the command line as users do it, watched, and checked."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from zoneinfo import ZoneInfo

import apsw

from archivefs import rebuilding
from archivefs.archive import Archive
from archivefs.catalog import trigrams
from archivefs.catalog.reader import Reader
from archivefs.catalog.rows import Entry
from archivefs.states import FINAL, Status
from archivefs.verify.findings import Severity
from archivefs.verify.verify import Scope, verify

ROOT = Path(__file__).parents[2]
CONVERTERS = Path(__file__).parent / "converters"
"""What the archives here have as their converters unless a test says otherwise."""
UTC = ZoneInfo("UTC")
QUICK: Mapping[str, Any] = {"settle_seconds": 0.1, "linger_seconds": 0.1}
POLL_SECONDS = 0.01
T = TypeVar("T")
Rows = dict[str, list[tuple[Any, ...]]]


def sha256(content: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def config(*tables: str, **top: Any) -> str:  # noqa: ANN401  whatever archive.toml may hold
    """An archive.toml for tests: no reserve, UTC, and these converters."""
    keys = {"schema_version": 1, "timezone": "UTC", "reserve": 0} | top
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()) + "".join(tables)


def converter(name: str, run: str = "", **keys: Any) -> str:  # noqa: ANN401  whatever the table may hold
    """The table of a converter that settles and leaves quickly unless it says otherwise."""
    keys = {**QUICK, **({"run": run} if run else {}), "path": ["converters"], **keys}
    return toml_table(f"converters.{name}", keys)


def toml_table(name: str, keys: Mapping[str, object]) -> str:
    """A table of archive.toml."""
    lines = [f"{key} = {_toml(value)}\n" for key, value in keys.items()]
    return f"[{name}]\n" + "".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def environment() -> dict[str, str]:
    """The environment in which a child finds this checkout's archivefs."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def command(*arguments: object) -> list[str]:
    """The ``archivefs`` command of this checkout."""
    return [sys.executable, "-m", "archivefs.cli.main", *map(_text, arguments)]


def _text(argument: object) -> str:
    return os.fsdecode(argument) if isinstance(argument, bytes) else str(argument)


def archivefs(
    *arguments: object,
    code: int | None = 0,
    text: str = "",
    under: Sequence[str] = (),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command; it must end with ``code`` (None: with any), its output is text."""
    done = subprocess.run(
        [*under, *command(*arguments)],
        capture_output=True, env=environment() | variables, input=text, encoding="utf-8",
        errors="surrogateescape", timeout=60, check=False,
    )  # fmt: skip
    if code is not None:
        assert done.returncode == code, f"exit code {done.returncode}, not {code}: {done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run(*arguments: object, code: int | None = 0, **more: Any) -> str:  # noqa: ANN401  of subprocess
    """Run any program; it must end with ``code`` (None: with any). Returns what it printed."""
    done = subprocess.run(
        list(map(_text, arguments)),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="surrogateescape",
        timeout=60, check=False, **more,
    )  # fmt: skip
    if code is not None:
        assert done.returncode == code, f"{arguments[0]}: exit code {done.returncode}: {done.stdout}"
    return done.stdout


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; none where it is gone."""
    try:
        return sorted(each.name for each in directory.iterdir())
    except FileNotFoundError:
        return []


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def poll(
    what: str, condition: Callable[[], T], seconds: float = 10, alive: Callable[[], bool] | None = None
) -> T:
    """Ask until the answer is true, and return it; fails when time is up or ``alive`` is no longer true."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert alive is None or alive(), f"the daemon died while waiting for {what}"
        assert time.monotonic() < deadline, f"no {what} within {seconds} seconds"
        time.sleep(POLL_SECONDS)


def mount_line(path: Path) -> str:
    """The line of mountinfo for what is mounted exactly there, dead or alive; '' for nothing."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").split("\n")[:-1]:
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if place == str(path):
            return line
    return ""


def catalog_rows(root: Path) -> Rows:
    """Every row of every table, sorted by all columns; of a full-text index what it finds."""
    db = apsw.Connection(str(root / rebuilding.CATALOG), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = [table for table in sorted(tables) if "_trigrams" not in table]
        found = {index.table: list(trigrams.contents(db, index)) for index in trigrams.INDEXES}
        return found | {table: sorted(db.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
    finally:
        db.close()


class Mounted:
    """An archive and its mount.

    A test announces in ``expected_log`` parts of the errors it puts into the log, and in ``damaged`` the ids
    of the entries whose bytes it spoils.
    """

    def __init__(self, folder: Path, toml: str, converters: Path, expected_log: Sequence[str]) -> None:
        self.root = folder / "archive"
        self.point = folder / "mnt"
        self.expected_log = list(expected_log)
        self.pid = 0
        self.killed = False
        self.damaged: set[str] = set()
        file = folder / "given.toml"
        file.write_text(toml)
        archivefs("init", self.root, "--config", file)
        shutil.copytree(converters, self.root / "converters", dirs_exist_ok=True)
        run("chmod", "-R", "a+rx", self.root / "converters")
        self.point.mkdir()

    # -- its life --------------------------------------------------------------------------------------

    def mount(self, *options: str) -> Self:
        """Mount as a daemon."""
        archivefs("mount", *options, self.root, self.point)
        self.pid = json.loads((self.root / "lock").read_bytes())["pid"]
        return self

    def umount(self) -> None:
        """Unmount; returns when the daemon is gone."""
        archivefs("umount", self.point)
        self.wait_for_end()

    def remount(self, *options: str) -> None:
        """Unmount and mount again."""
        self.umount()
        self.mount(*options)

    def kill(self) -> None:
        """End the daemon as a crash does; returns when the dead mount that stays is seen to be dead."""
        self.killed = True
        self.signal(signal.SIGKILL)
        poll("dead mount", self._is_dead)

    def _is_dead(self) -> bool:
        try:
            self.point.stat()
        except OSError as error:
            return error.errno == errno.ENOTCONN
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end that it causes."""
        os.kill(self.pid, number)
        self.wait_for_end()

    def wait_for_end(self) -> None:
        """Wait until the daemon is gone."""
        poll("end of the daemon", lambda: not is_running(self.pid), 20)

    def is_alive(self) -> bool:
        """Whether the daemon runs."""
        return is_running(self.pid)

    def take_down(self) -> None:
        """Leave no mount, daemon or worker behind, whatever state a test left them in."""
        try:
            if mount_line(self.point):
                archivefs("umount", *(["--lazy"] if self.killed else []), self.point, code=None)
            while mount_line(self.point):
                run(*(["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]), self.point)
            if self.pid:
                self.wait_for_end()
                poll("end of the workers", lambda: not self.workers(), 10)
        finally:
            for pid in [self.pid, *self.workers()]:
                if pid and is_running(pid):
                    os.kill(pid, signal.SIGKILL)

    def workers(self) -> list[int]:
        """The archive's workers and what those started: they name its folder, or run in it."""
        work, found = str(self.root / "staging" / "work"), []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                here = os.fsencode(work) in command or str((process / "cwd").readlink()).startswith(work)
            except OSError:
                continue
            if here and is_running(int(process.name)):
                found.append(int(process.name))
        return found

    # -- what is in it ---------------------------------------------------------------------------------

    @property
    def inbox(self) -> Path:
        """Where programs save."""
        return self.point / "inbox"

    def wait_for(self, what: str, condition: Callable[[], T], seconds: float = 10) -> T:
        """Ask until the answer is true; fails when time is up or the daemon is gone."""
        return poll(what, condition, seconds, self.is_alive)

    def entries(self, name: str | bytes | None = None) -> list[Entry]:
        """All entries (of that name), oldest first; asked of the catalog, not of the mount."""
        reader = Reader.open(self.root / rebuilding.CATALOG)
        try:
            rows = reader.all_after(0, 10**6)
        finally:
            reader.close()
        return [row for row in rows if name is None or row.name == os.fsencode(name)]

    def live(self, name: str | bytes | None = None) -> list[Entry]:
        """The entries that no later version replaced."""
        return [row for row in self.entries(name) if row.status != "superseded"]

    def only(self, name: str | bytes) -> Entry:
        """The one entry of that name that was not replaced."""
        (row,) = self.live(name)
        return row

    def wait_for_status(self, name: str | bytes, status: str, seconds: float = 15) -> Entry:
        """Wait until the newest entry of that name has that status, and return it.

        Fails at once where it came to another end.
        """

        def reached() -> Entry | None:
            rows = self.live(name)
            if not rows or rows[-1].status == status:
                return rows[-1] if rows else None
            assert rows[-1].status not in FINAL, f"{name!r} is {rows[-1].status}, not {status}"
            return None

        return self.wait_for(f"{name!r} being {status}", reached, seconds)

    def drop(self, converter: str, name: str | bytes, content: bytes = b"measured") -> bytes:
        """Save a file into the inbox; returns its path."""
        path = os.fsencode(self.inbox / converter) + b"/" + os.fsencode(name)
        with open(path, "wb") as file:  # noqa: PTH123  names are bytes
            file.write(content)
        return path

    def entry_dir(self, entry: Entry) -> Path:
        """Its directory by id."""
        return self.point / "by-id" / entry.id

    def places(self, entry: Entry, status: str) -> list[bytes]:
        """The paths at which an entry of that status is shown: directories, and last its source."""
        name = os.fsdecode(entry.label(UTC))
        kind, day = self.converter_name(entry), entry.day_text
        paths = (
            f"by-converter/{kind}/{day}/{status}/{name}",
            f"by-date/{day.replace('-', '/')}/{kind}/{status}/{name}",
            f"by-status/{status}/{kind}/{day}/{name}",
            f"sources/{kind}/{day}/{status}/{os.fsdecode(entry.flat_name)}",
        )
        return [os.fsencode(self.point / path) for path in paths]

    def converter_name(self, entry: Entry) -> str:
        """The converter whose inbox the entry came from."""
        reader = Reader.open(self.root / rebuilding.CATALOG)
        try:
            return reader.converter_name(entry.converter_id)
        finally:
            reader.close()

    def content(self, entry: Entry) -> bytes:
        """The bytes of its source, read through the mount."""
        return (self.entry_dir(entry) / os.fsdecode(entry.name)).read_bytes()

    def facts(self, entry: Entry) -> dict[str, Any]:
        """Its entry.json, read through the mount."""
        facts: dict[str, Any] = json.loads((self.entry_dir(entry) / "entry.json").read_bytes())
        return facts

    def report(self, entry: Entry, name: str = "report.json") -> Any:  # noqa: ANN401  any JSON
        """One of its reports, read through the mount."""
        return json.loads((self.entry_dir(entry) / name).read_bytes())

    def error(self, entry: Entry) -> str:
        """Its error.txt, read through the mount."""
        return (self.entry_dir(entry) / "error.txt").read_text()

    def attempt(self, entry: Entry, number: int = 1) -> dict[str, Any]:
        """The attempt.json of one of its attempts, read through the mount."""
        file = self.entry_dir(entry) / "attempts" / str(number) / "attempt.json"
        facts: dict[str, Any] = json.loads(file.read_bytes())
        return facts

    # -- afterwards ------------------------------------------------------------------------------------

    def log(self) -> str:
        """All that the daemons wrote."""
        file = self.root / "archivefs.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def check(self) -> None:
        """After the end: nothing unexpected in the log, a catalog equal to the journal, whole sources."""
        records = re.split(r"(?m)^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} )", self.log())
        bad = [each for each in records if re.search(r"\A\S+ \S+ (ERROR|CRITICAL) |^Traceback", each, re.M)]
        unexpected = [each for each in bad if not any(part in each for part in self.expected_log)]
        assert not unexpected, "in the log of the daemon:\n" + "".join(unexpected)
        if self.killed or not (self.root / rebuilding.CATALOG).exists():
            Archive(self.root).close()
        kept = catalog_rows(self.root)
        rebuilding.rebuild(self.root)
        made = catalog_rows(self.root)
        for table in kept.keys() | made.keys():
            assert kept.get(table) == made.get(table), f"rebuild makes another table {table}"
        with Archive(self.root) as archive:
            findings = verify(archive, Scope()).findings
            bad_ones = [each for each in findings if each.severity > Severity.NOTICE]
            assert self.damaged or bad_ones == []
            for row in archive.reader.all_after(0, 10**6):
                if row.id in self.damaged or row.status is Status.PURGED:
                    continue
                assert archive.content.sha256(archive.reader.location(row), row.size) == row.sha256, row.id


@contextmanager
def an_archive(
    folder: Path,
    toml: str,
    *,
    options: Sequence[str] = (),
    converters: Path = CONVERTERS,
    mount: bool = True,
    expected_log: Sequence[str] = (),
) -> Iterator[Mounted]:
    """An archive in ``folder``, mounted unless ``mount`` is false; checked after a test that succeeded."""
    archive = Mounted(folder, toml, converters, expected_log)
    try:
        if mount:
            archive.mount(*options)
        yield archive
    finally:
        archive.take_down()
    archive.check()


Make = Callable[..., Mounted]
"""The type of the fixture ``mounted``: makes archives; the arguments are those of ``an_archive``."""
