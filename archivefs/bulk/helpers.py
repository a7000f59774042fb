"""Processes that read files: threads share one core for all but the compression, and are no faster than one.

A helper is started when there is enough to read. Where one dies, its files are read here instead.
"""

import contextlib
import logging
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Sequence
from typing import Self

from archivefs.background import own_process
from archivefs.bulk.read import How, Taken, Taker
from archivefs.bulk.walk import Found

log = logging.getLogger(__name__)

COUNT = min(os.cpu_count() or 1, 8)
"""Readers at the same time: more than eight are faster than one thread can commit."""
WORTH = 2000
"""Files after which helpers are started: one that starts takes the time of a thousand."""
PIPE_BYTES = 1 << 20
GONE = (OSError, EOFError, pickle.UnpicklingError)
"""What a pipe says whose other end has died."""


class _Helper:
    """A process that reads small files."""

    def __init__(self, how: How) -> None:
        """Start it. Raises ``OSError``."""
        command, environment = own_process("archivefs.bulk.helpers")
        self._process = subprocess.Popen(
            command, env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=PIPE_BYTES,
        )  # fmt: skip
        self._send(how)

    def take_all(self, chunk: Sequence[Found]) -> list[Taken]:
        """As ``Taker.take_all``, None for large files. Raises one of ``GONE``."""
        self._send(chunk)
        assert self._process.stdout is not None
        answer: list[Taken] | Exception = pickle.load(self._process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send(self, what: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(what, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def close(self) -> None:
        """Close its input, at which it ends, and wait for that."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Helpers:
    """Reads files in as many threads as call it, up to ``COUNT``, each with a helper of its own."""

    def __init__(self, how: How) -> None:
        """Start none yet. Raises ``CatalogError``."""
        self._how = how
        self._taker = Taker(how)
        self._seen = 0
        self._wanted = COUNT > 1
        self._idle: queue.SimpleQueue[_Helper | None] = queue.SimpleQueue()
        for _ in range(COUNT):
            self._idle.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """When no thread calls it any more."""
        for _slot in range(COUNT):
            helper = self._idle.get()
            if helper is not None:
                helper.close()
        self._taker.close()

    def take_all(self, chunk: Sequence[Found]) -> list[Taken]:
        """What came of each file, none left. Raises as ``Taker.take_all``."""
        helper = self._idle.get()
        try:
            made: list[Taken] = [None] * len(chunk)
            try:
                if helper is None and self._wanted and self._seen >= WORTH:
                    helper = _Helper(self._how)
                if helper is not None:
                    made = helper.take_all(chunk)
            except GONE as error:
                log.warning("a process that reads files is gone, going on without: %r", error)
                self._wanted = False
                if helper is not None:
                    helper.close()
                    helper = None
        finally:
            self._idle.put(helper)
        self._seen += len(chunk)
        mine = self._taker.take_all([found for found, each in zip(chunk, made, strict=True) if each is None])
        return [mine.pop(0) if each is None else each for each in made]


def main() -> None:
    """Read what stdin says until that ends, and write what came of it to stdout."""
    with contextlib.suppress(EOFError, BrokenPipeError):
        taker = Taker(pickle.load(sys.stdin.buffer), large=False)
        while True:
            answer: list[Taken] | Exception
            chunk = pickle.load(sys.stdin.buffer)
            try:
                answer = taker.take_all(chunk)
            except Exception as error:
                answer = error
            pickle.dump(answer, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
