"""Which entry is converted when: waits for what is due, runs it in the pool, records what came of it."""

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio

from archivefs import folders
from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.catalog.rows import Entry, MemberRow
from archivefs.committer import Committer
from archivefs.config import ConverterConfig
from archivefs.convert import router
from archivefs.convert.pool import Answer, Job, Pool, WorkerError, make_job
from archivefs.convert.verdict import cause_of, verdict
from archivefs.convert.waiting import Place, Waiting
from archivefs.errors import ArchiveError, SegmentMissingError
from archivefs.events import WAITING, Location, Outcome
from archivefs.folders import Packed
from archivefs.operations import BeginAttempt, FinishAttempt, Report
from archivefs.store.durable import make_dirs, remove_tree

log = logging.getLogger(__name__)

TROUBLED_SECONDS = 10.0


class Scheduler:
    """Converts what is due, most urgent first; sleeps while nothing is."""

    def __init__(self, archive: Archive, committer: Committer) -> None:
        self._archive = archive
        self._committer = committer
        self._pool = Pool(archive.root, archive.config.workers)
        self._work_dir = archive.root / "staging" / "work"
        self._running: dict[int, int] = {}
        self._held: dict[str, int] = {}
        self._free = [Place() for _ in range(archive.config.workers)]
        self._waiting = Waiting(archive, self._may_start)
        self._wake = trio.Event()
        committer.on_change(self._changed)

    def hold(self, id_: str) -> None:
        """Do not start this entry: its inbox file is being written again."""
        self._held[id_] = self._held.get(id_, 0) + 1

    def unhold(self, id_: str) -> None:
        """Take one ``hold`` back."""
        self._held[id_] = self._held.get(id_, 1) - 1
        if self._held[id_] <= 0:
            del self._held[id_]
        self._wake.set()

    def _changed(self, changes: Sequence[Change]) -> None:
        if any(change.after in WAITING for change in changes):
            self._wake.set()

    async def run(self) -> None:
        """Convert until cancelled; what runs then is recorded as interrupted and waits again."""
        remove_tree(self._work_dir)
        make_dirs(self._work_dir)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    try:
                        for place, entry in self._next():
                            nursery.start_soon(self._convert, place, entry)
                        # With no free place, the end of a conversion wakes.
                        pause = self._waiting.seconds_to_next() if self._free else math.inf
                    except Exception:
                        log.exception("the catalog does not say what is due; asking again")
                        pause = TROUBLED_SECONDS
                    with trio.move_on_after(pause):
                        await self._wake.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._pool.close()

    def _next(self) -> Iterator[tuple[Place, Entry]]:
        """The entries to start now, as many as there are free places."""
        while self._free:
            entry = self._waiting.take(self._free[-1], self._running.values())
            if entry is None:
                return
            self._running[entry.n] = entry.converter_id
            yield self._free.pop(), entry

    def _may_start(self, entry: Entry) -> bool:
        """Not while it runs or is being written again; nor before archive.toml says how to convert it."""
        if entry.n in self._running or entry.id in self._held:
            return False
        return bool(self._config(entry).run) or router.needs_routing(self._archive, entry)

    def _config(self, entry: Entry) -> ConverterConfig:
        return self._archive.converter_config(self._archive.reader.converter_name(entry.converter_id))

    async def _convert(self, place: Place, entry: Entry) -> None:
        try:
            if router.needs_routing(self._archive, entry):
                await self._route(entry)
                return
            begin = BeginAttempt(entry.id, cause_of(entry), entry.attempts + 1)
            attempt = await self._committer.submit(begin)
            if attempt is not None:
                await self._attempt(entry, attempt)
        except ArchiveError as error:
            log.error("conversion of %s could not be recorded: %s", entry.id, error)
            await trio.sleep(1)
        except Exception:
            log.exception("conversion of %s", entry.id)
            await trio.sleep(1)
        finally:
            del self._running[entry.n]
            self._free.append(place)
            self._wake.set()

    async def _route(self, entry: Entry) -> None:
        """Find the converter of an entry; where the source cannot be laid out, it is tried again."""
        try:
            found = await router.choose(self._archive, self._pool, entry, self._extracted)
            await self._committer.submit(found)
        except OSError as error:
            log.error("nobody can be asked about %s: %s", entry.id, error)
            await trio.sleep(TROUBLED_SECONDS)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(remove_tree, self._work_dir / str(entry.n))

    async def _attempt(self, entry: Entry, attempt: int) -> None:
        """Run the converter and record the end, whatever it is; cancellation is recorded too."""
        converter = self._archive.reader.converter_name(entry.converter_id)
        config = self._archive.converter_config(converter)
        started_ms, clock = self._archive.now_ms(), time.monotonic()
        answer = Answer(outcome=Outcome.INTERRUPTED, error="archivefs stopped while this conversion ran")
        reports: list[tuple[str, bytes]] = []
        job: Job | None = None
        try:
            job = await self._extracted(entry, attempt, config)
            answer = await self._pool.convert(converter, config, job)
            reports = await trio.to_thread.run_sync(job.read_reports, answer.reports)
        except (ArchiveError, OSError) as error:
            is_transient = (
                error.is_transient if isinstance(error, WorkerError) else isinstance(error, OSError)
            )
            outcome = Outcome.TRANSIENT if is_transient else Outcome.FAILED
            answer = Answer(outcome=outcome, error=str(error), version=answer.version)
        except Exception as error:
            log.exception("conversion of %s", entry.id)
            answer = Answer(outcome=Outcome.FAILED, error=f"archivefs failed, see its log: {error}")
        finally:
            with trio.CancelScope(shield=True):
                before = self._archive.reader.attempts(entry.n)
                status, due_ms, error_text = verdict(config, answer, before, self._archive.now_ms())
                log_text = await trio.to_thread.run_sync(job.read_log) if job is not None else b""
                finish = FinishAttempt(
                    id=entry.id, converter=converter, attempt=attempt, outcome=answer.outcome,
                    status=status, started_ms=started_ms,
                    duration_ms=int((time.monotonic() - clock) * 1000), version=answer.version,
                    arguments=config.arguments, error=error_text, warnings=answer.warnings,
                    due_ms=due_ms, log=Report("log.txt", log_text) if log_text else None,
                    reports=[Report(name, data) for name, data in reports],
                )  # fmt: skip
                await self._record(finish, interrupted=answer.outcome is Outcome.INTERRUPTED)
                if job is not None:
                    await trio.to_thread.run_sync(remove_tree, job.folder)

    async def _record(self, finish: FinishAttempt, *, interrupted: bool) -> None:
        """Commit the end of an attempt, again and again while the disk refuses it.

        An interrupted one is not insisted on: the next open finds it running and says the same.
        """
        delay = 1
        while True:
            try:
                await self._committer.submit(finish)
                return
            except ArchiveError as error:
                log.error("the end of a conversion of %s could not be recorded: %s", finish.id, error)
                if interrupted:
                    return
            await trio.sleep(delay)
            delay = min(2 * delay, 5)

    async def _extracted(self, entry: Entry, attempt: int, config: ConverterConfig) -> Job:
        """The archived source in a folder of its own; looked for again where a repack moved it meanwhile."""
        place = self._archive.reader.location(entry)
        members = self._archive.reader.members(entry.n) if entry.members else []
        try:
            return await trio.to_thread.run_sync(self._extract, entry, place, members, attempt, config)
        except SegmentMissingError:
            moved = self._archive.reader.location(self._archive.reader.get(entry.id))
            if moved == place:
                raise
            return await trio.to_thread.run_sync(self._extract, entry, moved, members, attempt, config)

    def _unpack(self, entry: Entry, place: Location, members: list[MemberRow], folder: Path) -> None:
        """Lay out a source that is a folder."""
        with tempfile.TemporaryFile(dir=self._work_dir) as tar:
            self._archive.content.copy(place, entry.size, entry.sha256, tar.fileno())
            folder.mkdir(0o700)
            packed = (Packed(*member[1:]) for member in members)
            folders.unpack(tar.fileno(), packed, os.fsencode(folder))
        os.utime(folder, ns=(entry.mtime_ns, entry.mtime_ns))

    def _extract(
        self, entry: Entry, place: Location, members: list[MemberRow], attempt: int, config: ConverterConfig
    ) -> Job:
        """Lay the archived source into a folder of its own; its hash is checked on the way."""
        job = make_job(self._work_dir, entry.n, entry.name, attempt, config.arguments)
        if members:
            self._unpack(entry, place, members, job.source)
            return job
        fd = os.open(job.source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._archive.content.copy(place, entry.size, entry.sha256, fd)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        return job
