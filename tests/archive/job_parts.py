"""What the tests of jobs share: the engine of a mount on an archive that is open here, and its clock."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio
from archive_parts import commit

from archivefs.archive import Archive
from archivefs.committer import Committer
from archivefs.jobs.enforcement import Enforcement
from archivefs.jobs.engine import Engine
from archivefs.jobs.job import CreateJob, Job, Work
from archivefs.jobs.running import decide
from archivefs.parts import Actor
from archivefs.states import JobState


def state_of(archive: Archive, number: int) -> str:
    row = archive.reader.jobs.get(number)
    assert row is not None
    return row.state


def queued(archive: Archive) -> Job:
    """A job as the engine has read it when its turn comes."""
    (number,) = commit(archive, CreateJob("verify", {"sample": 100.0}))
    row = archive.reader.jobs.get(number)
    assert row is not None
    return Job(archive.root, row)


def say(archive: Archive, job: Job, word: str) -> JobState:
    """What a person says to a job while the engine is elsewhere."""
    change, state = decide(archive, job, JobState(state_of(archive, job.number)), word, Actor(uid=1))
    commit(archive, change)
    return state


@asynccontextmanager
async def running(
    archive: Archive, works: Mapping[str, Work], *, enforce: bool = False
) -> AsyncIterator[Engine]:
    """``enforce``: retention by itself, too."""
    async with running_parts(archive, works, enforce=enforce) as (ran, _):
        yield ran


@asynccontextmanager
async def running_parts(
    archive: Archive, works: Mapping[str, Work], *, enforce: bool
) -> AsyncIterator[tuple[Engine, Enforcement]]:
    """The engine, and what enforces retention."""
    committer = Committer(archive)
    ran = Engine(archive, committer, works)
    enforcement = Enforcement(archive, committer, ran)
    async with trio.open_nursery() as outer:
        outer.start_soon(committer.run)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ran.run)
            if enforce:
                nursery.start_soon(enforcement.run)
            yield ran, enforcement
            nursery.cancel_scope.cancel()
        committer.close()


async def until(what: str, condition: Callable[[], bool]) -> None:
    with trio.move_on_after(30 * 60) as scope:
        while not condition():  # noqa: ASYNC110  the catalog tells nobody
            await trio.sleep(1)
    assert not scope.cancelled_caught, what
