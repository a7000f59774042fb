"""Which process reads a file: helpers, once there are enough to read; where one dies, this one."""

import functools
from collections.abc import Sequence
from typing import Self

from archivefs import helper
from archivefs.bulk.read import How, Taken, Taker
from archivefs.bulk.walk import Found

COUNT = helper.COUNT
"""Threads that read at the same time."""
WORTH = 2000
"""Files after which helpers are started: one that starts takes the time of a thousand."""


class Helpers:
    """Reads files in as many threads as call it, up to ``COUNT``, each with a helper of its own."""

    def __init__(self, how: How) -> None:
        """Start none yet. Raises ``CatalogError``."""
        self._taker = Taker(how)
        self._helpers = helper.Helpers("archivefs.bulk.helpers", how)
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """When no thread calls it any more."""
        with self._helpers:
            self._taker.close()

    def take_all(self, chunk: Sequence[Found]) -> list[Taken]:
        """What came of each file, none left. Raises as ``Taker.take_all``."""
        answer: list[Taken] | None = self._helpers.ask(chunk) if self._seen >= WORTH else None
        made = [None] * len(chunk) if answer is None else answer
        self._seen += len(chunk)
        mine = self._taker.take_all([found for found, each in zip(chunk, made, strict=True) if each is None])
        return [mine.pop(0) if each is None else each for each in made]


def _taking(how: How) -> functools.partial[list[Taken]]:
    return functools.partial(Taker.take_all, Taker(how, large=False))


if __name__ == "__main__":
    helper.serve(_taking)
