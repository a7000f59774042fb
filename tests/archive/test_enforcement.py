"""Retention by itself: when it goes early, and what a purge that somebody paused keeps from going."""

from pathlib import Path

import pytest
import trio
import trio.testing
from archive_parts import DAY, Clock, capture, commit, make
from job_parts import running, running_parts, say, state_of, until
from retention_parts import left, tell

from archivefs import configuring
from archivefs.archive import Archive
from archivefs.jobs import enforcement
from archivefs.jobs import job as jobs
from archivefs.jobs.job import Job
from archivefs.jobs.works import WORKS
from archivefs.retention.operations import BeginPurge

BASE = "schema_version = 1\nreserve = 0\n[converters.files]\n"


def names(archive: Archive) -> set[bytes]:
    return {each.name for each in left(archive)}


def rate(times: float) -> trio.testing.MockClock:
    return trio.testing.MockClock(rate=times)


@pytest.mark.parametrize("begun", [False, True])
def test_a_paused_purge_keeps_what_it_lists_and_nothing_else(
    root: Path, clock: Clock, *, begun: bool
) -> None:
    with make(root, clock, BASE + "[converters.files.retention]\ndays = 3\n") as archive:
        commit(archive, *(capture(name, name) for name in (b"a", b"b", b"c")))
        clock.turn(4 * DAY)
        plan = tell(archive, "retention", "plan", "name=a")["plan"]
        number = tell(archive, "retention", "apply", f"plan={plan}")["job"]
        if begun:
            commit(archive, BeginPurge(plan))

        say(archive, Job(root, jobs.get(archive, number)), "pause")

        async def main() -> None:
            async with running(archive, WORKS, enforce=True) as engine:
                await until("the others' end", lambda: names(archive) == {b"a"})
                assert archive.alarms[enforcement.PAUSED] == (
                    "job 1 (plan 1) is paused, and what it lists stays: archivefs jobs resume 1"
                )
                await trio.sleep(2 * enforcement.LOOK_SECONDS)
                assert names(archive) == {b"a"}
                await engine.tell(number, "resume", None)
                await until("its own end", lambda: state_of(archive, number) == "done")
                await until("no alarm", lambda: enforcement.PAUSED not in archive.alarms)

        trio.run(main, clock=rate(300))
        assert names(archive) == set()
        assert archive.reader.jobs.last() == 2


FULL = BASE.replace("[converters", '[retention]\ndays = 36500\nmin_free_space = "900 TB"\n[converters')


def test_how_much_stays_free_counts_seconds_after_it_is_said(root: Path, clock: Clock) -> None:
    with make(root, clock, BASE) as archive:
        commit(archive, capture(b"a", b"a"))

        async def main() -> None:
            async with running_parts(archive, WORKS, enforce=True) as (_, keeper):
                await trio.sleep(3 * enforcement.SPACE_SECONDS)
                (root / "archive.toml").write_text(FULL)
                configuring.read_again(archive)
                said = trio.current_time()
                keeper.reload()
                await until("the alarm", lambda: enforcement.EARLY in archive.alarms)
                assert (
                    trio.current_time() - said
                    < 0.9 * enforcement.LOOK_SECONDS - 3 * enforcement.SPACE_SECONDS
                )

        trio.run(main, clock=rate(20))


def test_what_goes_early_goes_minutes_after_the_alarm_though_the_disk_is_looked_at_often(
    root: Path, clock: Clock
) -> None:
    with make(root, clock, FULL) as archive:
        commit(archive, capture(b"a", b"a"))

        async def main() -> None:
            async with running(archive, WORKS, enforce=True):
                await until("the alarm", lambda: enforcement.EARLY in archive.alarms)
                told = trio.current_time()
                await until("the purge", lambda: archive.reader.jobs.last() > 0)
                assert trio.current_time() - told > enforcement.LOOK_SECONDS - 5

        trio.run(main, clock=rate(120))
