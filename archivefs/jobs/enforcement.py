"""Retention by itself: a mounted archive looks now and then what its policies want to go, and purges it.

A size limit that goes before the promised days is told first, as an alarm and in the log; what it wants goes
some minutes later. What a paused purge lists waits for a person; everything else goes.
"""

import logging
import os
from collections.abc import Mapping, Set

import trio

from archivefs.archive import Archive
from archivefs.catalog.jobs import JobRow
from archivefs.committer import Committer
from archivefs.errors import ArchiveError
from archivefs.jobs import pausing
from archivefs.jobs.engine import Engine
from archivefs.jobs.job import PURGE, CreateJob
from archivefs.retention import choosing, plans, retaining
from archivefs.retention.choosing import Choice
from archivefs.steps import carry_out

log = logging.getLogger(__name__)

LOOK_SECONDS = 300.0
"""Between two looks; also how long an alarm stands before entries go early."""
SPACE_SECONDS = 10.0
"""Between two looks at the room on the disk."""
EARLY = "retention"
"""The alarm of limits that purge before the promised days are over."""
PAUSED = "paused purge"
"""The alarm of purges that nobody resumed."""
RETAINED = "retention of "
"""What the alarm of a shortened retain_until begins with."""


class Enforcement:
    """Looks at the start, every few minutes, and soon when the disk has less free than it should."""

    def __init__(self, archive: Archive, committer: Committer, engine: Engine) -> None:
        self._archive = archive
        self._committer = committer
        self._engine = engine
        self._told_at = 0.0
        self._wake = trio.Event()

    def reload(self) -> None:
        """The configuration is another one: it may say how much of the disk stays free."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while self._archive.writable:
            try:
                await self._look()
            except (ArchiveError, OSError) as error:
                log.error("retention could not be enforced: %s; it is tried again", error)
            except Exception:
                log.exception("retention could not be enforced; it is tried again")
            await self._wait()

    async def _wait(self) -> None:
        """Until the next look: some minutes, or until the disk has less free than it should."""
        end = trio.current_time() + LOOK_SECONDS
        while trio.current_time() < end:
            wanted = self._archive.config.retention.min_free_space
            self._wake = trio.Event()
            with trio.move_on_at(end if wanted is None else min(end, trio.current_time() + SPACE_SECONDS)):
                await self._wake.wait()
                continue
            if wanted is not None and self._is_short(wanted):
                return

    def _is_short(self, wanted: int) -> bool:
        disk = os.statvfs(self._archive.root)
        return disk.f_bavail * disk.f_frsize < wanted

    async def _look(self) -> None:
        await self._retain()
        paused = dict(pausing.paused(self._archive))
        self._tell_of_paused(paused)
        purges = [row for row in self._archive.reader.jobs.open() if row.work == PURGE]
        if any(row not in paused for row in purges) or await self._resume(set(paused.values())):
            return
        config = self._archive.config
        policies = [config.retention, *(each.retention for each in config.converters.values())]
        if not any(policy is not None and policy.limits for policy in policies):
            self._archive.alarms.pop(EARLY, None)
            return
        choice = await trio.to_thread.run_sync(self._choose)
        if not self._is_told(sum(each.is_early for each in choice.chosen)):
            choice = choice.without_early()
        if choice.chosen:
            await self._purge(choice)

    def _choose(self) -> Choice:
        with self._archive.beside() as reading:
            return pausing.without_paused(reading, choosing.by_policies(reading))

    def _tell_of_paused(self, paused: Mapping[JobRow, int]) -> None:
        """Purges that wait for a person, as an alarm."""
        self._archive.alarms.pop(PAUSED, None)
        if paused:
            jobs = ", ".join(f"job {row.job} (plan {plan})" for row, plan in paused.items())
            first = next(iter(paused)).job
            self._archive.alarms[PAUSED] = (
                f"{jobs} is paused, and what it lists stays: archivefs jobs resume {first}"
            )

    def _is_told(self, early: int) -> bool:
        """Whether it was said long enough ago that entries go early; says it now."""
        if not early:
            self._archive.alarms.pop(EARLY, None)
            return True
        what = f"limits of size purge {early} entries before the days that retention promises are over"
        if EARLY not in self._archive.alarms:
            self._told_at = trio.current_time()
            log.warning("%s", what)
        self._archive.alarms[EARLY] = f"{what}: archivefs retention forecast"
        return trio.current_time() - self._told_at >= LOOK_SECONDS

    async def _purge(self, choice: Choice) -> None:
        number = await trio.to_thread.run_sync(self._plan, choice)
        job = await self._committer.submit(CreateJob(PURGE, {"plan": number}))
        log.info("retention: plan %d with %d entries is job %d", number, len(choice.chosen), job)
        self._engine.look()

    def _plan(self, choice: Choice) -> int:
        with self._archive.beside() as reading:
            steps = plans.make(reading, choice, None)
            return carry_out(
                steps, lambda operations: trio.from_thread.run(self._committer.submit_all, operations)
            )

    async def _retain(self) -> None:
        """Note in the journal until when converters are retained, so that no one shortens it unseen."""
        archive = self._archive
        for operation in retaining.later(archive, archive.config):
            await self._committer.submit(operation)
        stays = retaining.shortened(archive, archive.config)
        for about in [each for each in archive.alarms if each.startswith(RETAINED)]:
            if about.removeprefix(RETAINED) not in stays:
                del archive.alarms[about]
        for name, until in stays.items():
            archive.alarms[RETAINED + name] = (
                f"archive.toml says less, but {name} stays retained until {until}: write that, or later"
            )

    async def _resume(self, paused: Set[int]) -> bool:
        """Go on with purges that began and whose job ended before they did; whether there are any."""
        purges = [plan for plan in self._archive.reader.purges.unfinished() if plan not in paused]
        for plan in purges:
            log.warning("the purge of plan %d was stopped; it is gone on with", plan)
            await self._engine.create(PURGE, {"plan": plan}, None)
        return bool(purges)
