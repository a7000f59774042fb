"""Dictionaries by themselves: a mounted archive makes one when a converter has enough small contents."""

import logging
from collections.abc import Sequence

import trio

from archivefs.archive import Archive
from archivefs.background import run_last
from archivefs.catalog.catalog import Change
from archivefs.committer import Committer
from archivefs.jobs import dictionaries
from archivefs.jobs.dictionaries import Trained
from archivefs.operations import AddDictionary

log = logging.getLogger(__name__)

LOOK_ENTRIES = 250
"""After so many new entries it looks again whether a converter has enough."""
FIRST_LOOK_SECONDS = 60.0
"""Whoever mounts an archive wants to look at it first."""


class Training:
    """Trains in the background, one dictionary after the other."""

    def __init__(self, archive: Archive, committer: Committer) -> None:
        self._archive = archive
        self._committer = committer
        self._tried: dict[tuple[str, str], int] = {}
        self._new = 0
        self._wake = trio.Event()
        committer.on_change(self._changed)

    def _changed(self, changes: Sequence[Change]) -> None:
        self._new += sum(change.before is None for change in changes)
        if self._new >= LOOK_ENTRIES:
            self._wake.set()

    async def run(self) -> None:
        """Look once after the start, and whenever there are enough new entries, until cancelled."""
        with trio.move_on_after(FIRST_LOOK_SECONDS):
            await self._wake.wait()
        while self._archive.writable:
            self._wake, self._new = trio.Event(), 0
            try:
                while (made := await self._one()) is not None:
                    await self._committer.submit(
                        AddDictionary(made.converter, made.content, made.data, made.samples)
                    )
            except Exception:
                log.exception("no dictionary could be made; it is tried again")
            await self._wake.wait()

    async def _one(self) -> Trained | None:
        return await trio.to_thread.run_sync(run_last, self._look, abandon_on_cancel=True)

    def _look(self) -> Trained | None:
        """In a thread: with a connection of its own."""
        with Archive.open_as_it_is(self._archive.root) as archive:
            return dictionaries.train_next(archive, self._tried)
