"""How the processors share a verification: threads, each with a helper process once there is enough to read.

Small records cost more Python than decompression and hashing, so threads alone would share one processor.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from archivefs import helper
from archivefs.archive import Archive
from archivefs.background import give_way
from archivefs.helper import PATIENCE_SECONDS
from archivefs.rebuilding import CATALOG
from archivefs.store.dictionaries import Dictionaries
from archivefs.verify import journal
from archivefs.verify.contents import Chunk, SegmentResult, check_chunk
from archivefs.verify.findings import Finding

WORTH = 10_000
"""Events of a journal from which on helpers are started: one that starts takes the time of 5 000."""
LEAST_EVENTS, LEAST_BYTES = 500, 1_000_000
"""Events, and bytes of content, that a helper does in a second even where everything is slow."""
JournalResult = tuple[int, list[Finding]]


class Readers:
    """Checks journal and segments at the same time, with as many threads as there are processors.

    ``background``: with one thread and no helper, at the lowest priority.
    """

    def __init__(self, archive: Archive, *, background: bool) -> None:
        """Start nothing yet."""
        self._archive = archive
        self._count = 1 if background else os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._count, initializer=give_way if background else None)
        self._helpers = helper.Helpers("archivefs.verify.readers", archive.root)
        self._events = archive.reader.changed_seq()
        self._wanted = not background and self._events >= WORTH

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End everything; what is left to do where an error or an interruption ends it is given up."""
        with self._helpers:
            if kind is not None:
                self._helpers.stop()
            self._threads.shutdown(cancel_futures=True)

    def journal(self) -> Future[JournalResult]:
        """Begin with the journal, and the catalog against it (``journal.check``)."""
        return self._threads.submit(self._journal)

    def chunks(self, chunks: Iterable[Chunk]) -> Iterator[SegmentResult]:
        """Check stretches of segments; they are taken as work gets done, so not all are in memory."""
        waiting: deque[Future[SegmentResult]] = deque()
        for chunk in chunks:
            waiting.append(self._threads.submit(self._chunk, chunk))
            if len(waiting) > 2 * self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _journal(self) -> JournalResult:
        root = self._archive.root
        answer: JournalResult | None = None
        if self._wanted:
            answer = self._helpers.ask(None, PATIENCE_SECONDS + self._events / LEAST_EVENTS)
        return journal.check(root, root / CATALOG) if answer is None else answer

    def _chunk(self, chunk: Chunk) -> SegmentResult:
        answer: SegmentResult | None = None
        if self._wanted:
            size = sum(record.size for record in chunk.records)
            answer = self._helpers.ask(chunk, PATIENCE_SECONDS + size / LEAST_BYTES)
        dictionaries = self._archive.content.dictionaries
        return check_chunk(self._archive.root, chunk, dictionaries) if answer is None else answer


def _checking(root: Path) -> Callable[[Chunk | None], SegmentResult | JournalResult]:
    with Archive.open_as_it_is(root) as archive:
        dictionaries: Dictionaries = archive.content.dictionaries

    def check(chunk: Chunk | None) -> SegmentResult | JournalResult:
        if chunk is None:
            return journal.check(root, root / CATALOG)
        return check_chunk(root, chunk, dictionaries)

    return check


if __name__ == "__main__":
    helper.serve(_checking)
