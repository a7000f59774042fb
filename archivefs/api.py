"""The archive for programs in Python, as async calls on trio: those of ``blocking``, in worker threads."""

import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

import outcome
import trio

from archivefs import blocking
from archivefs.blocking import Query, ReplayOptions
from archivefs.jobs.job import REPLAY_PRIORITY, REPROCESS, REPRODUCE
from archivefs.jobs.running import Wanted
from archivefs.policies import Policy
from archivefs.states import JobState

OnProgress = Callable[[int, int, str | None], object]
"""A plain or an async function, called in the task of the caller with how many entries are behind a job, how
many there are, and the id of the last one behind it."""


class Archive:
    """An archive; may be used by several tasks at once.

    Nothing is held open between two calls, so there is nothing to close. Every method raises
    ``ArchiveError``, such as ``NotAnArchiveError``, and ``OSError``.

    A call that is cancelled comes back when its thread has ended, so that nothing goes on behind the caller's
    back. What reads, and ``set_policy``, are done then as if nobody had cancelled; so is ``restore``, which
    takes as long as the source is large. What becomes of a job, ``reprocess`` says.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """``root``: its folder, not its mountpoint. Nothing is looked at yet."""
        self._archive = blocking.Archive(root)

    @property
    def root(self) -> Path:
        """The whole path of its folder."""
        return self._archive.root

    def entries(self, query: Query = ()) -> "Entries":
        """The entries of a query, the newest first: a line of ``archivefs ls --json`` each."""
        return Entries(self.root, query)

    async def entry(self, id: str) -> dict[str, Any]:
        """Everything about an entry, as entry.json has it."""
        return await trio.to_thread.run_sync(self._archive.entry, id)

    async def restore(self, id: str, folder: str | os.PathLike[str]) -> Path:
        """Write the source of an entry into a folder that exists, under its own name; the path of it.

        It is there only when all bytes are, synced, with the right SHA-256. Nothing is overwritten.
        Raises ``DestinationExistsError``, ``ContentDamagedError``, ``OSError``.
        """
        return await trio.to_thread.run_sync(self._archive.restore, id, folder)

    async def plan_reprocess(self, query: Query, **options: Unpack[ReplayOptions]) -> dict[str, Any]:
        """What ``reprocess`` with the same options would convert: entries, converters, skipped, seconds."""
        return await trio.to_thread.run_sync(partial(self._archive.plan_reprocess, query, **options))

    async def reprocess(
        self, query: Query, *, progress: OnProgress | None = None, **options: Unpack[ReplayOptions]
    ) -> dict[str, Any]:
        """Convert entries again, as ``archivefs reprocess`` does, without a question; waits for the end.

        Returns ``job`` and its result, in which conversions that failed are counted: they raise nothing.
        Raises ``JobError`` where the job failed, was cancelled or is paused, and what ``progress`` raises.
        ``progress`` is called by one task, one call after the other; while it is awaited the job goes on, and
        of what passes meanwhile it is told the last only.

        Cancelled, by Ctrl-C, or when ``progress`` raises: the job of an archive that is mounted goes on.
        Without a mount it is paused: conversions that run are broken off, nothing of them is recorded, and
        the call comes back when the workers have ended and nothing is locked any more. A call that is
        cancelled before it begins makes no job; one that is cancelled in its last moment may have ended it.
        """
        words = blocking.replay_words(query, **options)
        return await _followed(self.root, REPROCESS, words, progress)

    async def reproduce(
        self, query: Query, *, progress: OnProgress | None = None, priority: int = REPLAY_PRIORITY
    ) -> dict[str, Any]:
        """Compare with the code and arguments of then, as ``archivefs reproduce``; ``job`` and its result.

        ``progress``, errors and cancellation as with ``reprocess``.
        """
        words = [*blocking.words_of(query), f"priority={priority}"]
        return await _followed(self.root, REPRODUCE, words, progress)

    async def policy(self, converter: str) -> Policy:
        """What is retained of a converter of archive.toml: its own table, or else the common one."""
        return await trio.to_thread.run_sync(self._archive.policy, converter)

    async def set_policy(self, converter: str, **values: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Set keys of a converter's own table, such as ``days=90``; None takes one out. What changed.

        One change, in the file and in the journal: all keys, or none where one is refused (``ConfigError``).
        """
        return await trio.to_thread.run_sync(partial(self._archive.set_policy, converter, **values))

    async def statistics(self) -> dict[str, Any]:
        """Entries and bytes by converter and status, the outbox, room on the disk: as stats.json."""
        return await trio.to_thread.run_sync(self._archive.statistics)


async def reprocess(
    root: str | os.PathLike[str], query: Query, *, progress: OnProgress | None = None,
    **options: Unpack[ReplayOptions],
) -> dict[str, Any]:  # fmt: skip
    """``Archive(root).reprocess``."""
    return await Archive(root).reprocess(query, progress=progress, **options)


class Entries:
    """Iterates over entries by pages, see ``blocking.Pages``; each step is a checkpoint.

    A loop may be left, or cancelled, at any point: nothing is open then, and no thread runs.
    """

    def __init__(self, root: Path, query: Query) -> None:
        self._pages = blocking.Pages(root, query)
        self._page: list[dict[str, Any]] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._page:
            await trio.lowlevel.checkpoint()
        else:
            self._page = (await trio.to_thread.run_sync(self._pages.next))[::-1]
        if not self._page:
            raise StopAsyncIteration
        return self._page.pop()


async def _followed(
    root: Path, command: str, words: list[str], progress: OnProgress | None
) -> dict[str, Any]:
    """Ask for a job in a thread, and tell of its progress until it has ended."""
    wanted = Wanted()
    news = _News(progress)
    ended: outcome.Outcome[dict[str, Any]] | None = None
    failed: BaseException | None = None

    async def follow() -> None:
        nonlocal ended
        call = partial(blocking.follow, root, command, words, news.say, wanted)
        ended = await trio.to_thread.run_sync(outcome.capture, call)
        news.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        try:  # here, for a task that waits for a thread would not be told of Ctrl-C
            await news.tell()
        except (Exception, KeyboardInterrupt) as error:
            failed = error
        finally:
            wanted.stop(JobState.PAUSED)  # which means nothing to a job that has ended
    if failed is not None:
        raise failed
    assert ended is not None
    return ended.unwrap()


class _News:
    """How far a job is, from the thread that knows it to the task that tells it: the latest only."""

    def __init__(self, progress: OnProgress | None) -> None:
        self._progress = progress
        self._token = trio.lowlevel.current_trio_token()
        self._latest: tuple[int, int, str | None] | None = None
        self._has_ended = False
        self._changed = trio.Event()

    def say(self, current: int, total: int, id_: str | None) -> None:
        """In any thread, before the one that follows the job has ended."""
        self._token.run_sync_soon(self._keep, (current, total, id_))

    def _keep(self, latest: tuple[int, int, str | None]) -> None:
        self._latest = latest
        self._changed.set()

    def end(self) -> None:
        """There will be no more; what is there is told yet."""
        self._has_ended = True
        self._changed.set()

    async def tell(self) -> None:
        """Until the end. Raises what ``progress`` raises."""
        while self._latest is not None or not self._has_ended:
            latest, self._latest = self._latest, None
            if latest is None:
                await self._changed.wait()
                self._changed = trio.Event()
            elif self._progress is not None:
                said = self._progress(*latest)
                if inspect.isawaitable(said):
                    await said
