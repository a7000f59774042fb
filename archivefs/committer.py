"""Group commit for trio: what many tasks want written at once costs one sync.

While a group is on its way to the disk, the next one gathers. Everything else of ``Archive`` may be used from
the trio thread at any time; only ``Archive.commit`` runs in a worker thread, one at a time, from here.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import outcome
import trio

from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.errors import ArchiveError
from archivefs.transaction import GROUP, Operation

log = logging.getLogger(__name__)

T = TypeVar("T")
Listener = Callable[[Sequence[Change]], None]


class _Waiting(NamedTuple):
    operation: Operation[Any]
    done: trio.Event
    box: list[outcome.Outcome[Any]]


class Committer:
    """Collects operations and commits them in groups; ``run`` must be running."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._listeners: list[Listener] = []
        self._send, self._receive = trio.open_memory_channel[_Waiting](math.inf)
        self._limiter = trio.CapacityLimiter(1)
        self.handed_in = 0
        """Operations so far."""

    def on_change(self, listener: Listener) -> None:
        """Call ``listener`` in the trio thread after each commit, before those who waited for it go on."""
        self._listeners.append(listener)

    async def submit(self, operation: Operation[T]) -> T:
        """Commit one operation and return what it made; its result is durable then.

        Raises the ``ArchiveError`` that undid it. Cancelling the caller does not undo an operation that was
        handed in: it is committed all the same.
        """
        waiting = _Waiting(operation, trio.Event(), [])
        self._send.send_nowait(waiting)
        self.handed_in += 1
        await waiting.done.wait()
        return cast(T, waiting.box[0].unwrap())

    async def submit_all(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Commit operations; what each made, or the ``ArchiveError`` that undid it."""
        outcomes: list[Any] = [None] * len(operations)

        async def one(index: int) -> None:
            try:
                outcomes[index] = await self.submit(operations[index])
            except ArchiveError as error:
                outcomes[index] = error

        async with trio.open_nursery() as nursery:
            for index in range(len(operations)):
                nursery.start_soon(one, index)
        return outcomes

    async def run(self) -> None:
        """Commit groups until ``close`` was called and everything handed in before is done."""
        async with self._receive:
            async for first in self._receive:
                group = [first]
                while len(group) < GROUP:
                    try:
                        group.append(self._receive.receive_nowait())
                    except (trio.WouldBlock, trio.EndOfChannel):
                        break
                with trio.CancelScope(shield=True):
                    await self._commit(group)

    async def _commit(self, group: list[_Waiting]) -> None:
        operations = [waiting.operation for waiting in group]
        try:
            results, changes = await trio.to_thread.run_sync(
                self._archive.commit, operations, limiter=self._limiter
            )
        except Exception as error:
            log.exception("a commit of %d operations failed", len(group))
            results, changes = [error] * len(group), []
        for operation in operations:
            operation.close()
        for listener in self._listeners if changes else ():
            try:
                listener(changes)
            except Exception:
                log.exception("a listener failed after a commit")
        for waiting, result in zip(group, results, strict=True):
            failed = isinstance(result, Exception)
            waiting.box.append(outcome.Error(result) if failed else outcome.Value(result))
            waiting.done.set()

    def close(self) -> None:
        """Take nothing more; ``run`` returns when what was handed in is committed."""
        self._send.close()
