"""Conversions beside the daily ones: any version of the code, any arguments, with workers of their own."""

import io
import time
import zipfile
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from archivefs.archive import Archive
from archivefs.config import ConverterConfig
from archivefs.convert import sandbox, snapshots, sources
from archivefs.convert.pool import Pool
from archivefs.convert.preparation import Preparation
from archivefs.convert.process import Answer, Job, WorkerError, remove
from archivefs.convert.snapshots import Code, CodeError, Packed
from archivefs.convert.task import Done, Task
from archivefs.errors import ArchiveError
from archivefs.operations import KeepCode
from archivefs.states import Outcome
from archivefs.store import code as kept_code
from archivefs.store.durable import make_dirs, remove_tree
from archivefs.store.recovery import REPLAYS

PRIORITY = 8
"""Of a replay that says nothing else; conversions of captures have 5."""
NICE = ("nice", "-n", "10")
"""Its workers get what conversions of captures, programs that save and the daemon leave over."""
AHEAD = 4
"""Sources that are laid out at once for each worker, so that none waits for the disk."""


class Replayer:
    """Converts in the trio thread of whoever has the archive open; records nothing but versions of code."""

    def __init__(self, archive: Archive, keep: Callable[[KeepCode], Awaitable[object]]) -> None:
        """``keep`` commits a version of code."""
        self._archive = archive
        self._keep = keep
        self._work_dir = archive.root.resolve() / "staging" / REPLAYS
        self._pool = Pool(self._work_dir, archive.config.workers, NICE)
        self._preparation = Preparation(archive.root.resolve(), self._work_dir, self._kept)
        self._originals: dict[tuple[str, str], tuple[Code, ConverterConfig]] = {}
        self._has_sandbox = False
        self._unpacking = trio.Lock()

    async def __aenter__(self) -> "Replayer":
        await trio.to_thread.run_sync(remove_tree, self._work_dir)
        await trio.to_thread.run_sync(make_dirs, self._work_dir)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the workers."""
        with trio.CancelScope(shield=True):
            await self._pool.close()
            await trio.to_thread.run_sync(remove_tree, self._work_dir)

    async def convert_all(self, tasks: list[Task]) -> list[Done | ArchiveError]:
        """What came of each task in their order, or why it could not begin. Cancellation ends the workers."""
        limit = trio.CapacityLimiter(AHEAD * self._archive.config.workers)
        made: list[Any] = [None] * len(tasks)

        async def one(index: int) -> None:
            async with limit:
                try:
                    made[index] = await self._convert(tasks[index])
                except ArchiveError as error:
                    made[index] = error
                except OSError as error:
                    made[index] = ArchiveError(str(error))

        async with trio.open_nursery() as nursery:
            for index in range(len(tasks)):
                nursery.start_soon(one, index)
        return made

    async def _convert(self, task: Task) -> Done:
        code, config = await self._code(task)
        job: Job | None = None
        started_ms, clock = self._archive.now_ms(), time.monotonic()
        try:
            job = await sources.laid_out(self._archive, self._work_dir, task.entry, 1, config.arguments)
            answer = await self._pool.convert(task.converter, config, code, job)
        except WorkerError as error:
            outcome = Outcome.TRANSIENT if error.is_transient else Outcome.FAILED
            answer = Answer(outcome=outcome, error=str(error))
        finally:
            if job is not None:
                remove(job.source)
        assert job is not None
        seconds = job.seconds or time.monotonic() - clock
        return Done(answer, code.sha256, job.log, job.reports, started_ms, seconds)

    async def _code(self, task: Task) -> tuple[Code, ConverterConfig]:
        """What runs, and how. Raises ``CodeError``, ``SandboxError``."""
        if not task.code:
            config = msgspec.structs.replace(task.config, priority=PRIORITY)
            return await self._preparation.code(task.converter, config), config
        key = (task.converter, task.code)
        async with self._unpacking:
            if task.config.sandbox == "strict" and not self._has_sandbox:
                await trio.to_thread.run_sync(sandbox.require, task.config, self._work_dir)
                self._has_sandbox = True
            if key not in self._originals:
                self._originals[key] = await trio.to_thread.run_sync(self._original, task)
        code, config = self._originals[key]
        mine = msgspec.structs.replace(task.config, run=config.run, path=config.path, priority=PRIORITY)
        return code, mine

    def _original(self, task: Task) -> tuple[Code, ConverterConfig]:
        """The version that is kept, unpacked."""
        where = kept_code.file_of(task.converter, task.code)
        try:
            damage = kept_code.damage(self._archive.root, task.converter, task.code)
        except FileNotFoundError:
            damage = "it is missing"
        if damage is not None:
            raise CodeError(f"{where}: {damage}")
        data = (self._archive.root / where).read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            manifest = msgspec.json.decode(archive.read(snapshots.MANIFEST))
            packed = Packed(task.code, data, manifest, len(archive.namelist()) - 1)
        folder = self._work_dir / "code" / f"{task.code}-original"
        code = packed.code(folder) if folder.exists() else packed.unpacked(folder)
        return code, msgspec.structs.replace(task.config, run=manifest["run"], path=list(manifest["path"]))

    async def _kept(self, converter: str, packed: Packed) -> None:
        await trio.to_thread.run_sync(packed.save, self._archive.root, converter)
        await self._keep(KeepCode(packed.event(converter)))
