"""Worker processes: started when needed, kept alive, one conversion at a time, killed when they hang."""

import itertools
import shutil
from dataclasses import dataclass
from os import fsdecode
from pathlib import Path
from typing import Any

import trio

from archivefs.config import ConverterConfig
from archivefs.convert import sandbox
from archivefs.convert.process import Answer, Job, Worker
from archivefs.convert.sandbox import Place
from archivefs.convert.snapshots import Code


@dataclass
class _Member:
    """A worker and what it was started for."""

    converter: str
    config: ConverterConfig
    code: str
    worker: Worker


class Pool:
    """At most ``size`` workers for all converters together; one that is idle is used again."""

    def __init__(self, work_dir: Path, size: int) -> None:
        """``work_dir``: an empty folder for those of the workers."""
        self._work_dir = work_dir
        self._slots = trio.Semaphore(size)
        self._size = size
        self._idle: list[_Member] = []
        self._count = 0
        self._numbers = itertools.count(1)

    async def convert(self, converter: str, config: ConverterConfig, code: Code, job: Job) -> Answer:
        """Run a conversion and return what the worker answered; what it gave is in ``job``.

        Raises ``WorkerError`` where it timed out, died or answered nonsense, ``SandboxError`` where no worker
        can be started. Cancellation kills the worker.
        """
        async with self._slots:
            member = await self._take(converter, config, code)
            keep = False
            try:
                answer = await member.worker.convert(job, config.timeout_seconds)
                keep = not answer.retire and member.worker.conversions < config.worker_conversions
            finally:
                if keep:
                    self._idle.append(member)
                else:
                    await member.worker.kill()
                    self._count -= 1
        return answer

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
        if self._count >= self._size and self._idle:
            await self._dismiss(self._idle[0])
        self._count += 1
        try:
            place = Place(self._work_dir / f"worker-{next(self._numbers)}")
            worker = await Worker.start(sandbox.launch(config, code, place), place)
        except BaseException:
            self._count -= 1
            raise
        return _Member(converter, config, code.sha256, worker)

    async def _dismiss(self, member: _Member) -> None:
        self._idle.remove(member)
        await member.worker.dismiss()
        self._count -= 1


def make_job(work_dir: Path, number: int, name: bytes, attempt: int, arguments: dict[str, Any]) -> Job:
    """An empty folder for a source; it is still to be written to ``job.source``."""
    folder = work_dir / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(0o700, parents=True)
    return Job(folder / fsdecode(name), attempt, arguments)
