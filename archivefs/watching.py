"""How far a job is, and its end waited for: done by the mount that has the archive, or here without one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from archivefs.archive import Archive
from archivefs.catalog.jobs import JobRow
from archivefs.errors import JobError, LockedError
from archivefs.fs import mounts
from archivefs.jobs import job as job_files
from archivefs.jobs.job import Progress
from archivefs.jobs.running import Wanted
from archivefs.states import JOB_ENDS, JobState
from archivefs.store import lock

LOOK_SECONDS = 0.2
"""Between two looks at a job that a mount does."""


def facts(root: Path, row: JobRow) -> dict[str, Any]:
    """What is known of a job: from the mount that does it, where there is one."""
    where = mounts.mountpoint_of(root)
    if where is not None and row.state == JobState.RUNNING:
        try:
            found: dict[str, Any] = json.loads((where / "jobs" / str(row.job) / "job.json").read_bytes())
        except (OSError, ValueError):
            return job_files.describe(row)
        return found
    return job_files.describe(row)


def finish(
    root: Path, number: int, show: Callable[[Progress], None], wanted: Wanted | None = None
) -> dict[str, Any]:
    """Wait until a job has ended, or do it here where no mount does; its result. Blocks.

    ``show`` is called now and then: in this thread, or in one of the job's where that is done here.
    ``wanted`` ends the waiting, and pauses a job that is done here, as Ctrl-C does. Raises ``JobError``
    where the job failed, was cancelled, is paused or goes on.
    """
    wanted = wanted or Wanted()
    try:
        archive = Archive(root)
    except LockedError:
        _wait(root, number, show, wanted)
    else:
        with archive:
            if JobState(job_files.get(archive, number).state) not in JOB_ENDS:
                # Who only asks starts without trio and all that jobs need.
                from archivefs.jobs.engine import run_here
                from archivefs.jobs.works import WORKS

                run_here(archive, number, WORKS, show, wanted)
    with Archive.open_for_reading(root) as archive:
        row = job_files.get(archive, number)
    if row.state != JobState.DONE:
        raise JobError(f"job {number} is {row.state}{': ' if row.error else ''}{row.error}")
    return _result(root, number)


def _result(root: Path, number: int) -> dict[str, Any]:
    try:
        data = (root / job_files.FOLDER / str(number) / job_files.RESULT).read_bytes()
    except FileNotFoundError:
        raise JobError(f"the result of job {number} is not kept any more") from None
    found: dict[str, Any] = msgspec.json.decode(data)
    return found


def _wait(root: Path, number: int, show: Callable[[Progress], None], wanted: Wanted) -> None:
    while not wanted.is_stopping:
        with Archive.open_as_it_is(root) as archive:
            row = job_files.get(archive, number)
        if JobState(row.state) in JOB_ENDS | {JobState.PAUSED}:
            return
        if not lock.is_held(root):
            raise JobError(f"the mount that did job {number} has ended; the next one goes on with it")
        known = facts(root, row)
        show(Progress(known["total"], known["done"], known["failed"], known["skipped"]))
        wanted.wait(LOOK_SECONDS)
