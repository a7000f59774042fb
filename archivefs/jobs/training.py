"""Dictionaries by themselves: a mounted archive makes one when a converter has enough small contents.

Training takes seconds of Python and would share the interpreter with the mount, whatever its priority: it has
a process of its own.
"""

import logging
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from archivefs.archive import Archive
from archivefs.background import own_process
from archivefs.catalog.catalog import Change
from archivefs.committer import Committer
from archivefs.jobs import dictionaries
from archivefs.jobs.dictionaries import Trained, Wanted

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
        self._tried: dict[Wanted, int] = {}
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
                    await self._committer.submit(made.operation())
            except Exception:
                log.exception("no dictionary could be made; it is tried again")
            await self._wake.wait()

    async def _one(self) -> Trained | None:
        """The next one. Raises ``RuntimeError`` with what the process said where that failed."""
        if not dictionaries.missing(self._archive, self._tried):
            return None
        command, environment = own_process(__name__, str(self._archive.root))
        done = await trio.run_process(
            command, env=environment, stdin=pickle.dumps(self._tried), capture_stdout=True,
            capture_stderr=True, check=False, start_new_session=True,
        )  # fmt: skip
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode != 0:
            raise RuntimeError(f"the process that trains ended with {done.returncode}: {said}")
        if said:
            log.warning("while training: %s", said)
        made: Trained | None
        made, self._tried = pickle.loads(done.stdout)
        return made


def main() -> None:
    """Look once, in an archive that another process has mounted; stdin says what was tried."""
    os.nice(19)
    tried = pickle.load(sys.stdin.buffer)
    with Archive.open_as_it_is(Path(sys.argv[1])) as archive:
        made = dictionaries.train_next(archive, tried)
    pickle.dump((made, tried), sys.stdout.buffer)


if __name__ == "__main__":
    main()
