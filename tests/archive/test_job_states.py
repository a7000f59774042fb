"""Jobs that are steered just as they start or end, and jobs that cannot be run: what was said stands."""

from pathlib import Path

import pytest
import trio
import trio.testing
from archive_parts import Clock, commit, make
from job_parts import queued, running, say, state_of, until

from archivefs.archive import Archive
from archivefs.errors import JobError
from archivefs.events import JobCreated
from archivefs.jobs import running as steps_of
from archivefs.jobs.job import Job, Steps, Work
from archivefs.jobs.running import Wanted
from archivefs.jobs.works import WORKS
from archivefs.states import JobState
from archivefs.transaction import Operation, Transaction


def run(archive: Archive, job: Job, work: Work, wanted: Wanted | None = None) -> JobState | None:
    return steps_of.run(archive, job, work, lambda each: archive.commit(each)[0], wanted or Wanted())


@pytest.mark.parametrize("word", ["pause", "cancel"])
def test_a_word_that_comes_just_before_a_job_starts_stands(tmp_path: Path, word: str) -> None:
    with make(tmp_path / "archive", Clock()) as archive:
        job = queued(archive)
        said = say(archive, job, word)
        assert run(archive, job, WORKS["verify"]) is None
        assert state_of(archive, job.number) == said
        if word == "pause":
            say(archive, job, "resume")
            assert run(archive, job, WORKS["verify"]) == JobState.DONE


@pytest.mark.parametrize("word", ["pause", "cancel"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_word_that_comes_in_the_last_step_stands(
    tmp_path: Path, expected_errors: list[str], word: str, *, fails: bool
) -> None:
    expected_errors += ["job 1 (verify) failed: it does not work"] if fails else []

    def work(archive: Archive, job: Job) -> Steps:
        yield []
        say(archive, job, word)
        if fails:
            raise JobError("it does not work")
        return {}

    with make(tmp_path / "archive", Clock()) as archive:
        job = queued(archive)
        assert run(archive, job, work) is None
        assert state_of(archive, job.number) == {"pause": "paused", "cancel": "cancelled"}[word]


def test_a_word_is_in_the_journal_before_the_job_stops_and_its_numbers_are_put_right(tmp_path: Path) -> None:
    def work(archive: Archive, job: Job) -> Steps:
        job.progress.total = 3
        for number in range(3):
            if number == 1:
                say(archive, job, "pause")
                wanted.stop(None)
            job.progress.done = number + 1
            yield []
        return {}

    wanted = Wanted()
    with make(tmp_path / "archive", Clock()) as archive:
        job = queued(archive)
        assert run(archive, job, work, wanted) is None
        row = archive.reader.jobs.get(job.number)
        assert row is not None
        assert (row.state, row.total, row.done) == ("paused", 3, 2)


class Strange(Operation[int]):
    """A job as another version of archivefs may have asked for it."""

    def run(self, txn: Transaction) -> int:
        number = txn.reader.jobs.last() + 1
        txn.record(JobCreated(job=number, work="verify", request={"priority": "high"}, actor=None))
        return number


def test_a_job_that_cannot_be_run_keeps_no_other_waiting_and_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, expected_errors: list[str]
) -> None:
    expected_errors.append("job 1 (verify) could not be run")
    seen: list[str] = []

    def work(reading: Archive, job: Job) -> Steps:
        if job.number == 1:
            job.progress.total = 2**70  # which cannot be noted
        else:
            seen.append(state_of(reading, 1))
        yield []
        return {}

    with make(tmp_path / "archive", Clock()) as archive:
        commit(archive, Strange())
        last = queued(archive).number

        async def main() -> None:
            async with running(archive, {"verify": work}):
                await until("the other", lambda: state_of(archive, last) == "done")
                await until("the end", lambda: state_of(archive, 1) == "failed")

        trio.run(main, clock=trio.testing.MockClock(rate=60))
        row = archive.reader.jobs.get(1)
        assert row is not None
        assert row.error.startswith("it could not be run, 3 times: ")
    assert seen == ["running"]
    assert caplog.text.count("job 1 (verify) could not be run") == 3
