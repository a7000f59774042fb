"""Many files into an archive that this process holds: read ahead by threads, committed in large groups.

Memory does not grow with the number of files. What the archive has already can be passed over, so that an
import which was stopped anywhere can be run again.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

from archivefs.archive import Archive
from archivefs.bulk.helpers import COUNT, Helpers
from archivefs.bulk.read import How, Source, Taken
from archivefs.bulk.walk import Found, LeftOut, Why
from archivefs.errors import ArchiveError
from archivefs.operations import Capture, Receipt
from archivefs.packing import SOURCES
from archivefs.parts import Actor
from archivefs.rebuilding import CATALOG
from archivefs.store.frames import Encoded

GROUP = 1000
"""Most files in one commit: they share its two syncs, and after a stop they are read again."""
GROUP_BYTES = 32 << 20
"""A commit is full with so many compressed bytes."""
EVENT_BYTES = 2 << 20
"""A commit is full with so much journal: half of what recovery looks through (journal.TAIL_BYTES)."""
CHUNK, CHUNK_BYTES = 64, 1 << 20
"""A reader gets so many files at once, or as few as have that many bytes together."""
AHEAD, AHEAD_BYTES = 2 * COUNT + 2, 64 << 20
"""So many chunks are read while those before them wait for their commit; of large files only the next one."""


@dataclass
class Tally:
    """What came of the files. ``files`` were archived, ``bytes`` before and ``stored`` after compression.

    The others count what was left out, and why.
    """

    files: int = 0
    bytes: int = 0
    stored: int = 0
    known: int = 0
    junk: int = 0
    link: int = 0
    special: int = 0
    failed: int = 0

    def leave_out(self, why: Why) -> None:
        """Count something that is not archived."""
        setattr(self, why, getattr(self, why) + 1)


class Manner(NamedTuple):
    """How files are taken into the archive.

    ``imported``: they are not converted by themselves. ``again``: those too that an entry of this converter
    has already, with the same folder, name, mtime and content. ``dry_run``: everything but the capture.
    """

    converter: str
    actor: Actor | None = None
    imported: bool = False
    again: bool = True
    dry_run: bool = False


@dataclass
class _Group:
    """Files that are committed together."""

    files: list[tuple[Found, Source]] = field(default_factory=list)
    stored: int = 0
    events: int = 0

    def add(self, found: Found, source: Source, content: Encoded) -> None:
        self.files.append((found, source))
        self.stored += content.stored
        # A byte of a name takes at most 8 in JSON: escaped, and once more in hexadecimal.
        names = 8 * (len(found.folder) + len(found.name))
        self.events += 1000 + names + sum(map(len, [*source.xattrs, *source.xattrs.values()]))

    @property
    def is_full(self) -> bool:
        return len(self.files) >= GROUP or self.stored >= GROUP_BYTES or self.events >= EVENT_BYTES

    def close(self) -> None:
        for _, source in self.files:
            source.close()


def _nobody(*_: object) -> None:
    """Is told."""


class Bulk:
    """Captures what it is given, in one run or several; ``tally`` grows with each commit."""

    _committer: ThreadPoolExecutor

    def __init__(
        self,
        archive: Archive,
        manner: Manner,
        on_captured: Callable[[Found, Receipt], None] = _nobody,
        on_left_out: Callable[[LeftOut], None] = _nobody,
    ) -> None:
        """Both functions are called in the thread of ``run``, of a capture when it is durable."""
        self.tally = Tally()
        self._archive = archive
        self._manner = manner
        self._on_captured = on_captured
        self._on_left_out = on_left_out
        self._group = _Group()
        self._committing: tuple[_Group, Future[list[Receipt | Exception]]] | None = None

    def run(self, things: Iterable[Found | LeftOut]) -> Tally:
        """Archive the files, count the others. A file that cannot be read is left out, and the rest goes on.

        To be called once. Raises ``NoSpaceError``, ``CaptureFailedError``, ``ReadOnlyError`` where the
        archive takes no more; what was committed before stays. An interrupt ends it when the commit under way
        is done.
        """
        self._committer = ThreadPoolExecutor(1)
        ahead: deque[_Chunk] = deque()
        size = 0
        with self._committer, Helpers(self._how()) as helpers, ThreadPoolExecutor(COUNT) as readers:
            try:
                for files in _portions(self._files(things)):
                    if files[-1].size > AHEAD_BYTES and not self._manner.dry_run:
                        self._archive.require_space()  # it is spooled on the archive's disk
                    ahead.append(_Chunk(files, readers.submit(helpers.take_all, files)))
                    size += ahead[-1].size
                    while len(ahead) > AHEAD or (size > AHEAD_BYTES and len(ahead) > 1):
                        size -= ahead[0].size
                        self._gather(ahead.popleft())
                while ahead:
                    self._gather(ahead.popleft())
                self._commit()
                self._settle()
            finally:
                self._give_up()
                readers.shutdown(cancel_futures=True)
                for chunk in ahead:
                    chunk.close()
        return self.tally

    def _how(self) -> How:
        archive, manner = self._archive, self._manner
        level = archive.converter_config(manner.converter).compression_level
        asked = not manner.again and archive.reader.converter_id(manner.converter) is not None
        catalog = str(archive.root / CATALOG) if asked else ""
        dictionary = None if manner.dry_run else archive.packing.dictionary(manner.converter, SOURCES)
        return How(
            manner.converter, level, dictionary.name if dictionary else "", archive.root / "dictionaries",
            archive.root / "staging", manner.dry_run, catalog,
        )  # fmt: skip

    def _files(self, things: Iterable[Found | LeftOut]) -> Iterator[Found]:
        for each in things:
            if isinstance(each, Found):
                yield each
            else:
                self._leave_out(each)

    def _leave_out(self, what: LeftOut) -> None:
        self.tally.leave_out(what.why)
        self._on_left_out(what)

    def _gather(self, chunk: "_Chunk") -> None:
        """Put what was read into the group, and commit that when it is full."""
        for found, each in zip(chunk.files, chunk.reading.result(), strict=True):
            if isinstance(each, LeftOut):
                self._leave_out(each)
            elif each is not None and each.content is not None:
                self._group.add(found, each, each.content)
                if self._group.is_full:
                    self._commit()
            elif each is not None:
                self.tally.files += 1
                self.tally.bytes += each.size

    # -- committing ------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Hand the group to the committing thread, when the one before is done.

        In this thread an interrupt could come in the middle of a commit.
        """
        self._settle()
        group, self._group = self._group, _Group()
        if group.files:
            operations = [self._operation(*each) for each in group.files]
            self._committing = group, self._committer.submit(self._commit_now, operations)

    def _commit_now(self, operations: list[Capture]) -> list[Receipt | Exception]:
        self._archive.require_space()
        return self._archive.commit(operations)[0]

    def _operation(self, found: Found, source: Source) -> Capture:
        assert source.content is not None
        return Capture(
            converter=self._manner.converter, name=found.name, folder=found.folder, content=source.content,
            mtime_ns=source.mtime_ns, mode=source.mode, uid=source.uid, gid=source.gid,
            xattrs=source.xattrs, imported=self._manner.imported, actor=self._manner.actor,
        )  # fmt: skip

    def _settle(self) -> None:
        """Wait for the commit under way and tell what came of it. Raises what kept a file out."""
        if self._committing is None:
            return
        group, future = self._committing
        wait([future])  # interrupted here, it is waited for again
        self._committing = None
        failed: Exception | None = None
        try:
            for (found, source), outcome in zip(group.files, future.result(), strict=True):
                if isinstance(outcome, Exception):
                    failed = failed or outcome
                    continue
                self.tally.files += 1
                self.tally.bytes += source.size
                self.tally.stored += source.content.stored if source.content else 0
                self._on_captured(found, outcome)
        finally:
            group.close()
        if failed is not None:
            raise failed

    def _give_up(self) -> None:
        """However it ends: nothing is on its way into the archive any more, and no content is held."""
        while self._committing is not None:
            with contextlib.suppress(KeyboardInterrupt, ArchiveError):
                self._settle()
        self._group.close()


class _Chunk(NamedTuple):
    """Files that a thread reads, or has read."""

    files: list[Found]
    reading: Future[list[Taken]]

    @property
    def size(self) -> int:
        return sum(found.size for found in self.files)

    def close(self) -> None:
        """Free what was read in vain."""
        if not self.reading.cancelled() and self.reading.exception() is None:
            for each in self.reading.result():
                if isinstance(each, Source):
                    each.close()


def _portions(files: Iterable[Found]) -> Iterator[list[Found]]:
    """What a thread gets at once."""
    chunk: list[Found] = []
    size = 0
    for each in files:
        chunk.append(each)
        size += each.size
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
