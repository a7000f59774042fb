"""One job carried out step by step, in whichever thread, and what may be said to it meanwhile."""

import logging
import threading
from collections.abc import Callable, Mapping

from archivefs.archive import Archive
from archivefs.errors import ArchiveError, JobError
from archivefs.jobs import job as jobs
from archivefs.jobs.job import ChangeJob, Job, Work
from archivefs.parts import Actor
from archivefs.states import JobState
from archivefs.steps import Commit, carry_out, made

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """A job is paused or cancelled, or the mount ends."""

    def __init__(self, state: JobState | None) -> None:
        super().__init__(state)
        self.state = state


class Wanted:
    """What somebody wants of the job that runs; may be set by any thread."""

    def __init__(self) -> None:
        self._state: JobState | None = None
        self._event = threading.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether it is to stop."""
        return self._event.is_set()

    def stop(self, state: JobState | None) -> None:
        """Stop at the next step, and note ``state``; None where the journal has already what becomes of it.

        Conversions that run, and waiting, are broken off.
        """
        self._state = state
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Block for so long, or until it is to stop; whether it is."""
        return self._event.wait(seconds)

    def check(self) -> None:
        """Between two steps."""
        if self._event.is_set():
            raise StoppedError(self._state)


def run(
    archive: Archive,
    job: Job,
    work: Work,
    commit: Commit,
    wanted: Wanted,
    check: Callable[[], object] = lambda: None,
) -> JobState | None:
    """A job from where it stands to its end; blocks. Returns its state, None where it goes on later."""

    def between() -> None:
        wanted.check()
        check()

    job.commit = commit
    if _note(job, commit, JobState.RUNNING) is None:
        return None
    try:
        result = carry_out(work(archive, job), commit, between)
    except StoppedError as stopped:
        if stopped.state is None:
            made(commit([job.count()]))
            return None
        return _note(job, commit, stopped.state)
    except (ArchiveError, OSError) as error:
        log.error("job %d (%s) failed: %s", job.number, job.work, error)
        return _note(job, commit, JobState.FAILED, str(error))
    except Exception as error:
        log.exception("job %d (%s) failed", job.number, job.work)
        return _note(job, commit, JobState.FAILED, f"a bug: {error!r}")
    job.keep_result(result)
    return _note(job, commit, JobState.DONE)


def _note(job: Job, commit: Commit, state: JobState, error: str = "") -> JobState | None:
    """Note a state; None where somebody paused or cancelled the job meanwhile, which stands."""
    (outcome_,) = commit([job.change(state, error)])
    if isinstance(outcome_, JobError):
        log.info("%s: it does not become %s", outcome_, state)
        return None
    made([outcome_])
    return state


WORDS: Mapping[str, JobState] = {
    "pause": JobState.PAUSED, "resume": JobState.QUEUED, "cancel": JobState.CANCELLED,
}  # fmt: skip
"""What may be said to a job, and what it becomes."""


def decide(
    archive: Archive, job: Job, state: JobState, word: str, actor: Actor | None
) -> tuple[ChangeJob, JobState]:
    """What a word makes of a job. Raises ``JobError`` naming what is allowed."""
    if word not in WORDS:
        raise JobError(f'"{word}" is no command for a job; these are: {", ".join(WORDS)}')
    becomes = WORDS[word]
    if state not in jobs.FROM[becomes]:
        raise JobError(f"job {job.number} is {state}: it cannot be made to {word}")
    if word == "cancel" and job.request.get("plan") in archive.reader.purges.unfinished():
        raise JobError(f"job {job.number}: a purge that has begun comes to its end; it can be paused")
    change = job.change(becomes)
    change.actor = actor
    return change, becomes
