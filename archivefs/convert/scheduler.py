"""Which entry is converted when: waits for what is due, runs it in the pool, records what came of it."""

import itertools
import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.catalog.rows import Entry
from archivefs.committer import Committer
from archivefs.config import ConverterConfig
from archivefs.convert.pool import Pool
from archivefs.convert.preparation import Preparation
from archivefs.convert.process import Answer, Job, remove
from archivefs.convert.snapshots import Code, Packed
from archivefs.errors import ArchiveError, SegmentMissingError
from archivefs.events import WAITING, Location, Outcome, Status
from archivefs.operations import BeginAttempt, FinishAttempt, KeepCode, Report
from archivefs.store.durable import make_dirs

log = logging.getLogger(__name__)

LOOK_AHEAD = 1000
"""Due entries compared by priority at once; bounds the work of one look at the catalog."""
TROUBLED_SECONDS = 10.0
AHEAD_SECONDS = 0.5
AHEAD_MOST = 128
AHEAD_BYTES = 1 << 20
"""So much work is begun before a worker is free for it: what is short waits for the disk much longer than it
runs, and many commits at once cost hardly more than one (tools/bench, "convert"). Not with large sources, of
which each takes room on the disk."""
LOOK_SECONDS = 0.2
"""How old the answer may be while there is a backlog; with none, every look is fresh."""
_STATUS = {
    Outcome.SUCCESS: Status.SUCCESS,
    Outcome.FAILED: Status.FAILED,
    Outcome.SUSPENDED: Status.SUSPENDED,
    Outcome.SKIPPED: Status.SKIPPED,
    Outcome.REJECTED: Status.REJECTED,
    Outcome.INTERRUPTED: Status.PENDING,
}


class Scheduler:
    """Converts what is due, most urgent first; sleeps while nothing is."""

    def __init__(self, archive: Archive, committer: Committer) -> None:
        self._archive = archive
        self._committer = committer
        self._work_dir = archive.root.resolve() / "staging" / "work"
        self._pool = Pool(self._work_dir, archive.config.workers)
        self._preparation = Preparation(archive.root.resolve(), self._work_dir, self._keep)
        self._unable: dict[str, float] = {}
        self._pace: dict[str, float] = {}
        self._running: dict[int, Entry] = {}
        self._held: dict[str, int] = {}
        self._ready: list[Entry] = []
        self._looked = 0.0
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

    def look_again(self) -> None:
        """What kept entries from being converted may be over."""
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
                nursery.start_soon(self._prepare_all)
                while True:
                    self._wake = trio.Event()
                    try:
                        for entry in self._next():
                            self._running[entry.n] = entry
                            nursery.start_soon(self._convert, entry)
                        pause = self._seconds_to_next()
                    except Exception:
                        log.exception("the catalog does not say what is due; asking again")
                        pause = TROUBLED_SECONDS
                    with trio.move_on_after(pause):
                        await self._wake.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._pool.close()

    def _next(self) -> list[Entry]:
        """The entries to start now: as many as there are free workers, and some ahead."""
        chosen: dict[int, Entry] = {}
        slowest = max(map(self._seconds, self._running.values()), default=0.0)
        looked = False
        while True:
            if not looked and (not self._ready or time.monotonic() - self._looked > LOOK_SECONDS):
                self._look()
                looked = True
            if not self._ready:
                break
            entry = self._ready[-1]
            slowest = max(slowest, self._seconds(entry))
            if len(self._running) + len(chosen) >= self._archive.config.workers + ahead(slowest):
                break
            self._ready.pop()
            if self._may_start(entry) and self._has_room(entry, chosen.values()):
                chosen[entry.n] = entry
        return list(chosen.values())

    def _seconds(self, entry: Entry) -> float:
        """How long such conversions took lately; as long as can be where nobody knows, or it is large."""
        return math.inf if entry.size > AHEAD_BYTES else self._pace.get(self._converter(entry), math.inf)

    def _look(self) -> None:
        """Ask the catalog what is due; the most urgent comes last."""
        self._looked = time.monotonic()
        due = self._archive.reader.due(self._archive.now_ms())
        waiting = (entry for entry in due if self._may_start(entry))
        self._ready = list(itertools.islice(waiting, LOOK_AHEAD))
        self._ready.sort(key=lambda entry: (-self._config(entry).priority, -entry.due_ms, -entry.n))

    def _may_start(self, entry: Entry) -> bool:
        """Not while it runs or is being written again; nor while archive.toml does not say with what.

        Nor while its reports would find no room in the outbox.
        """
        if entry.n in self._running or entry.id in self._held or not self._config(entry).run:
            return False
        converter = self._converter(entry)
        until = self._unable.get(converter)
        if until is not None and time.monotonic() < until:
            return False
        return self._has_room(entry, ())

    def _has_room(self, entry: Entry, chosen: Iterable[Entry]) -> bool:
        """Whether the outbox takes a report of this entry beside those that are being made."""
        submit = self._config(entry).submit
        if submit is None:
            return True
        begun = itertools.chain(self._running.values(), chosen)
        coming = sum(each.converter_id == entry.converter_id for each in begun)
        return not self._archive.reader.outbox.is_full(self._converter(entry), submit, coming)

    def _seconds_to_next(self) -> float:
        now = self._archive.now_ms()
        due = self._archive.reader.next_due_ms(now)
        next_due = math.inf if due is None else (due - now) / 1000 + 0.001
        clock = time.monotonic()
        again = min((until - clock for until in self._unable.values() if until > clock), default=math.inf)
        return min(next_due, again + 0.001)

    async def _prepare_all(self) -> None:
        """Say at the start, not at the first file, which converters cannot run."""
        for converter, config in self._archive.config.converters.items():
            if config.run:
                await self._prepared(converter, config)

    async def _keep(self, converter: str, packed: Packed) -> None:
        """Keep a version of a converter's code before it runs: first the file, then the event."""
        await trio.to_thread.run_sync(packed.save, self._archive.root, converter)
        await self._committer.submit(KeepCode(packed.event(converter)))

    async def _prepared(self, converter: str, config: ConverterConfig) -> Code | None:
        """The code to run; None, and an alarm, where the converter cannot run now: its entries wait."""
        alarm = f"converters.{converter}"
        try:
            code = await self._preparation.code(converter, config)
        except (ArchiveError, OSError) as error:
            text = f"{converter} cannot run, its entries wait: {error}"
            if self._archive.alarms.get(alarm) != text:
                log.error("%s", text)
                self._archive.alarms[alarm] = text
            self._unable[converter] = time.monotonic() + TROUBLED_SECONDS
            return None
        self._unable.pop(converter, None)
        if self._archive.alarms.pop(alarm, None):
            log.info("%s can run", converter)
        return code

    def _converter(self, entry: Entry) -> str:
        return self._archive.reader.converter_name(entry.converter_id)

    def _config(self, entry: Entry) -> ConverterConfig:
        return self._archive.converter_config(self._converter(entry))

    async def _convert(self, entry: Entry) -> None:
        try:
            cause = "capture" if entry.attempts == 0 else "retry"
            converter = self._converter(entry)
            code = await self._prepared(converter, self._archive.converter_config(converter))
            if code is None:
                return
            attempt = await self._committer.submit(BeginAttempt(entry.id, cause, code.sha256))
            if attempt is not None:
                await self._attempt(entry, attempt, code)
        except ArchiveError as error:
            log.error("conversion of %s could not be recorded: %s", entry.id, error)
            await trio.sleep(1)
        except Exception:
            log.exception("conversion of %s", entry.id)
            await trio.sleep(1)
        finally:
            self._running.pop(entry.n, None)
            self._wake.set()

    async def _attempt(self, entry: Entry, attempt: int, code: Code) -> None:
        """Run the converter and record the end, whatever it is; cancellation is recorded too."""
        converter = self._converter(entry)
        config = self._archive.converter_config(converter)
        answer = Answer(outcome=Outcome.INTERRUPTED, error="archivefs stopped while this conversion ran")
        job: Job | None = None
        try:
            job = await self._extracted(entry, attempt, config)
            answer = await self._pool.convert(converter, config, code, job)
        except (ArchiveError, OSError) as error:
            answer = Answer(outcome=Outcome.FAILED, error=str(error))
        except Exception as error:
            log.exception("conversion of %s", entry.id)
            answer = Answer(outcome=Outcome.FAILED, error=f"archivefs failed, see its log: {error}")
        finally:
            with trio.CancelScope(shield=True):
                status, due_ms, error_text = self._verdict(entry, config, answer)
                taken = job.seconds if job is not None else 0.0
                self._pace[converter] = 0.9 * self._pace.get(converter, taken) + 0.1 * taken
                finish = FinishAttempt(
                    id=entry.id, converter=converter, attempt=attempt, outcome=answer.outcome,
                    status=status, started_ms=self._archive.now_ms() - int(taken * 1000),
                    duration_ms=int(taken * 1000), version=answer.version,
                    arguments=config.arguments, error=error_text, warnings=answer.warnings,
                    due_ms=due_ms, log=Report("log.txt", job.log) if job and job.log else None,
                    reports=_reports(job),
                )  # fmt: skip
                await self._record(finish, interrupted=answer.outcome is Outcome.INTERRUPTED)
                if job is not None:
                    remove(job.source)

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

    def _verdict(self, entry: Entry, config: ConverterConfig, answer: Answer) -> tuple[Status, int, str]:
        """Status, time of the next attempt (0: none) and error text that follow from an answer."""
        error = answer.error
        if answer.outcome is Outcome.INTERRUPTED:
            return Status.PENDING, self._archive.now_ms(), error
        if answer.outcome is not Outcome.SUSPENDED:
            return _STATUS[answer.outcome], 0, error
        before = self._archive.reader.attempts(entry.n)
        suspended = 1 + sum(attempt.outcome == Outcome.SUSPENDED for attempt in before)
        if suspended > config.max_retries:
            return Status.FAILED, 0, f"given up after {suspended} suspended attempts: {error}"
        delay = config.retry_delay_seconds if answer.retry_after is None else answer.retry_after
        return Status.SUSPENDED, self._archive.now_ms() + int(delay * 1000) + 1, error

    async def _extracted(self, entry: Entry, attempt: int, config: ConverterConfig) -> Job:
        """The archived source, laid out for a worker; looked for again where a repack moved it meanwhile."""
        place = self._archive.reader.location(entry)
        try:
            return await trio.to_thread.run_sync(self._extract, entry, place, attempt, config)
        except SegmentMissingError:
            moved = self._archive.reader.location(self._archive.reader.get(entry.id))
            if moved == place:
                raise
            return await trio.to_thread.run_sync(self._extract, entry, moved, attempt, config)

    def _extract(self, entry: Entry, place: Location, attempt: int, config: ConverterConfig) -> Job:
        """Lay the archived source out for a worker; its hash is checked on the way."""
        source = self._work_dir / str(entry.n)
        fd = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._archive.content.copy(place, entry.size, entry.sha256, fd)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            os.fchmod(fd, 0o444)
        except BaseException:
            source.unlink()
            raise
        finally:
            os.close(fd)
        return Job(source, os.fsdecode(entry.name), attempt, config.arguments)


def ahead(seconds: float) -> int:
    """How many conversions that take so long are begun before a worker is free for them."""
    return min(int(AHEAD_SECONDS / max(seconds, 1e-4)), AHEAD_MOST)


def _reports(job: Job | None) -> list[Report]:
    """What a job gave, as ``report.json``, ``report-2.json``, ..."""
    given = enumerate(job.reports if job is not None else (), 1)
    return [Report("report.json" if n == 1 else f"report-{n}.json", data) for n, data in given]


def remove_tree(folder: Path) -> None:
    """Remove a folder; what cannot be removed now goes when the daemon starts again."""
    shutil.rmtree(folder, ignore_errors=True)
