"""The engine: jobs run one after the other, are paused, cancelled and gone on with after a stop.

The same steps run under a mount, in a worker thread whose commits go through the committer, and in a command
of its own where the archive is not mounted.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import outcome
import trio

from archivefs.archive import Archive
from archivefs.background import give_way
from archivefs.catalog.jobs import JobRow
from archivefs.committer import Committer
from archivefs.convert.replay import Replayer
from archivefs.errors import JobError
from archivefs.jobs import job as jobs
from archivefs.jobs.job import CreateJob, Job, Progress, Work
from archivefs.jobs.running import Wanted, decide, run
from archivefs.operations import KeepCode
from archivefs.parts import Actor
from archivefs.states import JobState
from archivefs.transaction import Operation

log = logging.getLogger(__name__)

R = TypeVar("R")
YIELD, LONGEST_YIELD = 3.0, 0.5
"""Where others commit too, a job waits so many times as long as its own commit took, at most so many seconds:
three of four saves meet none of it (tools/bench, "work")."""
LOOK_SECONDS = 0.1
"""Between two looks at whether conversions, or a wait, are to be broken off."""
TRIES, AGAIN_SECONDS = 3, 60.0
"""How often a job is tried that cannot be run, and the time between."""
KEPT_MS = 30 * 86_400_000
"""How long errors and results of a job that ended are kept."""


class _Trouble(NamedTuple):
    """How often a job could not be run, and from when on, by the clock of trio, it is tried again."""

    tries: int
    again_at: float


class Engine:
    """The jobs of a mounted archive, one at a time: the most urgent first, of these the lowest number.

    One that runs is not interrupted by a more urgent one, nor after a stop. One that cannot be run at all
    keeps no other waiting: it is tried again some times, behind the others, then it has failed.
    """

    def __init__(self, archive: Archive, committer: Committer, works: Mapping[str, Work]) -> None:
        self._archive = archive
        self._committer = committer
        self._works = works
        self._wake = trio.Event()
        self._running: tuple[Job, Wanted] | None = None
        self._troubles: dict[int, _Trouble] = {}

    async def run(self) -> None:
        """Go on with what a stop interrupted, then with what is asked for, until cancelled."""
        while self._archive.writable:
            self._wake = trio.Event()
            waiting = [row for row in self._archive.reader.jobs.open() if row.state != JobState.PAUSED]
            ready = [row for row in waiting if self._again_at(row.job) <= trio.current_time()]
            if ready:
                first = min(ready, key=_turn)
                try:
                    await self._one(Job(self._archive.root, first))
                except Exception as error:
                    await self._troubled(first, error)
                else:
                    self._troubles.pop(first.job, None)
                continue
            for number in self._archive.reader.jobs.ended_before(self._archive.now_ms() - KEPT_MS):
                await trio.to_thread.run_sync(jobs.forget, self._archive.root, number)
            with trio.move_on_at(min((self._again_at(row.job) for row in waiting), default=math.inf)):
                await self._wake.wait()

    def _again_at(self, number: int) -> float:
        trouble = self._troubles.get(number)
        return trouble.again_at if trouble else -math.inf

    async def _troubled(self, row: JobRow, error: Exception) -> None:
        """A job could not be run, or its state not be noted: again in a while, or it has failed."""
        log.error("job %d (%s) could not be run", row.job, row.work, exc_info=error)
        tries = self._troubles[row.job].tries + 1 if row.job in self._troubles else 1
        self._troubles[row.job] = _Trouble(tries, trio.current_time() + AGAIN_SECONDS)
        if tries < TRIES:
            return
        said = f"it could not be run, {tries} times: {error!r}"
        try:
            await self._committer.submit(Job(self._archive.root, row).change(JobState.FAILED, said))
        except Exception:
            log.exception("that job %d has failed could not be noted; it is tried again", row.job)

    async def _one(self, job: Job) -> None:
        work, wanted = self._works.get(job.work), Wanted()
        if work is None:
            error = f"this archivefs knows no work {job.work!r}"
            await self._committer.submit(job.change(JobState.FAILED, error))
            return
        self._running = job, wanted
        try:
            async with Replayer(self._archive, self._committer.submit) as replayer:
                await trio.to_thread.run_sync(self._blocking, job, work, wanted, replayer)
        finally:
            self._running = None

    def _blocking(self, job: Job, work: Work, wanted: Wanted, replayer: Replayer) -> None:
        """In a thread of its own, reading through a connection of its own.

        Where the mount ends, the next step raises ``trio.Cancelled``, and the job goes on with the next one.
        """
        give_way()

        mine, seen = 0, self._committer.handed_in

        def commit(operations: list[Operation[Any]]) -> list[Any]:
            nonlocal mine, seen
            start = time.monotonic()
            outcomes = trio.from_thread.run(self._committer.submit_all, operations)
            mine += len(operations)
            others, seen = self._committer.handed_in - mine - seen, self._committer.handed_in - mine
            if others > 0:
                trio.from_thread.run(trio.sleep, min(YIELD * (time.monotonic() - start), LONGEST_YIELD))
            return outcomes

        _attach(job, replayer, wanted)
        with self._archive.beside() as reading:
            reading.alarms = self._archive.alarms  # what a work finds is the mount's
            run(reading, job, work, commit, wanted, trio.from_thread.check_cancelled)

    async def create(self, work: str, request: dict[str, Any], actor: Actor | None) -> int:
        """Queue a job; returns its number. Raises ``ArchiveError``."""
        number = await self._committer.submit(CreateJob(work, request, actor))
        self._wake.set()
        return number

    def look(self) -> None:
        """Jobs may have been queued."""
        self._wake.set()

    def progress(self, number: int) -> Progress | None:
        """Of the job that runs."""
        return self._running[0].progress if self._running and self._running[0].number == number else None

    async def tell(self, number: int, word: str, actor: Actor | None) -> JobState:
        """Pause, resume or cancel a job, durably; returns the state it has then. Raises ``JobError``.

        The step that runs may still commit; a job that is resumed meanwhile is begun again behind it.
        """
        row = jobs.get(self._archive, number)
        running = self._running if self._running and self._running[0].number == number else None
        job = running[0] if running else Job(self._archive.root, row)
        change, state = decide(self._archive, job, JobState(row.state), word, actor)
        await self._committer.submit(change)
        if state != JobState.QUEUED and self._running and self._running[0].number == number:
            self._running[1].stop(None)
        self._wake.set()
        return state


def _turn(row: JobRow) -> tuple[bool, int, int]:
    """What is less comes first."""
    return row.state != JobState.RUNNING, jobs.priority_of(row), row.job


def _attach(
    job: Job, replayer: Replayer, wanted: Wanted, show: Callable[[Progress], None] = lambda _: None
) -> None:
    """Let a job that runs in a thread convert and wait in the trio thread, until it is to stop.

    ``show`` is called in the job's thread before that, for it may have counted since it committed.
    """

    def there(work: Callable[..., Awaitable[R]], given: object) -> R:
        show(job.progress)
        return trio.from_thread.run(_unless_stopped, wanted, work, given)

    job.replayer = lambda tasks: there(replayer.convert_all, tasks)
    job.sleep = lambda seconds: there(trio.sleep, seconds)


async def _unless_stopped(wanted: Wanted, work: Callable[..., Awaitable[R]], given: object) -> R:
    """What ``work`` gives. Cancels it, and raises ``StoppedError``, once the job is to stop."""
    made = list[R]()

    async def look() -> None:
        while not wanted.is_stopping:  # noqa: ASYNC110  any thread sets it
            await trio.sleep(LOOK_SECONDS)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        made.append(await work(given))
        nursery.cancel_scope.cancel()
    if not made:
        wanted.check()
    return made[0]


def run_here(
    archive: Archive, number: int, works: Mapping[str, Work], show: Callable[[Progress], None], wanted: Wanted
) -> JobState | None:
    """Do a job in this process; blocks until its end, or until it is stopped. ``show`` is called in a thread.

    In the main thread Ctrl-C pauses it; in another, only ``wanted`` does. The thread must not be that of a
    trio run: it is one of its own, for the workers end with the thread that has started them.
    Raises ``JobError`` where it is paused, or at its end.
    """
    row = jobs.get(archive, number)
    if JobState(row.state) not in jobs.FROM[JobState.RUNNING]:
        raise JobError(f"job {number} is {row.state}")
    job = Job(archive.root, row)

    def commit(operations: list[Operation[Any]]) -> list[Any]:
        outcomes, _ = archive.commit(operations)
        show(job.progress)
        return outcomes

    async def keep(operation: KeepCode) -> None:
        await trio.to_thread.run_sync(archive.commit_one, operation)

    async def pause(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                wanted.stop(JobState.PAUSED)

    def blocking() -> outcome.Outcome[JobState | None]:
        return outcome.capture(run, archive, job, works[job.work], commit, wanted)

    async def main() -> outcome.Outcome[JobState | None]:
        async with trio.open_nursery() as nursery, Replayer(archive, keep) as replayer:
            if threading.current_thread() is threading.main_thread():  # no other is told of signals
                await nursery.start(pause)
            _attach(job, replayer, wanted, show)
            ended = await trio.to_thread.run_sync(blocking)
            nursery.cancel_scope.cancel()
        return ended

    return trio.run(main).unwrap()
