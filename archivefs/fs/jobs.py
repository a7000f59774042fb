"""The folder jobs/: each long piece of work as a folder, with how far it is, and a file to steer it with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from archivefs import describe
from archivefs.archive import Archive
from archivefs.catalog.jobs import JobRow
from archivefs.fs.control import Control, ControlFile
from archivefs.fs.inodes import Fixed, job_ino, job_parts
from archivefs.fs.node import (
    BRIEFLY,
    DIR_MODE,
    FILE_MODE,
    Attributes,
    Directory,
    File,
    Handle,
    Listed,
    Node,
    Text,
)
from archivefs.jobs import job as jobs
from archivefs.jobs.engine import Engine
from archivefs.jobs.job import Progress
from archivefs.states import JobState

JOB_JSON, PROGRESS, CONTROL = "job.json", "progress", "control"
KEPT = ("errors.jsonl", "result.json", "comparison.json", "comparison.html")
"""What a job may have written into its folder of the archive."""
NAMES = (JOB_JSON, PROGRESS, CONTROL, *KEPT)
"""By the slot of their inode numbers, from 1."""
LOOK_SECONDS = 0.25
"""Between two looks at a progress that somebody polls."""


class JobsTree:
    """Makes the nodes of jobs/."""

    def __init__(self, archive: Archive, engine: Engine, control: Control) -> None:
        self.archive = archive
        self.engine = engine
        self._control = control
        self._watched: dict[ProgressHandle, Callable[[], None]] = {}
        self._wanted = trio.Event()

    def node(self, ino: int) -> Node:
        """What a number stands for. Raises ``JobError``."""
        if ino == Fixed.JOBS:
            return JobsDir(self)
        number, slot = job_parts(ino)
        row = jobs.get(self.archive, number)
        return self.file(row, NAMES[slot - 1]) if slot else JobDir(self, row)

    def file(self, row: JobRow, name: str) -> Node:
        """A file of a job. Raises ``JobError``."""
        ino, when = job_ino(row.job, NAMES.index(name) + 1), self.when(row)
        progress = self._progress(row)
        if name == JOB_JSON:
            return Live(ino, lambda: describe.as_file(jobs.describe(row, progress)), when)
        if name == PROGRESS:
            return ProgressFile(ino, self, row.job, when)
        if name == CONTROL:
            return ControlFile(self._control, ino, f"job {row.job}", when)
        return Kept(ino, self.archive.root / jobs.FOLDER / str(row.job) / name)

    def names(self, row: JobRow) -> list[str]:
        """The files that a job has."""
        folder = self.archive.root / jobs.FOLDER / str(row.job)
        return [name for name in NAMES if name not in KEPT or (folder / name).exists()]

    @staticmethod
    def when(row: JobRow) -> int:
        """When a job changed last, in nanoseconds."""
        return max(row.created_ms, row.started_ms, row.ended_ms) * 10**6

    def line(self, number: int) -> bytes:
        """How far a job is now. Raises ``JobError``."""
        row = jobs.get(self.archive, number)
        return jobs.progress_line(row, self._progress(row)).encode()

    def _progress(self, row: JobRow) -> Progress | None:
        """Of a job that runs; what it came to stands in its row."""
        return self.engine.progress(row.job) if row.state == JobState.RUNNING else None

    def watch(self, handle: "ProgressHandle", wake: Callable[[], None]) -> None:
        """Call ``wake`` once, when the line is another than the handle gave last."""
        self._watched[handle] = wake
        self._wanted.set()

    def forget(self, handle: "ProgressHandle") -> None:
        """The file was closed."""
        self._watched.pop(handle, None)

    async def run(self) -> None:
        """Look at what is watched now and then, until cancelled; at nothing while nothing is."""
        while True:
            self._wanted = trio.Event()
            if not self._watched:
                await self._wanted.wait()
            await trio.sleep(LOOK_SECONDS)
            for handle, wake in list(self._watched.items()):
                if handle.has_news():
                    del self._watched[handle]
                    wake()


class JobsDir(Directory):
    """jobs/."""

    ino = int(Fixed.JOBS)

    def __init__(self, tree: JobsTree) -> None:
        self._tree = tree

    def attributes(self) -> Attributes:
        """Dated by the last job."""
        row = self._tree.archive.reader.jobs.get(self._tree.archive.reader.jobs.last())
        when = self._tree.when(row) if row else 0
        return Attributes(self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, attr_timeout=BRIEFLY)

    def lookup(self, name: bytes) -> Node | None:
        """A job by its number."""
        if not name.isdigit() or (name.startswith(b"0") and name != b"0") or len(name) > 9:
            return None
        row = self._tree.archive.reader.jobs.get(int(name))
        return JobDir(self._tree, row) if row else None

    def entries(self, after: int) -> Iterator[Listed]:
        """All jobs; the cookie is the number."""
        for row in self._tree.archive.reader.jobs.all():
            if row.job > after:
                yield row.job, str(row.job).encode(), JobDir(self._tree, row)


class JobDir(Directory):
    """jobs/N."""

    def __init__(self, tree: JobsTree, row: JobRow) -> None:
        self._tree = tree
        self._row = row
        self.ino = job_ino(row.job, 0)

    def attributes(self) -> Attributes:
        """Dated by its last change of state."""
        when = self._tree.when(self._row)
        return Attributes(self.ino, DIR_MODE, mtime_ns=when, ctime_ns=when, attr_timeout=BRIEFLY)

    def lookup(self, name: bytes) -> Node | None:
        """One of its files."""
        text = name.decode("ascii", "replace")
        return self._tree.file(self._row, text) if text in self._tree.names(self._row) else None

    def entries(self, after: int) -> Iterator[Listed]:
        """Its files; the cookie is the slot."""
        for name in self._tree.names(self._row):
            cookie = NAMES.index(name) + 1
            if cookie > after:
                yield cookie, name.encode(), self._tree.file(self._row, name)


class Live(File):
    """A file whose content is made anew for each open, and whose size is true at each stat."""

    def __init__(self, ino: int, content: Callable[[], bytes], changed_ns: int) -> None:
        self.ino = ino
        self._content = content
        self._changed_ns = changed_ns

    def attributes(self) -> Attributes:
        """Never cached by the kernel."""
        when = self._changed_ns
        return Attributes(
            self.ino, FILE_MODE, len(self._content()), 1, when, when, entry_timeout=BRIEFLY, attr_timeout=0
        )

    def open(self) -> Handle:
        """A snapshot."""
        return Text(self._content(), keep_cache=False)


class ProgressFile(Live):
    """jobs/N/progress: read again from its start, it is the line of then; poll(2) tells when to."""

    def __init__(self, ino: int, tree: JobsTree, number: int, changed_ns: int) -> None:
        super().__init__(ino, lambda: tree.line(number), changed_ns)
        self._tree = tree
        self._number = number

    def open(self) -> "ProgressHandle":
        """The line, which changes."""
        return ProgressHandle(self._tree, self._number)


class ProgressHandle(Handle):
    """An open ``progress``."""

    keep_cache = False

    def __init__(self, tree: JobsTree, number: int) -> None:
        self._tree = tree
        self._number = number
        self._given: bytes | None = None

    async def read(self, offset: int, size: int) -> bytes:
        """A part of the line; from the start on, as it is now."""
        if offset == 0 or self._given is None:
            self._given = self._tree.line(self._number)
        return self._given[offset : offset + size]

    def has_news(self) -> bool:
        """Whether the line is another than the one that was read."""
        return self._given != self._tree.line(self._number)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once when it is another."""
        self._tree.watch(self, wake)

    def close(self) -> None:
        """Wake nobody any more."""
        self._tree.forget(self)


class Kept(File):
    """A file that a job writes into its folder of the archive."""

    def __init__(self, ino: int, path: Path) -> None:
        self.ino = ino
        self._path = path

    def attributes(self) -> Attributes:
        """Those of the file. Raises ``OSError`` where it was removed."""
        facts = self._path.stat()
        return Attributes(
            self.ino, FILE_MODE, facts.st_size, facts.st_blocks, facts.st_mtime_ns, facts.st_ctime_ns,
            entry_timeout=BRIEFLY, attr_timeout=0,
        )  # fmt: skip

    def open(self) -> Handle:
        """Its bytes as they are now; there are at most some megabytes."""
        return Text(self._path.read_bytes(), keep_cache=False)
