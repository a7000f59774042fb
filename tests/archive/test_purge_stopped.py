"""A purge that is killed, cancelled or meets trouble: nothing half gone stays so, nothing else is touched."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from archive_parts import (
    DAY,
    Clock,
    captured,
    child_command,
    child_environment,
    converted,
    make,
    source,
)
from job_parts import say
from retention_parts import ME, all_is_well, disk, left, tell, work

from archivefs import control
from archivefs.archive import Archive
from archivefs.errors import ArchiveError, JobError
from archivefs.events import PurgeEnded
from archivefs.jobs.engine import run_here
from archivefs.jobs.job import Job, Steps, get
from archivefs.jobs.running import Wanted
from archivefs.jobs.works import WORKS
from archivefs.retention import purge as purging
from archivefs.states import JobState, Status
from archivefs.store.journal import Journal
from archivefs.transaction import Operation

COUNT = 600
"""Entries: more than two batches of a purge."""
KEPT = 40

DO_JOB = """
import sys
from pathlib import Path
from archivefs.archive import Archive
from archivefs.cli.watching import finish
finish(Path(sys.argv[1]), int(sys.argv[2]), quiet=True)
"""
CALLS = "pwrite64,fdatasync,fallocate,unlink,rename"
"""What a purge says to the disk, apart from appending: it is killed before each of them, in turn."""


@pytest.fixture
def planned(root: Path) -> tuple[Path, int, dict[str, bytes]]:
    """An archive with two days, the job that purges most of it, and what must be left."""
    clock, kept = Clock(), {}
    clock.turn(-400 * DAY)
    with make(root, clock) as archive:
        for day in range(2):
            for number in range(COUNT // 20):
                name = b"%s%d-%d.csv" % (b"keep" if number % 15 == 14 else b"go", day, number)
                for copy in range(10):
                    content = b"%d %d %d\n" % (day, number, copy) * 200
                    id_ = captured(archive, content, name, "ict").id
                    converted(archive, id_)
                    if name.startswith(b"keep"):
                        kept[id_] = content
            clock.turn(DAY)
        plan = tell(archive, "retention", "plan", "name=go*")
        assert plan["entries"] == COUNT - len(kept)
        job = tell(archive, "retention", "apply", f"plan={plan['plan']}")["job"]
    return root, job, kept


def is_done(root: Path, job: int, kept: dict[str, bytes]) -> None:
    """The purge came to its end, with exactly that left."""
    with Archive(root) as archive:
        row = archive.reader.jobs.get(job)
        assert row is not None
        if row.state != JobState.DONE:
            work(archive, job)
        assert {entry.id: source(archive, entry.id) for entry in left(archive)} == kept
        (plan,) = archive.reader.purges.plans()
        assert (plan.state, plan.purged, plan.kept) == ("done", COUNT - len(kept), 0)
        assert archive.reader.purges.unfinished() == []
    ended = [event for event in Journal(root / "journal").read() if isinstance(event, PurgeEnded)]
    assert [event.entries for event in ended] == [COUNT - len(kept)]
    assert not (root / "plans" / "1.jsonl").exists()
    all_is_well(root)


@pytest.mark.parametrize("call", CALLS.split(","))
def test_a_purge_that_is_killed_at_a_call_is_gone_on_with(
    planned: tuple[Path, int, dict[str, bytes]], call: str
) -> None:
    root, job, kept = planned
    killed = 0
    for number in (1, 2, 5, 9):
        strace = ["strace", "-f", "-qq", "-e", f"trace={call}", "-o", "/dev/null",
                  "-e", f"inject={call}:signal=SIGKILL:when={number}"]  # fmt: skip
        done = subprocess.run(
            [*strace, *child_command(DO_JOB, [root, job])], env=child_environment(), capture_output=True,
            check=False,
        )  # fmt: skip
        killed += done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert killed
    is_done(root, job, kept)


def test_a_purge_that_is_cancelled_has_done_what_it_has_done_and_can_be_ended(
    planned: tuple[Path, int, dict[str, bytes]],
) -> None:
    root, job, kept = planned
    with Archive(root) as archive:
        wanted = Wanted()
        stopped = run_here(archive, job, WORKS, lambda _: wanted.stop(JobState.CANCELLED), wanted)
        assert stopped == JobState.CANCELLED
        again = tell(archive, "retention", "apply", "plan=1")["job"]
    is_done(root, again, kept)


def test_a_paused_purge_goes_on_where_it_was(planned: tuple[Path, int, dict[str, bytes]]) -> None:
    root, job, kept = planned
    with Archive(root) as archive:
        wanted = Wanted()

        def show(progress: object) -> None:
            if len(left(archive)) < COUNT:
                wanted.stop(JobState.PAUSED)

        assert run_here(archive, job, WORKS, show, wanted) == JobState.PAUSED
        assert len(left(archive)) == COUNT - purging.BATCH
        with pytest.raises(JobError, match=f"job {job} is paused"):
            run_here(archive, job, WORKS, show, Wanted())
        say(archive, Job(root, get(archive, job)), "resume")
    is_done(root, job, kept)


def test_what_comes_to_be_protected_in_the_midst_is_kept_and_told(
    planned: tuple[Path, int, dict[str, bytes]],
) -> None:
    root, job, _ = planned
    with Archive(root) as archive:
        steps = WORKS["purge"](archive, Job(root, get(archive, job)))
        operations = next(steps)
        operations = steps.send(archive.commit(operations)[0])
        last = [entry for entry in left(archive) if entry.name.startswith(b"go")][-1]
        tell(archive, "hold", "add", "reason=late", f"id={last.id}")
        result = control.carry_out(_rest(steps, operations), lambda made: archive.commit(made)[0])
        assert (result["kept"], result["purged"]) == (1, COUNT - KEPT - 1)
        assert source(archive, last.id)
    all_is_well(root)


def _rest(steps: Steps, operations: list[Operation[Any]]) -> Steps:
    """A work that was begun."""
    while True:
        outcomes = yield operations
        try:
            operations = steps.send(outcomes)
        except StopIteration as end:
            result: dict[str, Any] = end.value
            return result


def test_a_repack_and_a_purge_one_after_the_other_leave_no_byte_behind(root: Path) -> None:
    clock = Clock()
    clock.turn(-30 * DAY)
    with make(root, clock) as archive:
        ids = [captured(archive, os.urandom(9000), b"%d.bin" % n).id for n in range(40)]
    with Archive(root) as archive:
        secret = source(archive, ids[7])[:64]
        tell(archive, "repack")
        work(archive, 1)
        work(archive, tell(archive, "erase", f"id={ids[7]}", "reason=request")["job"])
        before = disk(root)
        tell(archive, "repack")
    with Archive(root) as archive:
        work(archive, 3)
        assert disk(root) <= before
    for file in (root / "content").rglob("*"):
        assert (
            not file.is_file()
            or secret not in subprocess.run(["zstd", "-dc", file], capture_output=True, check=True).stdout
        )
    all_is_well(root)


def test_a_job_that_nobody_knows_or_that_is_over_says_so(planned: tuple[Path, int, dict[str, bytes]]) -> None:
    root, job, kept = planned
    is_done(root, job, kept)
    with Archive(root) as archive:
        for number in (job, 99):
            with pytest.raises(ArchiveError):
                run_here(archive, number, WORKS, lambda _: None, Wanted())
        facts = json.loads((root / "jobs" / str(job) / "result.json").read_bytes())
        assert facts["purged"] == COUNT - len(kept)
        assert ME.uid == 1234
        assert {entry.status for entry in left(archive)} == {Status.SUCCESS}
