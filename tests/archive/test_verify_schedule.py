"""Verification by itself, on clocks that the tests turn: when it runs, what it notes, how it alarms."""

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.abc
from archive_parts import DAY, HOUR, Clock, captured, make, some_bytes
from test_verify_parts import events_of, flip

from archivefs import statistics
from archivefs.archive import Archive
from archivefs.committer import Committer
from archivefs.events import Verified
from archivefs.jobs.scheduled_verify import Schedule

LOOK = 600.0
"""Seconds within which a due verification begins."""
FOREVER = 10.0**9
SEGMENT = "content/2026/02/13/files.sources.zst"


def toml(every: str) -> str:
    """An archive that verifies itself once in this time."""
    return f'schema_version = 1\nreserve = 0\nverify_every = "{every}"\n[converters.files]\n'


def verified(root: Path) -> list[Verified]:
    """The verifications that the journal knows."""
    return [event for event in events_of(root) if isinstance(event, Verified)]


def alarm(archive: Archive) -> str:
    """What health.json says about verification."""
    health = statistics.health(archive)
    told: str = health["alarms"].get("verify", "")
    assert health["ok"] == (not health["alarms"])
    return told


async def asleep() -> None:
    """Wait until the schedule sleeps, with all that it began done; time stands still meanwhile."""
    deadline = time.monotonic() + 10
    while not 0 < trio.lowlevel.current_statistics().seconds_to_next_deadline < math.inf:
        assert time.monotonic() < deadline
        await trio.to_thread.run_sync(time.sleep, 0.002)


class Clocks(trio.abc.Clock):
    """The archive's clock and trio's, which stand still until they are turned together."""

    def __init__(self, archive_clock: Clock) -> None:
        self.archive = archive_clock
        self._seconds = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._seconds

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0 if deadline <= self._seconds else FOREVER

    async def turn(self, seconds: float) -> None:
        """Forward at once; returns when the schedule has done what that moment asks for."""
        self.archive.turn(seconds)
        self._seconds += seconds
        await asleep()


@pytest.fixture
def clocks(clock: Clock) -> Clocks:
    return Clocks(clock)


@asynccontextmanager
async def scheduled(archive: Archive) -> AsyncIterator[None]:
    """The schedule runs, as in a mount."""
    committer = Committer(archive)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        nursery.start_soon(Schedule(archive, committer).run)
        await asleep()
        yield
        nursery.cancel_scope.cancel()


async def test_it_runs_at_once_where_it_never_ran_and_is_journaled(root: Path, clocks: Clocks) -> None:
    with make(root, clocks.archive, toml("12 hours")) as archive:
        captured(archive, b"x" * 5000)
        async with scheduled(archive):
            (event,) = verified(root)
        assert (event.scope, event.records, event.bytes, event.findings) == ("everything", 1, 5000, {})
        assert archive.reader.last_verified() == event.at
        assert statistics.health(archive)["last_verified"] == event.at
        assert alarm(archive) == ""


async def test_it_runs_again_when_its_time_has_come_and_not_before(root: Path, clocks: Clocks) -> None:
    with make(root, clocks.archive, toml("12 hours")) as archive:
        async with scheduled(archive):
            for _ in range(71):
                await clocks.turn(LOOK)
            assert len(verified(root)) == 1
            await clocks.turn(LOOK)
            assert len(verified(root)) == 2
            await clocks.turn(12 * HOUR)
            assert len(verified(root)) == 3


async def test_a_restart_does_not_begin_it_anew(root: Path, clocks: Clocks) -> None:
    with make(root, clocks.archive, toml("12 hours")) as archive:
        async with scheduled(archive):
            assert len(verified(root)) == 1
    clocks.archive.turn(6 * HOUR)
    with Archive(root, clock=clocks.archive) as archive:
        async with scheduled(archive):
            await clocks.turn(5 * HOUR)
            assert len(verified(root)) == 1
            await clocks.turn(HOUR + 1)
            assert len(verified(root)) == 2


async def test_a_clock_that_was_ahead_does_not_put_it_off(root: Path, clocks: Clocks) -> None:
    with make(root, clocks.archive, toml("12 hours")) as archive:
        async with scheduled(archive):
            clocks.archive.turn(-400 * DAY)
            await clocks.turn(LOOK)
            assert len(verified(root)) == 2


async def test_it_never_runs_where_nobody_asked_for_it(root: Path, clocks: Clocks) -> None:
    with make(root, clocks.archive, "schema_version = 1\nreserve = 0\n[converters.files]\n") as archive:
        await Schedule(archive, Committer(archive)).run()
    assert verified(root) == []


# -- alarms ------------------------------------------------------------------------------------------------


async def test_damage_is_journaled_logged_and_an_alarm(
    root: Path, clocks: Clocks, expected_errors: list[str]
) -> None:
    expected_errors.append(f"verify: {SEGMENT} at 0: ")
    with make(root, clocks.archive, toml("12 hours")) as archive:
        captured(archive, some_bytes(1, 5000))
        flip(root / SEGMENT, 2500)
        async with scheduled(archive):
            assert verified(root)[0].findings == {"critical": 1}
            assert alarm(archive) == "1 critical; see archivefs verify"


async def test_the_alarm_ends_with_the_damage(root: Path, clocks: Clocks, expected_errors: list[str]) -> None:
    expected_errors.append(f"verify: {SEGMENT} at 0: ")
    with make(root, clocks.archive, toml("12 hours")) as archive:
        captured(archive, some_bytes(1, 5000))
        flip(root / SEGMENT, 2500)
        async with scheduled(archive):
            flip(root / SEGMENT, 2500)
            await clocks.turn(12 * HOUR)
            assert len(verified(root)) == 2
            assert alarm(archive) == ""
    assert [event.findings for event in verified(root)] == [{"critical": 1}, {}]


async def test_what_lies_in_quarantine_is_no_alarm(root: Path, clocks: Clocks) -> None:
    with make(root, clocks.archive, toml("12 hours")) as archive:
        (root / "quarantine").mkdir()
        (root / "quarantine" / "a.tail").write_bytes(b"x")
        async with scheduled(archive):
            assert verified(root)[0].findings == {"notice": 1}
            assert alarm(archive) == ""


async def test_an_alarm_holds_while_other_parts_are_read(
    root: Path, clocks: Clocks, expected_errors: list[str]
) -> None:
    expected_errors.append("verify: content/")
    with make(root, clocks.archive, toml("3 days")) as archive:
        for _ in range(3):
            captured(archive, some_bytes(1, 5000))
            clocks.archive.turn(DAY)
        flip(root / SEGMENT, 2500)
        async with scheduled(archive):
            for count in range(1, 7):
                if any(event.findings for event in verified(root)):
                    assert alarm(archive), f"nobody mended it before verification {count}"
                await clocks.turn(DAY)
        assert [bool(event.findings) for event in verified(root)].count(True) >= 2


# -- parts -------------------------------------------------------------------------------------------------


async def test_every_record_is_read_once_in_the_set_time(root: Path, clocks: Clocks) -> None:
    with make(root, clocks.archive, toml("7 days")) as archive:
        for number in range(20):
            captured(archive, b"%d" % number)
            clocks.archive.turn(DAY)
        async with scheduled(archive):
            for _ in range(6):
                await clocks.turn(DAY)
    events = verified(root)[:7]
    assert {event.scope for event in events} == {f"part {number} of 7" for number in range(1, 8)}
    assert sum(event.records for event in events) == 20


async def test_no_part_is_left_out_though_each_reading_takes_two_hours(root: Path, clocks: Clocks) -> None:
    with make(root, clocks.archive, toml("7 days")) as archive:
        captured(archive, b"x")
        async with scheduled(archive):
            for _ in range(25):
                await clocks.turn(DAY + 2 * HOUR)
    scopes = [event.scope for event in verified(root)]
    every = {f"part {number} of 7" for number in range(1, 8)}
    left_out = [start for start in range(len(scopes) - 8) if set(scopes[start : start + 8]) != every]
    assert left_out == []


async def test_no_part_is_left_out_though_the_archive_is_not_mounted_at_weekends(
    root: Path, clocks: Clocks
) -> None:
    with make(root, clocks.archive, toml("7 days")) as archive:
        captured(archive, b"x")
        async with scheduled(archive):
            for _ in range(3):
                for days in (1, 1, 1, 1, 3):
                    await clocks.turn(days * DAY)
    assert {event.scope for event in verified(root)} == {f"part {number} of 7" for number in range(1, 8)}


# -- whatever happens, the mount goes on -------------------------------------------------------------------


async def test_a_journal_that_cannot_be_read_is_an_alarm_and_not_the_end_of_the_mount(
    root: Path, clocks: Clocks, expected_errors: list[str]
) -> None:
    expected_errors.append("")
    with make(root, clocks.archive, toml("12 hours")) as archive:
        captured(archive, b"x")
        async with scheduled(archive):
            assert len(verified(root)) == 1
            journal = root / "journal/2026/02/13.jsonl"
            data = journal.read_bytes()
            last = data.rstrip(b"\n").rindex(b"\n") + 1
            journal.write_bytes(data[:last] + b"\xff" * (len(data) - last - 1) + b"\n")
            await clocks.turn(12 * HOUR)
            assert alarm(archive)
            journal.write_bytes(data)


async def test_a_verification_that_cannot_be_noted_is_tried_again(
    root: Path, clocks: Clocks, expected_errors: list[str]
) -> None:
    expected_errors.append("")
    with make(root, clocks.archive, toml("12 hours")) as archive:
        async with scheduled(archive):
            assert len(verified(root)) == 1
            obstacle = root / "journal/2026/03"
            obstacle.write_bytes(b"no folder")
            await clocks.turn(30 * DAY)
            await clocks.turn(LOOK)
            obstacle.unlink()
            await clocks.turn(LOOK)
            await clocks.turn(LOOK)
            assert len(verified(root)) >= 2


async def test_a_staging_that_takes_no_scratch_catalog_is_not_the_end_of_the_mount(
    root: Path, clocks: Clocks, expected_errors: list[str]
) -> None:
    expected_errors.append("")
    with make(root, clocks.archive, toml("12 hours")) as archive:
        async with scheduled(archive):
            assert len(verified(root)) == 1
            aside = (root / "staging").rename(root / "aside")
            await clocks.turn(12 * HOUR)
            await clocks.turn(LOOK)
            aside.rename(root / "staging")
            await clocks.turn(12 * HOUR)
            assert len(verified(root)) >= 2
