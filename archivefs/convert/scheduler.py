"""Which entry is converted when: waits for what is due, runs it in the pool, records what came of it."""

import logging
import math
import time
from collections.abc import Iterator, Sequence

import trio

from archivefs.archive import Archive
from archivefs.catalog.catalog import Change
from archivefs.catalog.rows import Entry
from archivefs.committer import Committer
from archivefs.config import ConverterConfig
from archivefs.convert import router, sources
from archivefs.convert.classes import ASK
from archivefs.convert.pool import Pool
from archivefs.convert.preparation import Preparation
from archivefs.convert.process import Answer, Job, WorkerError, remove
from archivefs.convert.router import CannotAskError
from archivefs.convert.snapshots import Code, Packed
from archivefs.convert.verdict import cause_of, verdict
from archivefs.convert.waiting import Place, Waiting
from archivefs.errors import ArchiveError
from archivefs.operations import BeginAttempt, FinishAttempt, KeepCode, Report, reports_of
from archivefs.routing import UNROUTED
from archivefs.states import WAITING, Outcome
from archivefs.store.durable import make_dirs, remove_tree

log = logging.getLogger(__name__)

TROUBLED_SECONDS = 10.0
AHEAD_SECONDS = 0.5
AHEAD_MOST = 128
AHEAD_BYTES = 1 << 20
"""So much work is begun before a worker is free for it: what is short waits for the disk much longer than it
runs, and many commits at once cost hardly more than one (tools/bench, "convert"). Not with large sources, of
which each takes room on the disk."""


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
        self._running: dict[int, Place] = {}
        self._held: dict[str, int] = {}
        self._places = [Place() for _ in range(archive.config.workers)]
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

    def _next(self) -> Iterator[Entry]:
        """The entries to start now: one in each free place, and some ahead of what is short there."""
        for place in sorted(self._places, key=lambda each: each.running):
            while place.running < 1 + self._ahead(place):
                others = [each.converter_id for each in self._places if each.running and each is not place]
                entry = self._waiting.take(place, others, AHEAD_BYTES)
                if entry is None:
                    break
                self._running[entry.n] = place
                place.running += 1
                yield entry

    def _ahead(self, place: Place) -> int:
        """How many conversions may be begun in a place before the one that runs there ends."""
        if not place.running:
            return 0
        pace = self._pace.get(self._archive.reader.converter_name(place.converter_id), math.inf)
        return ahead(pace) // len(self._places)

    def _may_start(self, entry: Entry) -> bool:
        """Not while it runs or is being written again; nor before archive.toml says how to convert it.

        Nor while its reports would find no room in the outbox.
        """
        if entry.n in self._running or entry.id in self._held:
            return False
        converter, config = self._converter(entry), self._config(entry)
        until = self._unable.get(converter)
        if until is not None and time.monotonic() < until:
            return False
        if not config.run and not router.needs_routing(self._archive, entry):
            return False
        if config.submit is None:
            return True
        coming = sum(place.running for place in self._places if place.converter_id == entry.converter_id)
        return not self._archive.reader.outbox.is_full(converter, config.submit, coming)

    def _seconds_to_next(self) -> float:
        clock = time.monotonic()
        again = min((until - clock for until in self._unable.values() if until > clock), default=math.inf)
        return min(self._waiting.seconds_to_next(), again + 0.001)

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
            if router.needs_routing(self._archive, entry):
                await self._route(entry)
                return
            converter = self._converter(entry)
            code = await self._prepared(converter, self._archive.converter_config(converter))
            if code is None:
                return
            begin = BeginAttempt(entry.id, cause_of(entry), entry.attempts + 1, code.sha256)
            attempt = await self._committer.submit(begin)
            if attempt is not None:
                await self._attempt(entry, attempt, code)
        except ArchiveError as error:
            log.error("conversion of %s could not be recorded: %s", entry.id, error)
            await trio.sleep(1)
        except Exception:
            log.exception("conversion of %s", entry.id)
            await trio.sleep(1)
        finally:
            self._running.pop(entry.n).running -= 1
            self._wake.set()

    async def _route(self, entry: Entry) -> None:
        """Find the converter of an entry; while one of those in question cannot run, it waits."""
        try:
            await self._committer.submit(await router.choose(self._archive, entry, self._ask))
        except (CannotAskError, OSError) as error:
            log.warning("%s waits for its converter, nobody can be asked: %s", entry.id, error)
            self._unable[UNROUTED] = time.monotonic() + TROUBLED_SECONDS

    async def _ask(self, entry: Entry, converter: str) -> tuple[Answer, list[bytes]]:
        """What a converter says of a source, as its answer and reports."""
        config = self._archive.converter_config(converter)
        code = await self._prepared(converter, config)
        if code is None:
            raise CannotAskError(f"{converter} cannot run")
        job = await sources.laid_out(self._archive, self._work_dir, entry, ASK, config.arguments)
        try:
            return await self._pool.convert(converter, config, code, job), job.reports
        finally:
            remove(job.source)

    async def _attempt(self, entry: Entry, attempt: int, code: Code) -> None:
        """Run the converter and record the end, whatever it is; cancellation is recorded too."""
        converter = self._converter(entry)
        config = self._archive.converter_config(converter)
        answer = Answer(outcome=Outcome.INTERRUPTED, error="archivefs stopped while this conversion ran")
        job: Job | None = None
        try:
            job = await sources.laid_out(self._archive, self._work_dir, entry, attempt, config.arguments)
            answer = await self._pool.convert(converter, config, code, job)
        except (ArchiveError, OSError) as error:
            is_transient = (
                error.is_transient if isinstance(error, WorkerError) else isinstance(error, OSError)
            )
            outcome = Outcome.TRANSIENT if is_transient else Outcome.FAILED
            answer = Answer(outcome=outcome, error=str(error))
        except Exception as error:
            log.exception("conversion of %s", entry.id)
            answer = Answer(outcome=Outcome.FAILED, error=f"archivefs failed, see its log: {error}")
        finally:
            with trio.CancelScope(shield=True):
                before = self._archive.reader.attempts(entry.n)
                status, due_ms, error_text = verdict(config, answer, before, self._archive.now_ms())
                taken = job.seconds if job is not None else 0.0
                self._pace[converter] = 0.9 * self._pace.get(converter, taken) + 0.1 * taken
                finish = FinishAttempt(
                    id=entry.id, converter=converter, attempt=attempt, outcome=answer.outcome,
                    status=status, started_ms=self._archive.now_ms() - int(taken * 1000),
                    duration_ms=int(taken * 1000), version=answer.version,
                    arguments=config.arguments, error=error_text, warnings=answer.warnings,
                    due_ms=due_ms, log=Report("log.txt", job.log) if job and job.log else None,
                    reports=reports_of(job.reports if job is not None else ()),
                )  # fmt: skip
                await self._record(finish, interrupted=answer.outcome is Outcome.INTERRUPTED)
                if job is not None:
                    remove(job.source)

    async def _record(self, finish: FinishAttempt, *, interrupted: bool) -> None:
        """Commit the end of an attempt, again and again while disk or process have no room for it.

        An interrupted one is not insisted on: the next open finds it running and says the same.
        """
        delay = 1
        while True:
            try:
                await self._committer.submit(finish)
                return
            except (ArchiveError, OSError, MemoryError, RuntimeError) as error:  # the last: no further thread
                log.error("the end of a conversion of %s could not be recorded: %s", finish.id, error)
                if interrupted:
                    return
            await trio.sleep(delay)
            delay = min(2 * delay, 5)


def ahead(seconds: float) -> int:
    """How many conversions that take so long are begun before a worker is free for them."""
    return min(int(AHEAD_SECONDS / max(seconds, 1e-4)), AHEAD_MOST)
