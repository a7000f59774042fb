"""Worker processes: started when needed, kept alive, one conversion at a time, killed when they hang."""

import heapq
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import trio

from archivefs.config import ConverterConfig
from archivefs.convert import sandbox
from archivefs.convert.process import Answer, Job, Worker
from archivefs.convert.sandbox import Place
from archivefs.convert.snapshots import Code

IDLE = 8
"""Idle workers that are kept, or as many as may run: starting one takes as long as 30 short conversions."""


@dataclass
class _Member:
    """A worker and what it was started for."""

    converter: str
    config: ConverterConfig
    code: str
    worker: Worker


class _Turns:
    """So many at once; of those who wait, the most urgent comes next."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, trio.Event]] = []

    async def take(self, priority: int) -> None:
        """Wait for a turn; 1 is the highest priority. It is to be given back, but where this is cancelled."""
        if self._free:
            self._free -= 1
            return
        turn = trio.Event()
        mine = (priority, next(self._order), turn)
        heapq.heappush(self._waiting, mine)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.give_back()
            else:
                self._waiting.remove(mine)
                heapq.heapify(self._waiting)
            raise

    def give_back(self) -> None:
        """Let the next one have it."""
        if self._waiting:
            heapq.heappop(self._waiting)[2].set()
        else:
            self._free += 1


class Pool:
    """At most ``size`` conversions at once for all converters together; idle workers are used again."""

    def __init__(self, work_dir: Path, size: int, before: tuple[str, ...] = ()) -> None:
        """``work_dir``: an empty folder for those of the workers. ``before``: what starts their commands."""
        self._before = before
        self._work_dir = work_dir
        self._turns = _Turns(size)
        self._most_idle = max(size, IDLE)
        self._idle: list[_Member] = []
        self._numbers = itertools.count(1)

    async def convert(self, converter: str, config: ConverterConfig, code: Code, job: Job) -> Answer:
        """Run a conversion and return what the worker answered; what it gave is in ``job``.

        Raises ``WorkerError`` where it timed out, died or answered nonsense, ``SandboxError`` where no worker
        can be started. Cancellation kills the worker.
        """
        await self._turns.take(config.priority)
        try:
            member = await self._take(converter, config, code)
            return await self._convert(member, job)
        finally:
            self._turns.give_back()

    async def _convert(self, member: _Member, job: Job) -> Answer:
        keep, clock = False, time.monotonic()
        try:
            answer = await member.worker.convert(job, member.config.timeout_seconds)
            keep = not answer.retire and member.worker.conversions < member.config.worker_conversions
            return answer
        finally:
            job.seconds = time.monotonic() - clock
            if keep:
                self._idle.append(member)
                if len(self._idle) > self._most_idle:
                    await self._dismiss(self._idle[0])
            else:
                await member.worker.kill()

    async def close(self) -> None:
        """End all idle workers."""
        while self._idle:
            await self._dismiss(self._idle[0])

    async def _take(self, converter: str, config: ConverterConfig, code: Code) -> _Member:
        """A worker that runs this very code as it is configured now; older ones of the converter end."""
        while mine := [each for each in self._idle if each.converter == converter]:
            for member in mine:
                if member.worker.is_alive and (member.config, member.code) == (config, code.sha256):
                    self._idle.remove(member)
                    return member
            await self._dismiss(mine[0])
        place = Place(self._work_dir / f"worker-{next(self._numbers)}")
        launch = sandbox.launch(config, code, place)
        worker = await Worker.start(launch._replace(command=[*self._before, *launch.command]), place)
        return _Member(converter, config, code.sha256, worker)

    async def _dismiss(self, member: _Member) -> None:
        self._idle.remove(member)
        await member.worker.dismiss()
